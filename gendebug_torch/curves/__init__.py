"""Learning curves: the regime of a training, and the epoch from which it overfits.

No rule can locate the start of a rise of r standard deviations of an epoch over m epochs better
than to a standard error of about `2 sqrt(m) / r` epochs, more where neighbouring epochs correlate:
3.7 epochs for r = 3 and m = 30, so that two epochs hold it in 41 %. On 1200 simulated runs that
nothing was tuned on (`scripts/bench_curves.py --first 21000 --overfit 1200`) the start was found
within 2 epochs in 99 % where r >= 40, 93 % where that error is at most 1 epoch (98 % with shapes
and noise known: the rest is the price of not knowing whether a rise is straight), 72 % where it is
1 to 2 and 50 % beyond. Of rises of 3 and more all were found, and the 95 % interval held the start
in 98 %.
"""

from gendebug_torch.curves.diagnosis.curve_diagnosis import CurveDiagnosis as CurveDiagnosis
from gendebug_torch.curves.diagnosis.diagnose import diagnose_curves as diagnose_curves
from gendebug_torch.curves.diagnosis.early_stopping import (
    early_stopping_diagnosis as early_stopping_diagnosis,
)
from gendebug_torch.curves.generalization_gap import generalization_gap as generalization_gap
from gendebug_torch.curves.learning_curves import LearningCurves as LearningCurves
from gendebug_torch.curves.size_curves import SizeCurves as SizeCurves

__all__ = [
    "CurveDiagnosis",
    "LearningCurves",
    "SizeCurves",
    "diagnose_curves",
    "early_stopping_diagnosis",
    "generalization_gap",
]
