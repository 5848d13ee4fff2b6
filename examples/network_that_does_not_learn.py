"""A network that does not learn: the layer is named, mended, and then it learns.

Images hold a disc, a square, a cross or a ring. The loss stays at chance, and nothing raises an
error. `preflight` tries the network on one batch before a training; `NetworkMonitor` watches its
layers, gradients and updates in a Lightning Trainer. What they name is mended, and the same
training learns.

    python examples/network_that_does_not_learn.py                    a layer whose units are dead
    python examples/network_that_does_not_learn.py --fault optimizer  a head that is in no optimizer
    python examples/network_that_does_not_learn.py --fault sigmoid    a gradient that vanishes
    python examples/network_that_does_not_learn.py --fault none       the same without a fault
"""

import argparse
import logging
import warnings
from pathlib import Path

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gendebug_torch as gd
from gendebug_torch.callbacks import NetworkMonitor

FAULTS = ("dead", "optimizer", "sigmoid", "none")
WIDTH, LAYERS = 16, 5


def shapes(n: int, seed: int, size: int = 16) -> TensorDataset:
    """Noisy images `[n, 1, size, size]` and what they hold, `[n]`."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 4, (n,), generator=generator)
    middle = 6 + 4 * torch.rand(n, 2, 1, 1, generator=generator)
    radius = 3 + 2 * torch.rand(n, 1, 1, generator=generator)
    steps = torch.arange(size, dtype=torch.float32)
    down, across = (steps[:, None] - middle[:, 0]).abs(), (steps[None] - middle[:, 1]).abs()
    far, wide = (down**2 + across**2).sqrt(), torch.maximum(down, across)
    cross = (torch.minimum(down, across) < 1) & (wide < radius)
    ring = (far < radius) & (far > radius - 1.8)
    inside = torch.stack([far < radius, wide < radius, cross, ring])[targets, torch.arange(n)]
    noise = 0.3 * torch.randn(n, size, size, generator=generator)
    return TensorDataset((2.0 * inside - 0.5 + noise)[:, None], targets)


class Classifier(pl.LightningModule):
    """Convolutions and a head; `fault` is what somebody did to it."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        act = nn.Sigmoid if fault == "sigmoid" else nn.ReLU
        layers: list[nn.Module] = []
        for at in range(LAYERS):
            layers += [nn.Conv2d(WIDTH if at else 1, WIDTH, 3, 2 if at in (1, 3) else 1, 1), act()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * WIDTH, 32), act())
        self.head = nn.Linear(32, 4)
        if fault == "dead":
            # How the output of a detector starts, so that it finds nothing, in a layer within.
            nn.init.constant_(self.body[6].bias, -4.6)
        self.trained = [*self.body.parameters()]
        if fault != "optimizer":
            self.trained += self.head.parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.body(images))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss, and nothing else: the monitor needs no more."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.trained, lr=3e-3)


def trained(module: Classifier, rows: TensorDataset, epochs: int) -> NetworkMonitor:
    """Fit the module, and what was seen meanwhile."""
    pl.seed_everything(0, verbose=False)
    monitor = NetworkMonitor(every=5)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[monitor],
        accelerator="cpu",
        enable_checkpointing=False,
        **silent,
    )
    with warnings.catch_warnings():
        # Lightning asks for more workers than a story needs, and calls what torch deprecates.
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(rows, batch_size=50, shuffle=True))
    return monitor


def accuracy(module: Classifier, rows: TensorDataset) -> float:
    """Share of right answers."""
    answers = gd.collect(module, rows)
    return float((answers.logits.argmax(1) == answers.targets).float().mean())


def alarms(found: list[gd.Finding]) -> list[gd.Finding]:
    """Findings that somebody has to act on."""
    return [finding for finding in found if finding.severity in ("warn", "fail")]


def mend(module: Classifier, found: gd.Finding) -> None:
    """Do what the finding advises, to the layer that it names."""
    if found.numbers.get("kind") == "not_in_optimizer":
        module.trained += module.get_submodule(found.subject).parameters()
    elif found.check == "network.gradients":
        for at, layer in enumerate(module.body):
            if isinstance(layer, nn.Sigmoid):
                module.body[at] = nn.ReLU()
    else:
        module.get_submodule(found.subject).reset_parameters()


def main(arguments: list[str] | None = None) -> gd.Diagnosis:
    """Look before the training and within it, mend, and train again."""
    options = parse(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows, held_out = shapes(1000, 0), shapes(500, 1)

    module = Classifier(options.fault)
    print("Before the training, on one batch:")
    for finding in alarms(gd.network.preflight(module, DataLoader(rows, batch_size=64)))[:3]:
        print(f"  {finding.summary}")
    before = trained(module, rows, options.epochs)
    print(f"\nTrained: {accuracy(module, held_out):.0%} right; chance is 25 %.")

    found = alarms(before.findings)
    for finding in found[:3]:
        print(f"  {finding.severity}: {finding.summary}\n    {finding.remedy}")
    runs = [("as it was", before)]
    if found:
        mended = Classifier(options.fault)
        mend(mended, found[0])
        runs.append(("mended", trained(mended, rows, options.epochs)))
        print(
            f"\nMended as advised for {found[0].subject}: {accuracy(mended, held_out):.0%} right."
        )
        left = alarms(runs[1][1].findings)
        print(f"What is left to do: {left[0].summary if left else 'nothing'}")
    else:
        print("Nothing was found: nothing to mend.")

    diagnosis = gd.diagnose(network=before.network)
    diagnosis.write(options.out, title="A network that does not learn")
    figure, places = plt.subplots(1, len(runs), figsize=(6.0 * len(runs), 7.0), squeeze=False)
    for place, (title, monitor) in zip(places[0], runs, strict=True):
        monitor.network.plot(place).set_title(f"Inside the network, {title}")
    figure.savefig(Path(options.out) / "picture.png", dpi=110, bbox_inches="tight")
    print(f"Report: {Path(options.out) / 'report.html'}")
    return diagnosis


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", choices=FAULTS, default="dead", help="of the network")
    parser.add_argument("--epochs", type=int, default=8, help="of each training")
    parser.add_argument("--out", default="runs/network", help="directory for the report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
