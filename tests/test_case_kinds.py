"""Kinds of input that once failed or misled: each with the right answer."""

import json
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from gendebug_torch import (
    Cause,
    Records,
    Schema,
    attribute,
    collect,
    diagnose,
    influence,
    recalibrate,
)
from gendebug_torch.attribution import permutation_importance
from gendebug_torch.calibration import fit_temperature, reliability_bins
from gendebug_torch.callbacks.hooks.batch_rows import batch_rows
from gendebug_torch.cli import main
from gendebug_torch.data.tables import standard_codes
from gendebug_torch.data.task import Task
from gendebug_torch.errors import InputError, UnsupportedError
from gendebug_torch.shift.columns.exclusions import number_reason

N = 600
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(N, 3, generator=DRAW)
LOGIT = 2 * X[:, 0]
LABELS = (torch.rand(N, generator=DRAW) < LOGIT.sigmoid()).long()
PAIR = torch.stack([-LOGIT, LOGIT], 1) / 2


def summary(found, check):
    return [f.summary for f in found.findings if f.check == check]


def broken(found):
    return [f.summary for f in found.findings if f.severity == "errored"]


# What may be classes or quantities is asked, as the same integers are.
@pytest.mark.parametrize(
    ("targets", "logits"),
    [
        (2.0 * LABELS - 1, LOGIT),
        (LABELS + 1.0, LOGIT),
        (LABELS + 1.0, PAIR),
        (0.9 * LABELS + 0.05, LOGIT * 3),
        (0.9 * one_hot(LABELS, 2) + 0.05, PAIR),
        (LOGIT[:, None].repeat(1, 2), LOGIT),
    ],
)
def test_floats_that_may_be_labels_are_asked_about(targets, logits):
    with pytest.raises(InputError, match=r"regression: true|class ids"):
        Records(X, targets, logits)


def test_shares_beside_predictions_of_shares_are_quantities():
    share = torch.rand(N, generator=DRAW)
    assert Records(X, share, share + 0.1).task is Task.REGRESSION
    outputs = torch.stack([LOGIT - 1, LOGIT, LOGIT + 1], 1)
    schema = Schema(regression=True, quantiles=(0.1, 0.5, 0.9))
    assert Records(X, LOGIT, outputs, schema=schema).task is Task.REGRESSION


def test_outputs_without_any_label_are_of_the_task_of_the_other_side():
    absent = torch.full((N,), torch.nan)
    assert Records(X, absent, PAIR).task is Task.BINARY
    quantity = Records(X, LOGIT + torch.randn(N, generator=DRAW), LOGIT, name="validation")
    found = diagnose(validation=quantity, production=Records(X, absent, LOGIT + 9), only="shift")
    assert summary(found, "shift.confidence")[0].startswith("The prediction of")
    with pytest.raises(InputError, match="quantities in validation and classes in production"):
        diagnose(validation=quantity, production=Records(X, LABELS, LOGIT))


@pytest.mark.parametrize("rows", [0, N])
def test_sides_without_rows_or_labels_are_skipped(rows):
    targets = LABELS[:rows] if not rows else torch.full((N,), torch.nan)
    bare = Records(X[:rows], targets[:rows], LOGIT[:rows])
    found = diagnose(validation=Records(X, LABELS, LOGIT), production=bare)
    assert not broken(found)
    lacks = "rows of production." if not rows else "production.targets."
    assert summary(found, "shift.quality") == [f"Skipped: needs {lacks}"]


def test_an_empty_table_is_no_text(tmp_path):
    frame = pd.DataFrame({"x": X[:, 0], "score": LOGIT, "label": LABELS})
    (tmp_path / "s.yaml").write_text("target: label\nlogits: score\n")
    frame.to_csv(tmp_path / "v.csv", index=False)
    frame[:0].to_csv(tmp_path / "p.csv", index=False)
    sides = ["--validation", str(tmp_path / "v.csv"), "--production", str(tmp_path / "p.csv")]
    options = ["--schema", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "o")]
    assert main(["diagnose", *sides, *options, "--only", "shift", "slices"]) == 0
    severities = {f["severity"] for f in json.loads((tmp_path / "o/findings.json").read_text())}
    assert "errored" not in severities


def test_texts_among_the_arrays_of_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", logits=LOGIT.numpy(), targets=np.array(["no", "yes"])[LABELS])
    with pytest.raises(InputError, match="class ids"):
        Records.from_file(tmp_path / "a.npz")


# Classes in another order than the outputs, and probabilities read as logits.
@pytest.mark.parametrize("k", [2, 4])
def test_exchanged_classes_are_named_as_such(k):
    z = 3 * torch.randn(N, k, generator=DRAW)
    y = torch.multinomial((z / 1.5).softmax(1), 1, generator=DRAW)[:, 0]
    swapped = torch.where(y < 2, 1 - y, y)
    found = diagnose(validation=Records(X, swapped, z), production=Records(X, swapped, z))
    assert found.decision == "fix_data"
    assert "another order than the outputs" in summary(found, "calibration.ece")[0]
    assert len(found.causes) == 1
    fine = diagnose(validation=Records(X, y, z), only="calibration.ece")
    assert "order" not in summary(fine, "calibration.ece")[0]


