import pytest
import torch
from torch import nn

from gendebug_torch import Records, Schema, attribute
from gendebug_torch.attribution.compare.rank_agreement import row_spearman, top_k_jaccard
from gendebug_torch.attribution.explanation.row_sample import RowSample
from gendebug_torch.errors import InputError
from tests.attribution_cases import OWN, network, rows, state
from tests.contract.plants_attribution import SOUND, Wavy, people


def trained(seed=0):
    """A network of six inputs, of which two matter much, two little, two not at all."""
    x = rows(2000, 6, seed=seed)
    y = (
        torch.rand(2000, generator=torch.Generator().manual_seed(seed))
        < (3 * x[:, 0] - 2 * x[:, 1] + 0.5 * x[:, 2]).sigmoid()
    ).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for part in torch.randperm(2000).repeat(4).split(100):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x[part])[:, 0], y[part]).backward()
            optimizer.step()
    return model, x[:300]


def counted(model):
    """Forward rows of a network and of its copies, those with a gradient twice."""
    total = [0]

    def count(module, given):
        total[0] += len(given[0]) * (2 if torch.is_grad_enabled() and given[0].requires_grad else 1)

    model.register_forward_pre_hook(count)
    return total


@pytest.mark.parametrize("method", OWN)
def test_every_result_comes_with_a_card(method):
    model, x = trained()
    before = state(model)
    card = attribute(model, x, method).trust
    assert state(model) == before
    assert card.verdict.startswith(("Global ranking usable", "Neither"))
    assert {"jitter", "randomized"} <= set(card.measures)
    assert all(one.low <= one.value <= one.high for one in card.measures.values())
    assert len(card.table()) == len(card.measures) + len(card.cascade)
    assert card.plot().get_title()
    assert attribute(model, x, method, trust=False).trust is None


@pytest.mark.parametrize("n", [20, 90, 300, 2000])
@pytest.mark.parametrize("method", [*OWN, "adaptive", "DeepLift"])
def test_a_card_costs_a_fifth_of_the_model_evaluations_at_most(method, n):
    options = {"max_steps": 200} if method == "adaptive" else {}
    method = "integrated_gradients" if method == "adaptive" else method
    model, x = trained()[0], rows(n, 6)
    data = Records(x, (x[:, 0] > 0).long())
    total = counted(model)
    plain = attribute(model, data, method, trust=False, **options)
    alone = total[0]
    card = attribute(model, data, method, **options).trust
    extra = total[0] - 2 * alone
    assert 0 <= extra <= 0.2 * alone
    assert card.evaluations * float(plain.evaluations.sum()) == pytest.approx(
        extra, abs=40 + 0.02 * alone
    )


def test_what_a_run_cannot_pay_for_is_named_and_measured_on_demand():
    model, x = trained()
    y = (x[:, 0] > 0).long()
    tiny = attribute(model, Records(x[:30], y[:30])).trust
    assert not tiny.judged
    assert not tiny.ranking_usable
    assert {"jitter", "randomized", "baseline", "cascade", "permutation"} == set(tiny.missing)
    assert "full" in tiny.verdict
    assert any("30 rows are too few to shuffle" in note for note in tiny.notes)
    full = attribute(model, Records(x[:30], y[:30]), trust="full").trust
    assert set(full.missing) == {"permutation"}
    assert full.measures["jitter"].rows == 30
    with pytest.raises(InputError, match="full"):
        attribute(model, x, trust="some")


def test_few_rows_are_less_certain_than_many():
    model, x = trained()
    few, many = (
        attribute(model, part, trust="full").trust.measures["jitter"] for part in (x[:10], x)
    )
    assert few.high - few.low > 2 * (many.high - many.low)
    assert "jitter" in attribute(model, x[:10], trust="full").trust.uncertain


@pytest.mark.parametrize("kind", ["iterator", "shuffled"])
def test_rows_are_sampled_as_they_pass(kind):
    """Neither can be asked for the same rows again."""
    model, x = trained()
    y = (x[:, 0] > 0).long()
    shuffled = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=32, shuffle=True
    )
    made = attribute(
        model, shuffled if kind == "shuffled" else zip(x.split(32), y.split(32), strict=True)
    )
    assert made.trust.measures["jitter"].value > 0.8
    assert made.trust.rows_usable, made.trust.verdict


