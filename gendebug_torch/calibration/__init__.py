"""Whether probabilities mean what they say, and how to make them: measures, temperature and beyond,
thresholds.
"""

from gendebug_torch.calibration.grouping import dense_records as dense_records
from gendebug_torch.calibration.maps.folding import fold_affine as fold_affine
from gendebug_torch.calibration.maps.isotonic import IsotonicMap as IsotonicMap
from gendebug_torch.calibration.maps.isotonic import fit_isotonic as fit_isotonic
from gendebug_torch.calibration.maps.modules import CalibratedModel as CalibratedModel
from gendebug_torch.calibration.maps.modules import as_module as as_module
from gendebug_torch.calibration.maps.temperature import Temperature as Temperature
from gendebug_torch.calibration.maps.temperature import fit_temperature as fit_temperature
from gendebug_torch.calibration.maps.top_label_map import TopMap as TopMap
from gendebug_torch.calibration.maps.top_label_map import fit_top_map as fit_top_map
from gendebug_torch.calibration.measures.classwise import ClasswiseBins as ClasswiseBins
from gendebug_torch.calibration.measures.classwise import classwise_bins as classwise_bins
from gendebug_torch.calibration.measures.dependent_rows import GroupSums as GroupSums
from gendebug_torch.calibration.measures.dependent_rows import group_sums as group_sums
from gendebug_torch.calibration.measures.measure import Measure as Measure
from gendebug_torch.calibration.measures.miscalibration_shape import Shape as Shape
from gendebug_torch.calibration.measures.miscalibration_shape import shape as shape
from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins as ReliabilityBins
from gendebug_torch.calibration.measures.reliability_bins import (
    expected_calibration_error as expected_calibration_error,
)
from gendebug_torch.calibration.measures.reliability_bins import (
    reliability_bins as reliability_bins,
)
from gendebug_torch.calibration.measures.reliability_bins import (
    reliability_bins_of_confidence as reliability_bins_of_confidence,
)
from gendebug_torch.calibration.measures.sufficient_statistics import (
    CalibrationSums as CalibrationSums,
)
from gendebug_torch.calibration.measures.sufficient_statistics import (
    calibration_sums as calibration_sums,
)
from gendebug_torch.calibration.recalibration import Recalibration as Recalibration
from gendebug_torch.calibration.recalibration import recalibrate as recalibrate
from gendebug_torch.calibration.saving import load_calibration as load_calibration
from gendebug_torch.calibration.thresholds.label_share_adaptation import (
    ShareAdaptation as ShareAdaptation,
)
from gendebug_torch.calibration.thresholds.label_share_adaptation import (
    adapt_to_shares as adapt_to_shares,
)
from gendebug_torch.calibration.thresholds.operating_point import OperatingPoint as OperatingPoint
from gendebug_torch.calibration.thresholds.operating_point import operating_point as operating_point
from gendebug_torch.calibration.thresholds.threshold_choice import Confusion as Confusion
from gendebug_torch.calibration.thresholds.threshold_choice import (
    ThresholdChoice as ThresholdChoice,
)
from gendebug_torch.calibration.thresholds.threshold_choice import (
    choose_threshold as choose_threshold,
)
from gendebug_torch.calibration.thresholds.threshold_choice import confusion as confusion
from gendebug_torch.calibration.thresholds.threshold_choice import (
    confusion_table as confusion_table,
)
from gendebug_torch.stats.logit_scaling import AffineFit as AffineFit
from gendebug_torch.stats.logit_scaling import fit_affine as fit_affine

__all__ = [
    "AffineFit",
    "CalibratedModel",
    "CalibrationSums",
    "ClasswiseBins",
    "Confusion",
    "GroupSums",
    "IsotonicMap",
    "Measure",
    "OperatingPoint",
    "Recalibration",
    "ReliabilityBins",
    "Shape",
    "ShareAdaptation",
    "Temperature",
    "ThresholdChoice",
    "TopMap",
    "adapt_to_shares",
    "as_module",
    "calibration_sums",
    "choose_threshold",
    "classwise_bins",
    "confusion",
    "confusion_table",
    "dense_records",
    "expected_calibration_error",
    "fit_affine",
    "fit_isotonic",
    "fit_temperature",
    "fit_top_map",
    "fold_affine",
    "group_sums",
    "load_calibration",
    "operating_point",
    "recalibrate",
    "reliability_bins",
    "reliability_bins_of_confidence",
    "shape",
]
