"""A folder of pictures, one folder in it for each class, as a data set."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gendebug_torch.data.task import IGNORED
from gendebug_torch.errors import MissingExtraError, reject

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Pixels of all pictures together that are held in memory, in bytes.
_MOST_BYTES = 4 * 2**30
_NAMED = 5


@dataclass(frozen=True, eq=False)
class ImageFolder(Dataset[Any]):
    """Pictures of one size in memory, as a network is fed them: floats in 0..1, channels first.

    Args:
        pixels: pictures `[n, c, h, w]` uint8, or int32 of 16-bit ones.
        targets: class ids `[n]`, -100 of pictures outside the folders of classes.
        classes: names of the classes in the order of their ids.
        files: path of each picture below the folder, n.
        sizes: width and height of each picture as it was stored, n.
        unreadable: files that were skipped, each with the reason.
    """

    pixels: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    files: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    unreadable: dict[str, str]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> str:
        """What each picture is, e.g. `3 x 32 x 24`: channels, height and width."""
        return " x ".join(map(str, self.pixels.shape[1:]))

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        most = 255 if self.pixels.dtype is torch.uint8 else 65535
        return self.pixels[row].float() / most, self.targets[row]

    @property
    def metadata(self) -> pd.DataFrame:
        """File, width and height of each picture, `[n, 3]`."""
        columns = {"file": list(self.files)}
        width, height = zip(*self.sizes, strict=True)
        return pd.DataFrame(columns).assign(width=list(width), height=list(height))


def class_folders(path: str | Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones: classes of its pictures."""
    return sorted(e.name for e in Path(path).iterdir() if e.is_dir() and not _is_hidden(e.name))


def read_image_folder(
    path: str | Path, classes: Sequence[Any] = (), size: Sequence[int] = ()
) -> ImageFolder:
    """The pictures of a folder in the order of their paths, those of each class in one folder.

    Grey pictures have one channel where all are grey, 16 bits where all have them; else pictures
    are RGB, without palette and transparency. Those of another size than most are resized to it
    (bilinear, over all pixels that one covers), with a warning; files that cannot be read are
    skipped, counted and named.

    Args:
        path: folder; of pictures directly in it the class is not known.
        classes: names of the classes in the order of their ids; default the folders, sorted.
        size: width and height to which all are resized, without a warning; default that of most.

    Raises:
        InputError: no picture that can be read, a folder that is no class, or more pixels than fit
            into 4 GiB.
        MissingExtraError: Pillow is not installed.
    """
    root = Path(path)
    names = tuple(map(str, classes)) or tuple(class_folders(root))
    if strays := [name for name in class_folders(root) if name not in names]:
        got = f"a folder {strays[0]!r} in {root}"
        reject("path", f"folders named as the classes {list(names)}", got, "Rename or remove it.")
    files = [
        file
        for file in sorted(root.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and not any(map(_is_hidden, file.relative_to(root).parts))
        and not file.is_dir()
    ]
    unreadable: dict[str, str] = {}
    heads = dict(_readable(files, unreadable, lambda picture: (picture.size, picture.mode)))
    sizes = Counter(size for size, _ in heads.values())
    if not sizes:
        got = f"{len(files)} pictures of which none can be read in {root}"
        reject("path", f"pictures ({', '.join(SUFFIXES)})", got, "Check the folder.")
    shape = (size[0], size[1]) if size else sizes.most_common(1)[0][0]
    mode = _common_mode({mode for _, mode in heads.values()})
    if (total := len(heads) * math.prod(shape) * (3 if mode == "RGB" else 1)) > _MOST_BYTES:
        got = f"{len(heads):,} pictures of {shape[0]} x {shape[1]}, {total / 2**30:.1f} GiB"
        reject("path", "at most 4 GiB of pixels", got, "Pass MODULE:NAME of a loader.")
    read = dict(_readable(list(heads), unreadable, lambda picture: _pixels(picture, shape, mode)))
    others = 0 if size else sum(heads[file][0] != shape for file in read)
    _warn(root, unreadable, others, shape)
    if not read:
        got = f"{len(files)} pictures of which none can be read in {root}"
        reject("path", f"pictures ({', '.join(SUFFIXES)})", got, "Check the folder.")
    places = [file.relative_to(root) for file in read]
    ids = {name: i for i, name in enumerate(names)}
    return ImageFolder(
        torch.stack(list(read.values())),
        torch.tensor([ids.get(place.parts[0], IGNORED) for place in places]),
        names,
        tuple(place.as_posix() for place in places),
        tuple(heads[file][0] for file in read),
        unreadable,
    )


def _is_hidden(name: str) -> bool:
    """Whether an entry is bookkeeping of notebooks or of a desktop, as `.ipynb_checkpoints`."""
    return name.startswith(".") or name == "__MACOSX"


def _readable(files: Sequence[Path], unreadable: dict[str, str], look: Any) -> Iterator[Any]:
    """(file, what `look` makes of its picture); of files that cannot be read the reason is kept."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "Reading pictures needs Pillow: pip install gendebug_torch[images]"
        ) from error
    for file in files:
        try:
            with warnings.catch_warnings():
                # A picture that Pillow takes for a decompression bomb is refused, not announced.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file) as picture:
                    found = look(picture)
        # Damaged pictures raise whatever the decoder of their format does.
        except Exception as error:
            unreadable[str(file)] = f"{type(error).__name__}: {error}"
        else:
            yield file, found


def _common_mode(modes: set[str]) -> str:
    """The mode in which all pictures are read."""
    if all(mode.startswith("I") for mode in modes):
        return "I"
    return "L" if modes <= {"L", "1"} else "RGB"


def _pixels(picture: Image.Image, size: tuple[int, int], mode: str) -> Tensor:
    """A picture `[c, h, w]` of this size and mode."""
    shown: Image.Image = picture if mode == "I" else _in_eight_bits(picture)
    if shown.mode != mode and mode != "I":
        shown = shown.convert(mode)
    if shown.size != size:
        shown = shown.resize(size, resample=2)
    array = np.array(shown, dtype=np.int32 if mode == "I" else np.uint8)
    array = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of 16 bits or floats, which Pillow would cut at 255, with 8 bits; others as is."""
    from PIL import Image

    if picture.mode == "P" and "transparency" in picture.info:
        # The colours under transparent pixels, as those of RGBA.
        return picture.convert("RGBA")
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) / 256).astype(np.uint8))
    if picture.mode != "F":
        return picture
    values = np.nan_to_num(np.asarray(picture))
    # Floats in 0..1 are shares of white.
    scale = 255.0 if values.max(initial=0.0) <= 1 else 1.0
    return Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))


def _warn(root: Path, unreadable: dict[str, str], resized: int, size: tuple[int, int]) -> None:
    if unreadable:
        listed = ", ".join(list(unreadable)[:_NAMED])
        first = next(iter(unreadable.values()))
        text = f"{len(unreadable)} files of {root} cannot be read and are left out: {listed}"
        warnings.warn(f"{text} ({first})", stacklevel=3)
    if resized:
        text = f"{resized} pictures of {root} have another size and are resized"
        warnings.warn(f"{text} to {size[0]} x {size[1]}", stacklevel=3)
