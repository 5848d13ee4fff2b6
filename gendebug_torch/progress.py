"""How far a long loop is: the one bar of this library."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

# Seconds of work that need no bar.
_QUIET = 2.0


@contextlib.contextmanager
def progress_bar(total: int | None, unit: str, *, show: bool) -> Iterator[Callable[[int], object]]:
    """A function that counts finished units, and shows the time left where work takes long.

    Args:
        total: number of units; None where it is unknown: then no time left is shown.
        unit: what is counted, in the plural.
        show: whether to show anything.

    Example:
        >>> with progress_bar(3, "rows", show=False) as count:
        ...     for row in range(3):
        ...         _ = count(1)
    """
    if not show:
        yield lambda units: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit=f" {unit}", unit_scale=True, leave=False, delay=_QUIET) as bar:
        yield bar.update
