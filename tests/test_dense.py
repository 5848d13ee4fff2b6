"""Dense outputs: one answer per position, from `collect` to the diagnosis."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch import Records, collect, diagnose, recalibrate
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.checks.rows import independent_rows, position_rows
from gendebug_torch.errors import InputError

IGNORED = -100
CALIBRATION = next(check for check in all_checks() if check.name == "calibration.ece")


class Map(nn.Module):
    """Logits of k classes per pixel, `sharp` times those that the labels are drawn from."""

    def __init__(self, k=4, sharp=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(1.5 * sharp * torch.randn(k, 3, 1, 1, generator=generator))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight)


def images(n=240, side=8, k=4, seed=0, own=0.0):
    """Images and their labels; `own` is the share of the noise that an image's pixels share."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, side, side, generator=generator)
    logits = Map(k)(x).detach()
    shared = torch.rand(n, k, 1, 1, generator=generator).expand(-1, -1, side, side)
    uniform = torch.rand(n, k, side, side, generator=generator)
    keep = torch.rand(n, 1, 1, 1, generator=generator) < own
    noise = torch.where(keep, shared, uniform)
    if k == 1:
        return x, (noise < logits.sigmoid()).long()
    return x, (logits - noise.log().neg().log()).argmax(1)


def loader(x, y, batch=64):
    return DataLoader(TensorDataset(x, y), batch_size=batch)


def test_a_sample_of_positions_is_kept_whatever_the_batches():
    x, y = images()
    y[:, 0] = 255
    first = collect(Map(), loader(x, y), positions=16, ignore_index=255, name="validation")
    second = collect(Map(), loader(x, y, 37), positions=16, ignore_index=255)
    assert first.task == "dense"
    assert first.logits.shape == (240, 4, 16)
    assert torch.equal(first.targets, second.targets)
    assert torch.allclose(first.logits, second.logits, atol=1e-6)
    assert int((first.targets == IGNORED).sum()) == 0
    whole = collect(Map(), loader(x, y), ignore_index=255)
    assert whole.logits.shape == (240, 4, 56)
    rate = float(whole.correct.double().mean())
    assert float(first.correct.double().mean()) == pytest.approx(rate, abs=0.02)
    rows = independent_rows(first)
    assert (rows.task, len(rows)) == ("multiclass", 240)
    assert float(rows.correct.double().mean()) == pytest.approx(rate, abs=0.1)
    assert rows.features is first.features


def test_positions_are_rows_of_their_image():
    x, y = images(n=3, side=2)
    y[1, 0] = IGNORED
    scanners = pd.DataFrame({"scanner": ["a", "b", "c"]})
    records = Records(x, y, Map()(x).detach(), scanners)
    rows = position_rows(records)
    assert rows.metadata["sample"].tolist() == [0] * 4 + [1] * 2 + [2] * 4
    assert rows.metadata["scanner"].tolist() == ["a"] * 4 + ["b"] * 2 + ["c"] * 4
    assert rows.schema.group == "sample"
    assert torch.equal(rows.logits[:4], Map()(x[:1])[0].flatten(1).T)
    assert rows.targets[4:6].tolist() == y[1, 1].tolist()
    y[2] = IGNORED
    assert len(Records(x, y).labeled()) == 2


@pytest.mark.parametrize("form", ["int", "float", "bool", "column", "float column"])
def test_maps_of_one_logit_are_binary(form):
    x, y = images(k=1)
    given = {
        "int": y[:, 0],
        "float": y[:, 0].float(),
        "bool": y[:, 0].bool(),
        "column": y,
        "float column": y.float(),
    }[form]
    records = collect(Map(1, sharp=3.0), loader(x, given), name="validation")
    assert torch.equal(records.targets, y[:, 0].flatten(1))
    assert records.probs.shape == records.confidence.shape == records.correct.shape == (240, 64)
    (finding,) = CALIBRATION.run({"validation": records})
    assert finding.severity == "fail"
    assert "over 240 groups" in finding.summary
    assert recalibrate(
        Map(1, sharp=3.0), loader(x, given)
    ).temperature.temperature == pytest.approx(3.0, abs=0.25)


