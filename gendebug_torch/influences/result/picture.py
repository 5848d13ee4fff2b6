"""The picture of influences: errors, the training rows behind them, and the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.checks.evidence import LIVE, REFERENCE, axes
from gendebug_torch.data.records import Records
from gendebug_torch.data.sheets.audit_lines import class_name
from gendebug_torch.influences.questions import training_inputs
from gendebug_torch.modality.detection import modality_of
from gendebug_torch.modality.pictures.drawing import draw_rows, draw_texts
from gendebug_torch.modality.strings import texts_of
from gendebug_torch.model.batches import rows_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gendebug_torch.influences.result.influences import Influences

# Pairs of an error and a training row that are drawn.
_PAIRS = 8


def draw_influences(influences: Influences, ax: Axes | None) -> Axes:
    """Errors above the training rows that look like them, and the scores below; of tables these.

    Args:
        influences: what was found.
        ax: axis to draw on.
    """
    rows, errors = nearest_pairs(influences)
    ax = axes(ax, size=(7.5, 5.2) if len(rows) else (6.0, 4.0))
    verdict = "explain" if influences.explains else "do not explain"
    ax.set_title(f"Training rows {verdict} {len(influences.sides.errors):,} errors")
    if not len(rows):
        _draw_scores(influences, ax)
        return ax
    ax.axis("off")
    _draw_pairs(influences, rows, errors, axes(ax.inset_axes((0.0, 0.46, 1.0, 0.53))))
    _draw_scores(influences, axes(ax.inset_axes((0.1, 0.06, 0.88, 0.3))))
    return ax


def nearest_pairs(influences: Influences) -> tuple[Tensor, Tensor]:
    """Positions of the highest training rows, and of the error that each is nearest to, `[p]` each.

    An error is taken once, by the highest row. Rows of tables, and rows of a loader that cannot be
    read by their number, make no pairs.

    Args:
        influences: what was found.
    """
    pairs: list[tuple[int, int]] = []
    features, named = influences.sides.errors.features, influences.named
    pictured = isinstance(features, Tensor) and modality_of(features) is not None
    if not pictured or rows_at(influences.train, named[:1], influences.unpack) is None:
        return named[:0], named[:0]
    rows, similarity = influences.similarity
    free = similarity[: len(named)].clone()
    for row, near in zip(rows.tolist(), free, strict=False):
        if len(pairs) < _PAIRS and float(near.amax()) > 0:
            pairs.append((row, int(near.argmax())))
            free[:, pairs[-1][1]] = 0.0
    found = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _draw_pairs(influences: Influences, rows: Tensor, errors: Tensor, ax: Axes) -> None:
    """The pairs as pictures, lines or texts, with their labels."""
    wrong, train = influences.sides.errors.select(errors), influences.train
    names = f"errors in {wrong.name}", "training rows"
    labels = [
        _labels(side, values, len(rows))
        for side, values in ((wrong, wrong.targets), (train, influences.labels[rows]))
    ]
    texts = [
        _texts(side, picked) for side, picked in ((influences.sides.errors, errors), (train, rows))
    ]
    if all(texts):
        lines = (
            [f"{label}: {text}" for label, text in zip(*pair, strict=True)]
            for pair in zip(labels, texts, strict=True)
        )
        draw_texts(ax, dict(zip(names, lines, strict=True)))
        return
    inputs: Any = wrong.features, training_inputs(train, rows, influences.unpack)
    draw_rows(ax, {name: part.cpu() for name, part in zip(names, inputs, strict=True)})
    if ax.images:
        told = [
            f"{true} as {given}\nrow {row}"
            for true, given, row in zip(*labels, rows.tolist(), strict=True)
        ]
        cell = ax.images[0].get_size()[1] / len(rows)
        ax.set_xticks([(i + 0.45) * cell for i in range(len(rows))], told, fontsize=8)
        ax.set_xlabel("true label of the error as answer, the label of the row", fontsize=8)


def _texts(side: Any, rows: Tensor) -> list[str]:
    """Texts in words behind the rows; none where there are none."""
    known = None
    if isinstance(side, Records):
        known = texts_of(side.metadata, declared=side.schema.text)
    return [known[row] for row in rows.tolist()] if known else []


def _labels(side: Any, labels: Tensor | None, rows: int) -> list[str]:
    """Labels as a person reads them."""
    if labels is None:
        return ["?"] * rows
    if labels.ndim == 1 and not labels.is_floating_point():
        names = side.schema.classes if isinstance(side, Records) else ()
        return [class_name(label, names) for label in labels.tolist()]
    return [", ".join(f"{value:.3g}" for value in row) for row in labels.reshape(rows, -1).tolist()]


def _draw_scores(influences: Influences, ax: Axes) -> None:
    """Share of training rows and of held-out rows above each score."""
    best = min(influences.methods, key=lambda method: method.evidence.p_value)
    parts = [(best.scores[:, 0], LIVE, "training rows")]
    if best.held_out is not None:
        parts.append((best.held_out, REFERENCE, "held-out rows"))
    for values, color, label in parts:
        ordered = values.double().sort(descending=True).values[: max(2, len(values) // 10)]
        shares = torch.arange(1, len(ordered) + 1) / len(values)
        ax.plot(ordered.numpy(), shares.numpy(), color=color, label=label)
    ax.set_yscale("log")
    ax.set_xlabel(f"score ({best.name})")
    ax.set_ylabel("share of rows above it")
    ax.legend()
