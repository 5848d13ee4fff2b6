"""The bill of the drop: exact sums, known shares, nothing where nothing fell, and refusals."""

import json
import math
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gendebug_torch as gd
from gendebug_torch.checks.evidence import png
from gendebug_torch.checks.finding import SHARE_OF_RISE, Cause, Finding, Severity
from gendebug_torch.data.records import Records
from gendebug_torch.data.schema import Schema
from gendebug_torch.diagnosis.apportioning import remedies
from gendebug_torch.diagnosis.apportioning.apportion import apportioned, expected
from gendebug_torch.diagnosis.apportioning.bill import COLUMNS, Bill, BillLine, read_bill
from gendebug_torch.diagnosis.apportioning.remedies import REFIT, Candidate, Regained, preferred
from gendebug_torch.diagnosis.apportioning.shapley import shapley_values
from gendebug_torch.diagnosis.causes import LikelyCause
from gendebug_torch.diagnosis.counterfactuals.changes import whole_change
from gendebug_torch.diagnosis.counterfactuals.metrics import row_metric, weighted_auc
from gendebug_torch.diagnosis.counterfactuals.resampling import blocks_of, resampling_weights
from gendebug_torch.diagnosis.counterfactuals.tilts import fit_tilts
from gendebug_torch.diagnosis.decision import decide
from gendebug_torch.errors import InputError
from gendebug_torch.stats.auc import rank_auc

WEIGHTS = torch.tensor([2.0, -1.5, 1.0, 0.0])
NAMES = ["income", "age", "visits", "noise"]


def network():
    """The rule of the world itself."""
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(WEIGHTS[None])
        layer.bias.zero_()
    return layer


