"""`Attributions`: how much each input of each row contributed to one output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes, notebook_html
from gendebug_torch.data.files import replacing
from gendebug_torch.errors import MissingExtraError, reject
from gendebug_torch.modality.pictures.heat_maps import draw_heat_maps, draw_highlights
from gendebug_torch.model.shards import join_shards, read_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from gendebug_torch.attribution.compare.precision import PrecisionCheck
    from gendebug_torch.attribution.trust.card import TrustCard

_BARS = 15
# Fields that hold one entry per row.
_PER_ROW = (
    *("values", "targets", "convergence_delta", "inputs", "outputs", "base"),
    *("standard_error", "fidelity", "held_out", "evaluations"),
)
# File of a finished streamed run.
_JOINED = "attributions.safetensors"
# Rows summed at once, so that a summary of any number of rows needs little memory.
_CHUNK = 2**16


@dataclass(frozen=True, eq=False)
class Attributions:
    """Contributions of the inputs to one output per row; adds up over batches.

    Args:
        values: `[n, ...]` float32 contributions, shaped like the inputs, `[n, f]` for grouped
            inputs, or like the layer for layer methods.
        targets: `[n]` int64 explained class; -1 for a single output.
        convergence_delta: `[n]` float32 sum of the contributions minus the change of the output;
            None if the method promises no sum.
        method: title of the method.
        feature_names: name of each input of a row; empty for numbers.
        inputs: values of the inputs, shaped like `values`; None where they differ in shape.
        outputs: `[n]` float32 explained output.
        base: `[n]` float32 output at the baseline.
        standard_error: standard error of sampling, shaped like `values`; None without sampling.
        fidelity: `[n]` float32 weighted R² of a surrogate.
        held_out: `[n]` float32 R² of its leave-one-out predictions.
        evaluations: `[n]` float32 model evaluations per row, one with a gradient as two; without
            those of a Captum object that holds the network itself.
        trust: trust card of the run; None where it was not measured.
        precision: comparison of half precision with float32; None for a run in float32.
        modality: what the inputs are, `image` or `text`, so that they are drawn; None of others.

    Example:
        >>> import torch
        >>> from gendebug_torch.attribution import attribute
        >>> result = attribute(torch.nn.Flatten(), torch.tensor([[3.0, 1.0]]), target=0)
        >>> result.names, result.flat.round(decimals=3).tolist()
        (('feature_0', 'feature_1'), [[3.0, 0.0]])
    """

    values: Tensor
    targets: Tensor
    convergence_delta: Tensor | None
    method: str
    feature_names: tuple[str, ...] = ()
    inputs: Tensor | None = None
    outputs: Tensor | None = None
    base: Tensor | None = None
    standard_error: Tensor | None = None
    fidelity: Tensor | None = None
    held_out: Tensor | None = None
    evaluations: Tensor | None = None
    trust: TrustCard | None = None
    precision: PrecisionCheck | None = None
    modality: str | None = None

    _repr_html_ = notebook_html

    @classmethod
    def from_rows(
        cls, rows: Mapping[str, Tensor], method: str, feature_names: tuple[str, ...] = ()
    ) -> Attributions:
        """Attributions from their per-row fields by name."""
        fields = {name: rows.get(name) for name in _PER_ROW}
        return cls(method=method, feature_names=feature_names, **fields)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.values)

    def __add__(self, other: Attributions) -> Attributions:
        mine, theirs = self.per_row(), other.per_row()
        joined: dict[str, Any] = {
            name: torch.cat([mine[name], theirs[name]]) for name in mine if name in theirs
        }
        made = Attributions.from_rows(joined, self.method, self.feature_names)
        return replace(made, modality=self.modality)

    def select(self, rows: Tensor) -> Attributions:
        """The rows where a bool mask is true, or at these positions."""
        fields: dict[str, Any] = {name: value[rows] for name, value in self.per_row().items()}
        return replace(self, **fields)

    def per_row(self) -> dict[str, Tensor]:
        """The fields that hold one entry per row, by name."""
        return {name: value for name in _PER_ROW if (value := getattr(self, name)) is not None}

    @property
    def flat(self) -> Tensor:
        """`[n, d]` float64, one column per input of a row."""
        return self.values.flatten(1).double()

    @property
    def usable(self) -> Tensor:
        """`[n]` bool, true where all contributions of a row are finite."""
        return self.values.flatten(1).isfinite().all(1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `flat`."""
        width = torch.Size(self.values.shape[1:]).numel()
        return (
            self.feature_names
            if len(self.feature_names) == width
            else tuple(f"feature_{i}" for i in range(width))
        )

    @property
    def relative_delta(self) -> Tensor:
        """`[n]` float64 |convergence delta| relative to the change of the output.

        A row whose output hardly differs from that of the baseline is measured relative to a
        thousandth of the outputs.

        Raises:
            InputError: the method promises no sum.
        """
        if self.convergence_delta is None or self.outputs is None or self.base is None:
            expected = "a method whose contributions sum to the change of the output"
            reject("attributions", expected, self.method, "Use e.g. integrated_gradients.")
        change = (self.outputs.double() - self.base.double()).abs()
        size = torch.maximum(self.outputs.double().abs(), self.base.double().abs())
        return self.convergence_delta.double().abs() / torch.maximum(change, 1e-3 * size).clamp(
            min=1e-12
        )

    def table(self) -> pd.DataFrame:
        """One row per input: mean absolute and mean signed contribution, share; largest first.

        Rows with contributions that are NaN or infinite are left out: those not in `usable`.
        """
        import pandas as pd

        n, sums = _sums(self.values)
        size, signed, square = sums / max(n, 1)
        spread = [
            ((square - mean * mean).clamp(min=0) / max(n - 1, 1)).sqrt() for mean in (size, signed)
        ]
        columns = {
            "mean_abs": size,
            "standard_error": spread[0],
            "share": size / size.sum().clamp(min=1e-300),
        }
        columns |= {"mean": signed, "mean_standard_error": spread[1]}
        frame = pd.DataFrame(
            {"feature": list(self.names)} | {key: value.numpy() for key, value in columns.items()}
        )
        return frame.sort_values("mean_abs", ascending=False, ignore_index=True, kind="stable")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Contributions over images or tokens; of others the mean |contribution| as bars.

        A bar is orange where the mean is negative.
        """
        if self.modality is not None and self.inputs is not None:
            return _drawn(self, axes(ax, size=(7.5, 3.6)))
        top = self.table().head(_BARS).iloc[::-1]
        ax = axes(ax, size=(6.0, 1.2 + 0.28 * max(1, len(top))))
        colors = np.where(top["mean"] < 0, LIVE, REFERENCE).tolist()
        ax.barh(
            range(len(top)),
            top["mean_abs"],
            color=colors,
            xerr=1.96 * top["standard_error"],
            error_kw={"elinewidth": 0.8},
        )
        ax.set_yticks(range(len(top)), [short_name(name) for name in top["feature"]])
        ax.set(
            xlabel="mean |contribution| (orange: lowers the output on average)",
            title=title_of(self),
        )
        ax.grid(visible=False, axis="y")
        return ax

    def to_frame(self) -> pd.DataFrame:
        """One row per row of the data: contributions by input, then `target` and other fields."""
        import pandas as pd

        frame = pd.DataFrame(self.flat.float().numpy(), columns=list(self.names))
        extra: dict[str, Any] = {"target": self.targets.numpy()}
        for name in ("convergence_delta", "outputs", "base", "fidelity", "held_out"):
            if (value := getattr(self, name)) is not None:
                extra[name] = value.numpy()
        return frame.assign(**extra)

    def to_shap(self) -> Any:
        """A `shap.Explanation`, for the plots of shap.

        Raises:
            MissingExtraError: shap is not installed.
        """
        try:
            import shap
        except ImportError as error:
            raise MissingExtraError("`to_shap` needs the library shap: pip install shap") from error

        base = None if self.base is None else self.base.numpy()
        data = None if self.inputs is None else self.inputs.flatten(1).numpy()
        return shap.Explanation(
            self.flat.numpy(), base_values=base, data=data, feature_names=list(self.names)
        )

    def save(self, path: str | Path) -> Path:
        """Write `to_frame` as Parquet, whole or not at all.

        Raises:
            InputError: a path that cannot be written.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as scratch:
                self.to_frame().to_parquet(scratch)
        except OSError as error:
            got = f"{target}: {error.strerror}"
            reject("path", "a path that can be written", got, "Choose another path.")
        return target


