"""What checks read in embeddings: joint shift, clusters of errors, copies, wrong labels."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from gendebug_torch import Records, Severity, diagnose
from gendebug_torch.leakage.pictures.near_duplicate_images import near_duplicate_images
from gendebug_torch.modality.image import image_key
from gendebug_torch.shift.embeddings.embedding_shift import embedding_shift
from gendebug_torch.shift.quality.wrong_class import wrong_class
from gendebug_torch.stats.embeddings.projection import principal_components


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sides(seed=0, n=400, e=80, k=4):
    """Rows of k classes, their embedding, a property that says nothing, and right answers."""
    made = []
    centers = 3 * torch.randn(k, e, generator=generator(99))
    for side in range(2):
        own = generator(2 * seed + side)
        y = torch.randint(k, (n,), generator=own)
        embedding = centers[y] + torch.randn(n, e, generator=own)
        logits = 4.0 * torch.nn.functional.one_hot(y, k) + torch.randn(n, k, generator=own)
        words = pd.DataFrame({"brightness": torch.rand(n, generator=own).numpy()})
        fields = {"properties": words, "embedding": embedding, "modality": "image"}
        made.append(Records(targets=y, logits=logits, **fields))
    return made


def finding(check, subject="", **given):
    found = [f for f in diagnose(**given, only=check).findings if f.check == check]
    return next((f for f in found if f.subject == subject), found[0])


def changed(records, **fields):
    kept = {key: getattr(records, key) for key in ("properties", "embedding", "targets", "logits")}
    return Records(**kept | fields, modality="image")


def test_components_keep_distances_and_share_one_frame():
    rows = torch.randn(300, 900, generator=generator())
    few = torch.randn(300, 3, generator=generator(1)) @ torch.randn(3, 900, generator=generator(2))
    rows = 0.01 * rows + few
    found = principal_components([rows[:200], rows[200:]], 3)
    assert [part.shape for part in found] == [(200, 3), (100, 3)]
    near, far = (torch.cdist(part.double()[:9], part.double()[9:50]) for part in (found[0], rows))
    assert float((near / far - 1).abs().mean()) < 0.1
    constant = principal_components([torch.ones(5, 4)], 3)[0]
    assert bool((constant == 0).all())


def test_a_shift_of_the_embedding_is_found_with_the_rows_that_give_it_away():
    before, after = sides()
    moved = after.embedding.clone()
    moved[:40] += 4.0 * torch.randn(80, generator=generator(7)).sign()
    said = finding(
        "shift.joint", "embedding", validation=before, production=changed(after, embedding=moved)
    )
    assert said.severity in (Severity.WARN, Severity.FAIL)
    rows = said.numbers["production_rows"]
    # Two would be by chance: 40 of 400 rows moved.
    assert sum(row < 40 for row in rows) >= 12
    assert len(said.evidence.table()) == 40
    assert "AUC" in said.evidence.plot().get_title()


def test_other_class_shares_are_no_shift_of_the_embedding():
    before, after = sides(1, n=900)
    kept = (after.targets > 1) | (torch.rand(900, generator=generator()) < 0.2)
    few = after.select(kept)
    matched = embedding_shift(
        before.embedding, few.embedding, classes=(before.targets, few.targets)
    )
    plain = embedding_shift(before.embedding, few.embedding)
    assert matched.p_value > 0.002
    assert plain.p_value < 1e-4


def test_clean_embeddings_are_quiet():
    for seed in range(4):
        before, after = sides(seed + 10)
        assert embedding_shift(before.embedding, after.embedding, seed=seed).p_value > 0.002


def test_embeddings_of_two_widths_are_not_compared():
    before, after = sides()
    other = changed(after, embedding=after.embedding[:, :9].clone())
    said = finding("shift.joint", "embedding", validation=before, production=other)
    assert "80 numbers a row before, 9 now" in said.summary


def test_errors_cluster_in_an_embedding_and_not_in_a_property():
    before, _ = sides(n=800)
    hidden = torch.rand(800, generator=generator(3)) < 0.08
    embedding, logits = before.embedding.clone(), before.logits.clone()
    embedding[hidden] += 6.0 * torch.randn(80, generator=generator(4)).sign()
    logits[hidden] = logits[hidden].roll(1, 1)
    bad = changed(before, embedding=embedding, logits=logits)
    said = finding("slices.error_clusters", said_subject(bad), validation=bad)
    assert said.severity in (Severity.WARN, Severity.FAIL)
    assert float(hidden[said.numbers["error_rows"]].float().mean()) > 0.9
    both = diagnose(validation=before, production=bad, only="slices.error_clusters").findings
    notes = [f for f in both if f.severity is Severity.NOTE]
    assert len(notes) == 1
    assert notes[0].summary.startswith("In production: ")
    plain = changed(bad, embedding=None)
    assert finding("slices.error_clusters", validation=plain).severity is Severity.OK


def said_subject(records):
    found = diagnose(validation=records, only="slices.error_clusters").findings
    return next(f.subject for f in found if f.check == "slices.error_clusters")


def test_what_became_what_is_said():
    before, after = sides(n=900, k=4)
    logits = after.logits.clone()
    wrong = (after.targets == 3) & (torch.rand(900, generator=generator(5)) < 0.6)
    logits[wrong] = logits[wrong][:, [0, 3, 2, 1]]
    bad = changed(after, logits=logits)
    found = wrong_class(before, bad)
    assert (found.true, found.called) == ("3", "1")
    said = finding("shift.quality", validation=before, production=bad)
    assert "3 became 1" in said.summary
    assert said.numbers["called"] == "1"
    assert wrong_class(before, after) is None


@pytest.mark.parametrize("kind", ["noise", "shifted", "zoomed", "darker"])
def test_copies_of_pictures_are_found_whatever_was_done_to_them(kind):
    pictures = torch.rand(700, 1, 5, 5, generator=generator())
    pictures = torch.nn.functional.interpolate(pictures, size=32, mode="bicubic")
    copies = pictures[:30]
    copies = {
        "noise": lambda: copies + 0.05 * torch.randn(copies.shape, generator=generator(1)),
        "shifted": lambda: copies.roll((2, -1), (2, 3)),
        "zoomed": lambda: torch.nn.functional.interpolate(copies[:, :, 2:30, 2:30], size=32),
        "darker": lambda: 0.4 * copies + 0.1,
    }[kind]()
    found = near_duplicate_images(
        image_key(pictures[:500]), image_key(torch.cat([pictures[500:], copies]))
    )
    pairs = dict(zip(found.rows.tolist(), found.partners.tolist(), strict=True))
    assert sum(pairs.get(200 + i) == i for i in range(30)) >= 27
    assert sum(row < 200 for row in pairs) <= 1


def discs(n, seed):
    """Pictures that are alike: one disc each, somewhere, of some size, under fine noise."""
    own = generator(seed)
    places, radius = 8 + 8 * torch.rand(n, 2, 1, 1, generator=own), 3 + 3 * torch.rand(n, 1, 1)
    steps = torch.arange(24.0)
    away = (steps[:, None] - places[:, 0]).square() + (steps - places[:, 1]).square()
    return ((away < radius.square()).float() + 0.05 * torch.randn(n, 24, 24, generator=own))[
        :, None
    ]


def test_pictures_that_are_alike_are_no_copies_and_shifted_copies_among_them_are_found():
    torch.manual_seed(0)
    train, fresh = discs(1200, 1), discs(300, 2)
    shifted = torch.nn.functional.pad(train[:40], (0, 2, 1, 0), "replicate")[:, :, :24, 2:]
    keys = [image_key(pictures) for pictures in (train, fresh, shifted)]
    assert len(near_duplicate_images(keys[0], keys[1]).rows) <= 1
    found = near_duplicate_images(keys[0], torch.cat([keys[1], keys[2]]))
    pairs = dict(zip(found.rows.tolist(), found.partners.tolist(), strict=True))
    assert sum(pairs.get(300 + i) == i for i in range(40)) >= 34
    assert sum(row < 300 for row in pairs) <= 1


def small(pictures):
    """Half as large, and enlarged again."""
    half = torch.nn.functional.interpolate(pictures, scale_factor=0.5, mode="area")
    return torch.nn.functional.interpolate(half, size=pictures.shape[2:], mode="bicubic")


def encoded(pictures):
    """Encoded as JPEG of quality 75 and read again."""
    found = []
    for picture in (255 * pictures[:, 0].clamp(0, 1)).to(torch.uint8).numpy():
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=75)
        found.append(torch.from_numpy(np.array(Image.open(stream))))
    return torch.stack(found)[:, None].float() / 255


@pytest.mark.parametrize("change", [small, encoded], ids=lambda change: change.__name__)
@pytest.mark.parametrize("twins", [1, 50])
def test_resized_and_encoded_copies_are_found_also_where_training_holds_copies(change, twins):
    pictures = torch.rand(900, 1, 7, 7, generator=generator(3))
    pictures = torch.nn.functional.interpolate(pictures, size=28, mode="bicubic").clamp(0, 1)
    pictures = pictures + 0.03 * torch.randn(pictures.shape, generator=generator(4))
    train, fresh, copies = pictures[:600], pictures[600:], change(pictures[200:240])
    # A sixth of the training rows that say how near different pictures are.
    train[:twins] = change(train[100 : 100 + twins])
    found = near_duplicate_images(image_key(train), image_key(torch.cat([fresh, copies])))
    pairs = dict(zip(found.rows.tolist(), found.partners.tolist(), strict=True))
    assert sum(pairs.get(300 + i) == 200 + i for i in range(40)) >= 38
    assert sum(row < 300 for row in pairs) <= 1
    assert len(found.different) == 400


def test_pictures_of_few_kinds_are_no_copies():
    kinds = torch.rand(5, 1, 16, 16, generator=generator())
    rows = kinds[torch.randint(5, (600,), generator=generator(1))]
    found = near_duplicate_images(image_key(rows[:400]), image_key(rows[400:]))
    assert len(found.rows) == 0


def test_the_evidence_compares_with_training_pictures():
    pictures = torch.rand(300, 1, 5, 5, generator=generator())
    pictures = torch.nn.functional.interpolate(pictures, size=16, mode="bicubic")
    keys = image_key(pictures)
    found = near_duplicate_images(keys[:200], torch.cat([keys[200:], keys[:9]]))
    assert found.rows.tolist() == list(range(100, 109))
    assert [part.shape for part in found.pictures.values()] == [(8, 1, 16, 16)] * 2
    assert [text.get_text() for text in found.plot().get_yticklabels()] == list(found.pictures)
    none = near_duplicate_images(keys[:200], keys[200:])
    assert not none.pictures
    axes = none.plot()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "validation rows (n = 100)",
        "training among itself",
        "threshold",
    ]


def test_copies_across_splits_are_a_finding():
    pictures = torch.rand(700, 1, 5, 5, generator=generator())
    pictures = torch.nn.functional.interpolate(pictures, size=32, mode="bicubic")
    noisy = pictures[:60] + 0.05 * torch.randn(60, 1, 32, 32, generator=generator(1))
    train = Records(pictures[:500], torch.arange(500) % 2)
    clean = Records(pictures[500:], torch.arange(200) % 2)
    mixed = Records(torch.cat([pictures[560:], noisy]), torch.arange(200) % 2)
    said = finding("leakage.near_duplicates", train=train, validation=mixed)
    assert said.severity in (Severity.WARN, Severity.FAIL)
    assert said.numbers["near"] >= 55
    quiet = finding("leakage.near_duplicates", train=train, validation=clean)
    assert quiet.severity in (Severity.OK, Severity.NOTE)


def test_a_property_that_gives_the_label_away_is_named():
    pixels = torch.rand(600, 3, 8, 8, generator=generator())
    y = torch.arange(600) % 2
    pixels[y == 1, :, 6:, 6:] += 1.0
    said = diagnose(train=Records(pixels, y), only="leakage.columns").findings
    assert any("lower right" in f.subject for f in said if f.severity in ("warn", "fail"))
