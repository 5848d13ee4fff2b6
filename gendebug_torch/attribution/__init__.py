"""What a network looks at: gradients, any method of Captum in batches, permutation importance, comparisons."""

from gendebug_torch.attribution.attribute import attribute as attribute
from gendebug_torch.attribution.attributions import Attributions as Attributions
from gendebug_torch.attribution.comparison import AttributionComparison as AttributionComparison
from gendebug_torch.attribution.comparison import compare_attributions as compare_attributions
from gendebug_torch.attribution.permutation import PermutationImportance as PermutationImportance
from gendebug_torch.attribution.permutation import permutation_importance as permutation_importance

__all__ = [
    "AttributionComparison",
    "Attributions",
    "PermutationImportance",
    "attribute",
    "compare_attributions",
    "permutation_importance",
]
