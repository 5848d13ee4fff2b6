"""`@check`: a function becomes a `Check`, and its signature the schema of what is built on it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity, errored_finding
from gendebug_torch.checks.inputs import DEADLINE, INPUTS, Cost, Deferred, DerivedInput
from gendebug_torch.checks.measured_costs import MEASURED
from gendebug_torch.checks.options import Option, options_of
from gendebug_torch.checks.rows import ONE_PER_ROW, has_positions, is_empty, rows_for_check
from gendebug_torch.data.task import missing_values
from gendebug_torch.errors import (
    NO_DEADLINE,
    CheckError,
    Deadline,
    OutOfTime,
    UnsupportedError,
    reject,
)

TOPICS = (
    "attribution",
    "behavior",
    "calibration",
    "curves",
    "influence",
    "labels",
    "leakage",
    "network",
    "shift",
    "slices",
)
# A package named after this topic would take the place of the function `gd.influence`.
_FOLDERS: Mapping[str, str] = {"influence": "influences"}

# Fields of records, any of which gives the inputs.
_INPUTS = ("features", "origin")
_CHECKS: dict[str, Check] = {}


@dataclass(frozen=True)
class Check:
    """A registered check: callable like its function, and described by its function's signature.

    Args:
        name: id, `topic.short`.
        cause: what its findings point at.
        function: the decorated generator function.
        needs: inputs and fields it cannot run without, e.g. `validation.logits`.
        cost: inputs -> Cost, without that of derived inputs.
        derived: derived inputs that it always uses; it receives their values.
        deferred: derived inputs that it uses where it finds something; it receives a `Deferred`.
        partial_labels: whether it takes rows that lack some of several labels; None takes all.
        positions: whether it takes the positions of a dense head, grouped by their row.
    """

    name: str
    cause: Cause
    function: Callable[..., Iterator[Finding]]
    needs: tuple[str, ...]
    cost: Callable[[Mapping[str, Any]], Cost]
    derived: tuple[DerivedInput[Any], ...] = ()
    deferred: tuple[DerivedInput[Any], ...] = ()
    partial_labels: bool | None = False
    positions: bool = False

    def __call__(self, *inputs: Any, **options: Any) -> list[Finding]:
        """Run the function and return its findings; errors of the function come through.

        Derived inputs that are not passed are computed from the others.
        """
        given = inspect.signature(self.function).bind_partial(*inputs, **options).arguments
        absent = {
            part.name: part.of(given)
            for part in (*self.derived, *self.deferred)
            if part.name not in given
        }
        findings = list(self.function(*inputs, **options, **self._handed(absent)))
        strays = [type(f).__name__ for f in findings if not isinstance(f, Finding)]
        if strays:
            raise CheckError(f"check {self.name} yielded {strays[0]}; a check yields only Finding")
        return findings

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it inspects, in the order of its parameters, without derived inputs."""
        others = {DEADLINE, *(part.name for part in (*self.derived, *self.deferred))}
        return tuple(
            p.name
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is not p.KEYWORD_ONLY and p.name not in others
        )

    @cached_property
    def options(self) -> dict[str, Option]:
        """Its options by name, read off the signature and the docstring."""
        return options_of(self.function)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def description(self) -> str:
        """How it is computed: the docstring between its first line and its first section."""
        _, _, text = (inspect.getdoc(self.function) or "").partition("\n\n")
        return re.split(r"^(?:Source|Args|Cost|Raises):", text, flags=re.MULTILINE)[0].strip()

    @property
    def source(self) -> str:
        """The literature it rests on: the `Source:` paragraph of the docstring."""
        _, _, tail = (inspect.getdoc(self.function) or "").partition("Source:")
        return " ".join(tail.partition("\n\n")[0].split())

    def finding(
        self, severity: Severity, summary: str, *, cause: Cause | None = None, **fields: Any
    ) -> Finding:
        """A finding in this check's name; `fields` are those of `Finding`."""
        return Finding(
            self.name, cause or self.cause, severity, summary, inputs=self.inputs, **fields
        )

    def lacks(self, given: Mapping[str, Any]) -> list[str]:
        """Which of `needs` is absent from the given inputs, and which of these have no rows."""
        names = dict.fromkeys(need.partition(".")[0] for need in self.needs)
        bare = [f"rows of {name}" for name in names if is_empty(given.get(name))]
        return [*(need for need in self.needs if not _present(given, need)), *bare]

    def total_cost(
        self, given: Mapping[str, Any], shared: Mapping[str, Deferred[Any]] | None = None
    ) -> Cost:
        """Its own cost, and that of the derived inputs that are not computed yet.

        Args:
            given: inputs by name.
            shared: derived inputs by name, those of `derived_inputs`.
        """
        computed = {name for name, value in (shared or {}).items() if value.computed}
        open_costs = [
            _measured(part.name, part.cost(given), given, part.inputs)
            for part in self.derived
            if part.name not in computed
        ]
        return sum(open_costs, _measured(self.name, self.cost(given), given, self.inputs))

    def run(
        self,
        given: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        shared: Mapping[str, Deferred[Any]] | None = None,
    ) -> list[Finding]:
        """Run on whatever inputs there are; never raises for what happens inside the check.

        Absent inputs give one `skipped` finding that says what is lacking; an exception gives one
        `errored` finding with the traceback, so that a broken check never vanishes. A check that
        asks its deadline is stopped there, and says that it was.

        Args:
            given: inputs by name, and a `deadline` where there is one.
            options: values of its options by name.
            shared: derived inputs by name, computed once for several checks; its own by default.

        Raises:
            InputError: an option that the check does not have.
        """
        unknown = set(options or {}) - set(self.options)
        if unknown:
            reject(
                f"options[{self.name!r}]",
                f"options among {sorted(self.options)}",
                str(sorted(unknown)),
                "See `gendebug checks`.",
            )
        if lacking := self.lacks(given):
            listed, numbers = ", ".join(lacking), {"lacks": lacking}
            remedy = f"Pass {listed} to run it."
            skipped = f"Skipped: needs {listed}{_parts_text(lacking, given)}."
            return [self.finding(Severity.SKIPPED, skipped, numbers=numbers, remedy=remedy)]
        if "model" in self.inputs and any(map(has_positions, given.values())):
            return [self.finding(Severity.SKIPPED, ONE_PER_ROW)]
        try:
            known = derived_inputs([self], given) | dict(shared or {})
            inputs = {
                name: rows_for_check(
                    given.get(name),
                    labels=f"{name}.targets" in self.needs,
                    min_share=0.0,
                    partly=self.partial_labels,
                    positions=self.positions,
                )
                for name in self.inputs
            }
            return self(**inputs, **self._handed(known), **self._limit(given), **(options or {}))
        except OutOfTime:
            return [self._stopped()]
        except UnsupportedError as error:
            return [self.finding(Severity.SKIPPED, f"Skipped: {error}.")]
        except Exception as error:
            errored = errored_finding(self.name, error, cause=self.cause)
            return [replace(errored, inputs=self.inputs)]

    def _limit(self, given: Mapping[str, Any]) -> dict[str, Deadline]:
        """The deadline, where the function asks for one."""
        asks = DEADLINE in inspect.signature(self.function).parameters
        return {DEADLINE: given.get(DEADLINE, NO_DEADLINE)} if asks else {}

    def _stopped(self) -> Finding:
        summary = "Skipped: stopped when the budget was spent; it says nothing."
        remedy = f"Raise the budget, or run it alone with only={self.name!r}."
        return self.finding(Severity.SKIPPED, summary, numbers={"stopped": True}, remedy=remedy)

    def _handed(self, values: Mapping[str, Deferred[Any]]) -> dict[str, Any]:
        """The derived inputs among `values` as the function receives them."""
        computed = {part.name: values[part.name]() for part in self.derived if part.name in values}
        return computed | {
            part.name: values[part.name] for part in self.deferred if part.name in values
        }


