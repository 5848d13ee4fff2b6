"""Inputs of several parts: one part is changed, the others stay."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gendebug_torch import Severity, collect, diagnose
from gendebug_torch.modality.parts import Composite, composite_of
from tests.contract.plants_modality import Corner, images


class Parts(Dataset):
    """Rows of tensors, as mappings or as tuples."""

    def __init__(self, parts, targets, keyed=True):
        self.parts, self.targets, self.keyed = parts, targets, keyed

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        own = {name: part[row] for name, part in self.parts.items()}
        if self.keyed:
            return own | {"labels": self.targets[row]}
        return tuple(own.values()), self.targets[row]


class ImageAndTable(nn.Module):
    """Which colour is brighter, or how bright a corner is, and a column of a table."""

    def __init__(self, of_image):
        super().__init__()
        self.of_image = of_image

    def forward(self, image, table):
        return self.of_image(image) + 0.1 * table[:, 0]


class TokensUnderMask(nn.Module):
    """Share of tokens from 20 on among those that the mask keeps."""

    def forward(self, input_ids, attention_mask):
        kept = attention_mask.float()
        return 8 * ((input_ids >= 20) * kept).sum(1) / kept.sum(1).clamp(min=1) - 1.2


def red_against_blue(image):
    return 40 * (image[:, 0] - image[:, 2]).mean((1, 2))


def image_and_table(seed, keyed, change=lambda x, y: x, n=200):
    pixels, targets = images(seed, n)
    table = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return Parts({"image": change(pixels, targets), "table": table}, targets, keyed)


def texts(seed, most, n=300):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 2, (n,), generator=generator)
    low = torch.randint(2, 20, (n, 12), generator=generator)
    high = torch.randint(20, 40, (n, 12), generator=generator)
    # The class stands in the second half, which a cut takes away.
    ids = torch.where((torch.arange(12) >= 6) & (targets == 1)[:, None], high, low)
    length = torch.randint(9, 13, (n, 1), generator=generator).clamp(max=most)
    mask = (torch.arange(12) < length).long()
    return Parts({"input_ids": ids * mask, "attention_mask": mask}, targets)


def judged(model, *sides, check):
    names = ("validation", "production")
    loaders = [DataLoader(side, batch_size=64) for side in sides]
    records = {
        name: collect(model, loader, name=name) for name, loader in zip(names, loaders, strict=True)
    }
    return diagnose(model, **records, only=check).findings


@pytest.mark.parametrize("keyed", [True, False], ids=["mapping", "tuple"])
def test_a_change_of_the_image_is_reproduced_beside_its_table(keyed):
    model = ImageAndTable(red_against_blue)
    changed = image_and_table(2, keyed, lambda x, y: x.flip(1))
    (found,) = judged(model, image_and_table(1, keyed), changed, check="shift.reproduced_change")
    assert found.severity is Severity.FAIL
    assert found.subject == "channel_order"
    found.evidence.plot()
    (quiet,) = judged(
        model, image_and_table(1, keyed), image_and_table(3, keyed), check="shift.reproduced_change"
    )
    assert quiet.severity is Severity.OK


def test_a_corner_mark_is_a_shortcut_beside_a_table():
    def marked(pixels, targets):
        pixels[targets == 1, :, -3:, -3:] = 1.0
        return pixels

    (found,) = judged(
        ImageAndTable(Corner()),
        image_and_table(1, True, marked),
        image_and_table(2, True),
        check="attribution.region_shortcut",
    )
    assert found.subject == "lower right corner, class 1"


def test_texts_that_are_cut_are_reproduced_with_their_mask():
    (found,) = judged(TokensUnderMask(), texts(1, 12), texts(2, 7), check="shift.reproduced_change")
    assert found.severity is Severity.FAIL
    assert found.subject.startswith("cut at the end")


def test_checks_of_features_say_that_inputs_of_several_parts_have_none():
    model = ImageAndTable(red_against_blue)
    sides = (image_and_table(1, True), image_and_table(2, True))
    (found,) = judged(model, *sides, check="attribution.convergence")
    assert found.severity is Severity.SKIPPED
    assert "inputs of several parts (image + table)" in found.summary


def test_a_mask_goes_where_padding_goes():
    inputs = texts(1, 12).parts
    whole = composite_of(inputs)
    assert isinstance(whole, Composite)
    cut = whole.replaced(inputs["input_ids"].masked_fill(torch.arange(12) >= 7, 0))
    assert torch.equal(cut.inputs["attention_mask"], (cut.main != 0).long())
    assert torch.equal(whole.inputs["attention_mask"], inputs["attention_mask"])
    rows = whole[torch.tensor([3, 1])]
    assert torch.equal(rows.inputs["attention_mask"], inputs["attention_mask"][[3, 1]])
    assert composite_of(torch.zeros(2, 3)) is None
    assert composite_of((torch.zeros(2, 3), torch.zeros(2, 3))) is None
