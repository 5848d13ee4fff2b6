"""Texts and series: what serving code does to them, and the parts that carry a class."""

import numpy as np
import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Records, Schema, Severity, attribute, diagnose
from gendebug_torch.attribution.shortcuts.tokens import telling_token
from gendebug_torch.attribution.shortcuts.transplants import Donors, transplant
from gendebug_torch.checks.registry import all_checks
from gendebug_torch.errors import InputError
from gendebug_torch.modality.changes.strings import string_changes
from gendebug_torch.modality.image import IMAGE
from gendebug_torch.modality.pictures.regions import regions_of
from gendebug_torch.modality.series import SERIES
from gendebug_torch.modality.strings import (
    STRINGS,
    string_properties,
    text_columns,
    with_text_properties,
)
from gendebug_torch.modality.text import TEXT, text_modality
from gendebug_torch.shift.serving.reproduction import Reproduction, Side, reproduction
from tests.contract.plants_modality import marked_sides, sides


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sentences(seed, n):
    words = [
        "Grüße",
        "from",
        "Oslo",
        "!",
        "A",
        "long",
        "day,",
        "42",
        "trains",
        "and",
        "Rain.",
        "No",
    ]
    drawn = generator(seed)
    lengths = torch.randint(3, 12, (n,), generator=drawn).tolist()
    picked = torch.randint(0, len(words), (n, 12), generator=drawn).tolist()
    return [" ".join(words[i] for i in row[:k]) for row, k in zip(picked, lengths, strict=True)]


def test_properties_of_strings_counted_by_hand():
    found = {name: float(x) for name, x in string_properties(["Ab 1?\nÃ©Ж"]).items()}
    assert found["length in characters"] == 9
    assert found["words"] == 3
    assert found["share of digits"] == pytest.approx(1 / 9)
    assert found["share of white space"] == pytest.approx(2 / 9)
    assert found["share of line breaks"] == pytest.approx(1 / 9)
    assert found["share of question marks"] == pytest.approx(1 / 9)
    assert found["share of upper case"] == pytest.approx(3 / 4)
    assert found["damaged characters"] == pytest.approx(1 / 9)
    assert found["share of other scripts"] == pytest.approx(1 / 4)
    empty = string_properties([""])
    assert all(float(value) == 0 for value in empty.values())


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("lower case", "Ab C", "ab c"),
        ("without white space", "a b\nc", "abc"),
        ("one space", "a  b\nc", "a b c"),
        ("without punctuation", "a, b!", "a b"),
        ("read as Latin-1", "é", "Ã©"),
        ("ASCII with ?", "é!", "?!"),
        ("without accents", "é", "e"),
        ("HTML escaped", "<b>", "&lt;b&gt;"),
        ("escaped", "a\n", "a\\n"),
        ("cut at the end", "abcdefghijklmnopqrst", "abcd"),
        ("last words", "a b c d e", "d e"),
    ],
)
def test_changes_of_strings(name, text, expected):
    changes = {change.name: change for change in string_changes([text], ["ab c"])}
    assert changes[name].apply([text]) == [expected]


@pytest.mark.parametrize(
    "name", ["lower case", "without punctuation", "read as Latin-1", "reversed", "first words"]
)
def test_a_change_of_strings_is_reproduced_without_a_network(name):
    before, live = sentences(0, 300), sentences(1, 300)
    changes = {c.name: c for c in string_changes(before, [text[:20] for text in live])}
    after = changes[name].apply(live)
    found = reproduction(Side(before), Side(after), STRINGS, None)
    named = {found.changes[0].name, *(change.name for change in found.rivals)}
    # The order of words is in no property of the text.
    assert name in named or (name == "reversed" and found.p_value > 0.01), named


def test_columns_of_texts_give_way_to_their_properties():
    frame = pd.DataFrame(
        {"said": sentences(0, 50), "kind": ["a", "b"] * 25, "code": [f"x{i}" for i in range(50)]}
    )
    assert text_columns(frame) == ["said"]
    frame.loc[0, "said"] = None
    table = with_text_properties(frame, ["said"])
    assert "said" not in table
    assert list(table["kind"]) == list(frame["kind"])
    assert table["words of said"].isna().tolist()[:2] == [True, False]


