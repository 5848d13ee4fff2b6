import pytest
import torch
from torch import nn

from gendebug_torch import Records, Schema, attribute
from gendebug_torch.attribution.stability import row_spearman, top_k_jaccard
from tests.attribution_cases import OWN, network, rows, state
from tests.contract.plants_attribution import SOUND, Wavy, people


def trained(seed=0):
    """A network of six inputs, of which two matter much, two little, two not at all."""
    x = rows(2000, 6, seed=seed)
    y = (torch.rand(2000, generator=torch.Generator().manual_seed(seed)) < (3 * x[:, 0] - 2 * x[:, 1] + 0.5 * x[:, 2]).sigmoid()).float()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for part in torch.randperm(2000).repeat(4).split(100):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x[part])[:, 0], y[part]).backward()
            optimizer.step()
    return model, x[:300]


@pytest.mark.parametrize("method", OWN)
def test_every_method_comes_with_a_card(method):
    model, x = trained()
    before = state(model)
    card = attribute(model, x, method, trust=True).trust
    assert state(model) == before
    assert card.rows >= 32
    assert card.verdict.startswith(("Global ranking usable", "Neither"))
    assert {"jitter", "randomized"} <= set(card.measures)
    assert len(card.table()) == len(card.measures)
    assert card.plot().get_title()


@pytest.mark.parametrize("method", ["integrated_gradients", "kernel_shap"])
def test_a_sound_explanation_is_usable_row_by_row(method):
    model, x = trained()
    card = attribute(model, x, method, trust=True).trust
    assert card.ranking_usable, card.verdict
    assert card.measures["jitter"] > 0.8


def test_an_explanation_that_cannot_be_trusted_is_not():
    card = attribute(Wavy(), rows(300, 4), trust=True).trust
    assert not card.rows_usable
    assert "incomplete" in card.failed
    assert "miss the change" in card.verdict


def test_too_few_samples_do_not_agree_with_themselves():
    model, x = network(d=30), rows(200, 30)
    few = attribute(model, x, "kernel_shap", samples=60, trust=True).trust
    many = attribute(model, x, "kernel_shap", samples=2000, trust=True).trust
    assert few.measures["rerun"] < many.measures["rerun"]
    assert many.measures["rerun"] > 0.8


def test_a_surrogate_that_does_not_follow_the_network_is_refused():
    class Parity(nn.Module):
        def forward(self, x):
            return 4 * torch.sign(x).prod(1)

    card = attribute(Parity(), rows(100, 5), "lime", trust=True).trust
    assert "held_out" in card.failed
    assert not card.rows_usable


def test_a_method_that_ignores_the_weights_is_caught():
    class Blind(nn.Module):
        """The same function whatever its weight."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return (x**3).sum(1) + 0 * self.weight.sum()

    card = attribute(Blind(), rows(100, 6), trust=True).trust
    assert card.measures["randomized"] == pytest.approx(1.0)
    assert not card.ranking_usable


def test_twins_and_noise_are_named():
    data = people(0)
    frame = data.features.assign(copy=data.features["income"] * 1.01)

    class First(nn.Module):
        def forward(self, x):
            return SOUND(x[:, :5])

    made = attribute(First(), Records(frame, data.targets, schema=Schema(noise=("row_code",))), trust=True)
    assert made.trust.twins == (("income", "copy"),)
    assert made.trust.below_noise == ("copy",)


def test_overlap_leaves_ties_out_and_ranks_are_spearmans():
    a = torch.tensor([[3.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    b = torch.tensor([[3.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [4.0, 3.0, -2.0, 1.0]])
    assert top_k_jaccard(a, b, 2).tolist() == pytest.approx([1 / 3, 1.0, 0.0])
    assert float(row_spearman(a, b)[2]) == pytest.approx(-1.0)
