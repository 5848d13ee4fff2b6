"""Networks of quantities: one or several outputs that are no classes."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gendebug_torch as gd
from gendebug_torch import Records, Schema, attribute
from gendebug_torch.attribution import permutation_importance
from gendebug_torch.errors import InputError
from tests.attribution_cases import rows


class Two(nn.Module):
    """Output 0 is the first input, output 1 the second."""

    def forward(self, x):
        return torch.stack([40 + 3 * x[:, 0], 40 + 2 * x[:, 1]], 1)


class One(nn.Module):
    def forward(self, x):
        return 50 + 3 * x[:, 0] + x[:, 1]


@pytest.mark.parametrize("shape", [(300,), (300, 1)])
@pytest.mark.parametrize("schema", [Schema(), Schema(regression=True)])
def test_a_regression_is_measured_by_squared_errors(shape, schema):
    x = rows(300, 3)
    data = Records(x, One()(x).reshape(shape), schema=schema)
    found = permutation_importance(One(), data)
    assert found.metric == "squared_error"
    assert found.table()["feature"].tolist() == ["feature_0", "feature_1", "feature_2"]
    assert found.unimportant == ("feature_2",)
    expected = permutation_importance(One(), data, metric="squared_error")
    assert torch.equal(found.importance, expected.importance)
    with pytest.raises(InputError, match="squared_error"):
        permutation_importance(One(), data, metric="nll")


def test_counts_are_quantities_where_the_schema_says_so():
    x = rows(300, 3)
    counts = (3 + x[:, 0]).round().clamp(min=0).long()
    data = Records(x, counts, schema=Schema(regression=True))
    assert permutation_importance(lambda x: 3 + x[:, 0], data).metric == "squared_error"


def test_several_quantities_are_averaged_and_never_broadcast():
    x = rows(300, 3)
    data = Records(x, Two()(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = permutation_importance(Two(), data)
    # A shuffle of a standard normal column raises the squared error by twice its variance.
    assert found.importance.tolist() == pytest.approx([9.0, 4.0, 0.0], rel=0.3)
    for targets in (x[:, 0], x):
        with pytest.raises(InputError, match="one target per output"):
            permutation_importance(Two(), Records(x, targets), metric="squared_error")


@pytest.mark.parametrize("shape", [(300,), (300, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_labels_of_any_shape_and_type_are_measured_by_likelihoods(shape, dtype):
    x = rows(300, 3)
    labels = (x[:, 0] > 0).to(dtype).reshape(shape)
    found = permutation_importance(lambda x: 4 * x[:, 0], Records(x, labels))
    assert found.metric == "nll"
    assert found.unimportant == ("feature_1", "feature_2")
    several = (x[:, :2] > 0).to(dtype)
    both = permutation_importance(lambda x: 4 * x[:, :2], Records(x, several))
    assert (both.importance[:2] > 0.1).all()
    assert both.unimportant == ("feature_2",)


@pytest.mark.parametrize("target", ["predicted", "margin"])
@pytest.mark.parametrize("kind", ["loader", "records", "counts"])
def test_the_largest_of_several_quantities_is_not_explained(kind, target):
    x = rows(60, 3)
    y = Two()(x)
    data = {
        "loader": DataLoader(TensorDataset(x, y), batch_size=20),
        "records": Records(x, y),
        "counts": Records(x, y.round().long(), schema=Schema(regression=True)),
    }[kind]
    with pytest.raises(InputError, match=r"`target`.*quantities.*target=0"):
        attribute(Two(), data, target=target)
    for output in (0, 1):
        made = attribute(Two(), data, target=output)
        assert made.table()["feature"].iloc[0] == f"feature_{output}"
    assert len(attribute(One(), data)) == 60


def test_labels_as_floats_are_no_quantities():
    x = rows(60, 3)
    labels = torch.stack([(x[:, 0] > 0).float(), (x[:, 1] > 0).float()], 1)
    assert len(attribute(Two(), Records(x, labels))) == 60


@pytest.mark.parametrize("schema", [Schema(), Schema(regression=True)])
def test_checks_of_explanations_judge_networks_of_several_quantities(schema):
    x = rows(200, 3)
    data = Records(x, Two()(x), schema=schema, name="validation")
    only = ["attribution.stability", "attribution.convergence"]
    found = gd.diagnose(Two(), validation=data, only=only).findings
    assert [finding.severity for finding in found] == [gd.Severity.OK] * 2