def test_every_row_is_as_likely_in_a_sample():
    times = torch.zeros(100)
    for seed in range(300):
        sample = RowSample(seed)
        sample.capacity = 20
        for batch in torch.arange(100.0)[:, None].split(7):
            sample.add({"x": batch}, None)
        assert sample.inputs["x"][:, 0].tolist() == sample.positions.tolist()
        assert len(sample.positions.unique()) == 20
        times[sample.positions] += 1
    assert float((times / 300 - 0.2).abs().max()) < 4.5 * (0.2 * 0.8 / 300) ** 0.5


@pytest.mark.parametrize("method", ["integrated_gradients", "kernel_shap"])
def test_a_sound_explanation_is_usable_row_by_row(method):
    model, x = trained()
    card = attribute(model, x, method).trust
    assert card.rows_usable, card.verdict
    assert card.measures["jitter"].value > 0.8


@pytest.mark.parametrize("target", ["predicted", "margin", "target", 1])
def test_the_same_output_is_asked_about_again(target):
    model, x = network(), rows(300)
    y = torch.arange(300) % 3
    card = attribute(model, Records(x, y), target=target, trust="full").trust
    assert card.measures["jitter"].value > 0.85
    assert card.measures["jitter_ranking"].value > 0.9


def test_an_explanation_that_cannot_be_trusted_is_not():
    card = attribute(Wavy(), rows(300, 4)).trust
    assert not card.rows_usable
    assert "incomplete" in card.failed
    assert "miss the change" in card.verdict


def test_too_few_samples_do_not_agree_with_themselves():
    model, x = network(d=30), rows(200, 30)
    few, many = (
        attribute(model, x, "kernel_shap", samples=samples).trust.measures["rerun"].value
        for samples in (60, 2000)
    )
    assert few < many
    assert many > 0.8


def test_a_surrogate_that_does_not_follow_the_network_is_refused():
    class Parity(nn.Module):
        def forward(self, x):
            return 4 * torch.sign(x).prod(1)

    card = attribute(Parity(), rows(100, 5), "lime").trust
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

    card = attribute(Blind(), rows(100, 6)).trust
    assert card.measures["randomized"].value == pytest.approx(1.0)
    assert not card.ranking_usable


def test_a_trained_network_forgets_from_the_output_down():
    model, x = trained()
    card = attribute(model, x, trust="full").trust
    assert list(card.cascade) == [0.5, 1.0]
    assert card.cascade[0.5].value > card.cascade[1.0].value
    assert 0 < card.reference < 1
    assert any("random weights" in note for note in card.notes)


def test_inputs_of_very_different_size_do_not_make_an_explanation_look_random():
    """Contributions follow the sizes of the inputs whatever the weights: that is no fault of
    theirs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    card = attribute(model, rows(400, 8) * 10.0 ** -torch.arange(8), trust="full").trust
    assert card.cascade[1.0].value > 0.9
    assert card.measures["randomized"].value < 0.5


def test_a_network_that_cannot_be_copied_keeps_its_run():
    class Single(nn.Sequential):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is only one of me")

    model, x = trained()
    made = attribute(Single(*model), x)
    assert len(made) == len(x)
    assert "only one of me" in made.trust.missing["randomized"]
    assert "jitter" in made.trust.measures


@pytest.mark.parametrize(("baseline", "agrees"), [(None, True), ("mean", True), (5.0, False)])
def test_a_baseline_that_decides_is_reported(baseline, agrees):
    class Products(nn.Module):
        def forward(self, x):
            return x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3] + 0.1 * x[:, 4]

    card = attribute(Products(), rows(400, 5), baseline=baseline, trust="full").trust
    assert (card.measures["baseline"].value > 0.7) is agrees


def test_correlated_features_and_noise_are_named():
    data = people(0)
    frame = data.features.assign(copy=data.features["income"] * 1.01)

    class First(nn.Module):
        def forward(self, x):
            return SOUND(x[:, :5])

    made = attribute(First(), Records(frame, data.targets, schema=Schema(noise=("row_code",))))
    assert made.trust.correlated_groups == (("income", "copy"),)
    assert made.trust.below_noise == ("copy",)


def test_overlap_leaves_ties_out_and_ranks_are_spearmans():
    a = torch.tensor([[3.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    b = torch.tensor([[3.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [4.0, 3.0, -2.0, 1.0]])
    assert top_k_jaccard(a, b, 2).tolist() == pytest.approx([1 / 3, 1.0, 0.0])
    assert float(row_spearman(a, b)[2]) == pytest.approx(-1.0)