def world(seed, n=3000, *, scale=1.0, moved=0.0, drift=0.0, share=None, regression=False):
    """Rows of the rule, then what serving does to `income`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * n if share else n, 4))
    x[:, 1] += moved
    rule = x @ (WEIGHTS.numpy() + np.array([0.0, 0.0, -drift, 0.0]))
    if regression:
        y = rule + rng.normal(size=len(x))
    else:
        y = (rng.random(len(x)) < 1 / (1 + np.exp(-rule))).astype(int)
    if share:
        wanted = (rng.random(n) < share).astype(int)
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(y == k), (wanted == k).sum()) for k in (0, 1)]
        )
        x, y = x[rows], y[rows]
    x[:, 0] *= scale
    table = pd.DataFrame(x.astype(np.float32), columns=NAMES)
    with torch.no_grad():
        logits = network()(torch.tensor(table.to_numpy()))[:, 0]
    schema = Schema(regression=regression)
    return Records(table, torch.tensor(y), logits, schema=schema)


def likely(cause, subject="", evidence=None, **sides):
    kinds = gd.shift.change_kinds(sides["production"], sides["validation"]) if sides else evidence
    severity = gd.Severity.FAIL
    finding = gd.Finding("planted.cause", cause, severity, "Planted.", subject, evidence=kinds)
    return LikelyCause(gd.Cause(cause), subject, (finding,), (), (subject,) if subject else ())


def billed(causes, validation, production, model=None, **options):
    return apportioned(causes, model or network(), validation, production, **options)


def points(bill):
    return {(line.cause, line.subject): line.points for line in bill.lines}


def sums_up(bill):
    frame = bill.table()
    assert tuple(frame.columns) == COLUMNS
    assert frame["cause"].iloc[-1] == "unexplained"
    assert math.fsum(frame["points"].dropna()) == pytest.approx(bill.total, abs=1e-12)


def test_a_weight_counts_like_copies_of_a_row():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 30, (200,), generator=generator).double()
    positive = torch.rand(200, generator=generator) < 0.4
    copies = torch.randint(0, 4, (200,), generator=generator)
    again = torch.arange(200).repeat_interleave(copies)
    expected = float(rank_auc(scores[again], positive[again]).auc)
    assert float(weighted_auc(scores, positive, copies[:, None].double())) == pytest.approx(
        expected
    )
    sides = world(0), world(1)
    one = torch.ones(3000, 1)
    for name, low, high in (("accuracy", 80, 95), ("log_loss", -0.6, -0.2), ("AUC", 85, 97)):
        metric = row_metric(*sides, name)
        assert low < float(metric.points(sides[0].logits, sides[0].targets, one)) < high


def test_shapley_values_sum_and_do_not_depend_on_the_order_of_players():
    generator = torch.Generator().manual_seed(0)
    table = {}

    def game(coalitions):
        for one in sorted(coalitions, key=sorted):
            table.setdefault(one, torch.rand(3, generator=generator).double())
        return torch.stack([table[one] for one in coalitions])

    found = shapley_values(4, game)
    assert torch.allclose(found.sum(0), table[frozenset(range(4))] - table[frozenset()])
    for order in list(permutations(range(4)))[1:5]:
        renamed = shapley_values(
            4, lambda sets, order=order: game([frozenset(order[i] for i in one) for one in sets])
        )
        assert torch.allclose(renamed, found[list(order)])
    sizes = torch.arange(9).double()

    def pairs(coalitions):
        whole = [float(sizes[list(one)].sum()) + (len({0, 8} & one) == 2) for one in coalitions]
        return torch.tensor(whole, dtype=torch.float64)[:, None]

    many = shapley_values(9, pairs)[:, 0]
    assert torch.allclose(many, sizes + torch.tensor([0.5, *[0.0] * 7, 0.5]).double())


def test_factors_are_found_together_and_only_where_something_moved():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 4000, 2))
    before[:, 1] += 0.8 * before[:, 0]
    after[:, 0] += 0.7
    after[:, 1] += 0.8 * after[:, 0]
    units = [(torch.tensor(before[:, [i]]), torch.tensor(after[:, [i]])) for i in (0, 1)]
    ones = torch.ones(4000, 2), torch.ones(4000, 2)
    tilts = fit_tilts(units, ones)
    ratio = tilts.log_ratio(0, slice(0, 1))[0][:, 0].double().numpy()
    slope = np.polyfit(before[:, 0], ratio, 1)[0]
    assert slope == pytest.approx(0.7, abs=0.08)
    assert float(tilts.log_ratio(1, slice(0, 1))[0].std()) < 0.08


def test_resampling_keeps_groups_together():
    groups = pd.DataFrame({"shop": np.repeat(np.arange(50), 20)})
    records = Records(targets=torch.zeros(1000), metadata=groups, schema=Schema(group="shop"))
    blocks = blocks_of(records, torch.rand(1000))
    weights = resampling_weights(blocks, 4, 0)
    assert int(blocks.max()) == 49
    assert torch.equal(weights[:20], weights[:1].expand(20, 5))
    assert torch.equal(weights[:, 0], torch.ones(1000))


def test_known_shares_are_recovered_and_the_points_sum_to_the_total():
    """The generator's own worlds say what a scale and a drift cost."""
    quality = {}
    for acting in ("", "s", "d", "sd"):
        rows = world(9, 40_000, scale=8.0 if "s" in acting else 1, drift=2.0 * ("d" in acting))
        metric = row_metric(rows, rows, "accuracy")
        quality[acting] = float(metric.points(rows.logits, rows.targets, torch.ones(40_000, 1)))
    skew = (quality[""] - quality["s"] + quality["d"] - quality["sd"]) / 2
    drift = (quality[""] - quality["d"] + quality["s"] - quality["sd"]) / 2
    before, after = world(1), world(2, scale=8.0, drift=2.0)
    sides = {"validation": before, "production": after}
    causes = [likely("train_serve_skew", "income", **sides), likely("concept_drift")]
    bill = billed(causes, before, after, metric="accuracy")
    sums_up(bill)
    found = points(bill)
    assert found["train_serve_skew", "income"] == pytest.approx(skew, abs=0.1 * bill.total)
    assert found["concept_drift", ""] == pytest.approx(drift, abs=0.1 * bill.total)
    assert found["unexplained", ""] == pytest.approx(0.0, abs=1e-9)
    mending = bill.lines[0].remedy if bill.lines[0].subject else bill.lines[1].remedy
    assert mending.low > 0