def _drawn(attributions: Attributions, ax: Axes) -> Axes:
    """Contributions over the inputs of the first usable rows."""
    made = attributions.select(attributions.usable)
    assert made.inputs is not None
    rows = made.inputs.cpu(), made.values.cpu()
    if len(made) and attributions.modality == "image":
        draw_heat_maps(ax, *rows, made.targets.cpu())
    elif len(made):
        draw_highlights(ax, *rows)
    ax.set_title(title_of(attributions))
    return ax


def title_of(attributions: Attributions) -> str:
    """The method, the number of rows, and reservations, as the title of a plot."""
    left_out, precision = int((~attributions.usable).sum()), attributions.precision
    parts = [attributions.method, f"{len(attributions):,} rows"]
    if left_out:
        parts.append(f"{left_out:,} left out with NaN")
    if precision is not None and not precision.accurate:
        parts.append(f"{precision.typical:.0%} off in {precision.precision}")
    return ", ".join(parts)


def short_name(name: str, most: int = 28) -> str:
    """A name cut to a width that leaves room for a plot."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def joined_rows(directory: str | Path) -> dict[str, Tensor]:
    """The fields of a streamed run by name, mapped into memory and read when they are used."""
    from safetensors.torch import load_file

    source = Path(directory)
    whole = source / _JOINED
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_rank() == 0:
        join_shards(source, whole)
    if distributed:
        torch.distributed.barrier()
    return load_file(whole)


def stored_rows(run: Attributions, directory: str | Path, rows: Tensor) -> Attributions:
    """The rows at these positions of a streamed run, read from its directory alone."""
    fields = read_rows(Path(directory) / _JOINED, rows)
    return Attributions.from_rows(fields, run.method, run.feature_names)


def _sums(values: Tensor) -> tuple[int, Tensor]:
    """Number of finite rows, and `[3, d]` sums of |value|, value and value² over them."""
    total, rows = torch.zeros(3, torch.Size(values.shape[1:]).numel(), dtype=torch.float64), 0
    for part in torch.split(values, _CHUNK):
        flat = part.flatten(1).double()
        flat = flat[flat.isfinite().all(1)]
        total += torch.stack([flat.abs().sum(0), flat.sum(0), flat.square().sum(0)])
        rows += len(flat)
    return rows, total
