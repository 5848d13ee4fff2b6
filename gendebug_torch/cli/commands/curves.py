"""`gendebug curves`."""

from __future__ import annotations

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, Format, deliver
from gendebug_torch.cli.inputs import option_of


def curves(
    file: str,
    out: str,
    train: str | None = None,
    val: str | None = None,
    baseline_loss: float | None = None,
    target_loss: float | None = None,
    fail_on: FailOn = "warn",
    also: list[Format] | None = None,
) -> int:
    """Diagnose learning curves: overfitting and from which epoch, underfitting, divergence.

    Args:
        file: CSV of epoch, train_loss, val_loss and metrics, a Hugging Face trainer_state.json, the
            history of skorch as JSON, a TensorBoard event file, or the folder of a run that holds
            one.
        out: directory for report.html and findings.json.
        train: column of the training loss, where its name is not a usual one.
        val: column of the validation loss, where its name is not a usual one.
        baseline_loss: loss of the best constant prediction; without it an untrained network looks
            converged.
        target_loss: loss of a sufficient model.
        fail_on: exit with 1 from this severity on.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    with option_of("file"):
        learning_curves = gd.curves.LearningCurves.from_run(file, train=train, val=val)
    options = {"curves.regime": {"baseline_loss": baseline_loss, "target_loss": target_loss}}
    diagnosis = gd.diagnose(curves=learning_curves, only="curves", options=options)
    return deliver(
        diagnosis,
        out,
        fail_on,
        also=also or (),
        pictures={"Learning curves": learning_curves},
        tables={"Learning curves": learning_curves.table()},
    )