def test_the_order_of_causes_and_of_rows_does_not_matter():
    before, after = world(1), world(2, scale=8.0, moved=1.0)
    sides = {"validation": before, "production": after}
    causes = [likely("train_serve_skew", "income", **sides), likely("covariate_shift", "age")]
    first = billed(causes, before, after, metric="accuracy")
    other = billed(causes[::-1], before, after, metric="accuracy")
    sums_up(first)
    for key, value in points(first).items():
        assert points(other)[key] == pytest.approx(value, abs=1e-3)
    mixed = before.select(torch.randperm(3000, generator=torch.Generator().manual_seed(0)))
    third = billed(causes, mixed, after, metric="accuracy")
    for key, value in points(first).items():
        assert points(third)[key] == pytest.approx(value, abs=0.05 * abs(first.total) + 0.1)


def test_class_shares_carry_what_they_cost_and_adapting_wins_it_back():
    before, after = world(1), world(2, share=0.9)
    bill = billed([likely("label_shift")], before, after, metric="log_loss")
    sums_up(bill)
    assert bill.lines[0].cause == "label_shift"
    assert bill.lines[0].points == pytest.approx(bill.total, abs=0.03)
    assert bill.lines[0].remedy.helps


def test_quantities_are_billed_in_their_units():
    before, after = world(1, regression=True), world(2, scale=3.0, regression=True)
    sides = {"validation": before, "production": after}
    bill = billed([likely("train_serve_skew", "income", **sides)], before, after)
    sums_up(bill)
    assert bill.metric == "RMSE"
    assert bill.lines[0].points == pytest.approx(bill.total, rel=0.1)
    assert bill.lines[0].remedy.remedy == "mend income"
    assert bill.lines[0].remedy.points == pytest.approx(bill.total, rel=0.1)


def test_leaked_rows_carry_what_they_flatter():
    before, after = world(1), world(2)
    logits, targets = before.logits.clone(), before.targets
    logits[:600] = 9.0 * (2 * targets[:600] - 1)
    flattered = Records(before.features, targets, logits)
    rows = gd.leakage.identical_rows(
        {"train": flattered.features[:600], "validation": flattered.features}
    )
    causes = [likely("split_leakage", evidence=rows)]
    bill = billed(causes, flattered, after, metric="accuracy")
    sums_up(bill)
    assert bill.lines[0].points == pytest.approx(bill.total, abs=1.0)
    assert bill.lines[0].low > 0


def test_what_did_not_fall_is_not_billed():
    carried = []
    for seed in range(12):
        sides = {"validation": world(2 * seed, 1000), "production": world(2 * seed + 1, 1000)}
        causes = [likely("covariate_shift", "age"), likely("label_shift")]
        bill = billed(causes, *sides.values(), metric="accuracy")
        sums_up(bill)
        carried += [line.low > 0 for line in bill.lines[:-1]]
    assert sum(carried) <= 3
    quiet = billed([], *sides.values())
    assert len(quiet.lines) == 1
    assert quiet.sentences()[0].startswith("Nothing fell")


def test_a_cause_without_support_has_no_number():
    """Rows that validation never saw cannot be made of it."""
    before, after = world(1), world(2)
    far = after.features.assign(noise=after.features["noise"] + 9)
    after = Records(far, after.targets, after.logits)
    causes = [likely("covariate_shift", "noise"), likely("concept_drift")]
    bill = billed(causes, before, after, metric="accuracy")
    sums_up(bill)
    assert math.isnan(points(bill)["covariate_shift", "noise"])
    assert math.isnan(points(bill)["concept_drift", ""])
    assert any("validation" in line.reason for line in bill.lines)
    blind = Records(before.features, before.targets, before.logits)
    assert math.isnan(
        points(
            apportioned([likely("train_serve_skew", "age")], None, blind, after, metric="accuracy")
        )["train_serve_skew", "age"]
    )


def test_what_a_stuck_column_costs_needs_the_network_and_is_no_drift():
    before, after = world(1), world(2, scale=0.0)
    causes = [likely("target_leakage", "income", validation=before, production=after)]
    without = apportioned(causes, None, before, after)
    assert list(without.table()["cause"]) == ["target_leakage", "unexplained"]
    assert math.isnan(points(without)["target_leakage", "income"])
    found = points(billed(causes, before, after))
    assert found["target_leakage", "income"] > 0.8 * without.total > 0


