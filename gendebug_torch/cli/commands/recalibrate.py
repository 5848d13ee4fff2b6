"""`gendebug recalibrate`."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import gendebug_torch as gd
from gendebug_torch.calibration import Recalibration, confusion_matrix
from gendebug_torch.calibration.map_choice import FITS, out_of_fold
from gendebug_torch.calibration.thresholds.threshold_choice import confusion_table
from gendebug_torch.checks.evidence import png
from gendebug_torch.cli.deliver import FailOn, Format, deliver, say
from gendebug_torch.cli.inputs import checked_threshold, load_schema, option_of
from gendebug_torch.data.files import write_whole
from gendebug_torch.data.task import two_class_logits
from gendebug_torch.errors import reading, reject
from gendebug_torch.model.binary import positive_logit
from gendebug_torch.model.formats import import_name, load_network, load_program, load_tensors


def recalibrate(
    out: str,
    logits: str | None = None,
    schema: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    checkpoint: str | None = None,
    program: str | None = None,
    data: str | None = None,
    candidates: list[str] | None = None,
    keep_predictions: bool = True,
    threshold: float | None = None,
    device: str = "auto",
    fail_on: FailOn = "never",
    also: list[Format] | None = None,
) -> int:
    """Choose a calibration map of a network's logits on held-out labeled rows, and save it.

    Each map is evaluated on rows that it was not fitted to. Give logits with labels by --logits; or
    a network by --model or --program, with a table by --data and --schema.

    Args:
        out: directory for calibration.json and its tensors, the reliability diagrams, report.html
            and findings.json.
        logits: npz or safetensors with logits [n, k] (or probs) and targets or labels [n]; or a
            table, with --schema.
        schema: YAML file that names the target and logits columns of a table.
        model: MODULE:NAME of a network, of a function that returns one, or of a Lightning class
            with --checkpoint.
        weights: safetensors file to load into the network.
        checkpoint: Lightning checkpoint of your own training.
        program: file that torch.export.save wrote, with a dynamic first dimension.
        data: table of held-out labeled rows, with --schema.
        candidates: maps to try, among temperature, bias_corrected, vector, top_platt, top_beta,
            isotonic.
        keep_predictions: whether to leave out maps that change a prediction.
        threshold: threshold on the probability of class 1 of a binary model, to print its decisions
            before and after; default: the schema's.
        device: auto, cpu, cuda or cuda:N.
        fail_on: least severity that makes the exit code 1.
        also: further files to write: junit (findings.xml), markdown (findings.md), sarif
            (findings.sarif).
    """
    checked_threshold(threshold)
    records = _records(logits, data, schema, model is not None or program is not None)
    network = _network(model, weights, checkpoint, program)
    show = sys.stderr.isatty()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", UserWarning)
        result = gd.recalibrate(
            network,
            records,
            candidates=candidates,
            keep_predictions=keep_predictions,
            device=device,
            progress=show,
        )
    for text in dict.fromkeys([*result.warnings, *(str(warning.message) for warning in raised)]):
        say(f"Warning: {text}")
    table = result.table()
    say(_compact(table), result.reason, "")
    tables = {"Before and after": table, "Maps that were tried": result.comparison()}
    decisions = _decisions(result, network, records, threshold, device)
    if decisions is not None:
        frame, sentence = decisions
        text = frame.set_index("decision").T.to_string(float_format="{:.4g}".format)
        say(text, sentence, "")
        tables["Decisions before and after"] = frame
    _draw(result, result.save(out))
    diagnosis = gd.diagnose(
        network, validation=records, only="calibration", device=device, progress=show
    )
    say("Of the network as it was:")
    pictures = {"Before": result.before, f"After ({result.chosen}, out of fold)": result.after}
    return deliver(diagnosis, out, fail_on, also=also or (), pictures=pictures, tables=tables)


def _compact(table: pd.DataFrame) -> str:
    """One line per measure, before and after, each with its 95 % interval."""
    names = [
        name for name in table.columns if name != "rows" and not name.endswith(("_low", "_high"))
    ]
    sides = {
        str(row["rows"]): [_with_interval(row, name) for name in names]
        for row in table.to_dict("records")
    }
    return pd.DataFrame(sides, index=names).to_string()


def _with_interval(row: Mapping[Any, Any], name: str) -> str:
    interval = (
        f" [{row[f'{name}_low']:.4f}, {row[f'{name}_high']:.4f}]" if f"{name}_low" in row else ""
    )
    return f"{row[name]:.4f}{interval}"


def _decisions(
    result: Recalibration, network: Any, records: gd.Records, threshold: float | None, device: str
) -> tuple[pd.DataFrame, str] | None:
    """Decisions of a binary model at its threshold, before and after, and the equivalent threshold.

    None where there is no threshold, or the model is not binary and the threshold is the schema's.
    """
    value = records.schema.threshold if threshold is None else threshold
    if value is None:
        return None
    rows = _binary_rows(network, records, device)
    if rows is None:
        if threshold is None:
            return None
        reject(
            "--threshold",
            "a model of two classes",
            "other outputs",
            "Leave it out: without a threshold the largest logit decides.",
        )
    logits, targets = rows
    after = logits if result.fitted is None else out_of_fold(logits, targets, FITS[result.chosen])
    sides = {"before": logits, "after (out of fold)": after}
    table = confusion_table(
        {
            name: confusion_matrix(positive_logit(z).double().sigmoid(), targets, value)
            for name, z in sides.items()
        }
    )
    z = torch.logit(torch.tensor([value], dtype=torch.float64))
    mapped = positive_logit(result(z if logits.ndim == 1 else two_class_logits(z)))
    return table, (
        f"Decisions at the threshold {value:.3g}. To decide as before on the new probabilities, "
        f"move the threshold to {float(mapped.sigmoid()):.3g}."
    )


def _binary_rows(
    network: Any, records: gd.Records, device: str
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Logits and class ids of a model of two classes; None for other outputs."""
    rows = records if network is None else gd.collect(network, records, device=device)
    if rows.logits is None or rows.targets is None or rows.targets.ndim != 1:
        return None
    two = rows.logits.ndim == 1 or rows.logits.shape[1] == 2
    return (rows.logits, rows.targets) if two else None


