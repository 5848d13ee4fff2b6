"""What a network looks at: gradients, Shapley values, any method of Captum, permutation importance,
comparisons.
"""

from gendebug_torch.attribution.attribute import attribute as attribute
from gendebug_torch.attribution.attributions import Attributions as Attributions
from gendebug_torch.attribution.compare.cardinality import CardinalityBias as CardinalityBias
from gendebug_torch.attribution.compare.cardinality import cardinality_bias as cardinality_bias
from gendebug_torch.attribution.compare.comparison import (
    AttributionComparison as AttributionComparison,
)
from gendebug_torch.attribution.compare.comparison import (
    compare_attributions as compare_attributions,
)
from gendebug_torch.attribution.compare.cross_check import cross_check as cross_check
from gendebug_torch.attribution.compare.groups import CohortComparison as CohortComparison
from gendebug_torch.attribution.compare.groups import compare_cohorts as compare_cohorts
from gendebug_torch.attribution.compare.permutation import (
    PermutationImportance as PermutationImportance,
)
from gendebug_torch.attribution.compare.permutation import (
    permutation_importance as permutation_importance,
)
from gendebug_torch.attribution.compare.rank_agreement import RankAgreement as RankAgreement
from gendebug_torch.attribution.compare.rank_agreement import rank_agreement as rank_agreement
from gendebug_torch.attribution.methods.table import METHODS as METHODS

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
