"""Curvature of layers against exact small cases, and what single rows do to single answers."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

import gendebug_torch as gd
from gendebug_torch.data.task import Task
from gendebug_torch.errors import InputError, UnsupportedError
from gendebug_torch.influences.curvature.factors import DAMPING, Covariances, factors_of
from gendebug_torch.influences.curvature.layer_gradients import layer_passes, watchable_layers
from gendebug_torch.influences.methods.answers import AnswerForm

FORMS = [
    AnswerForm(Task.BINARY, 1),
    AnswerForm(Task.BINARY, 2),
    AnswerForm(Task.MULTICLASS, 5),
    AnswerForm(Task.MULTILABEL, 3),
    AnswerForm(Task.REGRESSION, 4),
]


class Twice(nn.Module):
    """A layer that is called twice, one in groups, and two that can be watched."""

    def __init__(self):
        super().__init__()
        self.once, self.twice, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.grouped = nn.Conv1d(1, 2, 1, groups=1, padding_mode="circular")

    def forward(self, x):
        h = self.once(x)
        return self.last(self.twice(self.twice(h)) + self.grouped(h[:, None]).mean(1))


def networks():
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3, bias=False))
    line = nn.Sequential(
        *(nn.Conv1d(2, 4, 3, padding=2, stride=2, dilation=2), nn.ReLU(inplace=True)),
        *(nn.Flatten(), nn.Linear(20, 3)),
    )
    plane = nn.Sequential(
        *(nn.Conv2d(2, 4, (3, 2), padding=(1, 0), stride=2), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 3)),
    )
    tokens = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3))
    yield from (
        ("flat", flat, (6,)),
        ("line", line, (2, 9)),
        ("plane", plane, (2, 6, 4)),
        ("positions", tokens, (3, 4)),
        ("some layers", Twice(), (6,)),
    )


@pytest.mark.parametrize(
    ("name", "net", "shape"), [*networks()], ids=[name for name, _, _ in networks()]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_rows_by_each_layer_are_those_of_autograd(name, net, shape, frozen):
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, *shape, generator=draw), torch.randint(3, (7,), generator=draw)
    net = net.eval().requires_grad_(not frozen)
    layers = watchable_layers(net, x)
    linear = {n for n, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))}
    assert {*layers} == ({"once", "last"} if name == "some layers" else linear)
    form = AnswerForm(Task.MULTICLASS, 3)
    state = {k: v + 0.1 for k, v in net.state_dict().items() if v.is_floating_point()}
    weights = {key: value for key, value in state.items() if key in dict(net.named_parameters())}

    def loss(weights, row, label):
        return cross_entropy(functional_call(net, {**state, **weights}, (row[None],)), label[None])

    exact = vmap(grad(loss), (None, 0, 0))(weights, x, y)
    with torch.no_grad():
        found = layer_passes(net, layers, state, x, lambda z: form.residual(z, y)[None])
    for layer, seen in found.items():
        parts = [exact[f"{layer}.weight"].flatten(2)]
        if f"{layer}.bias" in exact:
            parts.append(exact[f"{layer}.bias"][:, :, None])
        assert torch.allclose(seen.gradients(), torch.cat(parts, 2), atol=1e-5), layer


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_slopes_add_up_to_the_curvature(form):
    z = torch.randn(6, form.outputs, generator=torch.Generator().manual_seed(0))
    exact = form.curvature(z)
    for most, near in ((16, 1e-6), (1, None)):
        roots = form.curvature_roots(z, most, torch.Generator().manual_seed(0))
        assert roots.shape == (min(most, form.outputs), *z.shape)
        if near:
            assert torch.allclose(torch.einsum("cbk,cbl->bkl", roots, roots), exact, atol=near)
    if form.outputs > 1:
        generator = torch.Generator().manual_seed(0)
        drawn = [form.curvature_roots(z, 1, generator)[0] for _ in range(20_000)]
        mean = torch.stack([one[:, :, None] * one[:, None] for one in drawn]).mean(0)
        assert torch.allclose(mean, exact, atol=0.03)


def test_factors_are_exact_where_the_curvature_is_a_product():
    """Of a linear regression it is: the score is that of the solved full matrix."""
    draw = torch.Generator().manual_seed(0)
    net, x = nn.Linear(4, 3).eval(), torch.randn(50, 4, generator=draw)
    form, generator = AnswerForm(Task.REGRESSION, 3), torch.Generator().manual_seed(0)
    passes = layer_passes(net, {"": net}, {}, x, lambda z: form.curvature_roots(z, 16, generator))
    sums = Covariances()
    sums.add(passes[""])
    factors = factors_of(sums)
    factors.add(passes[""])
    wide = torch.cat([x, torch.ones(50, 1)], 1)
    exact = torch.kron(torch.eye(3), wide.T @ wide / 50)
    exact = exact + DAMPING * exact.diagonal().mean() * torch.eye(15)
    some = torch.randn(2, 3, 5, generator=draw)
    solved = torch.linalg.solve(exact, some.reshape(2, -1).T).T.reshape(2, 3, 5)
    assert torch.allclose(factors.solved(some), solved, atol=1e-4)


def test_corrected_eigenvalues_are_the_diagonal_of_the_exact_curvature_in_their_basis():
    draw = torch.Generator().manual_seed(0)
    net = nn.Conv2d(2, 3, 2).eval()
    whole = nn.Sequential(net, nn.Flatten(), nn.Linear(12, 4)).eval()
    x, form = torch.randn(40, 2, 3, 3, generator=draw), AnswerForm(Task.MULTICLASS, 4)
    passes = layer_passes(whole, {"0": net}, {}, x, lambda z: form.curvature_roots(z, 16, draw))
    sums = Covariances()
    sums.add(passes["0"])
    factors = factors_of(sums)
    factors.add(passes["0"])
    rows = torch.cat([passes["0"].gradients(loss).flatten(1) for loss in range(4)])
    basis = torch.kron(factors.outputs, factors.inputs)
    diagonal = (basis.T @ (rows.T @ rows / 40) @ basis).diagonal()
    assert torch.allclose(factors.squares.flatten() / 40, diagonal, atol=1e-5)


def logistic(x, y, decay=1e-2):
    """A linear network at the minimum of its loss."""
    net = nn.Linear(x.shape[1], 3)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        size = sum(p.square().sum() for p in net.parameters())
        loss = cross_entropy(net(x), y) + decay / 2 * size
        loss.backward()
        return loss

    optimizer.step(closure)
    return net.eval()


@pytest.fixture(scope="module")
def asked():
    """A fitted linear network, its rows, and what is asked about 20 unlabeled rows."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(240, 5, generator=draw)
    y = (x @ torch.randn(5, 3, generator=draw) + torch.randn(240, 3, generator=draw)).argmax(1)
    net, queries = logistic(x, y), torch.randn(20, 5, generator=draw)
    found = gd.influence(net, gd.Records(x, y), gd.Records(queries), method="curvature")
    return net, x, y, queries, found


