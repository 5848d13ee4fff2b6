"""A recalibration on disk: JSON and safetensors, written atomically."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.calibration.maps.isotonic import IsotonicMap
from gendebug_torch.calibration.maps.modules import (
    AffineModule,
    CalibrationMap,
    IsotonicModule,
    TopLabelModule,
    as_module,
)
from gendebug_torch.calibration.maps.top_label_map import TopLabelMap
from gendebug_torch.data.files import replacing_files, sha256_of
from gendebug_torch.errors import reading
from gendebug_torch.stats.logit_scaling import AffineFit

_JSON, _MAP, _MODEL = "calibration.json", "calibration.safetensors", "model.safetensors"


def save_recalibration(
    directory: str | Path,
    facts: Mapping[str, Any],
    fitted: CalibrationMap | None,
    model: nn.Module | None,
) -> Path:
    """Write `calibration.json`, `calibration.safetensors` and `model.safetensors`, atomically.

    Args:
        directory: directory to write to; made if needed.
        facts: values of `calibration.json`.
        fitted: fitted map, or None.
        model: network to save, or None.

    Raises:
        InputError: the directory cannot be written.

    Warns:
        UserWarning: the network holds weights that are not tensors, so that only the map is saved.
    """
    from safetensors.torch import save, save_model

    if model is not None and (entry := _not_tensor(model)):
        warnings.warn(
            f"model.safetensors is not written: `{entry}` of the network is not a tensor, as in "
            "quantized layers. The map is saved; save the network by its own means.",
            stacklevel=3,
        )
        model = None
    kind = "none" if fitted is None else type(as_module(fitted)).__name__
    entries: dict[str, Any] = {"module": kind, **facts}
    # The JSON comes last: whoever reads a new one finds its tensors written.
    with replacing_files(directory, (_MODEL, _MAP, _JSON)) as scratch:
        if model is not None:
            save_model(model, str(scratch / _MODEL))
            entries["model_sha256"] = sha256_of(scratch / _MODEL)
        if fitted is not None:
            state = as_module(fitted).state_dict()
            content = save({key: value.contiguous() for key, value in state.items()})
            (scratch / _MAP).write_bytes(content)
            entries["sha256"] = hashlib.sha256(content).hexdigest()
        text = json.dumps(entries, indent=2, allow_nan=False) + "\n"
        (scratch / _JSON).write_text(text, encoding="utf-8")
    return Path(directory)


def load_calibration(directory: str | Path) -> nn.Module:
    """The saved map as a module on logits; `nn.Identity` where none was chosen.

    Args:
        directory: directory that `Recalibration.save` wrote.

    Raises:
        InputError: the files of `save` are missing or broken.

    Example:
        >>> import tempfile
        >>> from gendebug_torch import Records, recalibrate
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(1000, 3, generator=generator)
        >>> targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> result = recalibrate(None, Records(logits=3 * logits, targets=targets))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     module = load_calibration(result.save(directory))
        >>> bool(torch.allclose(module(3 * logits), result(3 * logits), atol=1e-4))
        True
    """
    from safetensors.torch import load

    source, remedy = Path(directory), "Check the path, or save it again."
    expected = "a directory that `Recalibration.save` wrote"
    with reading(source, expected, "directory", remedy):
        facts = json.loads((source / _JSON).read_text("utf-8"))
        if facts["module"] == "none":
            return nn.Identity()
        content = (source / _MAP).read_bytes()
        if facts.get("sha256", digest := hashlib.sha256(content).hexdigest()) != digest:
            raise ValueError(f"{_MAP} is not the file that was saved with {_JSON}")
        return _module(facts["module"], load(content))


def _not_tensor(model: nn.Module) -> str:
    """Name of the first entry of the state that is no tensor; empty without one."""
    state = model.state_dict()
    return next((name for name, value in state.items() if not isinstance(value, Tensor)), "")


def _module(kind: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    if kind == "AffineModule":
        return AffineModule(tensors["scale"], tensors["bias"])
    if kind == "TopLabelModule":
        temperature, a, b, m = tensors["values"].tolist()
        errors = (0.0, 0.0, 0.0)
        return TopLabelModule(TopLabelMap("beta", temperature, (a, b, m), errors, True, False))
    if kind == "IsotonicModule":
        return IsotonicModule(IsotonicMap(tensors["steps"], tensors["levels"]))
    raise ValueError(f"unknown module {kind!r}")


def data_hash(*parts: Tensor | None) -> str:
    """SHA-256 of the rows of a fit, by which a map can be traced to them."""
    digest = hashlib.sha256()
    for tensor in (part for part in parts if part is not None):
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def map_parameters(fitted: CalibrationMap | None) -> dict[str, Any]:
    """The parameters of a map with their standard errors, as JSON values."""
    if fitted is None:
        return {}
    if isinstance(fitted, AffineFit):
        names = ("scale", "bias", "scale_error", "bias_error")
        return {name: _json(getattr(fitted, name).tolist()) for name in names} | {
            "converged": fitted.converged,
            "unbounded": fitted.unbounded,
        }
    if isinstance(fitted, IsotonicMap):
        return {"steps": len(fitted.levels)}
    if isinstance(fitted, TopLabelMap):
        named = zip("abm", fitted.coefficients, fitted.standard_errors, strict=True)
        return {name: {"value": value, "standard_error": error} for name, value, error in named} | {
            "temperature": fitted.temperature
        }
    return {}


def _json(values: Any) -> Any:
    """Nested numbers with None in place of NaN, which JSON does not have."""
    if isinstance(values, list):
        return [_json(value) for value in values]
    return values if math.isfinite(values) else None
