"""`gendebug curves`."""

from __future__ import annotations

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, deliver


def curves(file: str, out: str, fail_on: FailOn = "warn") -> int:
    """Say what learning curves show: overfitting and from which epoch, underfitting, converged, still learning.

    Args:
        file: CSV of epoch, train_loss, val_loss and metrics, or Lightning's metrics.csv.
        out: directory for report.html and findings.json.
        fail_on: exit with 1 from this severity on.
    """
    learned = gd.curves.LearningCurves.from_csv(file)
    diagnosis = gd.diagnose(curves=learned, only="curves")
    return deliver(diagnosis, out, fail_on, pictures={"Learning curves": learned}, tables={"Learning curves": learned.table()})
