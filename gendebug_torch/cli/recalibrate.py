"""`gendebug recalibrate`."""

from __future__ import annotations

import gendebug_torch as gd
from gendebug_torch.cli.deliver import FailOn, deliver


def recalibrate(logits: str, out: str, schema: str | None = None, fail_on: FailOn = "never") -> int:
    """Fit a temperature to logits with their labels and say what it changes on rows it has not seen.

    Args:
        logits: npz with logits [n, k] (or probs) and targets or labels [n]; or a table, then with --schema.
        out: directory for calibration.json, report.html and findings.json.
        schema: YAML file that names the target and logits columns of a table.
        fail_on: exit with 1 from this severity on.
    """
    records = gd.Records.from_file(logits, None if schema is None else gd.Schema.from_file(schema), name="validation")
    recalibration = gd.recalibrate(None, records)
    recalibration.save(out)
    diagnosis = gd.diagnose(validation=records, only="calibration")
    pictures = {"Before": recalibration.before, f"After ({recalibration.chosen})": recalibration.after}
    return deliver(diagnosis, out, fail_on, pictures=pictures, tables={"Before and after": recalibration.table()})
