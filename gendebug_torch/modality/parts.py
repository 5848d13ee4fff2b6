"""Inputs of several parts: which modality each has, and their properties in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.modality.detection import TABLE, modality_of
from gendebug_torch.modality.modality import Change, Modality

# Columns of a table beside other inputs; a wider one is no table that a person reads.
_MOST_COLUMNS = 300
# Parts that say which positions of another part count, by the end of their names.
_SERVICE = ("mask", "type_ids", "position_ids")
_MASK = "attention_mask"


@dataclass(frozen=True)
class Part:
    """One part of the inputs.

    Args:
        at: key or position of the part; None of inputs that are one Tensor.
        name: what its properties begin with, empty of inputs that are one Tensor.
        modality: what it is; None of a table.
    """

    at: str | int | None
    name: str
    modality: Modality | None

    def of(self, inputs: Any) -> Tensor:
        """This part of a batch of inputs."""
        part: Tensor = inputs if self.at is None else inputs[self.at]
        return part


def parts_of(inputs: Any, modality: str | Mapping[Any, str] = "auto") -> tuple[Part, ...]:
    """The parts of a batch of inputs that can be described, each with its modality.

    Args:
        inputs: Tensor `[n, ...]`, or a mapping, tuple or list of them.
        modality: `auto`, the modality of all parts, or that of some parts by key or position.

    Raises:
        InputError: an unknown modality, or inputs that do not have the shape of theirs.

    Example:
        >>> import torch
        >>> found = parts_of((torch.rand(4, 3, 8, 8), torch.rand(4, 5)))
        >>> [(part.name, part.modality and part.modality.name) for part in found]
        [('image', 'image'), ('table', None)]
    """
    if isinstance(inputs, Tensor):
        single = modality if isinstance(modality, str) else next(iter(modality.values()), "auto")
        return (Part(None, "", modality_of(inputs, single)),)
    keyed = isinstance(inputs, Mapping)
    if not keyed and not isinstance(inputs, (tuple, list)):
        return ()
    if not isinstance(modality, str) and (strays := set(modality) - _places(inputs)):
        got, remedy = f"{sorted(map(str, strays))}", "Name parts as the loader does."
        reject("modality", f"parts among {sorted(map(str, _places(inputs)))}", got, remedy)
    found: list[Part] = []
    for at, tensor in inputs.items() if keyed else enumerate(inputs):
        asked = modality if isinstance(modality, str) else modality.get(at, "auto")
        if isinstance(tensor, Tensor) and tensor.ndim >= 1 and not _is_service(at, tensor, found):
            kind = modality_of(tensor, asked)
            found.append(Part(at, str(at) if keyed else "", kind))
    return tuple(found) if keyed else _numbered(found)


@dataclass(frozen=True, eq=False)
class Composite:
    """Inputs of several parts of which one is changed while the others stay.

    Args:
        inputs: mapping, tuple or list of Tensors with one entry per row.
        part: the part that is looked at.
    """

    inputs: Any
    part: Part

    @property
    def main(self) -> Tensor:
        """The part that is looked at, `[n, ...]`."""
        return self.part.of(self.inputs)

    def __len__(self) -> int:
        return len(self.main)

    def __getitem__(self, rows: Tensor | slice) -> Composite:
        return self._with({at: part[rows] for at, part in self._parts().items()})

    def replaced(self, main: Tensor) -> Composite:
        """The same with another part; an attention mask goes where padding goes.

        Args:
            main: `[n, ...]`.
        """
        parts = self._parts() | {self.part.at: main}
        mask = parts.get(_MASK)
        if isinstance(mask, Tensor) and mask.shape == main.shape:
            absent, present = self.main[mask == 0], self.main[mask != 0]
            if not bool(torch.isin(absent, present).any()):
                parts[_MASK] = (~torch.isin(main, absent)).to(mask.dtype)
        return self._with(parts)

    def _parts(self) -> dict[Any, Tensor]:
        keyed = isinstance(self.inputs, Mapping)
        return dict(self.inputs.items() if keyed else enumerate(self.inputs))

    def _with(self, parts: dict[Any, Tensor]) -> Composite:
        keyed = isinstance(self.inputs, Mapping)
        return Composite(parts if keyed else tuple(parts.values()), self.part)


def composite_of(inputs: Any, modality: str | None = None) -> Composite | None:
    """Inputs of several parts with their first image, text or series; None of other inputs.

    Args:
        inputs: inputs of all rows.
        modality: those of the parts as `modality_name` gives them; None looks at the inputs.
    """
    if not isinstance(inputs, (Mapping, tuple, list)):
        return None
    parts, names = parts_of(inputs), modality.split(" + ") if modality else []
    if len(names) == len(parts):
        asked = {part.at: name for part, name in zip(parts, names, strict=True)}
        parts = parts_of(inputs, asked)
    main = next((part for part in parts if part.modality is not None), None)
    return None if main is None else Composite(inputs, main)


def main_of(inputs: Any, modality: str | None = None) -> Tensor | None:
    """The image, text or series `[n, ...]` of inputs; None of tables.

    Args:
        inputs: inputs of all rows.
        modality: what they are; None looks at the inputs.
    """
    whole = composite_of(inputs, modality)
    if whole is not None:
        return whole.main
    single = isinstance(inputs, Tensor) and modality_of(inputs, modality) is not None
    return inputs if single else None


def within_composites(modality: Modality) -> Modality:
    """The modality of a part, for inputs that are composites.

    Args:
        modality: that of the part that is looked at.
    """

    def changes(before: Composite, after: Composite) -> tuple[Change, ...]:
        found = modality.changes(before.main, after.main)
        return tuple(replace(one, apply=partial(_changed, change=one)) for one in found)

    contents = modality.contents
    return replace(
        modality,
        properties=lambda inputs: modality.properties(inputs.main),
        changes=changes,
        contents=None if contents is None else lambda inputs: contents(inputs.main),
        key=None,
    )


def _changed(inputs: Composite, change: Change) -> Composite:
    return inputs.replaced(change.apply(inputs.main))


def modality_name(parts: tuple[Part, ...]) -> str | None:
    """The modalities of all parts, e.g. `image + table`; None without parts."""
    names = [TABLE if part.modality is None else part.modality.name for part in parts]
    return " + ".join(names) or None


def properties_of_parts(inputs: Any, parts: tuple[Part, ...]) -> dict[str, Tensor]:
    """Properties by name, `[n]` each; of one table there are none, as its columns are.

    Args:
        inputs: a batch of inputs.
        parts: its parts.
    """
    found: dict[str, Tensor] = {}
    for part in parts:
        tensor, prefix = part.of(inputs), part.name and f"{part.name} "
        if part.modality is not None:
            shown = _unpadded(tensor, inputs) if part.modality.name == "text" else tensor
            values = part.modality.properties(shown)
            found |= {f"{prefix}{name}": column for name, column in values.items()}
        elif part.at is not None and tensor[:1].numel() <= _MOST_COLUMNS:
            columns = tensor.reshape(len(tensor), -1).float()
            found |= {f"{part.name}_{i}": columns[:, i] for i in range(columns.shape[1])}
    return found


def key_of_parts(inputs: Any, parts: tuple[Part, ...]) -> Tensor | None:
    """What near duplicates are found by, of the first part that has it."""
    for part in parts:
        if part.modality is not None and part.modality.key is not None:
            return part.modality.key(part.of(inputs))
    return None


def _places(inputs: Any) -> set[Any]:
    return set(inputs) if isinstance(inputs, Mapping) else set(range(len(inputs)))


def _is_service(at: Any, tensor: Tensor, before: list[Part]) -> bool:
    """Whether a part only says which positions of another one count."""
    if str(at).endswith(_SERVICE):
        return True
    texts = any(part.modality is not None and part.modality.name == "text" for part in before)
    whole = not tensor.is_floating_point() and tensor.ndim == 2
    return texts and whole and bool(((tensor == 0) | (tensor == 1)).all())


def _unpadded(tokens: Tensor, inputs: Any) -> Tensor:
    """Token ids with 0 where the mask of the batch says that there is none."""
    mask = inputs.get(_MASK) if isinstance(inputs, Mapping) else None
    fits = isinstance(mask, Tensor) and mask.shape == tokens.shape
    return tokens.masked_fill(mask == 0, 0) if fits and mask is not None else tokens


def _numbered(parts: list[Part]) -> tuple[Part, ...]:
    """Parts of a tuple, named by their modality, and numbered where two have one."""
    kinds = [TABLE if part.modality is None else part.modality.name for part in parts]
    names = [
        kind if kinds.count(kind) == 1 else f"{kind} {kinds[:i].count(kind) + 1}"
        for i, kind in enumerate(kinds)
    ]
    pairs = zip(parts, names, strict=True)
    return tuple(Part(part.at, name, part.modality) for part, name in pairs)
