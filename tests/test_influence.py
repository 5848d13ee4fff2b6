"""Which training rows are behind errors: every task, method and modality; the refit; bad input."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gendebug_torch as gd
from gendebug_torch.cli import main
from gendebug_torch.errors import InputError, UnsupportedError
from gendebug_torch.influences.evidence.exceedance import exceedance
from gendebug_torch.influences.methods.answers import AnswerForm
from gendebug_torch.influences.methods.method import half_weights, mean_of_nearest
from gendebug_torch.influences.scoring import SCORERS
from gendebug_torch.labels import read_review
from tests.contract.plants_influence import network, shifted, taught

PLANT = range(40)


def rows(seed, n, odd, *, wrong):
    """Inputs of which the first `odd` are apart, and labels that are wrong there on demand."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=draw)
    y = (x[:, 0] > 0).long()
    x[:odd, 1] = 6.0 + 0.2 * torch.randn(odd, generator=draw)
    x[:odd, 0] = x[:odd, 0].abs() + 0.5
    y[:odd] = 0 if wrong else 1
    return x, y


def fitted(x, y, outputs, loss, steps=150, after=lambda step, net: None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, outputs))
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    for step in range(steps):
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()
        after(step + 1, net)
    return net.eval()


@pytest.fixture(scope="module")
def classes():
    """A network that learned a wrong label of 40 rows, its training rows, and held-out sides."""
    x, y = rows(0, 800, len(PLANT), wrong=True)
    net = fitted(x, y, 2, nn.functional.cross_entropy)
    sides = {
        "reference": gd.Records(*rows(1, 400, 0, wrong=False), name="validation"),
        "queries": gd.Records(*rows(2, 400, 80, wrong=False), name="production"),
    }
    return net, gd.Records(x, y), sides


def share_of_plant(found):
    return sum(row in PLANT for row in found.order[: len(PLANT)].tolist()) / len(PLANT)


@pytest.mark.parametrize("method", ["auto", *SCORERS])
def test_each_method_ranks_the_planted_rows_first(classes, method):
    net, train, sides = classes
    found = gd.influence(net, train, **sides, method=method)
    # One row in twenty is planted; the last weights say little of rows that they fit.
    least = {"head": 0.1, "curvature": 0.25, "gradients": 0.5}
    assert share_of_plant(found) >= least.get(method, 0.9)


def test_checkpoints_show_what_the_last_weights_of_a_long_training_have_lost(tmp_path):
    """TracIn over the run finds planted rows that gradients at its end rank lower."""
    x, y = rows(10, 800, len(PLANT), wrong=True)
    states = []

    def keep(step, net):
        if step in (10, 20, 40):
            states.append({name: value.clone() for name, value in net.state_dict().items()})

    net = fitted(x, y, 2, nn.functional.cross_entropy, steps=1200, after=keep)
    sides = {
        "reference": gd.Records(*rows(11, 400, 0, wrong=False)),
        "queries": gd.Records(*rows(12, 400, 80, wrong=False)),
    }
    train = gd.Records(x, y)
    last = gd.influence(net, train, **sides, method="gradients")
    over = gd.influence(net, train, **sides, method="gradients", checkpoints=states)
    assert share_of_plant(last) < 0.6
    assert share_of_plant(over) > 0.95
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, state in zip(paths, states, strict=True):
        save_file(state, path)
    read = gd.influence(net, train, **sides, method="gradients", checkpoints=paths)
    assert torch.equal(read.scores, over.scores)
    end = gd.influence(net, train, **sides, method="gradients", checkpoints=[net.state_dict()])
    assert torch.allclose(end.scores, last.scores)
    torch.save({"weights": PLANT.__class__}, tmp_path / "pickled.ckpt")
    for given, words in (
        ([{"0.weight": torch.zeros(3)}], "`0.weight` of shape"),
        ([tmp_path / "pickled.ckpt"], "pickled.ckpt"),
        (tmp_path / "0.safetensors", "a list"),
    ):
        with pytest.raises(InputError, match=words):
            gd.influence(net, train, **sides, checkpoints=given)
    with pytest.raises(InputError, match="`method`"):
        gd.influence(net, train, **sides, method="head", checkpoints=states)


def test_the_answer_holds_a_table_single_errors_what_is_common_and_a_proof(classes, tmp_path):
    net, train, sides = classes
    metadata = pd.DataFrame({"labeler": ["s4" if i in PLANT else f"s{i % 4}" for i in range(800)]})
    train = gd.Records(train.features, train.targets, metadata=metadata)
    found = gd.influence(net, train, **sides)
    assert found.explains
    assert found.p_value < 1e-4
    assert 25 <= found.count <= 55
    table = found.table()
    assert list(table.columns) == ["row", "score", "low", "high"]
    assert table["score"].is_monotonic_decreasing
    assert (table["low"] <= table["score"]).all()
    one = found.of_query(int(found.sides.positions[0]))
    assert set(one["row"].head(5)) <= set(PLANT)
    assert found.common.iloc[0]["value"] == "s4"
    proof = found.confirm()
    assert proof.confirmed
    assert proof.change[2] < -0.1
    assert list(proof.table().columns)[-3:] == ["change", "low", "high"]
    sheet = found.sheet(tmp_path / "sheet.csv", size=10)
    assert (sheet["given"] == "0").all()
    assert (sheet["suggested"] == "1").all()
    assert read_review(tmp_path / "sheet.csv", train.targets).pending == tuple(
        map(int, sheet["row"])
    )


