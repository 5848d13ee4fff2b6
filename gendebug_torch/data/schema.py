"""`Schema`: what each column of a table is, declared once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from gendebug_torch.data.files import read_text
from gendebug_torch.data.yaml import compose, construct, line_of, pairs, reject_at
from gendebug_torch.errors import InputError, brief, did_you_mean, reject

_METADATA_KEYS = ("time", "label_time", "group", "source")
_NAME_KEYS = ("target", *_METADATA_KEYS)
_LIST_KEYS = ("categorical", "text", "ids", "metadata", "logits", "probs", "noise", "causal")
_FLAG_KEYS = ("multilabel", "regression")
_SPREADS = ("variance", "log_variance", "standard_deviation")
_DIRECTIONS = ("increasing", "decreasing")


@dataclass(frozen=True)
class Schema:
    """What the columns of a table are, declared once, and what the domain expert knows about them.

    Args:
        target: column to predict.
        time: column by which rows are ordered.
        label_time: column that says when the label became available.
        group: column of whom a row is about (customer, patient): splits must not share one, and
            rows of one count together where they are alike.
        source: column that says who labeled the row.
        categorical: feature columns that hold codes or names, not quantities.
        text: columns that hold texts; those of several words are found without it.
        ids: columns that identify a row; kept as metadata.
        classes: values of `target` in the order of class ids; needed where they are not 0..k-1.
        regression: whether `target` is a quantity although it holds whole numbers, as counts do.
        metadata: further columns that the model is never fed.
        logits: column (binary) or k columns that hold the outputs of a model, as logits.
        probs: the same as probabilities, in place of `logits`.
        noise: features that should carry no information.
        causal: features that may follow the target closely.
        direction: feature -> `increasing` or `decreasing`, how the output must change with it.
        multilabel: whether the k logits are k independent yes/no labels.
        threshold: probability above which a deployed binary model says yes; checks that judge its
            answers use it.
        quantiles: levels of the quantiles that the k outputs of a regression are, in their order.
        spread: what the second of two outputs of a regression is, the first being the mean:
            `variance`, `log_variance` or `standard_deviation`.
        image_size: width and height in pixels to which the pictures of folders are resized, or one
            number for both; without it they stay as they are and must be alike.

    Raises:
        InputError: a value of another type, or two that exclude each other.

    Example:
        >>> Schema(target="label", ids="customer", classes=["no", "yes"]).outside_features
        ('label', 'customer')
    """

    target: str | None = None
    time: str | None = None
    label_time: str | None = None
    group: str | None = None
    source: str | None = None
    categorical: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    classes: tuple[Any, ...] = ()
    metadata: tuple[str, ...] = ()
    logits: tuple[str, ...] = ()
    probs: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    causal: tuple[str, ...] = ()
    direction: dict[str, str] = field(default_factory=dict)
    multilabel: bool = False
    threshold: float | None = None
    regression: bool = False
    quantiles: tuple[float, ...] = ()
    spread: str | None = None
    image_size: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for keys, read in (
            (_NAME_KEYS, _column),
            (_LIST_KEYS, _columns),
            (_FLAG_KEYS, _flag),
            (("classes",), _classes),
            (("direction",), _direction),
            (("threshold",), _threshold),
            (("quantiles",), _quantiles),
            (("spread",), _spread),
            (("image_size",), _image_size),
        ):
            for key in keys:
                object.__setattr__(self, key, read(f"schema.{key}", getattr(self, key)))
        if self.logits and self.probs:
            remedy = "Keep the one that the model wrote."
            reject("schema.probs", "either `logits` or `probs`", "both", remedy)
        if both := set(self.text) & {*self.categorical, *self.logits, *self.probs, self.target}:
            remedy = "Keep the column under one of them."
            reject("schema.text", "columns of texts", f"{min(both)!r} in another role too", remedy)
        if self.regression and (self.classes or self.multilabel):
            remedy = "Leave out `classes` and `multilabel`, or `regression`."
            reject("schema.regression", "a quantity, or classes", "both", remedy)
        if self.quantiles and self.spread:
            remedy = "Say what the outputs of the network are."
            reject("schema.spread", "either `quantiles` or `spread`", "both", remedy)

    @classmethod
    def from_file(cls, path: str | Path) -> Schema:
        """The schema in a YAML file (YAML 1.2: `no` is a text, `1e-3` a number).

        Args:
            path: the file, e.g. `schema.yaml`.

        Raises:
            InputError: names the file, the line and the key: an unknown or duplicate key, a value
                of another type, or a file that cannot be read.
        """
        source, known = Path(path), [f.name for f in dataclasses.fields(cls)]
        entries = pairs(compose(read_text(source, "schema"), source, "schema"), source, "schema")
        for key, (node, _) in entries.items():
            if key not in known:
                expected = f"keys among {', '.join(known)}"
                remedy = f"{did_you_mean(key, known)}Correct or remove it."
                reject_at(source, node, "schema", expected, brief(key), remedy)
        values = {key: construct(value, source) for key, (_, value) in entries.items()}
        try:
            return cls(**{key: value for key, value in values.items() if value is not None})
        except InputError as error:
            line = line_of(entries[error.argument.removeprefix("schema.")][0])
            raise InputError(f"{source}:{line}: {error}") from None

    @property
    def labeling(self) -> tuple[str | None, ...]:
        """Columns that say who labeled a row, and when it was taken and labeled."""
        return self.source, self.time, self.label_time

    @property
    def outside_features(self) -> tuple[str, ...]:
        """Columns that are never features: target, logits, probabilities and all metadata."""
        single = [getattr(self, key) for key in _NAME_KEYS]
        return tuple(
            dict.fromkeys(
                [c for c in single if c] + [*self.ids, *self.metadata, *self.logits, *self.probs]
            )
        )


def _column(argument: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    remedy = "Write one name; a name that looks like a number needs quotes."
    reject(argument, "the name of a column", brief(value), remedy)


def _columns(argument: str, value: Any) -> tuple[str, ...]:
    names = _items(argument, "names of columns", value)
    if not all(isinstance(name, str) for name in names):
        remedy = "Write e.g. [first, second]; a name that looks like a number needs quotes."
        reject(argument, "names of columns", brief(value), remedy)
    return names


def _classes(argument: str, value: Any) -> tuple[Any, ...]:
    classes = _items(argument, "values of the target", value)
    plain = all(isinstance(one, (str, Real)) or hasattr(one, "dtype") for one in classes)
    if not plain or len(set(classes)) < len(classes):
        remedy = "Write each value once, in the order of class ids, e.g. [no, yes]."
        reject(argument, "different values of the target", brief(value), remedy)
    return classes


def _flag(argument: str, value: Any) -> bool:
    if not isinstance(value, bool):
        remedy = "Write it without quotes; `yes` and `no` are texts."
        reject(argument, "true or false", brief(value), remedy)
    return value


def _threshold(argument: str, value: Any) -> float | None:
    if value is None:
        return None
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < float(value) < 1:
        remedy = "Write it as a probability without quotes, not as a logit."
        reject(argument, "a probability between 0 and 1", brief(value), remedy)
    return float(value)


def _quantiles(argument: str, value: Any) -> tuple[float, ...]:
    levels = _items(argument, "levels of quantiles", value)
    numbers = [float(x) for x in levels if isinstance(x, Real) and not isinstance(x, bool)]
    inside = len(numbers) == len(levels) and all(0 < x < 1 for x in numbers)
    if not inside or numbers != sorted(set(numbers)):
        remedy = "Write e.g. [0.05, 0.5, 0.95]."
        reject(argument, "increasing levels between 0 and 1", brief(value), remedy)
    return tuple(numbers)


def _spread(argument: str, value: Any) -> str | None:
    if value is not None and value not in _SPREADS:
        expected = f"one of {', '.join(_SPREADS)}"
        reject(argument, expected, brief(value), "Say what the second output is.")
    return value if value is None else str(value)


def _image_size(argument: str, value: Any) -> tuple[int, ...]:
    sides = (value, value) if isinstance(value, int) else _items(argument, "two numbers", value)
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    if sides and not (whole and len(sides) == 2):
        remedy = "Write e.g. [224, 224]."
        reject(argument, "width and height in pixels", brief(value), remedy)
    return sides


def _direction(argument: str, value: Any) -> dict[str, str]:
    words = value.values() if isinstance(value, Mapping) else [None]
    named = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    if not named or any(word not in _DIRECTIONS for word in words):
        expected = "`increasing` or `decreasing` per feature"
        reject(argument, expected, brief(value), "Write e.g. {income: increasing}.")
    return dict(value)


def _items(argument: str, expected: str, value: Any) -> tuple[Any, ...]:
    """One entry or a list of them as a tuple; a missing value is an empty one."""
    if value is None or isinstance(value, str):
        return () if value is None else (value,)
    listed = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(listed, (list, tuple)):
        reject(argument, expected, brief(value), "Write e.g. [first, second].")
    return tuple(listed)
