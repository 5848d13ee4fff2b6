"""Test of a slice: is the sum of a metric over its rows higher than expected?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gendebug_torch.slices.statistics.tails import log_t_tail, log_upper_tail
from gendebug_torch.stats.auc import midranks


@dataclass(frozen=True, eq=False)
class SliceTest:
    """One-sided test of sums over slices: of events by counts, of other metrics by ranks.

    Metrics with an expectation are tested by the mean of their excess over it, against Student's t
    with the variance of the slice itself: of skewed losses that is conservative.

    Args:
        weights: values to sum, `[1, n]`; events, their probabilities and variances, `[3, n]`; or
            excess over the expectation and its square, `[2, n]`.
        mean: expected value of a row, where there are no probabilities.
        variance: variance of a row, where there are no probabilities.
        is_count: whether the metric is an event.
        whole: number of rows and sums of the weights `[w]` where these are those of more rows.
    """

    weights: Tensor
    mean: float
    variance: float
    is_count: bool
    whole: tuple[float, Tensor] | None = None

    def log_p_values(self, rows: Tensor, sums: Tensor, within: Tensor | None = None) -> Tensor:
        """`[s]` log p-values of slices.

        The expectation is scaled to the total over all rows, and the variance loses the slice's
        share of the total.

        Args:
            rows: number of rows of each slice, `[s]`.
            sums: sums of the weights over each slice, `[w, s]`.
            within: rows that the slices are drawn from, `[n]` bool; default all.
        """
        if len(self.weights) == 2:
            return self._log_p_of_excess(rows, sums, within)
        n, total = self._total(within)
        if len(sums) == 3:
            mean, spread = sums[1], sums[2]
        else:
            mean, spread = rows * self.mean, rows * self.variance
        mean = mean * (total[0] / total[1]) if float(total[1]) > 0 else mean
        share = spread / total[2].clamp(min=1e-300)
        variance = spread * (1 - share).clamp(min=0.0) * (n / max(n - 1, 1))
        if self.is_count:
            # Without probabilities the rows are a sample, bounded by its rows and by all events.
            most = rows if len(sums) == 3 else rows.double().clamp(max=float(total[0]))
            return log_upper_tail(sums[0], most, mean, variance)
        z = (sums[0] - mean) / variance.clamp(min=1e-300).sqrt()
        excess = (z > 0) & (variance > 0)
        return torch.where(excess, torch.special.log_ndtr(-z), torch.zeros_like(z))

    def log_p_value(self, inside: Tensor, within: Tensor) -> float:
        """Log p-value of the rows of one mask `[n]` among those of another."""
        sums = self.weights[:, inside].sum(1, keepdim=True)
        return float(self.log_p_values(inside.sum()[None], sums, within))

    def log_p_of_part(self, inside: Tensor, within: Tensor, rows: Tensor, sums: Tensor) -> float:
        """Log p-value of what is left of a slice with sums over more rows than those at hand.

        Args:
            inside: rows of the slice at hand, `[n]` bool.
            within: rows at hand that are left, `[n]` bool.
            rows: number of all rows of the slice.
            sums: sums of the weights over them, `[w]`.
        """
        part = replace(self, weights=self.weights[:, inside])
        n, left = part._of_more_rows(self.weights[:, inside & within], float(rows), sums)
        return float(self.log_p_values(rows.new_tensor([n]), left[:, None], within))

    def _log_p_of_excess(self, rows: Tensor, sums: Tensor, within: Tensor | None) -> Tensor:
        n = rows.double().clamp(min=1.0)
        every, total = self._total(within)
        mean = sums[0] / n - total[0] / max(every, 1)
        variance = (sums[1] / n - (sums[0] / n).square()).clamp(min=0.0) / (n - 1).clamp(min=1.0)
        certain = (mean > 0) & (variance > 0)
        t = torch.where(certain, mean / variance.clamp(min=1e-300).sqrt(), torch.zeros_like(mean))
        return torch.where(certain, log_t_tail(t, n - 1), torch.zeros_like(mean))

    def _total(self, within: Tensor | None) -> tuple[float, Tensor]:
        part = self.weights if within is None else self.weights[:, within]
        n, sums = float(part.shape[1]), part.sum(1)
        if self.whole is not None:
            n, sums = self._of_more_rows(part, *self.whole)
        if len(sums) > 1:
            return n, sums
        return n, torch.stack(
            [sums[0], sums.new_tensor(n * self.mean), n * sums.new_tensor(self.variance)]
        )

    def _of_more_rows(self, part: Tensor, n: float, sums: Tensor) -> tuple[float, Tensor]:
        """What is left of rows and sums, by what is left of those at hand."""
        rows = part.shape[1] / max(self.weights.shape[1], 1)
        if len(sums) == 2:
            return n * rows, sums * rows
        share = part.sum(1) / self.weights.sum(1)
        return n * rows, sums * torch.where(share.isfinite(), share, torch.ones_like(share))


def slice_test(metric: Tensor, expected: Tensor | None) -> SliceTest:
    """The test of a metric: counts for events, rank sums or mean excess for numbers.

    Args:
        metric: events `[n]` bool, or numbers `[n]` float.
        expected: probability of the event, or expected number, in each row, `[n]`; None for the
            overall rate.
    """
    values = metric.detach().double().cpu()
    n = max(len(values), 1)
    if metric.is_floating_point() and expected is not None:
        excess = values - expected.detach().double().cpu()
        # Sums run in float32: of a scale near one nothing overflows.
        excess = excess / excess.abs().mean().clamp(min=1e-300) if len(excess) else excess
        return SliceTest(torch.stack([excess, excess.square()]), 0.0, 0.0, is_count=False)
    if metric.is_floating_point():
        if not len(values):
            return SliceTest(values[None], 0.5, 0.0, is_count=False)
        ranks = midranks(values[None])[0] / (n + 1)
        return SliceTest(ranks[None], 0.5, float(ranks.var(correction=0)), is_count=False)
    if expected is None:
        rate = float(values.sum()) / n
        return SliceTest(values[None], rate, rate * (1 - rate), is_count=True)
    p = expected.detach().double().cpu()
    return SliceTest(torch.stack([values, p, p * (1 - p)]), 0.0, 0.0, is_count=True)
