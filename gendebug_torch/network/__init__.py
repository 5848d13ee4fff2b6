"""Inside the network: what its layers, optimizer and batches do while it trains, and before."""

from gendebug_torch.network.checks._preflight import preflight as preflight
from gendebug_torch.network.watch import watch as watch

__all__ = ["preflight", "watch"]
