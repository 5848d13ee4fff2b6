"""`gendebug curves`."""

from __future__ import annotations

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, deliver


def curves(
    file: str,
    out: str,
    train: str | None = None,
    val: str | None = None,
    baseline_loss: float | None = None,
    target_loss: float | None = None,
    fail_on: FailOn = "warn",
) -> int:
    """Say what learning curves show: overfitting and from which epoch, underfitting, converged,
    still improving.

    Args:
        file: CSV of epoch, train_loss, val_loss and metrics, a Hugging Face trainer_state.json, a
            TensorBoard event file, or the folder of a run that holds one.
        out: directory for report.html and findings.json.
        train: column of the training loss, where its name is not a usual one.
        val: column of the validation loss, likewise.
        baseline_loss: loss of the best constant prediction; without it an untrained network looks
            converged.
        target_loss: loss that a sufficient model would reach.
        fail_on: exit with 1 from this severity on.
    """
    learned = gd.curves.LearningCurves.from_run(file, train=train, val=val)
    options = {"curves.regime": {"baseline_loss": baseline_loss, "target_loss": target_loss}}
    diagnosis = gd.diagnose(curves=learned, only="curves", options=options)
    return deliver(
        diagnosis,
        out,
        fail_on,
        pictures={"Learning curves": learned},
        tables={"Learning curves": learned.table()},
    )
