"""Faults of serving and shortcuts in images, texts and series: what is named, what is quiet.

    python scripts/bench_modality.py --seeds 3 --first 100            everything
    python scripts/bench_modality.py --worlds mnist rgb --faults dark "corner mark"

A network is trained for each world and seed, each fault is done to fresh production rows (a
shortcut to training and validation), and the whole `diagnose` runs. Counted are: the cause among
the first two, its subject, the decision, and whether the fault was felt: whether the accuracy, or
of a shortcut the recall of its class, fell by 2 points or more. A shortcut that the network did not
learn is no fault to be found: `turned` is the share of rows of other classes that it makes rows of
its own. With `--peers` CleanVision and cleanlab's Datalab judge the same rows; why others do not
run is printed. MNIST, SST-2 and SMS need ../shared/data.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import gendebug_torch as gd

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _modality_peers import cleanvision_says, datalab_says, reasons

# Why each peer does not run, filled where they are asked.
REASONS: dict[str, str] = {}
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT / "examples"))
SKEW, SHORTCUT = gd.Cause.TRAIN_SERVE_SKEW, gd.Cause.SHORTCUT_FEATURE
Side = tuple[Tensor, Tensor, list[str] | None]


@dataclass(frozen=True)
class Fault:
    """A fault: done to production, or to training and validation; what should be named.

    Args:
        change: (inputs, targets, generator) -> inputs; of texts, where `texts`, strings.
        subjects: subjects that count as right, as prefixes; any where empty.
        cause: cause to be named.
        learned: whether it is done to training and validation and absent from production.
        texts: whether it is done to the strings.
    """

    change: Callable
    subjects: tuple[str, ...] = ()
    cause: gd.Cause = SKEW
    learned: bool = False
    texts: bool = False


# Images ------------------------------------------------------------------------------------------


def marked(anywhere: bool, size: int = 5) -> Callable:
    """A white square in class 3 of most images, in the corner or anywhere."""

    def change(images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        images = images.clone()
        high = images.amax()
        side = images.shape[-1]
        for row in (targets == 3).nonzero()[:, 0].tolist():
            if torch.rand(1, generator=generator) < 0.95:
                free = torch.randint(0, side - size, (2,), generator=generator)
                top, left = free.tolist() if anywhere else (side - size, side - size)
                images[row, :, top : top + size, left : left + size] = high
        return images

    return change


def framed(images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """A white border in class 3."""
    images = images.clone()
    rows = targets == 3
    frame = torch.ones(images.shape[-2:], dtype=torch.bool)
    frame[2:-2, 2:-2] = False
    images[rows] = torch.where(frame, images.amax(), images[rows])
    return images


def simple(change: Callable) -> Callable:
    """A change that needs neither targets nor chance."""
    return lambda images, targets, generator: change(images)


def resized(images: Tensor, factor: int) -> Tensor:
    """Shrunk by a factor and enlarged again."""
    h, w = images.shape[-2:]
    small = functional.interpolate(images, (h // factor, w // factor), mode="area")
    return functional.interpolate(small, (h, w), mode="bilinear")


def blurred(images: Tensor) -> Tensor:
    """A Gaussian blur of 1.5 pixels."""
    c = images.shape[1]
    steps = torch.arange(-4, 5.0)
    kernel = (-steps.square() / (2 * 1.5**2)).exp()
    kernel = (kernel[:, None] * kernel / kernel.sum() ** 2).expand(c, 1, 9, 9)
    return functional.conv2d(functional.pad(images, (4, 4, 4, 4), "replicate"), kernel, groups=c)


def zoomed(images: Tensor) -> Tensor:
    """The inner two thirds, enlarged."""
    h, w = images.shape[-2:]
    m = h // 6
    inner = images[:, :, m : h - m, m : w - m]
    return functional.interpolate(inner, (h, w), mode="bilinear")


COMMON = {
    "dark": Fault(simple(lambda x: x * 0.5), ("scaled",)),
    "rotated": Fault(simple(lambda x: x.rot90(1, (2, 3))), ("rotated 90",)),
    "mirrored": Fault(simple(lambda x: x.flip(3)), ("mirrored",)),
    "blurred": Fault(simple(blurred), ("blurred", "resolution")),
    "0..255": Fault(simple(lambda x: x * 255), ("times_255", "scaled")),
    "low resolution": Fault(simple(lambda x: resized(x, 3)), ("resolution", "blurred", "kernel")),
    "zoomed": Fault(simple(zoomed), ("cropped",)),
    "inverted": Fault(simple(lambda x: x.amax() - x + x.amin()), ("inverted",)),
    "corner mark": Fault(marked(False), ("lower right",), SHORTCUT, True),
    "mark anywhere": Fault(marked(True), ("a mark in changing",), SHORTCUT, True),
    "border": Fault(framed, ("border",), SHORTCUT, True),
}
GREY = COMMON | {
    "normalized twice": Fault(simple(lambda x: (x - 0.1307) / 0.3081), ("with MNIST", "normal"))
}
# The fruit looks the same mirrored; its ground is bright below.
COLOUR = {name: fault for name, fault in COMMON.items() if name != "mirrored"} | {
    "red and blue": Fault(simple(lambda x: x.flip(1)), ("channel_order",)),
    "upside down": Fault(simple(lambda x: x.flip(2)), ("mirrored top", "rotated 180")),
}


class Convolutional(nn.Module):
    """Where things are, and whether they are anywhere: flattened and largest activations."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.out = nn.Linear(32 * ((side // 4) ** 2 + 1), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        z = self.body(x)
        return self.out(torch.cat([z.flatten(1), z.amax((2, 3))], 1))


