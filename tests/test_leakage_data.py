"""Leaks that are really there, on real tables, and tables in which there is none."""

import numpy as np
import pandas as pd
import pytest

from gendebug_torch import Cause, Records, Schema, Severity, diagnose
from gendebug_torch.data.inputs.likely_groups import likely_groups


def read(folder, *path):
    return pd.read_parquet(folder.joinpath(*path))


def split(frame, schema, seed=0, share=0.2):
    """A random split, as one would do without thinking."""
    order = np.random.default_rng(seed).permutation(len(frame))
    cut = int(share * len(frame))
    parts = {"validation": order[:cut], "train": order[cut:]}
    return {
        name: Records.from_frame(frame.iloc[rows].reset_index(drop=True), schema, name=name)
        for name, rows in parts.items()
    }


def alarms(sides):
    diagnosis = diagnose(**sides, only="leakage")
    assert diagnosis.worst is not Severity.ERRORED, str(diagnosis)
    return {
        (finding.cause, finding.subject)
        for finding in diagnosis.findings
        if finding.severity.level >= Severity.WARN.level
    }


def leaks(folder, name, target, **schema):
    frame = read(folder, *name)
    return alarms(split(frame, Schema(target=target, **schema)))


def test_bike_sharing_names_both_parts_of_the_sum(shared_data):
    frame = read(shared_data, "bike_sharing_hour", "hour.parquet").astype({"cnt": float})
    found = alarms(split(frame, Schema(target="cnt", ids=("instant",), metadata=("dteday",))))
    assert found == {(Cause.TARGET_LEAKAGE, "casual"), (Cause.TARGET_LEAKAGE, "registered")}


def test_titanic_names_boat_and_body(shared_data):
    found = leaks(shared_data, ("leak_titanic3", "titanic3.parquet"), "survived", ids=("name",))
    assert {subject for cause, subject in found if cause is Cause.TARGET_LEAKAGE} == {
        "boat",
        "body",
    }


def test_credit_card_names_expenditure_and_share(shared_data):
    found = leaks(
        shared_data,
        ("leak_aer_creditcard", "CreditCard.parquet"),
        "card",
        classes=("no", "yes"),
        ids=("rownames",),
    )
    assert found == {(Cause.TARGET_LEAKAGE, "expenditure"), (Cause.TARGET_LEAKAGE, "share")}


@pytest.mark.parametrize("late", [False, True], ids=["minutes", "more than 15 minutes late"])
def test_flights_name_the_departure_delay(shared_data, late):
    frame = read(shared_data, "us_flights_2015_sample", "flights.parquet").dropna(
        subset=["ARR_DELAY"]
    )
    if late:
        frame = frame.assign(ARR_DELAY=(frame["ARR_DELAY"] > 15).astype(int))
    found = alarms(split(frame, Schema(target="ARR_DELAY")))
    assert found == {(Cause.TARGET_LEAKAGE, "DEP_DELAY")}


def test_messages_repeat_across_a_random_split(shared_data):
    sides = split(
        read(shared_data, "sms_spam", "sms.parquet"),
        Schema(target="label", classes=("ham", "spam")),
    )
    diagnosis = diagnose(**sides, only="leakage.duplicates")
    (finding,) = diagnosis.findings
    assert finding.cause is Cause.SPLIT_LEAKAGE
    assert finding.severity.level >= Severity.WARN.level
    seen = set(sides["train"].features["message"])
    assert finding.numbers["shared"] == sum(
        message in seen for message in sides["validation"].features["message"]
    )
    row, partner = finding.numbers["first_rows"][0], finding.numbers["their_training_rows"][0]
    assert (
        sides["validation"].features["message"][row] == sides["train"].features["message"][partner]
    )


def test_houses_sold_twice_are_on_both_sides(shared_data):
    frame = read(shared_data, "kc_house", "kc_house_data.parquet")
    found = alarms(split(frame, Schema(target="price", group="id", metadata=("date",))))
    assert found == {(Cause.SPLIT_LEAKAGE, "id"), (Cause.SPLIT_LEAKAGE, "")}, (
        "the same house is the same row but for its price"
    )


def test_the_house_is_seen_to_be_a_group_without_a_word(shared_data):
    frame = read(shared_data, "kc_house", "kc_house_data.parquet")
    sides = split(frame, Schema(target="price", metadata=("date",)))
    (finding,) = diagnose(**sides, only="leakage.groups").findings
    assert (finding.subject, finding.severity) == ("id", Severity.NOTE)
    assert 0.005 < finding.numbers["share"] < 0.02
    assert "sqft_living" in finding.numbers["constant"]


@pytest.mark.parametrize(
    "path",
    [
        ("adult", "train.parquet"),
        ("german_credit", "german.parquet"),
        ("credit_default_taiwan", "UCI_Credit_Card.parquet"),
    ],
    ids=str,
)
def test_no_group_is_seen_where_there_is_none(shared_data, path):
    assert likely_groups(read(shared_data, *path)) == []


def test_a_random_split_of_the_electricity_market_is_named(shared_data):
    frame = read(shared_data, "elec2", "electricity.parquet").assign(
        moment=lambda f: np.arange(len(f))
    )
    schema = Schema(target="class", classes=("DOWN", "UP"), time="moment", metadata=("date",))
    assert alarms(split(frame, schema)) == {(Cause.SPLIT_LEAKAGE, "moment")}
    late = len(frame) * 4 // 5
    by_time = {
        "train": Records.from_frame(frame[:late], schema, name="train"),
        "validation": Records.from_frame(
            frame[late:].reset_index(drop=True), schema, name="validation"
        ),
    }
    assert alarms(by_time) == set()


def test_light_is_the_shortcut_to_occupancy(shared_data):
    names = {"train": "datatraining", "validation": "datatest", "production": "datatest2"}
    schema = Schema(target="Occupancy", time="date")
    sides = {
        side: Records.from_frame(
            read(shared_data, "occupancy", f"{file}.parquet"), schema, name=side
        )
        for side, file in names.items()
    }
    found = alarms(sides)
    assert (Cause.SHORTCUT_FEATURE, "Light") in found
    assert not any(cause is Cause.TARGET_LEAKAGE for cause, _ in found)


@pytest.mark.parametrize(
    ("name", "target", "schema"),
    [
        (("adult", "train.parquet"), "income", {"classes": ("<=50K", ">50K")}),
        (("german_credit", "german.parquet"), "class", {"classes": (1, 2)}),
        (("credit_default_taiwan", "UCI_Credit_Card.parquet"), "default.payment.next.month", {}),
        (
            ("credit_default_taiwan", "UCI_Credit_Card.parquet"),
            "default.payment.next.month",
            {"ids": ("ID",)},
        ),
    ],
    ids=["adult", "german", "taiwan", "taiwan without id"],
)
def test_no_leak_is_claimed_where_there_is_none(shared_data, name, target, schema):
    assert leaks(shared_data, name, target, **schema) == set()


def test_the_published_split_of_adult_is_clean(shared_data):
    schema = Schema(target="income", classes=("<=50K", ">50K"))
    files = {"train": "train.parquet", "validation": "test.parquet"}
    sides = {
        side: Records.from_frame(read(shared_data, "adult", file), schema, name=side)
        for side, file in files.items()
    }
    assert alarms(sides) == set()
    (finding,) = diagnose(**sides, only="leakage.duplicates").findings
    seen = set(map(tuple, sides["train"].features.astype(str).to_numpy()))
    assert finding.numbers["shared"] == sum(
        tuple(row) in seen for row in sides["validation"].features.astype(str).to_numpy()
    )
