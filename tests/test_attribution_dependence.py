"""Networks whose gradient is blind to an input, and networks that are random in evaluation mode."""

import pytest
import torch
from torch import nn

import gendebug_torch as gd
from gendebug_torch import Records, attribute
from gendebug_torch.errors import UnsupportedError
from tests.attribution_cases import network, rows, state

STEPS = {
    "round": torch.round,
    "floor": torch.floor,
    "sign": torch.sign,
    "threshold": lambda v: (v > 0.5).float(),
    "bucketize": lambda v: torch.bucketize(v.contiguous(), torch.tensor([-1.0, 0.0, 1.0])).float(),
    "detach": lambda v: v.detach(),
    "numpy": lambda v: torch.from_numpy(v.detach().numpy().copy()),
}
BLIND = ("saliency", "input_x_gradient", "smooth_grad", "integrated_gradients", "Saliency")


class Stepped(nn.Module):
    """The first input goes through a step."""

    def __init__(self, step):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)
        self.step = step

    def forward(self, x):
        changed = torch.cat([2 * self.step(x[:, :1]), x[:, 1:]], 1)
        return self.last(torch.tanh(self.first(changed)))


class Coded(nn.Module):
    """A code column that is an index into an embedding."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.shop, self.head = nn.Embedding(5, 3), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(torch.cat([self.shop(x[:, 0].long()), x[:, 1:]], 1))


def coded(n=300):
    x = rows(n, 3)
    x[:, 0] = torch.randint(5, (n,), generator=torch.Generator().manual_seed(0)).float()
    return x


@pytest.mark.parametrize("method", BLIND)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_without_gradient_makes_the_gradient_blind(step, method):
    model = Stepped(STEPS[step])
    before = state(model)
    made = attribute(model, rows(300, 4), method)
    assert float(made.flat[:, 0].abs().max()) == 0.0
    assert made.trust.blind_inputs == ("feature_0",)
    assert not made.trust.ranking_usable
    assert "blind to feature_0" in made.trust.verdict
    assert any("kernel_shap" in note for note in made.trust.notes)
    assert state(model) == before


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient", "integrated_gradients"])
@pytest.mark.parametrize("trust", [True, "full"])
def test_a_column_of_codes_is_named(method, trust):
    card = attribute(Coded(), coded(), method, target=1, trust=trust).trust
    assert card.blind_inputs == ("feature_0",)


def test_points_that_are_no_index_are_named():
    with pytest.raises(UnsupportedError, match=r"as an index.*kernel_shap"):
        attribute(Coded(), coded(), "smooth_grad", target=1)


def test_groups_and_tokens_are_named_too():
    card = attribute(Stepped(torch.round), rows(300, 4), "saliency", groups=[0, 1, 1, 2]).trust
    assert card.blind_inputs == ("feature_0",)

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.word, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, tokens):
            vectors = self.word(tokens)
            return self.head(
                torch.cat([vectors[:, :1].round(decimals=1), vectors[:, 1:]], 1).sum(1)
            )

    tokens = torch.randint(9, (200, 3), generator=torch.Generator().manual_seed(0))
    assert attribute(Detached(), tokens, target=1).trust.blind_inputs == ("word_0",)


class Pooled(nn.Module):
    """Most pixels of a maximum have no gradient, but any of them may become the maximum."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(nn.functional.max_pool2d(self.conv(x).relu(), 6).flatten(1))


class Unused(nn.Module):
    def forward(self, x):
        return x[:, 0] * x[:, 1]


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "feature_ablation"])
@pytest.mark.parametrize(
    ("model", "x"),
    [
        (network(), rows(300)),
        (Unused(), rows(300)),
        (Pooled(), rows(60, 144).reshape(60, 1, 12, 12).relu()),
        (nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1)), rows(300) - 4.0),
    ],
    ids=["smooth", "unused", "pooled", "dead"],
)
def test_no_input_is_called_blind_without_a_step(model, x, method):
    assert attribute(model, x, method, trust="full").trust.blind_inputs == ()


def test_the_check_of_convergence_names_the_input_instead_of_more_steps():
    data = Records(rows(400, 4), name="validation")
    (found,) = gd.diagnose(
        Stepped(torch.round), validation=data, only="attribution.convergence"
    ).findings
    assert found.severity is gd.Severity.WARN
    assert "blind to feature_0" in found.summary
    assert "max_steps" not in found.remedy
    assert found.numbers["blind_inputs"] == ["feature_0"]


class Dropping(nn.Module):
    """Dropout as a function, which evaluation mode does not switch off."""

    def __init__(self, share):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(5, 32), nn.Linear(32, 1)
        self.share = share

    def forward(self, x):
        return self.last(nn.functional.dropout(self.first(x).tanh(), self.share))


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "kernel_shap"])
def test_a_network_that_is_random_in_evaluation_mode_is_named(method):
    card = attribute(Dropping(0.3), rows(300), method).trust
    assert "repeat" in card.failed
    assert not card.ranking_usable
    assert "the network is random in evaluation mode" in card.verdict
    assert any("training=self.training" in note for note in card.notes)
    same = attribute(Dropping(0.0), rows(300), method).trust
    assert same.measures["repeat"].value == 0.0
    assert "random in evaluation" not in same.verdict
