"""Two CUDA devices in host memory, for a CPU build of torch: `pytest -p tests.simulated_cuda`.

Tensors are `cuda:0` or `cuda:1`, and torch.cuda answers as where there is a GPU. What a GPU refuses
is refused: mixed devices, generators of the host, products of whole numbers, sums without an order
in deterministic mode. `counts()` gives the operations and the waits of the host, `memory(bytes)`
lets memory run out. Numbers are the CPU's (no TF32, no other order of sums), and nothing is timed.
"""

import contextlib
import ctypes
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

from tests.simulated_cuda.build import build

# torch asks once, while it is imported, whether there is CUDA.
if "torch" in sys.modules:
    raise ImportError("tests.simulated_cuda must be imported before torch, e.g. by `pytest -p`")
_C = ctypes.CDLL(str(build()), mode=os.RTLD_NOW | os.RTLD_GLOBAL)
_C.simulated_limit.argtypes = [ctypes.c_int64]
_C.simulated_live.restype = _C.simulated_peak.restype = ctypes.c_int64
_C.simulated_are_waits_errors.restype = ctypes.c_bool
_REPORT = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)
_SILENT = _REPORT()
import torch  # noqa: E402

_MODES = {"default": False, "warn": False, "error": True, 0: False, 1: False, 2: True}
_GIBIBYTE = 2**30


@dataclass
class Counts:
    """What reached the devices: operations, copies, and waits by (operation, line of ours)."""

    operations: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, kind: str, name: str) -> None:
        if kind == "wait":
            self.waits[name, _line()] += 1
        else:
            (self.operations if kind == "operation" else self.copies)[name] += 1

    def total(self) -> tuple[int, int]:
        """Operations and waits."""
        return self.operations.total(), self.waits.total()


_counting: list[Counts] = []


@contextlib.contextmanager
def counts():
    """The `Counts` of what runs inside."""
    made = Counts()
    report = _REPORT(lambda kind, name: made.add(kind.decode(), name.decode()))
    _counting.append(made)
    _C.simulated_report(report)
    try:
        yield made
    finally:
        _C.simulated_report(_SILENT)
        _counting.remove(made)


@contextlib.contextmanager
def memory(size):
    """At most this many more bytes on the devices."""
    _C.simulated_limit(size)
    try:
        yield
    finally:
        _C.simulated_limit(0)


def _line():
    """The innermost line of the library that is running; the backward pass has none."""
    frame = sys._getframe(2)
    while frame is not None:
        _, found, name = frame.f_code.co_filename.rpartition("/gendebug_torch/")
        if found:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _wait(*args):
    for made in _counting:
        made.add("wait", "synchronize")


# torch keeps some of its functions in sets, which functions of ctypes cannot enter.
def _current():
    return _C.simulated_current()


def _devices():
    return _C.simulated_devices()


def _exchange(index):
    return _C.simulated_exchange(index)


def _index(device):
    index = device if isinstance(device, int) or device is None else torch.device(device).index
    return _current() if index is None else index


class _Stream:
    cuda_stream = 0

    def __init__(self, *args, **kwargs):
        self.device = torch.device("cuda", _current())

    def __enter__(self):
        return self

    def __exit__(self, *args):
        return False

    def _nothing(self, *args):
        pass

    synchronize = _wait
    wait_stream = wait_event = _nothing


class _Event:
    def __init__(self, *args, **kwargs):
        pass

    def record(self, *args):
        pass

    def query(self):
        return True

    wait = record
    synchronize = _wait


def _answer(value=None):
    """A function of its own for each name: torch refuses one function under two of them."""
    return lambda *args, **kwargs: value


def _set_mode(mode):
    _C.simulated_waits_are_errors(_MODES[mode])


def _random_state(device=None):
    return torch.zeros(16, dtype=torch.uint8)


_PROPERTIES = SimpleNamespace(
    name="simulated", total_memory=80 * _GIBIBYTE, multi_processor_count=132, major=9, minor=0
)
_CUDA = {
    "_exchange_device": _exchange,
    "_maybe_exchange_device": lambda index: _exchange(index),
    "_lazy_init": _answer(),
    "init": _answer(),
    "is_initialized": _answer(True),
    "set_device": lambda device: _exchange(_index(device)),
    "current_device": _current,
    "Event": _Event,
    "Stream": _Stream,
    "current_stream": lambda device=None: _Stream(),
    "default_stream": lambda device=None: _Stream(),
    "stream": lambda stream: contextlib.nullcontext(),
    "synchronize": lambda device=None: _wait(),
    "empty_cache": _answer(),
    "mem_get_info": _answer((70 * _GIBIBYTE, 80 * _GIBIBYTE)),
    "memory_allocated": lambda device=None: _C.simulated_live(),
    "max_memory_allocated": lambda device=None: _C.simulated_peak(),
    "memory_reserved": lambda device=None: _C.simulated_live(),
    "reset_peak_memory_stats": lambda device=None: _C.simulated_reset_peak(),
    "get_rng_state": _random_state,
    "get_rng_state_all": lambda: [_random_state()] * _devices(),
    "set_rng_state": _answer(),
    "set_rng_state_all": _answer(),
    "manual_seed": _answer(),
    "manual_seed_all": _answer(),
    "get_device_capability": _answer((9, 0)),
    "get_device_name": _answer("simulated"),
    "get_device_properties": _answer(_PROPERTIES),
    "is_bf16_supported": _answer(True),
    "set_sync_debug_mode": _set_mode,
    "get_sync_debug_mode": lambda: 2 * _C.simulated_are_waits_errors(),
    "_device_count_nvml": lambda: _devices(),
}


def _start():
    _C.simulated_start()
    for name, answer in _CUDA.items():
        setattr(torch.cuda, name, answer)
    torch._C._cuda_getDeviceCount = lambda: _devices()
    torch._C._cuda_getCurrentRawStream = _answer(0)
    torch._C._cuda_isInBadFork = _answer(False)
    torch._C._cuda_clearCublasWorkspaces = _answer()
    torch._C._cuda_getDevice = lambda: _current()


_start()
