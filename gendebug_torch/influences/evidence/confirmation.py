"""The proof: what a refit without the named rows changes, against one without random rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.influences.methods.answers import AnswerForm
from gendebug_torch.stats.intervals import bootstrap_replicates, percentile_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# From positions of rows that are left out to answers of the refit: to the queries, and to held-out
# rows.
Refit = Callable[[Tensor], tuple[Tensor, Tensor]]
# Random draws of rows with the same labels.
_DRAWS = 4


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Refits without the named rows, compared with refits without random rows of the same labels.

    Args:
        dropped: rows left out in each refit.
        refitted: what was refitted: `head` or `fit`.
        errors: `[q, 2]` share of each error that is left: without the named rows, without random
            ones. Each was named by errors other than itself.
        right: `[m, 2]` share of each held-out label that is answered, likewise.
    """

    dropped: int
    refitted: str
    errors: Tensor
    right: Tensor

    @property
    def change(self) -> tuple[float, float, float]:
        """Change of the share of errors by the named rows, with its 95 % interval."""
        return _mean_change(self.errors)

    @property
    def quality_change(self) -> tuple[float, float, float]:
        """Change of the share of right answers to held-out rows, with its 95 % interval."""
        return _mean_change(self.right)

    @property
    def confirmed(self) -> bool:
        """Whether errors go, beyond chance, and at no visible price.

        The share of held-out rows answered rightly may fall by no more than 1 point.
        """
        return self.change[2] < 0.0 and self.quality_change[0] >= -0.01

    def table(self) -> DataFrame:
        """One row each for the errors and for held-out rows: both shares, change, interval."""
        import pandas as pd

        rows = []
        for name, values, change in (
            ("errors that are left", self.errors, self.change),
            ("held-out rows answered rightly", self.right, self.quality_change),
        ):
            named, random = values.double().mean(0).tolist() if len(values) else (None, None)
            rows.append([name, len(values), named, random, *change])
        columns = ["share of", "rows", "without_named", "without_random", "change", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Both shares without the named and without random rows, as bars."""
        ax, table = axes(ax), self.table()
        for offset, column, color in ((-0.2, "named", LIVE), (0.2, "random", REFERENCE)):
            values = table[f"without_{column}"].to_numpy(dtype=float)
            ends = [place + offset for place in range(len(values))]
            ax.barh(ends, values, height=0.36, color=color, label=f"without {column} rows")
        ax.set_yticks(range(len(table)), table["share of"].tolist())
        ax.set_xlabel("share")
        ax.set_title(f"Refit of the {self.refitted} without {self.dropped:,} rows")
        ax.legend()
        return ax


def confirmation(
    refit: Refit,
    form: AnswerForm,
    named: tuple[Tensor, Tensor],
    members: Tensor,
    strata: Tensor,
    truth: tuple[Tensor, Tensor],
    *,
    refitted: str,
    seed: int,
) -> Confirmation:
    """Compare refits; each half of the errors is judged by rows that the other half named.

    Args:
        refit: refits without given rows.
        form: how answers are compared.
        named: rows named by the first and by the second half of the errors.
        members: whether each error is in the first half, `[q]` bool.
        strata: groups of the labels of training rows, `[n]`.
        truth: wrong answers `[q]` to the errors, and labels `[m]` of held-out rows.
        refitted: what is refitted.
        seed: seed of the random rows.
    """
    wrong, labels = truth
    answers = [refit(rows) for rows in named]
    # A half is judged by the refit without what the other half named.
    by_first, by_second = (_own(form, a[0], wrong) for a in answers)
    errors = torch.where(members, by_second, by_first)
    right = torch.stack([_own(form, a[1], labels) for a in answers]).mean(0)
    generator = torch.Generator().manual_seed(seed)
    draws = [refit(_same_labels(named[i % 2], strata, generator)) for i in range(_DRAWS)]
    random_errors = torch.stack([_own(form, a[0], wrong) for a in draws]).mean(0)
    random_right = torch.stack([_own(form, a[1], labels) for a in draws]).mean(0)
    return Confirmation(
        len(named[0]),
        refitted,
        torch.stack([errors, random_errors], 1).cpu(),
        torch.stack([right, random_right], 1).cpu(),
    )


def _own(form: AnswerForm, answers: Tensor, wanted: Tensor) -> Tensor:
    """`[b]` agreement of each answer with that of its own row."""
    if not answers.is_floating_point() and answers.ndim == 1:
        return (answers == wanted).float()
    gap = (answers.float() - wanted.float().reshape(answers.shape)).square()
    return (1 - gap.reshape(len(gap), -1).sum(1) / (2 * form.unit**2)).clamp(min=0.0)


def _same_labels(named: Tensor, strata: Tensor, generator: torch.Generator) -> Tensor:
    """Random rows, as many of each label as were named."""
    rows = []
    for group, count in enumerate(torch.bincount(strata[named]).tolist()):
        others = (strata == group).nonzero()[:, 0] if count else strata[:0]
        rows.append(others[torch.randperm(len(others), generator=generator)[:count]])
    return torch.cat(rows)


def _mean_change(values: Tensor) -> tuple[float, float, float]:
    """Mean of the first less the second column, with a bootstrap interval over rows."""
    if not len(values):
        return 0.0, 0.0, 0.0
    gap = values[:, 0].double() - values[:, 1].double()

    def mean(weights: Tensor) -> Tensor:
        return weights @ gap / weights.sum(1).clamp(min=1.0)

    low, high = percentile_interval(bootstrap_replicates(mean, len(gap), replicates=400))
    return float(gap.mean()), float(low), float(high)
