"""Binary networks as one logit or two."""

import pytest
import torch
from torch import nn

from gendebug_torch import Records
from gendebug_torch.data.task import two_class_logits
from gendebug_torch.errors import InputError
from gendebug_torch.model.binary import PositiveLogit, is_binary, positive_logit


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_two_logits_have_the_probability_of_the_one(shape):
    single = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    double = two_class_logits(single)
    assert double.shape == (5, 2)
    assert torch.allclose(double.softmax(1)[:, 1], single.flatten().sigmoid())
    assert torch.equal(positive_logit(double), single.flatten())
    assert torch.equal(positive_logit(single), single.flatten())


def test_more_classes_stay_as_they_are_and_have_no_positive_logit():
    logits = torch.zeros(4, 3)
    assert two_class_logits(logits) is logits
    with pytest.raises(InputError, match="`logits`"):
        positive_logit(logits)


@pytest.mark.parametrize(("classes", "binary"), [(1, True), (2, True), (3, False)])
def test_a_network_is_binary_by_one_row_or_by_recorded_logits(classes, binary):
    model, x = nn.Linear(4, classes), torch.ones(3, 4)
    assert is_binary(model, Records(x)) is binary
    assert is_binary(model, Records(x, logits=model(x).detach())) is binary
    if binary:
        assert PositiveLogit(model)(x).shape == (3,)
