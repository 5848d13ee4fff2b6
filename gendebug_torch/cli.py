"""`gendebug …`: the public functions as commands, their flags read off the signatures below."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import gendebug_torch as gd
from gendebug_torch.errors import InputError, reject

CLEAN, FOUND, BAD_INPUT, BROKEN = 0, 1, 2, 3
FailOn = Literal["note", "warn", "fail", "never"]


def diagnose(
    out: str,
    train: str | None = None,
    validation: str | None = None,
    production: str | None = None,
    schema: str | None = None,
    curves: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    budget: str | None = None,
    only: list[str] | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    device: str = "auto",
    fail_on: FailOn = "warn",
) -> int:
    """Run every check that the given tables allow and write one report.

    Args:
        out: directory for report.html and findings.json.
        train: table that the model was fitted on (CSV or Parquet).
        validation: table that it was judged on.
        production: table that it met afterwards; its target and logits may be absent.
        schema: YAML file that says what the columns are (target, time, classes, logits, ...).
        curves: CSV of epoch, train_loss, val_loss and metrics, or Lightning's metrics.csv.
        model: MODULE:NAME of a network, or of a function that returns one, importable from here.
        weights: safetensors file to load into the network.
        budget: time to spend, e.g. 90s or 2m; what does not fit is listed with its cost.
        only: ids of checks or topics, e.g. shift or calibration.ece.
        options: check id to option to value, e.g. '{"shift.ks": {"alpha": 0.001}}'.
        device: auto, cpu, cuda or cuda:N.
        fail_on: exit with 1 from this severity on.
    """
    network = None if model is None else _network(model, weights)
    known = gd.Schema() if schema is None else gd.Schema.from_file(schema)
    tables = {"train": train, "validation": validation, "production": production}
    if any(tables.values()) and schema is None:
        reject("--schema", "a YAML file that says what the columns are", "none", "Write one, e.g. `target: label`, and pass it.")
    records = {name: _records(name, path, known, network is not None) for name, path in tables.items() if path is not None}
    learned = None if curves is None else gd.curves.LearningCurves.from_csv(curves)
    diagnosis = gd.diagnose(
        network, curves=learned, budget=budget, only=only, options=options, device=device, progress=sys.stderr.isatty(), **records
    )
    return _deliver(diagnosis, out, fail_on)


def curves(file: str, out: str, fail_on: FailOn = "warn") -> int:
    """Say what learning curves show: overfitting and from which epoch, underfitting, converged, still learning.

    Args:
        file: CSV of epoch, train_loss, val_loss and metrics, or Lightning's metrics.csv.
        out: directory for report.html and findings.json.
        fail_on: exit with 1 from this severity on.
    """
    learned = gd.curves.LearningCurves.from_csv(file)
    diagnosis = gd.diagnose(curves=learned, only="curves")
    return _deliver(diagnosis, out, fail_on, pictures={"Learning curves": learned}, tables={"Learning curves": learned.table()})


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
    return _deliver(diagnosis, out, fail_on, pictures=pictures, tables={"Before and after": recalibration.table()})


def attribute(
    model: str,
    data: str,
    schema: str,
    out: str,
    method: str = "integrated_gradients",
    target: str = "predicted",
    weights: str | None = None,
    device: str = "auto",
    method_options: dict[str, Any] | None = None,
    fail_on: FailOn = "warn",
) -> int:
    """Attribute the output of a network to its input columns, for every row of a table.

    Args:
        model: MODULE:NAME of a network, or of a function that returns one, importable from here.
        data: table (CSV or Parquet).
        schema: YAML file that says what the columns are.
        out: directory for attributions.parquet, report.html and findings.json.
        method: integrated_gradients, or any method of captum.attr by name.
        target: predicted, target, or a class id.
        weights: safetensors file to load into the network.
        device: auto, cpu, cuda or cuda:N.
        method_options: further arguments of the method.
        fail_on: exit with 1 from this severity on.
    """
    network = _network(model, weights)
    records = _records("validation", data, gd.Schema.from_file(schema), computed=True)
    explained: int | str = int(target) if target.lstrip("-").isdigit() else target
    show = sys.stderr.isatty()
    found = gd.attribute(network, records, method, target=explained, device=device, progress=show, **(method_options or {}))
    diagnosis = gd.diagnose(network, validation=records, only="attribution.convergence", device=device)
    code = _deliver(diagnosis, out, fail_on, pictures={f"Attribution by {method}": found}, tables={"Per feature": found.table()})
    found.save(Path(out) / "attributions.parquet")
    return code


def checks(as_json: bool = False) -> int:
    """List every check: what it needs, what it is after, its options and its source.

    Args:
        as_json: print JSON instead of text.
    """
    from gendebug_torch.suite import all_checks

    listed = [
        {
            "check": check.name,
            "summary": check.summary,
            "cause": check.cause,
            "needs": list(check.needs),
            "options": {name: option.default for name, option in check.options.items()},
            "source": check.source,
        }
        for check in all_checks()
    ]
    print(json.dumps(listed, indent=2, default=str) if as_json else "\n\n".join(map(_paragraph, listed)))
    return CLEAN


# Command -> its parameters that are given by position.
COMMANDS: dict[Callable[..., int], tuple[str, ...]] = {
    diagnose: (),
    recalibrate: (),
    attribute: (),
    curves: ("file",),
    checks: (),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0 clean, 1 findings at or above --fail-on, 2 bad input, 3 a check broke."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="gendebug", description=(gd.__doc__ or "").partition("\n")[0], version=gd.__version__)
    commands = parser.add_subcommands()
    for function, positional in COMMANDS.items():
        text = (function.__doc__ or "").partition("\n")[0]
        command = ArgumentParser(description=text, epilog="Exit code: 0 clean, 1 findings from --fail-on on, 2 bad input, 3 a check broke.")
        for name in positional:
            command.add_argument(name, type=str)
        command.add_function_arguments(function, as_positional=False, skip=set(positional))
        commands.add_subcommand(function.__name__, command, help=text)
    chosen = parser.parse_args([_flag(argument) for argument in (sys.argv[1:] if arguments is None else arguments)])
    call = {function.__name__: function for function in COMMANDS}[chosen.subcommand]
    try:
        return call(**chosen[chosen.subcommand].as_dict())
    except InputError as error:
        print(f"gendebug {chosen.subcommand}: {error}", file=sys.stderr)
        return BAD_INPUT


def _flag(argument: str) -> str:
    """`--fail-on` as the parser spells it, `--fail_on`; values are left alone."""
    name, equals, value = argument.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if argument.startswith("--") else argument


def _records(name: str, path: str, schema: gd.Schema, computed: bool) -> gd.Records:
    """Records of one table; production may lack labels, and logits may be absent where a network computes them."""
    optional = {"logits", "probs"} if computed else set()
    if name == "production":
        optional |= {"target", "label_time", "source"}
    return gd.Records.from_file(path, schema, name=name, optional=tuple(optional))


def _network(name: str, weights: str | None) -> Any:
    module, separator, attribute = name.partition(":")
    if not separator:
        reject("--model", "MODULE:NAME", repr(name), "Write e.g. `my_package.networks:build`.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        network = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        reject("--model", "something importable from here", f"{name!r}: {error}", "Run from the folder that holds the module.")
    finally:
        sys.path.pop(0)
    from torch import nn

    if not isinstance(network, nn.Module) and callable(network):
        network = network()
    if weights is not None:
        _load_weights(network, weights)
    return network


def _load_weights(network: Any, path: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        reject("--weights", "a safetensors file of this network's state", f"{path}: {error}", "Write it with safetensors.torch.save_model.")


def _deliver(diagnosis: gd.Diagnosis, out: str, fail_on: FailOn, **extras: Any) -> int:
    """Write the report, print the findings, and turn the worst one into an exit code."""
    diagnosis.write(out, **extras)
    print(diagnosis)
    print(f"\nReport: {Path(out) / 'report.html'}")
    severity = gd.Severity
    if diagnosis.worst is severity.ERRORED:
        return BROKEN
    return FOUND if fail_on != "never" and diagnosis.worst.level >= severity(fail_on).level else CLEAN


def _paragraph(entry: dict[str, Any]) -> str:
    options = ", ".join(f"{name}={default}" for name, default in entry["options"].items()) or "none"
    lines = [f"{entry['check']}  ({entry['cause']})", entry["summary"], f"needs: {', '.join(entry['needs'])}", f"options: {options}"]
    return "\n  ".join([*lines, f"source: {entry['source']}"])


if __name__ == "__main__":
    sys.exit(main())
