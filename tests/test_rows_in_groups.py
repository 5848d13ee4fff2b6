"""Rows that come in groups, as visits of patients do: other patients are no shift."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import gendebug_torch as gd
from gendebug_torch import Records, Schema, Severity, diagnose
from gendebug_torch.slices.statistics.groups import discounted
from gendebug_torch.stats.dependence.effective_sample_size import two_sample_group_effects
from tests.sequential import assert_rate


def visits(seed, name, *, patients=100, each=10, unit=1.0):
    """Visits of patients: columns of the patient and of the visit, and a risk of the patient that
    the network does not know."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), each)
    n = len(who)
    patient, visit = rng.normal(size=(patients, 3))[who], rng.normal(size=(n, 3))
    known = patient[:, 0] + visit[:, 0] + 0.5 * patient[:, 1]
    risk = known + 0.5 * rng.normal(size=patients)[who]
    table = pd.DataFrame(np.c_[patient, unit * visit], columns=[*"abc", *"xyz"])
    table["ward"] = rng.choice(list("nesw"), patients)[who]
    return Records(
        table,
        torch.from_numpy((rng.random(n) < 1 / (1 + np.exp(-risk))).astype(np.int64)),
        torch.from_numpy(known / 1.1),
        pd.DataFrame({"patient": [f"{seed}-{i}" for i in who]}),
        Schema(group="patient"),
        name,
    )


def alarms(diagnosis):
    return [f.summary for f in diagnosis.findings if f.severity.level >= Severity.WARN.level]


@pytest.mark.slow
def test_other_patients_are_no_shift():
    def outcome(seed):
        found = diagnose(
            validation=visits(2 * seed, "validation"), production=visits(2 * seed + 1, "production")
        )
        return not alarms(found), alarms(found)

    assert_rate(outcome, itertools.count(), 0.97, 0.7)


def test_what_happened_to_their_visits_is_one():
    found = diagnose(
        validation=visits(0, "validation"), production=visits(1, "production", unit=3.0)
    )
    shifted = [f.subject for f in found.findings if f.check == "shift.ks" and f.severity.level >= 2]
    assert sorted(shifted) == ["x", "y", "z"]


def test_a_column_that_looks_like_a_group_is_taken_for_one():
    """Nobody named the patients, who stand among the features."""
    sides = {}
    for seed, name in enumerate(("validation", "production")):
        part = visits(seed + 1, name)
        table = part.features.assign(patient=part.metadata["patient"].to_numpy())
        sides[name] = Records(table, part.targets, part.logits, name=name)
        assert sides[name].group_column == "patient"
    assert not alarms(diagnose(**sides))


def test_profiles_know_groups_too():
    for seed in range(4):
        sides = [visits(2 * seed + at, name) for at, name in enumerate(("before", "after"))]
        before, after = (gd.profile(side) for side in sides)
        assert not alarms(diagnose(validation=before, production=after, only="shift.ks"))
    later = gd.profile(visits(1, "after", unit=3.0))
    shifted = [f.subject for f in diagnose(validation=before, production=later).findings]
    assert {"x", "y", "z"} <= set(shifted)


def test_a_group_counts_as_one_row_where_its_rows_are_equal_and_as_all_where_they_differ():
    draw = torch.Generator().manual_seed(0)
    ids = torch.arange(100).repeat_interleave(8)
    apart = ids + 100
    own = torch.randn(2, 100, generator=draw).repeat_interleave(8, 1)
    free = torch.randn(2, 800, generator=draw)
    before, after = (torch.stack([own[side], free[side]], 1) for side in (0, 1))
    effects = two_sample_group_effects(before, after, ids, apart)
    assert torch.allclose(effects[:, 0], torch.tensor(8.0).double(), atol=0.1)
    assert effects[:, 1].tolist() == [1.0, 1.0]
    # What the same patients share cancels between two samples of them.
    again = two_sample_group_effects(before, after, ids, ids)
    assert float(again.max()) == 1.0
    # Two of a hundred visits are missing.
    before[:2, 0] = float("nan")
    assert float(two_sample_group_effects(before, after, ids, apart)[0, 0]) > 7


def test_a_design_effect_of_four_halves_the_deviate():
    deviates = torch.tensor([-12.0, -5.0, -1.0, -0.1], dtype=torch.float64)
    halved = discounted(torch.special.log_ndtr(deviates), torch.full((4,), 4.0).double())
    assert torch.allclose(halved, torch.special.log_ndtr(deviates / 2), rtol=1e-9)


@pytest.mark.gpu
def test_groups_count_alike_on_a_device():
    sides = {"validation": visits(0, "validation"), "production": visits(1, "production", unit=3.0)}
    tensors = {
        name: Records(
            torch.from_numpy(side.features[[*"abcxyz"]].to_numpy(copy=True)),
            side.targets,
            side.logits,
            side.metadata,
            side.schema,
            name,
        )
        for name, side in sides.items()
    }
    only = ["shift.ks", "shift.joint", "shift.label_shift", "slices.collapse"]
    known = diagnose(**tensors, only=only)
    found = diagnose(**{name: side.to("cuda") for name, side in tensors.items()}, only=only)
    assert [f.to_dict()["summary"] for f in found.findings] == [
        f.to_dict()["summary"] for f in known.findings
    ]
