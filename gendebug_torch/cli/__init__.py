"""`gendebug …`: one file per command; flags are read off the signatures of the functions."""

from gendebug_torch.cli.main import main as main

__all__ = ["main"]
