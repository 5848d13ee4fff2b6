"""Inside the network: what `watch` sees, leaves behind and says, and `preflight`."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout, mse_loss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from gendebug_torch import diagnose
from gendebug_torch.errors import InputError
from gendebug_torch.network import preflight, watch
from gendebug_torch.network.assembly import network_evidence
from gendebug_torch.network.measures.statistics_gap import RunningStatistics
from gendebug_torch.network.measures.unit_activity import UnitActivity
from gendebug_torch.network.recorder import NetworkRecorder, sampled
from gendebug_torch.network.watch import recorder_of
from scripts._network_faults import FAULTS, RECIPES, train


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )


def rows(n=32, seed=1):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def steps(model, optimizer, record=None, number=30, loss_of=cross_entropy):
    for step in range(number):
        x, y = rows(seed=step)
        loss = loss_of(model(x), y)
        if record is not None:
            record.loss(loss, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def hooks_of(model, optimizer):
    tables = [
        table
        for module in model.modules()
        for name, table in vars(module).items()
        if name.endswith("_hooks")
    ]
    tables += [p._post_accumulate_grad_hooks for p in model.parameters()]
    tables += [optimizer._optimizer_step_post_hooks]
    return sum(len(table) for table in tables if table)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_first(fault):
    torch.manual_seed(1000)
    case = FAULTS[fault]("MLP", 1000)
    with watch(case.model, case.optimizer) as record:
        train(case, record, 150)
    first = record.findings()[0]
    assert first.numbers["kind"] in case.kinds, first
    assert not case.layers or first.subject in case.layers
    assert first.remedy


@pytest.mark.parametrize("rate", [1.0, 50.0])
def test_a_rate_is_too_large_though_the_loss_falls_from_where_the_first_updates_took_it(rate):
    torch.manual_seed(1000)
    case = RECIPES["SGD 0.05"]("MLP", 1000)
    case.optimizer = torch.optim.Adam(case.model.parameters(), rate)
    with watch(case.model, case.optimizer) as record:
        train(case, record, 60)
    first = record.findings()[0]
    assert first.numbers["kind"] == "rate_too_large", first
    change = record.evidence().change
    assert change is None or change.start < 2


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_sound_training_is_quiet(recipe):
    torch.manual_seed(1000)
    case = RECIPES[recipe]("MLP", 1000)
    with watch(case.model, case.optimizer) as record:
        train(case, record, 150)
    assert not [f.summary for f in record.findings() if f.severity.level >= 2]


def test_a_watched_training_is_the_same_and_nothing_is_left_behind():
    plain, watched = network(), network()
    one, other = torch.optim.Adam(plain.parameters()), torch.optim.Adam(watched.parameters())
    torch.manual_seed(3)
    steps(plain, one)
    torch.manual_seed(3)
    with watch(watched, other, every=2) as record:
        steps(watched, other, record)
    assert all(map(torch.equal, plain.state_dict().values(), watched.state_dict().values()))
    assert not hooks_of(watched, other)
    with pytest.raises(ZeroDivisionError), watch(watched, other):
        1 / 0  # noqa: B018
    assert not hooks_of(watched, other)


@pytest.mark.parametrize("given", [True, False], ids=["targets", "no targets"])
def test_a_loss_with_smoothed_labels_is_held_against_their_entropy(given):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with watch(model, optimizer) as record:
        for step in range(150):
            x, _ = rows(128, seed=step)
            y = (x[:, 0] > 2).long()
            loss = cross_entropy(model(x), y, label_smoothing=0.1)
            record.loss(loss, y if given else None)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not [f.summary for f in record.findings() if f.severity.level >= 2]
    facts, even = record.evidence().facts, torch.tensor([0.9, 0.0, 0.0]) + 0.1 / 3
    assert facts.uniform_loss == pytest.approx(math.log(3))
    if given:
        assert facts.constant_loss == pytest.approx(-float((even * even.log()).sum()), abs=0.1)
    else:
        assert facts.constant_loss is None


def test_norms_are_those_of_the_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = [p.detach().clone() for p in model.parameters()]
    with watch(model, optimizer) as record:
        x, y = rows()
        cross_entropy(model(x), y).backward()
        gradient = model[2].weight.grad.clone()
        optimizer.step()
    evidence = record.evidence()
    assert [layer.name for layer in evidence.layers] == ["0", "2", "4"]
    assert evidence.measure("gradient_norm")[0, 1] == pytest.approx(float(gradient.norm()))
    assert evidence.measure("weight_norm")[0, 1] == pytest.approx(float(before[2].norm()))
    ratio = 0.1 * float(gradient.norm() / before[2].norm())
    assert evidence.update_ratio[0, 1] == pytest.approx(ratio, rel=1e-4)


class Counted(TorchDispatchMode):
    """Counts the operations of a block; views launch nothing, and PyTorch 2.6 has more of them."""

    number = 0

    def __torch_dispatch__(self, function, types, given=(), named=None):
        self.number += not function.is_view
        return function(*given, **(named or {}))


def added(model, every, number=10):
    """Operations that the watching of so many steps adds to each."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Counted() as plain:
        steps(model, optimizer, number=number)
    with watch(model, optimizer, every=every) as record:
        steps(model, optimizer, record, number=70)
        with Counted() as watched:
            steps(model, optimizer, record, number=number)
    return (watched.number - plain.number) / number


