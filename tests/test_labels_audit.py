"""The audit sheet, its review, pruning, and the command."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import labels
from gendebug_torch.cli import main
from gendebug_torch.errors import InputError

NAMES = ("=cat", "dog", "emu")


@pytest.fixture
def ranking():
    generator = torch.Generator().manual_seed(0)
    given = torch.randint(0, 3, (40,), generator=generator)
    return labels.label_ranking(
        torch.rand(40, 3, generator=generator, dtype=torch.float64).softmax(1), given
    )


def written(tmp_path, sheet, name="sheet.csv"):
    path = tmp_path / name
    sheet.to_csv(path, index=False)
    return path


def test_a_sheet_lists_the_most_suspicious_rows_and_comes_back(ranking, tmp_path):
    sheet = labels.audit_sheet(
        ranking,
        names=NAMES,
        source=[f"who{i}" for i in range(40)],
        size=6,
        exclude=[int(ranking.order[0])],
    )
    assert sheet["row"].astype(int).tolist() == ranking.order[1:7].tolist()
    assert (sheet["verdict"] == "").all()
    assert sheet["source"].tolist() == [f"who{i}" for i in ranking.order[1:7].tolist()]
    sheet["verdict"] = ["right", "Wrong ", "", "unsure", sheet["suggested"][4], sheet["given"][5]]
    review = labels.read_review(written(tmp_path, sheet), ranking.targets, names=NAMES)
    rows = sheet["row"].astype(int).tolist()
    assert review.decisions == (rows[0], rows[1], rows[4], rows[5])
    assert review.corrections == {rows[1]: sheet["suggested"][1], rows[4]: sheet["suggested"][4]}
    assert (review.pending, review.unsure) == ((rows[2],), (rows[3],))
    precision, low, high = review.precision
    assert precision == 0.5
    assert 0 < low < 0.5 < high < 1
    assert (review + review).precision[0] == 2 / 8


def test_what_spreadsheets_do_to_a_sheet_is_borne(ranking, tmp_path):
    sheet = labels.audit_sheet(ranking, names=NAMES, size=5)
    sheet["verdict"] = "wrong"
    for name in ("given", "suggested"):
        sheet[name] = sheet[name].map(lambda text: f"'{text}" if text.startswith("=") else text)
    sheet["score"] = sheet["score"].astype(float)
    path = tmp_path / "sheet.csv"
    path.write_text("\ufeff" + sheet.to_csv(index=False, sep=";") + ";;;;;;;;\n", encoding="utf-8")
    review = labels.read_review(path, ranking.targets, names=NAMES)
    assert len(review.corrections) == 5
    assert set(review.corrections.values()) <= set(NAMES)


def edit(sheet, line, column, value):
    changed = sheet.copy()
    changed.loc[line, column] = value
    return changed


SPOILED = {
    "another label": (
        lambda s: edit(s, 1, "given", "emu" if s["given"][1] != "emu" else "dog"),
        "line 3",
    ),
    "another row": (lambda s: edit(s, 2, "row", "39"), "line 4"),
    "another score": (lambda s: edit(s, 0, "score", "0.5"), "line 2"),
    "a strange verdict": (lambda s: edit(s, 3, "verdict", "perhaps"), "'perhaps' in line 5"),
    "a repeated line": (lambda s: pd.concat([s, s.iloc[[1]]]), "same position as line 3"),
    "a lost line": (lambda s: s.drop(index=2), "no line for 3 of 5"),
    "a lost column": (lambda s: s.drop(columns="key"), "no key in line 1"),
    "no lines": (lambda s: s.iloc[:0], "no lines"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_sheet_is_refused_with_its_line(name, ranking, tmp_path):
    spoil, message = SPOILED[name]
    path = written(tmp_path, spoil(labels.audit_sheet(ranking, names=NAMES, size=5)))
    with pytest.raises(InputError, match=message):
        labels.read_review(path, ranking.targets, names=NAMES)


def test_the_table_must_be_the_one_that_the_sheet_was_made_from(ranking, tmp_path):
    path = written(tmp_path, labels.audit_sheet(ranking, names=NAMES, size=3))
    with pytest.raises(InputError, match="Pass the table that the sheet was made from"):
        labels.read_review(path, (ranking.targets + 1) % 3, names=NAMES)
    with pytest.raises(InputError, match="a readable CSV file"):
        labels.read_review(tmp_path / "none.csv", ranking.targets)


def noisy_logits(seed, n=2000):
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    true = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
    flipped = torch.rand(n, generator=generator) < 0.1
    return z, torch.where(flipped, (true + 1) % 3, true), flipped


def test_pruning_shows_the_temperature_that_the_noise_had_bent():
    z, given, flipped = noisy_logits(0)
    there, truth, other = noisy_logits(1)
    truth = torch.where(other, (truth + 2) % 3, truth)
    effect = labels.pruning_effect(
        z, given, flipped, evaluation=(there, truth), fit=lambda keep: there + 0 * keep.sum()
    )
    table = effect.table().set_index("variant")
    assert table.loc["temperature of all rows", "temperature"] > 1.3
    assert table.loc["temperature of the remaining rows", "temperature"] == pytest.approx(
        1.0, abs=0.12
    )
    assert (
        table.loc["temperature of the remaining rows", "log_loss_high"]
        < table.loc["temperature of all rows", "log_loss_low"]
    )
    assert table.loc["retrained on the remaining rows", "log_loss_change"] == 0
    assert not effect.biased
    assert labels.pruning_effect(z, given, flipped).biased


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (lambda n: torch.zeros(n - 1, dtype=torch.bool), {}, "`suspicious`"),
        (lambda n: torch.ones(n, dtype=torch.bool), {}, "two remaining rows"),
        (
            lambda n: torch.zeros(n, dtype=torch.bool),
            {"fit": lambda keep: torch.zeros(3, 3)},
            "`fit`",
        ),
    ],
)
def test_pruning_refuses_what_it_cannot_use(mask, options, message):
    z, given, _ = noisy_logits(2, 60)
    with pytest.raises(InputError, match=message):
        labels.pruning_effect(z, given, mask(60), **options)


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    n = 700
    x = rng.normal(size=(n, 3))
    true = np.where(8 * x[:, 0] + 6 * x[:, 1] > rng.logistic(size=n), "dog", "=cat")
    flipped = rng.random(n) < 0.12
    given = np.where(flipped, np.where(true == "dog", "=cat", "dog"), true)
    frame = pd.DataFrame(x, columns=list("abc")).assign(
        label=given, who=rng.choice(["ann", "<b>eve</b>"], n)
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "s.yaml").write_text('target: label\nclasses: ["=cat", dog]\nsource: who\n')
    return tmp_path, true, flipped


def test_the_command_writes_a_sheet_and_takes_it_back(table, capsys):
    folder, true, _ = table
    arguments = [
        "labels",
        str(folder / "t.csv"),
        "--schema",
        str(folder / "s.yaml"),
        "--out",
        str(folder / "out"),
        "--size",
        "20",
    ]
    assert main(arguments) == 1
    first = pd.read_csv(folder / "out" / "audit-1.csv", dtype=str, keep_default_na=False)
    found = json.loads((folder / "out" / "findings.json").read_text())
    assert found[0]["cause"] == "label_noise"
    assert "<b>eve" not in (folder / "out" / "audit-1.html").read_text()
    rows = first["row"].astype(int)
    right = [text.lstrip("'") == true[row] for row, text in zip(rows, first["given"], strict=True)]
    assert sum(right) <= 4, "most of the twenty are wrong labels"
    first["verdict"] = np.where(right, "right", "wrong")
    reviewed = written(folder, first, "reviewed.csv")
    assert main([*arguments, "--reviewed", str(reviewed)]) == 1
    assert f"{20 - sum(right)} of 20 reviewed labels were wrong" in capsys.readouterr().out
    second = pd.read_csv(folder / "out" / "audit-2.csv")
    assert not set(second["row"]) & set(rows)
    before, after = pd.read_csv(folder / "t.csv"), pd.read_csv(folder / "out" / "corrected-1.csv")
    changed = (before["label"] != after["label"]).to_numpy().nonzero()[0]
    assert sorted(changed) == sorted(rows[~np.array(right)])
    assert (after["label"].to_numpy()[changed] == true[changed]).all()
    assert before.drop(columns="label").equals(after.drop(columns="label"))


def test_the_command_refuses_a_spoiled_sheet_and_writes_nothing(table, capsys):
    folder, _, _ = table
    (folder / "bad.csv").write_text("row,verdict\n1,right\n")
    arguments = [
        "labels",
        str(folder / "t.csv"),
        "--schema",
        str(folder / "s.yaml"),
        "--out",
        str(folder / "out"),
    ]
    assert main([*arguments, "--reviewed", str(folder / "bad.csv")]) == 2
    assert "line 1" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_the_command_lists_wrong_values_of_a_quantity(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x, wrong = rng.normal(size=(900, 3)), rng.random(900) < 0.12
    value = 50 + 20 * x[:, 0] + rng.normal(size=900)
    frame = pd.DataFrame(x, columns=list("abc")).assign(y=np.where(wrong, value * 2.54, value))
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "s.yaml").write_text("target: y\nregression: true\n")
    arguments = ["labels", str(tmp_path / "t.csv"), f"--schema={tmp_path / 's.yaml'}"]
    arguments += [f"--out={tmp_path / 'out'}", "--size=30"]
    assert main(arguments) == 1
    sheet = pd.read_csv(tmp_path / "out" / "audit-1.csv")
    assert len(sheet) == 30
    assert wrong[sheet["row"]].mean() > 0.9
    assert (tmp_path / "out" / "audit-1.html").exists()
    assert main([*arguments, "--reviewed=audit-1.csv"]) == 2
    assert "--reviewed" in capsys.readouterr().err