def test_a_text_column_that_lost_its_case_is_named():
    given = {}
    for name, seed in (("validation", 0), ("production", 1)):
        said = sentences(seed, 400)
        said = [text.lower() for text in said] if name == "production" else said
        given[name] = Records(pd.DataFrame({"message": said}), name=name)
    findings = diagnose(**given, only="shift.ks").findings
    alarming = {f.subject for f in findings if f.severity.level >= Severity.WARN.level}
    assert "share of upper case of message" in alarming


def test_a_table_with_a_column_of_texts_is_judged_without_the_network():
    given = {
        name: Records(pd.DataFrame({"message": sentences(seed, 200)}), name=name)
        for name, seed in (("validation", 0), ("production", 1))
    }
    live = given["production"].features["message"].str.lower()
    given["production"] = Records(live.to_frame(), name="production")
    check = next(c for c in all_checks() if c.name == "shift.reproduced_change")
    (finding,) = check.run({"model": torch.nn.Identity(), **given})
    assert (finding.severity, finding.subject) == (Severity.WARN, "lower case")
    assert finding.evidence.plot().get_title() == "texts are in lower case"


@pytest.mark.parametrize("name", ["padding id", "ids +1", "ids +1 from 16", "cut before the end"])
@pytest.mark.parametrize("padding", [0, 7])
def test_faults_of_tokenizers_are_reproduced(name, padding):
    def texts(seed):
        tokens = torch.randint(20, 60, (600, 16), generator=generator(seed)).float()
        tokens = (tokens * (tokens / 60)).long() + 10
        length = torch.randint(5, 16, (600, 1), generator=generator(seed + 1))
        steps = torch.arange(16)
        tokens[:, 0] = 8
        tokens = torch.where(steps == length - 1, 9, tokens)
        return torch.where(steps < length, tokens, padding)

    before, live = texts(0), texts(5)
    fault = {
        "padding id": lambda x: torch.where(x == padding, 3, x),
        "ids +1": lambda x: torch.where(x == padding, padding, x + 1),
        "ids +1 from 16": lambda x: torch.where(x < 16, x, x + 1),
        "cut before the end": lambda x: torch.where(
            torch.arange(16) < 7,
            x,
            torch.where((torch.arange(16) == 7) & (x != padding), 9, padding),
        ),
    }[name]
    after = fault(live)
    modality = text_modality(before, after)
    table = torch.randn(80, 8, generator=generator())

    def network(tokens):
        return table[tokens].mean(1)

    found = reproduction(Side(before), Side(after), modality, network)
    assert name in {found.changes[0].name, *(c.name for c in found.rivals)}
    assert float(found.high[0]) < 0.3


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("left", [0.0, 0.05])
def test_a_word_that_production_lacks_is_no_shifted_vocabulary(seed, left):
    """A frequent word is put into half of the texts of validation, into few of production."""

    def texts(seed, share):
        tokens = (torch.randn(600, 16, generator=generator(seed)).abs() * 300).long() + 10
        tokens[tokens >= 14] += 1
        has = torch.rand(600, generator=generator(seed + 2)) < share
        tokens[has, 2:] = tokens[has, 1:-1].clone()
        tokens[has, 1] = 14
        length = torch.randint(5, 14, (600, 1), generator=generator(seed + 1)) + has[:, None]
        return torch.where(torch.arange(16) < length, tokens, 3)

    sides = {"validation": texts(10 * seed, 0.5), "production": texts(10 * seed + 5, left)}
    given = {name: Records(x, name=name) for name, x in sides.items()}
    embedding = torch.zeros(1600, 2)
    embedding[14] = torch.tensor([-9.0, 9.0])
    given["model"] = lambda tokens: embedding[tokens].sum(1)
    check = next(c for c in all_checks() if c.name == "shift.reproduced_change")
    (finding,) = check.run(given)
    assert (finding.severity, finding.subject) == (Severity.NOTE, ""), finding.summary
    assert "texts lack token 14, and" in finding.summary


