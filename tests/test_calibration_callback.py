"""`CalibrationMonitor` in real Lightning runs: equal to one pass over all rows, over ranks,
resumed, and harmless."""

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gendebug_torch.calibration import calibration_sums, fit_temperature
from gendebug_torch.calibration.maps.temperature_sums import temperature_sums
from gendebug_torch.callbacks import CalibrationError, CalibrationMonitor
from gendebug_torch.errors import InputError
from tests.contract.plants_calibration import drawn
from tests.processes import run_script_on_two_ranks


class Learner(pl.LightningModule):
    def __init__(self, k=3):
        super().__init__()
        self.net = nn.Linear(4, k)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        logits = self(batch[0])
        return {
            "loss": nn.functional.cross_entropy(logits, batch[1]),
            "logits": logits,
            "targets": batch[1],
        }

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 1).long())


def trainer(*callbacks, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(accelerator="cpu", callbacks=list(callbacks), **(quiet | options))


def fitted(monitor, epochs=3, **options):
    torch.manual_seed(0)
    model = Learner()
    trainer(monitor, max_epochs=epochs, **options).fit(
        model, DataLoader(rows(64), 16), DataLoader(rows(101, 1), 16)
    )
    return model


def test_each_epoch_is_one_pass_over_all_validation_rows():
    monitor = CalibrationMonitor()
    model = fitted(monitor, num_sanity_val_steps=2)
    assert sorted(monitor.history) == [0, 1, 2]
    x, y = rows(101, 1).tensors
    with torch.no_grad():
        expected = calibration_sums(model(x), y)
    last = monitor.history[2]
    assert last.cells.total == 101
    assert last.bins().ece == pytest.approx(expected.bins().ece, abs=1e-6)
    assert last.nll == pytest.approx(expected.nll, rel=1e-5)
    table = monitor.table()
    with torch.no_grad():
        exact = fit_temperature(model(x), y)
    assert table["temperature"].iloc[-1] == pytest.approx(exact.temperature, rel=2e-3)
    assert table["temperature_error"].iloc[-1] == pytest.approx(exact.standard_error, rel=0.1)
    assert (table["low"] <= table["ece"]).all()


def test_rows_are_counted_in_pieces_as_in_one(monkeypatch):
    monkeypatch.setattr("gendebug_torch.calibration.recorder._BYTES", 1)
    pieces, whole = CalibrationMonitor(), CalibrationMonitor()
    fitted(pieces)
    monkeypatch.undo()
    fitted(whole)
    assert pieces.history[2].bins().ece == pytest.approx(whole.history[2].bins().ece, abs=1e-12)


def test_a_run_goes_on_where_its_checkpoint_stopped(tmp_path):
    whole = CalibrationMonitor()
    fitted(whole, 4)
    first, second = CalibrationMonitor(), CalibrationMonitor()
    torch.manual_seed(0)
    start = trainer(first, max_epochs=2)
    start.fit(Learner(), DataLoader(rows(64), 16), DataLoader(rows(101, 1), 16))
    start.save_checkpoint(tmp_path / "half.ckpt")
    on = trainer(second, max_epochs=4)
    on.fit(
        Learner(),
        DataLoader(rows(64), 16),
        DataLoader(rows(101, 1), 16),
        ckpt_path=tmp_path / "half.ckpt",
    )
    assert sorted(second.history) == [0, 1, 2, 3]
    for epoch in range(4):
        assert torch.allclose(second.history[epoch].scores, whole.history[epoch].scores)


DISTRIBUTED = """
import pathlib, sys, torch
import torch.distributed as dist
from tests.test_calibration_callback import *

if __name__ == "__main__":
    monitor = CalibrationMonitor()
    torch.manual_seed(0)
    run = trainer(monitor, max_epochs=1, devices=2, strategy="ddp")
    model = Learner()
    run.validate(model, DataLoader(rows(101, 1), 16))
    if run.global_rank == 0:
        (sums,) = monitor.history.values()
        (needed,) = monitor.temperatures.values()
        x, y = rows(101, 1).tensors
        with torch.no_grad():
            z = model.cpu()(x)
        expected = calibration_sums(z, y)
        assert sums.cells.total == 101, sums.cells.total
        assert torch.equal(sums.cells.count, expected.cells.count)
        assert torch.equal(sums.cells.correct, expected.cells.correct)
        assert torch.allclose(sums.scores, expected.scores)
        assert torch.allclose(needed.sums, temperature_sums(z, y).sums)
        pathlib.Path(sys.argv[1], "exact").touch()
"""


@pytest.mark.slow
def test_two_ranks_count_every_row_once(tmp_path):
    script = tmp_path / "two_ranks.py"
    script.write_text(DISTRIBUTED)
    run_script_on_two_ranks(script, tmp_path)
    assert (tmp_path / "exact").exists()


class Diverged(Learner):
    """The logits of the first rows of each validation batch are not numbers, and one target is
    masked."""

    def __init__(self, broken):
        super().__init__()
        self.broken = broken

    def validation_step(self, batch, index):
        logits = self(batch[0])
        logits[: self.broken] = torch.nan
        logits[-1, batch[1][-1]] = -torch.inf
        return {"logits": logits, "targets": batch[1]}


@pytest.mark.parametrize("broken", [2, 16])
def test_rows_without_a_loss_are_left_out_and_named(broken):
    monitor = CalibrationMonitor()
    model = Diverged(broken)
    trainer(monitor, max_epochs=1).fit(model, DataLoader(rows(64), 16), DataLoader(rows(32, 1), 16))
    (finding,) = monitor.findings
    assert finding.severity == "warn"
    left = 6 if broken == 2 else 32
    assert f"epoch 0: {left} rows had NaN" in finding.summary
    if left == 32:
        assert monitor.history == {}
        return
    x, y = (part.view(2, 16, -1)[:, 2:-1].flatten(0, 1) for part in rows(32, 1).tensors)
    with torch.no_grad():
        expected = calibration_sums(model(x), y[:, 0])
    assert torch.equal(monitor.history[0].cells.count, expected.cells.count)
    assert torch.allclose(monitor.history[0].scores, expected.scores)
    assert monitor.table()["temperature"].iloc[0] == pytest.approx(
        temperature_sums(model(x).detach(), y[:, 0]).temperature()[0], rel=1e-5
    )


def test_targets_that_do_not_fit_are_refused_before_the_training():
    class Wrong(Learner):
        def validation_step(self, batch, index):
            return {"logits": self(batch[0]), "targets": batch[1] + 7}

        def training_step(self, batch, index):
            raise AssertionError("the training began")

    with pytest.raises(InputError, match=r"class ids in 0\.\.2"):
        trainer(CalibrationMonitor(), max_epochs=1).fit(
            Wrong(), DataLoader(rows(64), 16), DataLoader(rows(32, 1), 16)
        )


def test_bins_that_do_not_divide_are_refused_at_once():
    with pytest.raises(InputError, match="divisor of 2520"):
        CalibrationMonitor(bins=11)


def test_rows_with_the_ignored_target_do_not_count():
    class Padded(Learner):
        def validation_step(self, batch, index):
            return {"logits": self(batch[0]), "targets": batch[1].masked_fill(batch[1] == 2, -100)}

    monitor = CalibrationMonitor(ignore_index=-100)
    model = Padded()
    trainer(monitor, max_epochs=1).fit(
        model, DataLoader(rows(64), 16), DataLoader(rows(101, 1), 16)
    )
    x, y = rows(101, 1).tensors
    with torch.no_grad():
        expected = calibration_sums(model(x[y != 2]), y[y != 2])
    assert torch.equal(monitor.history[0].cells.count, expected.cells.count)
    assert monitor.table()["temperature"].iloc[0] == pytest.approx(
        temperature_sums(model(x[y != 2]).detach(), y[y != 2]).temperature()[0], rel=1e-5
    )


def test_outputs_may_be_unpacked_and_be_one_logit_or_dense():
    monitor = CalibrationMonitor(read=lambda module, batch, outputs: (outputs["logits"], batch[1]))
    fitted(monitor, 1)
    assert monitor.history[0].cells.total == 101

    class One(Learner):
        def __init__(self):
            super().__init__(k=1)

        def training_step(self, batch, _):
            return nn.functional.binary_cross_entropy_with_logits(
                self(batch[0])[:, 0], batch[1].clamp(max=1).float()
            )

        def validation_step(self, batch, _):
            return {"logits": self(batch[0]), "targets": batch[1].clamp(max=1)}

    one = CalibrationMonitor()
    trainer(one, max_epochs=1).fit(One(), DataLoader(rows(64), 16), DataLoader(rows(40, 1), 16))
    assert one.history[0].cells.total == 40

    class Pixels(Learner):
        def validation_step(self, batch, _):
            logits = self(batch[0])[:, :, None, None].expand(-1, -1, 2, 2)
            return {"logits": logits, "targets": batch[1][:, None, None].expand(-1, 2, 2)}

    dense = CalibrationMonitor()
    trainer(dense, max_epochs=1).fit(
        Pixels(), DataLoader(rows(64), 16), DataLoader(rows(40, 1), 16)
    )
    assert dense.history[0].cells.total == 160


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5, 7.0])
def test_a_temperature_from_sums_is_near_the_exact_one(scale):
    records = drawn(0, 4000, 5, scale=scale)
    parts = temperature_sums(records.logits[:99], records.targets[:99]) + temperature_sums(
        records.logits[99:], records.targets[99:]
    )
    exact = fit_temperature(records.logits, records.targets)
    temperature, error = parts.temperature()
    assert temperature == pytest.approx(exact.temperature, rel=1e-3)
    assert error == pytest.approx(exact.standard_error, rel=0.1)
    assert str(temperature_sums(records.logits * 100, records.targets).temperature()[0]) == "nan"


