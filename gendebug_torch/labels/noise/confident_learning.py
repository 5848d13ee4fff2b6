"""Confident learning: how often labels are confidently contradicted, and which rows those are,
batched over classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Rule = Literal["confident_joint", "by_class", "by_noise_rate", "both"]
RULES: tuple[Rule, ...] = ("confident_joint", "by_class", "by_noise_rate", "both")

# A probability this close below a threshold reaches it, and a label this close below the top one is
# kept: sums of probabilities differ by as much between summation orders in float32.
_SLACK = 1e-6
# A class whose rows never get any probability would otherwise be reached by every row.
_LOWEST_THRESHOLD = 2e-6
# Probabilities compared at once: what stays in the cache of a core, or what fills a device.
_CELLS = {"cpu": 2**18, "cuda": 2**26}


@dataclass(frozen=True, eq=False)
class ConfidentJoint:
    """Rows counted by the label they were given and the class they confidently belong to. Adds over
    rows of one threshold.

    Args:
        counts: `[k, k]` int64, given label by confident class; rows confident of no class are not
            in it.
        labeled: `[k]` int64 rows per given label, confident or not.
        thresholds: `[k]` float64 mean probability of each class over the rows that are labeled so.
    """

    counts: Tensor
    labeled: Tensor
    thresholds: Tensor

    def __add__(self, other: ConfidentJoint) -> ConfidentJoint:
        if not torch.equal(self.thresholds, other.thresholds):
            reject(
                "other",
                "counts under the same thresholds",
                "other thresholds",
                "Pass `thresholds` of the whole to each chunk.",
            )
        return replace(
            self, counts=self.counts + other.counts, labeled=self.labeled + other.labeled
        )

    @property
    def calibrated(self) -> Tensor:
        """`[k, k]` int64 estimate of how many rows of each given label truly are of each class; row
        sums equal `labeled`.

        Every class keeps at least one confident row of its own (Northcutt et al., 2021, eq. 3);
        fractions are rounded so that the row sums stay.
        """
        counts = self.counts.double()
        counts.diagonal().clamp_(min=1.0)
        scaled = counts / counts.sum(1, keepdim=True) * self.labeled.double()[:, None]
        return _rounded(scaled / scaled.sum().clamp(min=1e-100) * self.labeled.sum())

    def table(self) -> DataFrame:
        """One row per pair of given and other class that has any count, most frequent first."""
        import pandas as pd

        counts = self.counts.clone().cpu()
        counts.diagonal().zero_()
        given, other = counts.nonzero().T
        frame = pd.DataFrame(
            {
                "given": given.numpy(),
                "confident_class": other.numpy(),
                "rows": counts[given, other].numpy(),
            }
        )
        frame["share_of_label"] = frame["rows"] / self.labeled.cpu()[given].clamp(min=1).numpy()
        return frame.sort_values("rows", ascending=False, kind="stable").reset_index(drop=True)

    def plot(self, ax: Axes | None = None, *, top: int = 15) -> Axes:
        """The most frequent contradictions as bars."""
        frame = self.table().head(top).iloc[::-1]
        ax = axes(ax)
        ax.barh(
            [f"{g} → {c}" for g, c in zip(frame["given"], frame["confident_class"], strict=True)],
            frame["rows"],
        )
        ax.set_xlabel("rows")
        ax.set_ylabel("given label → confident class")
        ax.set_title("Labels that the model confidently contradicts")
        return ax


def confident_thresholds(probs: Tensor, targets: Tensor) -> Tensor:
    """`[k]` float64 mean probability of each class over the rows labeled so; 2 (never reached) for
    a class without rows.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70:1373, eq. 2.

    Args:
        probs: `[n, k]` probabilities, out-of-sample if they are to mean anything.
        targets: `[n]` int64 given labels.
    """
    _validate(probs, targets)
    own = probs.gather(1, targets[:, None])[:, 0].double()
    labeled = torch.bincount(targets, minlength=probs.shape[1])
    sums = torch.zeros(probs.shape[1], dtype=torch.float64, device=probs.device).index_add_(
        0, targets, own
    )
    return torch.where(labeled > 0, (sums / labeled.clamp(min=1)).clamp(min=_LOWEST_THRESHOLD), 2.0)


def confident_joint(
    probs: Tensor, targets: Tensor, *, thresholds: Tensor | None = None
) -> ConfidentJoint:
    """Counts of given label by confident class; a row is confident of the classes whose threshold
    it reaches.

    Where several are reached the top class of the row counts; rows that reach none are left out.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70:1373, eq. 1. O(nk) time,
    O(n) memory besides.

    Args:
        probs: `[n, k]` probabilities.
        targets: `[n]` int64 given labels.
        thresholds: `[k]`, of the whole where this is a chunk; default: of these rows.

    Raises:
        InputError: other shapes, labels outside 0..k-1.
    """
    limits = confident_thresholds(probs, targets) if thresholds is None else thresholds
    return _joint(*_confident_class(probs, targets, limits), targets, limits)


def label_issues(probs: Tensor, targets: Tensor, *, rule: Rule = "by_noise_rate") -> Tensor:
    """`[n]` bool, the rows whose label confident learning calls wrong; one of them is never the
    model's own choice.

    `confident_joint`: the rows counted off the diagonal. `by_class`: of each label, as many as the
    calibrated joint puts elsewhere, those of lowest probability of it. `by_noise_rate`: of each
    pair (given, other), as many as the calibrated joint says, those of largest margin. `both`: what
    the last two agree on.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70:1373, section 3.2. Time
    O(nk), k selections of `[n / k, k]`.

    Args:
        probs: `[n, k]` probabilities, out-of-sample; in-sample ones hide the labels that were
            memorised.
        targets: `[n]` int64 given labels.
        rule: as above.

    Raises:
        InputError: an unknown rule, other shapes, labels outside 0..k-1.
    """
    if rule not in RULES:
        reject("rule", f"one of {', '.join(RULES)}", repr(rule), "Choose one of them.")
    thresholds = confident_thresholds(probs, targets)
    found, reached = _confident_class(probs, targets, thresholds)
    if rule == "confident_joint":
        chosen = reached & (found != targets)
    else:
        joint = _joint(found, reached, targets, thresholds)
        wanted = _prunable(joint.calibrated)
        masks = []
        if rule in ("by_class", "both"):
            masks.append(
                _least_confident(probs, targets, joint.labeled, joint.labeled - wanted.diagonal())
            )
        if rule in ("by_noise_rate", "both"):
            masks.append(_largest_margins(probs, targets, joint.labeled, wanted))
        chosen = torch.stack(masks).all(0)
    rows = chosen.nonzero()[:, 0]
    block = probs[rows]
    own = block.gather(1, targets[rows, None])
    rivals = block.scatter(1, targets[rows, None], -1.0).amax(1)
    chosen[rows] = rivals > own[:, 0] + _SLACK
    return chosen


def _joint(found: Tensor, reached: Tensor, targets: Tensor, thresholds: Tensor) -> ConfidentJoint:
    k = len(thresholds)
    cells = torch.bincount((targets * k + found)[reached], minlength=k * k)
    return ConfidentJoint(cells.reshape(k, k), torch.bincount(targets, minlength=k), thresholds)


def _confident_class(probs: Tensor, targets: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """`[n]` confident class, and whether there is one.

    Where several classes reach their threshold, cleanlab takes the top class of the row, whether or
    not it reaches its own; the paper takes the top one among them. The sets are cleanlab's, so its
    reading is followed.
    """
    _validate(probs, targets)
    limits = (thresholds - _SLACK).to(probs.dtype)
    rows = max(1, _CELLS.get(probs.device.type, _CELLS["cpu"]) // max(probs.shape[1], 1))
    parts = [_confident_chunk(part, limits) for part in torch.split(probs, rows)]
    return torch.cat([found for found, _ in parts]), torch.cat([reached for _, reached in parts])


def _confident_chunk(probs: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """One class at or above its limit is the one of largest excess; only where that is not the top
    class is more counted.
    """
    excess, found = (probs - limits).max(1)
    top = probs.argmax(1)
    unsure = (found != top).nonzero()[:, 0]
    several = (probs[unsure] >= limits).sum(1) > 1
    return found.index_put((unsure,), torch.where(several, top[unsure], found[unsure])), excess >= 0


def _prunable(calibrated: Tensor) -> Tensor:
    """The calibrated joint with at least one row left on each diagonal cell, taken evenly from the
    rest of its row.
    """
    diagonal = calibrated.diagonal().double()
    kept = diagonal.clamp(min=1.0)
    others = ((calibrated != 0).sum(1) - 1).clamp(min=1)
    wanted = (calibrated.double() - ((kept - diagonal) / others)[:, None]).clamp(min=0.0)
    wanted.diagonal().copy_(kept)
    return wanted.long()


def _least_confident(probs: Tensor, targets: Tensor, labeled: Tensor, wanted: Tensor) -> Tensor:
    """Of each label the `wanted` rows of lowest probability of it, by one sort over all rows."""
    own = probs.gather(1, targets[:, None])[:, 0]
    order = own.argsort(stable=True)
    order = order[targets[order].argsort(stable=True)]
    label = targets[order]
    place = torch.arange(len(order), device=order.device) - (labeled.cumsum(0) - labeled)[label]
    mask = torch.zeros_like(targets, dtype=torch.bool)
    mask[order] = (place < wanted[label]) & (labeled[label] > 1)
    return mask


def _largest_margins(probs: Tensor, targets: Tensor, labeled: Tensor, wanted: Tensor) -> Tensor:
    """Of each (given, other) the `wanted` rows of largest margin `p_other - p_given`."""
    off = wanted.clone()
    off.fill_diagonal_(0)
    off[labeled <= 1] = 0
    most = off.amax(1).tolist()
    blocks = torch.split(targets.argsort(stable=True), labeled.tolist())
    mask = torch.zeros_like(targets, dtype=torch.bool)
    for given, (rows, m) in enumerate(zip(blocks, most, strict=True)):
        if m:
            columns = off[given].nonzero()[:, 0]
            block = probs[rows]
            picked = (
                (block[:, columns] - block[:, given, None]).topk(min(m, len(rows)), dim=0).indices
            )
            within = torch.arange(len(picked), device=rows.device)[:, None] < off[given, columns]
            mask[rows[picked[within]]] = True
    return mask


def _rounded(matrix: Tensor) -> Tensor:
    """`[k, k]` rounded to whole numbers, the largest remainders moved until each row sum is the
    rounded one.

    On the host: which of two equal remainders moves is left to NumPy's sort, as in cleanlab.
    """
    values = matrix.cpu().numpy()
    whole = values.round()
    missing = values.sum(1).round() - whole.sum(1)
    upward = np.argsort(values - whole, axis=1)
    order = np.where(missing[:, None] > 0, upward[:, ::-1], upward)
    step = np.sign(missing)[:, None] * (np.arange(len(whole)) < np.abs(missing)[:, None])
    moved = np.take_along_axis(whole, order, axis=1) + step
    np.put_along_axis(whole, order, moved, axis=1)
    return torch.from_numpy(whole.astype(np.int64)).to(matrix.device)


def _validate(probs: Tensor, targets: Tensor) -> None:
    if (
        probs.ndim != 2
        or not probs.is_floating_point()
        or targets.shape != probs.shape[:1]
        or targets.dtype != torch.int64
    ):
        got = f"{probs.dtype} {list(probs.shape)} with {targets.dtype} {list(targets.shape)}"
        reject(
            "probs, targets",
            "float [n, k] and int64 [n]",
            got,
            "Pass one row of class probabilities per label.",
        )
    if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= probs.shape[1]):
        got = f"{int(targets.min())}..{int(targets.max())}"
        reject(
            "targets",
            f"labels in 0..{probs.shape[1] - 1}",
            got,
            "Map the labels to the columns of `probs`.",
        )
