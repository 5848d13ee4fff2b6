"""Recalibrate a deployed network and ship it in four formats, each proved to be the same.

A network that was trained too long is right as often as before, and far too sure. `recalibrate`
chooses the map that is best on rows it has not seen, `fold()` puts it into the last layer, and the
network leaves as a state dict, as TorchScript, as ONNX and as an exported program. `gendebug
parity` asks each of them for the same rows.

    python examples/recalibrate_and_ship.py
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import gendebug_torch as gd
from gendebug_torch.cli import main as gendebug


def build() -> nn.Module:
    """The architecture, as serving code knows it."""
    return nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    )


def rows(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Eight numbers, and a class that they say only partly."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator)
    chances = (2.0 * x[:, :4] + x[:, 4:]).softmax(1)
    return x, torch.multinomial(chances, 1, generator=generator)[:, 0]


def trained(epochs: int) -> nn.Module:
    """The network, fitted for too long on too few rows."""
    torch.manual_seed(0)
    network = build()
    x, targets = rows(600, 0)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), targets[batch]).backward()
            optimizer.step()
    return network.eval()


def ship(network: nn.Module, x: Tensor, out: Path) -> list[Path]:
    """Write the network in every format; returns the files that can be asked."""
    from safetensors.torch import save_model

    save_model(network, str(out / "network.safetensors"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.jit.trace(network, x).save(str(out / "network.pt"))
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, out / "network.pt2")
    torch.onnx.export(
        network,
        (x,),
        str(out / "network.onnx"),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: batch},),
    )
    return [out / f"network.{suffix}" for suffix in ("pt", "pt2", "onnx")]


def main(arguments: list[str] | None = None) -> gd.calibration.Recalibration:
    """Train, recalibrate, ship, and ask every shipped file for the same rows."""
    options = parse(arguments)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    x, targets = rows(3000, 1)
    rows_seen = gd.Records(x, targets)
    found = gd.recalibrate(trained(options.epochs), rows_seen, candidates=("temperature",))
    print(f"Chosen: {found.chosen}\n{found.table().to_string()}\n")
    network = found.fold()
    found.plot().get_figure().savefig(out / "picture.png", dpi=110)

    x, targets = rows(500, 2)
    np.savez(out / "rows.npz", features=x.numpy(), targets=targets.numpy())
    weights = ["--weights", str(out / "network.safetensors"), "--data", str(out / "rows.npz")]
    for file in ship(network, x[:2], out):
        words = ["--model", f"{Path(__file__).stem}:build", "--served", str(file), *weights]
        code = gendebug(["parity", *words, "--out", str(out / f"parity_{file.suffix[1:]}")])
        print(f"{file.name}: exit code {code}\n")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=60, help="of the training")
    parser.add_argument("--out", default="runs/shipped", help="directory for the files")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
