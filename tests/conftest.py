"""Fixtures for all tests: where the real data lies, what runs on which device, and one thread per
worker so that workers do not fight."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def pytest_configure(config):
    # Compiles here, not in helpers that import torch again.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` need CUDA; scripts/test runs them on simulated devices too."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


def pytest_collection_finish():
    """What was imported and collected stays: each collection of garbage would look through it."""
    gc.freeze()


@pytest.fixture(scope="session")
def simulated():
    """The module tests.simulated_cuda, whose devices alone can count and run out of memory."""
    module = sys.modules.get("tests.simulated_cuda")
    if module is None:
        pytest.skip("needs the simulated CUDA devices: scripts/test runs it there")
    return module


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the project; tests that need it are skipped where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the real data (../shared/data) is not present")
    return path


@pytest.fixture
def run_pytest():
    """Another pytest with our plugin in the current folder: words of its command line -> what came
    of it."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "gendebug_torch.pytest_plugin",
            "-p",
            "no:cacheprovider",
            *words,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return run
