"""Check that no training rows taught the network its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gendebug_torch.checks.finding import Cause, Finding, Severity
from gendebug_torch.checks.inputs import Cost
from gendebug_torch.checks.registry import check
from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, Deadline
from gendebug_torch.influences.checkpoints import Checkpoint
from gendebug_torch.influences.influence import influence
from gendebug_torch.influences.questions import wrong_rows
from gendebug_torch.influences.result.influences import Influences
from gendebug_torch.influences.scoring import Method
from gendebug_torch.model.evaluation import Model
from gendebug_torch.stats.intervals import p_value_text

# Fewest errors and held-out rows that can be judged.
_MIN_ERRORS, _MIN_ROWS = 20, 100


def _cost(given: Mapping[str, Any]) -> Cost:
    """Two passes over the training rows, and products with errors and held-out rows."""
    rows = float(len(given["train"]))
    held_out = float(min(4000, len(given["validation"])))
    return Cost(forwards=2 * rows + 3 * held_out, elements=(rows + held_out) * (held_out + 1000))


@check(
    "influence.culprits",
    cause=Cause.LABEL_NOISE,
    needs=(
        "model",
        "train.features",
        "train.targets",
        "validation.features",
        "validation.logits",
        "validation.targets",
    ),
    cost=_cost,
)
def no_training_rows_taught_the_errors(
    model: Model,
    train: Records,
    validation: Records,
    production: Records | None = None,
    deadline: Deadline = NO_DEADLINE,
    *,
    alpha: float = 0.0005,
    min_change: float = 0.05,
    method: Method = "neighbours",
    checkpoints: Sequence[Checkpoint] = (),
    max_queries: int = 500,
    seed: int = 0,
) -> Iterator[Finding]:
    """No training rows taught the network its errors.

    Training rows that look like the errors and carry their answer as label are compared with
    validation rows of the same labels, so that a shift of production makes no culprits. What is
    named must also lower the errors when a head is refitted without it, judged on errors that did
    not name it, and at no price for validation.

    Source: Koh and Liang (2017), arXiv:1703.04730; Papernot and McDaniel (2018), arXiv:1803.04765;
    Bates et al. (2023), Ann. Statist. 51:149, held-out rows as reference.

    Args:
        model: network.
        train: labeled rows that it was fitted on.
        validation: labeled rows from the source of the training rows.
        production: rows that it met afterwards; where they are labeled, their errors are explained
            as well.
        deadline: end of the time.
        alpha: significance level of each group of errors.
        min_change: smallest fall of the share of errors in the refit that counts as a proof.
        method: how training rows are scored; neighbours cost a tenth of gradients.
        checkpoints: weights at moments of the training, as states or files, over which gradients
            are averaged.
        max_queries: most errors of each side.
        seed: seed of the draws.
    """
    this = no_training_rows_taught_the_errors
    groups = [
        side
        for side in (production, validation)
        if side is not None
        and side.logits is not None
        and side.features is not None
        and side.targets is not None
        and int(wrong_rows(side, required=False).sum()) >= _MIN_ERRORS
    ]
    if not groups or len(validation) < _MIN_ROWS:
        summary = f"Fewer than {_MIN_ERRORS} errors, or than {_MIN_ROWS} rows of validation."
        yield this.finding(Severity.OK, summary)
        return
    for side in groups:
        deadline.check()
        found = influence(
            model,
            train,
            side,
            reference=validation,
            method=method,
            checkpoints=checkpoints,
            progress=deadline.progress,
            max_queries=max_queries,
            alpha=alpha,
            seed=seed,
        )
        yield _finding(found, side.name, min_change)
        if found.explains:
            return


def _finding(found: Influences, where: str, min_change: float) -> Finding:
    """What the scores and the refit say of one group of errors."""
    this, errors = no_training_rows_taught_the_errors, len(found.sides.errors)
    numbers: dict[str, Any] = {"errors": errors, "p_value": found.p_value, "rows": found.count}
    chance = p_value_text(found.p_value)
    if not found.explains:
        text = (
            f"No training rows explain the {errors:,} errors in {where}: training rows look no "
            f"more like them than validation rows with the same labels do ({chance})."
        )
        return this.finding(Severity.OK, text, numbers=numbers, evidence=found)
    proof = found.confirm(drop=max(2 * found.count, 20))
    change, low, high = proof.change
    numbers |= {"dropped": proof.dropped, "change": change, "low": low, "high": high}
    numbers |= {"quality_change": proof.quality_change[0]}
    head = (
        f"About {found.count:,} training rows look like the {errors:,} errors in {where} and carry "
        f"the wrong answer as label ({chance}). Without {proof.dropped:,} such rows a refitted "
        f"head makes {-change:.0%} fewer of these errors than without random rows (95 % interval "
        f"{-high:.0%} to {-low:.0%})"
    )
    if not proof.confirmed or change > -min_change:
        text = f"{head}, which is no proof that they cause them."
        return this.finding(Severity.NOTE, text, numbers=numbers, evidence=found)
    shared, subject = _shared(found)
    remedy = (
        "Review these rows (`gd.influence(...).sheet(path)` or `gendebug influence`), correct or "
        "drop them, and train again."
    )
    how: dict[str, Any] = {"numbers": numbers, "evidence": found, "subject": subject}
    return this.finding(Severity.WARN, f"{head}.{shared}", remedy=remedy, **how)


def _shared(found: Influences) -> tuple[str, str]:
    """What most of the named rows have in common, as a sentence and as a subject."""
    table = found.common
    told = table[table["column"] != "label"] if (table["column"] != "label").any() else table
    if not len(told):
        return "", ""
    column, value, named, of, _, rest, _ = told.iloc[0]
    subject = f"{column} = {value}"
    return f" {named} of the {of} highest have {subject}, as have {rest:.1%} of the rest.", subject
