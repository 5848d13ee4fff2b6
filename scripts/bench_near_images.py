"""Copies of pictures across splits: how many of 60 are found, how many of 600 others alarm.

    python scripts/bench_near_images.py --first 0 --seeds 2
    python scripts/bench_near_images.py --data mnist fruit --peers

Sixty training pictures are copied into validation, each time changed in one way: shifted,
cropped, with noise, brighter, encoded by JPEG, resized. Beside ours stand hashes (imagehash,
CleanVision's near duplicates) at their thresholds, and the cosine of embeddings as in FiftyOne;
where a peer is not installed its column is left out and its reason printed. MNIST needs
../shared/data, photographs need scikit-learn.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from gendebug_torch.leakage.pictures.near_duplicate_images import near_duplicate_images
from gendebug_torch.modality.image import image_key

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT / "examples"))
COPIES, CLEAN = 60, 600
# Bits of 64 that two hashes differ by at most: as imagehash's users and CleanVision set them.
_PHASH_BITS, _CLEANVISION_BITS = 8, 0
# Cosine of embeddings from which two pictures are near duplicates in FiftyOne's examples.
_COSINE = 0.98


# Pictures ----------------------------------------------------------------------------------------


def mnist(seed: int) -> tuple[Tensor, Tensor]:
    """Digits `[n, 1, 28, 28]`: 4,000 to train on and 600 others."""
    with np.load(FILES / "mnist" / "mnist.npz") as archive:
        images = archive[next(k for k in archive.files if "x" in k.lower() and "train" in k)]
    order = torch.randperm(len(images), generator=own(seed)).numpy()[: 4000 + CLEAN]
    pictures = torch.from_numpy(images[order]).reshape(-1, 1, 28, 28).float() / 255
    return pictures[:4000], pictures[4000:]


def fruit(seed: int) -> tuple[Tensor, Tensor]:
    """The fruit of the example, `[n, 3, 24, 24]`: one disc or square under weak noise."""
    import image_serving_fault as example

    return tuple(example.fruit(n, 1000 * seed + i)[0] for i, n in enumerate((3000, CLEAN)))


def discs(seed: int) -> tuple[Tensor, Tensor]:
    """One white disc on black somewhere, `[n, 1, 24, 24]`, under weak noise."""
    made, generator = [], own(seed)
    for n in (3000, CLEAN):
        place = 8 + 8 * torch.rand(n, 2, 1, 1, generator=generator)
        radius = 3 + 3 * torch.rand(n, 1, 1, generator=generator)
        steps = torch.arange(24.0)
        away = (steps[:, None] - place[:, 0]).square() + (steps - place[:, 1]).square()
        noise = 0.05 * torch.randn(n, 24, 24, generator=generator)
        made.append(((away < radius.square()).float() + noise).clamp(0, 1)[:, None])
    return made[0], made[1]


def textures(seed: int) -> tuple[Tensor, Tensor]:
    """Smooth random colours, `[n, 3, 32, 32]`, with the spectrum of photographs."""
    generator = own(seed)
    frequency = torch.fft.fftfreq(32)[:, None].square() + torch.fft.rfftfreq(32).square()
    falling = 1 / frequency.sqrt().clamp(min=1 / 32)
    n = 2000 + CLEAN
    waves = torch.fft.rfft2(torch.randn(n, 4, 32, 32, generator=generator)) * falling
    grey, colour = torch.fft.irfft2(waves, s=[32, 32]).split([1, 3], 1)
    pictures = (0.5 + 0.06 * (grey + 0.3 * colour)).clamp(0, 1)
    return pictures[:2000], pictures[2000:]


def patches(seed: int) -> tuple[Tensor, Tensor]:
    """Patches of photographs that do not overlap, `[n, 3, 24, 24]`: 800 to train on, 600 others."""
    from matplotlib import cbook
    from sklearn.datasets import load_sample_images

    hopper = np.asarray(Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    parts = []
    for photograph in [*load_sample_images().images, hopper]:
        pixels = torch.from_numpy(np.array(photograph)).movedim(2, 0).float() / 255
        tiles = pixels.unfold(1, 24, 24).unfold(2, 24, 24).flatten(1, 2).movedim(1, 0)
        parts.append(tiles)
    every = torch.cat(parts)
    every = every[torch.randperm(len(every), generator=own(seed))]
    return every[:800], every[800 : 800 + CLEAN]


DATA = {f.__name__: f for f in (mnist, fruit, discs, textures, patches)}


# Copies ------------------------------------------------------------------------------------------


def own(seed: int) -> torch.Generator:
    """A generator of this seed."""
    return torch.Generator().manual_seed(seed)


def shifted(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Moved by one or two pixels down and across; what is uncovered repeats the border."""
    h, w = pictures.shape[2:]
    padded = functional.pad(pictures, (2, 2, 2, 2), "replicate")
    moves = torch.randint(0, 4, (len(pictures), 2), generator=generator)
    moves += (moves >= 2).long()
    rows = zip(padded, moves.tolist(), strict=True)
    return torch.stack([p[:, y : y + h, x : x + w] for p, (y, x) in rows])


