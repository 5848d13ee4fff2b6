"""Rows in the order in which a person should look at their labels: least confidence in the given
label first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.errors import reject
from gendebug_torch.labels.dynamics.training_dynamics import COLUMN
from gendebug_torch.labels.noise.confident_learning import label_issues
from gendebug_torch.labels.noise.noise_model import LabelNoise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

IN_SAMPLE = "in-sample"
OUT_OF_SAMPLE = "out-of-sample"
DYNAMICS = "training dynamics"


@dataclass(frozen=True, eq=False)
class LabelRanking:
    """Every row with how much its given label is believed, and the order to look at them.

    Args:
        confidence: `[n]` probability of the given label.
        suggested: `[n]` int64 most probable other class.
        rival: `[n]` probability of the suggested class.
        targets: `[n]` int64 given labels.
        score: `[n]` float by which rows are ordered, most suspicious lowest; the confidence, or
            what training left.
        confidently_wrong: `[n]` bool, the suggested class reaches its confident threshold and the
            given one does not win.
        basis: `out-of-sample`, `in-sample` or `training dynamics`: where the score comes from.
    """

    confidence: Tensor
    suggested: Tensor
    rival: Tensor
    targets: Tensor
    score: Tensor
    confidently_wrong: Tensor
    basis: str

    @property
    def order(self) -> Tensor:
        """`[n]` rows, most suspicious first."""
        return self.score.argsort(stable=True)

    def least_confident(self, *, share: float = 0.05) -> Tensor:
        """The rows of the lowest share of scores, at least one: those that are confidently wrong
        first, then by score.
        """
        bucket = self.order[: _size(len(self.score), share)]
        return bucket[(~self.confidently_wrong[bucket]).to(torch.uint8).argsort(stable=True)]

    def most_confident(self, *, share: float = 0.05) -> Tensor:
        """The rows of the highest share of scores, highest first: what a label that is surely right
        looks like.
        """
        return self.order.flip(0)[: _size(len(self.score), share)]

    def table(self, *, share: float = 0.05) -> DataFrame:
        """The rows of both buckets: bucket, row, given, suggested, confidence in each, score,
        confidently wrong.
        """
        import pandas as pd

        parts = []
        for bucket, rows in (
            ("least confident", self.least_confident(share=share)),
            ("most confident", self.most_confident(share=share)),
        ):
            columns = {
                "row": rows,
                "given": self.targets[rows],
                "suggested": self.suggested[rows],
                "p_given": self.confidence[rows],
            }
            columns |= {
                "p_suggested": self.rival[rows],
                "score": self.score[rows],
                "confidently_wrong": self.confidently_wrong[rows],
            }
            frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
            frame.insert(0, "bucket", bucket)
            parts.append(frame)
        return pd.concat(parts, ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Histogram of the score over all rows, those that are confidently wrong apart."""
        ax = axes(ax)
        score, wrong = self.score.double().cpu(), self.confidently_wrong.cpu()
        edges = (
            torch.linspace(float(score.min()), float(score.max()) + 1e-9, 41)
            if len(score)
            else torch.linspace(0, 1, 41)
        )
        for rows, color, label in (
            (~wrong, REFERENCE, "other rows"),
            (wrong, LIVE, f"confidently wrong: {int(wrong.sum()):,} rows"),
        ):
            ax.hist(score[rows].numpy(), bins=edges.tolist(), color=color, alpha=0.8, label=label)
        ax.set_yscale("symlog", linthresh=1)
        ax.set_xlabel(
            f"{'score' if self.basis == DYNAMICS else 'confidence in the given label'} "
            f"({self.basis})"
        )
        ax.set_ylabel("rows")
        ax.set_title("How much the given labels are believed")
        ax.legend(loc="upper center")
        return ax


def label_ranking(
    probs: Tensor, targets: Tensor, *, basis: str = OUT_OF_SAMPLE, score: Tensor | None = None
) -> LabelRanking:
    """Rows ordered by confidence in the given label, or by a score of their training such as the
    area under the margin.

    The lowest confidence in whatever class is most probable is another question (ambiguous rows)
    and finds no wrong labels. In-sample probabilities hide labels that were learned by heart.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70:1373, self-confidence;
    Pleiss et al. (2020), arXiv:2001.10528, area under the margin. O(nk) and one sort.

    Args:
        probs: `[n, k]` probabilities.
        targets: `[n]` int64 given labels.
        basis: where `probs`, or `score` if given, comes from; said in every table and plot.
        score: `[n]` float, lowest where the label is most doubtful; default the confidence in the
            given label.

    Raises:
        InputError: an unknown basis, other shapes, labels outside 0..k-1.
    """
    if basis not in (IN_SAMPLE, OUT_OF_SAMPLE, DYNAMICS):
        reject(
            "basis",
            f"`{IN_SAMPLE}`, `{OUT_OF_SAMPLE}` or `{DYNAMICS}`",
            repr(basis),
            "Say where the scores come from.",
        )
    if score is not None and score.shape != targets.shape:
        reject(
            "score",
            f"one for each of {len(targets)} labels",
            str(list(score.shape)),
            "Align scores with rows.",
        )
    wrong = label_issues(probs, targets, rule="confident_joint")
    confidence = probs.gather(1, targets[:, None])[:, 0]
    rival, suggested = probs.scatter(1, targets[:, None], -1.0).max(1)
    return LabelRanking(
        confidence, suggested, rival, targets, confidence if score is None else score, wrong, basis
    )


def audit_ranking(noise: LabelNoise, basis: str, metadata: DataFrame | None = None) -> LabelRanking:
    """The best order there is: by the area under the margin where training recorded it, else by how
    much labels are believed.

    Args:
        noise: of n rows.
        basis: of the logits behind it, `out-of-sample` or `in-sample`.
        metadata: `[n, m]`; its column `dynamics_aum`, if it has one for every row, is the score.
    """
    recorded = None if metadata is None else metadata.get(f"{COLUMN}aum")
    if recorded is not None and recorded.notna().all():
        score = torch.tensor(recorded.to_numpy(), dtype=torch.float64, device=noise.wrong.device)
        return label_ranking(noise.probs, noise.targets, basis=DYNAMICS, score=score)
    return label_ranking(noise.probs, noise.targets, basis=basis, score=noise.belief)


def _size(n: int, share: float) -> int:
    return min(n, max(1, round(share * n)))
