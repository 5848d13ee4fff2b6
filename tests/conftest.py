"""Fixtures for all tests: where the real data lies, and one thread per worker so that workers do
not fight."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)


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