def test_a_temperature_from_some_of_the_rows_is_as_sure_as_they_make_it():
    records = drawn(2, 20_000, 5, scale=2.0)
    (all_rows, error), (some, wider) = (
        temperature_sums(records.logits, records.targets, max_rows=most).temperature()
        for most in (None, 2000)
    )
    assert wider == pytest.approx(error * 10**0.5, rel=0.15)
    assert abs(some - all_rows) < 3.5 * wider
    dense = records.logits.view(20, 1000, 5).movedim(2, 1), records.targets.view(20, 1000)
    assert temperature_sums(*dense, max_rows=2000).temperature()[0] == pytest.approx(
        all_rows, abs=3.5 * wider
    )


def test_the_metric_is_the_same_error_and_is_logged():
    records = drawn(1, 900, 4, scale=2.0)
    metric = CalibrationError()
    for start in range(0, 900, 128):
        metric.update(records.logits[start : start + 128], records.targets[start : start + 128])
    expected = calibration_sums(records.logits, records.targets)
    assert float(metric.compute()) == pytest.approx(expected.bins().ece, abs=1e-12)
    assert metric.sums().nll == pytest.approx(expected.nll)
    metric.reset()
    assert metric.sums().cells.total == 0

    class Logged(Learner):
        def __init__(self):
            super().__init__()
            self.error = CalibrationError()

        def validation_step(self, batch, _):
            self.error.update(self(batch[0]), batch[1])
            self.log("ece", self.error)

    run = trainer(max_epochs=1)
    run.fit(Logged(), DataLoader(rows(64), 16), DataLoader(rows(101, 1), 16))
    assert 0 < float(run.callback_metrics["ece"]) < 1


