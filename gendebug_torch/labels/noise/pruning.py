"""What leaving out suspicious rows would change: temperature, accuracy and log loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import BarEvidence
from gendebug_torch.errors import reject
from gendebug_torch.labels.noise.noise_model import class_logits
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.logit_scaling import fit_affine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class PruningEffect:
    """Accuracy and log loss of some variants of a model on the same evaluation rows.

    Args:
        names: names of `v` variants, first the model as it is.
        temperature: divisor of the logits, `[v]`; 1 for the model as it is.
        correct: whether each evaluation row is predicted correctly, `[v, m]` float64.
        nats: log loss of each evaluation row, `[v, m]` float64.
        pruned: number of rows left out.
        rows: number of rows before.
        biased: whether the evaluation rows are the remaining rows, which favors the variants.
    """

    names: tuple[str, ...]
    temperature: Tensor
    correct: Tensor
    nats: Tensor
    pruned: int
    rows: int
    biased: bool

    def table(self) -> DataFrame:
        """One row per variant: temperature, accuracy and log loss, and changes with intervals."""
        import pandas as pd

        frame = pd.DataFrame({"variant": self.names, "temperature": self.temperature.cpu().numpy()})
        for name, values in (("accuracy", self.correct), ("log_loss", self.nats)):
            change = values - values[0]
            half = (
                normal_quantile(0.975) * change.std(1) / max(values.shape[1], 1) ** 0.5
                if values.shape[1] > 1
                else change.sum(1) * 0
            )
            columns = {name: values.mean(1), f"{name}_change": change.mean(1)}
            columns |= {f"{name}_low": change.mean(1) - half, f"{name}_high": change.mean(1) + half}
            frame = frame.assign(**{key: value.cpu().numpy() for key, value in columns.items()})
        return frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """Change of the log loss of each variant against the model as it is."""
        note = " (evaluated on the remaining rows: biased)" if self.biased else ""
        bars = BarEvidence(
            self.table().iloc[1:],
            "variant",
            "log_loss_change",
            title=f"Without {self.pruned:,} of {self.rows:,} rows{note}",
            xlabel="change of the log loss in nats (95 % interval); negative is better",
            interval=("log_loss_low", "log_loss_high"),
            marker=0.0,
        )
        return bars.plot(ax)


def pruning_effect(
    logits: Tensor,
    targets: Tensor,
    suspicious: Tensor,
    *,
    evaluation: tuple[Tensor, Tensor] | None = None,
    fit: Callable[[Tensor], Tensor] | None = None,
) -> PruningEffect:
    """Accuracy and log loss of the model, recalibrated on all rows and without suspicious rows.

    With `fit`, of a retrained model too. Leaving out rows that a model disagrees with makes it look
    better on the rest whatever the labels are, so the variants are evaluated on other rows where
    `evaluation` gives them.

    Source: Guo et al. (2017), arXiv:1706.04599, temperature; Northcutt, Jiang and Chuang (2021), J.
    Artif. Intell. Res. 70:1373, training on the pruned rows.

    Args:
        logits: logits of the model on the rows to prune, `[n, k]` or `[n]`.
        targets: given class ids, `[n]` int64.
        suspicious: rows to leave out, `[n]` bool.
        evaluation: logits `[m, k]` and class ids `[m]` of other rows, e.g. validation.
        fit: function of the remaining rows `[n]` bool that returns logits `[m, k]` of a newly
            trained model on the evaluation rows.

    Raises:
        InputError: lengths differ, fewer than two rows remain, or `fit` returns another shape.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 3.0 * torch.randn(1000, 2, generator=generator)
        >>> given = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> wrong = torch.arange(1000) < 100
        >>> given[wrong] = 1 - given[wrong]
        >>> effect = pruning_effect(logits, given, wrong)
        >>> [round(float(value), 1) for value in effect.temperature]
        [1.0, 2.0, 1.0]
    """
    rest = _remaining(logits, targets, suspicious)
    z = class_logits(logits)
    scores, classes = evaluation or (logits[rest], targets[rest])
    scores = class_logits(scores)
    variants = {"as it is": (1.0, scores)}
    for name, rows in (("all rows", torch.ones_like(rest)), ("the remaining rows", rest)):
        temperature = _temperature(z[rows], targets[rows])
        variants[f"temperature of {name}"] = (temperature, scores / temperature)
    if fit is not None:
        variants["retrained on the remaining rows"] = (1.0, _retrained(fit, rest, scores))
    stacked = torch.stack([value for _, value in variants.values()])
    nats = torch.nn.functional.cross_entropy(
        stacked.flatten(0, 1), classes.repeat(len(stacked)), reduction="none"
    )
    return PruningEffect(
        tuple(variants),
        torch.tensor([value for value, _ in variants.values()], dtype=torch.float64),
        (stacked.argmax(2) == classes).double(),
        nats.view(len(stacked), -1),
        int(suspicious.sum()),
        len(targets),
        evaluation is None,
    )


def _remaining(logits: Tensor, targets: Tensor, suspicious: Tensor) -> Tensor:
    """`[n]` bool, rows that remain; refuses masks of other rows, or of almost all."""
    if not len(logits) == len(targets) == len(suspicious) or suspicious.dtype != torch.bool:
        got = f"{len(logits)}, {len(targets)}, {len(suspicious)} of {suspicious.dtype}"
        reject(
            "suspicious",
            f"a mask of {len(targets)} rows",
            got,
            "Pass one bool per row of logits and targets.",
        )
    rest = ~suspicious
    if int(rest.sum()) < 2:
        remaining = str(int(rest.sum()))
        reject("suspicious", "at least two remaining rows", remaining, "Leave out fewer rows.")
    return rest


def _retrained(fit: Callable[[Tensor], Tensor], rest: Tensor, scores: Tensor) -> Tensor:
    z = class_logits(fit(rest))
    if z.shape != scores.shape:
        reject(
            "fit",
            f"logits {list(scores.shape)} of the evaluation rows",
            str(list(z.shape)),
            "Return one row per evaluation row.",
        )
    return z


def _temperature(z: Tensor, targets: Tensor) -> float:
    scale = float(fit_affine(z, targets, family="temperature").scale.mean())
    return 1.0 / max(scale, 1e-6)
