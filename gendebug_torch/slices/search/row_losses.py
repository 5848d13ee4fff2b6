"""Losses of rows whose targets are quantities or several labels, and what to expect of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from gendebug_torch.data.task import IGNORED
from gendebug_torch.errors import reject

# Bins of equally many rows in which the loss of a score is averaged, and the fewest rows of one.
_BINS, _MIN_ROWS = 20, 50


@dataclass(frozen=True, eq=False)
class RowLosses:
    """Losses of the rows that have a label, one column for each output or label.

    Args:
        rows: row numbers, `[m]` int64.
        losses: absolute errors, or cross-entropies in nats, `[m, k]` float64; NaN without a label.
        scores: predictions, or entropies of the predicted labels, `[m, k]` float64.
        residuals: targets minus predictions, `[m, k]` float64; None for labels.
        spread: standard deviations of the targets that the losses were divided by, `[k]` float64.
        name: name of the mean loss of a row.
    """

    rows: Tensor
    losses: Tensor
    scores: Tensor
    residuals: Tensor | None
    spread: Tensor | None
    name: str

    @property
    def mean(self) -> Tensor:
        """`[m]` mean loss of each row over the outputs that have a label."""
        return self.losses.nanmean(1)

    def expected(self, at: Tensor | None = None) -> Tensor:
        """`[h]` mean loss of rows of the same score: what the model's outputs let one expect.

        Args:
            at: indices into `rows` on which to average and evaluate, `[h]` int64; default all.
        """
        losses, scores = (part if at is None else part[at] for part in (self.losses, self.scores))
        columns = [_binned_mean(*column) for column in zip(losses.T, scores.T, strict=True)]
        return torch.stack(columns, 1).nanmean(1)

    @property
    def sums(self) -> Tensor:
        """`[k, 3]` float64 rows, sum and sum of squares of the losses of each output."""
        present, losses = ~self.losses.isnan(), self.losses.nan_to_num(0.0)
        return torch.stack([present.double().sum(0), losses.sum(0), losses.square().sum(0)], 1)

    def large(self, share: float = 0.05) -> Tensor:
        """`[m]` bool, rows whose loss is among this share of the largest of their expectation."""
        ratio = self.mean / self.expected().clamp(min=1e-300)
        return ratio > ratio.quantile(1 - share) if len(ratio) else ratio > 0


def quantity_losses(
    predictions: Tensor, targets: Tensor, spread: Tensor | None = None
) -> RowLosses:
    """Absolute errors of predicted quantities.

    Of several outputs each is divided by the standard deviation of its targets, so that units do
    not matter; of one output the unit is kept.

    Args:
        predictions: predicted values, `[n]` or `[n, k]` float.
        targets: true values of the same shape, or `[n]` beside `[n, 1]`; NaN where missing.
        spread: standard deviations to divide several outputs by, `[k]`; default those of the
            targets.

    Raises:
        InputError: shapes that differ.
    """
    n = len(targets)
    predicted, true = (
        part.detach().cpu().double().reshape(n, -1) for part in (predictions, targets)
    )
    if predicted.shape != true.shape:
        got = f"{list(predictions.shape)} and {list(targets.shape)}"
        reject("targets", "one target per predicted quantity", got, "Pass one per output.")
    if predicted.shape[1] > 1:
        spread = _spread(true) if spread is None else spread
        predicted, true = predicted / spread, true / spread
    rows = (~true.isnan()).any(1).nonzero()[:, 0]
    residuals = (true - predicted)[rows]
    name = "mean absolute error" + (" in standard deviations" if predicted.shape[1] > 1 else "")
    return RowLosses(rows, residuals.abs(), predicted[rows], residuals, spread, name)


def label_losses(logits: Tensor, targets: Tensor) -> RowLosses:
    """Cross-entropies of independent labels.

    Args:
        logits: logits of each label, `[n, k]` float.
        targets: labels of 0 and 1, `[n, k]` int64; -100 where missing.
    """
    logits, targets = logits.detach().cpu().double(), targets.cpu()
    missing = targets == IGNORED
    rows = (~missing).any(1).nonzero()[:, 0]
    loss = binary_cross_entropy_with_logits(
        logits, targets.clamp(min=0).double(), reduction="none"
    ).masked_fill(missing, torch.nan)
    entropy = softplus(logits) - logits * logits.sigmoid()
    return RowLosses(rows, loss[rows], entropy[rows], None, None, "mean log loss")


def _spread(values: Tensor) -> Tensor:
    """`[k]` standard deviation of each column; 1 where it is 0."""
    spread = (values - values.nanmean(0)).square().nanmean(0).sqrt()
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _binned_mean(losses: Tensor, scores: Tensor) -> Tensor:
    """`[m]` mean loss in bins of equally many rows by score; NaN where there is no loss."""
    present = ~losses.isnan()
    expected = torch.full_like(losses, torch.nan)
    if not bool(present.any()):
        return expected
    own, score = losses[present], scores[present]
    bins = max(1, min(_BINS, len(own) // _MIN_ROWS))
    shares = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    ranks = (shares * len(score)).long()
    bin_of = torch.searchsorted(torch.unique(score.sort().values[ranks]), score, right=True)
    count = torch.bincount(bin_of, minlength=bins).clamp(min=1)
    total = torch.bincount(bin_of, own, minlength=bins)
    expected[present] = (total / count)[bin_of]
    return expected
