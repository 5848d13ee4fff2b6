"""Inputs as networks take them: tuples, mappings, integers through embeddings, images, groups of
columns, baselines."""

import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch import Records, attribute
from gendebug_torch.errors import InputError, UnsupportedError
from tests.attribution_cases import GRADIENT, OWN, rows, state
from tests.reference import attribution as literal


class Mixed(nn.Module):
    """Numbers, two categorical columns, tokens and a mask."""

    def __init__(self):
        super().__init__()
        self.color, self.shape, self.word = (
            nn.Embedding(4, 3),
            nn.Embedding(5, 2),
            nn.Embedding(20, 6),
        )
        self.place = nn.Embedding(7, 6)
        self.head = nn.Linear(3 + 3 + 2 + 6, 2)

    def forward(self, numbers, codes, tokens, mask=None):
        words = self.word(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        kept = words if mask is None else words * mask[..., None]
        return self.head(
            torch.cat(
                [numbers, self.color(codes[:, 0]), self.shape(codes[:, 1]), kept.tanh().mean(1)], 1
            )
        )


@pytest.fixture
def mixed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Mixed()


def parts(n=9):
    generator = torch.Generator().manual_seed(0)
    codes = torch.stack(
        [torch.randint(4, (n,), generator=generator), torch.randint(5, (n,), generator=generator)],
        1,
    )
    tokens = torch.randint(20, (n, 7), generator=generator)
    return {
        "numbers": rows(n, 3),
        "codes": codes,
        "tokens": tokens,
        "mask": torch.ones(n, 7, dtype=torch.bool),
    }


def batches(inputs, size):
    n = len(inputs["numbers"])
    return [{key: value[i : i + size] for key, value in inputs.items()} for i in range(0, n, size)]


@pytest.mark.parametrize("method", GRADIENT)
def test_a_mapping_with_embeddings_is_attributed_per_token_and_column(mixed, method):
    before = state(mixed)
    options = {"samples": 8} if method in ("gradient_shap", "smooth_grad") else {}
    made = attribute(
        mixed, batches(parts(), 4), method, target=1, unpack=lambda batch: (batch, None), **options
    )
    assert state(mixed) == before
    assert made.values.shape == (9, 3 + 1 + 1 + 7)
    assert made.names[:5] == ("numbers_0", "numbers_1", "numbers_2", "word_0", "word_1")
    assert made.names[-2:] == ("color", "shape")
    assert made.inputs[:, 3:10].tolist() == parts()["tokens"].float().tolist()


def test_integrated_gradients_over_embeddings_are_complete_and_literal(mixed):
    inputs = parts()
    made = attribute(mixed, batches(inputs, 4), target=1, unpack=lambda batch: (batch, None))
    assert float(made.relative_delta.max()) < 0.01
    row = {key: value[:1] for key, value in inputs.items()}

    def from_words(points):
        words = points.reshape(1, 7, 6) + mixed.place(torch.arange(7))
        fixed = [torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 2)]
        return mixed.head(torch.cat([*fixed, words.tanh().mean(1)], 1))[:, 1]

    by_value = literal.integrated_gradients(
        from_words, mixed.word(row["tokens"]).detach().flatten(), torch.zeros(42)
    )
    assert torch.allclose(made.values[0, 3:10], by_value.reshape(7, 6).sum(1), atol=1e-3)


@pytest.mark.parametrize("method", ["kernel_shap", "feature_ablation", "lime"])
def test_methods_without_gradients_replace_the_integers(mixed, method):
    made = attribute(
        mixed,
        batches(parts(), 9),
        method,
        target=1,
        parts=["codes", "numbers"],
        unpack=lambda batch: (batch, None),
    )
    assert made.names == ("numbers_0", "numbers_1", "numbers_2", "codes_0", "codes_1")
    if method == "feature_ablation":
        changed = parts()
        changed["codes"][:, 1] = 0
        with torch.no_grad():
            lost = mixed(**parts())[:, 1] - mixed(**changed)[:, 1]
        assert torch.allclose(made.values[:, 4], lost, atol=1e-5)


def test_a_tuple_and_the_same_in_one_tensor():
    class Two(nn.Module):
        def forward(self, a, b):
            return (a * b).sum(1)

    class One(nn.Module):
        def forward(self, x):
            return (x[:, :3] * x[:, 3:]).sum(1)

    x = rows(8, 6)
    for method in (m for m in OWN if m != "occlusion"):
        options = {"baseline": 0.1}
        two = attribute(
            Two(), [(x[:, :3], x[:, 3:])], method, unpack=lambda batch: (batch, None), **options
        )
        assert torch.allclose(
            two.values, attribute(One(), x, method, **options).values, atol=1e-5
        ), method
        assert two.names[0] == "0_0"


def test_captum_takes_them_too(mixed):
    made = attribute(
        mixed,
        batches(parts(), 4),
        "captum.IntegratedGradients",
        target=1,
        unpack=lambda batch: (batch, None),
    )
    ours = attribute(mixed, batches(parts(), 4), target=1, unpack=lambda batch: (batch, None))
    assert torch.allclose(made.values, ours.values, atol=1e-5)


