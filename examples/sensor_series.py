"""Channels exchanged by a gateway, found in windows of a series and reproduced.

Machines send vibration, temperature and current; a network says whether a bearing is worn. After
a service the gateway sends two channels in another order. The network still answers, and wrongly.
`diagnose` applies what serving code does to series (units, exchanged channels, offsets, stuck
sensors) to windows of validation, and finds the change that turns them into production's.

    python examples/sensor_series.py                   two channels exchanged
    python examples/sensor_series.py --fault unit      temperature in Fahrenheit
    python examples/sensor_series.py --fault stuck     the vibration stands still
    python examples/sensor_series.py --fault none      the same without a fault
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import gendebug_torch as gd


def windows(n: int, seed: int, steps: int = 64) -> tuple[Tensor, Tensor]:
    """Windows `[n, steps, 3]` of vibration, temperature, current, and whether one is worn."""
    generator = torch.Generator().manual_seed(seed)
    worn = torch.randint(0, 2, (n,), generator=generator)
    time = torch.arange(steps) / steps
    phase = torch.rand(n, 1, generator=generator)
    noise = torch.randn(n, 3, steps, generator=generator)
    hum = torch.sin(2 * torch.pi * (6 * time + phase))
    knock = worn[:, None] * torch.sin(2 * torch.pi * (17 * time + 3 * phase)).clamp(min=0.5)
    vibration = hum + 0.8 * knock + 0.4 * noise[:, 0]
    warmth = 4 + 0.5 * worn[:, None] + 0.3 * time + 0.2 * noise[:, 1]
    current = 2 + 0.2 * hum + 0.2 * noise[:, 2]
    return torch.stack([vibration, warmth, current], 2), worn


def stuck(x: Tensor) -> Tensor:
    """The vibration stands still at its first value."""
    return torch.cat([x[:, :1, :1].expand(-1, x.shape[1], 1), x[..., 1:]], 2)


FAULTS = {
    "unit": lambda x: x * torch.tensor([1.0, 1.8, 1.0]) + torch.tensor([0.0, 3.2, 0.0]),
    "exchanged": lambda x: x[..., [1, 0, 2]],
    "stuck": stuck,
    "none": lambda x: x,
}


class ChannelsFirst(nn.Module):
    """`[n, steps, channels]` as a convolution wants it."""

    def forward(self, x: Tensor) -> Tensor:
        """The same values, `[n, channels, steps]`."""
        return x.transpose(1, 2)


def trained(x: Tensor, worn: Tensor, epochs: int) -> nn.Module:
    """A small convolutional network."""
    torch.manual_seed(0)
    network = nn.Sequential(
        ChannelsFirst(),
        nn.Conv1d(3, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Conv1d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), worn[rows]).backward()
            optimizer.step()
    return network.eval()


def main(arguments: list[str] | None = None) -> gd.Diagnosis:
    """Train, let the gateway fail, diagnose, and write the report."""
    options = parse(arguments)
    network = trained(*windows(1200, 0), options.epochs)
    x, worn = windows(500, 1)
    live, live_worn = windows(500, 2)
    live = FAULTS[options.fault](live)
    schema = gd.Schema(classes=("sound", "worn"))
    diagnosis = gd.diagnose(
        network,
        validation=gd.Records(x, worn, schema=schema, name="validation"),
        production=gd.Records(live, live_worn, schema=schema, name="production"),
    )
    diagnosis.write(options.out, title="Bearings, after the service")
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
    parser.add_argument("--fault", choices=FAULTS, default="exchanged", help="of the gateway")
    parser.add_argument("--epochs", type=int, default=8, help="of the training")
    parser.add_argument("--out", default="runs/sensors", help="directory for the report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
