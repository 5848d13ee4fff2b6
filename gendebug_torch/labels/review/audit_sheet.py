"""The sheet on which a person judges labels, and what comes back from it."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.errors import reject
from gendebug_torch.labels.review.ranking import LabelRanking
from gendebug_torch.stats.intervals import wilson_interval

COLUMNS = ("place", "row", "given", "suggested", "score", "source", "basis", "key", "verdict")
RIGHT, WRONG, UNSURE = "right", "wrong", "unsure"


@dataclass(frozen=True)
class Review:
    """What a person said about the rows of one or more sheets.

    Args:
        looked: rows with a verdict of right or wrong, or another class.
        corrections: row -> class that it should have.
        unsure: rows that the person could not judge.
        waiting: rows on a sheet without a verdict.
    """

    looked: tuple[int, ...]
    corrections: Mapping[int, str]
    unsure: tuple[int, ...]
    waiting: tuple[int, ...]

    @property
    def precision(self) -> tuple[float, float, float]:
        """Share of the judged rows whose label was wrong, with its 95 % interval (Wilson, 1927);
        NaN in [0, 1] for none.
        """
        n, wrong = len(self.looked), len(self.corrections)
        low, high = wilson_interval(torch.tensor(wrong), torch.tensor(n))
        return wrong / n if n else float("nan"), float(low), float(high)

    def __add__(self, other: Review) -> Review:
        return Review(
            self.looked + other.looked,
            {**self.corrections, **other.corrections},
            self.unsure + other.unsure,
            self.waiting + other.waiting,
        )


def audit_sheet(
    ranking: LabelRanking,
    *,
    names: Sequence[object] = (),
    source: Sequence[object] | None = None,
    size: int = 100,
    without: Sequence[int] = (),
) -> pd.DataFrame:
    """The most suspicious rows in the order to look at them, with an empty column for the verdict.

    A verdict is `right`, `wrong` (then the suggestion is taken), the name of another class, or
    `unsure`.

    Args:
        ranking: of n rows.
        names: k class names; default the class ids.
        source: `[n]` who labeled each row, if known.
        size: rows of the sheet.
        without: rows to leave out, e.g. those judged before.

    Returns:
        `place` (1 of 100), `row`, `given`, `suggested`, `score`, `source`, `basis` of the score,
        `key` (a checksum, by which an edited line is known) and the empty `verdict`.

    Raises:
        InputError: a size below 1.
    """
    if size < 1:
        reject("size", "at least 1", str(size), "A hundred rows can be judged in one sitting.")
    done = torch.zeros(len(ranking.targets), dtype=torch.bool)
    done[torch.tensor(list(without), dtype=torch.int64)] = True
    order = ranking.order.cpu()
    rows = order[~done[order]][:size].tolist()
    lines = []
    for place, row in enumerate(rows, start=1):
        given, suggested = (
            _name(int(ids[row]), names) for ids in (ranking.targets, ranking.suggested)
        )
        who = "" if source is None else str(source[row])
        line = [
            f"{place} of {len(rows)}",
            str(row),
            given,
            suggested,
            f"{float(ranking.score[row]):.4g}",
            who,
            ranking.basis,
        ]
        lines.append([*line, _key(line), ""])
    return pd.DataFrame(lines, columns=list(COLUMNS))


def read_review(path: str | Path, targets: Tensor, *, names: Sequence[object] = ()) -> Review:
    """The verdicts of a sheet that a person filled in; anything but the verdicts must be as it was
    written.

    Args:
        path: CSV file with the columns of `audit_sheet`; further columns are ignored.
        targets: `[n]` int64 given labels of the table that the sheet was made from.
        names: k class names; default the class ids.

    Raises:
        InputError: an unreadable file, an edited, repeated or missing line, or an unknown verdict;
            names the line.
    """
    lines = _read(path)
    known = [
        _name(i, names)
        for i in range(max(len(names), int(targets.max()) + 1 if len(targets) else 0))
    ]
    looked, corrections, unsure, waiting, seen = [], {}, [], [], dict[str, int]()
    for number, line in lines:
        _check_line(path, number, line, targets, names)
        if line["place"] in seen:
            _refuse(
                path,
                number,
                f"the same place as line {seen[line['place']]}: {line['place']!r}",
                "Remove one of the two lines.",
            )
        seen[line["place"]] = number
        row, verdict = int(line["row"]), line["verdict"].strip()
        corrected = line["suggested"] if verdict.lower() == WRONG else verdict
        if verdict == "":
            waiting.append(row)
        elif verdict.lower() == UNSURE:
            unsure.append(row)
        elif verdict.lower() == RIGHT or corrected == line["given"]:
            looked.append(row)
        elif corrected in known:
            looked.append(row)
            corrections[row] = corrected
        else:
            expected = (
                f"`{RIGHT}`, `{WRONG}`, `{UNSURE}`, nothing, or a class among "
                f"{', '.join(known[:20])}"
            )
            _refuse(path, number, f"the verdict {verdict!r}", f"Write {expected}.")
    _check_complete(path, lines)
    return Review(tuple(looked), corrections, tuple(unsure), tuple(waiting))


def _read(path: str | Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, fields) of every line that is not empty, without the quotes that keep text from
    running as a formula.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reject(
            "reviewed", "a readable CSV file", f"{path}: {error}", "Save the sheet as CSV in UTF-8."
        )
    header = text.partition("\n")[0]
    reader = csv.DictReader(
        text.splitlines(), delimiter=";" if header.count(";") > header.count(",") else ","
    )
    absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if absent:
        reject(
            "reviewed",
            f"the columns {', '.join(COLUMNS)}",
            f"no {', '.join(absent)} in line 1 of {path}",
            "Restore the first line.",
        )
    return [
        (reader.line_num, {key: _unquoted(line.get(key) or "") for key in COLUMNS})
        for line in reader
        if any(line.values())
    ]


def _check_line(
    path: str | Path, number: int, line: dict[str, str], targets: Tensor, names: Sequence[object]
) -> None:
    if _key([line[key] for key in COLUMNS[:-2]]) != line["key"]:
        _refuse(
            path,
            number,
            "another content than was written",
            "Only the verdict may be filled in; restore this line from the sheet.",
        )
    row = int(line["row"])
    if row >= len(targets) or _name(int(targets[row]), names) != line["given"]:
        got = f"row {row} labeled {line['given']}, which the table does not have"
        _refuse(path, number, got, "Pass the table that the sheet was made from.")


def _check_complete(path: str | Path, lines: list[tuple[int, dict[str, str]]]) -> None:
    places = {line["place"] for _, line in lines}
    total = int(lines[0][1]["place"].partition(" of ")[2]) if lines else 0
    missing = [f"{i} of {total}" for i in range(1, total + 1) if f"{i} of {total}" not in places]
    if missing or not lines:
        what = (
            f"no line for {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}"
            if lines
            else "no lines"
        )
        reject(
            "reviewed",
            "every line of the sheet",
            f"{what} in {path}",
            "Restore them; leave the verdict empty where none was made.",
        )


def _refuse(path: str | Path, number: int, got: str, remedy: str) -> NoReturn:
    reject("reviewed", "the lines of an audit sheet", f"{got} in line {number} of {path}", remedy)


def _key(fields: Sequence[str]) -> str:
    """Checksum of a line; a score counts by its value, since spreadsheets write 0.05 for 0.050."""
    try:
        score = f"{float(fields[4]):.4g}"
    except ValueError:
        score = fields[4]
    return f"k{zlib.crc32('|'.join([*fields[:4], score, *fields[5:]]).encode()):08x}"


def _unquoted(text: str) -> str:
    return text[1:] if text[:2] in ("'=", "'+", "'-", "'@") else text


def _name(label: int, names: Sequence[object]) -> str:
    return str(names[label]) if label < len(names) else str(label)
