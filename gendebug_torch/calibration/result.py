"""The result of a recalibration: the chosen map, the proof, and the network to deploy."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gendebug_torch.calibration.map_choice import Candidate
from gendebug_torch.calibration.maps.folding import fold_affine
from gendebug_torch.calibration.maps.modules import (
    CalibratedModel,
    CalibrationMap,
    affine_parts,
    as_module,
    device_of_module,
)
from gendebug_torch.calibration.maps.temperature import Temperature
from gendebug_torch.calibration.measures.reliability_bins import ReliabilityBins
from gendebug_torch.calibration.saving import map_parameters, save_recalibration
from gendebug_torch.checks.evidence import notebook_html
from gendebug_torch.errors import UnsupportedError
from gendebug_torch.stats.logit_scaling import AffineFit
from gendebug_torch.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Recalibration:
    """The chosen calibration map, its evaluation on unseen rows, and the recalibrated network.

    Args:
        chosen: name of the map, or `none` where no map helps beyond noise on rows it has not seen.
        reason: reason for the choice, in one sentence.
        fitted: map fitted on all rows; None where none was chosen.
        temperature: temperature fitted on all rows, whether chosen or not.
        candidates: every map that was tried, evaluated out of fold, and `none`.
        warnings: doubts about these rows, e.g. that the network was trained on them.
        data: SHA-256 of the rows.
        bins: number of bins of the diagrams.
        network: network as it was given; None if logits were given.
        probe: a few inputs on which folding is verified.
    """

    chosen: str
    reason: str
    fitted: CalibrationMap | None
    temperature: Temperature
    candidates: tuple[Candidate, ...]
    warnings: tuple[str, ...]
    data: str
    bins: int = 15
    network: nn.Module | None = None
    probe: Any = None

    _repr_html_ = notebook_html

    @cached_property
    def model(self) -> nn.Module | None:
        """The recalibrated network, a copy in evaluation mode.

        The given network where no map was chosen, and None where no network was given.
        """
        if self.network is None or self.fitted is None:
            return self.network
        calibration = as_module(self.fitted).to(device_of_module(self.network))
        calibrated = CalibratedModel(copy.deepcopy(self.network), calibration)
        for module in calibrated.modules():
            # Not `.eval()`: an exported program refuses it, and a frozen module has no mode.
            if hasattr(module, "training"):
                module.training = False
        return calibrated

    def candidate(self, name: str) -> Candidate:
        """The evaluation of one map by its name; `none` is the network as it was."""
        return next(candidate for candidate in self.candidates if candidate.name == name)

    @property
    def before(self) -> ReliabilityBins:
        """Reliability of the given logits."""
        return self.candidate("none").sums.bins(self.bins)

    @property
    def after(self) -> ReliabilityBins:
        """Reliability of the chosen map, each row mapped by a fit that did not see it."""
        return self.candidate(self.chosen).sums.bins(self.bins)

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits of the network after the chosen map; unchanged where none was chosen."""
        return logits if self.fitted is None else self.fitted(logits)

    def table(self) -> pd.DataFrame:
        """Log loss, Brier score and ECE before and after, out of fold, with 95 % intervals."""
        import pandas as pd

        sides = (("before", "none"), ("after (out of fold)", self.chosen))
        return pd.DataFrame([{"rows": label} | self._measures(name) for label, name in sides])

    def _measures(self, name: str) -> dict[str, float]:
        """Each measure of a map with its bounds, as one row of a table."""
        candidate = self.candidate(name)
        row: dict[str, float] = {}
        for m in candidate.measures:
            row |= {m.measure: m.value, f"{m.measure}_low": m.low, f"{m.measure}_high": m.high}
        null = next(m.null for m in candidate.measures if m.measure == "ece")
        bins = candidate.sums.bins(self.bins)
        confidence, accuracy = bins.mean_confidence, bins.accuracy
        return row | {"ece_null": null, "mean_confidence": confidence, "accuracy": accuracy}

    def comparison(self) -> pd.DataFrame:
        """One row per map that was tried: log loss, gain with error, ECE, changed predictions."""
        import pandas as pd

        rows = [
            [c.name, c.sums.nll, c.gain, c.gain_error, c.ece, c.changed, c.name == self.chosen]
            for c in self.candidates
        ]
        return pd.DataFrame(
            rows, columns=["map", "nll", "gain", "gain_error", "ece", "changed", "chosen"]
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Reliability diagram after recalibration, out of fold."""
        return self.after.plot(ax)

    def fold(self) -> nn.Module:
        """A copy of the network with the map folded into its last layer, at no serving cost.

        Where no map was chosen the copy is the network as it was.

        Raises:
            UnsupportedError: no network was given, it is TorchScript, the map is not affine, or the
                network does not end in a linear or convolution layer (checked on real inputs).
        """
        if self.network is None:
            raise UnsupportedError(
                "there is nothing to fold into: recalibrate was given logits, not a network"
            )
        if self.fitted is None:
            return copy.deepcopy(self.network)
        if not isinstance(self.fitted, (Temperature, AffineFit)):
            raise UnsupportedError(
                f"{self.chosen} is not affine and cannot be folded; ship `.model`, or pass "
                "candidates=('temperature',)"
            )
        return fold_affine(self.network, *affine_parts(self.fitted), self.probe)

    def save(self, directory: str | Path) -> Path:
        """Write `calibration.json`, the map and, with a network, `model.safetensors`, atomically.

        Raises:
            InputError: the directory cannot be written.

        Warns:
            UserWarning: the network has quantized weights, so that only the map is saved.
        """
        none, after = self.candidate("none").sums, self.candidate(self.chosen).sums
        t = self.temperature
        facts = {
            "chosen": self.chosen,
            "reason": self.reason,
            "temperature": t.temperature if math.isfinite(t.temperature) else None,
            "standard_error": t.standard_error if math.isfinite(t.standard_error) else None,
            "converged": t.converged,
            "unbounded": t.unbounded,
            "parameters": map_parameters(self.fitted),
            "scores": {
                "before": {"nll": none.nll, "brier": none.brier},
                "after": {"nll": after.nll, "brier": after.brier},
            },
            "ece": {"before": self.before.ece, "after": self.after.ece},
            "rows": self.before.total,
            "data_sha256": self.data,
            "warnings": list(self.warnings),
            "gendebug_torch": __version__,
            "torch": str(torch.__version__),
        }
        return save_recalibration(directory, facts, self.fitted, self.model)
