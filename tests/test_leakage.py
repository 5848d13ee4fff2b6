"""Leakage: association, missing values, identifiers, shared rows, times and fits, against literal
versions and planted faults."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Schema, Severity, diagnose
from gendebug_torch.errors import InputError
from gendebug_torch.leakage import (
    association,
    identical_rows,
    identifier_columns,
    label_delays,
    missing_value_association,
    preprocessing_leaks,
    shared_values,
    time_overlap,
)
from gendebug_torch.leakage.columns.column_ablation import permutation_ablation, refit_ablation
from gendebug_torch.leakage.columns.linear_combination import exact_linear_combination
from gendebug_torch.leakage.splits.row_hashes import row_hashes
from gendebug_torch.leakage.times.time_overlap import label_agreement
from tests.reference import leakage as literal


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_association_is_that_of_the_definitions(rng):
    n = 400
    classes = rng.integers(0, 3, n)
    frame = pd.DataFrame(
        {"code": (classes + rng.integers(0, 2, n)) % 4, "name": rng.choice(list("abcde"), n)}
    )
    found = association(frame, torch.from_numpy(classes), categorical=("code",))
    for i, column in enumerate(frame):
        levels, wanted = frame[column].tolist(), classes.tolist()
        assert float(found.explained[i]) == pytest.approx(
            max(literal.explained_share(levels, wanted), 0.0), abs=1e-12
        )
        assert float(found.information[i]) == pytest.approx(
            max(literal.mutual_information(levels, wanted), 0.0), abs=1e-12
        )


def test_association_with_a_real_target_is_the_correlation_ratio(rng):
    levels = rng.choice(list("abcde"), 300)
    values = rng.normal(size=300) + 3.0 * (levels == "a")
    found = association(pd.DataFrame({"name": levels}), torch.from_numpy(values))
    assert float(found.explained[0]) == pytest.approx(
        literal.explained_values(levels.tolist(), values.tolist()), abs=1e-12
    )


def test_auc_and_pearson_of_quantities(rng):
    n = 500
    classes = rng.integers(0, 2, n)
    x = rng.normal(size=n) + 1.5 * classes
    frame = pd.DataFrame({"x": x, "few": np.round(x), "flag": classes})
    found = association(frame, torch.from_numpy(classes))
    for i, column in enumerate(frame):
        assert float(found.auc[i]) == pytest.approx(
            literal.auc(frame[column].tolist(), classes.tolist()), abs=0.01
        )
        assert float(found.pearson[i]) == pytest.approx(
            np.corrcoef(frame[column], classes)[0, 1], abs=1e-12
        )
    assert float(found.explained[2]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "bend", [np.square, np.cos, lambda x: np.floor(2 * x) % 2], ids=["square", "cosine", "stripes"]
)
def test_what_pearson_does_not_see_is_seen(rng, bend):
    x = rng.uniform(-2, 2, 4000)
    y = bend(x)
    found = association(torch.from_numpy(x)[:, None], torch.from_numpy(y))
    assert abs(float(found.pearson[0])) < 0.3
    assert float(found.explained[0]) > 0.9


def test_intervals_cover():
    inside = {"explained": 0, "auc": 0, "pearson": 0}
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (200_000,), generator=generator)
    x = torch.randn(200_000, 1, generator=generator) + y[:, None]
    truth = association(x, y)
    rounds = 100
    for i in range(rounds):
        part = slice(1000 * i, 1000 * (i + 1))
        found = association(x[part], y[part])
        for measure in inside:
            low, high = found.interval(measure)
            inside[measure] += bool(low[0] <= getattr(truth, measure)[0] <= high[0])
    assert min(inside.values()) >= 0.88 * rounds, inside


def test_missing_and_infinite_values_do_not_spoil_the_rest(rng):
    x = rng.normal(size=500)
    y = (x > 0).astype(np.int64)
    holes = x.copy()
    holes[::5], holes[1], holes[2] = np.nan, np.inf, -np.inf
    found = association(
        pd.DataFrame({"x": x, "holes": holes, "empty": np.nan, "same": 1.0}), torch.from_numpy(y)
    )
    assert float(found.pearson[1]) == pytest.approx(
        np.corrcoef(holes[np.isfinite(holes)], y[np.isfinite(holes)])[0, 1]
    )
    assert found.explained[2:].tolist() == [0.0, 0.0]
    assert bool(found.pearson[2:].isnan().all())


@pytest.mark.parametrize("real", [False, True])
def test_exact_sums_are_found_with_the_fewest_columns(rng, real):
    values = torch.from_numpy(rng.poisson(5.0, (2000, 6)).astype(np.float64))
    y = values[:, 1] + values[:, 4] if real else (values[:, 1] > 5).double()
    values = values if real else torch.cat([values, 1 - y[:, None]], 1)
    found = exact_linear_combination(values, [f"c{i}" for i in range(values.shape[1])], y)
    assert found is not None
    assert set(found.names) == ({"c1", "c4"} if real else {"c6"})
    assert str(found).startswith("c") if real else "-1" in str(found)
    noisy = values + 0.01 * torch.from_numpy(rng.normal(size=values.shape))
    assert exact_linear_combination(noisy, [f"c{i}" for i in range(values.shape[1])], y) is None


def test_missing_values_that_predict_the_target(rng):
    y = torch.from_numpy(rng.integers(0, 2, 1000))
    missing = torch.stack(
        [
            torch.zeros(1000, dtype=torch.bool),
            torch.from_numpy(rng.random(1000) < 0.3),
            y == 0,
            (y == 0) & (torch.arange(1000) % 9 > 0),
        ],
        1,
    )
    values = torch.where(missing, torch.nan, 1.0)
    tensor = missing_value_association(values, y)
    found = missing_value_association(pd.DataFrame(values.numpy(), columns=list("abcd")), y)
    assert torch.allclose(tensor.p_adjusted, found.p_adjusted, equal_nan=True)
    assert set(found.associated(0.95, 0.8, 1e-6)) == {2, 3}
    assert float(found.correlation[2]) == pytest.approx(-1.0)
    assert list(found.table()["column"])[:2] == ["c", "d"]


def test_identifiers_are_separated_from_quantities(rng):
    n = 1000
    frame = pd.DataFrame(
        {
            "counter": rng.permutation(n),
            "hash": rng.integers(0, 2**62, n),
            "beyond_float": 2**60 + np.arange(n),
            "cents": (rng.lognormal(8.0, 1.5, n) * 1000).astype(int),
            "age": rng.integers(18, 90, n),
            "x": rng.normal(size=n),
            "code": [f"{value:08x}" for value in rng.permutation(n)],
            "country": rng.choice(list("abc"), n),
            "seen": pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.permutation(n), unit="min"),
        }
    )
    assert set(identifier_columns(frame)) == {"counter", "hash", "beyond_float", "code", "seen"}


def test_hashes_are_equal_where_rows_are():
    train = pd.DataFrame(
        {"i": [2**60, 2**60 + 1, 3, 4], "f": [0.0, np.nan, 0.1, 2.0], "t": ["a", None, "c", "d"]}
    )
    validation = pd.DataFrame(
        {"t": ["a", "b", None, "d"], "f": [-0.0, 0.1, np.nan, 2.0], "i": [2**60, 3, 2**60 + 1, 4]}
    )
    found = identical_rows({"train": train, "validation": validation})
    expected = literal.first_match(
        train.values.tolist(), validation[["i", "f", "t"]].values.tolist()
    )
    assert dict(zip(found.rows.tolist(), found.partners.tolist(), strict=True)) == {
        i: row for i, row in enumerate(expected) if row >= 0
    }
    assert len(found.rows) == 3


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("int64", "float64"),
        ("float32", "float64"),
        ("int64", "float32"),
        ("bool", "int64"),
        ("Int64", "float64"),
    ],
)
def test_hashes_do_not_depend_on_the_type(a, b):
    values = [0, 1, 1, 0, 1]
    first, second = row_hashes(
        [
            pd.DataFrame({"x": pd.Series(values).astype(a)}),
            pd.DataFrame({"x": pd.Series(values).astype(b)}),
        ]
    )[0]
    assert torch.equal(first, second)


def test_hashes_of_tensors_see_order_and_every_bit():
    x = torch.zeros(3, 4, 2)
    x[1, 0, 0], x[2, 0, 1] = 1.0, 1.0
    (keys,), _ = row_hashes([x])
    assert len(set(keys.tolist())) == 3
    rows = torch.randint(0, 256, (20_000, 3), generator=torch.Generator().manual_seed(0))
    (keys,), _ = row_hashes([rows])
    assert len(set(keys.tolist())) == len(set(map(tuple, rows.tolist())))


def test_the_table_of_shared_rows(rng):
    train, validation = rng.normal(size=(50, 3)), rng.normal(size=(20, 3))
    validation[3], validation[4] = train[7], train[7]
    sides = {
        "train": torch.from_numpy(train),
        "validation": torch.from_numpy(validation),
        "production": torch.from_numpy(validation[:5]),
    }
    found = identical_rows(sides)
    assert found.shared.tolist() == [[0, 1, 1], [2, 2, 5], [2, 5, 2]]
    assert found.partners.tolist() == [7, 7]
    assert found.table()["share"].max() == 1.0


def test_shared_values_leave_missing_ones_alone():
    found = shared_values(
        {"train": pd.Series(["a", None, "b"]), "validation": pd.Series([None, "b", "c", "b"])},
        kind="groups",
    )
    assert found.rows.tolist() == [1, 3]
    assert found.partners.tolist() == [2, 2]
    assert found.values == ("b",)


def test_agreement_in_time_is_kappa_with_its_permutation_variance():
    first, second = [0, 1, 1, 0, 2, 1, 0], [0, 1, 0, 0, 2, 1, 1]
    kappa, variance = literal.label_agreement(first, second)
    long = torch.tensor(first * 2), torch.tensor(second * 2)
    assert label_agreement(*long)[0] == pytest.approx(kappa)
    m = len(first)
    r = (torch.tensor(first)[:, None] == torch.tensor(second)).double()
    centred = r - r.mean(0) - r.mean(1, keepdim=True) + r.mean()
    assert variance == pytest.approx(float(centred.square().sum()) / (m - 1) / m**2)


def test_time_overlap_reads_order_and_neighbours(rng):
    time = torch.arange(1000, dtype=torch.float64)
    label = torch.from_numpy((np.sin(np.arange(1000) / 30) > 0).astype(np.int64))
    mixed = torch.from_numpy(rng.permutation(1000))
    a, b = mixed[:800], mixed[800:]
    assert time_overlap(time[a], time[b], label[a], label[b]).agreement > 0.9
    by_time = time_overlap(time[:800], time[800:], label[:800], label[800:])
    assert (by_time.overlap, by_time.pairs) == (0.0, 0)
    noise = torch.from_numpy(rng.integers(0, 2, 1000))
    assert abs(time_overlap(time[a], time[b], noise[a], noise[b]).agreement) < 0.2


@pytest.mark.parametrize(
    ("scale", "kind"),
    [
        (lambda both, train: (both - both.mean()) / both.std(), "standardised"),
        (lambda both, train: (both - both.mean()) / both.std(ddof=1), "standardised"),
        (
            lambda both, train: ((both - both.mean()) / both.std()).astype(np.float32),
            "standardised",
        ),
    ],
    ids=["population", "sample", "float32"],
)
def test_scaling_over_both_sides_is_decisive(rng, scale, kind):
    both = rng.gamma(2.0, 3.0, 1000)
    scaled = scale(both, both[:800])
    sides = pd.DataFrame({"x": scaled[:800]}), pd.DataFrame({"x": scaled[800:]})
    (entry,) = preprocessing_leaks(*sides).leaks
    assert (entry.operation, entry.fitted_on) == (kind, ("train", "validation"))
    clean = (both - both[:800].mean()) / both[:800].std()
    found = preprocessing_leaks(pd.DataFrame({"x": clean[:800]}), pd.DataFrame({"x": clean[800:]}))
    assert not found.leaks
    assert [(fit.column, fit.operation) for fit in found.clean] == [("x", "standardised")]
    raw = preprocessing_leaks(pd.DataFrame({"x": both[:800]}), pd.DataFrame({"x": both[800:]}))
    assert raw.undecidable == ("x",)


def test_refitting_on_validation_is_decisive(rng):
    before, after = rng.normal(3.0, 2.0, 800), rng.normal(4.0, 2.0, 200)
    sides = [pd.DataFrame({"x": (side - side.mean()) / side.std()}) for side in (before, after)]
    (entry,) = preprocessing_leaks(*sides).leaks
    assert entry.fitted_on == ("validation",)


def test_ranges_filling_and_target_means_are_decisive(rng):
    n, cut = 1000, 800
    x = rng.normal(size=n)
    x[900] = 9.0
    gap = rng.random(n) < 0.1
    target = rng.integers(0, 2, n)
    level = rng.integers(0, 8, n)
    encoded = pd.Series(target).groupby(level).transform("mean").to_numpy()
    on_train = pd.Series(target[:cut]).groupby(level[:cut]).mean().reindex(level).to_numpy()
    frame = pd.DataFrame(
        {
            "range": (x - x.min()) / (x.max() - x.min()),
            "filled": np.where(gap, x[~gap].mean(), x),
            "encoded": encoded,
            "encoded_on_train": on_train,
            "filled_on_train": np.where(gap, x[:cut][~gap[:cut]].mean(), x),
            "share": rng.beta(2, 2, n).round(2),
            "sign": np.sign(x) / 2 + 0.5,
        }
    )
    found = preprocessing_leaks(
        frame[:cut],
        frame[cut:],
        targets=(torch.from_numpy(target[:cut]), torch.from_numpy(target[cut:])),
    )
    kinds = {entry.column: entry.operation for entry in found.leaks}
    assert kinds == {
        "range": "scaled to a range",
        "filled": "imputed with the mean",
        "encoded": "encoded by target means",
    }
    assert {fit.column: fit.operation for fit in found.clean} == {
        "encoded_on_train": "encoded by target means",
        "filled_on_train": "imputed with the mean",
    }


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_claimed_of_bounded_columns_that_nobody_fitted(seed):
    rng = np.random.default_rng(seed)
    n = 20_000 if seed % 2 else 1000
    angle = rng.integers(0, 86_400, n) * 2 * np.pi / 86_400
    frame = pd.DataFrame(
        {
            "sine": np.sin(angle),
            "cosine": np.cos(angle).astype(np.float32),
            "share": rng.beta(0.3, 0.3, n),
            "percent": rng.random(n).round(3),
            "uniform": rng.random(n),
            "sign": rng.choice([-1.0, 1.0, 0.5], n),
            "noise": rng.normal(size=n),
        }
    )
    found = preprocessing_leaks(frame[: n // 2], frame[n // 2 :])
    assert not found.leaks
    assert not found.clean


def test_times_after_the_label_are_found_in_any_zone(rng):
    known = pd.Series(pd.date_range("2026-01-01", periods=100, freq="h", tz="UTC"))
    frame = pd.DataFrame(
        {
            "berlin": known.dt.tz_convert("Europe/Berlin")
            + pd.to_timedelta(np.where(np.arange(100) < 10, 1, -1), unit="h"),
            "text": (known - pd.Timedelta(days=1)).astype(str),
            "number": np.arange(100),
        }
    )
    late, early = label_delays(frame, known)
    assert (late.column, late.late, late.first_rows) == ("berlin", 10, tuple(range(10)))
    assert (early.column, early.late) == ("text", 0)


def test_performance_without_a_column(rng):
    n = 2000
    x = rng.normal(size=(n, 3))
    y = (x[:, 0] + rng.normal(size=n) > 0).astype(np.int64)
    leaked = np.where(rng.random(n) < 0.02, 1 - y, y).astype(float)
    frame = pd.DataFrame(x, columns=list("abc")).assign(leak=leaked)
    labels = torch.from_numpy(y)
    broken = frame.assign(leak=0.0)
    sides = {
        "validation": (frame[1000:1500], labels[1000:1500]),
        "production": (broken[1500:], labels[1500:]),
    }
    ablation = refit_ablation(["leak"], (frame[:1000], labels[:1000]), sides, order=list("abc"))
    (with_it, without) = ablation.splits["validation"]
    assert with_it.auc > 0.95
    assert 0.7 < without.auc < 0.9
    assert ablation.splits["production"][0].auc < ablation.splits["validation"][0].auc
    through = permutation_ablation(
        ["leak"], sides, lambda table: torch.tensor(table["leak"].to_numpy(copy=True))[:, None]
    )
    assert through.splits["validation"][0].auc > 0.95
    assert abs(through.splits["validation"][1].auc - 0.5) < 0.1
    assert "leak" not in frame.columns or frame["leak"].tolist() == leaked.tolist()


def leaky(rng, n=1500, **schema):
    x = rng.normal(size=(n, 3))
    y = (x[:, 0] + rng.normal(size=n) > 0).astype(np.int64)
    frame = pd.DataFrame(x, columns=list("abc")).assign(fee=y + 0.2 * rng.normal(size=n), y=y)
    sides = {"train": frame[:1000], "validation": frame[1000:].reset_index(drop=True)}
    return {
        name: Records.from_frame(side, Schema(target="y", **schema), name=name)
        for name, side in sides.items()
    }


def test_a_leak_comes_with_the_performance_without_it(rng):
    sides = leaky(rng)
    model = torch.nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 10.0]]))
        model.bias.fill_(-5.0)
    plain, through = (
        next(f for f in diagnose(m, **sides, only="leakage.columns").findings if f.subject == "fee")
        for m in (None, model)
    )
    assert plain.severity is through.severity is Severity.FAIL
    assert plain.numbers["validation_with"] > 0.95 > plain.numbers["validation_without"]
    assert through.numbers["method"] == "permuted through the model"
    assert through.numbers["validation_without"] == pytest.approx(0.5, abs=0.1)


def test_a_causal_column_is_exempt(rng):
    findings = diagnose(**leaky(rng, causal=("fee",)), only="leakage.columns").findings
    assert [finding.severity for finding in findings] == [Severity.OK]
    assert findings[0].numbers["exempt"] == ["fee"]


def test_several_classes_and_several_labels(rng):
    n = 900
    y = rng.integers(0, 3, n)
    frame = pd.DataFrame(
        {"a": rng.normal(size=n), "tells_class_2": (y == 2) + 0.05 * rng.normal(size=n)}
    )
    (finding, _) = diagnose(
        train=Records(frame, torch.from_numpy(y), name="train"), only="leakage.columns"
    ).findings
    assert (finding.cause, finding.subject) == (Cause.TARGET_LEAKAGE, "tells_class_2")
    assert "of class 2" in finding.summary
    labels = np.stack([rng.integers(0, 2, n), y == 2], 1).astype(np.int64)
    many = Records(frame, torch.from_numpy(labels), name="train")
    (finding, _) = diagnose(train=many, only="leakage.columns").findings
    assert (finding.severity, finding.subject) == (Severity.FAIL, "tells_class_2")
    assert finding.summary.startswith("Label 1: tells_class_2 alone explains")


@pytest.mark.parametrize(
    ("frame", "targets"),
    [
        (pd.DataFrame({"a": np.ones(200)}), torch.arange(200) % 2),
        (
            pd.DataFrame({"a": np.tile([0.0, 1.0], 100), "b": "x"}),
            torch.zeros(200, dtype=torch.int64),
        ),
        (
            pd.DataFrame({"a": 2**62 + np.arange(200), "b": np.arange(200) % 2}),
            torch.arange(200) % 2,
        ),
        (
            pd.DataFrame({"a": [None] * 200, "b": [np.inf] * 200}),
            torch.arange(200, dtype=torch.float64),
        ),
        (pd.DataFrame({"a": np.arange(200)}), torch.full((200,), 3.0)),
    ],
    ids=["identical rows", "one class", "ids beyond floats", "nothing but gaps", "constant target"],
)
def test_strange_tables_are_judged_or_named_as_not_judged(frame, targets):
    schema = Schema(regression=targets.is_floating_point())
    sides = {
        name: Records(frame, targets, schema=schema, name=name) for name in ("train", "validation")
    }
    diagnosis = diagnose(**sides, only="leakage")
    assert diagnosis.worst is not Severity.ERRORED, str(diagnosis)


def test_without_a_target_the_split_is_still_judged(rng):
    frame = pd.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)})
    sides = {
        "train": Records(frame, name="train"),
        "validation": Records(frame[:50], name="validation"),
    }
    found = {
        finding.check: finding.severity for finding in diagnose(**sides, only="leakage").findings
    }
    assert found["leakage.duplicates"] is Severity.FAIL
    assert found["leakage.columns"] is Severity.SKIPPED


def test_columns_that_differ_on_the_two_sides(rng):
    train = Records(pd.DataFrame({"a": np.arange(100) / 7, "only_here": 1.0}), name="train")
    validation = Records(
        pd.DataFrame({"a": np.arange(100) / 7, "only_there": 1.0}), name="validation"
    )
    diagnosis = diagnose(train=train, validation=validation, only="leakage.duplicates")
    assert diagnosis.findings[0].numbers["shared"] == 100
    stranger = Records(pd.DataFrame({"z": np.arange(100)}), name="validation")
    (finding,) = diagnose(train=train, validation=stranger, only="leakage.duplicates").findings
    assert finding.severity is Severity.ERRORED
    assert "at least one column that all splits have" in finding.summary


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: association(pd.DataFrame({"a": [1, 2]}), torch.tensor([0])),
            r"`targets`: expected \[n\] with n = 2",
        ),
        (lambda: identical_rows({"train": pd.DataFrame({"a": [1]})}), "at least two splits"),
        (lambda: row_hashes([torch.zeros(2, 3), torch.zeros(2, 4)]), "rows of one shape"),
        (lambda: row_hashes([torch.zeros(2, 3), pd.DataFrame({"a": [1]})]), "a mixture"),
        (
            lambda: exact_linear_combination(torch.zeros(9, 2), ["a"], torch.zeros(9)),
            "d names and n targets",
        ),
        (
            lambda: preprocessing_leaks(torch.zeros(2, 3), torch.zeros(2, 4)),
            "rows of the shape that training has",
        ),
        (
            lambda: label_delays(pd.DataFrame({"a": [1]}), pd.Series(["not a date"])),
            "schema.label_time",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
