"""Whether probabilities mean what they say, and how to make them: bins, errors, temperature, recalibration."""

from gendebug_torch.calibration.binning import ReliabilityBins as ReliabilityBins
from gendebug_torch.calibration.binning import expected_calibration_error as expected_calibration_error
from gendebug_torch.calibration.binning import reliability_bins as reliability_bins
from gendebug_torch.calibration.binning import reliability_bins_of_confidence as reliability_bins_of_confidence
from gendebug_torch.calibration.recalibrate import Recalibration as Recalibration
from gendebug_torch.calibration.recalibrate import ScaledModel as ScaledModel
from gendebug_torch.calibration.recalibrate import recalibrate as recalibrate
from gendebug_torch.calibration.temperature import Temperature as Temperature
from gendebug_torch.calibration.temperature import fit_temperature as fit_temperature

__all__ = [
    "Recalibration",
    "ReliabilityBins",
    "ScaledModel",
    "Temperature",
    "expected_calibration_error",
    "fit_temperature",
    "recalibrate",
    "reliability_bins",
    "reliability_bins_of_confidence",
]
