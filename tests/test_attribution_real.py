"""Networks trained on real data, and explanations of which the right answer is known beforehand."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch import Records, attribute
from gendebug_torch.attribution import permutation_importance
from gendebug_torch.attribution.compare.rank_agreement import row_spearman

pytestmark = pytest.mark.slow


def fitted(model, inputs, targets, epochs, batch=100, rate=3e-3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        optimizer = torch.optim.Adam(model.parameters(), rate)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(batch):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
                optimizer.step()
    return model.eval()


def perceptron(d):
    return nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 2))


def standardized(frame):
    values = torch.from_numpy(frame.to_numpy(dtype=np.float32, copy=True))
    return (values - values.mean(0)) / values.std(0).clamp(min=1e-6)


def test_electricity_prices_follow_the_price(shared_data):
    table = pd.read_parquet(shared_data / "elec2" / "electricity.parquet")
    features = table.drop(columns=["class", "date"])
    x, y = (
        standardized(features),
        torch.from_numpy((table["class"] == "UP").to_numpy(dtype=np.int64, copy=True)),
    )
    model = fitted(perceptron(x.shape[1]), x[:20000], y[:20000], epochs=4)
    data = Records(pd.DataFrame(x[20000:24000].numpy(), columns=features.columns), y[20000:24000])
    made = attribute(model, data, target=1)
    assert made.table()["feature"].iloc[0] == "nswprice"
    assert made.trust.ranking_usable, made.trust.verdict
    assert made.trust.correlated_groups == (("nswprice", "vicprice"),)
    shap = attribute(model, data, "kernel_shap", target=1)
    sizes = [found.flat.abs().mean(0, keepdim=True) for found in (made, shap)]
    assert float(row_spearman(*sizes)[0]) > 0.7
    # What the network uses and what is important are two things: months later the hour of the
    # day misleads it.
    permuted = permutation_importance(model, data).table().set_index("feature")
    assert permuted.index[0] == "nswprice"
    assert permuted.loc["period", "high"] < 0


def test_incomes_do_not_follow_the_census_weight(shared_data):
    """`fnlwgt` says how many people a row stands for: nothing about the income of the one it
    describes."""
    table = pd.read_parquet(shared_data / "adult" / "train.parquet")
    numbers = ["age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"]
    x = standardized(table[numbers])
    y = torch.from_numpy(table["income"].str.contains(">50K").to_numpy(dtype=np.int64, copy=True))
    model = fitted(perceptron(6), x[:15000], y[:15000], epochs=3)
    data = Records(pd.DataFrame(x[15000:17000].numpy(), columns=numbers), y[15000:17000])
    made = attribute(model, data, target=1)
    assert "fnlwgt" in made.trust.below_probe
    assert made.trust.rows_usable, made.trust.verdict
    order = made.table()["feature"].tolist()
    assert order.index("education-num") < order.index("fnlwgt")
    assert order.index("age") < order.index("fnlwgt")
    permuted = permutation_importance(model, data).table().set_index("feature")["importance"]
    assert permuted["fnlwgt"] < 0.1 * permuted["education-num"]


def test_digits_are_recognized_by_their_ink(shared_data):
    archive = np.load(shared_data / "mnist" / "mnist.npz")
    x = torch.from_numpy(archive["x_train"][:6000].astype(np.float32)).reshape(-1, 1, 28, 28) / 255
    y = torch.from_numpy(archive["y_train"][:6000].astype(np.int64))
    body = [
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(400, 10),
    ]
    model = fitted(nn.Sequential(*body), x, y, epochs=2)
    shown = x[:24]
    made = attribute(model, shown, target="margin", trust="full")
    assert made.values.shape == shown.shape
    # Against a blurred image other pixels are the strongest: black says that ink alone can count.
    assert made.trust.failed == ("baseline",)
    assert made.trust.ranking_usable
    assert list(made.trust.cascade) == pytest.approx([1 / 3, 2 / 3, 1.0])
    # Black pixels rank alike whatever the weights: what is left beyond them is little.
    assert made.trust.cascade[1.0].value > 0.7 > made.trust.measures["randomized"].value + 0.2
    assert float(made.relative_delta.median()) < 0.05
    # The baseline is black: only ink can contribute.
    assert float(made.values[shown == 0].abs().sum()) == 0.0
    occluded = attribute(model, shown, "occlusion", target="margin", window=5, stride=2)
    near = nn.functional.max_pool2d(shown, 5, 1, 2) > 0.2
    assert float(occluded.values[near].abs().mean()) > 5 * float(
        occluded.values[~near].abs().mean()
    )


class Sentiment(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.embedding, self.head = nn.Embedding(words, 16, padding_idx=0), nn.Linear(16, 2)

    def forward(self, tokens):
        return self.head(
            self.embedding(tokens).sum(1) / (tokens > 0).sum(1, keepdim=True).clamp(min=1)
        )


def test_reviews_are_classified_by_their_words(shared_data):
    table = pd.read_parquet(shared_data / "sst2" / "train.parquet")
    split = [sentence.split()[:40] for sentence in table["sentence"].astype(str)]
    counts = pd.Series([word for sentence in split for word in sentence]).value_counts()
    vocabulary = {word: number for number, word in enumerate(counts[counts >= 3].index, start=2)}
    x = torch.zeros(len(split), 40, dtype=torch.int64)
    for row, sentence in enumerate(split):
        x[row, : len(sentence)] = torch.tensor([vocabulary.get(word, 1) for word in sentence])
    y = torch.from_numpy(table["label"].to_numpy(dtype=np.int64, copy=True))
    model = fitted(Sentiment(len(vocabulary) + 2), x, y, epochs=5, rate=1e-2)
    made = attribute(model, x[:3000], target=1)
    assert made.values.shape == (3000, 40)
    assert float(made.values[x[:3000] == 0].abs().max()) == 0.0
    assert made.trust.ranking_usable, made.trust.verdict
    assert made.trust.measures["incomplete"].value == 0.0
    means = {}
    for word in ("bad", "dull", "worst", "moving", "funny", "best"):
        places = x[:3000] == vocabulary[word]
        means[word] = float(made.values[places].mean())
    assert (
        max(means[word] for word in ("bad", "dull", "worst"))
        < 0
        < min(means[word] for word in ("moving", "funny", "best"))
    ), means
