"""Networks from names and files: MODULE:NAME, weights, exported programs; nothing is unpickled."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import pickletools
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
from torch import Tensor, nn

from gendebug_torch.data.files import sha256_of
from gendebug_torch.errors import MissingExtraError, brief, reading, reject
from gendebug_torch.model.collection.callables import as_model, is_estimator

# Files that hold a network with its weights.
_FILES = (".onnx", ".pt", ".pt2", ".pth", ".ts")


def import_name(name: str, argument: str) -> Any:
    """What MODULE:NAME names, importable from the current folder.

    Raises:
        InputError: it is not written so, or cannot be imported.
    """
    module, separator, attribute = name.partition(":")
    if not separator:
        reject(argument, "MODULE:NAME", repr(name), "Write e.g. `my_package.networks:build`.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    # A module runs when it is imported, and may do anything, also end the program.
    except (Exception, SystemExit) as error:
        got = f"{name!r}: {type(error).__name__}: {error}"
        remedy = "Run from the folder that holds the module."
        reject(argument, "something importable from here", got, remedy)
    finally:
        sys.path.pop(0)


def load_network(name: str, weights: str | None) -> Any:
    """The network that MODULE:NAME names, or that a function there returns, or that of a file.

    Raises:
        InputError: it cannot be imported or read, its function breaks, or it is no network.
    """
    if Path(name).suffix in _FILES:
        if weights is not None:
            got, remedy = f"{weights} with {name}", "Leave it out; the file holds its weights."
            reject("--weights", "a network without weights of its own", got, remedy)
        return load_served(name, "--model")
    network = import_name(name, "--model")
    expected = "a network, or a function that returns one without arguments"
    if not isinstance(network, nn.Module) and callable(network):
        with reading(name, expected, "--model", "Correct the function, or name the network."):
            network = network()
    if not callable(network) and not is_estimator(network):
        reject("--model", expected, f"{name}, {brief(network)}", "Name the network itself.")
    network = as_model(network)
    if weights is not None:
        load_weights(network, weights)
    return network


def load_weights(network: Any, path: str) -> None:
    """Load the state of a network from safetensors, or from a checkpoint that holds tensors alone.

    Checkpoints are those of torch.save or Lightning.
    """
    expected = "the state of this network, in a file that is read without unpickling"
    remedy = "Write it with safetensors.torch.save_model."
    with reading(path, expected, "--weights", remedy):
        network.load_state_dict(state_of_file(path, network.state_dict()))


def state_of_file(path: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a file by the names of a network; nothing is unpickled but tensors.

    A LightningModule may have stored them under a prefix, such as `model.`.

    Args:
        path: safetensors, or a checkpoint of torch.save or Lightning that holds tensors alone.
        own: state of the network.
    """
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        _check_sum(Path(path))
        return load_file(path)
    held = load_tensors(path)
    state = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"it holds {brief(state)} and no tensors by name")
    first = next(iter(own), "")
    prefix = next((name.removesuffix(first) for name in state if name.endswith("." + first)), "")
    return (
        state
        if first in state
        else {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
    )


# Names of classes have fewer characters. PyTorch searches the message about a name that it does not
# know in a time that grows with the square of the length: 20 s for 15,000 characters.
_LONGEST_NAME = 500
# First byte of every pickle that PyTorch writes.
_PROTOCOL = b"\x80"
# Pickles before the tensors of a file of the layout without an archive.
_PICKLES = 5


def load_tensors(source: str | Path | io.BytesIO) -> Any:
    """What torch.save wrote, on the CPU; nothing is unpickled but tensors and plain values.

    Args:
        source: path, or content of the file, which is closed.

    Raises:
        ValueError: the file is no archive and begins with no pickle, or names a class by hundreds
            of characters, as a damaged one does.
        pickle.UnpicklingError: the file holds more than tensors and plain values.
    """
    with source if isinstance(source, io.BytesIO) else open(source, "rb") as content:
        if not zipfile.is_zipfile(content):
            content.seek(0)
            if content.read(1) != _PROTOCOL:
                raise ValueError("it is no file of torch.save")
        for name in _names_of_classes(content):
            if len(name) > _LONGEST_NAME:
                raise ValueError(f"it names a class by {len(name):,} characters: it is damaged")
        content.seek(0)
        return torch.load(content, map_location="cpu", weights_only=True)


def _names_of_classes(content: IO[bytes]) -> Iterator[str]:
    """Names that the pickles of a file refer to, as far as they can be read."""
    archive = zipfile.is_zipfile(content)
    content.seek(0)
    # What cannot be read, PyTorch refuses afterwards.
    with contextlib.suppress(ValueError, zipfile.BadZipFile, NotImplementedError):
        if not archive:
            for _ in range(_PICKLES):
                yield from _texts(content)
            return
        with zipfile.ZipFile(content) as entries:
            for name in entries.namelist():
                if name.endswith(".pkl"):
                    yield from _texts(entries.open(name))


def _texts(pickled: IO[bytes]) -> Iterator[str]:
    return (
        str(text)
        for operation, text, _ in pickletools.genops(pickled)
        if operation.name in ("GLOBAL", "INST")
    )


def _check_sum(path: Path) -> None:
    """Refuse weights that `Recalibration.save` wrote and that have changed since."""
    note = path.with_name("calibration.json")
    if path.name != "model.safetensors" or not note.exists():
        return
    expected = json.loads(note.read_text("utf-8")).get("model_sha256")
    if expected is not None and sha256_of(path) != expected:
        raise ValueError(f"its SHA-256 is not the one in {note.name}, so that it is damaged")


# Of these loading runs what the file brings: pickles of old layouts, of custom objects, and
# compiled libraries.
_RUNS = ("data/aotinductor/", "custom_obj", "opaque_obj", "serialized_")


def load_program(path: str, argument: str) -> Any:
    """The module of an exported program, its tensors taken from raw bytes.

    torch.export.load unpickles tensors of subclasses, custom objects, files of old layouts and
    samples of inputs that hold more than tensors; such a file is refused. What is left is a program
    all the same: PyTorch builds Python of its graph, so only a file that you exported yourself is
    to be loaded.

    Raises:
        InputError: no such file, another layout, or one that would be unpickled.
    """
    remedy = "Check the path, or export it again with torch.export.save."
    with reading(path, "a file that torch.export.save wrote", argument, remedy):
        with zipfile.ZipFile(path) as archive:
            unpickled = _unpickled(archive)
        if unpickled is None:
            with _without_log("torch.export"):
                return torch.export.load(path).module()
    remedy = (
        "Export a network of plain tensors, with plain tensors as sample inputs, by a PyTorch that "
        "stores them raw (2.6 pickles them); or pass MODULE:NAME and weights."
    )
    reject(
        argument, "an exported program that holds nothing pickled", f"{unpickled} in {path}", remedy
    )


@contextlib.contextmanager
def _without_log(name: str) -> Iterator[None]:
    """Within it a library logs nothing: what it logs is raised as well."""
    logger = logging.getLogger(name)
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


def _unpickled(archive: zipfile.ZipFile) -> str | None:
    """The first entry that loading would unpickle or run."""
    # PyTorch finds entries whatever their case, and the first of two of one name, where Python
    # finds the last.
    if twice := [
        name for name, times in Counter(map(str.lower, archive.namelist())).items() if times > 1
    ]:
        return twice[0]
    for entry in archive.namelist():
        place = PurePosixPath(entry.lower())
        inner = "/".join(place.parts[1:])
        if (
            inner.startswith(_RUNS[0])
            or place.name.startswith(_RUNS[1:])
            or (place.suffix == ".pt" and "sample_inputs" not in place.parts)
        ):
            return entry
        if (
            place.suffix == ".pt"
            and (content := archive.read(entry))
            and not _only_tensors(content)
        ):
            return entry
        if place.name.endswith("_config.json"):
            kept = json.loads(archive.read(entry)).get("config", {})
            if pickled := [name for name, payload in kept.items() if payload.get("use_pickle")]:
                return str(pickled[0])
    return None


def _only_tensors(content: bytes) -> bool:
    """Whether a file of torch.save holds tensors and plain values alone."""
    try:
        load_tensors(io.BytesIO(content))
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        return False
    return True


_SERVED = "an .onnx, .pt2, TorchScript (.pt, .ts) file, or MODULE:NAME of a callable"


def load_served(name: str, argument: str = "--served") -> Callable[[Tensor], Any]:
    """What a file or name serves, as a callable of one batch of inputs.

    A file of TorchScript or an exported program is a program, and MODULE:NAME is imported: load
    only what you made yourself.

    Args:
        name: path of an ONNX model, a TorchScript archive or an exported program, or MODULE:NAME.
        argument: name of the option, for messages.

    Raises:
        InputError: no such file, another format, or something that cannot be called.
        MissingExtraError: an ONNX model without ONNX Runtime.
    """
    suffix = Path(name).suffix
    if suffix == ".onnx":
        return _onnx(name, argument)
    if suffix == ".pt2":
        program: Callable[[Tensor], Any] = load_program(name, argument)
        return program
    if suffix in (".pt", ".ts", ".pth"):
        with reading(name, "a TorchScript archive", argument, "Write it with torch.jit.save."):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=DeprecationWarning)
                script: Callable[[Tensor], Any] = torch.jit.load(  # type: ignore[no-untyped-call]
                    name, map_location="cpu"
                )
            return script
    if ":" not in name:
        reject(argument, _SERVED, repr(name), "Pass one of them.")
    called = import_name(name, argument)
    if not callable(called):
        reject(argument, _SERVED, f"{name}, {brief(called)}", "Name a callable.")
    answer: Callable[[Tensor], Any] = called
    return answer


def _onnx(path: str, argument: str) -> Callable[[Tensor], Tensor]:
    """An ONNX model of one input, on the CPU; its first output counts."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "an ONNX model needs ONNX Runtime: pip install onnxruntime"
        ) from error
    with reading(path, "an ONNX model", argument, "Check the path, or export it again."):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs)
        reject(argument, "an ONNX model of one input", names, "Wrap it in a callable.")
    rows = inputs[0].shape[0] if inputs[0].shape else None

    def ask(batch: Tensor) -> Tensor:
        pieces = torch.split(batch, rows) if isinstance(rows, int) and rows > 0 else (batch,)
        expected = f"an ONNX model of inputs {list(batch.shape)}"
        with reading(path, expected, argument, "Export it for the rows that it is given."):
            answers = [
                session.run(None, {inputs[0].name: piece.cpu().numpy()})[0] for piece in pieces
            ]
            return torch.cat([torch.from_numpy(answer) for answer in answers])

    return ask
