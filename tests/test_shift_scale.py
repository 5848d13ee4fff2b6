"""Rows in another unit, and labels and outputs of production that are read as what they are not."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, diagnose
from gendebug_torch.shift.serving.label_columns import label_columns
from gendebug_torch.shift.serving.output_scale import output_scale
from gendebug_torch.shift.transforms.distances import ks_distance
from gendebug_torch.shift.transforms.quantities import fit_mixed_units


def amounts(seed, n=800, spread=0.6):
    return np.exp(np.random.default_rng(seed).normal(3, spread, n))


@pytest.mark.parametrize("factor", [100.0, 1e-3, 60.0])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_rows_in_another_unit_are_counted_and_restored(factor, share):
    before, after = amounts(0), amounts(1)
    moved = np.random.default_rng(2).random(len(after)) < share
    live = np.where(moved, factor * after, after)
    found = fit_mixed_units(before, live, ks_distance(before, live))
    assert found.factor == pytest.approx(factor)
    assert found.share == pytest.approx(moved.mean(), abs=0.01)
    assert np.isclose(found.undo(live), after).mean() > 0.995
    assert np.mean(found.apply(before) != before) == pytest.approx(share, abs=0.06)


DRIFTS = {
    "same": lambda x, part: x,
    "all in another unit": lambda x, part: 100 * x,
    "growth": lambda x, part: 3 * x,
    "wider": lambda x, part: np.exp(3 + 2.5 * (np.log(x) - 3)),
    "a group that pays 250 times as much": lambda x, part: np.where(part, 250 * x, x),
    "below 0": lambda x, part: np.where(part, -100 * x, x),
}


@pytest.mark.parametrize("kind", DRIFTS)
def test_drifts_are_no_mixture_of_units(kind):
    for seed in range(10):
        part = np.random.default_rng(seed).random(800) < 0.2
        before, live = amounts(seed + 100), DRIFTS[kind](amounts(seed), part)
        assert fit_mixed_units(before, live, ks_distance(before, live)) is None, seed


def quantities(seed, n=400, spread=0.2):
    """Outputs and labels of a network that tells positive quantities."""
    rng = np.random.default_rng(seed)
    z = np.exp(rng.normal(3, 0.5, n))
    return torch.tensor(z), torch.tensor(z * np.exp(rng.normal(0, spread, n)))


def sides(change_labels=None, change_outputs=None, seed=0):
    (z, y), (live, labels) = quantities(seed), quantities(seed + 1000)
    labels = labels if change_labels is None else change_labels(labels)
    live = live if change_outputs is None else change_outputs(live)
    return records(z, y), records(live, labels)


def records(z, y):
    return Records(targets=y, logits=z, schema=Schema(regression=True))


SCALES = {
    "divided by 1000": lambda y: y / 1000,
    "multiplied by 100": lambda y: 100 * y,
    "log-transformed": torch.log,
    "log-transformed to base 10": torch.log10,
    "not log-transformed": torch.exp,
    "reversed in sign": torch.neg,
}


@pytest.mark.parametrize("text", SCALES)
@pytest.mark.parametrize("side", ["labels", "outputs"])
def test_the_scale_of_labels_and_of_outputs_is_named(text, side):
    found = output_scale(*sides(**{f"change_{side}": SCALES[text]}))
    if text == "not log-transformed":
        # What was judged as a logarithm arrives as it is.
        before, after = ([one.log() for one in quantities(seed)] for seed in (0, 1000))
        after[side == "labels"] = after[side == "labels"].exp()
        found = output_scale(records(*before), records(*after))
    assert (found.side, found.text, found.share) == (side, text, 1.0)
    assert found.restored < 1.3 * found.usual < found.error


def test_labels_of_some_rows_may_be_on_another_scale():
    some = torch.arange(400) % 8 == 0
    found = output_scale(*sides(lambda y: torch.where(some, y / 1000, y)))
    assert (found.side, found.text) == ("labels", "divided by 1000")
    assert found.share == pytest.approx(0.125, abs=0.01)


@pytest.mark.parametrize(
    "drift",
    [
        lambda y: y,
        lambda y: 1.5 * y,
        lambda y: y + 20,
        lambda y: y.mean() + 0 * y,
        lambda y: y.roll(1),
        lambda y: y * (torch.arange(len(y)) % 6 > 0),
    ],
)
def test_a_drift_of_quantities_is_no_other_scale(drift):
    for seed in range(10):
        assert output_scale(*sides(drift, seed=seed)) is None, seed


def test_labels_in_another_unit_are_fixed_and_not_learned():
    def rows(seed, name, unit=1.0):
        z, y = (side.numpy() for side in quantities(seed))
        noise = np.random.default_rng(seed).normal(0, 0.1, len(z))
        frame = pd.DataFrame({"size": np.log(z) + noise, "paid": y / unit, "told": z})
        schema = Schema(target="paid", logits="told", regression=True)
        return Records.from_frame(frame, schema, name=name)

    found = diagnose(
        validation=rows(1, "validation"),
        production=rows(2, "production", unit=1000.0),
    )
    assert found.decision == "fix_data"
    assert [(cause.cause, cause.subject) for cause in found.causes] == [
        ("train_serve_skew", "paid")
    ]
    assert "divided by 1000" in found.verdict.reasons[0]
    first = found.bill.billed[0]
    assert (first.cause, first.subject) == ("train_serve_skew", "paid")
    assert first.points == pytest.approx(found.bill.total)


RATES, SIGNAL = torch.tensor([0.0, 1.0, -1.5, 0.5]), torch.tensor([2.0, 1.5, 2.5, 1.0])


def several_labels(seed, n=1500):
    """Scores and labels of a multilabel model whose first two labels go together."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=draw, dtype=torch.float64)
    x[:, 1] += x[:, 0]
    z = SIGNAL * x + RATES
    return z, torch.bernoulli(z.sigmoid(), generator=draw).long()