class Tagger(nn.Module):
    """Logits `[b, k, t]` of token ids `[b, t]`."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 5)

    def forward(self, ids):
        return self.embedding(ids).movedim(2, 1)


def test_sequences_of_unequal_length():
    generator = torch.Generator().manual_seed(0)
    tagger = Tagger().eval()

    def batches():
        for length in (5, 9, 7):
            ids = torch.randint(1, 20, (30, length), generator=generator)
            labels = tagger(ids).argmax(1)
            labels[:, -1] = IGNORED
            yield ids, labels

    data = list(batches())
    with pytest.warns(UserWarning, match="not kept as features"):
        records = collect(tagger, data)
    assert records.logits.shape == (90, 5, 8)
    assert (records.targets != IGNORED).sum(1).tolist() == [4] * 30 + [8] * 30 + [6] * 30
    assert float(position_rows(records).correct.double().mean()) == 1.0
    with pytest.warns(UserWarning, match="not kept as features"):
        unlabeled = collect(tagger, [(ids,) for ids, _ in data])
    assert unlabeled.targets is None
    assert unlabeled.logits.shape == (90, 5, 9)
    flat = Tagger()
    flat.forward = lambda ids: flat.embedding(ids)[..., 0]
    with pytest.raises(InputError, match="Pad the inputs"):
        collect(flat, [ids for ids, _ in data])


def test_classes_that_are_last_are_named():
    logits, targets = torch.randn(4, 6, 3), torch.zeros(4, 6).long()
    with pytest.raises(InputError, match="movedim"):
        Records(logits=logits, targets=targets)
    square = torch.randn(40, 5, 5, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="with the classes last the accuracy would be"):
        Records(logits=square, targets=square.argmax(-1))


def test_pixels_of_an_image_are_not_independent():
    """Calibrated networks whose errors come image by image raise no alarm."""
    alarms = 0
    for seed in range(40):
        x, y = images(n=60, side=6, seed=seed, own=1.0)
        (finding,) = CALIBRATION.run({"validation": Records(targets=y, logits=Map()(x).detach())})
        alarms += finding.severity.level >= 2
    assert alarms <= 2


def test_every_check_answers_or_says_why():
    sides = {}
    for seed, side in enumerate(("train", "validation", "production")):
        x, y = images(n=120, seed=seed)
        sides[side] = collect(Map(sharp=2.5), loader(x, y), name=side)
        sides[side] = Records(
            x, sides[side].targets, sides[side].logits, name=side, task=sides[side].task
        )
    diagnosis = diagnose(Map(sharp=2.5), **sides, options={"shift.joint": {"most_columns": 10}})
    errored = [f.summary for f in diagnosis.findings if f.severity == "errored"]
    assert not errored
    assert diagnosis.decision == "recalibrate"
    assert diagnosis.quality is not None
    skipped = {f.check: f.summary for f in diagnosis.findings if f.severity == "skipped"}
    assert "one answer per position" in skipped["attribution.stability"]
    unseen = diagnose(Map(sharp=2.5), validation=Records(*images(n=120)), only="calibration")
    assert unseen.decision == "recalibrate"


def test_quantities_per_position(tmp_path):
    depth = np.random.default_rng(0).normal(size=(50, 6, 6)).astype("float32")
    np.savez(tmp_path / "depth.npz", logits=depth[:, None] + 1, targets=depth)
    records = Records.from_file(tmp_path / "depth.npz")
    assert (records.task, independent_rows(records).task) == ("dense", "regression")
    assert torch.allclose(position_rows(records).logits, position_rows(records).targets + 1)
    assert torch.equal(Records.load(records.save(tmp_path / "saved")).logits, records.logits)
