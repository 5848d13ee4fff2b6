"""Images, series and token ids in words: properties, named changes, and a failure reproduced."""

import math

import pandas as pd
import pytest
import torch

from gendebug_torch import Cause, Finding, Records, Severity, diagnose
from gendebug_torch.diagnosis.causes import likely_causes
from gendebug_torch.errors import InputError
from gendebug_torch.modality.detection import modality_of, properties_of
from gendebug_torch.modality.image import IMAGE, image_properties, unit_images
from gendebug_torch.modality.series import SERIES, series_properties
from gendebug_torch.modality.text import TEXT, padding_ids, token_properties
from gendebug_torch.shift.serving.energy import energy_distance, energy_p_value
from gendebug_torch.shift.serving.reproduction import Side, reproduction
from tests.contract.plants_modality import images, sides


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("features", "name"),
    [
        (torch.zeros(2, 3, 8, 8), "image"),
        (torch.zeros(2, 8, 8, 1, dtype=torch.uint8), "image"),
        (torch.zeros(2, 24, 3), "series"),
        (torch.zeros(2, 24, dtype=torch.int64), "text"),
        (torch.zeros(2, 24), None),
        (torch.zeros(2, 24, dtype=torch.uint8), None),
        (None, None),
    ],
)
def test_the_modality_follows_from_shape_and_type(features, name):
    found = modality_of(features)
    assert (found and found.name) == name


def test_properties_of_a_picture_drawn_by_hand():
    picture = torch.zeros(1, 3, 9, 9)
    picture[0, 0, 6:, 6:] = 0.9
    found = {name: float(value) for name, value in image_properties(picture).items()}
    light = 0.9 * 0.299
    assert found["brightness"] == pytest.approx(light / 9)
    assert found["contrast"] == pytest.approx(light * math.sqrt(8) / 9)
    assert found["brightest pixel"] == pytest.approx(light)
    assert found["red"] == pytest.approx(0.1)
    assert found["blue"] == 0
    assert found["brightness of the lower right"] == pytest.approx(light)
    assert found["brightness of the center"] == 0
    assert found["horizontal center of brightness"] == pytest.approx(7.5 / 9)
    assert found["vertical center of brightness"] == pytest.approx(7.5 / 9)
    assert found["horizontal against vertical edges"] == pytest.approx(0, abs=1e-6)
    assert found["entropy"] == pytest.approx(-(8 / 9 * math.log2(8 / 9) + math.log2(1 / 9) / 9))


def test_colourfulness_by_the_formula_of_hasler_and_suesstrunk():
    picture = torch.rand(1, 3, 6, 6, generator=generator())
    red, green, blue = picture[0].double()
    pairs = torch.stack([(red - green).flatten(), ((red + green) / 2 - blue).flatten()])
    spread, mean = pairs.std(1, correction=0), pairs.mean(1)
    expected = spread.norm() + 0.3 * mean.norm()
    assert float(image_properties(picture)["colorfulness"]) == pytest.approx(float(expected))


def test_storage_of_images_does_not_matter():
    picture = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=generator())
    last = picture.movedim(1, 3).contiguous()
    wide = (picture.int() * 257).to(torch.uint16)
    expected = image_properties(picture.float() / 255)
    for stored in (picture, last, wide):
        for name, values in image_properties(stored).items():
            torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-5)


def test_a_darker_image_is_as_sharp_and_a_blurred_one_is_not():
    picture = torch.rand(4, 1, 16, 16, generator=generator())
    before, darker = (image_properties(x)["sharpness"] for x in (picture, picture * 0.3))
    blurred = next(c for c in IMAGE.changes(picture, picture) if c.name == "blurred 1.2")
    torch.testing.assert_close(darker, before, rtol=1e-4, atol=1e-4)
    assert bool((image_properties(blurred.apply(picture))["sharpness"] < 0.5 * before).all())


