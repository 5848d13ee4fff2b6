"""Class shares without labels on real logits: near the oracle, quiet where nothing changed, silent
where it would be wrong."""

import numpy as np
import pytest
import torch

from gendebug_torch.calibration import adapt_to_label_shift
from gendebug_torch.calibration.maps.folding import fold_affine
from gendebug_torch.checks.evidence import png
from gendebug_torch.errors import InputError
from tests.contract.plants_calibration import binary


def load(shared_data, name):
    with np.load(shared_data / "logits" / f"{name}.npz") as archive:
        side = "test_" if "test_logits" in archive else ""
        return torch.from_numpy(archive[f"{side}logits"]), torch.from_numpy(
            archive[f"{side}labels"]
        ).long()


def resampled(logits, targets, shares, seed, n=2000):
    """Half of the rows, and n rows of the other half drawn to given class shares."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(logits), generator=generator)
    fit, rest = order[: len(order) // 2], order[len(order) // 2 :]
    classes = logits.shape[1]
    weight = (shares / torch.bincount(targets[rest], minlength=classes).clamp(min=1))[targets[rest]]
    live = rest[torch.multinomial(weight, n, replacement=True, generator=generator)]
    return fit, live


def accuracy(logits, targets):
    return float((logits.argmax(1) == targets).double().mean())


@pytest.mark.parametrize("name", ["resnet50_cifar10", "cleanlab_imdb_test_set"])
def test_adapted_accuracy_is_near_that_of_the_true_shares(name, shared_data):
    logits, targets = load(shared_data, name)
    classes, rows = logits.shape[1], []
    for seed in range(20):
        skewed = (
            np.random.default_rng(seed).dirichlet([0.3] * classes) if classes > 2 else [0.1, 0.9]
        )
        fit, live = resampled(
            logits, targets, torch.tensor(skewed, dtype=torch.float64).clamp(min=1e-9), seed
        )
        found = adapt_to_label_shift(logits[fit], targets[fit], logits[live])
        true = torch.bincount(targets[live], minlength=classes).double().clamp(min=1e-9)
        old = torch.bincount(targets[fit], minlength=classes).double()
        oracle = (
            found.calibration(logits[live].double()) + (true / true.sum() * old.sum() / old).log()
        )
        rows.append(
            [
                accuracy(z, targets[live])
                for z in (logits[live], found(logits[live].double()), oracle)
            ]
        )
    raw, adapted, oracle = np.mean(rows, 0)
    assert adapted >= oracle - 0.005
    assert adapted > raw
    assert min(b - a for a, b, _ in rows) >= -0.01


def test_shares_that_did_not_change_are_left_alone(shared_data):
    logits, targets = load(shared_data, "netcal_lenet_5_cifar_10")
    changes = []
    for seed in range(20):
        fit, live = resampled(logits, targets, torch.full((10,), 0.1, dtype=torch.float64), seed)
        found = adapt_to_label_shift(logits[fit], targets[fit], logits[live])
        changes.append(
            accuracy(found(logits[live]), targets[live]) - accuracy(logits[live], targets[live])
        )
    assert np.mean(changes) > -0.003
    assert min(changes) > -0.015


def test_probabilities_that_cannot_carry_a_change_are_left_alone(shared_data):
    """Where zeros were floored, the shares that probabilities tell are wrong, and even the true
    ones cost accuracy."""
    logits, targets = load(shared_data, "cleanlab_20news_test_set")
    adapted, harmful = 0, 0
    for seed in range(8):
        skewed = np.random.default_rng(seed).dirichlet([0.3] * 20)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(logits), generator=generator)
        fit, rest = order[: len(order) // 2], order[len(order) // 2 :]
        wanted = torch.bincount(
            torch.multinomial(torch.tensor(skewed), 1500, replacement=True, generator=generator),
            minlength=20,
        )
        live = torch.cat(
            [rest[targets[rest] == label][: int(count)] for label, count in enumerate(wanted)]
        )
        found = adapt_to_label_shift(logits[fit], targets[fit], logits[live])
        adapted += found.applied
        harmful += found.gain[0] < 0
        assert found.applied or found.warnings
        assert (
            accuracy(found(logits[live]), targets[live])
            >= accuracy(logits[live], targets[live]) - 0.01
        )
    assert adapted <= 1
    assert harmful >= 6


def test_shares_are_moved_by_what_is_beyond_noise():
    validation = binary(0, 3000)
    for rows, share, least in (
        (binary(1, 3000, share=0.6), 0.6, 0.98),
        (binary(2, 60, share=0.4), 0.4, 0.0),
    ):
        shift = adapt_to_label_shift(validation.logits, validation.targets, rows.logits).shift
        kept = float((shift.shrunken - shift.reference)[1] / (shift.prior - shift.reference)[1])
        assert least <= kept <= 1
        assert float(shift.shrunken.sum()) == pytest.approx(1.0)
        assert kept == pytest.approx(max(0.0, 1 - 1 / shift.statistic))
        assert share == pytest.approx(float(shift.prior[1]), abs=0.2)


def test_moved_inputs_are_distinguished_from_moved_shares():
    validation, moved = binary(0, 3000), binary(1, 3000, share=0.6)
    found = adapt_to_label_shift(validation.logits, validation.targets, moved.logits)
    assert found.applied
    assert float(found.shift.prior[1]) == pytest.approx(0.6, abs=0.05)
    agree = (found(moved.logits) > 0) == (moved.logits.sigmoid() > found.threshold())
    assert bool(agree.all())
    assert len(found.table()) == 2
    png(found)
    stranger = binary(2, 3000)
    squeezed = adapt_to_label_shift(
        validation.logits, validation.targets, stranger.logits.clamp(-1, 1) + 0.5
    )
    assert not squeezed.applied
    assert "Label some production rows" in squeezed.warnings[0]
    assert torch.equal(squeezed(stranger.logits), stranger.logits)


def test_few_rows_say_how_little_is_known_and_an_absent_class_is_left_out():
    validation, few = binary(3, 400), binary(4, 25, share=0.7)
    assert any(
        "more unlabeled rows" in text
        for text in adapt_to_label_shift(validation.logits, validation.targets, few.logits).warnings
    )
    pair = torch.stack(
        [
            torch.zeros(400, dtype=torch.float64),
            validation.logits,
            torch.full((400,), -9.0, dtype=torch.float64),
        ],
        1,
    )
    found = adapt_to_label_shift(pair, validation.targets, pair[:200])
    assert found.classes.tolist() == [0, 1]
    assert found(pair).shape == pair.shape


def test_adaptation_folds_into_the_last_layer():
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(3, 1))
    x = torch.randn(500, 3)
    with torch.no_grad():
        z = layer(x)[:, 0]
        y = torch.bernoulli(z.sigmoid(), generator=torch.Generator().manual_seed(1)).long()
        found = adapt_to_label_shift(z, y, z[z > 0.2])
        folded = fold_affine(layer, found.scale, found.bias, x[:20])
        assert torch.allclose(folded(x)[:, 0], found(z), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda z, y: adapt_to_label_shift(z, y, z[:0]), "production"),
        (lambda z, y: adapt_to_label_shift(z, y, torch.zeros(4, 2)), "production"),
        (lambda z, y: adapt_to_label_shift(z, torch.zeros_like(y), z), "targets"),
        (lambda z, y: adapt_to_label_shift(z, y, z).threshold(0.0), "threshold"),
    ],
)
def test_bad_input_is_named(call, argument):
    records = binary(5, 100)
    with pytest.raises(InputError, match=rf"^`{argument}`"):
        call(records.logits, records.targets)