def check(
    name: str,
    *,
    cause: Cause,
    needs: tuple[str, ...] | None = None,
    cost: Callable[[Mapping[str, Any]], Cost] = lambda given: Cost(),
    derived: tuple[DerivedInput[Any], ...] = (),
    deferred: tuple[DerivedInput[Any], ...] = (),
    partial_labels: bool | None = False,
    positions: bool = False,
) -> Callable[[Callable[..., Iterator[Finding]]], Check]:
    """Register a generator of findings as a check.

    Args:
        name: id, `topic.short`; unique.
        cause: what its findings point at.
        needs: dotted fields it cannot run without (`validation.logits`); default: every positional
            parameter without a default.
        cost: given inputs -> `Cost`, so that a budget can be kept.
        derived: derived inputs that it always uses, and receives as values.
        deferred: derived inputs that it only uses where it finds something, and receives as
            `Deferred`.
        partial_labels: whether it takes rows that lack some of several labels, and handles missing
            labels itself where it needs none; else it gets only rows with all labels; None: all.
        positions: whether it takes all positions of a dense head, grouped by their row; else it
            gets one position of each row.

    Raises:
        CheckError: the id is taken, a positional parameter is neither among `INPUTS` nor a derived
            input, or an option lacks its annotation or default.
    """

    def register(function: Callable[..., Iterator[Finding]]) -> Check:
        parameters = inspect.signature(function).parameters.values()
        positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        if name in _CHECKS:
            raise CheckError(f"check {name!r} is registered twice")
        vocabulary = (*INPUTS, DEADLINE, *(part.name for part in (*derived, *deferred)))
        if unknown := [p.name for p in positional if p.name not in vocabulary]:
            raise CheckError(f"check {name!r} inspects {unknown}; the vocabulary is {vocabulary}")
        if bare := [
            p.name
            for p in parameters
            if p.kind is p.KEYWORD_ONLY and p.empty in (p.default, p.annotation)
        ]:
            raise CheckError(f"check {name!r}: options {bare} need an annotation and a default")
        required = tuple(p.name for p in positional if p.default is p.empty)
        lacking = required if needs is None else needs
        flags = (partial_labels, positions)
        registered = Check(name, cause, function, lacking, cost, derived, deferred, *flags)
        _CHECKS[name] = registered
        return registered

    return register


