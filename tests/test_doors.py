"""Networks of every kind in every door: `collect`, `diagnose`, `attribute`, `recalibrate`."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch import Records, attribute, collect, diagnose, recalibrate
from gendebug_torch.errors import InputError, UnsupportedError

deprecated = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
no_kernel = pytest.mark.filterwarnings("ignore:.*autograd kernel was not registered.*")


def rows(n=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, (x[:, 0] + torch.randn(n, generator=generator) > 0).long()


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def scripted():
    return torch.jit.script(network())


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)


def made_under_inference_mode():
    with torch.inference_mode():
        return network()


KINDS = {
    "scripted": scripted,
    "traced": lambda: torch.jit.trace(network(), rows()[0][:3]),
    "frozen": lambda: torch.jit.freeze(scripted()),
    "int8": quantized,
    "float64": lambda: network().double(),
    "bfloat16": lambda: network().bfloat16(),
    "inference mode": made_under_inference_mode,
}
FOLDS = ("float64", "bfloat16", "inference mode")


@deprecated
@no_kernel
@pytest.mark.parametrize("kind", KINDS)
def test_every_door_takes_every_kind_of_network(kind):
    x, _ = rows()
    expected = network()(x).detach()
    y = torch.multinomial((9 * expected).softmax(1), 1, generator=torch.Generator().manual_seed(0))
    model, data = KINDS[kind](), DataLoader(TensorDataset(x, y), 128)
    records = collect(model, data, name="validation")
    assert records.logits.dtype == torch.float32
    assert torch.allclose(records.logits, expected, atol=0.03)
    diagnosis = diagnose(model, validation=records, only=("calibration", "attribution"))
    assert not [f.summary for f in diagnosis.findings if f.severity == "errored"]
    skipped = {f.check: f.summary for f in diagnosis.findings if f.severity == "skipped"}
    assert ("quantized" in skipped.get("attribution.convergence", "")) == (kind == "int8")
    values = attribute(model, x[:20], "kernel_shap", trust=False).values
    assert values.shape == (20, 4)
    if kind != "int8":
        found = attribute(model, x[:20], trust=False).values
        right = attribute(network(), x[:20], trust=False).values
        assert torch.allclose(found, right, atol=0.03)
    found = recalibrate(model, data, candidates=["temperature"])
    if kind not in FOLDS:
        with pytest.raises(UnsupportedError, match=r"ship `\.model` instead"):
            found.fold()


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(nn.functional.dropout(x, 0.5))


class OverTheBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(x - x.mean(0))


class OverNoSingleRow(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(2, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.last(x))


class Counter(nn.Module):
    """Writes into a buffer in each forward."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        self.calls += 1
        return self.last(x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Random, "random in evaluation mode"),
        (OverTheBatch, "depends on the other rows of its batch"),
        (OverNoSingleRow, "one row alone is refused (ValueError: "),
        (Counter, None),
        (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), None),
    ],
)
def test_a_network_that_gives_one_row_two_answers_is_named(make, words):
    model, (x, y) = make(), rows()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    diagnosis = diagnose(model, validation=Records(x, y), only="calibration.ece")
    said = [f for f in diagnosis.findings if f.check == "diagnose.model"]
    assert len(said) == (words is not None)
    assert all(words in f.summary and f.severity == "warn" for f in said)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_rows_that_a_network_is_not_fed_are_not_probed():
    import pandas as pd

    table = pd.DataFrame({"a": ["x", "y"] * 20})
    records = Records(table, torch.ones(40), torch.randn(40))
    diagnosis = diagnose(nn.Linear(1, 1), validation=records, only="calibration.ece")
    assert not [f for f in diagnosis.findings if f.check == "diagnose.model"]


FORMS = {
    "float": lambda y: y.float(),
    "column": lambda y: y[:, None].float(),
    "bool": lambda y: y.bool(),
    "uint8": lambda y: y.to(torch.uint8),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_class_to_explain_may_be_stored_in_any_form(form):
    x, y = rows(40)
    given = DataLoader(TensorDataset(x, FORMS[form](y)), 16)
    found = attribute(network(), given, target="target", trust=False)
    right = attribute(network(), DataLoader(TensorDataset(x, y), 16), target="target", trust=False)
    assert torch.equal(found.values, right.values)


def test_labels_that_cannot_be_explained_are_named():
    x, y = rows(40)
    for labels, words in ((x[:, 0], "quantities"), (y.masked_fill(y == 1, -100), "without one")):
        with pytest.raises(InputError, match=words):
            attribute(network(), [(x, labels)], target="target", trust=False)


def test_inputs_of_unequal_length_are_named():
    class Mean(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean(1), -x.mean(1)], 1)

    batches = [torch.randn(8, length) for length in (5, 9)]
    with pytest.warns(UserWarning, match="Pad them to one length"):
        records = collect(Mean(), batches)
    assert (records.features, len(records)) == (None, 16)
    with pytest.raises(InputError, match="Pad the inputs"):
        attribute(Mean(), batches)


@pytest.mark.parametrize("first", [nn.Linear(3, 2), nn.BatchNorm1d(3), nn.LayerNorm(3)])
def test_a_table_of_other_columns_than_the_network_takes_is_named(first):
    import pandas as pd

    x, y = rows(40)
    records = Records(pd.DataFrame(x.numpy(), columns=[*"abcd"]), y)
    for door in (collect, attribute, recalibrate):
        with pytest.raises(InputError, match=r"got 4 \(a, b, c, d\), at which it fails"):
            door(nn.Sequential(first, nn.Linear(3, 2)), records)


def test_records_without_a_name_have_that_of_their_split():
    z = 4 * torch.randn(300, generator=torch.Generator().manual_seed(0))
    y = torch.rand(300, generator=torch.Generator().manual_seed(1)) < (z / 4).sigmoid()
    sides = {"validation": Records(None, y, z), "production": Records(None, y, z, name="May")}
    said = diagnose(**sides, only="calibration").findings
    by_check = {finding.check: finding.summary for finding in said}
    assert "in validation:" in by_check["calibration.ece"]
    assert "in May:" in by_check["calibration.production_ece"]
