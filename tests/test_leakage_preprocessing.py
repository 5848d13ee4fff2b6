"""`leakage`: encodings that prove which rows they were fitted on, and columns without a fit."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from scipy.stats import rankdata

from gendebug_torch import Records, Severity
from gendebug_torch.leakage import preprocessing_leaks
from gendebug_torch.leakage.checks.preprocessing import preprocessing_is_fitted_on_training_rows

N, CUT = 2000, 1500


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def quantiles(fit, x, points=1000):
    """What a quantile transformer with so many points makes of x."""
    levels = np.linspace(0, 1, points)
    return np.interp(x, np.quantile(fit, levels), levels)


def found(column):
    frame = pd.DataFrame({"x": column})
    fits = preprocessing_leaks(frame[:CUT], frame[CUT:])
    return [(entry.operation, entry.fitted_on) for entry in fits.leaks], fits


RANKS = {
    "ranks": lambda fit, x: rankdata(x) / len(x),
    "grid": lambda fit, x: (rankdata(x) - 1) / (len(x) - 1),
    "normal scores": lambda fit, x: ndtri((rankdata(x) - 0.5) / len(x)),
    "1000 quantiles": quantiles,
    "float32": lambda fit, x: quantiles(fit, x).astype(np.float32),
}


@pytest.mark.parametrize("how", RANKS)
def test_ranks_over_both_sides_are_decisive(rng, how):
    x = rng.lognormal(size=N)
    kinds, fits = found(RANKS[how](x, x))
    assert kinds == [("transformed to ranks or quantiles", ("train", "validation"))]
    assert fits.leaks[0].p_value < 1e-9
    assert fits.leaks[0].error < fits.leaks[0].train_error


def test_quantiles_of_training_alone_are_clean(rng):
    x = rng.lognormal(size=N)
    assert found(quantiles(x[:CUT], x))[1].clean[0].operation == "transformed to ranks or quantiles"


def test_ranks_within_validation_are_decisive(rng):
    x = rng.lognormal(size=N)
    column = np.concatenate([rankdata(x[:CUT]) / CUT, rankdata(x[CUT:]) / (N - CUT)])
    assert found(column)[0] == [("transformed to ranks or quantiles", ("validation",))]


@pytest.mark.parametrize("share", [False, True], ids=["counts", "shares"])
def test_frequencies_over_both_sides_are_decisive(rng, share):
    level = rng.zipf(1.6, N).clip(max=60)
    counts = pd.Series(level).map(pd.Series(level).value_counts()).to_numpy()
    assert found(counts / N if share else counts)[0] == [
        ("encoded by frequencies", ("train", "validation"))
    ]
    own = pd.Series(level).map(pd.Series(level[:CUT]).value_counts()).to_numpy()
    assert found(own / CUT if share else own)[1].clean[0].operation == "encoded by frequencies"


def test_a_list_of_levels_with_places_that_only_validation_fills_is_decisive(rng):
    level = rng.zipf(1.3, N)
    assert found(pd.factorize(level, sort=True)[0])[0] == [
        ("encoded by a list of levels", ("train", "validation"))
    ]
    known = {value: place for place, value in enumerate(np.unique(level[:CUT]))}
    assert not found(np.array([known.get(value, -1) for value in level]))[0]


def test_a_vocabulary_with_terms_that_only_validation_holds_is_decisive(rng):
    words = rng.zipf(1.2, (N, 6)).clip(max=5000)
    terms = {word: place for place, word in enumerate(np.unique(words))}
    counts = np.zeros((N, len(terms)))
    for row, said in enumerate(words):
        for word in said:
            counts[row, terms[word]] += 1
    frame = pd.DataFrame(counts).rename(columns=str)
    (entry,) = preprocessing_leaks(frame[:CUT], frame[CUT:]).leaks
    assert entry.operation == "encoded by a vocabulary"
    seen = frame.loc[:, (frame[:CUT] != 0).any()]
    assert not preprocessing_leaks(seen[:CUT], seen[CUT:]).leaks
    (finding,) = preprocessing_is_fitted_on_training_rows(
        Records(frame[:CUT]), Records(frame[CUT:].reset_index(drop=True))
    )
    assert finding.severity is Severity.FAIL
    assert "of its entries do not occur in training" in finding.summary


def test_ids_of_customers_are_no_list(rng):
    customer = rng.integers(0, 300, N)
    by_group = np.argsort(rng.permutation(300)[customer], kind="stable")
    joined = np.sort(rng.integers(0, 400, N))
    for column in (customer[by_group], joined, rng.permutation(N), np.arange(N)):
        assert not found(column)[0]


@pytest.mark.parametrize("seed", range(25))
def test_nothing_is_claimed_of_columns_that_nobody_fitted(seed):
    rng = np.random.default_rng(seed)
    n = [300, 2000, 8000][seed % 3]
    level = rng.zipf(1.5, n).clip(max=300)
    frame = pd.DataFrame(
        {
            "uniform": rng.random(n),
            "normal": rng.normal(size=n),
            "place": np.linspace(0.1, 0.9, n),
            "age": rng.integers(17, 91, n),
            "visits": rng.poisson(4.0, n),
            "spread": rng.zipf(1.5, n).clip(max=10**6),
            "catalogue": rng.choice(400, n, p=rng.dirichlet(np.full(400, 0.3))),
            "rare": rng.random(n) < 2 / n,
            "mark": (level == 300).astype(float),
            "hour": rng.integers(0, 24, n),
        }
    )
    order = rng.permutation(n) if seed % 2 else np.arange(n)
    cut = n * 3 // 4
    fits = preprocessing_leaks(frame.iloc[order[:cut]], frame.iloc[order[cut:]])
    assert not fits.leaks, fits.table()