def folder_of(topic: str) -> str:
    """The folder of a topic in this package."""
    return _FOLDERS.get(topic, topic)


def all_checks() -> tuple[Check, ...]:
    """Every check, by id: one for each file of `<topic>/checks/`, and those of other packages.

    Another package registers its checks in a module that it names as an entry point of the group
    `gendebug_torch.checks`; its code runs here, so only packages that are trusted should be
    installed.

    Raises:
        CheckError: a module of another package that cannot be imported.
    """
    for topic in TOPICS:
        room = import_module(f"gendebug_torch.{folder_of(topic)}.checks")
        for module in iter_modules(room.__path__):
            import_module(f"{room.__name__}.{module.name}")
    for entry in entry_points(group="gendebug_torch.checks"):
        try:
            entry.load()
        except Exception as error:
            raise CheckError(f"the checks of {entry.value} cannot be imported: {error}") from error
    return tuple(_CHECKS[name] for name in sorted(_CHECKS))


def derived_inputs(checks: Iterable[Check], given: Mapping[str, Any]) -> dict[str, Deferred[Any]]:
    """What these checks derive from the given inputs, by name; nothing is computed yet."""
    return {
        part.name: part.of(given) for check in checks for part in (*check.derived, *check.deferred)
    }


def _measured(name: str, cost: Cost, given: Mapping[str, Any], inputs: Iterable[str]) -> Cost:
    """The cost with its operations as they were measured, where they were."""
    measured = MEASURED.get(name)
    return cost if measured is None else replace(cost, elements=measured.elements(given, inputs))


def _parts_text(lacking: list[str], given: Mapping[str, Any]) -> str:
    """That inputs of several parts are no features, where these are lacking."""
    names = [need.partition(".")[0] for need in lacking if need.endswith(".features")]
    kinds = [getattr(given.get(name), "modality", None) or "" for name in names]
    parts = next((kind for kind in kinds if " + " in kind), "")
    return parts and f", which inputs of several parts ({parts}) do not have"


def _present(given: Mapping[str, Any], need: str) -> bool:
    name, _, attribute = need.partition(".")
    if attribute == "inputs":
        # They are read again only by a check that takes them.
        return any(getattr(given.get(name), part, None) is not None for part in _INPUTS)
    part = (
        value if (value := given.get(name)) is None or not attribute else getattr(value, attribute)
    )
    if part is None or attribute != "targets" or not len(part):
        return part is not None
    return not bool(missing_values(part).all())
