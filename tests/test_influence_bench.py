"""What the benches of explanations by examples compare with: the score, and an anchor."""

import pandas as pd
import torch
from torch import nn

from gendebug_torch import Records
from scripts._lds import linear_datamodeling_score, random_halves
from scripts.bench_counterfactual import Case, by_prototypes


def test_the_score_is_one_where_rows_add_up_and_minus_one_where_they_take_away():
    draw = torch.Generator().manual_seed(0)
    halves, scores = random_halves(30, 40, 0), torch.randn(40, 6, generator=draw)
    assert (halves.sum(1) == 20).all()
    actual = 3 * (halves.double() @ scores.double()) + 1
    ones = torch.ones(6, dtype=torch.float64)
    assert torch.allclose(linear_datamodeling_score(scores, halves, actual.exp()), ones)
    assert torch.allclose(linear_datamodeling_score(-scores, halves, actual), -ones)
    noise = torch.randn(30, 6, generator=draw)
    assert linear_datamodeling_score(scores, halves, noise).abs().mean() < 0.4


def test_the_search_for_prototypes_crosses_a_line_by_the_feature_that_counts():
    network = nn.Linear(2, 2)
    network.weight.data = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    network.bias.data = torch.tensor([0.0, -4.0])
    draw = torch.Generator().manual_seed(0)
    table = pd.DataFrame(torch.randn(200, 2, generator=draw).numpy(), columns=["a", "b"])
    train = Records(table, torch.zeros(200, dtype=torch.int64))
    rows = train.select((table["a"] < 0).to_numpy().nonzero()[0][:2])
    case = Case("line", network.eval(), train, rows, {}, lambda x: x)
    crossed = torch.stack([torch.tensor(row) for row in by_prototypes(case)])
    assert ((crossed[:, 0] > 1.0) & (crossed[:, 0] < 1.3)).all()
