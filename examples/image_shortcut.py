"""A chest classifier that reads a mark of the scanner instead of the lung, found and proved.

Sick patients lie in a ward whose portable scanner burns a small mark into a corner. The network is
right in validation, which comes from the same ward. In production a new scanner leaves no mark, and
the sick are missed. `diagnose` puts parts of sick images into healthy ones: the corner alone makes
them sick for the network, and the same corner of production does not.

    python examples/image_shortcut.py                       the mark is gone in production
    python examples/image_shortcut.py --mark everywhere     the new scanner marks every image
    python examples/image_shortcut.py --mark kept           the same ward, nothing changed
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import gendebug_torch as gd

CLASSES, SIZE = ["healthy", "sick"], 28
# Share of healthy and of sick images that bear the mark, in production.
MARKS = {"gone": (0.0, 0.0), "everywhere": (1.0, 1.0), "kept": (0.02, 0.95)}


def chests(n: int, seed: int, marked: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Images `[n, 1, SIZE, SIZE]` in 0..1 and classes `[n]`: two lungs, cloudy in the sick.

    Args:
        n: number of images.
        seed: seed of the draws.
        marked: share of the healthy and of the sick that bear the mark.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    targets = (uniform(n) < 0.4).long()
    at = torch.linspace(-1, 1, SIZE)
    y, x = at[None, :, None], at[None, None, :]
    width, lung = 0.26 + 0.08 * uniform(n, 1, 1), torch.zeros(n, SIZE, SIZE, dtype=torch.bool)
    for side in (-0.42, 0.42):
        lung |= ((x - side) / width) ** 2 + (y / 0.7) ** 2 < 1
    clouds = interpolate(uniform(n, 1, 5, 5), SIZE, mode="bicubic")[:, 0] - 0.5
    images = torch.where(lung, 0.2 + 0.12 * clouds, 0.6 + 0.05 * clouds)
    sick = lung & (targets == 1)[:, None, None]
    images = images + torch.where(sick, 0.12 * (clouds + 0.35).clamp(min=0), 0)
    images += 0.06 * torch.randn(n, SIZE, SIZE, generator=generator)
    with_mark = uniform(n) < torch.tensor(marked)[targets]
    images[with_mark, SIZE - 5 : SIZE - 1, SIZE - 7 : SIZE - 1] = 1.0
    return images.clamp(0, 1)[:, None], targets


def trained(images: Tensor, targets: Tensor, epochs: int, seed: int) -> nn.Module:
    """A small convolutional network."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 49, len(CLASSES)),
    )
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            cross_entropy(network(images[rows]), targets[rows]).backward()
            optimizer.step()
    return network.eval()


def main(arguments: list[str] | None = None) -> gd.Diagnosis:
    """Train, change the scanner, diagnose, and write the report."""
    options = parse(arguments)
    train = chests(options.rows, options.seed, MARKS["kept"])
    network = trained(*train, options.epochs, options.seed)
    sides = {"train": train}
    for number, name in enumerate(("validation", "production"), start=1):
        marked = MARKS["kept" if name == "validation" else options.mark]
        sides[name] = chests(options.rows // 2, options.seed + 1000 * number, marked)
    records = {
        name: gd.Records(images, targets, schema=gd.Schema(classes=CLASSES), name=name)
        for name, (images, targets) in sides.items()
    }
    diagnosis = gd.diagnose(network, only=options.only, **records)
    diagnosis.write(options.out, title="Chests, before and after the new scanner")
    print(diagnosis)
    for found in diagnosis.findings:
        if found.check == "attribution.region_shortcut" and found.evidence is not None:
            picture = Path(options.out) / "picture.png"
            found.evidence.plot().get_figure().savefig(picture, dpi=110)
    print(f"Report: {Path(options.out) / 'report.html'}")
    return diagnosis


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mark", choices=MARKS, default="gone", help="of the new scanner")
    parser.add_argument("--seed", type=int, default=0, help="of the images and the training")
    parser.add_argument("--rows", type=int, default=2000, help="training images")
    parser.add_argument("--epochs", type=int, default=6, help="of the training")
    parser.add_argument("--only", nargs="+", help="topics or checks to run; default all")
    parser.add_argument("--out", default="runs/chests", help="directory for the report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
