"""Wrong labels: how many, which rows, where they come from, and what they cost."""

from gendebug_torch.labels.dynamics.recorder import DynamicsRecorder as DynamicsRecorder
from gendebug_torch.labels.dynamics.training_dynamics import TrainingDynamics as TrainingDynamics
from gendebug_torch.labels.noise.confident_learning import ConfidentJoint as ConfidentJoint
from gendebug_torch.labels.noise.confident_learning import confident_joint as confident_joint
from gendebug_torch.labels.noise.confident_learning import (
    confident_thresholds as confident_thresholds,
)
from gendebug_torch.labels.noise.confident_learning import label_issues as label_issues
from gendebug_torch.labels.noise.cross_fitting import cross_fitted_logits as cross_fitted_logits
from gendebug_torch.labels.noise.noise_model import LabelNoise as LabelNoise
from gendebug_torch.labels.noise.noise_model import class_logits as class_logits
from gendebug_torch.labels.noise.noise_model import label_noise as label_noise
from gendebug_torch.labels.noise.pruning import PruningEffect as PruningEffect
from gendebug_torch.labels.noise.pruning import pruning_effect as pruning_effect
from gendebug_torch.labels.review.audit_sheet import Review as Review
from gendebug_torch.labels.review.audit_sheet import audit_sheet as audit_sheet
from gendebug_torch.labels.review.audit_sheet import read_review as read_review
from gendebug_torch.labels.review.ranking import LabelRanking as LabelRanking
from gendebug_torch.labels.review.ranking import audit_ranking as audit_ranking
from gendebug_torch.labels.review.ranking import label_ranking as label_ranking
from gendebug_torch.labels.review.suspicion_groups import SuspicionGroups as SuspicionGroups
from gendebug_torch.labels.review.suspicion_groups import suspicion_groups as suspicion_groups
from gendebug_torch.labels.review.suspicion_groups import suspicion_pairs as suspicion_pairs

__all__ = [
    "ConfidentJoint",
    "DynamicsRecorder",
    "LabelNoise",
    "LabelRanking",
    "PruningEffect",
    "Review",
    "SuspicionGroups",
    "TrainingDynamics",
    "audit_ranking",
    "audit_sheet",
    "class_logits",
    "confident_joint",
    "confident_thresholds",
    "cross_fitted_logits",
    "label_issues",
    "label_noise",
    "label_ranking",
    "pruning_effect",
    "read_review",
    "suspicion_groups",
    "suspicion_pairs",
]
