"""What outputs and labels of records are refused: each in words that say what to do."""

from __future__ import annotations

from importlib.metadata import entry_points

import torch
from torch import Tensor

from gendebug_torch.data.schema import Schema
from gendebug_torch.data.task import IGNORED, Task
from gendebug_torch.errors import reject

MODALITIES = ("image", "text", "series", "table")
# Rounding of the sum of soft labels, and rows in which quantities may take two values by chance.
_SUM_TOLERANCE, _MIN_ROWS = 5e-3, 20
_DECLARE = "If they are quantities, declare `regression: true` in the schema"


def check_logits(logits: Tensor | None, task: Task | None, name: str) -> None:
    """Refuse logits that are not finite, beside the -inf of masked classes.

    Raises:
        InputError: such logits, or another shape or type.
    """
    if logits is None:
        return
    if not logits.is_floating_point() or (logits.ndim not in (1, 2) and task is not Task.DENSE):
        got = f"{logits.dtype} {list(logits.shape)} in {name!r}"
        reject("logits", "float [n] or [n, k]", got, "Pass raw model outputs before softmax.")
    if not logits.numel():
        return
    masks = logits.ndim >= 2 and logits.shape[1] > 2 and task is not Task.MULTILABEL
    values = logits.reshape(len(logits), -1) if logits.ndim < 3 else logits
    masked = values.isneginf() if masks else torch.zeros_like(values, dtype=torch.bool)
    broken = (~(values.isfinite() | masked)).any(1) | masked.all(1)
    if bad := int(broken.flatten(1).any(1).sum() if broken.ndim > 1 else broken.sum()):
        expected = (
            "finite values, or -inf for a masked class and not for all"
            if masks
            else "finite values"
        )
        got = f"NaN or infinity in {bad} of {len(logits)} rows of {name!r}"
        reject("logits", expected, got, "Find the rows that break the model, or drop them.")


def check_embedding(embedding: Tensor | None, modality: str | None, name: str) -> None:
    """Refuse an embedding that is no table of numbers, and an unknown modality.

    Raises:
        InputError: one of them.
    """
    if embedding is not None and (embedding.ndim != 2 or not embedding.is_floating_point()):
        got = f"{embedding.dtype} of shape {list(embedding.shape)} in {name!r}"
        remedy = "Flatten or average it to one vector per row."
        reject("embedding", "floats [n, e]", got, remedy)
    parts = modality.split(" + ") if isinstance(modality, str) else [modality or MODALITIES[0]]
    if all(part in MODALITIES for part in parts):
        return
    known = (*MODALITIES, *sorted(entry_points(group="gendebug_torch.modalities").names))
    if not all(part in known for part in parts):
        expected, got = f"one of {', '.join(known)}", repr(modality)
        reject("modality", expected, got, "Leave it out to have it seen from shape and type.")


def check_ids(targets: Tensor | None, logits: Tensor | None, task: Task | None, name: str) -> None:
    """Refuse class ids that the logits have no place for, or that they mask.

    Raises:
        InputError: such class ids, or labels `[n, k]` beside other logits.
    """
    if targets is None or targets.is_floating_point():
        return
    if task is Task.MULTILABEL and logits is not None and logits.shape != targets.shape:
        got = f"logits {list(logits.shape)} and targets {list(targets.shape)} in {name!r}"
        reject("targets", "one label per logit", got, "Pass the k logits of these k labels.")
    labeled = targets != IGNORED
    ids = targets[labeled]
    if not len(ids):
        return
    low, high = int(ids.min()), int(ids.max())
    one_logit = logits is not None and (logits.ndim == 1 or logits.shape[1] == 1)
    classes = 2 if task is Task.MULTILABEL or one_logit else None
    if classes is None and logits is not None:
        classes = logits.shape[1]
    if low < 0 or (classes is not None and high >= classes):
        expected = "class ids from 0" if classes is None else f"class ids in 0..{classes - 1}"
        remedy = (
            "Map labels to 0..k-1, or declare `classes` in the schema; a missing label is NaN or "
            "-100."
        )
        reject("targets", expected, f"{low}..{high} in {name!r}", remedy)
    if task is Task.MULTILABEL or logits is None or one_logit:
        return
    at = targets.masked_fill(~labeled, 0).unsqueeze(1).to(logits.device)
    own = logits.gather(1, at)[:, 0]
    if masked := int((own.isneginf() & labeled.to(own.device)).sum()):
        got = f"{masked} of {targets.numel()} rows of {name!r} whose class has logit -inf"
        expected = "classes that the model does not mask"
        reject("targets", expected, got, "Unmask the class, or drop the rows.")


def check_quantities(
    targets: Tensor | None, logits: Tensor | None, task: Task | None, schema: Schema, name: str
) -> None:
    """Refuse quantities that the predictions do not fit, and floats that may be labels.

    Raises:
        InputError: it states the readings, and the argument that decides.
    """
    if targets is None or logits is None or task is not Task.REGRESSION:
        return
    # The outputs of one quantity may be its quantiles, or its mean and spread.
    several = targets.ndim == 1 and (schema.quantiles or schema.spread)
    if logits.shape != targets.shape and not several:
        got = f"outputs {list(logits.shape)} and targets {list(targets.shape)} in {name!r}"
        remedy = (
            f"{_DECLARE} and pass one output for each, or say by `quantiles` or `spread` what the "
            "outputs are; if they are labels, pass class ids 0..k-1."
        )
        reject("targets", "one output per quantity", got, remedy)
    known = targets[~targets.isnan()]
    if schema.regression or not len(known):
        return
    low, high = float(known.min()), float(known.max())
    got = f"values from {low:.4g} to {high:.4g} in {name!r}"
    shares = low >= 0 and high <= 1
    if shares and targets.ndim == 2 and _sum_to_one(targets):
        remedy = f"If they are soft labels, pass their `argmax(1)`. {_DECLARE}."
        reject("targets", "class ids, or quantities", f"{got} that sum to 1 in each row", remedy)
    if shares and targets.ndim == 1 and _far_outside(logits):
        remedy = f"If they are soft labels, pass class ids 0 and 1. {_DECLARE}."
        reject("targets", "class ids, or quantities", f"{got} beside other outputs", remedy)
    if len(known) >= _MIN_ROWS and low != high and _two_whole_values(known, low, high):
        remedy = f"If they are labels, map them to 0 and 1. {_DECLARE}."
        reject(
            "targets", "class ids, or quantities", f"only {low:g} and {high:g} in {name!r}", remedy
        )


def _sum_to_one(targets: Tensor) -> bool:
    sums = targets[~targets.isnan().any(1)].sum(1)
    return len(sums) > 0 and bool(((sums - 1).abs() <= _SUM_TOLERANCE).all())


def _far_outside(outputs: Tensor) -> bool:
    """Whether most outputs are no predictions of values in [0, 1]."""
    return bool(((outputs < -0.5) | (outputs > 1.5)).double().mean() > 0.5)


def _two_whole_values(known: Tensor, low: float, high: float) -> bool:
    whole = low == round(low) and high == round(high)
    return whole and bool(((known == low) | (known == high)).all())
