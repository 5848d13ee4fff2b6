"""Tables of the command line as Records."""

from __future__ import annotations

import gendebug_torch as gd


def load_records(name: str, path: str, schema: gd.Schema, computed: bool) -> gd.Records:
    """Records of one table.

    Production may lack labels; logits may be absent where a network computes them.
    """
    optional = {"logits", "probs"} if computed else set()
    if name == "production":
        optional |= {"target", "label_time", "source"}
    return gd.Records.from_file(path, schema, name=name, optional=tuple(optional))