def test_operations_of_a_sampled_step_are_a_few_per_layer_and_else_a_few():
    # Watched at every step; the distance doubles after 64 of them.
    (few, one), (many, deep) = (
        (added(model, 10**6), 2 * added(model, 1) - added(model, 10**6))
        for model in (network(), nn.Sequential(network(), nn.Linear(3, 16), *network()[2:]))
    )
    assert few < 7, few
    assert one < 45, one
    # Two linear layers more.
    assert many - few <= 2, (few, many)
    assert deep - one < 8 * 2, deep - one


def test_norms_of_large_matrices_are_those_of_every_eighth_row():
    torch.manual_seed(0)
    model = nn.Linear(512, 128)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    before = model.weight.detach().clone()
    with watch(model, optimizer) as record:
        model(torch.randn(8, 512)).square().mean().backward()
        optimizer.step()
    evidence, moved = record.evidence(), float((model.weight.detach() - before).norm())
    assert evidence.measure("weight_norm")[0, 0] == pytest.approx(float(before.norm()), rel=0.05)
    assert evidence.measure("update_norm")[0, 0] == pytest.approx(moved, rel=0.05)


def test_a_table_of_embeddings_of_which_few_rows_change_is_no_layer_that_never_does():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(1024, 32), nn.Flatten(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with watch(model, optimizer) as record:
        for step in range(20):
            x = 1 + torch.randint(0, 3, (32, 2), generator=torch.Generator().manual_seed(step))
            cross_entropy(model(x), (x[:, 0] > 1).long()).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert record.evidence().measure("update_norm")[:, 0].min() > 0


def test_batch_norms_are_read_together():
    def model(norms):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 3), *[nn.BatchNorm1d(3) for _ in range(norms)])

    one, many = (2 * added(model(n), 1) - added(model(n), 10**6) for n in (1, 9))
    assert many - one < 3 * 8, (one, many)


def test_the_distance_of_samples_grows_with_the_steps():
    chosen = [step for step in range(1, 5001) if sampled(step, 10)]
    assert chosen[:9] == [1, 2, 3, 4, 5, 10, 20, 30, 40]
    assert [step for step in chosen if 600 <= step < 720] == [
        600,
        610,
        620,
        630,
        640,
        660,
        680,
        700,
    ]
    assert len(chosen) < 200
    assert len([step for step in chosen if step >= 2500]) >= 32
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watch(model, optimizer, every=1) as record:
        steps(model, optimizer, record, 100)
    assert record.evidence().step.tolist() == [s for s in range(1, 101) if sampled(s, 1)]


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"momentum": 0.3, "eps": 0.01}], ids=str
)
@pytest.mark.parametrize("calls", [1, 3])
def test_the_gap_of_running_statistics_is_that_of_the_batches(options, calls):
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(4, **options), nn.BatchNorm1d(4, **options), nn.BatchNorm1d(3)]
    with torch.no_grad():
        [norm(3 * torch.randn(8, norm.num_features) + 1) for norm in norms for _ in range(5)]
    statistics = RunningStatistics(list(enumerate(norms)))
    statistics.begin()
    expected = []
    for at, norm in enumerate(norms):
        x = torch.randn(64, norm.num_features) - 2
        for _ in range(calls):
            norm(x)
        # Momentum is that of the last call where there are several with the same batch.
        statistics.calls[at] = calls
        deviation = (norm.running_var + norm.eps).sqrt()
        shift = (x.mean(0) - norm.running_mean).abs() / deviation
        width = x.var(0).sqrt() + norm.eps**0.5
        expected.append((shift + (width / deviation).log().abs()).mean())
    positions, gaps = statistics.close()
    assert sorted(positions) == [0, 1, 2]
    for at, gap in zip(positions, gaps, strict=True):
        assert float(gap) == pytest.approx(float(expected[at]), rel=1e-3)


