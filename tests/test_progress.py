"""Long work shows how far it is and the time left; short work, and logs, stay quiet."""

import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, diagnose, profile
from gendebug_torch.attribution import counterfactual
from gendebug_torch.errors import NO_DEADLINE
from gendebug_torch.influences.influence import influence
from gendebug_torch.profiles.sources import row_count

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(400, 3, generator=DRAW)
TABLE = pd.DataFrame(X.numpy(), columns=list("abc"))
ROWS = Records(TABLE, (X[:, 0] + 0.5 * X[:, 1] > 0).long())


def network(x):
    return 4 * x[:, 0]


def both_sides():
    """Rows of validation, and of production whose first column lost its spread."""
    served = X * torch.tensor([0.1, 1.0, 1.0])
    for x, name in ((X, "validation"), (served, "production")):
        frame = pd.DataFrame(x.numpy(), columns=list("abc"))
        yield name, Records(frame, ROWS.targets, network(x), name=name)


SIDES = dict(both_sides())


# What runs long -> what its bar counts.
LOOPS = {
    "profile": (lambda: profile(pd.DataFrame({"x": range(500)}), progress=True), "/500 "),
    "influence": (lambda: influence(network, ROWS, ROWS, progress=True), "/400 "),
    "counterfactual": (
        lambda: counterfactual(network, ROWS.select(range(9)), train=ROWS, progress=True),
        "/9.00 ",
    ),
    "labels": (lambda: diagnose(train=ROWS, only="labels.noise", progress=True), "/100 "),
    "culprits": (
        lambda: diagnose(
            network, train=ROWS, validation=ROWS, only="influence.culprits", progress=True
        ),
        "/400 ",
    ),
    "bill": (lambda: diagnose(network, **SIDES, progress=True), " counterfactuals"),
    "report": (
        lambda: diagnose(**SIDES, only="shift").to_html(deadline=NO_DEADLINE.with_progress(True)),
        " pictures",
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_shows_how_far_it_is_where_it_takes_long(name, monkeypatch, capsys):
    run, shown = LOOPS[name]
    monkeypatch.setattr("gendebug_torch.progress._QUIET", 1e6)
    run()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("gendebug_torch.progress._QUIET", 0.0)
    run()
    assert shown in capsys.readouterr().err


def test_rows_of_files_are_known_or_estimated(tmp_path):
    frame = pd.DataFrame({"x": range(1000, 3000), "y": 1})
    frame.to_parquet(tmp_path / "a.parquet")
    assert row_count(tmp_path / "a.parquet") == row_count(frame) == 2000
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert row_count(tmp_path / "a.csv") == 2001
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    assert row_count(str(tmp_path / "*.parquet")) is None
    assert profile(tmp_path / "a.csv", Schema(target="y"), progress=True).rows == 2000
