"""What the oldest versions of the dependencies lack."""

import inspect
import zipfile

import lightning.pytorch as pl
import pytest

# Lightning 2.6 asks how a checkpoint is to be read; earlier ones know one way.
WEIGHTS_ONLY = (
    {"weights_only": True} if "weights_only" in inspect.signature(pl.Trainer.fit).parameters else {}
)


def require_raw_weights(path):
    """Skips a test whose exported program holds pickles, as PyTorch 2.6 writes it."""
    if any("serialized_" in name for name in zipfile.ZipFile(path).namelist()):
        pytest.skip("this PyTorch pickles the weights of exported programs, which are refused")