def test_sums_predict_answers_of_networks_that_were_fitted_to_halves(asked):
    net, x, y, queries, found = asked
    answers = net(queries).argmax(1)

    def margin(one):
        logits = one(queries).log_softmax(1)
        own = logits.gather(1, answers[:, None])[:, 0]
        return (own - (1 - own.exp()).log()).detach()

    scores, generator = found.by_query("curvature"), torch.Generator().manual_seed(1)
    halves = torch.stack([torch.randperm(240, generator=generator) < 120 for _ in range(60)])
    actual = torch.stack([margin(logistic(x[half], y[half])) for half in halves])
    ranks = [side.argsort(0).argsort(0).double() for side in (halves.float() @ scores, actual)]
    columns = (side.T for side in ranks)
    correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*columns, strict=True)]
    assert torch.stack(correlations).mean() > 0.8


@pytest.mark.parametrize("method", ["head", "curvature"])
def test_scores_of_all_errors_are_the_mean_of_those_of_each(asked, method):
    net, x, y, queries, found = asked
    found = gd.influence(net, gd.Records(x, y), gd.Records(queries), method=method)
    each = found.by_query(batch_size=50)
    assert each.shape == (240, 20)
    assert torch.allclose(each.mean(1), found.scores, atol=1e-4)
    assert torch.equal(each, found.by_query(method))


def test_single_errors_by_methods_of_nearest_rows(asked):
    found = asked[-1]
    for method in ("neighbours", "gradients"):
        each = found.by_query(method)
        assert each.shape == (240, 20)
        assert each.isfinite().all()


def test_checkpoints_are_averaged(asked):
    net, x, y, queries, found = asked
    states = [net.state_dict(), {k: v * 0.5 for k, v in net.state_dict().items()}]
    options = {"train": gd.Records(x, y), "queries": gd.Records(queries), "method": "curvature"}
    both = gd.influence(net, checkpoints=states, **options).scores
    each = [gd.influence(net, checkpoints=[state], **options).scores for state in states]
    assert torch.allclose(both, (each[0] + each[1]) / 2, atol=1e-5)
    assert torch.allclose(each[0], found.scores, atol=1e-5)


def test_what_cannot_be_watched_is_said(asked):
    net, x, y, queries, found = asked
    with pytest.raises(UnsupportedError, match="no linear or convolutional layer"):
        gd.influence(lambda z: net(z), gd.Records(x, y), gd.Records(queries), method="curvature")
    with pytest.raises(InputError, match="one of neighbours"):
        found.by_query("nothing")


def test_an_input_that_is_written_over_is_refused():
    class Over(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x):
            x = x.clone()
            z = self.a(x)
            x.mul_(2)
            return z

    net = Over().eval().requires_grad_(False)
    with pytest.raises(UnsupportedError, match="written over"):
        layer_passes(net, {"a": net.a}, {}, torch.randn(4, 3), lambda z: torch.ones(1, *z.shape))


def test_of_labeled_queries_the_errors_are_asked_about(asked):
    net, x, y, *_ = asked
    again = gd.influence(net, gd.Records(x, y), gd.Records(x, y), method="curvature")
    assert again.by_query().shape == (240, int((net(x).argmax(1) != y).sum()))
