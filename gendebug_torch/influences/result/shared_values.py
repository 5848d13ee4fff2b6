"""What rows have in common: values that are far more frequent among them than in the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.stats.intervals import two_share_p_value
from gendebug_torch.stats.multiple_testing import holm_adjusted

if TYPE_CHECKING:
    import pandas as pd

# Most values of a column, and fewest rows that share one.
_MOST_VALUES, _FEWEST = 50, 3
_ALPHA = 0.01
_COLUMNS = ("column", "value", "named", "of", "share", "share_rest", "p_value")


def shared_values(records: Records | None, labels: Tensor, rows: Tensor) -> pd.DataFrame:
    """Values of metadata, codes and labels that the rows share, the most telling first.

    Shares among the rows and in the rest are compared, with Holm's correction over all values.

    Source: Fisher (1922), J. R. Stat. Soc. 85:87; Holm (1979), Scand. J. Statist. 6:65.

    Args:
        records: training records; None where there are only labels.
        labels: labels of all rows, `[n]` or `[n, k]`.
        rows: positions of the rows, `[m]`.
    """
    import pandas as pd

    inside = torch.zeros(len(labels), dtype=torch.bool)
    inside[rows] = True
    found = []
    for column, values in _columns(records, labels):
        codes, names = pd.factorize(values)
        if not 1 < len(names) <= _MOST_VALUES:
            continue
        known = torch.from_numpy(codes.copy()) >= 0
        own, rest = (
            torch.bincount(torch.from_numpy(codes.copy())[part & known], minlength=len(names))
            for part in (inside, ~inside)
        )
        found += [
            (column, str(name), int(a), int(b)) for name, a, b in zip(names, own, rest, strict=True)
        ]
    table = pd.DataFrame(found, columns=["column", "value", "named", "rest"])
    m, others = int(inside.sum()), int((~inside).sum())
    named, rest = (torch.tensor(table[name].to_numpy(dtype=float)) for name in ("named", "rest"))
    sizes = (torch.full_like(rest, others), torch.full_like(named, m))
    p_values = holm_adjusted(two_share_p_value(rest, sizes[0], named, sizes[1]).nan_to_num(1.0))
    table = table.assign(
        of=m,
        share=table["named"] / max(m, 1),
        share_rest=table["rest"] / max(others, 1),
        p_value=p_values.numpy(),
    )
    telling = (table["p_value"] <= _ALPHA) & (table["share"] > table["share_rest"])
    kept: pd.DataFrame = table[telling & (table["named"] >= _FEWEST)]
    ordered = kept.sort_values(["p_value", "share"], ascending=[True, False], kind="stable")
    result: pd.DataFrame = ordered[list(_COLUMNS)].reset_index(drop=True)
    return result


def _columns(records: Records | None, labels: Tensor) -> Iterator[tuple[str, Any]]:
    """Columns whose values rows can share: labels, metadata, and features that are codes."""
    import pandas as pd

    if labels.ndim == 1 and not labels.is_floating_point():
        classes = () if records is None else records.schema.classes
        names = [classes[i] if i < len(classes) else i for i in labels.tolist()]
        yield "label", pd.Series(names, dtype=object)
    if records is None:
        return
    if records.metadata is not None:
        yield from ((str(name), column) for name, column in records.metadata.items())
    if records.features is not None and not isinstance(records.features, Tensor):
        codes = [name for name in records.features if name in records.schema.categorical]
        yield from ((str(name), records.features[name]) for name in codes)
