"""Label noise: disagreement of labels with a model beyond its calibrated uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.data.task import two_class_logits
from gendebug_torch.errors import reject
from gendebug_torch.labels.noise.noise_fit import (
    error_probability,
    fit_noise,
    label_probs,
    noise_interval,
)
from gendebug_torch.stats.intervals import normal_quantile, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# Rows, and probabilities, on which noise and calibration are fitted.
_MAX_FIT_ROWS, _MAX_FIT_CELLS = 20_000, 4_000_000
_EM_STEPS = 25


@dataclass(frozen=True, eq=False)
class LabelNoise:
    """Estimated share of wrong labels, and each row's probability of a wrong label.

    Args:
        rate: share of labels that are wrong, in [0, 1).
        low: lower bound of its 95 % interval.
        high: upper bound of its 95 % interval.
        p_value: p-value of no wrong labels at all.
        scale: factor on the logits that calibrates them, fitted together with the noise.
        transition: probability of each given label (column) for each true class (row), `[k, k]`.
        class_counts: rows per given label, `[k]` int64.
        probs: calibrated probabilities of the true class, `[n, k]` float64.
        error_probability: probability that the given label is wrong, `[n]` float64.
        targets: given class ids, `[n]` int64.
        rows: row numbers in the table that they were drawn from, `[n]` int64; None for all rows.
    """

    rate: float
    low: float
    high: float
    p_value: float
    scale: float
    transition: Tensor
    class_counts: Tensor
    probs: Tensor
    error_probability: Tensor
    targets: Tensor
    rows: Tensor | None = None

    @property
    def row_numbers(self) -> Tensor:
        """`[n]` int64 row numbers in the table, on the host."""
        return torch.arange(len(self.targets)) if self.rows is None else self.rows.cpu()

    @property
    def suspicious(self) -> Tensor:
        """`[n]` bool, rows whose label is more likely wrong than right."""
        return self.error_probability > 0.5

    @property
    def suggested(self) -> Tensor:
        """`[n]` int64 most probable other class."""
        return self.probs.scatter(1, self.targets[:, None], -1.0).argmax(1)

    @property
    def label_quality(self) -> Tensor:
        """`[n]` probability that the given label is right, if the data show noise (p < 0.05).

        Else its calibrated probability, which also ranks the labels of a set with next to no
        errors.
        """
        if self.p_value < 0.05:
            return 1 - self.error_probability
        return self.probs.gather(1, self.targets[:, None])[:, 0]

    @property
    def log_loss(self) -> float:
        """Mean negative log-likelihood of the given labels under the fitted noise, in nats."""
        return float(self.losses().mean())

    def losses(self) -> Tensor:
        """`[n]` negative log-likelihood of each given label under the fitted noise, in nats."""
        label = (self.probs * self.transition.T[self.targets]).sum(1)
        return -label.clamp(min=1e-300).log()

    def rate_by(
        self, group: Tensor, groups: int, *, level: float = 0.95
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Share of wrong labels per group with its interval, each `[g]` float64.

        Each group's own share by EM, starting from the overall share; 0 in [0, 1] for a group
        without rows.

        Args:
            group: group ids 0..g-1, `[n]` int64; for groups by given label use `rate_by_label`.
            groups: number of groups g.
            level: coverage.
        """
        safe = torch.bincount(group, minlength=groups).double().clamp(min=1.0)
        overall = min(max(self.rate, 1e-9), 1 - 1e-9)
        wrong = self.error_probability.clamp(max=1 - 1e-9)
        odds_ratio = wrong / (1 - wrong) * (1 - overall) / overall
        rate, wrong = wrong.new_full((groups,), overall), self.error_probability
        for _ in range(_EM_STEPS):
            share = rate[group]
            wrong = share * odds_ratio / (share * odds_ratio + 1 - share)
            rate = torch.zeros_like(rate).index_add(0, group, wrong) / safe
        return self._with_interval(wrong, group, groups, level)

    def rate_by_label(self, *, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
        """Share of wrong labels per given label with its interval, each `[k]` float64."""
        return self._with_interval(
            self.error_probability, self.targets, len(self.class_counts), level
        )

    def _with_interval(
        self, wrong: Tensor, group: Tensor, groups: int, level: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of `wrong` per group and its interval.

        Three variances add: of the sample of rows, of which rows are wrong, and of the overall
        rate. Together they reduce the effective number of rows in Wilson's interval. Where the
        overall rate may be 0, so may each of these.
        """
        rows = torch.bincount(group, minlength=groups).double()
        safe, zero = rows.clamp(min=1.0), wrong.new_zeros(groups)
        rate = zero.index_add(0, group, wrong) / safe
        uncertainty = zero.index_add(0, group, wrong * (1 - wrong)) / safe.square()
        relative = (self.high - self.low) / (2 * normal_quantile(0.975) * max(self.rate, 1e-9))
        spread = rate * (1 - rate)
        variance = spread / safe + uncertainty + (rate * min(relative, 1.0)).square()
        rows = torch.where(spread > 0, torch.minimum(spread / variance, rows), rows)
        low, high = wilson_interval(rate * rows, rows, level=level)
        return rate, low * (self.low > 0), high

    def expected_suspicious(self) -> Tensor:
        """`[n]` probability, under the fitted noise, that a row becomes suspicious. O(n k^2)."""
        label = label_probs(self.probs, self.transition)
        right = self.probs * self.transition.diagonal()
        return torch.where(right < label / 2, label, 0.0).sum(1)

    def table(self) -> DataFrame:
        """One row per given label: rows, wrong share with interval, suspicious rows."""
        import pandas as pd

        k = len(self.class_counts)
        rate, low, high = self.rate_by_label()
        suspicious = torch.bincount(self.targets[self.suspicious], minlength=k)
        columns = {
            "label": torch.arange(k),
            "rows": self.class_counts,
            "wrong_share": rate,
            "low": low,
            "high": high,
        }
        columns |= {"suspicious_rows": suspicious}
        return pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Share of wrong labels per given label with its interval, largest first."""
        frame = self.table().sort_values("wrong_share", ascending=False, kind="stable")
        bars = BarEvidence(
            frame,
            "label",
            "wrong_share",
            title=f"Wrong labels per class; all labels: {self.rate:.1%}",
            xlabel="estimated share of wrong labels (95 % interval)",
            interval=("low", "high"),
            marker=self.rate,
        )
        return bars.plot(ax)


def label_noise(logits: Tensor, targets: Tensor, *, level: float = 0.95) -> LabelNoise:
    """Share and probabilities of wrong labels, beyond what ambiguous rows explain.

    The model is `q(y | x) = sum_c p_c(x) T_cy` with `p = softmax(s z + b)`: scale s and offsets b
    calibrate the logits, and the transition T explains what no calibration does, disagreement that
    does not fade where the model is sure. Classes that overlap are explained by s alone, so
    ambiguous rows are no noise. A constant share of labels that no feature explains cannot be
    distinguished from noise.

    Source: Copas (1988), J. R. Stat. Soc. B 50:225, regression with mislabeled responses; T by EM
    (Dawid and Skene, 1979, Appl. Stat. 28:20) with a prior of uniform noise; the test by split
    likelihood ratio (Wasserman, Ramdas and Balakrishnan, 2020, PNAS 117:16880). Cost: about 200
    passes over `[m, k]` of m random rows, at most 20,000
    and 4,000,000 probabilities.

    Args:
        logits: `[n, k]`, or `[n]` binary, out-of-sample; in-sample the rate is a lower bound.
        targets: given class ids, `[n]` int64.
        level: coverage of the interval.

    Raises:
        InputError: other shapes, labels outside 0..k-1, fewer than two classes.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 4.0 * torch.randn(1000, 2, generator=generator)
        >>> true = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> given = true.clone()
        >>> given[:100] = 1 - true[:100]  # a tenth of the labels is wrong
        >>> noise = label_noise(logits, given)
        >>> noise.low < 0.1 < noise.high, noise.p_value < 0.001
        (True, True)
    """
    z = class_logits(logits)
    _validate(z, targets)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    rows = order[: min(_MAX_FIT_ROWS, _MAX_FIT_CELLS // z.shape[1])].to(z.device)
    fit, p_value = fit_noise(z[rows], targets[rows])
    probs = fit.probs(z)
    wrong = error_probability(probs, targets, fit.transition)
    rate = float(wrong.mean()) if len(wrong) else 0.0
    low, high = noise_interval(z[rows], targets[rows], fit, rate, level)
    return LabelNoise(
        rate,
        low if p_value < 1 - level else 0.0,
        high,
        p_value,
        fit.scale,
        fit.transition,
        torch.bincount(targets, minlength=z.shape[1]),
        probs,
        wrong,
        targets,
    )


def class_logits(logits: Tensor) -> Tensor:
    """`[n, k]` float64 logits of k >= 2 classes; a binary logit z becomes the columns 0 and z.

    Masked classes (-inf) become finite logits far below the others, as fits by gradient need.

    Args:
        logits: `[n, k]`, or `[n]` binary.
    """
    z = two_class_logits(logits.double())
    masked = z.isneginf()
    if not bool(masked.any()):
        return z
    low, high = z[~masked].aminmax()
    return z.masked_fill(masked, float(low - 2 * (high - low).clamp(min=1)))


def _validate(z: Tensor, targets: Tensor) -> None:
    if (
        z.ndim != 2
        or z.shape[1] < 2
        or targets.shape != z.shape[:1]
        or targets.dtype != torch.int64
    ):
        got = f"{list(z.shape)} with {targets.dtype} {list(targets.shape)}"
        reject(
            "logits, targets",
            "[n, k] with k >= 2, or [n], and int64 [n]",
            got,
            "Pass the logits of a classifier with their labels.",
        )
    if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= z.shape[1]):
        got = f"{int(targets.min())}..{int(targets.max())}"
        reject(
            "targets",
            f"labels in 0..{z.shape[1] - 1}",
            got,
            "Map the labels to the columns of `logits`.",
        )
