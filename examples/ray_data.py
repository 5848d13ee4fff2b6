"""Logits and attributions of a table of any size on the machines of a Ray cluster.

Each actor holds the network; Ray hands it blocks of rows and writes what comes back. The scored
blocks are then summed up as one profile, block by block, which any later week is compared with.

    pip install 'gendebug_torch[ray]'
    python examples/ray_data.py
    python examples/ray_data.py --rows 1000000 --actors 8 --gpus 1
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import gendebug_torch as gd
from gendebug_torch.profiles.engines.ray import profile_of

COLUMNS = ["amount", "days", "orders"]
SCHEMA = gd.Schema(target="late", logits="score")
Block = dict[str, Any]


class Scorer:
    """One actor: the network, and what it says of a block of rows."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(
            torch.nn.Linear(3, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1), torch.nn.Flatten(0)
        )

    def __call__(self, block: Block) -> Block:
        """The block with logits, and the contribution of every column to them."""
        inputs = torch.from_numpy(np.stack([block[name] for name in COLUMNS], 1)).float()
        records = gd.collect(self.network, [(inputs, torch.from_numpy(block["late"]))])
        found = gd.attribute(self.network, inputs, "integrated_gradients", trust=False)
        assert records.logits is not None
        shares = {f"by_{name}": found.values[:, i].numpy() for i, name in enumerate(COLUMNS)}
        return {**block, "score": records.logits.numpy(), **shares}


def invoices(rows: int, seed: int) -> pd.DataFrame:
    """Invoices, and which were paid late."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(rows, 3)), columns=COLUMNS)
    return frame.assign(late=(rng.random(rows) < 0.3).astype(np.int64))


def main(arguments: list[str] | None = None) -> gd.Profile:
    """Score and explain all rows over Ray, and sum them up."""
    import ray

    options = parse(arguments)
    frame = invoices(options.rows, 0)
    rows = ray.data.from_pandas([frame[at :: options.actors] for at in range(options.actors)])
    scored = rows.map_batches(
        Scorer, concurrency=options.actors, batch_size=4096, num_gpus=options.gpus
    ).materialize()
    found = profile_of(scored, SCHEMA)
    found.save(Path(options.out) / "invoices.profile")
    print(found.table().to_string(index=False))
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="of each actor")
    parser.add_argument("--out", default="runs/ray", help="directory for the profile")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
