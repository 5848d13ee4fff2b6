"""Wrong labels: how many, which rows, where they come from, and what they cost."""

from gendebug_torch.labels.audit import Review as Review
from gendebug_torch.labels.audit import audit_sheet as audit_sheet
from gendebug_torch.labels.audit import read_review as read_review
from gendebug_torch.labels.clusters import SuspicionGroups as SuspicionGroups
from gendebug_torch.labels.clusters import suspicion_groups as suspicion_groups
from gendebug_torch.labels.clusters import suspicion_pairs as suspicion_pairs
from gendebug_torch.labels.confident import ConfidentJoint as ConfidentJoint
from gendebug_torch.labels.confident import confident_joint as confident_joint
from gendebug_torch.labels.confident import confident_thresholds as confident_thresholds
from gendebug_torch.labels.confident import label_issues as label_issues
from gendebug_torch.labels.cross_fit import cross_fitted_logits as cross_fitted_logits
from gendebug_torch.labels.dynamics import TrainingDynamics as TrainingDynamics
from gendebug_torch.labels.noise import LabelNoise as LabelNoise
from gendebug_torch.labels.noise import class_logits as class_logits
from gendebug_torch.labels.noise import label_noise as label_noise
from gendebug_torch.labels.pruning import PruningEffect as PruningEffect
from gendebug_torch.labels.pruning import pruning_effect as pruning_effect
from gendebug_torch.labels.ranking import LabelRanking as LabelRanking
from gendebug_torch.labels.ranking import audit_ranking as audit_ranking
from gendebug_torch.labels.ranking import label_ranking as label_ranking
from gendebug_torch.labels.recorder import DynamicsRecorder as DynamicsRecorder

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
