"""Fixtures for all tests: where the real data lies, and one thread per worker so that workers do not fight."""

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