@pytest.mark.parametrize(
    ("production", "expected"),
    [
        (lambda side: Records(side.features, logits=side.logits), "no labels"),
        (lambda side: side.select(range(50)), "Label 50 more rows"),
        (lambda side: side.select(side.targets == 1), "two classes"),
        (lambda side: Records(targets=side.targets, features=side.features), "no outputs"),
    ],
)
def test_bad_input_is_refused_with_what_is_needed(production, expected):
    before = world(1)
    with pytest.raises(InputError, match=expected):
        billed([], before, production(world(2)))
    with pytest.raises(InputError, match="RMSE"):
        billed([], before, world(2), metric="RMSE")


def test_a_diagnosis_has_its_bill_in_every_form(tmp_path):
    before, after = world(1, 1200), world(2, 1200, scale=8.0)
    model = network()
    diagnosis = gd.diagnose(model, validation=before, production=after)
    bill = diagnosis.bill
    sums_up(bill)
    assert (bill.lines[0].cause, bill.lines[0].subject) == ("train_serve_skew", "income")
    assert bill.lines[0].low <= bill.total <= bill.lines[0].high
    assert any("points of" in reason for reason in diagnosis.reasons)
    assert "\nBill\n" in str(diagnosis)
    assert "## Bill" in diagnosis.to_markdown()
    diagnosis.write(tmp_path)
    assert 'id="bill"' in (tmp_path / "report.html").read_text()
    stored = json.loads((tmp_path / "bill.json").read_text())
    assert stored["total"] == bill.total
    assert [line["cause"] for line in stored["lines"]][-1] == "unexplained"
    assert isinstance(json.loads((tmp_path / "findings.json").read_text()), list)
    assert png(bill)[:4] == b"\x89PNG"
    alone = gd.diagnosis.bill(
        model, validation=before, production=after, findings=diagnosis.findings, metric="accuracy"
    )
    assert alone.metric == "accuracy"
    assert not bill.expected


def test_a_bill_without_labels_of_production_is_expected_and_marked(tmp_path):
    model, before, after = network(), world(1), world(2, scale=8.0, moved=0.8)
    blind = Records(after.features, logits=after.logits)
    sides = {"validation": before, "production": after}
    causes = [likely("train_serve_skew", "income", **sides), likely("covariate_shift", "age")]
    counted = billed(causes, before, after, metric="accuracy")
    bill = expected(causes, model, before, blind, metric="accuracy")
    sums_up(bill)
    assert bill.expected
    assert "expected without labels" in bill.sentences()[0]
    assert bill.total == pytest.approx(counted.total, abs=2.5)
    for key, value in points(bill).items():
        assert value == pytest.approx(points(counted)[key], abs=2.5)
    # Mending is tried on changed validation; what is fitted to labels of production is not.
    remedies = {
        side: {line.cause: line.remedy for line in of.lines}
        for side, of in (("expected", bill), ("counted", counted))
    }
    mended = [remedies[side]["train_serve_skew"] for side in ("expected", "counted")]
    assert [one.remedy for one in mended] == ["mend income, expected", "mend income"]
    assert mended[0].points == pytest.approx(mended[1].points, abs=2.5)
    assert mended[0].low < mended[0].points < mended[0].high
    assert "none is tried" in remedies["expected"]["covariate_shift"].remedy
    assert "nan" not in str(bill)
    diagnosis = gd.diagnose(model, validation=before, production=Records(after.features))
    assert diagnosis.bill.expected
    diagnosis.write(tmp_path)
    assert read_bill(tmp_path / "bill.json").to_json() == diagnosis.bill.to_json()


@pytest.mark.parametrize(
    ("causes", "words"),
    [
        ([], "none that can be judged without labels"),
        ([likely("concept_drift")], "none that can be judged without labels"),
        ([likely("covariate_shift", "noise")], "outputs that the named causes miss"),
    ],
)
def test_an_expected_bill_is_withdrawn_where_its_assumptions_fail(causes, words):
    after = world(2, scale=8.0)
    with pytest.raises(InputError, match=words):
        expected(causes, network(), world(1), Records(after.features, logits=after.logits))


