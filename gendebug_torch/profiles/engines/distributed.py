"""Profiles that the ranks of torch.distributed made of their shares of the rows."""

from __future__ import annotations

from torch import distributed

from gendebug_torch.profiles.build import sum_of
from gendebug_torch.profiles.profile import Profile


def gathered(part: Profile) -> Profile:
    """The profile of the rows of all ranks, on each rank; the part itself without a process group.

    Args:
        part: profile of the rows of this rank, e.g. `profile(loader, schema, model=model)`.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return part
    contents: list[bytes] = [b""] * distributed.get_world_size()
    distributed.all_gather_object(contents, part.to_bytes())
    return sum_of(map(Profile.from_bytes, contents))
