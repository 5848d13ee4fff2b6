"""The sheet on which a person reviews labels, and the verdicts read back from it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pandas as pd
import torch
from torch import Tensor

from gendebug_torch.data.sheets.audit_lines import COLUMNS, audit_lines, checksum, class_name
from gendebug_torch.errors import reading, reject
from gendebug_torch.labels.review.ranking import LabelRanking
from gendebug_torch.stats.intervals import wilson_interval

RIGHT, WRONG, UNSURE = "right", "wrong", "unsure"


@dataclass(frozen=True)
class Review:
    """Verdicts of a person on the rows of one or more sheets. Adds over sheets.

    Args:
        decisions: rows with a verdict of right or wrong, or another class.
        corrections: correct class by row, for labels that are wrong.
        unsure: rows that the person could not decide.
        pending: rows without a verdict.
    """

    decisions: tuple[int, ...]
    corrections: Mapping[int, str]
    unsure: tuple[int, ...]
    pending: tuple[int, ...]

    @property
    def precision(self) -> tuple[float, float, float]:
        """Share of the decisions whose label was wrong, with its 95 % Wilson interval.

        NaN in [0, 1] without a decision.
        """
        n, wrong = len(self.decisions), len(self.corrections)
        low, high = wilson_interval(torch.tensor(wrong), torch.tensor(n))
        return wrong / n if n else float("nan"), float(low), float(high)

    def __add__(self, other: Review) -> Review:
        return Review(
            self.decisions + other.decisions,
            {**self.corrections, **other.corrections},
            self.unsure + other.unsure,
            self.pending + other.pending,
        )


def audit_sheet(
    ranking: LabelRanking,
    *,
    names: Sequence[object] = (),
    source: Sequence[object] | None = None,
    size: int = 100,
    exclude: Sequence[int] = (),
    rows: Tensor | None = None,
) -> pd.DataFrame:
    """The most suspicious rows, in the order of review, with an empty column for the verdict.

    A verdict is `right`, `wrong` (then the suggestion is taken), the name of another class, or
    `unsure`.

    Args:
        ranking: ranking of n rows.
        names: class names, k; default the class ids.
        source: labeler of each row, `[n]`.
        size: number of rows on the sheet.
        exclude: row numbers to leave out, e.g. those reviewed before.
        rows: row numbers of the ranked rows in their table, `[n]` int64; default 0..n-1.

    Returns:
        Columns `position` (1 of 100), `row`, `given`, `suggested`, `score`, `source`, `basis` of
        the score, `key` (a checksum that detects edited lines) and the empty `verdict`.

    Raises:
        InputError: a size below 1.

    Example:
        >>> from gendebug_torch.labels import label_ranking
        >>> probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        >>> sheet = audit_sheet(label_ranking(probs, torch.tensor([0, 0, 0])), names=["cat", "dog"])
        >>> sheet[["row", "given", "suggested"]].values.tolist()[0]
        ['1', 'cat', 'dog']
    """
    if size < 1:
        reject("size", "at least 1", str(size), "A hundred rows can be reviewed in one sitting.")
    numbers = torch.arange(len(ranking.targets)) if rows is None else rows.cpu()
    done = torch.isin(numbers, torch.tensor(list(exclude), dtype=torch.int64))
    order = ranking.order.cpu()
    chosen = order[~done[order]][:size].tolist()
    lines = [
        (
            int(numbers[row]),
            class_name(int(ranking.targets[row]), names),
            class_name(int(ranking.suggested[row]), names),
            float(ranking.score[row]),
            "" if source is None else source[row],
        )
        for row in chosen
    ]
    return audit_lines(lines, ranking.basis)


def read_review(path: str | Path, targets: Tensor, *, names: Sequence[object] = ()) -> Review:
    """The verdicts of a filled-in sheet; all other columns must be unchanged.

    Args:
        path: CSV file with the columns of `audit_sheet`; further columns are ignored.
        targets: given class ids of the table that the sheet was made from, `[n]` int64.
        names: class names, k; default the class ids.

    Raises:
        InputError: an unreadable file, an edited, repeated or missing line, or an unknown verdict;
            names the line.

    Example:
        >>> import tempfile
        >>> from gendebug_torch.labels import label_ranking
        >>> probs, given = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0])
        >>> sheet = audit_sheet(label_ranking(probs, given)).assign(verdict=["wrong", "right"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sheet.to_csv(f"{folder}/sheet.csv", index=False)
        ...     read_review(f"{folder}/sheet.csv", given).corrections
        {1: '1'}
    """
    lines = _read(path)
    classes = [
        class_name(i, names)
        for i in range(max(len(names), int(targets.max()) + 1 if len(targets) else 0))
    ]
    decisions, corrections, unsure, pending = [], {}, [], []
    for number, line in lines:
        _check_line(path, number, line, targets, names)
        row, verdict = int(line["row"]), line["verdict"].strip()
        corrected = line["suggested"] if verdict.lower() == WRONG else verdict
        if verdict == "":
            pending.append(row)
        elif verdict.lower() == UNSURE:
            unsure.append(row)
        elif verdict.lower() == RIGHT or corrected == line["given"]:
            decisions.append(row)
        elif corrected in (*classes, line["suggested"]):
            decisions.append(row)
            corrections[row] = corrected
        else:
            expected = (
                f"`{RIGHT}`, `{WRONG}`, `{UNSURE}`, nothing, or a class among "
                f"{', '.join(classes[:20])}"
            )
            _refuse(path, number, f"the verdict {verdict!r}", f"Write {expected}.")
    _check_positions(path, lines)
    return Review(tuple(decisions), corrections, tuple(unsure), tuple(pending))


def _read(path: str | Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and fields of every line that is not empty, formula quotes removed."""
    with reading(path, "a readable CSV file", "reviewed", "Save the sheet as CSV in UTF-8."):
        text = Path(path).read_text(encoding="utf-8-sig")
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
    if checksum([line[key] for key in COLUMNS[:-2]]) != line["key"]:
        _refuse(
            path,
            number,
            "content other than what was written",
            "Only the verdict may be filled in; restore this line from the sheet.",
        )
    row = int(line["row"])
    if row >= len(targets) or class_name(int(targets[row]), names) != line["given"]:
        got = f"row {row} labeled {line['given']}, which the table does not have"
        _refuse(path, number, got, "Pass the table that the sheet was made from.")


def _check_positions(path: str | Path, lines: list[tuple[int, dict[str, str]]]) -> None:
    """Refuse repeated and missing lines."""
    first: dict[str, int] = {}
    for number, line in lines:
        position = line["position"]
        if first.setdefault(position, number) != number:
            got = f"the same position as line {first[position]}: {position!r}"
            _refuse(path, number, got, "Remove one of the two lines.")
    total = int(lines[0][1]["position"].partition(" of ")[2]) if lines else 0
    missing = [f"{i} of {total}" for i in range(1, total + 1) if f"{i} of {total}" not in first]
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
            "Restore them; leave the verdict empty where there is none.",
        )


def _refuse(path: str | Path, number: int, got: str, remedy: str) -> NoReturn:
    reject("reviewed", "the lines of an audit sheet", f"{got} in line {number} of {path}", remedy)


def _unquoted(text: str) -> str:
    return text[1:] if text[:2] in ("'=", "'+", "'-", "'@", "'\t") else text