@pytest.mark.parametrize(
    ("name", "serving", "remedy"),
    [
        ("scaled", lambda x: 0.1 * x, "mend scaled"),
        # Each picture has its own mean: no line of the values undoes it.
        ("contrast", lambda x: 0.1 * x + 0.9 * x.mean((1, 2, 3), True), "mend contrast, expected"),
    ],
)
def test_class_shares_are_billed_beside_a_change_of_pictures(name, serving, remedy):
    """What mending wins back is what the generator's pictures win without the change."""
    generator = torch.Generator().manual_seed(0)

    halves = torch.ones(12, 12)
    halves[:, 6:] = -1

    class Halves(nn.Module):
        def forward(self, x):
            return 100 * (x * halves).mean((1, 2, 3)) - 1

    def pictures(n, share, serving):
        y = (torch.rand(n, generator=generator) < share).long()
        x = 0.5 + (0.1 * y - 0.05)[:, None, None, None] * halves
        x = serving(x + 0.2 * torch.randn(n, 1, 12, 12, generator=generator))
        return Records(x, y, Halves()(x))

    def accuracy(rows):
        ones = torch.ones(len(rows), 1)
        return float(row_metric(rows, rows, "accuracy").points(rows.logits, rows.targets, ones))

    before, after = pictures(1500, 0.5, lambda x: x), pictures(1500, 0.8, serving)
    findings = gd.diagnose(
        Halves(), validation=before, production=after, only="shift.reproduced_change"
    ).findings
    assert findings[0].subject == name
    bill = gd.diagnosis.bill(
        Halves(), validation=before, production=after, findings=findings, metric="accuracy"
    )
    lines = {line.cause: line for line in bill.lines}
    assert set(lines) == {"train_serve_skew", "label_shift", "unexplained"}
    sums_up(bill)
    won = accuracy(pictures(20_000, 0.8, lambda x: x)) - accuracy(pictures(20_000, 0.8, serving))
    mended = lines["train_serve_skew"].remedy
    assert mended.remedy == remedy
    assert mended.points == pytest.approx(won, abs=3.0)
    assert 0 < mended.low < mended.points < mended.high
    # What is said of it is what was done: rows of production with less contrast were not mended.
    said = next(reason for reason in decide([], bill=bill).reasons if "points of" in reason)
    assert ("would win back" in said) == remedy.endswith("expected")


