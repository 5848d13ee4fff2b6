"""Redundant cases of a suite: those that detect the same planted faults, and near duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.behavior.audit.mutants import detection_matrix, mutant_runs, mutations
from gendebug_torch.behavior.audit.near_duplicates import near_duplicates
from gendebug_torch.behavior.running.results import BehaviorRun
from gendebug_torch.behavior.running.run import run_suite
from gendebug_torch.behavior.suite.cases import Suite
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_MAX_LISTED = 5


@dataclass(frozen=True)
class Redundancy:
    """Which cases detect which faults.

    Args:
        ids: cases that pass without a fault.
        faults: names of the faults, or of other models.
        detected: `[cases, faults]` bool, whether a case fails under a fault.
        near_duplicates: pairs of ids with nearly the same input and the same expectation.
    """

    ids: tuple[str, ...]
    faults: tuple[str, ...]
    detected: Tensor
    near_duplicates: tuple[tuple[str, str], ...] = ()

    @cached_property
    def cover(self) -> tuple[str, ...]:
        """The fewest cases, chosen greedily, that detect every fault that any case detects.

        Greedy set cover (Chvátal, 1979, Math. Oper. Res. 4:233): at most ln(faults) + 1 times the
        least number. Source: Harrold, Gupta and Soffa (1993), ACM TOSEM 2:270.
        """
        remaining = self.detected.any(0)
        chosen = []
        while bool(remaining.any()):
            best = int((self.detected & remaining).sum(1).argmax())
            chosen.append(self.ids[best])
            remaining = remaining & ~self.detected[best]
        return tuple(chosen)

    @cached_property
    def equivalent(self) -> tuple[tuple[str, ...], ...]:
        """Groups of cases that detect exactly the same faults, and at least one; largest first."""
        groups: dict[tuple[bool, ...], list[str]] = {}
        for name, row in zip(self.ids, self.detected.tolist(), strict=True):
            if any(row):
                groups.setdefault(tuple(row), []).append(name)
        several = (tuple(group) for group in groups.values() if len(group) > 1)
        return tuple(sorted(several, key=len, reverse=True))

    @property
    def ineffective(self) -> tuple[str, ...]:
        """Cases that detect none of the faults."""
        return _names_without(self.ids, self.detected.any(1))

    @property
    def undetected(self) -> tuple[str, ...]:
        """Faults that no case detects."""
        return _names_without(self.faults, self.detected.any(0))

    def __str__(self) -> str:
        """The result in a few sentences."""
        count = len(self.faults) - len(self.undetected)
        parts = [
            f"{len(self.cover)} of {len(self.ids)} passing cases detect all of the {count} faults "
            f"(of {len(self.faults)}) that any case detects."
        ]
        if self.equivalent:
            parts.append(
                f"{sum(map(len, self.equivalent))} cases are in {len(self.equivalent)} groups that "
                f"detect the same faults: {_listed(self.equivalent)}."
            )
        if self.ineffective:
            parts.append(
                f"{len(self.ineffective)} cases detect no fault: "
                f"{', '.join(self.ineffective[:_MAX_LISTED])}."
            )
        if self.near_duplicates:
            parts.append(
                f"{len(self.near_duplicates)} pairs have nearly the same input: "
                f"{_listed(self.near_duplicates)}."
            )
        if self.undetected:
            parts.append(
                f"No case detects {len(self.undetected)} faults, e.g. "
                f"{'; '.join(self.undetected[:_MAX_LISTED])}."
            )
        return "\n".join(parts)

    def table(self) -> pd.DataFrame:
        """One row per case: faults detected, those detected by it alone, rank, equivalent cases."""
        import pandas as pd

        alone = (self.detected & (self.detected.sum(0) == 1)).sum(1)
        groups = {name: group for group in self.equivalent for name in group}
        ranks = {name: rank for rank, name in enumerate(self.cover, 1)}
        frame = pd.DataFrame(
            {
                "id": list(self.ids),
                "detected": self.detected.sum(1).tolist(),
                "alone": alone.tolist(),
                "rank_in_cover": [ranks.get(name, 0) for name in self.ids],
                "equivalent": [
                    ", ".join(other for other in groups.get(name, ()) if other != name)
                    for name in self.ids
                ],
            }
        )
        order = ["detected", "alone"]
        return frame.sort_values(order, ascending=False, kind="stable", ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Faults detected by the first 1, 2, ... cases, those of the cover first."""
        ax = axes(ax)
        rows = dict(zip(self.ids, self.detected, strict=True))
        order = [*self.cover, *(name for name in self.ids if name not in self.cover)]
        union = torch.zeros(len(self.faults), dtype=torch.bool)
        counts = [0]
        for name in order:
            union = union | rows[name]
            counts.append(int(union.sum()))
        ax.step(range(len(counts)), counts, where="post", color=REFERENCE)
        ax.axvline(len(self.cover), color=LIVE, linewidth=1, linestyle="--")
        ax.axhline(len(self.faults), color=NEUTRAL, linewidth=1, linestyle=":")
        ax.set_ylim(0, max(len(self.faults), 1) * 1.05)
        ax.set_xlim(0, max(len(self.ids), 1))
        ax.locator_params(axis="x", integer=True)
        ax.set_xlabel("cases, the most effective first")
        ax.set_ylabel(f"faults detected, of {len(self.faults)}")
        ax.set_title(
            f"{len(self.cover)} of {len(self.ids)} cases detect all that the suite detects"
        )
        return ax


def redundancy(
    suite: Suite,
    model: Any = None,
    *,
    runs: Mapping[str, BehaviorRun] | None = None,
    base: BehaviorRun | None = None,
) -> Redundancy:
    """Which cases fail together over planted faults and other models, and near duplicates.

    Args:
        suite: cases to judge.
        model: network or predict function, as for `run_suite`; faults are planted into its inputs.
        runs: runs of the same suite on other models, by name.
        base: run of `model`; without a model the first of `runs`.

    Cost: one row through the model per fault, input and change.
    """
    others = dict(runs or {})
    if model is not None:
        base = run_suite(suite, model) if base is None else base
        others |= mutant_runs(suite, model, mutations(suite))
    if base is None:
        base = others.pop(next(iter(others))) if others else BehaviorRun(())
    ids, detected = detection_matrix(base, list(others.values()))
    return Redundancy(ids, tuple(others), detected, near_duplicates(suite))


def _names_without(names: Sequence[str], present: Tensor) -> tuple[str, ...]:
    return tuple(name for name, some in zip(names, present.tolist(), strict=True) if not some)


def _listed(groups: tuple[tuple[str, ...], ...]) -> str:
    return "; ".join(
        " = ".join(group[:4]) + (" = …" if len(group) > 4 else "") for group in groups[:_MAX_LISTED]
    )
