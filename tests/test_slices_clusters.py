"""Clusters of errors against correct rows."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records, Schema, Severity, diagnose
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.errors import InputError
from gendebug_torch.slices import error_clusters
from gendebug_torch.slices.clusters.k_means import _lloyd
from tests.reference import slices as literal

CHECK = {check.name: check for check in all_checks()}["slices.error_clusters"]


def rows(seed, n=6000, share=0.7, d=6):
    """Errors of which a share lies in one corner of two features; elsewhere they are as the correct
    rows."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    error = torch.rand(n, generator=generator) < 0.08
    crowd = error & (torch.rand(n, generator=generator) < share)
    x[crowd, 0] = 2.5 + 0.5 * torch.randn(
        int(crowd.sum()), generator=generator, dtype=torch.float64
    )
    x[crowd, 1] = -2.5 + 0.5 * torch.randn(
        int(crowd.sum()), generator=generator, dtype=torch.float64
    )
    return x, error, crowd


@pytest.mark.parametrize("seed", range(4))
def test_a_cluster_is_described_with_its_share(seed):
    x, error, crowd = rows(seed)
    found = error_clusters(x, error, names=list("abcdef"))
    share, low, high = found.largest_share
    truth = float(crowd.sum() / error.sum())
    assert low - 0.03 <= truth <= high + 0.03
    assert low < share < high
    assert found.descriptions[0].startswith(("a high", "b low"))
    assert {"a high", "b low"} <= {
        word.split(" (")[0] for word in found.descriptions[0].split(", ")
    }
    assert float(found.concentration[0]) > 5
    assert found.is_held_out
    assert int(found.errors.sum()) == pytest.approx(int(error.sum()) / 2, abs=1)
    assert len(found.assignment) == len(x)


def test_errors_like_correct_rows_form_one_cluster():
    ones = [len(error_clusters(*rows(seed, share=0.0)[:2]).descriptions) for seed in range(6)]
    assert ones.count(1) >= 5


def test_the_largest_comes_first_and_all_rows_are_counted():
    x, error, _ = rows(0)
    found = error_clusters(x, error)
    assert found.errors.tolist() == sorted(found.errors.tolist(), reverse=True)
    assert int((found.errors + found.correct).sum()) == pytest.approx(len(x) / 2, abs=2)
    assert float(found.expected.sum()) == pytest.approx(int(found.errors.sum()), rel=0.02)


def test_missing_values_and_constant_columns_distinguish_no_cluster():
    x, error, _ = rows(0)
    x[::3, 2] = float("nan")
    x[:, 3] = 1.0
    found = error_clusters(x, error, names=list("abcdef"))
    assert "c " not in found.descriptions[0]
    assert "d " not in found.descriptions[0]


def test_few_errors_are_counted_where_they_were_fitted():
    x, error, _ = rows(0, n=300)
    assert not error_clusters(x, error).is_held_out


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(4), torch.zeros(4, dtype=torch.bool), "`features`"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.bool), "`features`"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.bool), "`error`"),
        (torch.zeros(4, 2), torch.ones(4, dtype=torch.bool), "`error`"),
    ],
)
def test_bad_input(x, error, words):
    with pytest.raises(InputError, match=words):
        error_clusters(x, error)


def as_records(x, error, unsure):
    targets = torch.randint(0, 2, (len(x),), generator=torch.Generator().manual_seed(0))
    margin = torch.where(unsure, 0.1, 3.0) * torch.where(error, -1.0, 1.0) * (2.0 * targets - 1)
    return Records(
        pd.DataFrame(x.numpy(), columns=list("abcdef")), targets, margin, name="validation"
    )


def test_the_check_names_the_share_that_asks_for_a_redesign():
    x, error, crowd = rows(0)
    (finding,) = CHECK(as_records(x, error, torch.zeros_like(error)))
    assert finding.severity.level >= Severity.WARN.level
    assert finding.numbers["largest_share"] == pytest.approx(
        float(crowd.sum() / error.sum()), abs=0.1
    )
    assert "a high" in finding.subject


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_a_cluster_begin_with_the_group_that_fails(seed):
    """A third of the errors is a group beside the correct rows; the others lie among these."""
    x, error, crowd = rows(seed, n=2500, share=0.35)
    found = error_clusters(x, error, clusters=1)
    assert float(crowd[found.telling[0][:10]].float().mean()) == 1.0
    assert set(found.telling[0].tolist()) == set(error.nonzero()[:, 0].tolist())
    x, error, crowd = rows(seed, share=0.5)
    (finding,) = CHECK(as_records(x, error, torch.zeros_like(error)))
    assert bool(crowd[finding.numbers["error_rows"][:10]].all())


def test_of_many_errors_a_sample_is_put_in_order():
    x, error, crowd = rows(0, n=60_000, share=0.35)
    found = error_clusters(x, error, clusters=1)
    first = found.telling[0]
    assert len(first) == len(first.unique()) == 2000
    assert bool(error[first].all())
    assert float(crowd[first[:10]].float().mean()) == 1.0
    again = error_clusters(x, error, clusters=1)
    assert torch.equal(first, again.telling[0])


def test_two_errors_and_a_row_are_put_in_order():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.9, 0.0]])
    found = error_clusters(x, torch.tensor([True, False, True]))
    assert sorted(torch.cat(found.telling).tolist()) == [0, 2]


def test_a_cluster_of_expected_errors_is_no_alarm():
    """Half of the rows of one corner are wrong, and the model is unsure of exactly these rows."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(8000, 6)))
    corner = torch.from_numpy(rng.random(8000) < 0.1)
    x[corner, :2] += 4.0
    error = torch.from_numpy(rng.random(8000)) < torch.where(corner, 0.45, 0.02)
    (finding,) = CHECK(as_records(x, error, corner))
    assert finding.severity is Severity.OK
    assert finding.numbers["largest_share"] == 0.0
    (finding,) = CHECK(as_records(x, error, torch.zeros_like(corner)))
    assert finding.severity.level >= Severity.WARN.level


def test_errors_of_images_are_a_gallery_of_mistakes():
    generator = torch.Generator().manual_seed(0)
    pixels = 0.5 * torch.rand(800, 3, 8, 8, generator=generator)
    targets = torch.arange(800) % 3
    bright = torch.rand(800, generator=generator) < 0.1
    pixels[bright] += 0.5
    called = torch.where(bright & (targets == 2), 0, targets)
    called[::40] = (called[::40] + 1) % 3
    logits = 8.0 * torch.nn.functional.one_hot(called, 3).float()
    records = Records(pixels, targets, logits, schema=Schema(classes=("cat", "dog", "fox")))
    (found,) = diagnose(validation=records, only="slices.error_clusters").findings
    assert found.severity.level >= Severity.WARN.level
    gallery = found.evidence.examples
    assert next(iter(gallery)) == "fox → cat"
    assert gallery["fox → cat"].shape == (8, 3, 8, 8)
    assert float(gallery["fox → cat"].amin()) >= 0.5
    ax = found.evidence.plot()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(gallery)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_starts_that_move_together_end_where_each_would_alone(k):
    generator = torch.Generator().manual_seed(k)
    points = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    # No point is nearest to the last center of the last start: it stays.
    starts = torch.stack([points[:k], points[20 : 20 + k], points[40 : 40 + k]])
    starts[-1, -1] += 100.0 * (k > 1)
    alone = [literal.moved_centers(points.tolist(), start) for start in starts.tolist()]
    expected = torch.tensor(alone, dtype=torch.float64)
    torch.testing.assert_close(_lloyd(points, starts), expected)