def _draw(result: Recalibration, directory: Path) -> None:
    for name, bins in (("before", result.before), ("after", result.after)):
        write_whole(directory / f"reliability_{name}.png", png(bins), "--out")


def _records(
    logits: str | None, data: str | None, schema: str | None, computed: bool
) -> gd.Records:
    """Labeled rows: with logits from one file, or with features for a network."""
    path = data if computed else logits
    if path is None or (logits is not None and computed):
        remedy = "Pass --logits FILE; or --model or --program with --data TABLE and --schema FILE."
        got = (
            "a network without rows"
            if computed and data is None
            else "both logits and a network"
            if computed
            else "neither"
        )
        reject("--logits, --data", "logits with labels, or a network with a table", got, remedy)
    columns = None if schema is None else load_schema(schema)
    with option_of("--data" if computed else "--logits"):
        if Path(path).suffix == ".safetensors":
            return _from_safetensors(path)
        optional = ("logits", "probs") if computed else ()
        return gd.Records.from_file(path, columns, name="validation", optional=optional)


def _from_safetensors(path: str) -> gd.Records:
    from safetensors.torch import load_file

    with reading(path, "a readable safetensors file"):
        tensors = load_file(path)
        targets = tensors.get("targets", tensors.get("labels"))
        if targets is None or "logits" not in tensors:
            expected = "tensors named logits and targets (or labels)"
            reject("path", expected, f"{sorted(tensors)} in {path}", "Save them under these names.")
        return gd.Records(logits=tensors["logits"], targets=targets.long(), name="validation")


def _network(
    model: str | None, weights: str | None, checkpoint: str | None, program: str | None
) -> Any:
    if program is not None:
        return load_program(program, "--program")
    if model is None:
        return None
    return (
        load_network(model, weights) if checkpoint is None else _from_checkpoint(model, checkpoint)
    )


def _from_checkpoint(name: str, path: str) -> Any:
    """A Lightning class with its hyperparameters, or any network, with the state of a checkpoint.

    Nothing is unpickled.
    """
    made = import_name(name, "--model")
    expected = f"a checkpoint of {name} that holds tensors and plain values"
    remedy = "Check the path, and that the class fits it; save weights and hyperparameters only."
    with reading(path, expected, "--checkpoint", remedy):
        state = load_tensors(path)
        if hasattr(made, "load_from_checkpoint"):
            # Lightning before 2.6 unpickles what it is given: it is given what was read safely.
            buffer = io.BytesIO()
            torch.save(state, buffer)
            buffer.seek(0)
            return made.load_from_checkpoint(buffer, map_location="cpu")
        network = made if isinstance(made, torch.nn.Module) else made()
        network.load_state_dict(state.get("state_dict", state))
        return network