@pytest.mark.filterwarnings("ignore:The logits of .* look like probabilities")
def test_what_rests_on_misread_outputs_is_no_cause():
    z = 3 * torch.randn(N, 3, generator=DRAW)
    y = torch.multinomial(z.softmax(1), 1, generator=DRAW)[:, 0]
    found = diagnose(validation=Records(z, y, z.softmax(1)), only=["calibration", "slices"])
    assert found.decision == "fix_data"


# Columns.
def test_whole_numbers_that_are_dates_are_dates():
    january, february = np.arange(20240101.0, 20240129), np.arange(20240201.0, 20240229)
    assert number_reason("opened", january, february) == "it holds dates"
    assert number_reason("cohort", np.array([202311.0, 202312]), np.array([202401.0, 202402]))
    assert number_reason("price", np.array([20240150.0, 20240199]), february) is None


def table(seed, moved=0.0):
    draw = np.random.default_rng(seed)
    z = draw.normal(size=N)
    label = (draw.random(N) < 1 / (1 + np.exp(-z))).astype(int)
    return draw, pd.DataFrame({"z": z, "label": label, "c": draw.normal(100 + moved, 10, N)})


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        (lambda c: (5e4 * c).round(), "cents without a value twice are no numbers of rows"),
        (lambda c: 1e100 * c, "every float of that size is whole"),
        (lambda c: c.map("{:.2f}".format), "numbers written as texts"),
    ],
)
def test_quantities_that_look_like_identifiers_are_compared(change, subject):
    schema = Schema(target="label", logits="z")
    sides = {"validation": table(1)[1], "production": table(2, moved=30)[1]}
    records = {
        name: Records.from_frame(frame.assign(c=change(frame["c"])), schema, name=name)
        for name, frame in sides.items()
    }
    found = diagnose(**records, only="shift.ks")
    assert [f.subject for f in found.findings if f.severity == "fail"] == ["c"], subject


def test_numbers_of_rows_are_not_compared():
    schema = Schema(target="label", logits="z")
    sides = {"validation": table(1)[1], "production": table(2)[1]}
    for name, frame in sides.items():
        frame["c"] = np.arange(N) + N * (name == "production")
    records = {k: Records.from_frame(f, schema, name=k) for k, f in sides.items()}
    found = diagnose(**records, only="shift.ks")
    assert not [f for f in found.findings if f.severity in ("warn", "fail")]


def test_codes_are_the_same_with_and_without_a_gap():
    with_gap = standard_codes(pd.Series(["1.0", "2.0", None]))
    assert with_gap.tolist()[:2] == standard_codes(pd.Series(["1", "2"])).tolist() == [1, 2]
    assert standard_codes(pd.Series(["01", "2"])).tolist() == ["01", "2"]
    assert standard_codes(pd.Series([1.5, 2.0])).tolist() == [1.5, 2.0]


def test_lists_beside_other_columns_break_no_check():
    schema = Schema(target="label", logits="z")
    sides = {}
    for name, seed in (("train", 1), ("validation", 2), ("production", 3)):
        draw, frame = table(seed)
        frame["c"] = [[int(v)] for v in draw.integers(0, 4, N)]
        sides[name] = Records.from_frame(frame, schema, name=name)
    assert not broken(diagnose(**sides))


def test_texts_that_became_empty_are_described_as_such():
    schema, sides = Schema(target="label", logits="z"), {}
    for name, seed in (("validation", 1), ("production", 2)):
        frame = table(seed)[1]
        frame["c"] = [f"Message {v:.4f} of the day" for v in frame["c"]]
        sides[name] = frame if name == "validation" else frame.assign(c="")
    records = {k: Records.from_frame(f, schema, name=k) for k, f in sides.items()}
    said = summary(diagnose(**records, only="shift.ks"), "shift.ks")
    assert any("length in characters of c shifted" in line for line in said)
    assert not any("absent" in line for line in said)


# Models.
class Answers(OrderedDict):
    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)


