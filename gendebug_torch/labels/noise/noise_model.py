"""How many labels are wrong: disagreement beyond what the model's own calibrated confidence
expects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.stats.intervals import normal_quantile, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

# The scale and the class offsets are fitted on at most this many rows: k + 2 numbers need no more.
_FIT_ROWS = 20_000
_EM_STEPS, _TURNS = 25, 3
# Of even noise, per class, beside the data.
_PRIOR_ROWS = 2.0
# Pulls scale and offsets to 1 and 0 with the weight of a hundredth of a row, so that separable
# classes have a finite fit.
_RIDGE = 0.01


@dataclass(frozen=True, eq=False)
class LabelNoise:
    """The share of wrong labels that best explains the disagreement of labels with a model, and
    each row's part in it.

    Args:
        rate: share of labels that are wrong, in [0, 1).
        low: lower bound of its 95 % interval.
        high: upper bound.
        p_value: of no wrong labels at all.
        scale: factor on the logits that calibrates them beside the noise.
        transition: `[k, k]` probability of each given label (column) for each true class (row).
        labeled: `[k]` int64 rows per given label.
        probs: `[n, k]` calibrated probabilities of the true class, float64.
        wrong: `[n]` probability that the given label is wrong, float64.
        targets: `[n]` int64 given labels.
    """

    rate: float
    low: float
    high: float
    p_value: float
    scale: float
    transition: Tensor
    labeled: Tensor
    probs: Tensor
    wrong: Tensor
    targets: Tensor

    @property
    def suspicious(self) -> Tensor:
        """`[n]` bool, the rows whose label is more likely wrong than right."""
        return self.wrong > 0.5

    @property
    def suggested(self) -> Tensor:
        """`[n]` int64 the most probable other class."""
        return self.probs.scatter(1, self.targets[:, None], -1.0).argmax(1)

    @property
    def belief(self) -> Tensor:
        """`[n]` how much the given label is believed: the chance that it is right, if the data show
        noise (p < .05).

        Else its calibrated probability, which also ranks the labels of a set with next to no
        errors.
        """
        return (
            1 - self.wrong
            if self.p_value < 0.05
            else self.probs.gather(1, self.targets[:, None])[:, 0]
        )

    @property
    def log_loss(self) -> float:
        """Mean nats by which the given labels surprise the fitted noise: of several judges of the
        same rows, the least knows most.
        """
        told = (self.probs @ self.transition).gather(1, self.targets[:, None])
        return -float(told.clamp(min=1e-300).log().mean())

    def rate_by(
        self, group: Tensor, groups: int, *, level: float = 0.95
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Wrong share per group with its interval, each `[g]` float64; 0 in [0, 1] for a group
        without rows.

        Each group's own share, by EM from the whole's, given what each row's label says.

        Args:
            group: `[n]` int64 of 0..g-1; not the given labels, whose shares `rate_by_label` takes
                from the fit.
            groups: g.
            level: coverage.
        """
        safe = torch.bincount(group, minlength=groups).double().clamp(min=1.0)
        overall = min(max(self.rate, 1e-9), 1 - 1e-9)
        doubt = self.wrong.clamp(max=1 - 1e-9)
        ratio = doubt / (1 - doubt) * (1 - overall) / overall
        rate, wrong = self.wrong.new_zeros(groups) + overall, self.wrong
        for _ in range(_EM_STEPS):
            share = rate[group]
            wrong = share * ratio / (share * ratio + 1 - share)
            rate = self.wrong.new_zeros(groups).index_add(0, group, wrong) / safe
        return self._with_interval(wrong, group, groups, level)

    def rate_by_label(self, *, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
        """Wrong share per given label with its interval, each `[k]` float64: the mean of `wrong`,
        which knows the labels' own shares.
        """
        return self._with_interval(self.wrong, self.targets, len(self.labeled), level)

    def _with_interval(
        self, wrong: Tensor, group: Tensor, groups: int, level: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of `wrong` per group and its interval.

        Three uncertainties add: of which rows the group has, of which of them are wrong, and of the
        overall rate; together they count as that many fewer rows in Wilson's interval. Where the
        overall rate may be 0, so may each of these.
        """
        rows = torch.bincount(group, minlength=groups).double()
        safe, zero = rows.clamp(min=1.0), self.wrong.new_zeros(groups)
        rate = zero.index_add(0, group, wrong) / safe
        unsure = zero.index_add(0, group, wrong * (1 - wrong)) / safe.square()
        relative = (self.high - self.low) / (2 * normal_quantile(0.975) * max(self.rate, 1e-9))
        spread = rate * (1 - rate)
        variance = spread / safe + unsure + (rate * min(relative, 1.0)).square()
        rows = torch.where(spread > 0, torch.minimum(spread / variance, rows), rows)
        low, high = wilson_interval(rate * rows, rows, level=level)
        return rate, low * (self.low > 0), high

    def expected_suspicious(self) -> Tensor:
        """`[n]` chance, under the fitted noise, that this row's label comes out as more likely
        wrong than right. O(n k^2).
        """
        label = self.probs @ self.transition
        right = self.probs * self.transition.diagonal()
        return torch.where(right < label / 2, label, 0.0).sum(1)

    def table(self) -> DataFrame:
        """One row per given label: rows, wrong share with interval, suspicious rows."""
        import pandas as pd

        k = len(self.labeled)
        rate, low, high = self.rate_by_label()
        suspicious = torch.bincount(self.targets[self.suspicious], minlength=k)
        columns = {
            "label": torch.arange(k),
            "rows": self.labeled,
            "wrong_share": rate,
            "low": low,
            "high": high,
        }
        columns |= {"suspicious_rows": suspicious}
        return pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})

    def plot(self, ax: Axes | None = None, *, top: int = 20) -> Axes:
        """Wrong share per given label with its interval, the `top` largest, and the overall
        share.
        """
        frame = self.table()
        frame = frame.iloc[frame["wrong_share"].argsort(kind="stable")].tail(top)
        ax = axes(ax)
        rates, names = frame["wrong_share"].to_numpy(), frame["label"].astype(str).tolist()
        ax.barh(names, rates, color=REFERENCE)
        ax.errorbar(
            rates,
            names,
            xerr=[rates - frame["low"], frame["high"] - rates],
            fmt="none",
            ecolor="black",
            capsize=3,
        )
        ax.axvline(self.rate, color=LIVE, linestyle="--", label=f"all labels: {self.rate:.1%}")
        ax.legend(loc="lower right")
        ax.set_xlabel("estimated share of wrong labels (95 % interval)")
        ax.set_ylabel("given label")
        ax.set_title("Wrong labels per class")
        return ax


def label_noise(logits: Tensor, targets: Tensor, *, level: float = 0.95) -> LabelNoise:
    """The wrong labels under `q(y | x) = sum_c p_c(x) T_cy`, where `p = softmax(s z + b)` says what
    is true.

    Scale s and offsets b calibrate the model; T, how each class is labeled, explains what no
    calibration does: disagreement that does not fade where the model is sure. Classes that overlap
    are fitted by s alone, so ambiguous rows are no noise. A constant share of labels that no
    feature explains cannot be told apart from noise.

    Source: Copas (1988), J. R. Stat. Soc. B 50:225, regression with mislabelled responses; T by EM
    (Dawid and Skene, 1979, Appl. Stat. 28:20), drawn towards even noise by a few rows per class;
    the test by split likelihood ratio (Wasserman, Ramdas and Balakrishnan, 2020, PNAS 117:16880).
    About 200 passes over `[min(n, 20000), k]`.

    Args:
        logits: `[n, k]`, or `[n]` binary; from rows that the model was not fitted to, else the rate
            is a lower bound.
        targets: `[n]` int64 given labels.
        level: coverage of the interval.

    Raises:
        InputError: other shapes, labels outside 0..k-1, fewer than two classes.
    """
    z = class_logits(logits)
    _validate(z, targets)
    picked = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:_FIT_ROWS].to(
        z.device
    )
    fit = _fit_noise(z[picked], targets[picked])
    p_value = _p_value(z[picked], targets[picked])
    probs = (z * fit.scale + fit.offsets).softmax(1)
    wrong = _wrong(probs, targets, fit.transition)
    rate = float(wrong.mean()) if len(wrong) else 0.0
    low, high = _interval(z[picked], targets[picked], fit, rate, level)
    low = low if p_value < 1 - level else 0.0
    labeled = torch.bincount(targets, minlength=z.shape[1])
    return LabelNoise(
        rate, low, high, p_value, fit.scale, fit.transition, labeled, probs, wrong, targets
    )


def class_logits(logits: Tensor) -> Tensor:
    """`[n, k]` float64 logits; one binary logit z becomes the two columns 0, z; masked classes lie
    far below the others.
    """
    z = logits.double()
    z = torch.stack([torch.zeros_like(z), z], 1) if z.ndim == 1 else z
    masked = z.isneginf()
    if not bool(masked.any()):
        return z
    # The scale is fitted by gradients, which -inf would break.
    low, high = z[~masked].aminmax()
    return z.masked_fill(masked, float(low - 2 * (high - low).clamp(min=1)))


@dataclass(frozen=True)
class _Fit:
    scale: float
    offsets: Tensor
    transition: Tensor


def _fit_even(z: Tensor, targets: Tensor) -> _Fit:
    """Every other class is as likely to be written down by mistake."""
    log_scale, offsets, rate = _calibrate(z, targets, None)
    even = z.new_full((z.shape[1], z.shape[1]), rate / (z.shape[1] - 1)).fill_diagonal_(1 - rate)
    return _Fit(float(log_scale.exp()), offsets, even)


def _fit_noise(z: Tensor, targets: Tensor) -> _Fit:
    """From even noise on, a transition per pair of classes, in turns with the calibration beside
    it.
    """
    fit = _fit_even(z, targets)
    even = fit.transition
    for _ in range(_TURNS):
        probs = (z * fit.scale + fit.offsets).softmax(1)
        transition = _transition(probs, targets, fit.transition, even)
        log_scale, offsets, _ = _calibrate(z, targets, transition, start=fit)
        fit = _Fit(float(log_scale.exp()), offsets, transition)
    return fit


def _p_value(z: Tensor, targets: Tensor) -> float:
    """Of no noise: the smaller of two tests, doubled.

    Even noise is one number: half of a chi-square with one degree of freedom, since it cannot be
    negative (Chernoff, 1954). Noise per pair of classes is k (k - 1) numbers, of which the
    asymptotics would be wrong: it is fitted on one half of the rows and its likelihood ratio taken
    on the other, both ways, where `exp(-log ratio)` bounds the chance.
    """
    if len(z) < 4:
        return 1.0
    gain = _gain(z, targets, _fit_even(z, targets))
    halves = [(z[half::2], targets[half::2]) for half in (0, 1)]
    split = [_gain(*here, _fit_noise(*other)) for here, other in (halves, halves[::-1])]
    bound = -torch.tensor(split, dtype=torch.float64).logsumexp(0) + math.log(2.0)
    return min(
        1.0, 2 * min(0.5 * math.erfc(math.sqrt(max(gain, 0.0))), math.exp(min(float(bound), 0.0)))
    )


def _gain(z: Tensor, targets: Tensor, noisy: _Fit) -> float:
    """Nats by which a fit with noise explains these labels better than the best fit to them
    without.
    """
    clean = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    log_scale, offsets, _ = _calibrate(z, targets, clean)
    return _log_likelihood(z, targets, noisy) - _log_likelihood(
        z, targets, _Fit(float(log_scale.exp()), offsets, clean)
    )


def _log_likelihood(z: Tensor, targets: Tensor, fit: _Fit) -> float:
    log_probs = (z * fit.scale + fit.offsets).log_softmax(1)
    return float((log_probs + fit.transition[:, targets].T.log()).logsumexp(1).sum())


def _calibrate(
    z: Tensor, targets: Tensor, transition: Tensor | None, *, start: _Fit | None = None
) -> tuple[Tensor, Tensor, float]:
    """Maximum likelihood of log scale and offsets under a transition; without one, of an even rate
    as well.
    """
    # Starting at the standardised scale keeps the first step short whatever the units of the
    # logits.
    log_scale = -z.std().clamp(min=1.0).log() / 2 if z.numel() > 1 else z.new_zeros(())
    offsets = z.new_zeros(z.shape[1])
    if start is not None:
        log_scale, offsets = z.new_tensor(math.log(start.scale)), start.offsets.clone()
    logit = z.new_tensor(-3.0)
    parameters = [log_scale, offsets] if transition is not None else [log_scale, offsets, logit]
    log_given = None if transition is None else transition[:, targets].T.log()
    with torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.LBFGS(
            parameters, max_iter=60 if start is None else 10, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            log_probs = (z * log_scale.exp() + offsets).log_softmax(1)
            if log_given is not None:
                nats = -(log_probs + log_given).logsumexp(1)
            else:
                own = log_probs.gather(1, targets[:, None])[:, 0].exp()
                nats = (
                    -(own + logit.sigmoid() * ((1 - own) / (z.shape[1] - 1) - own))
                    .clamp(min=1e-300)
                    .log()
                )
            value = nats.mean() + _RIDGE * (log_scale.square() + offsets.square().sum()) / len(z)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        if len(z):
            optimizer.step(loss)  # type: ignore[no-untyped-call]
    return log_scale.detach(), offsets.detach(), float(logit.detach().sigmoid())


def _transition(probs: Tensor, targets: Tensor, transition: Tensor, even: Tensor) -> Tensor:
    """`[k, k]` transition by EM; `_PRIOR_ROWS` rows per class of even noise keep cells without data
    from 0.
    """
    for _ in range(_EM_STEPS):
        joint = probs * transition[:, targets].T
        joint = joint / joint.sum(1, keepdim=True).clamp(min=1e-300)
        counts = torch.zeros_like(transition).index_add_(0, targets, joint).T + _PRIOR_ROWS * even
        transition = counts / counts.sum(1, keepdim=True)
    return transition


def _wrong(probs: Tensor, targets: Tensor, transition: Tensor) -> Tensor:
    """`[n]` probability that the true class is another than the given one."""
    joint = probs * transition[:, targets].T
    own = joint.gather(1, targets[:, None])[:, 0]
    return (1 - own / joint.sum(1).clamp(min=1e-300)).clamp(0.0, 1.0)


def _interval(
    z: Tensor, targets: Tensor, fit: _Fit, rate: float, level: float
) -> tuple[float, float]:
    """Bounds of the rate when all of the noise is scaled by one factor, the logits by another, by
    their curvature.

    Where the rate is at the border 0, the curvature says nothing; the upper bound is where even
    noise costs too much.
    """
    quantile = normal_quantile(0.5 + level / 2)
    if rate * len(z) > 0.5:
        off = fit.transition - torch.diag(fit.transition.diagonal())

        def loss(point: Tensor) -> Tensor:
            probs = (z * fit.scale * point[0].exp() + fit.offsets).softmax(1)
            own = probs.gather(1, targets[:, None])[:, 0]
            moved = (probs * off[:, targets].T).sum(1) - off.sum(1)[targets] * own
            return -(own + point[1].exp() * moved).clamp(min=1e-300).log().sum()

        hessian = torch.autograd.functional.hessian(loss, z.new_zeros(2))  # type: ignore[no-untyped-call]
        variance = float(torch.linalg.pinv(hessian, hermitian=True)[1, 1])
        factor = math.exp(quantile * math.sqrt(min(max(variance, 0.0), 100.0)))
        return rate / factor, min(1.0, rate * factor)
    own = (z * fit.scale + fit.offsets).softmax(1).gather(1, targets[:, None])[:, 0]
    share = (
        torch.cat([torch.zeros(1), torch.logspace(-6, math.log10(0.999), 100)])
        .double()
        .to(z.device)
    )
    gain = (
        (own + share[:, None] * ((1 - own) / (z.shape[1] - 1) - own)).clamp(min=1e-300).log().sum(1)
    )
    return 0.0, float(share[gain >= gain.max() - quantile**2 / 2].max())


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
