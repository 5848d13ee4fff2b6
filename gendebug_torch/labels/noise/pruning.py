"""What leaving out suspicious rows would change: the temperature, and the metric on rows that were
not picked by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.labels.noise.noise_model import class_logits
from gendebug_torch.stats.intervals import normal_quantile
from gendebug_torch.stats.logit_scaling import fit_affine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class PruningEffect:
    """Accuracy and log loss of a few variants on the same judging rows.

    Args:
        names: `v` variants, first of all the model as it is.
        temperature: `[v]` by which the logits were divided; 1 for the model as it is.
        correct: `[v, m]` float64, whether each judging row is predicted right.
        nats: `[v, m]` float64 log loss of each judging row.
        pruned: rows left out.
        rows: rows before.
        biased: the judging rows are among those that were pruned, so that better is partly by
            construction.
    """

    names: tuple[str, ...]
    temperature: Tensor
    correct: Tensor
    nats: Tensor
    pruned: int
    rows: int
    biased: bool

    def table(self) -> DataFrame:
        """One row per variant: temperature, accuracy and log loss with their change and its 95 %
        interval, paired by row.
        """
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
        frame = self.table().iloc[:0:-1]
        ax = axes(ax, size=(6.0, 2.6))
        change = frame["log_loss_change"]
        error = [change - frame["log_loss_low"], frame["log_loss_high"] - change]
        ax.errorbar(change, frame["variant"], xerr=error, fmt="o", color=REFERENCE, capsize=3)
        ax.axvline(0.0, color=NEUTRAL, linewidth=1)
        ax.set_xlabel("change of the log loss in nats; left is better")
        ax.set_ylabel("variant")
        flaw = "\njudged on the rows kept: partly by construction" if self.biased else ""
        ax.set_title(f"Without {self.pruned:,} of {self.rows:,} rows{flaw}", fontsize="medium")
        return ax


def pruning_effect(
    logits: Tensor,
    targets: Tensor,
    suspicious: Tensor,
    *,
    judged_on: tuple[Tensor, Tensor] | None = None,
    fit: Callable[[Tensor], Tensor] | None = None,
) -> PruningEffect:
    """The model as it is, its temperature refitted on all rows and on the rows kept, and a model
    fitted anew on them.

    Dropping rows that a model disagrees with makes it look better on what is left whatever the
    labels are; so the variants are judged on other rows, `judged_on`, where there are any.

    Source: Guo et al. (2017), arXiv:1706.04599, temperature; Northcutt, Jiang and Chuang (2021), J.
    Artif. Intell. Res. 70:1373, training on the pruned rows.

    Args:
        logits: `[n, k]` or `[n]` of the model on the rows to prune.
        targets: `[n]` int64 given labels.
        suspicious: `[n]` bool, rows to leave out.
        judged_on: logits `[m, k]` and labels `[m]` of other rows, e.g. validation.
        fit: `[n]` bool rows to keep -> logits `[m, k]` of a newly trained model on the judging
            rows.

    Raises:
        InputError: lengths differ, nothing is kept, or `fit` returns another shape.
    """
    if not len(logits) == len(targets) == len(suspicious) or suspicious.dtype != torch.bool:
        got = f"{len(logits)}, {len(targets)}, {len(suspicious)} of {suspicious.dtype}"
        reject(
            "suspicious",
            f"a mask of {len(targets)} rows",
            got,
            "Pass one bool per row of logits and targets.",
        )
    keep = ~suspicious
    if int(keep.sum()) < 2:
        reject(
            "suspicious", "at least two rows to keep", str(int(keep.sum())), "Leave out fewer rows."
        )
    z = class_logits(logits)
    there, truth = judged_on or (logits[keep], targets[keep])
    there = class_logits(there)
    scales = [_temperature(z, targets), _temperature(z[keep], targets[keep])]
    variants = {"as it is": (1.0, there)}
    variants["temperature of all rows"] = (scales[0], there / scales[0])
    variants["temperature of the rows kept"] = (scales[1], there / scales[1])
    if fit is not None:
        fresh = class_logits(fit(keep))
        if fresh.shape != there.shape:
            reject(
                "fit",
                f"logits {list(there.shape)} of the judging rows",
                str(list(fresh.shape)),
                "Return one row per judging row.",
            )
        variants["fitted anew on the rows kept"] = (1.0, fresh)
    said = torch.stack([value for _, value in variants.values()])
    nats = torch.nn.functional.cross_entropy(
        said.flatten(0, 1), truth.repeat(len(said)), reduction="none"
    ).view(len(said), -1)
    temperature = torch.tensor([value for value, _ in variants.values()], dtype=torch.float64)
    correct = (said.argmax(2) == truth).double()
    return PruningEffect(
        tuple(variants),
        temperature,
        correct,
        nats,
        int(suspicious.sum()),
        len(targets),
        judged_on is None,
    )


def _temperature(z: Tensor, targets: Tensor) -> float:
    scale = float(fit_affine(z, targets, family="temperature").scale.mean())
    return 1.0 / max(scale, 1e-6)
