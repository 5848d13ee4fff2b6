"""What the oldest versions of the dependencies lack."""

import inspect

import lightning.pytorch as pl

# Lightning 2.6 asks how a checkpoint is to be read; earlier ones know one way.
WEIGHTS_ONLY = (
    {"weights_only": True} if "weights_only" in inspect.signature(pl.Trainer.fit).parameters else {}
)
