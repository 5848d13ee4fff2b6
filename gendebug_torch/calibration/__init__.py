"""Whether probabilities mean what they say, and how to make them: measures, temperature and beyond, thresholds."""

from gendebug_torch.calibration.binning import ReliabilityBins as ReliabilityBins
from gendebug_torch.calibration.binning import expected_calibration_error as expected_calibration_error
from gendebug_torch.calibration.binning import reliability_bins as reliability_bins
from gendebug_torch.calibration.binning import reliability_bins_of_confidence as reliability_bins_of_confidence
from gendebug_torch.calibration.classwise import ClasswiseBins as ClasswiseBins
from gendebug_torch.calibration.classwise import classwise_bins as classwise_bins
from gendebug_torch.calibration.measures import Measure as Measure
from gendebug_torch.calibration.operating_point import OperatingPoint as OperatingPoint
from gendebug_torch.calibration.operating_point import operating_point as operating_point
from gendebug_torch.calibration.recalibrate import Recalibration as Recalibration
from gendebug_torch.calibration.recalibrate import ScaledModel as ScaledModel
from gendebug_torch.calibration.recalibrate import recalibrate as recalibrate
from gendebug_torch.calibration.shape import Shape as Shape
from gendebug_torch.calibration.shape import shape as shape
from gendebug_torch.calibration.sums import CalibrationSums as CalibrationSums
from gendebug_torch.calibration.sums import calibration_sums as calibration_sums
from gendebug_torch.calibration.temperature import Temperature as Temperature
from gendebug_torch.calibration.temperature import fit_temperature as fit_temperature
from gendebug_torch.calibration.thresholds import Confusion as Confusion
from gendebug_torch.calibration.thresholds import ThresholdChoice as ThresholdChoice
from gendebug_torch.calibration.thresholds import choose_threshold as choose_threshold
from gendebug_torch.calibration.thresholds import confusion as confusion
from gendebug_torch.calibration.thresholds import confusion_table as confusion_table

__all__ = [
    "CalibrationSums",
    "ClasswiseBins",
    "Confusion",
    "Measure",
    "OperatingPoint",
    "Recalibration",
    "ReliabilityBins",
    "ScaledModel",
    "Shape",
    "Temperature",
    "ThresholdChoice",
    "calibration_sums",
    "choose_threshold",
    "classwise_bins",
    "confusion",
    "confusion_table",
    "expected_calibration_error",
    "fit_temperature",
    "operating_point",
    "recalibrate",
    "reliability_bins",
    "reliability_bins_of_confidence",
    "shape",
]
