"""Texts as strings: length, case, script, digits, punctuation, white space and damage."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.modality.changes.strings import string_changes
from gendebug_torch.modality.modality import Modality

if TYPE_CHECKING:
    import pandas as pd

# UTF-8 that was read as Latin-1 or Windows-1252, the replacement character, and escaped letters.
_DAMAGE = re.compile(
    "[\u00c2\u00c3][\u0080-\u00bf\u0152-\u0178\u02c6-\u02dc\u2013-\u2122]|\u00e2\u20ac|\ufffd"
    r"|\\[nrtux]|&[a-z#0-9]+;"
)
# A column of texts: most of a sample differ, and have several words.
_SAMPLE, _DIFFERENT, _WORDS = 1000, 0.5, 3.0


def string_properties(texts: Sequence[str]) -> dict[str, Tensor]:
    """What a person sees of each text, as numbers `[n]`; shares are of its characters.

    Args:
        texts: n strings.

    Example:
        >>> found = string_properties(["Hi there!", ""])
        >>> found["length in characters"].tolist(), found["words"].tolist()
        ([9.0, 0.0], [2.0, 0.0])
    """
    rows = [_described(str(text)) for text in texts]
    names = _described("").keys()
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float32) for name in names}


def _described(text: str) -> dict[str, float]:
    words, length = text.split(), max(1, len(text))
    kinds = [_kind(letter) for letter in text]
    letters = max(1, sum(kind in ("Lu", "Ll", "Lt", "Lo", "Lm") for kind in kinds))
    lower = [word.lower() for word in words]
    found: dict[str, float] = {
        "length in characters": len(text),
        "words": len(words),
        "length of words": sum(map(len, words)) / max(1, len(words)),
        "share of different words": len(set(lower)) / max(1, len(lower)),
        "share of upper case": kinds.count("Lu") / letters,
        "share of digits": kinds.count("Nd") / length,
        "share of punctuation": sum(kind[0] in "PS" for kind in kinds) / length,
        "starts in upper case": float(text[:1].isupper()),
        "ends with punctuation": float(kinds[-1][0] == "P" if kinds else 0),
    }
    return found | _signs(text, length) | {"share of other scripts": _foreign(text) / letters}


def _signs(text: str, length: int) -> dict[str, float]:
    """Shares of white space, of characters beyond ASCII, and of what damage leaves."""
    return {
        "share of white space": sum(map(str.isspace, text)) / length,
        "share of line breaks": sum(text.count(end) for end in "\n\r") / length,
        "share beyond ASCII": sum(letter > "\x7f" for letter in text) / length,
        "share of question marks": text.count("?") / length,
        "damaged characters": len(_DAMAGE.findall(text)) / length,
    }


def _foreign(text: str) -> int:
    """Number of letters that are not Latin."""
    letters = (letter for letter in text if letter > "\x7f" and letter.isalpha())
    return sum(not _is_latin(letter) for letter in letters)


@cache
def _kind(letter: str) -> str:
    """General category of a character."""
    return unicodedata.category(letter)


@cache
def _is_latin(letter: str) -> bool:
    """Whether a letter is Latin, by its name."""
    return unicodedata.name(letter, "").startswith(("LATIN", "MODIFIER", "MASCULINE", "FEMININE"))


STRINGS = Modality("text", string_properties, string_changes)


def text_columns(frame: pd.DataFrame, declared: Sequence[str] = ()) -> list[str]:
    """Columns of texts in words, as opposed to categories and codes.

    Args:
        frame: any table.
        declared: columns that hold texts, whatever they look like.

    Example:
        >>> import pandas as pd
        >>> said = [f"Message number {i} of today" for i in range(9)]
        >>> text_columns(pd.DataFrame({"message": said, "kind": ["a", "b", "c"] * 3}))
        ['message']
    """
    return [str(name) for name in frame.columns if name in declared or _holds_texts(frame[name])]


def _holds_texts(column: pd.Series[Any]) -> bool:
    if column.dtype.kind not in "OU" and str(column.dtype) not in ("string", "str"):
        return False
    texts = column.dropna().head(_SAMPLE).tolist()
    if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        return False
    if len(set(texts)) < _DIFFERENT * len(texts):
        return False
    return sum(len(text.split()) for text in texts) >= _WORDS * len(texts)


def with_text_properties(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with the properties of these columns in the place of their texts.

    Missing texts have missing properties.

    Args:
        frame: table with the columns.
        columns: names of columns of texts.
    """
    import pandas as pd

    parts = [frame.drop(columns=list(columns))]
    for name in columns:
        present = frame[name].notna().to_numpy()
        texts = frame[name].astype(object).fillna("")
        found = string_properties(texts.astype(str).tolist())
        named = {f"{key} of {name}": values.numpy() for key, values in found.items()}
        table = pd.DataFrame(named, index=frame.index)
        table.loc[~present] = float("nan")
        parts.append(table)
    return pd.concat(parts, axis=1)


def texts_of(*frames: pd.DataFrame | None, declared: Sequence[str] = ()) -> list[str] | None:
    """The texts of the first column of texts among these tables; None where there is none."""
    for frame in frames:
        for name in text_columns(frame, declared) if frame is not None else ():
            assert frame is not None
            texts: list[str] = frame[name].fillna("").astype(str).tolist()
            return texts
    return None
