"""Contributions drawn over images and over the tokens of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gendebug_torch.modality.pictures.drawing import RAISES, pictures, thinned, tiled
from gendebug_torch.modality.pictures.regions import channels_last, tokens_in
from gendebug_torch.modality.text import padding_ids

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOWERS = (0.0, 0.45, 0.70)
# Images and classes in a picture, texts, and tokens of each.
_IMAGES, _TEXTS, _TOKENS = 8, 10, 16


def overlay(images: Tensor, weights: Tensor) -> np.ndarray[Any, Any]:
    """Pale images with weights over them, `[n, h, w, 3]`: orange raises the output, blue lowers it.

    Args:
        images: `[n, c, h, w]`, `[n, h, w, c]` or `[n, h, w]`.
        weights: signed weights `[n, h', w']`, enlarged to the images.
    """
    grey = pictures(images).mean(3, keepdims=True)
    sized = functional.interpolate(weights[:, None].float(), grey.shape[1:3], mode="bilinear")[:, 0]
    largest = sized.abs().flatten(1).quantile(0.99, dim=1).clamp(min=1e-12)
    share = (sized / largest[:, None, None]).clamp(-1, 1).numpy()[..., None]
    pale = 0.55 + 0.45 * grey
    colour = np.where(share > 0, np.array(RAISES), np.array(_LOWERS))
    alpha = np.abs(share) ** 0.7
    drawn: np.ndarray[Any, Any] = pale * (1 - alpha) + colour * alpha
    return drawn


def draw_heat_maps(
    ax: Axes, images: Tensor, weights: Tensor, targets: Tensor, names: Sequence[str] = ()
) -> Axes:
    """Images, the same with their weights, and the mean size of the weights for each class.

    Args:
        ax: axis to draw on.
        images: `[n, c, h, w]`, `[n, h, w, c]` or `[n, h, w]`; the first few are drawn.
        weights: signed weights of the same shape.
        targets: explained classes `[n]`.
        names: names of the classes.
    """
    dim = 0 if images.ndim == 3 else 3 if channels_last(images.shape[1:]) else 1
    maps = weights if dim == 0 else weights.sum(dim)
    classes = torch.unique(targets)[:_IMAGES].tolist()
    means = [maps[targets == c].abs().mean(0, keepdim=True) for c in classes]
    shown = images[:_IMAGES]
    blank = torch.zeros_like(shown[:1]).expand(len(classes), *shown.shape[1:])
    rows = [pictures(shown), overlay(shown, maps[:_IMAGES]), overlay(blank, torch.cat(means))]
    canvas, height, _ = tiled([thinned(row) for row in rows])
    ax.grid(visible=False)
    ax.imshow(canvas, interpolation="nearest", aspect="equal")
    said = ", ".join(str(names[c]) if 0 <= c < len(names) else str(c) for c in classes)
    labels = ["image", "contributions", "mean by class"]
    ax.set_yticks([(i + 0.45) * height for i in range(3)], labels)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.set_xlabel(f"orange raises the output, blue lowers it; classes of the means: {said}")
    return ax


def draw_highlights(
    ax: Axes, tokens: Tensor, weights: Tensor, words: Sequence[Sequence[str]] | None = None
) -> Axes:
    """Texts below each other, each token on a ground as strong as its weight.

    Args:
        ax: axis to draw on.
        tokens: ids `[n, t]`; padding is left out.
        weights: `[n, t]`.
        words: a word for each token; the ids by default.
    """
    ax.grid(visible=False)
    shown = tokens[:_TEXTS].long()
    present = tokens_in(shown, padding_ids(shown))
    largest = float(weights[:_TEXTS].abs().amax().clamp(min=1e-12))
    for row in range(len(shown)):
        at = present[row].nonzero()[:, 0]
        strongest = at[weights[row, at].abs().argsort(descending=True)[:_TOKENS]].sort().values
        for column, place in enumerate(strongest.tolist()):
            word = str(int(shown[row, place])) if words is None else words[row][place]
            _draw_word(ax, (column, -row), word[:10], float(weights[row, place]) / largest)
    ax.set(xlim=(-0.7, _TOKENS - 0.3), ylim=(-len(shown) + 0.4, 0.6), xticks=[])
    ax.set_yticks([-row for row in range(len(shown))], [f"row {row}" for row in range(len(shown))])
    ax.set_xlabel("strongest tokens in their order; orange raises the output, blue lowers it")
    return ax


def _draw_word(ax: Axes, at: tuple[int, int], word: str, weight: float) -> None:
    """A word on a ground as strong as its weight in -1..1."""
    shade = (*(RAISES if weight > 0 else _LOWERS), min(1.0, abs(weight)))
    ground = {"facecolor": shade, "edgecolor": "none", "pad": 1.5}
    ax.text(*at, word, fontsize=8, va="center", ha="center", bbox=ground)