def test_the_users_fit_is_asked_without_the_named_and_without_random_rows(classes):
    net, train, sides = classes
    found = gd.influence(net, train, **sides)
    sizes = []

    def fit(kept):
        sizes.append(len(kept))
        return fitted(kept.features, kept.targets, 2, nn.functional.cross_entropy, steps=60)

    proof = found.confirm(fit, drop=60)
    assert sizes == [740] * 6
    assert proof.change[0] < -0.5
    assert proof.quality_change[0] > -0.02


def test_a_shift_has_no_culprits_and_the_model_is_left_as_it_was(classes):
    net, _, sides = classes
    train = gd.Records(*rows(3, 800, 0, wrong=False))
    net.train()
    state, gradients = torch.get_rng_state(), [p.grad for p in net.parameters()]
    found = gd.influence(net, train, **sides)
    assert not found.explains
    assert found.count == 0
    assert net.training
    assert all(not module._forward_pre_hooks for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert all(p.grad is g for p, g in zip(net.parameters(), gradients, strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("task", ["one logit", "multilabel", "regression", "texts", "images"])
def test_other_tasks_and_inputs(task):
    x, y = rows(0, 600, len(PLANT), wrong=True)
    held_out, queries = rows(1, 300, 0, wrong=False), rows(2, 300, 80, wrong=False)
    schema = gd.Schema()
    if task == "one logit":
        model = fitted(
            x, y, 1, lambda z, t: nn.functional.binary_cross_entropy_with_logits(z[:, 0], t.float())
        )
    elif task == "multilabel":
        schema = gd.Schema(multilabel=True)
        y, *labels = (torch.stack([t, 1 - t], 1) for t in (y, held_out[1], queries[1]))
        held_out, queries = (held_out[0], labels[0]), (queries[0], labels[1])
        model = fitted(
            x, y, 2, lambda z, t: nn.functional.binary_cross_entropy_with_logits(z, t.float())
        )
    elif task == "regression":
        schema = gd.Schema(regression=True)
        y, *labels = (8.0 * t + 0.1 for t in (y, held_out[1], queries[1]))
        held_out, queries = (held_out[0], labels[0]), (queries[0], labels[1])
        model = fitted(x, y, 1, lambda z, t: (z[:, 0] - t).square().mean())
    else:
        net = fitted(x, y, 2, nn.functional.cross_entropy)
        texts = task == "texts"

        def made(values):
            codes = values.mul(4).round().clamp(-24, 25).long() + 24
            return codes if texts else values.repeat(1, 6).reshape(-1, 1, 6, 6)

        class Reader(nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.codes = net, nn.Embedding(50, 1)
                self.codes.weight.data = (torch.arange(50.0) - 24)[:, None] / 4

            def forward(self, inputs):
                return self.net(self.codes(inputs)[..., 0] if texts else inputs[:, 0, 0])

        model = Reader().eval()
        x, held_out, queries = (
            made(x),
            (made(held_out[0]), held_out[1]),
            (made(queries[0]), queries[1]),
        )
    train, *sides = (gd.Records(*side, schema=schema) for side in ((x, y), held_out, queries))
    curved = gd.influence(model, train, sides[1], reference=sides[0], method="curvature")
    assert share_of_plant(curved) >= 0.25
    found = gd.influence(model, train, sides[1], reference=sides[0])
    assert share_of_plant(found) >= 0.8
    assert found.explains
    # What can be looked at is drawn: errors above the training rows that look like them.
    panels = found.plot().child_axes
    assert len(panels) == (2 if task in ("texts", "images") else 0)
    if task == "images":
        told = [label.get_text() for label in panels[0].get_xticklabels()]
        assert all(text.startswith("1 as 0\nrow ") for text in told)
        assert {int(text.split()[-1]) for text in told} <= set(PLANT)
    if task == "texts":
        said = pd.DataFrame({"raw": [f"message {i} of the day" for i in range(600)]})
        worded = [replace(r, metadata=said.head(len(r))) for r in (train, sides[1])]
        texts = gd.influence(model, worded[0], worded[1], reference=sides[0]).plot()
        assert any("0: message 1" in t.get_text() for t in texts.child_axes[0].texts)
    assert found.confirm(drop=40).change[0] < 0


def test_loaders_callables_and_networks_that_show_no_layers(classes):
    net, train, sides = classes
    expected = gd.influence(net, train, **sides).order
    loader = DataLoader(TensorDataset(train.features, train.targets), 128)
    from_loader = gd.influence(net, loader, **sides)
    assert from_loader.order.tolist() == expected.tolist()
    assert from_loader.confirm().confirmed
    hidden = gd.influence(lambda inputs: net(inputs), train, **sides)
    assert "by their inputs alone" in " ".join(hidden.notes)
    assert [method.name for method in hidden.methods] == ["neighbours"]
    assert share_of_plant(hidden) >= 0.9
    with pytest.raises(UnsupportedError, match="weights"):
        gd.influence(lambda inputs: net(inputs), train, **sides, method="gradients")


def test_an_interrupted_run_goes_on_from_its_shards(classes, tmp_path):
    net, train, sides = classes
    options = {"batch_size": 100, "checkpoint": tmp_path / "shards", **sides}
    first = gd.influence(net, train, **options)
    again = gd.influence(net, train, **options)
    assert torch.equal(first.scores, again.scores)


def test_bad_input(classes):
    net, train, sides = classes
    queries = sides["queries"]
    right = gd.Records(
        *rows(5, 60, 0, wrong=False), logits=torch.tensor([[9.0, 0.0]]).repeat(60, 1)
    )
    right = right.select(right.correct)
    for call, words in (
        (lambda: gd.influence(net, gd.Records(train.features), queries), "`train`"),
        (
            lambda: gd.influence(net, gd.Records(train.features, train.targets * 5), queries),
            "class",
        ),
        (lambda: gd.influence(net, train, right), "at least one error"),
        (lambda: gd.influence(net, train, queries, method="shapley"), "`method`"),
        (lambda: gd.influence(net, train, train.features), "`queries`"),
        (lambda: gd.influence(net, train, queries).of_query(399), "`query`"),
    ):
        with pytest.raises(InputError, match=words):
            call()
    alone = gd.influence(net, train, gd.Records(queries.features[:20]))
    assert alone.p_value == 1.0
    assert "reference" in alone.notes[0]


def test_held_out_rows_from_the_same_source_score_as_often():
    """Of 300 pairs of samples from one source, few look apart at 1 %."""
    draw = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(300):
        scores, strata = torch.randn(700, generator=draw), torch.randint(3, (700,), generator=draw)
        found += exceedance(scores[:500], strata[:500], scores[500:], strata[500:]).p_value <= 0.01
    assert found <= 7


def test_agreement_of_labels_and_answers():
    form = AnswerForm(gd.Records(targets=torch.tensor([0, 2])).task, 3)
    assert form.agreement(torch.tensor([0, 1]), torch.tensor([1])).tolist() == [[0.0], [1.0]]


def test_the_check_speaks_where_rows_are_named_and_proved():
    from gendebug_torch.influences.checks.culprits import (
        no_training_rows_taught_the_errors as check,
    )

    (finding, *_) = check.run(taught(3))
    assert finding.severity is gd.Severity.WARN
    assert "labeler = s4" in finding.summary
    assert check.run(shifted(3))[0].severity is gd.Severity.OK
    assert network()(torch.zeros(1, 4)).shape == (1, 1)


@pytest.mark.parametrize("queries", [1, 2, 7, 20, 200])
def test_the_mean_of_the_nearest_of_each_half_is_that_of_a_sort(queries):
    halves = half_weights(queries, 3, torch.device("cpu"))
    draw = torch.Generator().manual_seed(queries)
    similarities = torch.randn(queries, 50, generator=draw).relu()
    by_sort = [
        similarities[half > 0].sort(0, descending=True).values[:5].mean(0) for half in halves
    ]
    given = similarities.clone()
    torch.testing.assert_close(mean_of_nearest(halves)(given), torch.stack(by_sort, 1))
    assert torch.equal(given, similarities)


def test_the_command_writes_a_sheet_and_takes_checkpoints_of_the_training(tmp_path, capsys):
    words = ["--out", str(tmp_path / "out"), "--schema", str(tmp_path / "schema.yaml")]
    words += ["--model", "tests.contract.plants_influence:network"]
    for name, part in taught(0).items():
        if isinstance(part, gd.Records):
            table = part.features.assign(
                labeler=part.metadata["labeler"], label=part.targets.numpy()
            )
            table.to_csv(tmp_path / f"{name}.csv", index=False)
            words += [f"--{name}", str(tmp_path / f"{name}.csv")]
    (tmp_path / "schema.yaml").write_text("target: label\nsource: labeler\n")
    save_file(network().state_dict(), tmp_path / "end.safetensors")
    assert main(["influence", *words, "--checkpoints", str(tmp_path / "end.safetensors")]) == 1
    assert "labeler = s4" in capsys.readouterr().out
    sheet = pd.read_csv(tmp_path / "out/influence.csv")
    assert (sheet["source"] == "s4").mean() > 0.8
    assert main(["influence", *words, "--checkpoints", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err