def cropped(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A part of 85 to 95 % a side, anywhere, enlarged."""
    found = []
    for picture in pictures:
        h = picture.shape[1]
        side = int(torch.randint(round(0.85 * h), round(0.95 * h) + 1, (1,), generator=generator))
        top, left = torch.randint(0, h - side + 1, (2,), generator=generator).tolist()
        part = picture[None, :, top : top + side, left : left + side]
        found.append(functional.interpolate(part, (h, h), mode="bilinear")[0])
    return torch.stack(found)


def noisy(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of 5 % of white."""
    return (pictures + 0.05 * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)


def resized(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shrunk to a half or to two thirds, and enlarged again."""
    h = pictures.shape[2]
    small = [
        functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
        for part, size in zip(pictures.chunk(2), (h // 2, 2 * h // 3), strict=True)
    ]
    return torch.cat([functional.interpolate(p, (h, h), mode="bicubic") for p in small]).clamp(0, 1)


def jpeg(quality: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Encoded as JPEG and read again."""

    def change(pictures: Tensor, generator: torch.Generator) -> Tensor:
        found = []
        for picture in images_of(pictures):
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=quality)
            array = np.array(Image.open(stream))
            found.append(torch.from_numpy(array.reshape(*array.shape[:2], -1)).movedim(2, 0))
        return torch.stack(found).float() / 255

    return change


KINDS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "shifted": shifted,
    "cropped": cropped,
    "noisy": noisy,
    "jpeg 90": jpeg(90),
    "jpeg 75": jpeg(75),
    "jpeg 50": jpeg(50),
    "resized": resized,
    "brighter": lambda pictures, generator: 0.7 * pictures + 0.2,
}


def images_of(pictures: Tensor) -> list[Image.Image]:
    """Pictures `[n, c, h, w]` in 0..1 as Pillow holds them."""
    arrays = (255 * pictures).round().to(torch.uint8).movedim(1, 3).numpy()
    return [Image.fromarray(a[..., 0] if a.shape[2] == 1 else a) for a in arrays]


# Finders: (train, validation) -> rows and partners -----------------------------------------------

Found = tuple[list[int], list[int]]


def ours(train: Tensor, validation: Tensor) -> Found:
    """By keys alone."""
    found = near_duplicate_images(image_key(train), image_key(validation))
    return found.rows.tolist(), found.partners.tolist()


def by_hash(name: str, most: int) -> Callable[[Tensor, Tensor], Found]:
    """A hash of imagehash, and the bits that copies differ by at most."""

    def find(train: Tensor, validation: Tensor) -> Found:
        import imagehash

        function = getattr(imagehash, name)
        before, after = (
            torch.from_numpy(np.stack([function(p).hash.ravel() for p in images_of(side)])).float()
            for side in (train, validation)
        )
        nearest = torch.cdist(after, before, p=1).min(1)
        rows = (nearest.values <= most).nonzero()[:, 0]
        return rows.tolist(), nearest.indices[rows].tolist()

    return find


def by_cosine(train: Tensor, validation: Tensor) -> Found:
    """Cosine of pixels, as of an embedding at FiftyOne's usual threshold."""
    before, after = (functional.normalize(side.flatten(1), dim=1) for side in (train, validation))
    nearest = (after @ before.T).max(1)
    rows = (nearest.values >= _COSINE).nonzero()[:, 0]
    return rows.tolist(), nearest.indices[rows].tolist()


PEERS = {
    "imagehash phash <= 8": by_hash("phash", _PHASH_BITS),
    "imagehash dhash <= 8": by_hash("dhash", _PHASH_BITS),
    "CleanVision (phash = 0)": by_hash("phash", _CLEANVISION_BITS),
    "cosine >= 0.98": by_cosine,
}


def main() -> None:
    """Print a table: copies found of 60 with their original, and others that alarm of 600."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(DATA))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    finders = {"gendebug": ours} | (PEERS if options.peers else {})
    lines = []
    for seed in range(options.first, options.first + options.seeds):
        for name in options.data:
            train, clean = DATA[name](seed)
            changed = [KINDS[kind](train[:COPIES], own(seed + 1)) for kind in options.kinds]
            for finder, find in finders.items():
                line = {"data": name, "finder": finder, "seed": seed}
                started = time.process_time()
                line["alarms"] = len(find(train, clean)[0])
                line["seconds"] = time.process_time() - started
                for kind, copies in zip(options.kinds, changed, strict=True):
                    rows, partners = find(train, torch.cat([clean, copies]))
                    pairs = dict(zip(rows, partners, strict=True))
                    line[kind] = sum(pairs.get(len(clean) + i) == i for i in range(COPIES))
                lines.append(line)
                print(line, flush=True)
    table = pd.DataFrame(lines).drop(columns="seed")
    print(table.groupby(["data", "finder"], sort=False).mean().round(1).to_string())


if __name__ == "__main__":
    main()
