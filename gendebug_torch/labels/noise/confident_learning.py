"""Confident learning: which labels a model confidently contradicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.errors import reject

Rule = Literal["confident_joint", "by_class", "by_noise_rate", "both"]
RULES: tuple[Rule, ...] = ("confident_joint", "by_class", "by_noise_rate", "both")

# A probability this close below a threshold reaches it, and a label this close below the top class
# is no issue: sums of probabilities differ by as much between summation orders in float32.
_SLACK = 1e-6
# A class whose rows never get any probability would otherwise be reached by every row.
_MIN_THRESHOLD = 2e-6
# Probabilities compared at once: what stays in the cache of a core, or what fills a device.
_HOST_CELLS, _DEVICE_CELLS = 2**18, 2**26


@dataclass(frozen=True, eq=False)
class ConfidentJoint:
    """Rows counted by given label and confident class.

    Args:
        counts: given label by confident class, `[k, k]` int64, without rows that are confident of
            no class.
        class_counts: rows per given label, `[k]` int64.
    """

    counts: Tensor
    class_counts: Tensor

    @property
    def calibrated(self) -> Tensor:
        """`[k, k]` int64 estimated rows of each given label and true class.

        Row sums equal `class_counts`. Every class keeps at least one confident row of its own
        (Northcutt et al., 2021, eq. 3); fractions are rounded so that the row sums stay.
        """
        counts = self.counts.double()
        counts.diagonal().clamp_(min=1.0)
        scaled = counts / counts.sum(1, keepdim=True) * self.class_counts.double()[:, None]
        return _rounded(scaled / scaled.sum().clamp(min=1e-100) * self.class_counts.sum())


def confident_thresholds(probs: Tensor, targets: Tensor) -> Tensor:
    """`[k]` float64 mean probability of each class over the rows labeled so.

    2, which is never reached, for a class without rows.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70:1373, eq. 2.

    Args:
        probs: probabilities, `[n, k]`.
        targets: given class ids, `[n]` int64.
    """
    _validate(probs, targets)
    own = probs.gather(1, targets[:, None])[:, 0].double()
    counts = torch.bincount(targets, minlength=probs.shape[1])
    sums = torch.zeros(probs.shape[1], dtype=torch.float64, device=probs.device).index_add_(
        0, targets, own
    )
    return torch.where(counts > 0, (sums / counts.clamp(min=1)).clamp(min=_MIN_THRESHOLD), 2.0)


def confident_joint(probs: Tensor, targets: Tensor) -> ConfidentJoint:
    """Counts of given label by confident class.

    A row is confident of the classes whose threshold it reaches. Where it reaches several, the top
    class of the row counts; rows that reach none are left out.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70:1373, eq. 1. O(nk) time,
    O(n) memory.

    Args:
        probs: probabilities, `[n, k]`.
        targets: given class ids, `[n]` int64.

    Raises:
        InputError: other shapes, labels outside 0..k-1.
    """
    classes, reached = _confident_class(probs, targets)
    return _joint(classes, reached, targets, probs.shape[1])


def label_issues(probs: Tensor, targets: Tensor, *, rule: Rule = "by_noise_rate") -> Tensor:
    """`[n]` bool, rows whose label confident learning calls wrong.

    None of them is the model's own prediction. The rules:
    `confident_joint`: the rows counted off the diagonal.
    `by_class`: of each label, as many rows as the calibrated joint puts elsewhere, those of lowest
    probability of the label.
    `by_noise_rate`: of each pair (given, other), as many rows as the calibrated joint says, those
    of largest margin.
    `both`: the rows on which the last two agree.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70:1373, section 3.2. O(nk)
    time, and a selection in `[n / k, k]` per class.

    Args:
        probs: out-of-sample probabilities, `[n, k]`; in-sample ones hide memorized labels.
        targets: given class ids, `[n]` int64.
        rule: how rows are selected.

    Raises:
        InputError: an unknown rule, other shapes, labels outside 0..k-1.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9]])
        >>> label_issues(probs, torch.tensor([0, 0, 1, 1, 0])).tolist()
        [False, False, False, False, True]
    """
    if rule not in RULES:
        reject("rule", f"one of {', '.join(RULES)}", repr(rule), "Choose one of them.")
    classes, reached = _confident_class(probs, targets)
    if rule == "confident_joint":
        selected = reached & (classes != targets)
    else:
        joint = _joint(classes, reached, targets, probs.shape[1])
        errors, counts = _prunable(joint.calibrated), joint.class_counts
        masks = []
        if rule in ("by_class", "both"):
            masks.append(_least_confident(probs, targets, counts, counts - errors.diagonal()))
        if rule in ("by_noise_rate", "both"):
            masks.append(_largest_margins(probs, targets, counts, errors))
        selected = torch.stack(masks).all(0)
    rows = selected.nonzero()[:, 0]
    block = probs[rows]
    own = block.gather(1, targets[rows, None])
    others = block.scatter(1, targets[rows, None], -1.0).amax(1)
    selected[rows] = others > own[:, 0] + _SLACK
    return selected


def _joint(classes: Tensor, reached: Tensor, targets: Tensor, k: int) -> ConfidentJoint:
    cells = torch.bincount((targets * k + classes)[reached], minlength=k * k)
    return ConfidentJoint(cells.reshape(k, k), torch.bincount(targets, minlength=k))


def _confident_class(probs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`[n]` confident class, and whether there is one.

    Where several classes reach their threshold, cleanlab takes the top class of the row, whether or
    not it reaches its own; the paper takes the top one among them. This follows cleanlab.
    """
    limits = (confident_thresholds(probs, targets) - _SLACK).to(probs.dtype)
    rows = max(1, _block_cells(probs.device) // max(probs.shape[1], 1))
    parts = [_confident_chunk(part, limits) for part in torch.split(probs, rows)]
    classes, reached = zip(*parts, strict=True)
    return torch.cat(classes), torch.cat(reached)


def _block_cells(device: torch.device) -> int:
    return _DEVICE_CELLS if device.type == "cuda" else _HOST_CELLS


def _confident_chunk(probs: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    # A single class above its limit has the largest excess: the classes are counted only where that
    # is not the top class.
    excess, classes = (probs - limits).max(1)
    top = probs.argmax(1)
    differs = (classes != top).nonzero()[:, 0]
    several = (probs[differs] >= limits).sum(1) > 1
    found = torch.where(several, top[differs], classes[differs])
    return classes.index_put((differs,), found), excess >= 0


def _prunable(calibrated: Tensor) -> Tensor:
    """The calibrated joint with at least one row per diagonal cell, taken from its row evenly."""
    diagonal = calibrated.diagonal().double()
    raised = diagonal.clamp(min=1.0)
    others = ((calibrated != 0).sum(1) - 1).clamp(min=1)
    counts = (calibrated.double() - ((raised - diagonal) / others)[:, None]).clamp(min=0.0)
    counts.diagonal().copy_(raised)
    return counts.long()


def _least_confident(probs: Tensor, targets: Tensor, class_counts: Tensor, sizes: Tensor) -> Tensor:
    """`[n]` bool, of each label the `sizes` rows of lowest probability of it, by one sort."""
    own = probs.gather(1, targets[:, None])[:, 0]
    order = own.argsort(stable=True)
    order = order[targets[order].argsort(stable=True)]
    label = targets[order]
    first = (class_counts.cumsum(0) - class_counts)[label]
    rank = torch.arange(len(order), device=order.device) - first
    mask = torch.zeros_like(targets, dtype=torch.bool)
    mask[order] = (rank < sizes[label]) & (class_counts[label] > 1)
    return mask


def _largest_margins(probs: Tensor, targets: Tensor, class_counts: Tensor, sizes: Tensor) -> Tensor:
    """`[n]` bool, of each (given, other) the `sizes` rows of largest margin `p_other - p_given`.

    Labels are taken together as far as they fill a block: on a device all, on the host few.
    """
    off = sizes.clone()
    off.fill_diagonal_(0)
    off[class_counts <= 1] = 0
    cells = _block_cells(probs.device)
    rows = targets.argsort(stable=True)
    first = class_counts.cumsum(0) - class_counts
    mask = torch.zeros_like(targets, dtype=torch.bool)
    for labels in _label_blocks(class_counts, off.amax(1), cells // max(probs.shape[1], 1)):
        columns = off[labels].amax(0).nonzero()[:, 0]
        position = torch.arange(int(class_counts[labels].max()), device=rows.device)
        inside = position < class_counts[labels, None]
        block = rows[(first[labels, None] + position).clamp(max=len(rows) - 1)]
        # Two selections are several times faster on the host than one by pairs of indices.
        others = probs.index_select(0, block.flatten()).index_select(1, columns)
        margins = others.view(*block.shape, -1) - probs[block, labels[:, None]][..., None]
        margins.masked_fill_(~inside[..., None], -torch.inf)
        most = min(int(off[labels].max()), len(position))
        top = margins.topk(most, dim=1).indices
        rank = torch.arange(most, device=rows.device)[None, :, None]
        label, _, _ = (selected := (rank < off[labels][:, None, columns])).nonzero(as_tuple=True)
        mask[block[label, top[selected]]] = True
    return mask


def _label_blocks(class_counts: Tensor, sizes: Tensor, rows: int) -> list[Tensor]:
    """Labels with a size, by their number of rows, in blocks that have about `rows` rows padded."""
    labels = sizes.nonzero()[:, 0]
    labels = labels[class_counts[labels].argsort(stable=True)]
    blocks, start = [], 0
    counts = class_counts[labels].tolist()
    for end in range(1, len(counts) + 1):
        if end == len(counts) or counts[end] * (end + 1 - start) > rows:
            blocks.append(labels[start:end])
            start = end
    return blocks


def _rounded(matrix: Tensor) -> Tensor:
    """`[k, k]` int64 by largest remainders, so that each row sum is the rounded one.

    On the host: which of two equal remainders changes is left to NumPy's sort, as in cleanlab.
    """
    values = matrix.cpu().numpy()
    whole = values.round()
    missing = values.sum(1).round() - whole.sum(1)
    upward = np.argsort(values - whole, axis=1)
    order = np.where(missing[:, None] > 0, upward[:, ::-1], upward)
    step = np.sign(missing)[:, None] * (np.arange(len(whole)) < np.abs(missing)[:, None])
    np.put_along_axis(whole, order, np.take_along_axis(whole, order, axis=1) + step, axis=1)
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
