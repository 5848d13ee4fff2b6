"""Devices, ranks, and what to do where the memory of a device runs out."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch

from gendebug_torch.errors import reject

T = TypeVar("T")
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

AUTOCAST = {"32-true": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
# Libraries under torch report a failed allocation in words of their own.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def device_of(device: str | torch.device) -> torch.device:
    """The device with its number; `auto` is CUDA where there is one.

    Raises:
        InputError: an unknown device, or one that this machine lacks.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        result = torch.device(device)
    except RuntimeError as error:
        reject(
            "device",
            "`auto`, `cpu`, `cuda` or `cuda:N`",
            f"{device!r} ({error})".partition("\n")[0],
            "Choose one of them.",
        )
    if result.type == "cuda" and not torch.cuda.is_available():
        reject("device", "a device that this machine has", repr(device), "Pass `auto` or `cpu`.")
    if result.type == "cuda" and (result.index or 0) >= (count := torch.cuda.device_count()):
        got = f"{device!r} of {count} CUDA devices"
        reject("device", "a device that this machine has", got, "Count from 0.")
    if result.type != "cuda" or result.index is not None:
        return result
    # torchrun starts one process per device and says which, but does not choose it.
    local = os.environ.get("LOCAL_RANK") if world_size() > 1 else None
    current = torch.cuda.current_device()
    return torch.device(
        "cuda", current if local is None else int(local) % torch.cuda.device_count()
    )


@contextlib.contextmanager
def device_context(device: torch.device, precision: Precision) -> Iterator[None]:
    """A device as the current one, so that its streams and events are meant, with its autocast.

    On CUDA products of float32 keep all their digits meanwhile, as on the CPU.
    """
    dtype = AUTOCAST[precision]
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
            stack.enter_context(full_float32())
        stack.enter_context(torch.autocast(device.type, dtype=dtype, enabled=dtype is not None))
        yield


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """TF32 switched off for matrix products, convolutions and recurrent layers, and put back.

    TF32 keeps 10 bits of the mantissa, so that answers would differ from the CPU's by about 1e-3.
    torch has it on for convolutions. Its settings have two names: those before torch 2.9, which
    raise where the newer ones were set, and the newer ones.
    """
    backends: Any = torch.backends
    layers = ("conv", "rnn")
    newer = [backends.cuda.matmul] + [getattr(backends.cudnn, name, None) for name in layers]
    newer = [setting for setting in newer if hasattr(setting, "fp32_precision")]
    kept = [setting.fp32_precision for setting in newer]
    older: tuple[str, bool] | None
    try:
        older = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:
        older = None
    try:
        if older is not None:
            torch.set_float32_matmul_precision("highest")
            backends.cudnn.allow_tf32 = False
        for setting in newer if older is None else ():
            setting.fp32_precision = "ieee"
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older[0])
            backends.cudnn.allow_tf32 = older[1]
        for setting, value in zip(newer, kept, strict=True):
            setting.fp32_precision = value


def rank_and_world() -> tuple[int, int]:
    """Rank of this process and number of processes under torch.distributed; (0, 1) without it."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def world_size() -> int:
    """Processes that share the rows."""
    return rank_and_world()[1]


def fitting(attempt: Callable[[], T], shrink: Callable[[], bool]) -> T:
    """The result of `attempt`, repeated with less after running out of memory.

    It gives up where `shrink` cannot make the next attempt smaller.
    """
    while True:
        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error) or not shrink():
                raise
        # Outside the except block, so that the traceback no longer holds the tensors of the failed
        # attempt.
        gc.collect()
        torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(text in str(error) for text in _OUT_OF_MEMORY)
