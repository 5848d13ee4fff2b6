"""CheckList's sentiment suite against a small SST-2 model of decent accuracy.

    python examples/sentiment_checklist.py --data DIR

DIR holds `sst2/{train,dev}.parquet` (sentence, label) and
`checklist_sentiment/sentiment_suite.jsonl.gz`, the cases of Ribeiro et al. (2020),
arXiv:2005.04118. The suite is built in Python: a suite is a value, wherever it comes from.
"""

import argparse
import gzip
import itertools
import json
import re
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gendebug_torch.behavior import Case, Suite, run_suite

BUCKETS = 2**15
# SST-2 knows no neutral class; as in CheckList's own evaluation the middle third of the score
# stands for it.
LABELS = {0: {"score": [0, 1 / 3]}, 1: {"score": [1 / 3, 2 / 3]}, 2: {"score": [2 / 3, 1]}}
NOT_NEGATIVE = {"score": [1 / 3, 1]}
# Expectations of the tests by direction: (word, class that is meant), with CheckList's tolerance of
# 0.1.
DIRECTIONS = {
    "intensifiers": ("not_lower", "predicted"),
    "reducers": ("not_higher", "predicted"),
    "add positive phrases": ("not_lower", 1),
    "add negative phrases": ("not_higher", 1),
    '"used to" should reduce': ("not_higher", "predicted"),
}


def load_checklist(path: Path, *, every: int = 1) -> Suite:
    """The suite, or every n-th case of each test.

    Tests whose texts were lost when they were published are left out.
    """
    cases = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            test = json.loads(line)
            if isinstance(test["data"][0], str) and test["data"][0].startswith("<__main__"):
                continue
            cases += [
                case
                for case in _cases(number, test)
                if int(case.id.rpartition("-")[2]) % every == 0
            ]
    return Suite(tuple(cases), name="CheckList sentiment", classes=("negative", "positive"))


def _cases(number: int, test: dict) -> Iterator[Case]:
    about = {"capability": test["capability"], "tags": (test["name"],)}
    for place, text in enumerate(test["data"]):
        name = f"{number}-{place}"
        if test["type"] == "MFT":
            label = test["labels"][place] if isinstance(test["labels"], list) else test["labels"]
            yield Case(name, text, NOT_NEGATIVE if label is None else LABELS[label], **about)
        elif test["type"] == "INV":
            yield Case(name, text[0], "same_class", tuple(text[1:]), tolerance=0.1, **about)
        else:
            word, meant = DIRECTIONS[test["name"]]
            yield Case(name, text[0], word, tuple(text[1:]), of=meant, tolerance=0.1, **about)


class BagOfPairs(nn.Module):
    """A weight per word and per pair of neighbours, hashed, on the mean over the sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(BUCKETS, 16, mode="mean")
        nn.init.normal_(self.table.weight, std=0.1)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(16, 1))

    def forward(self, codes: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Logits, `[n]`, of the hashed words of all sentences in a row and where each starts."""
        return self.head(self.table(codes, starts))[:, 0]


def encode(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hashed words and pairs of neighbours, and where each text starts."""
    codes, starts = [], []
    for text in texts:
        words = re.findall(r"[a-z]+|n't|[!?]", text.lower().replace("n't", " n't"))
        starts.append(len(codes))
        codes += [
            zlib.crc32(token.encode()) % BUCKETS
            for token in [*words, *map(" ".join, itertools.pairwise(words))]
        ] or [0]
    return torch.tensor(codes), torch.tensor(starts)


def train_sentiment(
    folder: Path, *, epochs: int = 2, seed: int = 0
) -> Callable[[list[dict]], torch.Tensor]:
    """`predict(list of {text})` of a model trained on SST-2 in seconds."""
    train = pd.read_parquet(folder / "train.parquet")
    labels = torch.tensor(train["label"].to_numpy(), dtype=torch.float32)
    sentences = train["sentence"].tolist()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BagOfPairs()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(epochs):
            for rows in torch.randperm(len(sentences)).split(64):
                optimizer.zero_grad()
                logits = model(*encode([sentences[row] for row in rows.tolist()]))
                binary_cross_entropy_with_logits(logits, labels[rows]).backward()
                optimizer.step()
    model.eval()

    @torch.no_grad()
    def predict(rows: list[dict]) -> torch.Tensor:
        return model(*encode([row["text"] for row in rows])).sigmoid()

    return predict


def accuracy(predict: Callable[[list[dict]], torch.Tensor], folder: Path) -> float:
    """On the dev set of SST-2."""
    dev = pd.read_parquet(folder / "dev.parquet")
    said = predict([{"text": sentence} for sentence in dev["sentence"]]) > 0.5
    return float((said == torch.tensor(dev["label"].to_numpy(copy=True)).bool()).double().mean())


def main() -> None:
    """Train, run, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/sentiment"))
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    predict = train_sentiment(options.data / "sst2")
    suite = load_checklist(
        options.data / "checklist_sentiment" / "sentiment_suite.jsonl.gz", every=options.every
    )
    started = time.perf_counter()
    run = run_suite(suite, predict, name="bag of pairs")
    seconds = time.perf_counter() - started
    print(f"accuracy on SST-2 dev: {accuracy(predict, options.data / 'sst2'):.3f}")
    print(f"{len(suite.cases):,} cases in {seconds:.1f} s: {len(run.failures):,} fail\n")
    print(run.table().to_string(index=False, float_format="{:.3f}".format), "\n")
    print(run.table("tags").to_string(index=False, float_format="{:.3f}".format))
    options.out.mkdir(parents=True, exist_ok=True)
    run.plot().get_figure().savefig(options.out / "capabilities.png")
    run.save(options.out / "behavior.json")


if __name__ == "__main__":
    main()
