"""Near duplicates: texts against the exact Jaccard index, rows of numbers against smooth
densities."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Severity, diagnose
from gendebug_torch.errors import InputError
from gendebug_torch.leakage import near_duplicate_rows, near_duplicate_texts
from tests.reference import leakage as literal

WORDS = ["amber", "birch", "cedar", "delta", "ember", "frost", "grove", "harbor", "island"]
WORDS += ["juniper", "kernel", "lagoon", "meadow", "nectar", "onyx", "prairie", "quartz", "river"]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def texts(rng, n, length=14):
    return [" ".join(rng.choice(WORDS, length)) for _ in range(n)]


def test_edited_texts_are_found_and_others_are_not(rng):
    train, validation = texts(rng, 400), texts(rng, 100)
    for row in range(0, 30):
        validation[row] = train[2 * row].replace(train[2 * row].split()[3], "zebra").upper() + "  !"
    validation[30] = train[99]
    found = near_duplicate_texts(train, validation)
    assert set(found.rows.tolist()) <= set(range(30)), "an identical text is not a near duplicate"
    close = [
        row
        for row in range(30)
        if literal.jaccard(train[2 * row].lower(), " ".join(validation[row].lower().split())) >= 0.8
    ]
    assert set(close) == set(found.rows.tolist())
    assert all(
        partner == 2 * row
        for row, partner in zip(found.rows.tolist(), found.partners.tolist(), strict=True)
    )
    for row in found.rows.tolist():
        expected = literal.jaccard(
            train[2 * row].lower(), " ".join(validation[row].lower().split())
        )
        assert float(found.values[row]) == pytest.approx(expected)


@pytest.mark.parametrize("train", [[], [""], ["a", "ab", "é"]])
def test_texts_of_any_length(train):
    found = near_duplicate_texts(train, ["", "a", "something longer", "é"])
    assert len(found.values) == 4
    assert not len(found.rows)


def test_repeated_messages_of_the_real_corpus(shared_data):
    messages = pd.read_parquet(shared_data / "sms_spam" / "sms.parquet")["message"].to_numpy()
    order = np.random.default_rng(0).permutation(len(messages))
    validation, train = messages[order[:300]].tolist(), messages[order[1100:]].tolist()
    found = near_duplicate_texts(train, validation)
    plain = [
        {" ".join(text.lower().split()): None for text in side} for side in (train, validation)
    ]
    shingles = [
        {text.encode()[i : i + 5] for i in range(max(len(text.encode()) - 4, 1))}
        for text in plain[0]
    ]
    expected = set()
    for row, text in enumerate(validation):
        own = " ".join(text.lower().split())
        mine = {own.encode()[i : i + 5] for i in range(max(len(own.encode()) - 4, 1))}
        sizes = (s for s in shingles if 0.8 * len(s) <= len(mine) <= 1.25 * len(s))
        best = max((len(mine & s) / len(mine | s) for s in sizes), default=0.0)
        if own not in plain[0] and best >= 0.8:
            expected.add(row)
    assert expected == set(found.rows.tolist())
    assert expected


@pytest.mark.parametrize("noise", [1e-4, 1e-3])
@pytest.mark.parametrize("kind", ["table", "tensor", "wide tensor"])
def test_noisy_copies_are_found_with_their_originals(rng, noise, kind):
    d = 400 if kind == "wide tensor" else 8
    train, validation = rng.normal(size=(2000, d)), rng.normal(size=(500, d))
    validation[:50] = train[100:150] + noise * rng.normal(size=(50, d))
    sides = [
        pd.DataFrame(side) if kind == "table" else torch.from_numpy(side)
        for side in (train, validation)
    ]
    found = near_duplicate_rows(*sides)
    assert found.rows.tolist() == list(range(50))
    assert found.partners.tolist() == list(range(100, 150))
    assert found.expected < 1e-3


@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_the_expected_share_is_what_smooth_densities_bring(rng, d):
    train, validation = (rng.gamma(2.0, 1.0, (n, d)) for n in (8000, 3000))
    found = near_duplicate_rows(
        pd.DataFrame(train), pd.DataFrame(validation), threshold=0.15, max_rows=3000
    )
    low, high = found.interval(level=0.999)
    assert low <= found.expected * 1.3 + 1e-3
    assert high >= found.expected / 1.3
    assert found.dimension == pytest.approx(d, rel=0.25)


def test_identical_rows_are_left_out_and_copies_of_copies_stay(rng):
    train, validation = rng.normal(size=(1000, 6)), rng.normal(size=(200, 6))
    validation[:10] = train[:10]
    train[500:502] = train[20] + 1e-4
    validation[10] = train[20] - 1e-4
    found = near_duplicate_rows(torch.from_numpy(train), torch.from_numpy(validation))
    assert found.rows.tolist() == [10]
    assert len(found.values) == 190


def test_levels_missing_values_and_times_take_part(rng):
    n = 1500
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "z": np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
            "level": rng.choice(list("abc"), n),
            "seen": pd.Timestamp("2026-01-01")
            + pd.to_timedelta(rng.integers(0, 10**6, n), unit="s"),
            "w": rng.normal(size=n),
        }
    )
    copies = frame[:30].assign(x=lambda f: f["x"] + 1e-4)
    other = copies.assign(level=copies["level"].map({"a": "b", "b": "c", "c": "a"}))
    assert near_duplicate_rows(
        frame[:1200], pd.concat([copies, frame[1200:]], ignore_index=True)
    ).rows.tolist() == list(range(30))
    assert (
        len(
            near_duplicate_rows(
                frame[:1200], pd.concat([other, frame[1200:]], ignore_index=True)
            ).rows
        )
        <= 1
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: near_duplicate_texts(["a"], ["b"], threshold=0.2), "a similarity from 0.5 to 1"),
        (lambda: near_duplicate_rows(torch.zeros(5, 2), pd.DataFrame({"a": [1.0]})), "a mixture"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(InputError, match=words):
        call()


def numbers(rng, n, kind):
    """Independent rows in which coarse columns stand beside continuous ones."""
    x = rng.normal(size=(n, 2))
    counts = {"a": rng.integers(0, 30, n), "b": rng.poisson(3, n), "x": x[:, 0]}
    levels = {"a": rng.choice(list("abcdefgh"), n), "b": rng.choice(list("abcd"), n), "x": x[:, 0]}
    flags = {f"f{i}": rng.integers(0, 2, n) for i in range(6)} | {"x": x[:, 0]}
    mostly_zero = {
        f"z{i}": np.where(rng.random(n) < 0.8, 0.0, rng.lognormal(size=n)) for i in range(5)
    } | {"x": x[:, 0]}
    wide = {f"f{i}": rng.integers(0, 2, n) for i in range(8)} | {"x": x[:, 0], "y": x[:, 1]}
    kinds = {"counts": counts, "levels": levels, "flags": flags, "zeros": mostly_zero, "wide": wide}
    return pd.DataFrame(kinds[kind])


def streets(rng, n):
    towns = ["springfield", "riverside", "fairview", "clinton", "madison"]
    return [
        f"{rng.integers(1, 200)} {rng.choice(WORDS)} street, {rng.choice(towns)}" for _ in range(n)
    ]


def orders(rng, n):
    return [
        f"order {rng.integers(1000, 9999)} shipped on 2026-0{rng.integers(1, 9)}-1{rng.integers(9)}"
        for _ in range(n)
    ]


def products(rng, n):
    parts = ["red blue green black white", "cotton wool linen", "shirt dress jacket coat"]
    return [" ".join(rng.choice(part.split()) for part in parts) + " size M" for _ in range(n)]


def is_alarm(train, validation):
    sides = {
        name: Records(part, name=name)
        for name, part in (("train", train), ("validation", validation))
    }
    findings = diagnose(**sides, only="leakage.near_duplicates").findings
    return any(finding.severity.level >= Severity.WARN.level for finding in findings)


@pytest.mark.parametrize("kind", ["counts", "levels", "flags", "zeros", "wide"])
@pytest.mark.parametrize("n", [500, 2000, 10_000])
def test_independent_rows_of_coarse_columns_are_no_near_duplicates(kind, n):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        assert not is_alarm(numbers(rng, n, kind), numbers(rng, 600, kind))


@pytest.mark.parametrize("kind", ["counts", "zeros", "wide"])
def test_copies_among_rows_of_coarse_columns_are_found(rng, kind):
    train, validation = numbers(rng, 2000, kind), numbers(rng, 600, kind)
    copies = train[:90].copy()
    copies["x"] += 1e-5 * rng.normal(size=90)
    mixed = pd.concat([copies, validation[90:]], ignore_index=True)
    assert is_alarm(train, mixed)


@pytest.mark.parametrize("make", [streets, orders, products], ids=lambda make: make.__name__)
@pytest.mark.parametrize("n", [400, 3000])
def test_independent_short_texts_are_no_near_duplicates(make, n):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        frames = [pd.DataFrame({"text": make(rng, size)}) for size in (n, 300)]
        assert not is_alarm(*frames)


@pytest.mark.parametrize("siblings", [1, 8])
def test_edited_copies_of_texts_are_found(rng, siblings):
    originals = texts(rng, 400)
    edited = [
        [text.replace(text.split()[i % 14], f"zebra{i}", 1) for i in range(siblings)]
        for text in originals[:60]
    ]
    train = originals + [text for copies in edited for text in copies[1:]]
    validation = [copies[0] for copies in edited] + texts(rng, 140)
    assert is_alarm(pd.DataFrame({"text": train}), pd.DataFrame({"text": validation}))
