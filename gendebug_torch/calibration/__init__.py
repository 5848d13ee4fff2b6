"""Calibration: measures of confidence against accuracy, calibration maps, decision thresholds."""

from gendebug_torch.calibration.maps.isotonic import fit_isotonic as fit_isotonic
from gendebug_torch.calibration.maps.temperature import fit_temperature as fit_temperature
from gendebug_torch.calibration.maps.top_label_map import fit_top_label_map as fit_top_label_map
from gendebug_torch.calibration.measures.classwise import classwise_bins as classwise_bins
from gendebug_torch.calibration.measures.miscalibration_shape import (
    miscalibration_shape as miscalibration_shape,
)
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
    calibration_sums as calibration_sums,
)
from gendebug_torch.calibration.recalibration import recalibrate as recalibrate
from gendebug_torch.calibration.result import Recalibration as Recalibration
from gendebug_torch.calibration.rows.held_out_rows import dense_records as dense_records
from gendebug_torch.calibration.saving import load_calibration as load_calibration
from gendebug_torch.calibration.thresholds.label_shift_adaptation import (
    adapt_to_label_shift as adapt_to_label_shift,
)
from gendebug_torch.calibration.thresholds.operating_point import operating_point as operating_point
from gendebug_torch.calibration.thresholds.threshold_choice import (
    choose_threshold as choose_threshold,
)
from gendebug_torch.calibration.thresholds.threshold_choice import (
    confusion_matrix as confusion_matrix,
)
from gendebug_torch.stats.logit_scaling import fit_affine as fit_affine

__all__ = [
    "Recalibration",
    "ReliabilityBins",
    "adapt_to_label_shift",
    "calibration_sums",
    "choose_threshold",
    "classwise_bins",
    "confusion_matrix",
    "dense_records",
    "expected_calibration_error",
    "fit_affine",
    "fit_isotonic",
    "fit_temperature",
    "fit_top_label_map",
    "load_calibration",
    "miscalibration_shape",
    "operating_point",
    "recalibrate",
    "reliability_bins",
    "reliability_bins_of_confidence",
]