def of_columns(change, seed=0):
    (z, y), (live, labels) = several_labels(seed), several_labels(seed + 1000)
    live, labels = change(live, labels)
    return label_columns(Records(targets=y, logits=z), Records(targets=labels, logits=live))


def set_column(values, column, new):
    return values.index_copy(1, torch.tensor([column]), new[:, None])


EXCHANGED = ("label 1 holds label 2", "label 2 holds label 1")
MISREAD_COLUMNS = {
    "exchanged labels": (lambda z, y: (z, y[:, [0, 2, 1, 3]]), "labels", EXCHANGED),
    "exchanged outputs": (lambda z, y: (z[:, [0, 2, 1, 3]], y), "outputs", EXCHANGED),
    "reversed": (
        lambda z, y: (z, set_column(y, 3, 1 - y[:, 3])),
        "labels",
        ("label 3 is reversed",),
    ),
    "never filled in": (
        lambda z, y: (z, set_column(y, 0, 0 * y[:, 0])),
        "labels",
        ("label 0 is 0 in every row",),
    ),
}


@pytest.mark.parametrize("kind", MISREAD_COLUMNS)
def test_labels_that_are_others_than_they_are_read_as_are_named(kind):
    change, side, texts = MISREAD_COLUMNS[kind]
    for seed in range(5):
        found = of_columns(change, seed)
        assert (found.side, found.texts) == (side, texts), seed


@pytest.mark.parametrize(
    "drift",
    [
        lambda z, y: (z, y),
        lambda z, y: (z + torch.tensor([1.5, 0, 0, 0]), y),
        lambda z, y: (0.3 * z, y),
        lambda z, y: (z, torch.where(torch.arange(len(y))[:, None] % 4 == 0, y.roll(1, 0), y)),
        lambda z, y: (z, set_column(y, 2, y[:, 2] | y[:, 0])),
    ],
)
def test_a_drift_of_labels_is_no_other_column(drift):
    for seed in range(10):
        assert of_columns(drift, seed) is None, seed


def test_exchanged_labels_are_fixed_and_not_learned():
    (z, y), (live, labels) = several_labels(1), several_labels(2)
    found = diagnose(
        validation=Records(targets=y, logits=z, name="validation"),
        production=Records(targets=labels[:, [1, 0, 2, 3]], logits=live, name="production"),
    )
    assert found.decision == "fix_data"
    assert found.causes[0].subject == "order of the labels"
    assert "label 0 holds label 1" in found.verdict.reasons[0]
