"""Views of inputs: properties, embeddings and keys in the pass that gives the logits."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch import Records, collect, diagnose
from gendebug_torch.errors import InputError


class Pictures(nn.Module):
    """A network of one picture, and of a table beside it."""

    def __init__(self, columns=0):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.hidden = nn.Linear(4 * 36 + columns, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, image, table=None):
        seen = self.body(image)
        seen = seen if table is None else torch.cat([seen, table], 1)
        return self.head(self.hidden(seen).relu())


def pixels(n=40, seed=0):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def network(columns=0):
    torch.manual_seed(0)
    return Pictures(columns).eval()


def hidden(model, *inputs):
    seen = []
    handle = model.head.register_forward_pre_hook(lambda layer, x: seen.append(x[0].detach()))
    with torch.no_grad():
        model(*inputs)
    handle.remove()
    return seen[0]


def test_one_pass_gives_logits_properties_and_embedding():
    model, x, y = network(), pixels(), torch.arange(40) % 3
    found = collect(model, DataLoader(TensorDataset(x, y), 7))
    torch.testing.assert_close(found.embedding, hidden(model, x))
    np.testing.assert_allclose(found.properties["brightness"], x.mean((1, 2, 3)), rtol=1e-5)
    assert (found.modality, len(found.keys)) == ("image", 40)
    assert torch.equal(found.features, x)
    assert not any(len(module._forward_pre_hooks) for module in model.modules())


def test_the_embedding_is_of_the_layer_or_function_that_is_named():
    model, x = network(), pixels()
    with torch.no_grad():
        expected = model.body(x)
    for wanted in ("body", model.body):
        torch.testing.assert_close(collect(model, x, embedding=wanted).embedding, expected)
    maps = collect(model, x, embedding="body.0").embedding
    torch.testing.assert_close(maps, model.body[0](x).detach().mean((2, 3)))
    assert collect(model, x, embedding=None).embedding is None
    with pytest.raises(InputError, match="Did you mean 'hidden'"):
        collect(model, x, embedding="hiden")
    assert not any(len(module._forward_hooks) for module in model.modules())


def test_hooks_are_gone_after_a_failure():
    model = network()
    with pytest.raises(RuntimeError):
        collect(model, torch.rand(4, 1, 9, 9))
    assert not any(len(module._forward_pre_hooks) for module in model.modules())


def test_a_table_has_an_embedding_only_where_it_is_asked_for():
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(9, 4)
    assert collect(model, x).embedding is None
    assert collect(model, x, embedding="0").embedding.shape == (9, 5)


def test_each_part_of_the_inputs_has_its_own_modality():
    model, x, table = network(2), pixels(), torch.randn(40, 2)
    loader = [((x[:25], table[:25]), torch.zeros(25)), ((x[25:], table[25:]), torch.ones(15))]
    found = collect(model, loader)
    assert found.modality == "image + table"
    assert {"image brightness", "table_0", "table_1"} <= set(found.properties)
    np.testing.assert_array_equal(found.properties["table_1"], table[:, 1])
    named = collect(model, [{"image": x, "table": table, "labels": torch.zeros(40).long()}])
    torch.testing.assert_close(named.logits, found.logits)
    assert (named.features, int(named.targets.sum())) == (None, 0)
    assert len(named.embedding) == 40
    table_alone = collect(model, loader, modality={0: "table", 1: "table"})
    assert set(table_alone.properties.columns.str[:7]) == {"table 1", "table 2"}


class Output(dict):
    """As of transformers: a mapping whose entries are attributes."""

    __getattr__ = dict.get


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        return Output(loss=None, logits=self.head(self.words(input_ids).mean(1)))


def test_batches_and_outputs_of_hugging_face_need_no_unpacking():
    ids = torch.randint(2, 20, (12, 6))
    mask = torch.ones_like(ids)
    mask[:, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(12).long()}
    found = collect(Texts(), [batch | {"token_type_ids": mask * 0}], raw=["a text"] * 12)
    assert (found.modality, len(found.logits)) == ("text", 12)
    assert set(found.properties["input_ids length in tokens"]) == {4.0}
    assert found.embedding.shape == (12, 8)
    assert found.metadata["raw"].tolist() == ["a text"] * 12
    with pytest.raises(InputError, match="as many as rows, 12"):
        collect(Texts(), [batch], raw=["a text"])


class Estimator:
    """As of scikit-learn, fitted."""

    def predict_proba(self, x):
        assert isinstance(x, np.ndarray)
        p = 1 / (1 + np.exp(-x[:, 0]))
        return np.stack([1 - p, p], 1)


@pytest.mark.parametrize("model", [Estimator(), lambda x: x.astype("float32") @ np.eye(4, 2)])
def test_estimators_and_functions_of_arrays_are_models(model):
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    found = collect(model, DataLoader(TensorDataset(x, y), 64))
    assert found.logits.shape == (200, 2)
    diagnosis = diagnose(model, validation=Records(x, y), production=Records(x.flip(0), y.flip(0)))
    assert not [f.summary for f in diagnosis.findings if f.severity == "errored"]


def test_an_estimator_gives_the_logarithm_of_its_probabilities():
    x = torch.tensor([[2.0], [-1.0]])
    torch.testing.assert_close(collect(Estimator(), x).logits.diff(dim=1), x)


def test_what_is_no_model_is_refused():
    with pytest.raises(InputError, match="predict_proba"):
        collect({"weights": 1}, torch.zeros(2, 2))


def test_many_inputs_are_not_kept_where_they_can_be_read_again(monkeypatch):
    monkeypatch.setattr("gendebug_torch.model.collection.views._KEPT_BYTES", 1000)
    model, x, y = network(), pixels(80), torch.arange(80) % 3
    found = collect(model, DataLoader(TensorDataset(x, y), 16), name="validation")
    assert found.features is None
    assert torch.equal(found.select([7, 3]).origin.inputs(), x[[7, 3]])
    both = Records.concat([found.select([1]), found.select([2])])
    assert torch.equal(both.origin.inputs(), x[1:3])
    assert (
        collect(model, DataLoader(TensorDataset(x, y), 16), keep_features=True).features.ndim == 4
    )
    assert collect(model, list(zip(x.split(8), y.split(8), strict=True))).features is not None
    diagnosis = diagnose(model, validation=found, only="attribution.convergence")
    said = {f.check: f.severity for f in diagnosis.findings}
    assert said["attribution.convergence"] != "skipped"


def test_views_are_selected_joined_moved_and_stored(tmp_path):
    found = collect(network(), pixels(), metadata=pd.DataFrame({"site": ["a", "b"] * 20}))
    back = Records.load(found.save(tmp_path / "records"))
    pd.testing.assert_frame_equal(back.properties, found.properties)
    assert torch.equal(back.embedding, found.embedding)
    assert back.modality == "image"
    twice = Records.concat([found.select([1]), found.select([0])]).to("cpu")
    assert torch.equal(twice.embedding, found.embedding[[1, 0]])
    assert twice.metadata["site"].tolist() == ["b", "a"]
    views = Records(properties=found.properties, embedding=found.embedding)
    assert (len(views), views.features) == (40, None)


def test_views_of_another_form_are_refused():
    with pytest.raises(InputError, match=r"floats \[n, e\]"):
        Records(embedding=torch.zeros(3, 2, 2))
    with pytest.raises(InputError, match="one of image"):
        Records(torch.zeros(3, 2), modality="picture")
    with pytest.raises(InputError, match="parts of one length"):
        Records(torch.zeros(3, 2), embedding=torch.zeros(4, 2))
    with pytest.raises(InputError, match=r"\[n, t, c\]"):
        collect(network(), pixels(), modality="series")
    with pytest.raises(InputError, match="parts among"):
        collect(network(2), [((pixels(), torch.zeros(40, 2)), None)], modality={"image": "image"})


def test_a_data_set_is_collected_in_batches():
    found = collect(network(), TensorDataset(pixels(), torch.zeros(40).long()))
    assert len(found) == 40


def test_the_report_says_what_inputs_are_taken_for():
    records = collect(network(), pixels())
    assert diagnose(validation=records, only="calibration.ece").context["inputs"] == (
        "image, 1 x 8 x 8, float32"
    )