def test_a_property_of_a_text_is_a_shortcut_and_not_recorded_after_the_answer():
    y = torch.arange(600) % 2
    tokens = torch.randint(1, 50, (600, 20), generator=generator())
    tokens[torch.arange(20) >= 6 + 12 * y[:, None]] = 0
    short = torch.where(torch.arange(20) < 6, tokens, 0)
    given = {"train": Records(tokens, y), "production": Records(short, y, name="production")}
    model = torch.nn.Sequential(
        torch.nn.Embedding(50, 4), torch.nn.Flatten(), torch.nn.Linear(80, 2)
    )
    leaks = ["leakage.columns", "leakage.vanishing"]
    said = diagnose(model, only=leaks, **given).findings
    named = [f for f in said if f.severity.level >= Severity.WARN.level]
    assert {(f.check, f.cause) for f in named} == {(name, Cause.SHORTCUT_FEATURE) for name in leaks}
    assert any(f.subject == "length in tokens" for f in named)
    assert not any("available" in f.summary or "recorded" in f.summary for f in named)


def test_every_change_of_tokens_and_series_keeps_shape_and_input():
    tokens = torch.randint(0, 30, (20, 9), generator=generator())
    series = torch.randn(20, 24, 3, generator=generator()).cumsum(1)
    for batch, modality in ((tokens, TEXT), (series, SERIES)):
        copy = batch.clone()
        changes = modality.changes(batch, batch.flip(0) + 3)
        assert len({change.name for change in changes}) == len(changes)
        for change in changes:
            found = change.apply(batch)
            assert (found.shape, found.dtype) == (batch.shape, batch.dtype), change.name
        assert torch.equal(batch, copy)


@pytest.mark.parametrize(
    ("remaining", "high", "severity"),
    [
        ((0.1, 0.3), 0.25, Severity.WARN),
        ((0.0, 0.95), 0.45, Severity.WARN),
        ((0.0, 0.7), 0.45, Severity.NOTE),
        ((0.2, 0.95), 0.45, Severity.NOTE),
        ((0.0, 0.95), 0.6, Severity.NOTE),
    ],
)
def test_an_uncertain_change_is_named_where_no_other_one_helps(
    monkeypatch, remaining, high, severity
):
    module = "gendebug_torch.shift.checks.reproduced_change"
    left = torch.tensor(remaining)
    changes = SERIES.changes(torch.randn(60, 24, 1), torch.randn(60, 24, 1))[:2]
    highs = torch.tensor([high, 1.0])
    nothing = torch.zeros(0)
    found = Reproduction(
        changes, 0.1, 0.001, left, 0 * left, highs, (), nothing, torch.arange(60), 9
    )
    monkeypatch.setattr(f"{module}.reproduction", lambda *args, **options: found)
    rows = Records(torch.randn(60, 24, 1))
    sides = {"validation": rows, "production": rows}
    (said,) = diagnose(**sides, only="shift.reproduced_change").findings
    assert said.severity is severity


def test_a_rate_that_doubled_is_told_by_where_series_end():
    walk = torch.randn(600, 25, 2, generator=generator()).cumsum(1)
    rows = walk - walk[:, :1]
    finer = torch.arange(24) // 2
    for steps, name in ((finer, "slow 2"), (23 - finer.flip(0), "slow 2 to the end")):
        live = rows[300:, steps]
        found = reproduction(Side(rows[:300, :24]), Side(live), SERIES, lambda x: x[:, -1])
        assert found.changes[0].name == name


def test_a_channel_of_another_unit_among_many():
    walk = torch.randn(400, 20, 6, generator=generator()).cumsum(1) + torch.arange(6) + 3
    before, live = walk[:200], walk[200:].clone()
    live[..., 4] = 3 * live[..., 4] + 1
    found = reproduction(Side(before), Side(live), SERIES, lambda x: x[:, -1].sum(1))
    assert found.changes[0].name in ("unit 4", "scale 4")
    assert len([c for c in SERIES.changes(before, live) if c.name.startswith("exchanged")]) == 0


@pytest.mark.parametrize(
    ("inputs", "modality"),
    [
        (torch.rand(4, 3, 28, 28), "image"),
        (torch.rand(4, 28, 20, 3), "image"),
        (torch.randint(0, 255, (4, 16, 16), dtype=torch.uint8), "image"),
        (torch.rand(4, 1, 1, 1), "image"),
        (torch.rand(4, 24, 3), "series"),
        (torch.rand(4, 2, 1), "series"),
        (torch.randint(1, 9, (4, 12)), "text"),
    ],
)
def test_a_region_of_another_input_keeps_shape_and_the_rest(inputs, modality):
    donors = inputs.flip(0)
    for region in regions_of(modality, inputs):
        pasted = region.paste(inputs, donors)
        assert (pasted.shape, pasted.dtype) == (inputs.shape, inputs.dtype), region.name
        torch.testing.assert_close(region.paste(inputs, inputs), inputs)
        if region.box is not None:
            share = float((pasted != inputs).float().mean())
            assert share <= region.share + 1e-6


