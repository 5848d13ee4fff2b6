"""Columns of many values look important where the network has learned its rows by heart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import short_name
from gendebug_torch.attribution.compare.permutation import (
    PermutationImportance,
    fallen,
    permutation_importance,
)
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.data.records import Records, model_inputs
from gendebug_torch.errors import reject
from gendebug_torch.model.runner import Model

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_SHOWN = 15


@dataclass(frozen=True, eq=False)
class CardinalityBias:
    """What each column is worth on the rows that the network was trained on, and on rows that it
    has not seen.

    Args:
        seen: permutation importance on rows of the training.
        unseen: the same on held-out rows, with the random probe of each column.
        distinct: `[d]` int64 different values of each column among the rows of the training.
    """

    seen: PermutationImportance
    unseen: PermutationImportance
    distinct: Tensor

    @property
    def adjusted(self) -> Tensor:
        """`[d]` one-sided p-value that a column is worth no more on seen rows, after Holm's
        correction.
        """
        return fallen(self.seen, self.unseen)

    def memorized(self, *, alpha: float = 0.01) -> tuple[str, ...]:
        """Columns that are worth something on seen rows, and on unseen ones no more than a random
        column of the same values.
        """
        noise = set(self.unseen.noise)
        learned = (self.adjusted < alpha).tolist()
        return tuple(
            name
            for name, more in zip(self.seen.names, learned, strict=True)
            if more and name in noise
        )

    def table(self) -> pd.DataFrame:
        """One row per column, most important on seen rows first."""
        import pandas as pd

        columns = {
            "distinct": self.distinct,
            "seen": self.seen.importance,
            "unseen": self.unseen.importance,
        }
        columns |= {"probe": self.unseen.probe} if self.unseen.probe is not None else {}
        frame = pd.DataFrame(
            {"feature": list(self.seen.names)}
            | {key: value.numpy() for key, value in columns.items()}
        )
        frame = frame.assign(
            memorized=frame["feature"].isin(self.memorized()), p_holm=self.adjusted.numpy()
        )
        return frame.sort_values("seen", ascending=False, ignore_index=True, kind="stable")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Importance on seen and on unseen rows per column with its number of values, and its
        random probe.
        """
        rows = self.table().head(_SHOWN).iloc[::-1]
        ax = axes(ax, size=(7.4, 1.5 + 0.42 * max(1, len(rows))))
        place = list(range(len(rows)))
        ax.barh(
            [at + 0.2 for at in place],
            rows["seen"],
            0.38,
            color=NEUTRAL,
            label="rows of the training",
        )
        ax.barh(
            [at - 0.2 for at in place], rows["unseen"], 0.38, color=REFERENCE, label="rows not seen"
        )
        if "probe" in rows:
            low = [at - 0.2 for at in place]
            ax.scatter(
                rows["probe"],
                low,
                marker="|",
                s=120,
                color=LIVE,
                zorder=3,
                label="random column with the same values",
            )
        names = [
            f"{short_name(name)} ({count:,} values)"
            for name, count in zip(rows["feature"], rows["distinct"], strict=True)
        ]
        ax.set_yticks(place, names)
        ax.axvline(0, color="black", linewidth=0.6)
        ax.set(
            xlabel=f"rise of the {self.seen.metric} when shuffled",
            title="What columns are worth, by heart and in truth",
        )
        ax.grid(visible=False, axis="y")
        ax.legend(frameon=False, fontsize="small", loc="lower right")
        return ax


def cardinality_bias(
    model: Model,
    train: Records,
    validation: Records,
    *,
    repeats: int = 5,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> CardinalityBias:
    """Permutation importance of every column on seen and on unseen rows, beside a random column
    with the same values.

    A column of many values, such as an identifier, lets a network tell its rows apart: on those
    rows it looks important, on others it is worth what a random column is. Only the importance on
    unseen rows ranks columns by what they tell.

    Source: Strobl, Boulesteix, Zeileis and Hothorn (2007), BMC Bioinformatics 8:25; the probe:
    Stoppiglia, Dreyfus, Dubois and Oussar (2003), J. Mach. Learn. Res. 3:1399.

    Args:
        model: network of features `[n, d]`.
        train: labeled rows that it was trained on.
        validation: labeled rows that it was not.
        repeats: shuffles per column, at least 2 for the probe.
        seed: of the shuffles.
        device: where the model runs.

    Raises:
        InputError: fewer than two shuffles, or other columns on the two sides.

    Cost: `repeats d` forwards per row of both.
    """
    if repeats < 2:
        reject(
            "repeats",
            "at least 2, since the probe shuffles a shuffled column",
            str(repeats),
            "5 is the usual number.",
        )
    seen, unseen = (
        permutation_importance(model, side, repeats=repeats, seed=seed, device=device)
        for side in (train, validation)
    )
    if seen.names != unseen.names:
        reject(
            "validation",
            f"the columns of train: {list(seen.names)[:10]}",
            str(list(unseen.names)[:10]),
            "Pass tables of one layout.",
        )
    distinct = torch.tensor(
        [len(column.unique()) for column in model_inputs(train).T], dtype=torch.int64
    )
    return CardinalityBias(seen, unseen, distinct)