def test_a_change_of_whole_inputs_is_undone_where_it_keeps_them():
    x = torch.rand(100, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    cast = torch.tensor([0.5, -2.0, 3.0])[:, None, None]
    lines = whole_change(lambda x: cast * x + 1, (x, cast * x[:50] + 1))
    assert torch.allclose(lines.undo(lines.apply(x)), x, atol=1e-5)

    def brighter(x):
        return 2 * x

    for apply, live in (
        (lambda x: (2 * x).clamp(0, 1), (2 * x).clamp(0, 1)),
        (lambda x: x.flip(3), x.flip(3)),
        (lambda x: 0 * x + 0.5, 0 * x + 0.5),
        # Production was clipped besides.
        (brighter, brighter(x).clamp(0, 1.5)),
    ):
        assert whole_change(apply, (x, live)).undo is None
    missing = x.clone()
    missing[0] = torch.nan
    assert whole_change(brighter, (missing, brighter(x))).undo is None
    whole = (255 * x).to(torch.uint8)
    assert whole_change(lambda x: x // 2, (whole, whole // 2)).undo is None


def test_a_layer_is_fitted_again_where_that_beats_a_map_of_the_outputs():
    """By a standard error of the difference on the same rows, whatever each of them varies."""
    generator = torch.Generator().manual_seed(0)
    rows, noise = 5 * torch.randn(200, generator=generator), torch.randn(200, generator=generator)
    rows[0] = noise[0] = 0.0
    recalibrate = Candidate("recalibrate", 3 + rows, None, "")
    others = [Candidate("move threshold", 2 + rows, None, "")]
    for more, best in ((0.5, "recalibrate"), (2.0, REFIT), (-1.0, "recalibrate")):
        layer = Candidate(REFIT, 3 + more + rows + noise, None, "none")
        assert preferred([layer, *others, recalibrate]).remedy == best
        assert preferred([layer]).remedy == REFIT
    assert preferred([]) is None
    causes = [likely("concept_drift")]
    bill = billed(causes, world(1), world(2, drift=2.0), metric="accuracy")
    assert bill.lines[0].remedy.remedy == REFIT
    assert bill.best.remedy == REFIT


def test_log_loss_tells_remedies_apart_that_win_as_many_decisions():
    """The order of rows that few decisions turn on: a better layer, no more accurate one yet."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, generator=generator)
    noise[0] = 0.0
    same = torch.zeros(200)
    mend = Candidate("mend income", 3 + same, None, "none")
    recalibrate = Candidate("recalibrate", 3 + same, 1 + same, "")
    for saved, tied, best in ((2, recalibrate, REFIT), (0, recalibrate, "recalibrate")):
        layer = Candidate(REFIT, 2.5 + noise, saved + 0.1 * noise, "")
        assert preferred([tied, layer]).remedy == best
        # Of a remedy whose log loss is not known nothing is held against it.
        assert preferred([tied, layer, mend]).remedy == "mend income"
    better = Candidate("move threshold", 5 + same, 0 + same, "none")
    assert preferred([recalibrate, better, mend]).remedy == "move threshold"
    recent = world(3, n=1500, drift=0.5)
    bill = billed([likely("concept_drift")], world(1), recent, metric="accuracy")
    trial = bill.lines[0].remedy
    assert (trial.remedy, bill.best) == (REFIT, trial)
    assert trial.low < 0 < trial.high


@pytest.mark.parametrize("metric", ["accuracy", "AUC"])
def test_mending_that_cannot_be_undone_is_compared_by_its_log_loss_too(monkeypatch, metric):
    """Half of the values lost: a layer that is fitted again is no less known than mending them."""
    seen = []

    def listening(candidates):
        seen.extend(candidates)
        return preferred(candidates)

    monkeypatch.setattr(remedies, "preferred", listening)
    before, after = world(1), world(2)
    lost = np.random.default_rng(0).random(3000) < 0.5
    after.features.loc[lost, "income"] = 0.7
    with torch.no_grad():
        logits = network()(torch.tensor(after.features.to_numpy()))[:, 0]
    after = Records(after.features, after.targets, logits)
    causes = [likely("train_serve_skew", "income", validation=before, production=after)]
    bill = billed(causes, before, after, metric=metric)
    (mending,) = {id(one): one for one in seen if one.remedy == "mend income, expected"}.values()
    if metric == "AUC":
        assert mending.saved is None
    else:
        assert float(mending.saved[0]) > 5 * float(mending.saved[1:].std()) > 0
        assert bill.best.remedy == "mend income, expected"


@pytest.mark.parametrize("numbers", [{}, {SHARE_OF_RISE: 0.9}])
@pytest.mark.parametrize(("regained", "decision"), [(0.09, "retrain"), (0.01, "redesign")])
def test_a_subgroup_is_retrained_where_recent_rows_win_it_back(regained, decision, numbers):
    trial = Regained("refit last layer", regained, 0.9 * regained, 1.1 * regained, "none")
    line = BillLine("subgroup_failure", "region = harbour", 0.1, 0.09, 0.11, trial)
    rest = BillLine("unexplained", "", 0.0, 0.0, 0.0)
    bill = Bill("accuracy", "hundredths of the accuracy", 0.9, 0.1, 0.09, 0.11, (line, rest))
    causes = [
        LikelyCause(
            cause, subject, (Finding("a.b", cause, Severity.FAIL, "It fell.", subject, numbers),)
        )
        for cause, subject in (
            (Cause.CONCEPT_DRIFT, ""),
            (Cause.SUBGROUP_FAILURE, "region = harbour"),
        )
    ]
    verdict = decide(causes, bill=bill)
    assert verdict.name == decision
    if decision == "retrain":
        assert "region = harbour, to which 100% of the loss goes" in verdict.would_change[0]


@pytest.mark.parametrize(
    ("points", "regained", "words"),
    [
        (2.0, 1.5, "; refit wins back 1.5 (1.4 to 1.6)."),
        (-2.0, 1.5, "; refit wins back 1.5 (1.4 to 1.6)."),
        (2.0, -0.1, "; no remedy that was tried wins it back, refit -0.1 (-0.2 to 0)."),
        (-2.0, -0.1, "; no remedy that was tried helps, refit -0.1 (-0.2 to 0)."),
    ],
)
def test_what_does_not_help_is_not_said_to_win_anything_back(points, regained, words):
    trial = Regained("refit", regained, regained - 0.1, regained + 0.1, "none")
    line = BillLine("concept_drift", "", points, points - 1, points + 1, trial)
    text = str(Bill("accuracy", "hundredths", 90.0, 2.0, 1.0, 3.0, (line,)))
    assert words in " ".join(text.split())
