"""`gendebug recalibrate`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import gendebug_torch as gd
from gendebug_torch.calibration import Recalibration, confusion, confusion_table
from gendebug_torch.calibration.map_choice import FITS, out_of_fold
from gendebug_torch.checks.evidence import png
from gendebug_torch.cli.deliver import FailOn, deliver
from gendebug_torch.errors import reject
from gendebug_torch.model.formats import import_name, load_network, load_program


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
) -> int:
    """Try maps of a network's logits on held-out labeled rows, keep what helps on rows it has not
    seen, and save it.

    Give logits with labels by --logits; or a network by --model or --program, with a table by
    --data and --schema.

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
        keep_predictions: leave out maps that change a prediction.
        threshold: on the probability of class 1 of a binary model, to print its decisions before
            and after; default: the schema's.
        device: auto, cpu, cuda or cuda:N.
        fail_on: exit with 1 from this severity on.
    """
    records = _records(logits, data, schema, model is not None or program is not None)
    network = _network(model, weights, checkpoint, program)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", UserWarning)
        found = gd.recalibrate(
            network,
            records,
            candidates=candidates,
            keep_predictions=keep_predictions,
            device=device,
        )
    for text in dict.fromkeys([*found.warnings, *(str(warning.message) for warning in raised)]):
        print(f"Warning: {text}")
    table = found.table()
    print(_compact(table), found.reason, sep="\n\n", end="\n\n")
    tables = {"Before and after": table, "Maps that were tried": found.comparison()}
    if (decided := _decisions(found, network, records, threshold, device)) is not None:
        decisions, moved = decided
        print(
            decisions.set_index("decision").T.to_string(float_format="{:.4g}".format),
            moved,
            sep="\n\n",
            end="\n\n",
        )
        tables["Decisions before and after"] = decisions
    place = found.save(out)
    _draw(found, place)
    diagnosis = gd.diagnose(network, validation=records, only="calibration", device=device)
    print("Of the network as it was:")
    pictures = {"Before": found.before, f"After ({found.chosen}, out of fold)": found.after}
    return deliver(diagnosis, out, fail_on, pictures=pictures, tables=tables)


def _compact(table: pd.DataFrame) -> str:
    """One line per measure, before and after, each with its 95 % interval."""
    names = [
        name for name in table.columns if name != "rows" and not name.endswith(("_low", "_high"))
    ]
    sides = {
        str(row["rows"]): [_spoken(row, name) for name in names] for row in table.to_dict("records")
    }
    return pd.DataFrame(sides, index=names).to_string()


def _spoken(row: Mapping[Any, Any], name: str) -> str:
    interval = (
        f" [{row[f'{name}_low']:.4f}, {row[f'{name}_high']:.4f}]" if f"{name}_low" in row else ""
    )
    return f"{row[name]:.4f}{interval}"


def _decisions(
    found: Recalibration, network: Any, records: gd.Records, threshold: float | None, device: str
) -> tuple[pd.DataFrame, str] | None:
    """The confusion table of a binary model at its threshold, before and out of fold after, and
    what keeps its decisions.
    """
    asked = records.schema.threshold if threshold is None else threshold
    if asked is None:
        return None
    if not 0 < asked < 1:
        reject(
            "--threshold",
            "a probability between 0 and 1",
            repr(asked),
            "Pass it as a probability, not as a logit.",
        )
    known = records if network is None else gd.collect(network, records, device=device)
    logits, targets = known.logits, known.targets
    binary = (
        logits is not None
        and targets is not None
        and targets.ndim == 1
        and (logits.ndim == 1 or logits.shape[1] == 2)
    )
    if not binary or logits is None or targets is None:
        if threshold is None:
            return None
        reject(
            "--threshold",
            "a model of two classes",
            "other outputs",
            "Leave it out: without a threshold the largest logit decides.",
        )
    after = logits if found.fitted is None else out_of_fold(logits, targets, FITS[found.chosen])
    probs = [(z if z.ndim == 1 else z[:, 1] - z[:, 0]).double().sigmoid() for z in (logits, after)]
    names = ("before", "after (out of fold)")
    decisions = confusion_table(
        {name: confusion(p, targets, asked) for name, p in zip(names, probs, strict=True)}
    )
    at = torch.logit(torch.tensor([asked], dtype=torch.float64))
    mapped = (
        found(at)
        if logits.ndim == 1
        else found(torch.stack([torch.zeros_like(at), at], 1)).diff(dim=1)[:, 0]
    )
    same = (
        "To decide as before on the new probabilities, move the threshold to "
        f"{float(mapped.sigmoid()):.3g}."
    )
    return decisions, f"Decisions at the threshold {asked:.3g}. {same}"


def _draw(found: Recalibration, place: Path) -> None:
    try:
        for name, bins in (("before", found.before), ("after", found.after)):
            (place / f"reliability_{name}.png").write_bytes(png(bins))
    except OSError as error:
        reject(
            "--out",
            "a directory that can be written",
            f"{place}: {error.strerror}",
            "Choose another directory.",
        )


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
    known = None if schema is None else gd.Schema.from_file(schema)
    if Path(path).suffix == ".safetensors":
        return _from_safetensors(path)
    return gd.Records.from_file(
        path, known, name="validation", optional=("logits", "probs") if computed else ()
    )


def _from_safetensors(path: str) -> gd.Records:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        reject("--logits", "a readable safetensors file", f"{path}: {error}", "Check the path.")
    targets = tensors.get("targets", tensors.get("labels"))
    if targets is None or "logits" not in tensors:
        reject(
            "--logits",
            "tensors named logits and targets (or labels)",
            f"{sorted(tensors)} in {path}",
            "Save them under these names.",
        )
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
    """A Lightning class with its own hyperparameters, or any network, with the state of a
    checkpoint; nothing is unpickled.
    """
    made = import_name(name, "--model")
    try:
        if hasattr(made, "load_from_checkpoint"):
            return made.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        network = made if isinstance(made, torch.nn.Module) else made()
        kept = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(kept.get("state_dict", kept))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reject(
            "--checkpoint",
            f"a checkpoint of {name}",
            f"{path}: {error}",
            "Check the path, and that the class fits it.",
        )
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        reject(
            "--checkpoint",
            "a checkpoint of tensors and plain values",
            f"{path}: {error}",
            "Save weights and hyperparameters only.",
        )
    return network
