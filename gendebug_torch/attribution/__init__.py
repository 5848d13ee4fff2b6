"""What decides the output of a network: attributions, permutation importance, comparisons."""

from gendebug_torch.attribution.attribute import attribute as attribute
from gendebug_torch.attribution.attributions import Attributions as Attributions
from gendebug_torch.attribution.compare.comparison import (
    compare_attributions as compare_attributions,
)
from gendebug_torch.attribution.compare.permutation import (
    permutation_importance as permutation_importance,
)
from gendebug_torch.attribution.compare.rank_agreement import rank_agreement as rank_agreement
from gendebug_torch.attribution.counterfactuals.counterfactual import (
    counterfactual as counterfactual,
)
from gendebug_torch.attribution.methods.table import METHODS as METHODS
from gendebug_torch.attribution.plots import beeswarm as beeswarm

__all__ = [
    "METHODS",
    "Attributions",
    "attribute",
    "beeswarm",
    "compare_attributions",
    "counterfactual",
    "permutation_importance",
    "rank_agreement",
]
