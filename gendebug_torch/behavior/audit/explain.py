"""What explains the failures of a run: a change of how columns are fed that fixes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gendebug_torch.behavior.audit.mutants import column_mutations, mutant_runs
from gendebug_torch.behavior.audit.near_duplicates import near_duplicates
from gendebug_torch.behavior.running.explanation import Explanation
from gendebug_torch.behavior.running.results import BehaviorRun, model_error
from gendebug_torch.behavior.running.run import run_suite
from gendebug_torch.behavior.suite.cases import Suite

_MIN_FAILURES = 3
_MAX_CASES = 200


def explained_run(suite: Suite, model: Any, *, name: str = "", alpha: float = 0.01) -> BehaviorRun:
    """`run_suite` with its explanation and the near duplicates among the cases.

    Args:
        suite: cases to run.
        model: network or predict function, as for `run_suite`.
        name: name of the model, for reports.
        alpha: largest corrected p-value of an explanation.
    """
    run = run_suite(suite, model, name=name)
    explanation = explain_failures(suite, model, run, alpha=alpha)
    return replace(run, explanation=explanation, near_duplicates=near_duplicates(suite))


def explain_failures(
    suite: Suite, model: Any, run: BehaviorRun, *, alpha: float = 0.01
) -> Explanation | None:
    """The change of the columns that fixes most failing cases; None where none exceeds chance.

    Changes are two columns swapped and one column in another unit or sign.

    Args:
        suite: cases of the run.
        model: network or predict function, as for `run_suite`.
        run: run of this suite on this model.
        alpha: largest corrected p-value.

    Cost: one row through the model per change, input and change of the case, for at most 200
        failing and 200 passing cases; none where fewer than 3 fail.

    Example:
        >>> from gendebug_torch.behavior import Case
        >>> rows = [{"a": 0.1 * i, "b": 0.9, "c": 0.5} for i in range(6)]
        >>> suite = Suite(tuple(Case(f"c{i}", row, {"class": 1}) for i, row in enumerate(rows)))
        >>> model = lambda rows: [0.1 + 0.8 * (row["a"] > 0.8) for row in rows]
        >>> explain_failures(suite, model, run_suite(suite, model)).change
        'a and b swapped'
    """
    sample = {result.id for result in run.failures[:_MAX_CASES]}
    sample |= {r.id for r in [r for r in run.evaluated if not r.is_failure][:_MAX_CASES]}
    failing = {result.id for result in run.failures} & sample
    changes = column_mutations(suite) if len(failing) >= _MIN_FAILURES else {}
    if not changes or model_error(run):
        return None
    runs = mutant_runs(suite.select(lambda case: case.id in sample), model, changes)
    effects = {name: _effect(failing, mutant) for name, mutant in runs.items()}
    chance = sum(len(fixed) for fixed, _ in effects.values()) / (len(effects) * len(failing))
    best = max(effects, key=lambda name: len(effects[name][0]) - len(effects[name][1]))
    found = Explanation(best, *effects[best], len(failing), len(sample), len(effects), chance)
    majority = 2 * (len(found.fixed) - len(found.broken)) > len(failing)
    return found if majority and found.p_value <= alpha else None


def _effect(failing: set[str], mutant: BehaviorRun) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of cases that a change fixes, and of those that it breaks."""
    after = {result.id for result in mutant.failures}
    return tuple(sorted(failing - after)), tuple(sorted(after - failing))
