"""A price model whose world changes in one region, named and mended.

A network learns rents from size, rooms, age and region. It is right in validation. Two months
later one region has a new rule: its rents rise, and nothing in the inputs says so. `diagnose`
asks whether quality fell, says that it is the relation of inputs and answers that changed, and
where; retraining on labeled production rows is then measured on rows that it has not seen.

    python examples/regression_drift.py
    python examples/regression_drift.py --rise 0        the same without the new rule
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import gendebug_torch as gd

REGIONS = ["north", "south", "harbour", "hills"]
SCHEMA = gd.Schema(target="rent", regression=True, metadata=("region",))


def rents(n: int, seed: int, name: str, rise: float = 0.0) -> gd.Records:
    """Flats and their rents in hundreds; `rise` is what the harbour costs more."""
    rng = np.random.default_rng(seed)
    region = rng.integers(0, len(REGIONS), n)
    features = pd.DataFrame(
        {
            "size": rng.uniform(20, 140, n) / 100,
            "rooms": rng.integers(1, 6, n).astype(float) / 5,
            "age": rng.exponential(30, n) / 100,
            "center": rng.uniform(0, 12, n) / 12,
            **{f"in_{name}": (region == place) * 1.0 for place, name in enumerate(REGIONS)},
        }
    )
    rent = 3 + 9 * features["size"] + 2 * features["rooms"] - 4 * features["center"]
    rent += np.array([0.0, 1.0, 2.0, -1.0])[region] + rise * (region == 2)
    noisy = torch.from_numpy((rent + rng.normal(0, 0.7, n)).to_numpy(copy=True)).float()
    metadata = pd.DataFrame({"region": [REGIONS[place] for place in region]})
    return gd.Records(features, noisy, metadata=metadata, schema=SCHEMA, name=name)


def trained(rows: gd.Records, epochs: int, network: nn.Module | None = None) -> nn.Module:
    """A small network fitted on these rows, from the start or from another one's weights."""
    torch.manual_seed(0)
    x = torch.tensor(rows.features.to_numpy(), dtype=torch.float32)
    if network is None:
        network = nn.Sequential(nn.Linear(x.shape[1], 48), nn.ReLU(), nn.Linear(48, 1))
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(network(x[batch])[:, 0], rows.targets[batch])
            loss.backward()
            optimizer.step()
    return network.eval()


def error(network: nn.Module, rows: gd.Records) -> float:
    """Root mean squared error."""
    answers = gd.collect(network, rows).logits.reshape(-1)
    return float((answers - rows.targets).square().mean().sqrt())


def main(arguments: list[str] | None = None) -> gd.Diagnosis:
    """Train, let the world change, diagnose, mend and measure."""
    options = parse(arguments)
    train = rents(4000, 0, "train")
    network = trained(train, options.epochs)
    sides = {
        "validation": gd.collect(network, rents(2000, 1, "validation"), name="validation"),
        "production": gd.collect(
            network, rents(2000, 2, "production", options.rise), name="production"
        ),
    }
    diagnosis = gd.diagnose(network, train=train, **sides)
    print(diagnosis, end="\n\n")

    labeled, held_out = (rents(1500, seed, "recent", options.rise) for seed in (3, 4))
    print(f"error in validation         {error(network, sides['validation']):.2f}")
    print(f"error on recent rows        {error(network, held_out):.2f}")
    mended = trained(labeled, options.epochs, network)
    print(f"after training on them      {error(mended, held_out):.2f}")

    diagnosis.write(options.out, title="Rents, two months later")
    worst = next((found for found in diagnosis.findings if found.evidence is not None), None)
    if worst is not None:
        picture = Path(options.out) / "picture.png"
        worst.evidence.plot().get_figure().savefig(picture, dpi=110)
    print(f"Report: {Path(options.out) / 'report.html'}")
    return diagnosis


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rise", type=float, default=3.0, help="of the rents in the harbour")
    parser.add_argument("--epochs", type=int, default=25, help="of each training")
    parser.add_argument("--out", default="runs/rents", help="directory for the report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
