"""Two samples of the same columns, compared: quantities, categories, missing values and the model's confidence."""

from gendebug_torch.shift.categories import CategoryShift as CategoryShift
from gendebug_torch.shift.categories import MissingShift as MissingShift
from gendebug_torch.shift.categories import category_shift as category_shift
from gendebug_torch.shift.categories import missing_shift as missing_shift
from gendebug_torch.shift.categories import unseen_excess as unseen_excess
from gendebug_torch.shift.classes import ClassShares as ClassShares
from gendebug_torch.shift.classes import class_shares as class_shares
from gendebug_torch.shift.confidence import ConfidenceShift as ConfidenceShift
from gendebug_torch.shift.confidence import confidence_shift as confidence_shift
from gendebug_torch.shift.dip import dip as dip
from gendebug_torch.shift.dip import dip_p_value as dip_p_value
from gendebug_torch.shift.feature import Atom as Atom
from gendebug_torch.shift.feature import FeatureShift as FeatureShift
from gendebug_torch.shift.feature import feature_shift as feature_shift
from gendebug_torch.shift.feature import largest_atom as largest_atom
from gendebug_torch.shift.kinds import ChangeKinds as ChangeKinds
from gendebug_torch.shift.kinds import FeatureChange as FeatureChange
from gendebug_torch.shift.kinds import change_kinds as change_kinds
from gendebug_torch.shift.ks import KSTest as KSTest
from gendebug_torch.shift.ks import PreparedReference as PreparedReference
from gendebug_torch.shift.ks import ks_two_sample as ks_two_sample
from gendebug_torch.shift.ks import prepare_reference as prepare_reference
from gendebug_torch.shift.modes import ConfidenceModes as ConfidenceModes
from gendebug_torch.shift.modes import confidence_modes as confidence_modes
from gendebug_torch.shift.relation import RelationChange as RelationChange
from gendebug_torch.shift.relation import relation_change as relation_change
from gendebug_torch.shift.undo import Undo as Undo
from gendebug_torch.shift.undo import undo as undo
from gendebug_torch.shift.undo import weighted_distance as weighted_distance

__all__ = [
    "Atom",
    "CategoryShift",
    "ChangeKinds",
    "ClassShares",
    "ConfidenceModes",
    "ConfidenceShift",
    "FeatureChange",
    "FeatureShift",
    "KSTest",
    "MissingShift",
    "PreparedReference",
    "RelationChange",
    "Undo",
    "category_shift",
    "change_kinds",
    "class_shares",
    "confidence_modes",
    "confidence_shift",
    "dip",
    "dip_p_value",
    "feature_shift",
    "ks_two_sample",
    "largest_atom",
    "missing_shift",
    "prepare_reference",
    "relation_change",
    "undo",
    "unseen_excess",
    "weighted_distance",
]
