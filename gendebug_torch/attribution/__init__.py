"""What a network looks at: gradients, Shapley values, any method of Captum, permutation importance, comparisons."""

from gendebug_torch.attribution.agreement import RankAgreement as RankAgreement
from gendebug_torch.attribution.agreement import rank_agreement as rank_agreement
from gendebug_torch.attribution.attribute import attribute as attribute
from gendebug_torch.attribution.attributions import Attributions as Attributions
from gendebug_torch.attribution.cardinality import CardinalityBias as CardinalityBias
from gendebug_torch.attribution.cardinality import cardinality_bias as cardinality_bias
from gendebug_torch.attribution.cohorts import CohortComparison as CohortComparison
from gendebug_torch.attribution.cohorts import compare_cohorts as compare_cohorts
from gendebug_torch.attribution.comparison import AttributionComparison as AttributionComparison
from gendebug_torch.attribution.comparison import compare_attributions as compare_attributions
from gendebug_torch.attribution.cross_check import cross_check as cross_check
from gendebug_torch.attribution.methods import METHODS as METHODS
from gendebug_torch.attribution.permutation import PermutationImportance as PermutationImportance
from gendebug_torch.attribution.permutation import permutation_importance as permutation_importance

__all__ = [
    "METHODS",
    "AttributionComparison",
    "Attributions",
    "CardinalityBias",
    "CohortComparison",
    "PermutationImportance",
    "RankAgreement",
    "attribute",
    "cardinality_bias",
    "compare_attributions",
    "compare_cohorts",
    "cross_check",
    "permutation_importance",
    "rank_agreement",
]
