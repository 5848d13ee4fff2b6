"""`Influences`: training rows by their part in given errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import notebook_html
from gendebug_torch.data.records import Records
from gendebug_torch.errors import reject
from gendebug_torch.influences.evidence.confirmation import Confirmation, confirmation
from gendebug_torch.influences.evidence.refits import head_refit, own_refit
from gendebug_torch.influences.methods.method import Question
from gendebug_torch.influences.methods.neighbours import query_similarity
from gendebug_torch.influences.questions import Sides, training_inputs
from gendebug_torch.influences.result.picture import draw_influences
from gendebug_torch.influences.result.scores import MethodScores
from gendebug_torch.influences.result.shared_values import shared_values
from gendebug_torch.influences.result.sheet import influence_sheet
from gendebug_torch.influences.result.single_errors import scores_by_query
from gendebug_torch.model.collection.unpacking import Unpack
from gendebug_torch.model.devices import device_context
from gendebug_torch.model.evaluation import evaluating
from gendebug_torch.model.runner import as_model_takes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Rows of highest scores that are asked about single errors, and those named where nothing says how
# many there are.
_ASKED, _NAMED = 2000, 100


@dataclass(frozen=True, eq=False)
class Influences:
    """Training rows that push a network towards its errors, and whether they explain these.

    Args:
        scores: score of each training row, `[n]`, high where it pushes towards the errors.
        halves: the same by random halves of the errors, `[n, 8]`.
        labels: labels of the training rows.
        methods: scores and evidence of each method.
        alpha: significance level of `explains`.
        notes: what was left out or assumed.
        sides: errors and held-out rows.
        question: what the methods were given.
        train: training rows.
        unpack: how batches of a loader are unpacked.
        device: where the network is run.
        seed: seed of random draws.
    """

    scores: Tensor
    halves: Tensor
    labels: Tensor
    methods: tuple[MethodScores, ...]
    alpha: float
    notes: tuple[str, ...]
    sides: Sides
    question: Question
    train: Any
    unpack: Unpack | None
    device: torch.device
    seed: int

    _repr_html_ = notebook_html
    by_query = scores_by_query

    @property
    def p_value(self) -> float:
        """Chance of such scores if training rows and held-out rows came from one source.

        Corrected for the number of methods; 1 without held-out rows.
        """
        return min(1.0, len(self.methods) * min(m.evidence.p_value for m in self.methods))

    @property
    def explains(self) -> bool:
        """Whether training rows explain the errors beyond chance."""
        return self.p_value <= self.alpha

    @property
    def count(self) -> int:
        """Rows beyond what held-out rows promise, those of the highest scores; 0 if none are."""
        best = min(self.methods, key=lambda method: method.evidence.p_value)
        return round(best.evidence.excess) if self.explains else 0

    @cached_property
    def order(self) -> Tensor:
        """`[n]` positions of the training rows, most harmful first."""
        return self.scores.argsort(descending=True, stable=True)

    @property
    def named(self) -> Tensor:
        """Positions of the rows that stand behind the errors, most harmful first.

        As many as are beyond chance, or a hundred where none are; at most a tenth of all.
        """
        return self.order[: min(self.count or _NAMED, max(1, len(self.scores) // 10))]

    def table(self, limit: int = 1000) -> pd.DataFrame:
        """`row` (position in train), `score`, `low`, `high`, most harmful first.

        The interval is that of the delete-half jackknife over the errors, at 95 %.

        Args:
            limit: most rows.
        """
        import pandas as pd

        rows = self.order[:limit]
        scores = self.scores[rows].double()
        error = (self.halves[rows].double() - scores[:, None]).square().mean(1).sqrt()
        columns = {
            "row": rows,
            "score": scores,
            "low": scores - 1.96 * error,
            "high": scores + 1.96 * error,
        }
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()})

    def of_query(self, query: int, limit: int = 20) -> pd.DataFrame:
        """The rows nearest to a single error among the 2000 highest: `row`, `score`.

        The score is the similarity to this error of rows that have its answer as label.

        Args:
            query: position of the error among the queries that were passed.
            limit: most rows.

        Raises:
            InputError: a row that is no error, or was not drawn.
        """
        import pandas as pd

        found = (self.sides.positions == query).nonzero()[:, 0]
        if not len(found):
            some = self.sides.positions[:5].tolist()
            reject("query", f"one of the errors, e.g. {some}", str(query), "See `sides.positions`.")
        rows, similarity = self.similarity
        values, at = similarity[:, int(found[0])].sort(descending=True, stable=True)
        kept = (values > 0).nonzero()[:limit, 0]
        return pd.DataFrame({"row": rows[at[kept]].numpy(), "score": values[kept].numpy()})

    @cached_property
    def similarity(self) -> tuple[Tensor, Tensor]:
        """The highest rows and their similarity to every error, `[m]` and `[m, q]`."""
        rows = self.order[:_ASKED]
        inputs = training_inputs(self.train, rows, self.unpack)
        model = self.question.model
        with (
            device_context(self.device, "32-true"),
            evaluating(model, device=self.device),
            torch.no_grad(),
        ):
            there = as_model_takes(inputs, model, self.device)
            labels = self.labels[rows].to(self.device)
            return rows, query_similarity(self.question, there, labels).cpu()

    @cached_property
    def common(self) -> pd.DataFrame:
        """What the named rows share: values far more frequent among them than in the rest.

        Columns `column, value, named, of, share, share_rest, p_value`, the most telling first.
        Labels, metadata and codes of the training records are compared.
        """
        records = self.train if isinstance(self.train, Records) else None
        return shared_values(records, self.labels, self.named)

    def confirm(self, fit: Callable[[Records], Any] | None = None, drop: int = 100) -> Confirmation:
        """Refit without the named rows, and without as many random rows of the same labels.

        Each half of the errors is judged by rows that the other half named. By default a head on
        the layers of the network is refitted, exactly and within seconds; `fit` refits the whole.

        Args:
            fit: function from training records to a network, called six times.
            drop: rows that are left out; at most a tenth.

        Raises:
            InputError: fewer than two errors, or `fit` with a loader in place of Records.
        """
        n = len(self.scores)
        drop = max(1, min(drop, n // 10))
        if len(self.sides.errors) < 2:
            reject("queries", "at least two errors", "one", "Pass more errors of the same kind.")
        named = tuple(
            self.halves[:, half].argsort(descending=True, stable=True)[:drop] for half in (0, 1)
        )
        refit = head_refit(self) if fit is None else own_refit(self, fit)
        held_out = self.sides.reference
        labels = self.labels[:0] if held_out is None else held_out.targets
        assert labels is not None
        return confirmation(
            refit,
            self.question.form,
            (named[0], named[1]),
            (self.question.halves[1] > 0).cpu(),
            self.question.form.strata(self.labels),
            (self.sides.answers.cpu(), labels.cpu()),
            refitted="head" if fit is None else "network",
            seed=self.seed,
        )

    def sheet(self, path: str | Path | None = None, size: int = 100) -> pd.DataFrame:
        """The named rows with an empty column for a verdict, as `gendebug labels` reads it back.

        Args:
            path: file to write, .csv or .html; None writes nothing.
            size: rows of the sheet.
        """
        return influence_sheet(self, path, size)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Errors and the training rows behind them, and the scores beside those of held-out rows.

        Of tables it is the scores alone.
        """
        return draw_influences(self, ax)
