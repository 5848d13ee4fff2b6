"""Sheets of rows for a person to look at."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch.data.sheets.sheet_files import write_sheet
from gendebug_torch.errors import InputError
from gendebug_torch.slices import confusion_cell, review_rows, review_sheet

PREDICTED = torch.tensor([1, 1, 0, 0, 1, 0])
TARGETS = torch.tensor([1, 0, 0, 1, 0, 0])


@pytest.mark.parametrize(
    ("cell", "rows"),
    [
        ("true_positive", [0]),
        ("false_positive", [1, 4]),
        ("true_negative", [2, 5]),
        ("false_negative", [3]),
        ("error", [1, 3, 4]),
        ((0, 1), [3]),
    ],
)
def test_cells_of_two_classes(cell, rows):
    assert confusion_cell(PREDICTED, TARGETS, cell).nonzero()[:, 0].tolist() == rows


def test_cells_of_many_classes_are_pairs():
    predicted, targets = torch.tensor([2, 2, 0]), torch.tensor([0, 2, 1])
    assert confusion_cell(predicted, targets, (2, 0)).tolist() == [True, False, False]
    assert confusion_cell(predicted, targets, "error").tolist() == [True, False, True]
    with pytest.raises(InputError, match=r"\(2, 0\)"):
        confusion_cell(predicted, targets, "false_positive")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: confusion_cell(PREDICTED, TARGETS, "false"), "`cell`"),
        (lambda: confusion_cell(PREDICTED, TARGETS[:3]), "`targets`"),
        (lambda: review_rows(PREDICTED > 0, TARGETS, order="worst"), "`order`"),
        (lambda: review_rows(PREDICTED > 0, TARGETS, size=0), "`size`"),
        (lambda: review_rows(PREDICTED > 0, TARGETS[:2]), "`score`"),
        (lambda: write_sheet(pd.DataFrame(), "sheet.xlsx"), "`path`"),
        (lambda: write_sheet(pd.DataFrame(), "/proc/nowhere/sheet.csv"), "`path`"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_rows_are_drawn_at_random_or_by_confidence():
    member = torch.arange(1000) % 4 == 0
    score = torch.arange(1000.0)
    drawn = review_rows(member, score, seed=1)
    assert len(drawn) == 50
    assert bool(member[drawn].all())
    assert torch.equal(drawn, review_rows(member, score, seed=1))
    assert not torch.equal(drawn, review_rows(member, score, seed=2))
    assert review_rows(member, score, order="confidence", size=3).tolist() == [996, 992, 988]
    assert len(review_rows(torch.zeros(4, dtype=torch.bool), torch.zeros(4))) == 0


def test_a_sheet_holds_score_reasons_columns_and_room_for_remarks():
    columns = pd.DataFrame({"amount": [1.0, 2.0, 3.0], "score": ["x", "y", "z"]})
    because = pd.DataFrame({"amount": [0.2, -0.1], "age": [-0.9, 0.05]})
    sheet = review_sheet(
        columns, torch.tensor([2, 0]), torch.tensor([0.1, 0.2, 0.3]), attributions=because, top=1
    )
    assert list(sheet.columns) == ["row", "score", "because", "amount", "remark"]
    assert sheet["row"].tolist() == [2, 0]
    assert sheet["because"].tolist() == ["age -0.9", "amount -0.1"]
    with pytest.raises(InputError, match="`attributions`"):
        review_sheet(columns, torch.tensor([0]), torch.zeros(3), attributions=because)


NASTY = ["<script>alert(1)</script>", "=HYPERLINK(1)", "ordinary", None]


def test_html_is_escaped_and_csv_runs_nothing(tmp_path):
    sheet = review_sheet(
        pd.DataFrame({"<b>": NASTY, "n": [-1.0, 2.0, np.nan, 4.0]}), torch.arange(4), torch.zeros(4)
    )
    page = write_sheet(sheet, tmp_path / "new" / "sheet.html", title="<i>").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    with write_sheet(sheet, tmp_path / "sheet.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["<b>"] for row in read] == [NASTY[0], "'=HYPERLINK(1)", "ordinary", ""]
    assert read[0]["n"] == "-1.0", "numbers stay numbers"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_empty_cohort_is_an_empty_sheet(tmp_path):
    sheet = review_sheet(
        pd.DataFrame({"a": [1.0]}), torch.zeros(0, dtype=torch.int64), torch.zeros(1)
    )
    assert sheet.empty
    assert "remark" in write_sheet(sheet, tmp_path / "sheet.html").read_text()