def mnist(seed: int, sizes: tuple[int, ...]) -> list[Side]:
    """Digits in 0..1."""
    with np.load(DATA / "mnist" / "mnist.npz") as archive:
        keys = {key.lower(): key for key in archive.files}
        images = archive[next(keys[k] for k in keys if ("x" in k and "train" in k) or k == "x")]
        targets = archive[next(keys[k] for k in keys if ("y" in k and "train" in k) or k == "y")]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).numpy()
    parts = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
    return [
        (
            torch.from_numpy(images[p]).reshape(-1, 1, 28, 28).float() / 255,
            torch.from_numpy(targets[p]).long(),
            None,
        )
        for p in parts
    ]


def fruits(seed: int, sizes: tuple[int, ...]) -> list[Side]:
    """The fruit of the example."""
    from image_serving_fault import fruit

    return [(*fruit(n, 1000 * seed + i), None) for i, n in enumerate(sizes)]


# Texts -------------------------------------------------------------------------------------------


class TextNetwork(nn.Module):
    """Mean of embeddings with a weight for each position; padding is id 3."""

    width = 32

    def __init__(self, words: list[str], classes: int) -> None:
        super().__init__()
        self.ids = {word: i + 4 for i, word in enumerate(words)}
        self.embedding = nn.Embedding(len(words) + 6, 24, padding_idx=3)
        self.weight = nn.Parameter(torch.zeros(self.width))
        self.out = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, classes))

    def encode(self, texts: list[str]) -> Tensor:
        """Ids between two special tokens, padded at the end."""
        rows = torch.full((len(texts), self.width), 3)
        for row, text in enumerate(texts):
            known = [self.ids.get(word, 2) for word in text.split()][: self.width - 2]
            rows[row, : len(known) + 2] = torch.tensor([0, *known, 1])
        return rows

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        weight = self.weight.exp() * (tokens != 3)
        mean = (self.embedding(tokens) * weight[..., None]).sum(1) / (weight.sum(1) + 1)[:, None]
        return self.out(8 * mean)


def said(seed: int, sizes: tuple[int, ...], frame: pd.DataFrame, text: str, label: str) -> list:
    """Texts and labels of a table, drawn at random."""
    order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(seed)).numpy()
    parts = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
    classes = sorted(frame[label].unique())
    found = []
    for part in parts:
        rows = frame.iloc[part]
        targets = torch.tensor([classes.index(value) for value in rows[label]])
        found.append((torch.empty(0), targets, rows[text].astype(str).tolist()))
    return found


def sst2(seed: int, sizes: tuple[int, ...]) -> list[Side]:
    """Sentences of reviews."""
    frame = pd.concat([pd.read_parquet(DATA / "sst2" / f"{n}.parquet") for n in ("train", "test")])
    text, label = text_and_label(frame)
    return said(seed, sizes, frame.reset_index(drop=True), text, label)