def test_integers_without_an_embedding_are_refused_by_gradient_methods():
    class Counts(nn.Module):
        def forward(self, x):
            return x.float().sum(1)

    with pytest.raises(InputError, match=r"nn\.Embedding"):
        attribute(Counts(), torch.ones(4, 3, dtype=torch.int64))
    made = attribute(Counts(), torch.ones(4, 3, dtype=torch.int64), "kernel_shap")
    assert torch.allclose(made.values, torch.ones(4, 3), atol=1e-5)


class Eye(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 1),
        )

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("method", [*OWN, "occlusion"])
def test_images(method):
    x = rows(3, 2 * 36).reshape(3, 2, 6, 6)
    options = {"samples": 400} if method in ("kernel_shap", "lime") else {}
    made = attribute(Eye(), x, method, **options)
    assert made.values.shape == x.shape


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 1), (4, 4), (5, 3)])
def test_occlusion_is_that_of_the_paper(window, stride):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Eye()
    x = rows(2, 2 * 36).reshape(2, 2, 6, 6)
    made = attribute(model, x, "occlusion", window=window, stride=stride)
    with torch.no_grad():
        slow = literal.occlusion(lambda p: model(p)[:, 0], x[1], 0.0, window, stride)
    assert torch.allclose(made.values[1], slow, atol=1e-5)


def test_groups_are_features():
    class Product(nn.Module):
        def forward(self, x):
            return x[:, 0] * x[:, 1] + x[:, 2]

    x = rows(6, 3)
    for method in ("kernel_shap", "feature_ablation", "integrated_gradients"):
        made = attribute(Product(), x, method, groups=[5, 5, 9])
        assert made.values.shape == (6, 2)
        expected = torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1)
        assert torch.allclose(made.values, expected, atol=1e-5), method


def test_groups_are_named_by_their_members_and_names_must_fit():
    class Sum(nn.Module):
        def forward(self, x):
            return x.flatten(1).sum(1)

    frame = pd.DataFrame(rows(6, 5).numpy(), columns=["red", "green", "blue", "grey", "size"])
    made = attribute(Sum(), Records(frame), groups=[0, 0, 0, 0, 7])
    assert made.names == ("red + green + blue + 1 more", "size")
    assert attribute(Sum(), rows(6, 3), groups=[4, 4, 1], feature_names=["x", "y"]).names == (
        "x",
        "y",
    )
    for x, names in ((rows(6, 4), ["a", "b"]), (rows(6, 72).reshape(6, 24, 3), ["a", "b", "c"])):
        with pytest.raises(InputError, match=f"`feature_names`: expected {x[0].numel()} names"):
            attribute(Sum(), x, feature_names=names)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_labels_of_any_integer_type_are_class_ids(dtype):
    model = nn.Linear(5, 2)
    x = rows(400)
    batches = list(zip(x.split(50), (x[:, 0] > 0).to(dtype).split(50), strict=True))
    made = attribute(model, batches, target="target")
    assert made.trust.below_probe is not None
    assert torch.equal(made.targets, (x[:, 0] > 0).long())


def test_rows_that_depend_on_their_batch_are_refused():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(UnsupportedError, match="`1` is a BatchNorm1d without running statistics"):
        attribute(model, rows(6))
    assert len(attribute(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), rows(6))) == 6


@pytest.mark.parametrize(
    "baseline",
    [None, "zero", "mean", "median", "sample", 0.5, torch.full((5,), 0.5), torch.full((3, 5), 0.5)],
)
def test_baselines(baseline):
    class Square(nn.Module):
        def forward(self, x):
            return x.square().sum(1)

    x = rows(40, 5)
    made = attribute(Square(), x, baseline=baseline, steps=8)
    start = {"mean": x.mean(0), "median": x.median(0).values}.get(
        baseline if isinstance(baseline, str) else "", baseline
    )
    if isinstance(start, str) or start is None:
        start = torch.zeros(5) if baseline != "sample" else None
    if start is not None:
        start = torch.as_tensor(start)
        start = start.mean(0) if start.ndim == 2 else start
        assert torch.allclose(made.values, x.square() - start.square(), atol=1e-4)
    assert float(made.relative_delta.max()) < 1e-3


def test_blur_leaves_a_flat_image_without_contributions():
    flat = torch.ones(2, 1, 10, 10)
    flat[1, :, 5, 5] = 3.0
    made = attribute(nn.Sequential(nn.Flatten(), nn.Linear(100, 1)), flat, baseline="blur")
    assert float(made.values[0].abs().max()) == 0.0
    assert float(made.values[1].abs().max()) > 0.0


def test_one_row_of_a_mapping_serves_as_its_baseline(mixed):
    inputs = parts()
    start = {key: value[:1] for key, value in inputs.items()}
    made = attribute(
        mixed, batches(inputs, 4), baseline=start, target=1, unpack=lambda batch: (batch, None)
    )
    assert torch.allclose(made.values[0], torch.zeros(12), atol=1e-6)
    assert float((made.base - made.outputs[0]).abs().max()) < 1e-5
