"""`Modality`: what a kind of input is described by, and what serving code may do to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Change:
    """Something that serving code may do to inputs: a named transformation of a batch.

    Args:
        name: short name, e.g. `channel_order`.
        text: what it did, to go on after "production looks as if", e.g. "red and blue are
            exchanged".
        apply: batch `[n, ...]` -> changed batch of the same shape.
        complexity: number of values that were fitted to production to make it; of two changes that
            explain equally much the simpler one is named.
        of_serving: whether serving code does it. Other changes, such as a word that texts no longer
            have, are what those of serving code are measured against.
    """

    name: str
    text: str
    apply: Callable[[Any], Any]
    complexity: int = 0
    of_serving: bool = True


@dataclass(frozen=True)
class Modality:
    """How one kind of input is described in words.

    Args:
        name: `image`, `text`, `series`, or the name of an entry point of another package.
        properties: batch `[n, ...]` -> properties by name, `[n]` float each, on its device.
        changes: (validation, production) batches -> what serving code may have done.
        key: batch `[n, ...]` -> `[n, ...]` what near duplicates are found by, if there is such.
        contents: batch `[n, ...]` -> `[n, p]` float, what inputs hold beyond these properties, by
            which changes of them are told apart, if there is such.
        axes: numbers of axes that inputs may have; empty for any.
        shape: such shapes in words.
    """

    name: str
    properties: Callable[[Any], dict[str, Tensor]]
    changes: Callable[[Any, Any], tuple[Change, ...]]
    key: Callable[[Tensor], Tensor] | None = None
    contents: Callable[[Any], Tensor] | None = None
    axes: tuple[int, ...] = ()
    shape: str = "[n, ...]"
