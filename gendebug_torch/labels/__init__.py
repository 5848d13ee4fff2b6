"""Wrong labels: how many, which rows, in which groups, and what they cost."""

from gendebug_torch.labels.dynamics.recorder import DynamicsRecorder as DynamicsRecorder
from gendebug_torch.labels.noise.confident_learning import label_issues as label_issues
from gendebug_torch.labels.noise.group_noise import noise_by_group as noise_by_group
from gendebug_torch.labels.noise.noise_model import label_noise as label_noise
from gendebug_torch.labels.noise.pruning import pruning_effect as pruning_effect
from gendebug_torch.labels.prediction.cross_fitting import (
    cross_fitted_logits as cross_fitted_logits,
)
from gendebug_torch.labels.review.audit_sheet import audit_sheet as audit_sheet
from gendebug_torch.labels.review.audit_sheet import read_review as read_review
from gendebug_torch.labels.review.ranking import label_ranking as label_ranking

__all__ = [
    "DynamicsRecorder",
    "audit_sheet",
    "cross_fitted_logits",
    "label_issues",
    "label_noise",
    "label_ranking",
    "noise_by_group",
    "pruning_effect",
    "read_review",
]
