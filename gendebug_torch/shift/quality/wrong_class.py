"""What became what: the wrong class whose share of a true class rose most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task

# Fewer rows of a class say little about what it is called.
_MIN_ROWS = 10
_MIN_RISE = 0.05
_Z = 3.3


@dataclass(frozen=True)
class WrongClass:
    """A true class, the wrong one that it is called more often now, and how often.

    Args:
        true: name of the true class.
        called: name of the class that it is called.
        before: share of the class that was called so.
        after: the same in production.
    """

    true: str
    called: str
    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"{self.true} became {self.called} ({self.before:.1%} → {self.after:.1%} of its rows)"
        )


def wrong_class(validation: Records, production: Records) -> WrongClass | None:
    """The cell off the diagonal of the confusion matrix that rose most, beyond its noise.

    A cell counts from a rise of 5 % of the true class and 3.3 standard errors on.

    Args:
        validation: labeled records of three and more classes with logits; else it is None.
        production: the same.

    Example:
        >>> import torch
        >>> y = torch.arange(300) % 3
        >>> good = 5 * torch.nn.functional.one_hot(y, 3).double()
        >>> bad = torch.where((y == 2)[:, None], good.roll(1, 1), good)
        >>> print(wrong_class(Records(targets=y, logits=good), Records(targets=y, logits=bad)))
        2 became 0 (0.0% → 100.0% of its rows)
    """
    sides = (validation, production)
    if any(side.task is not Task.MULTICLASS for side in sides):
        return None
    k = max(int(side.logits.shape[1]) for side in sides if side.logits is not None)
    tables = [_confusion(side, k) for side in sides]
    rows = [table.sum(1, keepdim=True) for table in tables]
    shares = [table / row.clamp(min=1) for table, row in zip(tables, rows, strict=True)]
    noise = sum(
        (share + 1 / row.clamp(min=1)) / row.clamp(min=1)
        for share, row in zip(shares, rows, strict=True)
    )
    rise = shares[1] - shares[0]
    enough = (rows[0] >= _MIN_ROWS) & (rows[1] >= _MIN_ROWS) & (rise >= _MIN_RISE)
    rise = torch.where(enough & (rise >= _Z * torch.as_tensor(noise).sqrt()), rise, 0.0)
    rise.fill_diagonal_(0.0)
    if not float(rise.max()) > 0:
        return None
    true, called = divmod(int(rise.argmax()), k)
    names = {**dict(enumerate(map(str, range(k)))), **dict(enumerate(validation.schema.classes))}
    before, after = (float(share[true, called]) for share in shares)
    return WrongClass(str(names[true]), str(names[called]), before, after)


def _confusion(side: Records, k: int) -> Tensor:
    """Rows by true and predicted class, `[k, k]` float64, of the rows that have a label."""
    labeled = side.labeled()
    assert labeled.targets is not None
    cells = labeled.targets.long() * k + labeled.predicted
    return cells.bincount(minlength=k * k).reshape(k, k).double().cpu()
