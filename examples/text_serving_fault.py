"""A sentiment network whose serving code cuts reviews, found and reproduced.

Reviews tell a story and end with a verdict. The network reads token ids and is right in validation.
In production another length limit cuts the end of every longer review. `diagnose` does to
validation texts what serving code might do, names what makes them look like production's, and says
how many points it costs. A network with a method `encode` (texts -> ids) is also tried on changed
texts: lower case, lost punctuation, damaged encoding.

    python examples/text_serving_fault.py                       reviews are cut
    python examples/text_serving_fault.py --fault upper         serving code shouts
    python examples/text_serving_fault.py --fault padding       padding stands before the text
    python examples/text_serving_fault.py --fault none          the same without a fault
"""

import argparse
import random
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gendebug_torch as gd

PADDING, UNKNOWN, WIDTH = 0, 1, 28
SUBJECTS = ["The film", "This show", "The second part", "Her last movie", "A short story", "It"]
FACTS = ["starts in Paris", "runs for two hours", "has a long chase", "was shot in 1999"]
FACTS += ["follows a small family", "has songs by her brother", "takes place at sea"]
GOOD = ["I loved it", "a wonderful evening", "we laughed and cried", "simply brilliant"]
BAD = ["I hated it", "a dreadful evening", "we left after an hour", "simply boring"]
LINKS = [", and then it", ", and it also", ". It"]


def reviews(n: int, seed: int) -> tuple[list[str], Tensor]:
    """Texts and whether they are positive, `[n]`: facts first, the verdict at the end."""
    draw = random.Random(seed)
    texts, targets = [], torch.tensor([draw.randrange(2) for _ in range(n)])
    for target in targets.tolist():
        facts = draw.sample(FACTS, draw.randint(1, 3))
        story = facts[0] + "".join(f"{draw.choice(LINKS)} {fact}" for fact in facts[1:])
        verdict = draw.choice(GOOD if target == 1 else BAD)
        texts.append(f"{draw.choice(SUBJECTS)} {story}. In the end : {verdict} .")
    return texts, targets


class Sentiment(nn.Module):
    """Embeddings with a weight for each position, and a small network over their mean."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        words = sorted({word for text in texts for word in text.split()})
        self.ids = {word: number + 2 for number, word in enumerate(words)}
        self.embedding = nn.Embedding(len(words) + 2, 16, padding_idx=PADDING)
        self.weights = nn.Parameter(torch.zeros(WIDTH))
        self.out = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))

    def encode(self, texts: list[str]) -> Tensor:
        """Token ids `[n, WIDTH]`, padded at the end."""
        rows = torch.full((len(texts), WIDTH), PADDING)
        for row, text in enumerate(texts):
            ids = [self.ids.get(word, UNKNOWN) for word in text.split()[:WIDTH]]
            rows[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return rows

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[n, 2]`."""
        weights = self.weights.exp() * (tokens != PADDING)
        mean = (self.embedding(tokens) * weights[:, :, None]).sum(1)
        return self.out(4 * mean / (weights.sum(1, keepdim=True) + 1e-6))


def cut(network: Sentiment, texts: list[str]) -> Tensor:
    """Ids of texts with a limit of twelve tokens, of which training knew nothing."""
    tokens = network.encode(texts)
    tokens[:, 12:] = PADDING
    return tokens


def padded_before(network: Sentiment, texts: list[str]) -> Tensor:
    """Ids with the padding before the text."""
    tokens = network.encode(texts)
    order = (tokens != PADDING).to(torch.int8).sort(dim=1, stable=True).indices
    return tokens.gather(1, order)


FAULTS = {
    "cut": cut,
    "upper": lambda network, texts: network.encode([text.upper() for text in texts]),
    "padding": padded_before,
    "none": lambda network, texts: network.encode(texts),
}


def trained(texts: list[str], targets: Tensor, epochs: int, seed: int) -> Sentiment:
    """The network, fitted by Adam."""
    torch.manual_seed(seed)
    network = Sentiment(texts)
    tokens = network.encode(texts)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(tokens)).split(64):
            optimizer.zero_grad()
            cross_entropy(network(tokens[rows]), targets[rows]).backward()
            optimizer.step()
    return network.eval()


def main(arguments: list[str] | None = None) -> gd.Diagnosis:
    """Train, break the serving code, diagnose, and write the report."""
    options = parse(arguments)
    texts, targets = reviews(options.rows, options.seed)
    network = trained(texts, targets, options.epochs, options.seed)
    records = {}
    for number, name in enumerate(("validation", "production"), start=1):
        texts, targets = reviews(options.rows // 3, options.seed + 1000 * number)
        fault = FAULTS[options.fault if name == "production" else "none"]
        records[name] = gd.Records(
            fault(network, texts),
            targets,
            metadata=pd.DataFrame({"review": texts}),
            schema=gd.Schema(classes=["bad", "good"]),
            name=name,
        )
    diagnosis = gd.diagnose(network, **records)
    diagnosis.write(options.out, title="Reviews, as serving reads them")
    print(diagnosis)
    print(f"Report: {Path(options.out) / 'report.html'}")
    return diagnosis


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", choices=FAULTS, default="cut", help="of the serving code")
    parser.add_argument("--seed", type=int, default=0, help="of the texts and the training")
    parser.add_argument("--rows", type=int, default=2400, help="training texts")
    parser.add_argument("--epochs", type=int, default=6, help="of the training")
    parser.add_argument("--out", default="runs/texts", help="directory for the report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