def test_rows_exchanged_with_columns_are_no_rotation():
    ramp = torch.linspace(0, 1, 12)[:, None] * torch.linspace(1, 0.2, 12)
    pictures = (ramp + 0.1 * torch.rand(400, 1, 12, 12, generator=generator())).clamp(0, 1)
    live = pictures[200:].transpose(2, 3)
    found = reproduction(Side(pictures[:200]), Side(live), IMAGE, lambda x: x.flatten(1)[:, :20])
    assert found.changes[0].name == "transposed"
    assert not found.rivals


@pytest.mark.parametrize("stored", ["float", "uint8", "channels last", "grey", "one pixel"])
def test_every_change_keeps_shape_type_and_input(stored):
    batch = {
        "float": torch.rand(3, 3, 16, 16, generator=generator()),
        "uint8": torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator()),
        "channels last": torch.rand(3, 16, 16, 3, generator=generator()),
        "grey": torch.rand(3, 1, 9, 7, generator=generator()),
        "one pixel": torch.rand(3, 3, 1, 1, generator=generator()),
    }[stored]
    copy = batch.clone()
    changes = IMAGE.changes(batch, batch.flip(0))
    assert len({change.name for change in changes}) == len(changes)
    for change in changes:
        found = change.apply(batch)
        assert found.shape == batch.shape, change.name
        assert found.dtype == batch.dtype, change.name
        assert bool(unit_images(found).isfinite().all()), change.name
    assert torch.equal(batch, copy)


def test_properties_in_pieces_are_those_of_the_whole(monkeypatch):
    picture = torch.rand(10, 1, 8, 8, generator=generator())
    whole = properties_of(picture, IMAGE)
    monkeypatch.setattr("gendebug_torch.modality.detection._VALUES_AT_ONCE", 3 * 64)
    pd.testing.assert_frame_equal(properties_of(picture, IMAGE), whole, rtol=1e-4, atol=1e-6)


def test_properties_of_a_series():
    steps = torch.arange(10.0)
    series = torch.stack([steps, torch.ones(10)], 1)[None]
    found = {name: float(value) for name, value in series_properties(series).items()}
    assert found["level of channel 0"] == 4.5
    assert found["trend of channel 0"] == 5
    assert found["share of repeated steps of channel 1"] == 1
    series[0, 3, 0] = float("nan")
    assert float(series_properties(series)["missing steps"]) == pytest.approx(1 / 20)


