"""How much of a suite says something of its own: near-identical inputs, and cases that pass and
fail together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.behavior.audit.mutants import mutant_runs, mutations, outcome_matrix
from gendebug_torch.behavior.audit.near_duplicates import near_twins
from gendebug_torch.behavior.running.run import BehaviorRun, run_suite
from gendebug_torch.behavior.suite.cases import Suite
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Redundancy:
    """Which cases notice which faults.

    Args:
        ids: cases that hold as things are; a case that fails already notices nothing.
        faults: names of the faults, or of other models.
        noticed: `[cases, faults]` bool, whether a case fails under a fault.
        twins: pairs of ids whose inputs are nearly the same and whose expectation is the same.
    """

    ids: tuple[str, ...]
    faults: tuple[str, ...]
    noticed: Tensor
    twins: tuple[tuple[str, str], ...] = ()

    @cached_property
    def cover(self) -> tuple[str, ...]:
        """The fewest cases, chosen greedily, that notice every fault that any case notices.

        Greedy set cover (Chvátal, 1979, Math. Oper. Res. 4:233): at most ln(faults) + 1 times the
        least number.
        """
        left = self.noticed.any(0)
        chosen = []
        while bool(left.any()):
            best = int((self.noticed & left).sum(1).argmax())
            chosen.append(self.ids[best])
            left = left & ~self.noticed[best]
        return tuple(chosen)

    @cached_property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """Groups of cases that notice exactly the same faults, and at least one; largest first."""
        groups: dict[tuple[bool, ...], list[str]] = {}
        for name, row in zip(self.ids, self.noticed.tolist(), strict=True):
            if any(row):
                groups.setdefault(tuple(row), []).append(name)
        return tuple(
            sorted(
                (tuple(group) for group in groups.values() if len(group) > 1), key=len, reverse=True
            )
        )

    @property
    def idle(self) -> tuple[str, ...]:
        """Cases that notice none of the faults."""
        return tuple(
            name
            for name, some in zip(self.ids, self.noticed.any(1).tolist(), strict=True)
            if not some
        )

    @property
    def unnoticed(self) -> tuple[str, ...]:
        """Faults that no case notices: what the suite is blind to."""
        return tuple(
            name
            for name, some in zip(self.faults, self.noticed.any(0).tolist(), strict=True)
            if not some
        )

    def __str__(self) -> str:
        """The whole in a few sentences."""
        caught = len(self.faults) - len(self.unnoticed)
        all_noticed = f"all of the {caught} faults (of {len(self.faults)}) that any notices"
        parts = [f"{len(self.cover)} of {len(self.ids)} passing cases notice {all_noticed}."]
        if self.together:
            parts.append(
                f"{sum(map(len, self.together))} cases pass and fail in {len(self.together)} "
                f"groups together: {_listed(self.together)}."
            )
        if self.idle:
            parts.append(f"{len(self.idle)} notice nothing: {', '.join(self.idle[:8])}.")
        if self.twins:
            parts.append(
                f"{len(self.twins)} pairs have nearly the same input: {_listed(self.twins)}."
            )
        if self.unnoticed:
            parts.append(
                f"No case notices {len(self.unnoticed)} faults, e.g. "
                f"{'; '.join(self.unnoticed[:5])}."
            )
        return "\n".join(parts)

    def table(self) -> pd.DataFrame:
        """One row per case: faults it notices, those that it alone notices, place in the cover,
        cases like it.
        """
        import pandas as pd

        by = self.noticed.sum(0)
        alone = (self.noticed & (by == 1)).sum(1)
        like = {name: group for group in self.together for name in group}
        place = {name: number for number, name in enumerate(self.cover, 1)}
        frame = pd.DataFrame(
            {"id": list(self.ids), "notices": self.noticed.sum(1).tolist(), "alone": alone.tolist()}
        )
        frame["cover"] = [place.get(name, 0) for name in self.ids]
        frame["like"] = [
            ", ".join(other for other in like.get(name, ()) if other != name) for name in self.ids
        ]
        return frame.sort_values(
            ["notices", "alone"], ascending=False, kind="stable", ignore_index=True
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Faults noticed by the first 1, 2, ... cases of the cover; the flat rest is redundant."""
        ax = axes(ax)
        rows = dict(zip(self.ids, self.noticed, strict=True))
        order = [*self.cover, *(name for name in self.ids if name not in self.cover)]
        seen = torch.zeros(len(self.faults), dtype=torch.bool)
        counts = [0]
        for name in order:
            seen = seen | rows[name]
            counts.append(int(seen.sum()))
        ax.step(range(len(counts)), counts, where="post", color=REFERENCE)
        ax.axvline(len(self.cover), color=LIVE, linewidth=1, linestyle="--")
        ax.axhline(len(self.faults), color=NEUTRAL, linewidth=1, linestyle=":")
        ax.set_ylim(0, max(len(self.faults), 1) * 1.05)
        ax.set_xlim(0, max(len(self.ids), 1))
        ax.locator_params(axis="x", integer=True)
        ax.set_xlabel("cases, the most telling first")
        ax.set_ylabel(f"faults noticed, of {len(self.faults)}")
        ax.set_title(
            f"{len(self.cover)} of {len(self.ids)} cases notice all that the suite notices"
        )
        return ax


def redundancy(
    suite: Suite,
    model: Any = None,
    *,
    runs: Mapping[str, BehaviorRun] | None = None,
    base: BehaviorRun | None = None,
) -> Redundancy:
    """Which cases fail together over planted faults and other models, and which inputs are nearly
    the same.

    Source: mutation analysis after DeMillo, Lipton and Sayward (1978), Computer 11(4):34;
    test-suite reduction after Harrold, Gupta and Soffa (1993), ACM TOSEM 2:270.

    Args:
        suite: the cases.
        model: as for `run_suite`; with it, faults are planted into the inputs.
        runs: runs of the same suite on other models, by name.
        base: the run of `model`, if there is one; without a model the first of `runs`.

    Cost: one row through the model per fault, input and change.
    """
    others = dict(runs or {})
    if model is not None:
        base = run_suite(suite, model) if base is None else base
        others |= mutant_runs(suite, model, mutations(suite))
    if base is None:
        base = others.pop(next(iter(others))) if others else BehaviorRun(())
    ids, noticed = outcome_matrix(base, list(others.values()))
    return Redundancy(ids, tuple(others), noticed, near_twins(suite))


def _listed(groups: tuple[tuple[str, ...], ...], limit: int = 5) -> str:
    return "; ".join(
        " = ".join(group[:4]) + (" = …" if len(group) > 4 else "") for group in groups[:limit]
    )
