"""The smallest changes of rows that a network answers otherwise."""

import pandas as pd
import pytest
import torch
from torch import nn

import gendebug_torch as gd
from gendebug_torch.attribution import counterfactual
from gendebug_torch.errors import InputError, UnsupportedError


def table(n=400, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return pd.DataFrame(
        {
            "income": 1000 * torch.randn(n, generator=draw).add(3).numpy(),
            "children": torch.randint(0, 5, (n,), generator=draw).float().numpy(),
            "channel": torch.randint(0, 3, (n,), generator=draw).float().numpy(),
            "age": torch.randint(20, 70, (n,), generator=draw).float().numpy(),
        }
    )


class Credit(nn.Module):
    """Yes from an income of 3000 on, less per child, more for channel 2 and by age."""

    def forward(self, x):
        income, children, channel, age = x.unbind(1)
        return income / 1000 - 3 - 0.5 * children + 1.5 * (channel == 2) + (age - 45) / 50


TRAIN = gd.Records(table(), schema=gd.Schema(categorical=("channel",)))
ROWS = gd.Records(table(60, seed=1))
TRAIN_OTHER = (Credit()(torch.tensor(table(60, seed=1).to_numpy())) > 0).numpy()


def changed(found):
    """Rows with the changes of every chosen alternative, and which row each belongs to."""
    picked = [(row, m) for row, all_of in enumerate(found.chosen) for m in all_of]
    return torch.stack([found.candidates[row, m] for row, m in picked]), [row for row, _ in picked]


def test_alternatives_are_answered_otherwise_few_whole_and_within_what_was_seen():
    found = counterfactual(Credit(), ROWS, train=TRAIN)
    assert found.found.all()
    after, owner = changed(found)
    assert ((Credit()(after) > 0).numpy() != TRAIN_OTHER[owner]).all()
    summary = found.summary()
    assert summary.groupby("row")["changed"].min().mean() < 2
    assert (after[:, 1:] == after[:, 1:].round()).all()
    assert set(after[:, 2].tolist()) <= {0.0, 1.0, 2.0}
    low, high = table().min().to_numpy(), table().max().to_numpy()
    bounds = table(60, seed=1).to_numpy()[owner]
    assert (
        (after.numpy() >= low.clip(max=bounds)) & (after.numpy() <= high.clip(min=bounds))
    ).all()
    assert found.evaluations <= found.price * len(ROWS) <= 1000 * len(ROWS)
    assert set(found.shared.columns) == {"feature", "way", "rows", "share"}
    # Each alternative of a row changes other columns.
    sets = found.table().groupby(["row", "alternative"])["feature"].agg(tuple)
    assert not sets.reset_index().duplicated(["row", "feature"]).any()


def test_what_may_not_change_does_not_and_none_within_reach_is_an_answer():
    fixed = ("income", "channel", "age")
    found = counterfactual(Credit(), ROWS, train=TRAIN, immutable=fixed)
    assert set(found.table()["feature"]) == {"children"}
    assert 0 < int(found.found.sum()) < len(ROWS)
    way = {"children": "increasing"}
    one_way = counterfactual(Credit(), ROWS, train=TRAIN, immutable=fixed, direction=way).table()
    assert (one_way["after"] > one_way["before"]).all()


def test_a_wanted_class_and_a_budget():
    network = nn.Sequential(Credit(), nn.Unflatten(0, (-1, 1)), nn.Linear(1, 3)).eval()
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[-2.0], [0.0], [2.0]]))
        network[2].bias.copy_(torch.tensor([-1.0, 0.0, -1.0]))
    schema = gd.Schema(categorical=("channel",), classes=("no", "ask", "yes"))
    found = counterfactual(network, ROWS, train=TRAIN, schema=schema, to="ask")
    after, _ = changed(found)
    assert (network(after).argmax(1) == 1).all()
    assert counterfactual(Credit(), ROWS, train=TRAIN, budget=30).price <= 30


def images(seed, n=200):
    """Squares of 24 pixels with a bright cell, of class 1 where it is in the lower right corner."""
    draw = torch.Generator().manual_seed(seed)
    x, y = 0.1 * torch.rand(n, 1, 24, 24, generator=draw), torch.randint(2, (n,), generator=draw)
    x[y == 1, :, 20:, 20:] = 1.0
    x[y == 0, :, :4, :4] = 1.0
    return x


def series(seed, n=200):
    """Two channels of 16 steps, of class 1 where the second ends high."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, 2, generator=draw)
    x[: n // 2, 14:, 1] += 6.0
    return x[torch.randperm(n, generator=draw)]


def texts(seed, n=200):
    """Up to 12 words and padding 0, of class 1 where one of them is 7."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(10, 30, (n, 12), generator=draw)
    length = torch.randint(4, 13, (n,), generator=draw)
    at = torch.randint(4, (n,), generator=draw)
    x[torch.arange(n) % 2 == 0, at[torch.arange(n) % 2 == 0]] = 7
    return x.masked_fill(torch.arange(12) >= length[:, None], 0)


OTHERS = {
    "image": (images, lambda x: 30 * (x[:, 0, 20:, 20:].mean((1, 2)) - 0.5), "lower right corner"),
    "series": (series, lambda x: x[:, 14:, 1].mean(1) - 3, "channel 1, steps 14 to 15"),
    "text": (texts, lambda x: (x == 7).sum(1) - 0.5, "word"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_regions_and_words_of_training_rows_turn_other_inputs(kind):
    draw, network, name = OTHERS[kind]
    train, rows = gd.Records(draw(0)), gd.Records(draw(1, n=40))
    found = counterfactual(network, rows, train=train)
    assert found.found.all()
    assert found.evaluations <= found.price * len(rows) <= 1000 * len(rows)
    changes = found.table()
    assert (found.summary()["changed"] == 1).mean() > 0.9
    assert changes["feature"].str.startswith(name).all()
    after = found.inputs
    assert after.shape == rows.features.shape
    assert ((network(after) > 0) != (network(rows.features) > 0)).all()
    if kind == "text":
        # Words are put in the place of words, and what they are is a word of a training row.
        assert ((after == 0) == (rows.features == 0)).all()
    assert len(found.plot().images) == (kind == "image")
    if kind == "text":
        with pytest.raises(InputError, match="`budget`"):
            counterfactual(network, rows, train=train, immutable=(name,))
    else:
        assert not counterfactual(network, rows, train=train, immutable=(name,)).found.any()


def test_bad_input():
    for call, words in (
        (lambda: counterfactual(Credit(), ROWS, train=TRAIN, immutable=("incom",)), "income"),
        (lambda: counterfactual(Credit(), ROWS, train=TRAIN, to="maybe"), "`to`"),
        (lambda: counterfactual(Credit(), ROWS, train=TRAIN, budget=3), "`budget`"),
        (lambda: counterfactual(Credit(), gd.Records(torch.zeros(3, 4)), train=TRAIN), "`rows`"),
        (lambda: counterfactual(Credit(), ROWS, train=gd.Records(torch.zeros(3, 4))), "`train`"),
        (lambda: counterfactual(len, ROWS, train=gd.Records(images(0))), "`rows`"),
        (
            lambda: counterfactual(
                len, ROWS, train=gd.Records(images(0)), direction={"income": "increasing"}
            ),
            "`direction`",
        ),
    ):
        with pytest.raises(InputError, match=words):
            call()
    quantities = gd.Records(table(), torch.randn(400))
    with pytest.raises(UnsupportedError, match="one class"):
        counterfactual(Credit(), ROWS, train=quantities)