def test_properties_of_token_ids():
    tokens = torch.tensor([[5, 7, 7, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    found = {name: values.tolist() for name, values in token_properties(tokens).items()}
    assert found["length in tokens"] == [4, 0]
    assert found["share of different tokens"] == [0.75, 0]
    assert found["share of the most frequent token"] == [0.5, 0]
    assert (found["first token"], found["last token"]) == ([5, 0], [1, 0])


@pytest.mark.parametrize("padding", [0, 1, 7, 30000])
def test_padding_is_found_and_not_assumed(padding):
    tokens = torch.randint(10, 99, (40, 12), generator=generator())
    lengths = torch.randint(3, 12, (40, 1), generator=generator(1))
    for side in (torch.arange(12), 11 - torch.arange(12)):
        assert padding_ids(torch.where(side < lengths, tokens, padding)) == (padding,)
    assert padding_ids(tokens) == ()
    tokens[:, 0], tokens[:, -1] = 2, 3
    assert padding_ids(tokens) == (), "special tokens at the ends are no padding"


def test_changes_of_token_ids():
    tokens = torch.tensor([[5, 6, 7, 8, 0, 0], [4, 3, 0, 0, 0, 0]])
    short = torch.tensor([[5, 6, 0, 0, 0, 0]])
    changes = {change.name: change.apply(tokens).tolist() for change in TEXT.changes(tokens, short)}
    assert changes["cut at the end"] == [[5, 6, 0, 0, 0, 0], [4, 3, 0, 0, 0, 0]]
    assert changes["cut at the start"] == [[7, 8, 0, 0, 0, 0], [4, 3, 0, 0, 0, 0]]
    assert changes["padding before"] == [[0, 0, 5, 6, 7, 8], [0, 0, 0, 0, 4, 3]]
    assert changes["without first"] == [[6, 7, 8, 0, 0, 0], [3, 0, 0, 0, 0, 0]]
    assert changes["without last"] == [[5, 6, 7, 0, 0, 0], [4, 0, 0, 0, 0, 0]]
    assert changes["reversed"] == [[8, 7, 6, 5, 0, 0], [3, 4, 0, 0, 0, 0]]


def test_energy_distance_by_its_definition():
    left, right = (torch.randn(n, 3, generator=generator(n)).double() for n in (7, 5))
    between = sum(float((x - y).norm()) for x in left for y in right) / 35
    within = [
        sum(float((x - y).norm()) for x in side for y in side) / (len(side) * (len(side) - 1))
        for side in (left, right)
    ]
    assert float(energy_distance(left, right)) == pytest.approx(2 * between - sum(within))


def test_the_energy_test_keeps_its_level():
    p_values = [
        energy_p_value(*torch.randn(60, 4, generator=generator(seed)).split(30), permutations=99)
        for seed in range(100)
    ]
    # 100 uniform p-values: 5 are expected below 5 %, more than 13 with a chance of 0.05 %.
    assert sum(p <= 0.05 for p in p_values) <= 13


def test_a_serving_fault_is_reproduced_with_the_points_it_costs():
    given = sides(3, lambda x: x.flip(1), n=200)
    diagnosis = diagnose(**given, only="shift")
    cause = diagnosis.causes[0]
    assert (cause.cause, cause.subject) == (Cause.TRAIN_SERVE_SKEW, "channel_order")
    assert len(diagnosis.causes) == 1
    assert diagnosis.decision == "fix_data"
    finding = next(f for f in diagnosis.findings if f.check == "shift.reproduced_change")
    assert finding.severity is Severity.FAIL
    assert "red and blue are exchanged" in finding.summary
    assert finding.numbers["points"] == pytest.approx(100, abs=1)
    assert finding.numbers["points_lost"] == pytest.approx(100, abs=1)
    assert "channel" in finding.evidence.plot().get_title() or len(finding.evidence.table()) == 6


def test_labels_of_many_classes_need_no_network():
    own = generator(5)
    y = torch.randint(0, 4, (900,), generator=own)
    waves = torch.sin(torch.arange(20) / 3 + y[:, None])[..., None] + torch.randn(
        900, 20, 2, generator=own
    )
    after = waves[450:].clone()
    after[..., 1] = 1.8 * after[..., 1] + 32
    given = {"validation": Records(waves[:450], y[:450]), "production": Records(after, y[450:])}
    found = diagnose(**given, only="shift.reproduced_change").findings
    assert [f.severity for f in found] == [Severity.WARN]
    assert found[0].subject.split()[1] == "1"


def test_a_reproduced_failure_leads_the_findings_of_its_cause():
    fields = {"cause": Cause.TRAIN_SERVE_SKEW, "summary": "said", "inputs": ("production",)}
    whole = Finding("shift.joint", severity=Severity.FAIL, **fields)
    named = Finding("shift.reproduced_change", severity=Severity.WARN, subject="cut", **fields)
    (cause,) = likely_causes([whole, named])
    assert [f.check for f in cause.findings] == ["shift.reproduced_change", "shift.joint"]


def test_what_cannot_be_told_apart_is_said():
    """Bars that lie symmetrically about the middle look the same mirrored and turned."""
    pixels, _ = images(0, 300)
    both = torch.cat([pixels, pixels.flip(2)])[::2]

    def network(x):
        return x[:, 0].mean((1, 2)) - x[:, 2].mean((1, 2))

    found = reproduction(Side(both), Side(both.flip(3)), IMAGE, network)
    assert {found.changes[0].name, *(c.name for c in found.rivals)} >= {"mirrored", "rotated 180"}


def test_another_share_of_classes_is_no_serving_fault():
    given = sides(8, n=400)
    live = given["production"]
    keep = (live.targets == 1) | (torch.rand(len(live), generator=generator()) < 0.2)
    diagnosis = diagnose(
        **given | {"production": live.select(keep)}, only="shift.reproduced_change"
    )
    assert diagnosis.findings[0].severity is Severity.NOTE


def test_a_series_with_exchanged_channels_and_another_unit():
    walk = torch.randn(400, 24, 3, generator=generator()).cumsum(1)
    walk = walk * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([5.0, 0.0, 1.0])
    walk[:, :, 0] += torch.arange(24.0)

    def network(x):
        return x[:, -1, 0] - x[:, 0, 1]

    before, live = walk[:200], walk[200:]
    for change, name in (
        (lambda x: x[..., [1, 0, 2]], "exchanged 0 1"),
        (lambda x: x * torch.tensor([1.0, 1.0, 1000.0]), "spread 2"),
        (lambda x: x.flip(1), "reversed"),
    ):
        found = reproduction(Side(before), Side(change(live)), SERIES, network)
        named = {found.changes[0].name, *(c.name for c in found.rivals)}
        assert name in named, (name, named)
        assert float(found.high[0]) < 0.3


def test_a_check_that_runs_no_network_reads_properties():
    given = sides(1, lambda x: x * 0.5)
    checked = diagnose(**given, only="shift.ks")
    subjects = {f.subject for f in checked.findings if f.severity is Severity.FAIL}
    assert {"brightness", "brightest pixel"} <= subjects
    assert not [subject for subject in subjects if subject.startswith("feature_")]


@pytest.mark.parametrize("rows", [1, 10])
def test_few_images_are_said_to_be_few(rows):
    given = sides(2, n=200)
    few = given["production"].select(range(rows))
    diagnosis = diagnose(**given | {"production": few}, only="shift.reproduced_change")
    assert diagnosis.findings[0].severity is Severity.NOTE
    assert "fewer than 60 rows" in diagnosis.findings[0].summary


def test_inputs_of_two_shapes_are_not_compared():
    given = sides(2, n=200)
    small = Records(torch.zeros(200, 3, 6, 6), name="production")
    diagnosis = diagnose(**given | {"production": small}, only="shift.reproduced_change")
    assert "different shapes" in diagnosis.findings[0].summary


WAVEFORM = """
from gendebug_torch.modality.modality import Change, Modality

def properties(batch):
    return {"loudness": batch.square().mean(1).sqrt(), "peak": batch.abs().amax(1)}

def changes(validation, production):
    return (Change("gain", "the gain is halved", lambda batch: 0.5 * batch),)

WAVEFORM = Modality("waveform", properties, changes, axes=(2,), shape="[n, t]")
"""


def test_another_package_brings_a_kind_of_input(tmp_path, monkeypatch):
    (tmp_path / "acme_audio.py").write_text(WAVEFORM)
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    entry = (
        "[gendebug_torch.modalities]\nwaveform = acme_audio:WAVEFORM\nwrong = acme_audio:changes\n"
    )
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(tmp_path))

    def loud(x):
        return torch.stack([-x.std(1), x.std(1) - 1], 1)

    before, after = (
        torch.randn(200, 32, generator=generator(seed)) * 2.0 ** (torch.arange(200) % 3)[:, None]
        for seed in (0, 1)
    )
    said = [(x.std(1) > 0.5).long() for x in (before, after)]
    validation, production = (
        Records(x, y, loud(x), name=name, modality="waveform")
        for x, y, name in ((before, said[0], "validation"), (0.5 * after, said[1], "production"))
    )
    only = ["shift.reproduced_change", "attribution.region_shortcut"]
    found = diagnose(loud, validation=validation, production=production, only=only).findings
    summaries = {finding.check: finding.summary for finding in found}
    assert "the gain is halved" in summaries["shift.reproduced_change"]
    assert "have no names" in summaries["attribution.region_shortcut"]
    for name, features, words in (
        ("waveform", torch.zeros(2, 3, 4), r"\[n, t\]"),
        ("sound", before, "text, series, waveform, wrong or table"),
        ("wrong", before, "a Modality of the name 'wrong'"),
    ):
        with pytest.raises(InputError, match=words):
            modality_of(features, name)