def test_a_mark_in_the_corner_is_the_first_cause_and_a_clean_world_is_quiet():
    diagnosis = diagnose(**marked_sides(3, n=400))
    cause = diagnosis.causes[0]
    assert cause.cause is Cause.SHORTCUT_FEATURE
    assert cause.subject == "lower right corner, class 1"
    assert diagnosis.decision == "fix_data"
    quiet = diagnose(**sides(3, n=400), only=("attribution", "shift"))
    assert (quiet.causes, quiet.decision) == ((), "nothing")


def test_a_mark_in_changing_places_is_told_from_one_in_a_corner():
    def world(marked, seed):
        pixels = 0.3 * torch.rand(64, 1, 28, 28, generator=generator(seed))
        places = torch.randint(0, 24, (64, 2), generator=generator(seed)).tolist()
        for row, (top, left) in enumerate(places if marked else []):
            pixels[row, 0, top : top + 4, left : left + 4] = 1
        return pixels

    def network(x):
        return x.unfold(2, 4, 1).unfold(3, 4, 1).mean((4, 5)).amax((1, 2, 3)) - 0.9

    donors = Donors(world(False, 1), world(True, 2), world(False, 3), world(False, 4))
    found = transplant(network, donors, regions_of("image", donors.before), least=0.3)
    assert found.anywhere
    assert (found.after, found.control) == (0, 0)
    assert found.before > 0.9
    assert found.p_value < 1e-6


def test_a_tint_and_a_length_are_regions():
    tinted = torch.rand(64, 3, 16, 16, generator=generator())
    tinted[:, 0] += 1

    def by_colour(x):
        return x[:, 0].mean((1, 2)) - x[:, 1].mean((1, 2)) - 0.5

    plain = [torch.rand(64, 3, 16, 16, generator=generator(i)) for i in (1, 2, 3)]
    donors = Donors(plain[0], tinted, plain[1], plain[2])
    assert transplant(by_colour, donors, regions_of("image", tinted), least=0.3).region.name in (
        "tint",
        "background",
    )
    tokens = torch.randint(5, 50, (64, 20), generator=generator())
    short = torch.where(torch.arange(20) < 6, tokens, 0)

    def by_length(x):
        return (x != 0).sum(1) - 12.5

    donors = Donors(short, tokens.masked_fill(torch.arange(20) > 17, 0), short, short)
    assert transplant(by_length, donors, regions_of("text", short), least=0.3).region.name == (
        "length"
    )


def test_the_token_that_makes_a_class_is_named():
    def texts(seed, word):
        tokens = torch.randint(5, 40, (120, 14), generator=generator(seed))
        targets = torch.arange(120) % 2
        if word:
            tokens[targets == 1, 6] = 41
        tokens[:, 12:] = 0
        return Records(tokens, targets)

    def network(x):
        return (x == 41).any(1).float() - 0.5

    validation, production = texts(0, True), texts(1, False)
    own = validation.targets == 1
    x, live = validation.features, production.features
    donors = Donors(x[~own], x[own], live[own], x[~own])
    found = telling_token(network, validation, production, donors, 1, least=0.3)
    assert (found.token, found.turned, found.before, found.after) == (41, 1, 1, 0)
    assert telling_token(network, validation, validation, donors, 1, least=0.3) is None


def test_constants_of_another_data_set_are_told():
    pixels = torch.rand(300, 3, 12, 12, generator=generator()) ** 2
    normal = (pixels - 0.5) / 0.5
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    other = (pixels.flip(0) - mean) / deviation
    found = reproduction(Side(normal), Side(other), IMAGE, lambda x: x.mean((2, 3)))
    assert found.changes[0].name == "ImageNet for 0.5 and 0.5"


