"""`shift`: what caps leave out is said, and changes no answer that matters."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Records
from gendebug_torch.shift.checks.concept_drift import labels_follow_the_score_as_before
from gendebug_torch.shift.columns.shared_tables import shared_tables
from gendebug_torch.shift.kinds.label_model import followed_columns, label_pair
from gendebug_torch.shift.scores.score_relation import relation_change
from gendebug_torch.shift.two_sample.ks import ks_two_sample
from gendebug_torch.stats.logit_scaling import affordable_family, fit_affine


def wide(seed, n=600, d=260, turned=1.0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(n, d)), columns=[f"x{i}" for i in range(d)])
    table["code"] = np.where(rng.random(n) < 0.3, "a", "b")
    score = 2.0 * table["x250"] + 2.0 * (table["code"] == "a")
    y = rng.random(n) < 1 / (1 + np.exp(-turned * score.to_numpy() + 0.6))
    logits = torch.from_numpy(score.to_numpy(copy=True)) - 0.6
    return Records(table, torch.from_numpy(y.astype(np.int64)), logits)


def test_labels_of_a_wide_table_are_judged_given_the_columns_that_they_follow():
    before, after = wide(0), wide(1, turned=-1.0)
    columns, labels = shared_tables(after, before), label_pair(before, after)
    followed = followed_columns(columns, labels, ["x7"]).reference
    assert 200 <= len(followed.columns) <= 201
    assert {"x250", "code", "x7"} <= set(followed.columns)
    (finding,) = labels_follow_the_score_as_before.run({"validation": before, "production": after})
    assert "given the 200 columns that they follow most" in finding.summary


def test_ties_in_many_columns_have_the_p_values_of_each_alone_or_a_bound():
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randint(0, 4, (700, 70), generator=generator).double() for _ in range(2)]
    sides[1][:90, 0] = 3.0
    together = ks_two_sample(*sides).conditional_p_value
    alone = torch.cat(
        [ks_two_sample(*(side[:, i] for side in sides)).conditional_p_value for i in range(70)]
    )
    assert torch.equal(together[alone < 0.2], alone[alone < 0.2])
    assert bool((together >= alone - 1e-12).all())
    assert int((together == alone).sum()) >= 50


def test_many_classes_share_one_temperature():
    generator = torch.Generator().manual_seed(0)
    many = 2 * torch.randn(6000, 120, generator=generator, dtype=torch.float64)
    answers = torch.multinomial((many / 1.5).softmax(1), 1, generator=generator)[:, 0]
    fit = fit_affine(many, answers, family="temperature")
    assert float(fit.scale[0]) == pytest.approx(1 / 1.5, rel=0.05)
    z, y = many[:600], answers[:600]
    assert affordable_family(z) == "temperature"
    # Twenty rows for each class.
    assert affordable_family(z[:, :30]) == affordable_family(z[:, 0]) == "bias_corrected"
    assert affordable_family(z[:, :31]) == "temperature"
    assert relation_change(z[:300], y[:300], z[300:], y[300:]).p_value > 0.001
