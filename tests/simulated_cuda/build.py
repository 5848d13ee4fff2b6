"""Builds the simulated CUDA devices for the torch of this environment, in build/simulated_cuda."""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")


def torch_folder() -> Path:
    """Where torch lies, without importing it."""
    return Path(find_spec("torch").submodule_search_locations[0])


def library() -> Path:
    """The library for this source and this torch."""
    digest = hashlib.sha256(SOURCE.read_bytes() + version("torch").encode()).hexdigest()[:12]
    return SOURCE.parents[2] / "build" / "simulated_cuda" / f"device-{digest}.so"


def reason_against() -> str:
    """Why it cannot be built here; empty where it can."""
    if (torch_folder() / "lib" / "libtorch_cuda.so").exists():
        return "this torch is a CUDA build, the simulated devices need a CPU build"
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "no C++ compiler (g++)"
    return ""


def build() -> Path:
    """The library, compiled where it is not there yet (about 15 s)."""
    path, torch = library(), torch_folder()
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    include, lib = torch / "include", torch / "lib"
    # torch's own headers warn; -O1 is enough for what only passes work on.
    options = ["-O1", "-std=c++20", "-fPIC", "-shared", "-w"]
    options += [f"-I{include}", f"-I{include}/torch/csrc/api/include"]
    linked = [f"-L{lib}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{lib}", "-o", str(scratch)]
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, *options, str(SOURCE), *linked], check=True)
    scratch.replace(path)
    return path


if __name__ == "__main__":
    if reason := reason_against():
        print(f"No simulated CUDA devices, their tests are skipped: {reason}.")
        sys.exit(1)
    build()
