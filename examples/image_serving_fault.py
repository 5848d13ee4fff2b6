"""An image classifier whose serving code reads blue as red, found and reproduced.

Cameras sort fruit: round or square, red, orange or blue. The network is right in validation. In
production the pictures come from another decoder, which gives blue, green, red. `diagnose` finds
what the serving code does by doing it to validation images, and says how many points it costs.

    python examples/image_serving_fault.py                       red and blue exchanged
    python examples/image_serving_fault.py --fault dark          pictures half as bright
    python examples/image_serving_fault.py --fault rotated       a camera mounted sideways
    python examples/image_serving_fault.py --fault none          the same without a fault
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gendebug_torch as gd

COLOURS = torch.tensor([[0.85, 0.15, 0.15], [0.85, 0.55, 0.15], [0.2, 0.3, 0.85]])
CLASSES = [
    f"{shape} {colour}" for shape in ("round", "square") for colour in ("red", "orange", "blue")
]
FAULTS = {
    "exchanged": lambda images: images.flip(1),
    "dark": lambda images: images * 0.5,
    "rotated": lambda images: images.rot90(1, (2, 3)),
    "none": lambda images: images,
}


def fruit(n: int, seed: int, size: int = 24) -> tuple[Tensor, Tensor]:
    """Images `[n, 3, size, size]` in 0..1 and classes `[n]`: a fruit on a ground bright below."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, len(CLASSES), (n,), generator=generator)
    centers = 8 + 6 * torch.rand(n, 2, 1, 1, generator=generator)
    radius = 3 + 3 * torch.rand(n, 1, 1, generator=generator)
    steps = torch.arange(size, dtype=torch.float32)
    down = (steps[:, None] - centers[:, 0]).abs()
    across = (steps[None] - centers[:, 1]).abs()
    is_round = (targets < 3)[:, None, None]
    inside = torch.where(is_round, (down**2 + across**2).sqrt(), torch.maximum(down, across))
    mask = (inside < radius)[:, None].float()
    ground = 0.15 + 0.4 * (steps / size)[None, None, :, None]
    tint = COLOURS[targets % 3] + 0.05 * torch.randn(n, 3, generator=generator)
    images = (1 - mask) * ground + mask * tint[:, :, None, None]
    noise = 0.03 * torch.randn(n, 3, size, size, generator=generator)
    return (images + noise).clamp(0, 1), targets


def trained(images: Tensor, targets: Tensor, epochs: int, seed: int) -> nn.Module:
    """A small convolutional network."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 36, len(CLASSES)),
    )
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            cross_entropy(network(images[rows]), targets[rows]).backward()
            optimizer.step()
    return network.eval()


def main(arguments: list[str] | None = None) -> gd.Diagnosis:
    """Train, break the serving code, diagnose, and write the report."""
    options = parse(arguments)
    train = fruit(options.rows, options.seed)
    network = trained(*train, options.epochs, options.seed)
    sides = {"train": train}
    for number, name in enumerate(("validation", "production"), start=1):
        images, targets = fruit(options.rows // 3, options.seed + 1000 * number)
        sides[name] = FAULTS[options.fault](images) if name == "production" else images, targets
    records = {
        name: gd.Records(images, targets, schema=gd.Schema(classes=CLASSES), name=name)
        for name, (images, targets) in sides.items()
    }
    diagnosis = gd.diagnose(network, **records)
    diagnosis.write(options.out, title="Fruit, as the camera sees it")
    print(diagnosis)
    chosen = (found for found in diagnosis.findings if found.check == "shift.reproduced_change")
    found = next(chosen)
    if found.evidence is not None:
        picture = Path(options.out) / "picture.png"
        found.evidence.plot().get_figure().savefig(picture, dpi=110)
    print(f"Report: {Path(options.out) / 'report.html'}")
    return diagnosis


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", choices=FAULTS, default="exchanged", help="of the serving code")
    parser.add_argument("--seed", type=int, default=0, help="of the images and the training")
    parser.add_argument("--rows", type=int, default=3000, help="training images")
    parser.add_argument("--epochs", type=int, default=6, help="of the training")
    parser.add_argument("--out", default="runs/images", help="directory for the report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