class Wrapped(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.layer, self.form = nn.Linear(3, 1 if form == "squeezed" else 2), form
        with torch.no_grad():
            self.layer.weight.zero_()[-1, 0] = 6.0

    def forward(self, x):
        z = self.layer(x)
        return z.squeeze() if self.form == "squeezed" else Answers(loss=None, logits=z)


@pytest.mark.parametrize("form", ["squeezed", "named"])
def test_outputs_without_rows_or_with_names_are_read_at_every_door(form):
    network, batches = Wrapped(form), [(X[:512], LABELS[:512]), (X[512:513], LABELS[512:513])]
    records = collect(network, batches)
    assert len(records) == len(records.logits) == 513
    result = recalibrate(network, batches, candidates=["temperature"])
    assert result.model(X[:7]).shape[0] == 7
    rows = Records(X, LABELS)
    assert influence(network, rows, rows.select(range(20)), method="gradients") is not None


@pytest.mark.parametrize(
    "model", ["a.onnx", nn.Linear(3, 2).state_dict(), nn.Linear], ids=["path", "weights", "class"]
)
def test_what_is_no_model_is_refused_at_every_door(model):
    rows = Records(X, LABELS)
    for door in (
        lambda: collect(model, X),
        lambda: attribute(model, X),
        lambda: recalibrate(model, [(X, LABELS)]),
        lambda: permutation_importance(model, rows),
        lambda: influence(model, rows, rows),
        lambda: diagnose(model, validation=rows),
    ):
        with pytest.raises(InputError, match="`model`"):
            door()


def test_estimators_and_functions_of_arrays_are_models_at_every_door():
    estimator = SimpleNamespace(decision_function=lambda x: 2 * x[:, 0])
    rows = Records(X, LABELS)
    assert permutation_importance(estimator, rows).table()["feature"].iloc[0] == "feature_0"
    assert recalibrate(estimator, [(X, LABELS)]).before.total == N
    with pytest.raises(UnsupportedError, match="kernel_shap"):
        attribute(lambda x: x.numpy()[:, 0], X)
    assert attribute(estimator, X[:8], "kernel_shap", trust=False).values.shape == (8, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_permutation_importance_of_other_floating_types(dtype):
    network = nn.Linear(3, 2).to(dtype)
    assert len(permutation_importance(network, Records(X, LABELS)).table()) == 3


def test_a_list_of_dicts_has_one_row_each():
    boxes = [{"boxes": torch.zeros(2, 4)} for _ in range(8)]
    assert batch_rows(([torch.zeros(3, 32, 32)] * 8, boxes)) == 8


def test_tables_in_another_order_meet_the_network_by_name(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=N), draw.normal(5, 2, N)
    label = (draw.random(N) < 1 / (1 + np.exp(-2 * a))).astype(int)
    frame = pd.DataFrame({"a": a, "b": b, "label": label})
    network = nn.Linear(2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[2.0, 0.0]]))
        network.bias.zero_()
    schema = Schema(target="label")
    train = Records.from_frame(frame, schema, name="train")
    swapped = Records.from_frame(frame[["b", "label", "a"]], schema, name="validation")
    found = [influence(network, train, q, method="gradients") for q in (train, swapped)]
    assert found[0].table().equals(found[1].table())
    (tmp_path / "case_nets.py").write_text(
        "import torch\n\ndef build():\n    net = torch.nn.Linear(2, 1)\n"
        "    net.weight.data.copy_(torch.tensor([[2.0, 0.0]]))\n    net.bias.data.zero_()\n"
        "    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "s.yaml").write_text("target: label\n")
    words = ["predeploy", "--schema", str(tmp_path / "s.yaml"), "--model", "case_nets:build"]
    for name, part in (("train", frame), ("validation", frame), ("production", swapped_of(frame))):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
        words += [f"--{name}", str(tmp_path / f"{name}.csv")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0


def swapped_of(frame):
    return frame[["b", "label", "a"]]


def test_outputs_with_gradients_are_read_as_numbers():
    with_graph = (LOGIT * torch.ones((), requires_grad=True)).requires_grad_()
    bins = reliability_bins(with_graph, LABELS)
    assert not bins.confidence.requires_grad
    assert fit_temperature(with_graph, LABELS).converged
    records = Records(X, LABELS, with_graph)
    assert not records.logits.requires_grad
    assert not broken(diagnose(validation=records, only=["calibration", "slices", "labels"]))


def test_classes_in_another_order_in_production_alone_are_the_one_root() -> None:
    generator = torch.Generator().manual_seed(0)
    for k in (2, 4):
        labels = torch.randint(k, (3000,), generator=generator)
        logits = torch.randn(3000, k, generator=generator)
        logits[torch.arange(3000), labels] += 1.5
        logits *= 1.5
        served = logits.roll(1, 1)
        if k == 2:
            logits, served = (side[:, 1] - side[:, 0] for side in (logits, served))
        sides = {
            name: Records(torch.randn(1500, 3, generator=generator), y, z, name=name)
            for name, y, z in (
                ("validation", labels[:1500], logits[:1500]),
                ("production", labels[1500:], served[1500:]),
            )
        }
        found = diagnose(**sides)
        assert [(c.cause, c.subject) for c in found.causes] == [
            (Cause.TRAIN_SERVE_SKEW, "order of the classes")
        ]
        assert found.decision == "fix_data"


def test_records_of_a_modality_that_is_no_text_are_refused():
    with pytest.raises(InputError, match="modality"):
        Records(X, LABELS, LOGIT, modality=["image"])
