"""Pictures of attributions that people know: beeswarm, waterfall, heat map, text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gendebug_torch.attribution.attributions import Attributions, short_name, title_of
from gendebug_torch.checks.evidence import LIVE, NEUTRAL, REFERENCE, axes
from gendebug_torch.errors import reject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Rows drawn as dots: more only hide each other.
_DOTS = 2000


@dataclass(frozen=True, eq=False)
class Swarm:
    """Attributions that draw themselves row by row, where their inputs are known, as evidence for a
    report.
    """

    found: Attributions

    def table(self) -> pd.DataFrame:
        """One row per input."""
        return self.found.table()

    def plot(self, ax: Axes | None = None) -> Axes:
        """The beeswarm; bars where no input is known, or no row is usable."""
        return (
            self.found.plot(ax)
            if self.found.inputs is None or not bool(self.found.usable.any())
            else beeswarm(self.found, ax)
        )


def beeswarm(found: Attributions, ax: Axes | None = None, *, top: int = 15) -> Axes:
    """One dot per row and feature at its contribution, coloured by the rank of the feature's value
    from low to high.

    Args:
        found: attributions with their inputs.
        ax: to draw on.
        top: most features, by mean absolute contribution.

    Raises:
        InputError: the values of the inputs are not known.
    """
    if found.inputs is None:
        reject(
            "found",
            "attributions that know their inputs",
            f"those of {found.method}",
            "Use `found.plot()`.",
        )
    usable = found.select(found.usable)
    assert usable.inputs is not None
    picked = torch.randperm(len(usable), generator=torch.Generator().manual_seed(0))[:_DOTS]
    flat, inputs = usable.flat[picked], usable.inputs.flatten(1).double()[picked]
    order = (
        usable.flat.abs().mean(0).argsort(descending=True, stable=True)[:top].tolist()
        if len(usable)
        else []
    )
    ax = axes(ax, size=(7.2, 1.4 + 0.34 * max(1, len(order))))
    dots: Any = None
    for height, feature in enumerate(reversed(order)):
        x, color = flat[:, feature], _rank(inputs[:, feature])
        dots = ax.scatter(
            x.numpy(),
            height + _spread(x),
            c=color.numpy(),
            cmap="cividis",
            vmin=0,
            vmax=1,
            s=7,
            linewidths=0,
        )
    ax.set_yticks(
        range(len(order)), [short_name(found.names[feature]) for feature in reversed(order)]
    )
    ax.axvline(0, color=NEUTRAL, linewidth=0.8)
    ax.set(xlabel="contribution to the output", title=title_of(found))
    if dots is not None and ax.figure is not None:
        bar = ax.figure.colorbar(dots, ax=ax, ticks=[0, 1], aspect=30, pad=0.02)
        bar.ax.set_yticklabels(["low", "high"])
        bar.set_label("value of the feature", labelpad=-16)
        bar.outline.set_visible(False)
    return ax


def waterfall(found: Attributions, row: int, ax: Axes | None = None, *, top: int = 10) -> Axes:
    """How the output of one row comes about: from the baseline's output, one feature at a time,
    largest last.

    Args:
        found: attributions that promise a sum.
        row: position.
        ax: to draw on.
        top: features shown one by one; the others are taken together.

    Raises:
        InputError: a method without outputs to start from, or no such row.
    """
    if found.outputs is None or found.base is None:
        reject(
            "found",
            "attributions that know the output and its baseline",
            f"those of {found.method}",
            "Use `integrated_gradients`.",
        )
    if not -len(found) <= row < len(found):
        reject(
            "row", f"a position below {len(found)}", str(row), "Choose a row of these attributions."
        )
    values = found.flat[row]
    order = values.abs().argsort(descending=True, stable=True).tolist()
    named = [(_labelled(found, row, feature), float(values[feature])) for feature in order[:top]]
    if rest := order[top:]:
        named.append((f"{len(rest)} other features", float(values[rest].sum())))
    named.reverse()
    ends = float(found.base[row]) + np.cumsum([value for _, value in named])
    ax = axes(ax, size=(7.2, 1.5 + 0.36 * len(named)))
    colors = [REFERENCE if value >= 0 else LIVE for _, value in named]
    ax.barh(
        range(len(named)),
        [value for _, value in named],
        left=ends - [value for _, value in named],
        color=colors,
    )
    starts = ends - [value for _, value in named]
    left, right = float(min(ends.min(), starts.min())), float(max(ends.max(), starts.max()))
    ax.set_xlim(left - 0.16 * (right - left or 1.0), right + 0.16 * (right - left or 1.0))
    for height, (_, value) in enumerate(named):
        side = 1 if value >= 0 else -1
        ax.annotate(
            f"{value:+.3g}",
            (float(ends[height]), height),
            (4 * side, 0),
            textcoords="offset points",
            va="center",
            ha="left" if side > 0 else "right",
            fontsize="small",
        )
    ax.set_yticks(range(len(named)), [name for name, _ in named])
    ax.axvline(float(found.base[row]), color=NEUTRAL, linewidth=0.8, linestyle=":")
    ax.axvline(float(found.outputs[row]), color="black", linewidth=0.8)
    start, end = float(found.base[row]), float(found.outputs[row])
    ax.set(
        xlabel="output", title=f"Row {row}: output {end:.3g} (solid), baseline {start:.3g} (dotted)"
    )
    ax.grid(visible=False, axis="y")
    return ax


def heat_map(
    found: Attributions, row: int, ax: Axes | None = None, *, image: Tensor | None = None
) -> Axes:
    """Contributions of the pixels of one image, summed over channels, over the image in grey.

    Args:
        found: attributions of images, `[n, h, w]` or `[n, c, h, w]`.
        row: position.
        ax: to draw on.
        image: `[h, w]` or `[c, h, w]` to show beneath; default the input.

    Raises:
        InputError: no images.
    """
    if found.values.ndim not in (3, 4):
        reject(
            "found",
            "attributions of images [n, h, w] or [n, c, h, w]",
            f"shape {list(found.values.shape)}",
            "Use `waterfall`.",
        )
    values = found.values[row].double()
    values = values.sum(0) if values.ndim == 3 else values
    beneath = image if image is not None else None if found.inputs is None else found.inputs[row]
    ax = axes(ax, size=(5.2, 4.4))
    limit = float(values.abs().quantile(0.995)) or 1.0
    if beneath is not None:
        grey = beneath.double().mean(0) if beneath.ndim == 3 else beneath.double()
        ax.imshow(grey.numpy(), cmap="gray", alpha=0.55)
    strength = (values.abs() / limit).clamp(0, 1).sqrt().numpy()
    shown = ax.imshow(values.numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit, alpha=strength)
    ax.set(
        xticks=[],
        yticks=[],
        xlabel=f"{found.method}, sum over channels",
        title=f"Row {row}, class {int(found.targets[row])}",
    )
    ax.grid(visible=False)
    if ax.figure is not None:
        ax.figure.colorbar(
            shown, ax=ax, shrink=0.8, label="contribution (orange raises, purple lowers)"
        )
    return ax


def text(
    found: Attributions, row: int, tokens: Sequence[str], ax: Axes | None = None, *, width: int = 60
) -> Axes:
    """The tokens of one row on a ground of their contributions: blue raises the output, orange
    lowers it.

    Args:
        found: attributions `[n, l]`, one per token.
        row: position.
        tokens: of the row; those past its end, such as padding, are left out by leaving them out
            here.
        ax: to draw on.
        width: characters per line.
    """
    from matplotlib.colors import to_rgba

    values = found.flat[row][: len(tokens)]
    limit = float(values.abs().max()) or 1.0
    lines: list[list[tuple[str, float]]] = [[]]
    used = 0
    for token, value in zip(tokens, values.tolist(), strict=False):
        if used + len(token) > width and lines[-1]:
            lines.append([])
            used = 0
        lines[-1].append((token, value))
        used += len(token) + 1
    ax = axes(ax, size=(8.0, 0.9 + 0.36 * len(lines)))
    assert ax.figure is not None
    # One unit of the axis is one character, whose width in a monospaced font is 0.6 of its size.
    size = ax.bbox.width / ax.figure.dpi * 72 / (width + 1.5) / 0.6
    for number, line in enumerate(lines):
        at = 0.0
        for token, value in line:
            color = to_rgba(REFERENCE if value > 0 else LIVE, 0.75 * abs(value) / limit)
            ground = {"facecolor": color, "edgecolor": "none", "pad": 1.5}
            ax.text(
                at,
                -number,
                token.replace("$", r"\$"),
                family="monospace",
                fontsize=size,
                va="center",
                bbox=ground,
            )
            at += len(token) + 1
    ax.set(
        xlim=(-0.5, width + 1),
        ylim=(-len(lines) + 0.4, 0.6),
        xticks=[],
        yticks=[],
        title=f"Row {row}, class {int(found.targets[row])}",
    )
    ax.set_xlabel(f"{found.method}: blue raises the output, orange lowers it")
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
    return ax


def _rank(values: Tensor) -> Tensor:
    """`[n]` place of each value among all, 0 to 1, equal values alike: extreme values do not take
    all the colour.
    """
    values = values.contiguous()
    ordered = values.sort().values
    low, high = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return (low + high).double() / (2 * max(len(values), 1))


def _spread(values: Tensor, bins: int = 60, height: float = 0.38) -> np.ndarray:
    """Offsets that stack dots of about the same value around the middle."""
    x = values.double()
    low, high = float(x.min()), float(x.max())
    place = ((x - low) / max(high - low, 1e-12) * (bins - 1)).round().long()
    counts = torch.bincount(place, minlength=bins)
    order = place.argsort(stable=True)
    within = torch.empty(len(x), dtype=torch.int64)
    within[order] = torch.arange(len(x)) - (counts.cumsum(0) - counts)[place[order]]
    side = torch.where(within % 2 == 0, 1, -1) * ((within + 1) // 2)
    offsets: np.ndarray = (side.double() / max(float(counts.max()) / 2, 8.0) * height).numpy()
    return offsets


def _labelled(found: Attributions, row: int, feature: int) -> str:
    name = short_name(found.names[feature])
    return (
        name
        if found.inputs is None
        else f"{name} = {float(found.inputs[row].flatten()[feature]):.4g}"
    )