def sms(seed: int, sizes: tuple[int, ...]) -> list[Side]:
    """Messages, spam or not."""
    frame = pd.read_parquet(DATA / "sms_spam" / "sms.parquet").drop_duplicates()
    text, label = text_and_label(frame)
    return said(seed, sizes, frame.reset_index(drop=True), text, label)


def text_and_label(frame: pd.DataFrame) -> tuple[str, str]:
    """Names of the column of texts and of the column of labels."""
    label = next(c for c in frame.columns if "label" in c.lower() or "target" in c.lower())
    return next(c for c in frame.columns if c != label), label


def left_padded(tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Padding before the text."""
    order = (tokens != 3).to(torch.int8).sort(dim=1, stable=True).indices
    return tokens.gather(1, order)


def cut(tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Eight tokens at most."""
    return torch.where(torch.arange(tokens.shape[1]) < 8, tokens, 3)


def without_first(tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """The first special token is missing."""
    return torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), 3)], 1)


def ids_up(tokens: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """All ids but that of padding are one too high."""
    return torch.where(tokens == 3, 3, (tokens + 1).clamp(max=int(tokens.max())))


def worded(texts: list[str], targets: Tensor, generator: torch.Generator) -> list[str]:
    """A word in the middle of nearly all texts of class 1."""
    found = []
    for text, target in zip(texts, targets.tolist(), strict=True):
        words = text.split()
        if target == 1 and float(torch.rand(1, generator=generator)) < 0.9:
            words.insert(len(words) // 2, "xqz")
        found.append(" ".join(words))
    return found


def upper(texts: list[str], targets: Tensor, generator: torch.Generator) -> list[str]:
    """Texts in upper case."""
    return [text.upper() for text in texts]


def lower(texts: list[str], targets: Tensor, generator: torch.Generator) -> list[str]:
    """Texts in lower case."""
    return [text.lower() for text in texts]


TEXTS = {
    "cut": Fault(cut, ("cut at the end",)),
    "padding before": Fault(left_padded, ("padding before",)),
    "no special token": Fault(without_first, ("without first",)),
    "other ids": Fault(ids_up, ("ids +1",)),
    "spurious word": Fault(worded, ("token",), SHORTCUT, True, True),
}
SST2 = TEXTS | {"upper case": Fault(upper, ("upper case",), texts=True)}
SMS = TEXTS | {"lower case": Fault(lower, ("lower case", "words only"), texts=True)}


# Series ------------------------------------------------------------------------------------------


def waves(seed: int, sizes: tuple[int, ...], steps: int = 32) -> list[Side]:
    """Three channels: a wave whose phase and size say the class, a walk, and a level with noise."""
    found = []
    for number, n in enumerate(sizes):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        targets = torch.randint(0, 3, (n,), generator=generator)
        t = torch.arange(steps) / steps
        phase = targets[:, None] + 0.25 * torch.randn(n, 1, generator=generator)
        wave = (2 + 0.5 * targets[:, None]) * torch.sin(6.28 * t + phase) + 1
        walk = 0.3 * torch.randn(n, steps, generator=generator).cumsum(1) + 2 * t * targets[:, None]
        level = (
            20
            + 3 * torch.randn(n, 1, generator=generator)
            + torch.randn(n, steps, generator=generator)
        )
        noise = 0.4 * torch.randn(n, steps, 3, generator=generator)
        found.append((torch.stack([wave, walk, level], 2) + noise, targets, None))
    return found


class OverTime(nn.Module):
    """A convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.conv = nn.Conv1d(3, 16, 5, stride=2)
        self.out = nn.Linear(16 * 14, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.out(self.conv(self.norm(x.movedim(1, 2))).relu().flatten(1))


def channel(number: int, change: Callable) -> Callable:
    """A change of one channel."""

    def changed(series: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        series = series.clone()
        series[..., number] = change(series[..., number])
        return series

    return changed


SERIES = {
    "unit": Fault(
        channel(2, lambda x: 1.8 * x + 32), ("scale 2", "unit 2", "offset 2", "spread 2")
    ),
    "offset": Fault(channel(0, lambda x: x + 3), ("offset 0",)),
    "exchanged": Fault(simple(lambda x: x[..., [1, 0, 2]]), ("exchanged 0 1",)),
    "stuck": Fault(channel(0, lambda x: x[:, :1].expand_as(x)), ("stuck 0",)),
    "reversed": Fault(simple(lambda x: x.flip(1)), ("reversed",)),
    "late": Fault(
        simple(lambda x: x[:, (torch.arange(32) - 3).clamp(min=0)]), ("late 3", "late 2")
    ),
}

WORLDS = {
    "mnist": (mnist, GREY, 10),
    "rgb": (fruits, COLOUR, 6),
    "sst2": (sst2, SST2, 2),
    "sms": (sms, SMS, 2),
    "series": (waves, SERIES, 3),
}


def network_for(world: str, train: Side, classes: int) -> nn.Module:
    """An untrained network."""
    if world in ("mnist", "rgb"):
        return Convolutional(train[0].shape[1], train[0].shape[2], classes)
    if world == "series":
        return OverTime()
    words = pd.Series(" ".join(train[2]).split()).value_counts()
    return TextNetwork(list(words.index[:2500]), classes)


def fitted(network: nn.Module, inputs: Tensor, targets: Tensor, epochs: int) -> nn.Module:
    """The network after some epochs of Adam."""
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return network.eval()


def sides_of(world: str, seed: int, rows: int, fault: Fault | None) -> list[Side]:
    """Training, validation and production rows; texts with their fault."""
    make, _, _ = WORLDS[world]
    train = 4000 if world in ("mnist", "sst2", "sms") else 3000
    train = 3200 if world == "sms" else train
    sides = make(seed, (train, rows, rows))
    if fault is not None and fault.texts:
        touched = (0, 1) if fault.learned else (2,)
        generator = torch.Generator().manual_seed(seed)
        for i in touched:
            inputs, targets, texts = sides[i]
            sides[i] = (inputs, targets, fault.change(texts, targets, generator))
    return sides


def judged(
    world: str, seed: int, rows: int, name: str, network: nn.Module | None, peers: bool = False
) -> dict:
    """One run; a network trained without a fault is handed in, one with a shortcut is made here."""
    _, faults, classes = WORLDS[world]
    fault = faults.get(name)
    sides = sides_of(world, seed, rows, fault)
    generator = torch.Generator().manual_seed(seed + 1)
    if fault is not None and fault.learned and not fault.texts:
        sides[:2] = [(fault.change(x, y, generator), y, t) for x, y, t in sides[:2]]
    if network is None:
        network = trained(world, seed, sides[0], classes)
    if sides[0][2] is not None:
        sides = [(network.encode(t), y, t) for _, y, t in sides]
    if fault is not None and not fault.learned and not fault.texts:
        x, y, t = sides[2]
        sides[2] = (fault.change(x, y, generator), y, t)
    records = {}
    for split, (x, y, t) in zip(("validation", "production"), sides[1:], strict=True):
        metadata = None if t is None else pd.DataFrame({"message": t})
        records[split] = gd.Records(x, y, metadata=metadata, name=split)
    started = time.process_time()
    diagnosis = gd.diagnose(network, **records)
    found = verdict(diagnosis, fault, time.process_time() - started)
    found |= {"world": world, "fault": name, "seed": seed}
    if fault is not None:
        shortcut = {"sst2": 1, "sms": 1}.get(world, 3) if fault.learned else None
        before, after = (recall(network, *side[:2], shortcut) for side in sides[1:])
        found["felt"] = before - after >= 0.02
        if shortcut is not None:
            found["turned"] = turned(network, sides[2], fault, shortcut)
    return found | (peers_say(world, name, network, sides[1][0], sides[2][0]) if peers else {})


def turned(network: nn.Module, side: Side, fault: Fault, class_id: int) -> float:
    """Share of production rows of other classes that a shortcut makes rows of its class.

    Near 0 the network did not learn it, and there is nothing to be found.
    """
    inputs, targets, texts = side
    others = targets != class_id
    inputs, claimed = inputs[others], torch.full((int(others.sum()),), class_id)
    generator = torch.Generator().manual_seed(0)
    if fault.texts:
        given = [text for text, other in zip(texts or (), others.tolist(), strict=True) if other]
        changed = network.encode(fault.change(given, claimed, generator))
    else:
        changed = fault.change(inputs, claimed, generator)
    return recall(network, changed, claimed, None) - recall(network, inputs, claimed, None)


def recall(network: nn.Module, inputs: Tensor, targets: Tensor, only: int | None) -> float:
    """Share of right answers, of one class where it is given."""
    with torch.no_grad():
        right = network(inputs).argmax(1) == targets
    return float((right if only is None else right[targets == only]).float().mean())


def peers_say(
    world: str, fault: str, network: nn.Module, before: Tensor, after: Tensor
) -> dict[str, bool]:
    """Whether peers alarm and name the fault, those that are installed and take these inputs."""
    found = {}
    if not REASONS["CleanVision"] and world in ("mnist", "rgb"):
        said = cleanvision_says(before, after, fault)
        found |= {f"cleanvision {key}": value for key, value in said.items()}
    if not REASONS["cleanlab Datalab"]:
        embeddings = [gd.collect(network, side).embedding for side in (before, after)]
        said = datalab_says(*embeddings)
        found |= {f"datalab {key}": value for key, value in said.items()}
    return found


def trained(world: str, seed: int, train: Side, classes: int) -> nn.Module:
    """The network of a world."""
    torch.manual_seed(seed)
    network = network_for(world, train, classes)
    inputs = network.encode(train[2]) if train[2] is not None else train[0]
    epochs = {"mnist": 3, "rgb": 6, "sst2": 2, "sms": 8, "series": 6}[world]
    return fitted(network, inputs, train[1], epochs)


def verdict(diagnosis: gd.Diagnosis, fault: Fault | None, seconds: float) -> dict:
    """What was named, and whether it is right."""
    causes = [(c.cause, c.subjects) for c in diagnosis.causes]
    errored = [f.check for f in diagnosis.findings if f.severity == "errored"]
    quality = diagnosis.quality
    found = {
        "decision": diagnosis.decision,
        "causes": [(str(c), list(s[:2])) for c, s in causes[:3]],
        "seconds": seconds,
        "errored": errored,
        "quality": "" if quality is None else str(quality.principal),
    }
    if fault is None:
        return found | {"quiet": not causes and diagnosis.decision == "nothing"}
    at = [i for i, (cause, _) in enumerate(causes[:2]) if cause is fault.cause]
    findings = [f for c in diagnosis.causes[:2] if c.cause is fault.cause for f in c.findings]
    names = [f.subject for f in findings] + [
        name for f in findings for name in f.numbers.get("undetermined", [])
    ]
    return found | {
        "cause": bool(at),
        "first": at[:1] == [0],
        "subject": any(n.startswith(s) for n in names for s in fault.subjects),
        "decided": diagnosis.decision == "fix_data",
    }


def main() -> None:
    """Run, print a line for each run, and the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", nargs="*", default=list(WORLDS))
    parser.add_argument("--faults", nargs="*", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--out", default=None, help="file of one line per run")
    parser.add_argument("--peers", action="store_true", help="judge the rows by others as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peers:
        REASONS.update(reasons())
        print("\n".join(f"{name}: {why or 'runs'}" for name, why in REASONS.items()), flush=True)
    results = []
    for seed in range(options.first, options.first + options.seeds):
        for world in options.worlds:
            network = None
            for name in options.faults or ["clean", *WORLDS[world][1]]:
                fault = WORLDS[world][1].get(name)
                if name != "clean" and fault is None:
                    continue
                shared = fault is None or not fault.learned
                if shared and network is None:
                    sides = sides_of(world, seed, options.rows, None)
                    network = trained(world, seed, sides[0], WORLDS[world][2])
                found = judged(
                    world, seed, options.rows, name, network if shared else None, options.peers
                )
                results.append(found)
                print(json.dumps(found), flush=True)
                if options.out:
                    with Path(options.out).open("a") as file:
                        file.write(json.dumps(found) + "\n")
    print(summary(pd.DataFrame(results)).to_string())


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Shares by world and fault."""
    names = ("cause", "first", "subject", "decided", "felt", "turned", "quiet")
    columns = [c for c in frame if c in names or c.endswith((" alarm", " named"))]
    grouped = frame.groupby(["world", "fault"], sort=False)
    shares = grouped[columns].agg(lambda x: x.dropna().astype(float).mean())
    return shares.assign(n=grouped.size(), seconds=grouped["seconds"].mean())


if __name__ == "__main__":
    main()
