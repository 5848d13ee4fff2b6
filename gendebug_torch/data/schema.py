"""`Schema`: what each column of a table is, declared once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendebug_torch.errors import reject

_LIST_KEYS = ("categorical", "ids", "classes", "metadata", "logits", "probs", "noise", "causal")
_METADATA_KEYS = ("time", "label_time", "group", "source")


@dataclass(frozen=True)
class Schema:
    """What the columns of a table are, declared once, and what the domain expert knows about them.

    Args:
        target: column to predict.
        time: column by which rows are ordered.
        label_time: column that says when the label became known.
        group: column whose values must not be shared by splits (customer, patient).
        source: column that says who labeled the row.
        categorical: feature columns that hold codes or names, not quantities.
        ids: columns that identify a row; kept as metadata.
        classes: values of `target` in the order of class ids; needed where they are not 0..k-1.
        regression: whether `target` is a quantity although it holds whole numbers, as counts do.
        metadata: further columns that the model is never fed.
        logits: column (binary) or k columns that hold what a model said, as logits.
        probs: the same as probabilities, in place of `logits`.
        noise: features that should carry nothing.
        causal: features that may follow the target closely.
        direction: feature -> `increasing` or `decreasing`, what more of it must do to the output.
        multilabel: whether the k logits are k independent yes/no questions.
        threshold: probability above which a deployed binary model says yes; checks that judge its
            answers use it.
    """

    target: str | None = None
    time: str | None = None
    label_time: str | None = None
    group: str | None = None
    source: str | None = None
    categorical: tuple[str, ...] = ()
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

    def __post_init__(self) -> None:
        for key in _LIST_KEYS:
            value = getattr(self, key)
            object.__setattr__(
                self, key, (value,) if isinstance(value, str) else tuple(value or ())
            )
        if self.logits and self.probs:
            reject(
                "schema", "either `logits` or `probs`", "both", "Keep the one that the model wrote."
            )
        if self.regression and (self.classes or self.multilabel):
            reject(
                "schema.regression",
                "a quantity, or classes",
                "both",
                "Leave out `classes` and `multilabel`, or `regression`.",
            )
        if self.threshold is not None and not 0 < self.threshold < 1:
            reject(
                "schema.threshold",
                "a probability between 0 and 1",
                repr(self.threshold),
                "Pass it as a probability, not as a logit.",
            )
        if wrong := {
            f: d for f, d in self.direction.items() if d not in ("increasing", "decreasing")
        }:
            reject(
                "schema.direction",
                "`increasing` or `decreasing` per feature",
                str(wrong),
                "Correct the value.",
            )

    @classmethod
    def from_file(cls, path: str | Path) -> Schema:
        """Read `schema.yaml`; an unknown key is an `InputError`, so that a typing error cannot
        pass.
        """
        import yaml

        try:
            content = yaml.safe_load(Path(path).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reject(
                "schema",
                "a readable YAML file",
                f"{path}: {error}",
                "Check the path and the YAML syntax.",
            )
        if not isinstance(content, dict):
            reject(
                "schema",
                "a mapping of keys to columns",
                f"{type(content).__name__} in {path}",
                "Write e.g. `target: label`.",
            )
        known = [f.name for f in dataclasses.fields(cls)]
        if unknown := sorted(set(content) - set(known)):
            reject(
                "schema",
                f"keys among {', '.join(known)}",
                ", ".join(map(str, unknown)),
                f"Correct or remove them in {path}.",
            )
        return cls(**{key: value for key, value in content.items() if value is not None})

    @property
    def outside_features(self) -> tuple[str, ...]:
        """Columns that are never features: target, logits, probabilities and every kind of
        metadata.
        """
        single = [getattr(self, key) for key in ("target", *_METADATA_KEYS)]
        return tuple(
            dict.fromkeys(
                [c for c in single if c] + [*self.ids, *self.metadata, *self.logits, *self.probs]
            )
        )