def test_each_of_several_validations_in_an_epoch_is_a_row(tmp_path):
    """Also in a training by steps, and after a checkpoint."""
    monitor = CalibrationMonitor()
    fitted(monitor, 2, val_check_interval=2)
    table = monitor.table()
    assert table["epoch"].tolist() == [0, 0, 1, 1]
    assert table["step"].tolist() == [2, 4, 6, 8]
    assert sorted(monitor.history) == [0, 1]
    assert table["nll"].iloc[-1] == monitor.history[1].nll
    steps = CalibrationMonitor()
    torch.manual_seed(0)
    run = trainer(steps, max_steps=6, val_check_interval=3, check_val_every_n_epoch=None)
    run.fit(Learner(), DataLoader(rows(64), 16), DataLoader(rows(101, 1), 16))
    assert steps.table()["step"].tolist() == [3, 6]
    restored = CalibrationMonitor()
    restored.load_state_dict(monitor.state_dict())
    pd.testing.assert_frame_equal(restored.table(), table)
    old = {"history": {3: _flat_of(monitor)}, "notes": []}
    restored.load_state_dict(old)
    assert restored.table()[["epoch", "step"]].to_numpy().tolist() == [[3, 3]]


def _flat_of(monitor):
    return list(monitor.state_dict()["validations"].values())[-1][1]


class Probabilities(Learner):
    def validation_step(self, batch, index):
        out = super().validation_step(batch, index)
        return out | {"logits": out["logits"].softmax(1)}


def test_probabilities_in_place_of_logits_are_named_once(caplog):
    monitor = CalibrationMonitor()
    run = trainer(monitor, max_epochs=2, num_sanity_val_steps=3)
    run.fit(Probabilities(), DataLoader(rows(64), 16), DataLoader(rows(101, 1), 16))
    (finding,) = monitor.findings
    assert finding.severity == "warn"
    assert "look like probabilities" in finding.summary
    assert sum("look like probabilities" in line for line in caplog.messages) == 1
    fine = CalibrationMonitor()
    fitted(fine, 1)
    assert not fine.findings


def test_labels_that_are_missing_leave_the_others(caplog):
    """Multilabel heads with NaN, batches of one row included."""

    class Labels(Learner):
        def training_step(self, batch, _):
            return self(batch[0]).square().mean()

        def validation_step(self, batch, _):
            targets = (batch[0][:, :3] > 0).float()
            targets[::4, 1] = torch.nan
            return {"loss": targets.nansum(), "logits": self(batch[0]), "targets": targets}

    monitor = CalibrationMonitor(ignore_index=-100)
    trainer(monitor, max_epochs=1).fit(
        Labels(), DataLoader(rows(64), 16), DataLoader(rows(101, 1), 25)
    )
    (sums,) = monitor.history.values()
    assert sums.cells.total == 3 * 101 - (4 * 7 + 1)
    assert not monitor.findings