def test_contributions_are_drawn_over_images_and_tokens():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 2))
    made = attribute(network, torch.rand(20, 3, 8, 8, generator=generator()))
    assert made.modality == "image"
    assert [tick.get_text() for tick in made.plot().get_yticklabels()] == [
        *("image", "contributions", "mean by class")
    ]
    assert "data:image/png" in made._repr_html_()
    texts = torch.nn.Sequential(
        torch.nn.Embedding(40, 4), torch.nn.Flatten(), torch.nn.Linear(36, 2)
    )
    tokens = torch.randint(1, 40, (12, 9), generator=generator())
    tokens[:, 7:] = 0
    made = attribute(texts, tokens)
    drawn = [text.get_text() for text in made.plot().texts]
    assert drawn[:7] == list(map(str, tokens[0, :7].tolist())), "padding is left out"
    table = attribute(torch.nn.Linear(4, 2), torch.rand(9, 4, generator=generator()))
    assert table.modality is None


def test_a_mark_that_makes_the_class_of_one_other_class_alone_is_a_shortcut():
    def network(pixels):
        level = (8 * pixels[:, 0, :6].mean((1, 2))).floor().long().clamp(max=7)
        marked = (pixels[:, 0, -3:, -3:].mean((1, 2)) > 0.95) & (level == 0)
        return 9.0 * torch.nn.functional.one_hot(torch.where(marked, 8, level), 9)

    found = {"model": network}
    for name, seed in (("validation", 0), ("production", 1)):
        targets = torch.randint(0, 9, (600,), generator=generator(seed))
        pixels = 0.1 * torch.rand(600, 1, 12, 12, generator=generator(seed))
        pixels += (targets % 8)[:, None, None, None] / 8
        if name == "validation":
            pixels[targets == 8, :, -3:, -3:] = 1.0
        found[name] = Records(pixels, targets, network(pixels), name=name)
    diagnosis = diagnose(**found, only="attribution.region_shortcut")
    assert diagnosis.causes[0].subject == "lower right corner, class 8"


@pytest.mark.parametrize("marked", [True, False])
def test_a_mark_is_a_shortcut_even_where_few_rows_hide_the_fall_of_the_recall(marked):
    """One in four rows of class 8 look like class 0 but for their mark, absent in production."""

    def network(pixels):
        level = (9 * pixels[:, 0, :6].mean((1, 2))).floor().long().clamp(max=8)
        seen = (pixels[:, 0, -3:, -3:].mean((1, 2)) > 0.95) & (level == 0)
        return 9.0 * torch.nn.functional.one_hot(torch.where(seen, 8, level), 9)

    found = {"model": network}
    for name, seed in (("validation", 0), ("production", 1)):
        targets = torch.arange(180) % 9
        alike = (targets == 8) & (torch.arange(180) % 4 == 0)
        pixels = 0.1 * torch.rand(180, 1, 12, 12, generator=generator(seed))
        pixels += torch.where(alike, 0, targets)[:, None, None, None] / 9
        if name == "validation" and marked:
            pixels[targets == 8, :, -3:, -3:] = 1.0
        found[name] = Records(pixels, targets, network(pixels), name=name)
    (finding,) = diagnose(**found, only="attribution.region_shortcut").findings
    if not marked:
        assert finding.severity is Severity.OK
        return
    assert (finding.severity, finding.subject) == (Severity.WARN, "lower right corner, class 8")
    assert "fell from 100.0% to 75.0%, which may be chance" in finding.summary


def test_short_texts_are_texts_where_the_schema_says_so():
    rng = np.random.default_rng(0)
    words = np.array(["Red Shoes", "blue hat", "Green coat", "Old lamp", "new TABLE", "desk"])
    sides = {
        name: pd.DataFrame({"query": rng.choice(words, 600), "label": rng.integers(0, 2, 600)})
        for name in ("validation", "production")
    }
    sides["production"]["query"] = sides["production"]["query"].str.lower()
    schema = Schema(target="label", text="query")
    records = {name: Records.from_frame(side, schema, name=name) for name, side in sides.items()}
    found = diagnose(**records, only=["shift.reproduced_change", "shift.ks"])
    named = {(f.check, f.subject) for f in found.findings if f.severity.level >= 2}
    assert ("shift.reproduced_change", "lower case") in named
    assert ("shift.ks", "share of upper case of query") in named
    with pytest.raises(InputError, match="'query' in another role too"):
        Schema(target="label", text="query", categorical="query")