def test_last_steps_of_units_with_a_gradient():
    activity, generator = UnitActivity(), torch.Generator().manual_seed(0)
    expected = {at: torch.zeros(width, dtype=torch.int64) for at, width in ((3, 5), (1, 4), (2, 6))}
    for step in range(1, 20):
        used = [at for at in (3, 1, 2) if step > 2 or at != 1]
        shares = {}
        for at in used if step % 5 else [2]:
            width = len(expected[at])
            gradient = torch.randn(7, width, 2, generator=generator)
            gradient *= torch.rand(1, width, 1, generator=generator) < 0.4
            activity.add(at, gradient, 1)
            active = (gradient != 0).any(2).any(0)
            expected[at][active] = step
            shares[at] = 1 - float(active.float().mean())
        positions, found = activity.close(step)
        assert dict(zip(positions, found.tolist(), strict=True)) == pytest.approx(shares)
    other = UnitActivity()
    other.load_state_dict(activity.state_dict(), torch.device("cpu"))
    for at, last in expected.items():
        assert torch.equal(activity.last_active(at), last)
        assert torch.equal(other.last_active(at), last)
    assert activity.last_active(9) is None


def test_a_record_goes_on_from_a_checkpoint():
    def recorded(parts):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        state = None
        for number in parts:
            recorder = NetworkRecorder(model, [optimizer], every=3)
            if state is not None:
                recorder.load_state_dict(state)
            recorder.attach()
            for step in range(recorder.step, recorder.step + number):
                x, y = rows(seed=step)
                loss = cross_entropy(model(x), y)
                recorder.add_loss(loss, y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            recorder.detach()
            state = recorder.state_dict()
        return network_evidence(recorder)

    whole, parts = recorded([30]), recorded([13, 17])
    assert torch.equal(whole.step, parts.step)
    assert torch.allclose(whole.values, parts.values, equal_nan=True)
    assert whole.layers == parts.layers
    assert whole.facts == parts.facts


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.body, self.head = network(), nn.Linear(3, 3)
        self.reentrant = reentrant

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_modules_are_seen(reentrant):
    model = Checkpointed(reentrant)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with watch(model, optimizer) as record:
        for step in range(60):
            x, y = rows(seed=step)
            loss = cross_entropy(model(x.requires_grad_()), y)
            record.loss(loss, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not [f.summary for f in record.findings() if f.severity.level >= 2]
    assert record.evidence().measure("signal_norm").isfinite().any(0).all()


def test_half_precision_sparse_gradients_and_several_optimizers():
    model = nn.Sequential(nn.Embedding(9, 8, sparse=True), nn.Flatten(), nn.Linear(24, 3))
    first = torch.optim.Adam(model[2].parameters(), 0.01)
    second = torch.optim.SparseAdam(list(model[0].parameters()), 0.01)
    with watch(model, [first, second]) as record:
        for step in range(40):
            x = torch.randint(9, (32, 3), generator=torch.Generator().manual_seed(step))
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(model(x), x.sum(1) % 3)
            record.loss(loss, x.sum(1) % 3)
            loss.backward()
            second.step()
            first.step()
            first.zero_grad()
            second.zero_grad()
    assert not [f.summary for f in record.findings() if f.check == "network.unchanged" and f.remedy]
    assert record.evidence().update_ratio[3:].isfinite().all()


def test_a_frozen_backbone_in_evaluation_mode_is_no_fault_and_a_network_there_is():
    def modes(frozen):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        body.requires_grad_(not frozen)
        model = nn.Sequential(body, nn.Linear(16, 3))
        body.eval()
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
        with watch(model, optimizer) as record:
            steps(model, optimizer, record)
        return [f.numbers["kind"] for f in record.findings() if f.severity.level >= 2]

    assert modes(frozen=True) == []
    assert "trained_in_evaluation_mode" in modes(frozen=False)


def test_the_classes_of_a_contrastive_loss_are_the_rows_of_a_batch():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with watch(model, optimizer) as record:
        for step in range(10):
            (x, _), rows_of = rows(seed=step), torch.arange(32)
            loss = cross_entropy(model(x) @ model(x + 0.1).T, rows_of)
            record.loss(loss, rows_of)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert record.evidence().facts.uniform_loss == pytest.approx(math.log(32))


def test_units_of_a_generator_whose_backward_pass_comes_behind_the_first_step_are_alive():
    torch.manual_seed(0)
    make, tell = network(), nn.Sequential(nn.Linear(3, 16), nn.LeakyReLU(), nn.Linear(16, 1))
    first, second = (torch.optim.Adam(part.parameters(), 1e-3) for part in (tell, make))
    with watch(nn.ModuleList([make, tell]), [first, second]) as record:
        for step in range(100):
            (x, _), made = rows(seed=step), make(rows(seed=step + 1000)[0])
            first.zero_grad()
            (tell(made.detach()).mean() - tell(x[:, :3]).mean()).backward()
            first.step()
            second.zero_grad()
            (-tell(made)).mean().backward()
            second.step()
    evidence = record.evidence()
    assert [layer.name for layer in evidence.layers if (layer.dead_share or 0) > 0.5] == []
    assert evidence.measure("signal_norm").isfinite()[2:].all()


def test_what_is_compiled_is_said_not_to_be_seen():
    model = nn.Sequential(network(), nn.Linear(3, 3))
    model[0]._compiled_call_impl = model[0]._call_impl
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with watch(model, optimizer) as record:
        steps(model, optimizer, record)
    evidence = record.evidence()
    assert "compiled" in evidence.facts.notes[0]
    assert not [f.summary for f in record.findings() if f.severity.level >= 2]


def test_a_diagnosis_names_the_fault():
    model = network()
    optimizer = torch.optim.Adam([*model[0].parameters(), *model[4].parameters()], 0.01)
    with watch(model, optimizer) as record:
        steps(model, optimizer, record)
    diagnosis = diagnose(network=record.evidence(), only="network")
    (cause,) = diagnosis.causes
    assert (cause.cause, cause.subject, diagnosis.decision) == ("training_fault", "2", "retrain")
    assert "in no optimizer" in diagnosis.to_html()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((network(), []), "optimizer"),
        ((nn.ReLU(), None), "model"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(InputError, match=words):
        watch(*[[] if part is None else part for part in arguments])
    with pytest.raises(InputError, match="every"):
        recorder_of(network(), [torch.optim.SGD(network().parameters(), 0.1)], 0)


def test_a_loop_that_breaks_on_a_nan_before_it_steps_is_judged():
    model = network()
    model.insert(1, Function(lambda h: h / 0 if h.isnan().any() else (h - 100).sqrt()))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watch(model, optimizer) as record:
        cross_entropy(model(rows()[0]), rows()[1])
    first = record.findings()[0]
    assert (first.numbers["kind"], first.subject) == ("nonfinite_forward", "1")
    assert first.numbers["step"] == 1


class Masked(nn.Module):
    """A deep network with a mask of infinities; from a call on it takes logarithms half way."""

    def __init__(self, depth, call):
        super().__init__()
        self.enter, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.body = nn.ModuleList(nn.Linear(16, 16) for _ in range(depth))
        self.mask = Function(lambda h: h.masked_fill(h < -1, -torch.inf))
        self.calls, self.call = 0, call

    def forward(self, x):
        self.calls += 1
        h = self.enter(x)
        for at, layer in enumerate(self.body):
            h = torch.tanh(h + layer(h))
            if 2 * at == len(self.body) and self.calls >= self.call:
                h = (h - 2).log()
        return self.head(h + self.mask(4 * h).softmax(-1))


@pytest.mark.parametrize(
    ("depth", "call", "before"), [(2, 27, "body.0"), (20, 27, "body.9"), (2, 99, None)]
)
def test_the_first_nan_is_placed_behind_a_finite_layer_in_any_step(depth, call, before):
    model = Masked(depth, call)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with watch(model, optimizer) as record:
        steps(model, optimizer, record, 32)
    first = record.evidence().facts.nonfinite
    # Infinities of the mask do no harm before.
    found = None if first is None else (first.step, first.place, first.module, first.before)
    assert found == (None if before is None else (27, "forward", "mask", before))


class Positions(nn.Module):
    """Embeds positions before tokens."""

    def __init__(self):
        super().__init__()
        self.position, self.token = nn.Embedding(8, 16), nn.Embedding(40, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        h = self.position(torch.arange(8, device=x.device)) + self.token(x)
        return self.head(h.mean(1))


@pytest.mark.parametrize("step", [20, 23])
def test_weights_that_are_lost_are_no_fault_of_the_tokens(step):
    """Token ids have no sum; what the modules behind them get is no input of the network."""
    model = nn.Sequential(nn.Embedding(40, 16), *(nn.Linear(16, 16) for _ in range(4)))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with watch(model, optimizer) as record:
        for at in range(1, 30):
            loss = model(torch.randint(40, (16,))).square().mean()
            record.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if at == step - 1:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.fill_(torch.nan)
    first = record.evidence().facts.nonfinite
    assert (first.step, first.place, first.module) == (step, "weights", "0")


@pytest.mark.parametrize(("fresh", "severity"), [(True, None), (False, "warn")])
def test_positions_are_no_batch_that_repeats(fresh, severity):
    model = Positions()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with watch(model, optimizer) as record:
        for step in range(40):
            generator = torch.Generator().manual_seed(step if fresh else 0)
            x = torch.randint(0, 40, (32, 8), generator=generator)
            cross_entropy(model(x), (x[:, 0] > 20).long()).backward()
            optimizer.step()
            optimizer.zero_grad()
    found = [f for f in record.findings() if f.numbers.get("kind") == "repeated_batch"]
    assert [f.severity for f in found] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("make", "severities"),
    [(torch.optim.SGD, ["fail"]), (torch.optim.AdamW, ["note"]), (None, [])],
)
def test_added_gradients_are_a_note_where_the_optimizer_divides_by_their_size(make, severities):
    model = network()
    if make is None:
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    else:
        optimizer = make(model.parameters(), 0.01)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    with watch(model, optimizer) as record:
        for step in range(40):
            x, y = rows(seed=step)
            if make is None:
                optimizer.step(closure)
                continue
            for part in range(2):
                cross_entropy(model(x[part::2]), y[part::2]).backward()
            optimizer.step()
            optimizer.zero_grad()
    kind = "accumulation_not_averaged"
    found = [f.severity for f in record.findings() if f.numbers.get("kind") == kind]
    assert found == severities


@pytest.mark.parametrize(("every", "kinds"), [(10, {"evaluated_in_training_mode"}), (1, set())])
def test_an_evaluation_is_now_and_then_and_a_teacher_in_every_step(every, kinds):
    model = nn.Sequential(network(), nn.Dropout(0.1), nn.Linear(3, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with watch(model, optimizer) as record:
        for step in range(40):
            steps(model, optimizer, record, 1)
            for seed in range(30 // every if step % every == 0 else 0):
                with torch.no_grad():
                    model(rows(seed=seed)[0])
    kind = "evaluated_in_training_mode"
    assert {k for f in record.findings() if (k := f.numbers.get("kind")) == kind} == kinds


def scaled(interval):
    """Findings of a training in float16 whose gradient scaler grows at this interval."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", growth_interval=interval)
    with watch(model, optimizer, every=5) as record:
        for step in range(120):
            x, y = rows(seed=step)
            with torch.autocast("cpu", torch.float16):
                outputs = model(x)
            loss = cross_entropy(outputs.float(), y)
            record.loss(loss, y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return record.findings()


def test_a_gradient_scaler_that_skips_every_second_step_is_named():
    assert not [f.summary for f in scaled(2000) if f.severity.level >= 2]
    first = scaled(1)[0]
    assert first.numbers["kind"] == "steps_skipped", first
    assert first.numbers["share"] > 0.3


@pytest.mark.parametrize(
    ("order", "kinds"),
    [
        (lambda x, y: y.argsort(), {"ordered_batches"}),
        (lambda x, y: torch.randperm(len(y)), set()),
        (lambda x, y: x[:, 4].argsort(), set()),
    ],
    ids=["by class", "shuffled", "by an input"],
)
def test_rows_that_are_sorted_by_their_targets_are_named(order, kinds):
    torch.manual_seed(0)
    x, y = rows(480)
    at = order(x, y)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with watch(model, optimizer) as record:
        for part, targets in zip(x[at].split(40), y[at].split(40), strict=True):
            loss = cross_entropy(model(part), targets)
            record.loss(loss, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    found = {
        f.numbers["kind"] for f in record.findings() if f.check == "network.batches" and f.remedy
    }
    assert found == kinds


class Attention(nn.Module):
    """Queries that are still even get little gradient, and pass on all that comes by the values."""

    def __init__(self):
        super().__init__()
        self.embed, self.query, self.key, self.value = nn.Embedding(40, 16), *linears(3)
        self.position, self.head = nn.Parameter(torch.zeros(8, 16)), nn.Linear(16, 2)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=0.002)

    def forward(self, x):
        h = self.embed(x) + self.position
        weights = (self.query(h) @ self.key(h).transpose(1, 2)).softmax(-1)
        return self.head((h + weights @ self.value(h)).mean(1))


def linears(count):
    return [nn.Linear(16, 16) for _ in range(count)]


def test_even_queries_of_an_attention_are_no_vanishing_gradient():
    torch.manual_seed(0)
    model = Attention()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with watch(model, optimizer, every=2) as record:
        for step in range(12):
            x = torch.randint(0, 40, (32, 8), generator=torch.Generator().manual_seed(step))
            loss = cross_entropy(model(x), (x[:, 0] > 20).long())
            record.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    kinds = {finding.numbers.get("kind") for finding in record.findings()}
    assert "vanishing_gradient" not in kinds


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("kind", "at", "function"),
    [
        ("rows_mix", "1", lambda h: h.softmax(0)),
        ("rows_mix", "1", lambda h: h.T.reshape(h.shape)),
        ("random_evaluation", "", lambda h: dropout(h, 0.3)),
        ("batch_not_fitted", "", lambda h: h * 0),
    ],
)
def test_preflight_names_what_is_wrong_with_the_network(kind, at, function):
    model = network()
    model = nn.Sequential(model[0], Function(function), *model[1:])
    found = [f for f in preflight(model, [rows()]) if f.severity.level >= 2]
    assert (kind, at) in [(f.numbers["kind"], f.subject) for f in found], found


class Sequence(nn.Module):
    """Patches or tokens through an encoder or a recurrent network, with positions in front."""

    def __init__(self, core, *, turned=True, dense=False):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        encoder = nn.TransformerEncoderLayer(16, 2, 32)
        self.core = core(16, 16, 2, dropout=0.3) if core else encoder
        self.head, self.turned, self.dense = nn.Linear(16, 3), turned, dense

    def forward(self, x):
        h = self.core(self.embed(x.T if self.turned else x))
        h = h[0] if isinstance(h, tuple) else h
        if self.dense:
            return self.head(h.transpose(0, 1) if self.turned else h)
        return self.head(h.mean(0 if self.turned else 1))


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(30, 16), nn.Linear(16, 3)

    def forward(self, x, offsets):
        return self.head(self.bag(x, offsets))


class Turned(list):
    """Batches of positions and rows, as a loader gives them that turns its rows."""

    batch_size = 24


TOKENS = torch.randint(0, 30, (24, 8), generator=torch.Generator().manual_seed(0))
FIRST = (TOKENS, TOKENS[:, 0] % 3)
EACH = (TOKENS, TOKENS % 3)


@pytest.mark.parametrize(
    ("model", "batches", "mixes"),
    [
        (lambda: Sequence(None), [FIRST], False),
        (lambda: Sequence(None), [(TOKENS[:8], FIRST[1][:8])], False),
        (lambda: Sequence(nn.GRU), [FIRST], False),
        (lambda: Sequence(nn.GRU, dense=True), [EACH], False),
        (lambda: Sequence(None, turned=False), [FIRST], True),
        (lambda: Sequence(None, turned=False), [(TOKENS[:8], FIRST[1][:8])], True),
        (lambda: Sequence(nn.LSTM, turned=False, dense=True), Turned([EACH]), True),
        (
            lambda: Sequence(nn.LSTM, turned=False, dense=True),
            Turned([tuple(part.T for part in EACH)]),
            False,
        ),
    ],
)
def test_preflight_finds_the_axis_of_the_rows(model, batches, mixes):
    torch.manual_seed(0)
    found = [f.numbers.get("kind") for f in preflight(model(), batches, steps=20)]
    assert ("rows_mix" in found) == mixes
    assert "modes_disagree" not in found


def test_preflight_of_flat_ids_with_offsets():
    offsets = torch.arange(0, 3 * 80, 3)
    ids = torch.randint(0, 30, (3 * 80,), generator=torch.Generator().manual_seed(0))
    batch = ((ids, offsets), ids[offsets] % 3)
    found = preflight(Bags(), [batch], unpack=lambda given: given)
    assert not [f.summary for f in found if f.severity.level >= 2]
    with pytest.raises(InputError, match="batch_first"):
        preflight(Bags(), [batch], unpack=lambda given: (given[0], given[1][1:]))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("inputs_not_normalized", lambda x, y: (100 * x + 30, y)),
        ("missing_inputs", lambda x, y: (x.where(x < 1, float("nan")), y)),
        ("targets_not_normalized", lambda x, y: (x, 1000 * x[:, :3] + 500)),
    ],
)
def test_preflight_names_what_is_wrong_with_the_data(kind, change):
    found = preflight(network(), [change(*rows())])
    assert kind in [f.numbers.get("kind") for f in found]


def test_preflight_reads_class_weights():
    x, y = rows(64)
    y = (x[:, 0] > 1).long() * 2
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 0.1, 5.0]))
    contrary = nn.CrossEntropyLoss(weight=torch.tensor([5.0, 0.1, 0.1]))
    kinds = [
        [f.numbers.get("kind") for f in preflight(network(), [(x, y)], loss=loss)]
        for loss in (weighted, contrary)
    ]
    assert ["class_weights" in found for found in kinds] == [False, True]


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        ([nn.BatchNorm1d(16)], None),
        ([nn.Dropout(0.5)], None),
        ([nn.LayerNorm(16)], cross_entropy),
    ],
)
def test_preflight_is_quiet_on_sound_networks_and_touches_nothing(layers, loss):
    model = network()
    model = nn.Sequential(model[0], *layers, *model[1:])
    model[0].eval()
    known = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = preflight(
        model, torch.utils.data.DataLoader(list(zip(*rows(), strict=True)), 32), loss=loss
    )
    assert not [f.summary for f in found if f.severity.level >= 2]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, known[name]) for name, value in model.state_dict().items())
    assert [model[0].training, model[1].training] == [False, True]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("momentum", [0.1, 1e-4])
def test_preflight_says_what_the_running_statistics_of_a_trained_network_cost(momentum):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32, momentum=momentum), nn.ReLU(), nn.Linear(32, 3)
    )
    with torch.no_grad():
        model[0].weight.mul_(10)
        model[0].bias.add_(20)
    steps(model, torch.optim.Adam(model.parameters(), 0.01), number=120)
    kinds = [f.numbers.get("kind") for f in preflight(model, [rows(64)])]
    assert ("running_statistics" in kinds) == (momentum < 0.01)


def test_preflight_of_quantities_and_mappings():
    x, _ = rows(64)
    y = x[:, :1] * 0.5 + 0.3

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = network(), nn.Linear(3, 1)

        def forward(self, x):
            return {"out": self.head(self.body(x))}

    found = preflight(
        Named(),
        [{"x": x, "y": y}],
        unpack=lambda batch: ({"x": batch["x"]}, batch["y"]),
        loss=lambda outputs, targets: mse_loss(outputs["out"], targets),
    )
    assert not [f.summary for f in found if f.severity.level >= 2]


def test_preflight_of_what_is_no_loader():
    with pytest.raises(InputError, match="loader"):
        preflight(network(), [])
    with pytest.raises(InputError, match="unpack"):
        preflight(network(), [{"x": 1}])


@pytest.mark.gpu
def test_no_step_waits_for_the_device(simulated):
    def watched(number):
        model = network().cuda()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        batches = [(x.cuda(), y.cuda()) for x, y in (rows(seed=seed) for seed in range(4))]
        with watch(model, optimizer, every=4) as record, simulated.counts() as counted:
            for step in range(number):
                x, y = batches[step % 4]
                loss = cross_entropy(model(x), y)
                record.loss(loss, y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        assert len(record.evidence()) == 5 + (number - 4) // 4
        return counted

    few, many = watched(16), watched(56)
    assert few.waits == many.waits
    operations = (many.total()[0] - few.total()[0]) / 40
    assert operations < 110, operations
