"""Rows in the order in which a person should review their labels, most suspicious first."""

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
    """Rows with a quality score of their given label and a suggested label.

    Args:
        confidence: probability of the given label, `[n]`.
        suggested: most probable other class, `[n]` int64.
        suggested_probability: probability of the suggested class, `[n]`.
        targets: given class ids, `[n]` int64.
        score: label quality by which rows are ordered, lowest first, `[n]` float.
        confidently_wrong: whether the suggested class reaches its confident threshold and the given
            one is not the prediction, `[n]` bool.
        basis: source of the score: `out-of-sample`, `in-sample` or `training dynamics`.
    """

    confidence: Tensor
    suggested: Tensor
    suggested_probability: Tensor
    targets: Tensor
    score: Tensor
    confidently_wrong: Tensor
    basis: str

    @property
    def order(self) -> Tensor:
        """`[n]` rows, most suspicious first."""
        return self.score.argsort(stable=True)

    def least_confident(self, *, share: float = 0.05) -> Tensor:
        """Rows of the lowest scores, at least one; confidently wrong ones first, then by score.

        Args:
            share: share of the rows.
        """
        bucket = self.order[: _size(len(self.score), share)]
        return bucket[(~self.confidently_wrong[bucket]).to(torch.uint8).argsort(stable=True)]

    def most_confident(self, *, share: float = 0.05) -> Tensor:
        """Rows of the highest scores, highest first: examples of correct labels.

        Args:
            share: share of the rows.
        """
        return self.order.flip(0)[: _size(len(self.score), share)]

    def table(self, *, share: float = 0.05) -> DataFrame:
        """One row per row of both buckets: labels, probabilities, score, confidently wrong.

        Args:
            share: share of the rows in each bucket.
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
                "p_suggested": self.suggested_probability[rows],
                "score": self.score[rows],
                "confidently_wrong": self.confidently_wrong[rows],
            }
            frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
            frame.insert(0, "bucket", bucket)
            parts.append(frame)
        return pd.concat(parts, ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Histogram of the score, confidently wrong rows apart."""
        ax = axes(ax)
        score, wrong = self.score.double().cpu(), self.confidently_wrong.cpu()
        low, high = (float(score.min()), float(score.max()) + 1e-9) if len(score) else (0.0, 1.0)
        edges = torch.linspace(low, high, 41).tolist()
        for rows, color, label in (
            (~wrong, REFERENCE, "other rows"),
            (wrong, LIVE, f"confidently wrong: {int(wrong.sum()):,} rows"),
        ):
            ax.hist(score[rows].numpy(), bins=edges, color=color, alpha=0.8, label=label)
        ax.set_yscale("symlog", linthresh=1)
        quantity = "score" if self.basis == DYNAMICS else "confidence in the given label"
        ax.set_xlabel(f"{quantity} ({self.basis})")
        ax.set_ylabel("rows")
        ax.set_title("Quality of the given labels")
        ax.legend(loc="upper center")
        return ax


def label_ranking(
    probs: Tensor, targets: Tensor, *, basis: str = OUT_OF_SAMPLE, score: Tensor | None = None
) -> LabelRanking:
    """Rows ordered by confidence in the given label, or by a score of their training.

    The lowest confidence in the predicted class finds ambiguous rows, not wrong labels. In-sample
    probabilities hide labels that were memorized.

    Source: Northcutt, Jiang and Chuang (2021), J. Artif. Intell. Res. 70:1373, self-confidence;
    Pleiss et al. (2020), arXiv:2001.10528, area under the margin. O(nk) and one sort.

    Args:
        probs: probabilities, `[n, k]`.
        targets: given class ids, `[n]` int64.
        basis: source of `probs`, or of `score` if given; named in every table and plot.
        score: label quality, lowest where the label is most doubtful, `[n]` float; default the
            confidence in the given label.

    Raises:
        InputError: an unknown basis, other shapes, labels outside 0..k-1.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        >>> label_ranking(probs, torch.tensor([0, 0, 0])).order.tolist()
        [1, 2, 0]
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
    probability, suggested = probs.scatter(1, targets[:, None], -1.0).max(1)
    quality = confidence if score is None else score
    return LabelRanking(confidence, suggested, probability, targets, quality, wrong, basis)


def audit_ranking(noise: LabelNoise, basis: str, metadata: DataFrame | None = None) -> LabelRanking:
    """Rows ordered by area under the margin where training recorded it, else by label quality.

    Args:
        noise: label noise of n rows.
        basis: source of the logits behind it, `out-of-sample` or `in-sample`.
        metadata: table `[n, m]`; its column `dynamics_aum`, if complete, is the score.
    """
    recorded = None if metadata is None else metadata.get(f"{COLUMN}aum")
    if recorded is not None and recorded.notna().all():
        device = noise.error_probability.device
        score = torch.tensor(recorded.to_numpy(), dtype=torch.float64, device=device)
        return label_ranking(noise.probs, noise.targets, basis=DYNAMICS, score=score)
    return label_ranking(noise.probs, noise.targets, basis=basis, score=noise.label_quality)


def _size(n: int, share: float) -> int:
    return min(n, max(1, round(share * n)))
