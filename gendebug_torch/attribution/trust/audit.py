"""`trust_card()`: everything that a trust card says, from a run and a sample of its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.compare.permutation import loss_rises, summed
from gendebug_torch.attribution.compare.rank_agreement import rank_agreement
from gendebug_torch.attribution.explanation.explainer import Explainer
from gendebug_torch.attribution.explanation.row_sample import RowSample, picked
from gendebug_torch.attribution.trust.card import TWINS, Measure, TrustCard
from gendebug_torch.attribution.trust.robustness_trials import (
    TOO_DEAR,
    Measures,
    Tried,
    cost_of,
    mean_of,
    share_of,
    tried_within,
)
from gendebug_torch.attribution.trust.stability import row_spearman
from gendebug_torch.data.records import Records
from gendebug_torch.model.runner import Model, evaluating, logits_of

# Model evaluations of a card as a share of those of its run, and the part of them that is kept for
# shuffling columns.
_SHARE, _FOR_SHUFFLING = 0.2, 0.35
# Relative error from which a row counts as not adding up.
_OVER = 0.05
# Shuffles of each column; rows from which they tell weak columns from noise; most evaluations where
# nothing else bounds them.
_REPEATS, _FEWEST, _MOST_SHUFFLES = 3, 100, 2_000_000
# Rows from which the distance from the baseline is taken, and features among which twins are looked
# for.
_ROWS, _PAIRED = 256, 1000


def trust_card(
    asked: Explainer,
    model: Model,
    kept: Attributions,
    sample: RowSample,
    total: float,
    *,
    noise: Sequence[str] = (),
    full: bool = False,
    seed: int = 0,
) -> TrustCard:
    """How the explanations of a sample of rows behave when what should not matter changes.

    Each trial gets its part of a fifth of the model evaluations of the run, and as many rows as
    that pays for; what it pays too few rows for is left out and named. What needs no model is
    measured on the whole sample.

    Source: completeness: Sundararajan et al. (2017), arXiv:1703.01365; random weights, layer by
    layer: Adebayo et al. (2018), arXiv:1810.03292; jitter: Alvarez-Melis and Jaakkola (2018),
    arXiv:1806.08049; baselines: Sturmfels, Lundberg and Lee (2020), Distill; random probe:
    Stoppiglia et al. (2003), J. Mach. Learn. Res. 3:1399.

    Args:
        asked: the method.
        model: network.
        kept: what the run found about the rows of the sample.
        sample: of its rows.
        total: model evaluations of the run.
        noise: names of features declared as noise.
        full: measure everything on as many rows as that takes, whatever the cost.
        seed: of jitter, random weights and shuffles.
    """
    places = sample.order[kept.usable[sample.order]]
    inputs, targets = (
        picked(held, places, len(sample)) for held in (sample.inputs, sample.targets)
    )
    first = kept.select(places)
    budget = math.inf if full else _SHARE * total
    shuffled, missing = _shufflable(model, inputs, targets, first, _FOR_SHUFFLING * budget)
    tried = _tried(asked, model, inputs, targets, first, seed)
    each = cost_of(first) / max(1, len(first))
    measures, untried, spent = tried_within(
        tried, budget if shuffled is None else (1 - _FOR_SHUFFLING) * budget, each
    )
    below_probe = None
    if shuffled is not None:
        worth, below_probe, cost = _worth(
            model, shuffled, first, budget - spent - 1, asked.device, seed
        )
        measures, spent = measures | worth, spent + cost
    measures = _completeness(first) | _fidelity(first, targets) | measures
    known = {name: one for name, one in measures.items() if one.value == one.value}
    reference = (
        None
        if tried.distance is None
        else mean_of(row_spearman(first.flat[: len(tried.distance)], tried.distance)).value
    )
    return TrustCard(
        {name: one for name, one in known.items() if isinstance(name, str)},
        untried | missing,
        reference if reference == reference else None,
        {
            share: known[share]
            for share in sorted(name for name in known if isinstance(name, float))
        },
        _twins(first) if first.values.ndim == 2 and not _holds_codes(inputs) else (),
        _below_noise(first, noise),
        below_probe,
        spent / total if total else 0.0,
    )


def _tried(
    asked: Explainer, model: Model, inputs: Any, targets: Any, first: Attributions, seed: int
) -> Tried:
    """The rows as they are to be asked about again."""
    distance = _distance(asked, inputs, first)
    if asked.target == "predicted" and len(first) and int(first.targets.min()) >= 0:
        # The class that was explained is explained again, so that a changed prediction is not a
        # changed explanation.
        return Tried(
            replace(asked, target="target"),
            model,
            inputs,
            first.targets,
            first,
            distance,
            inputs,
            seed,
        )
    return Tried(asked, model, inputs, targets, first, distance, inputs, seed)


def _distance(asked: Explainer, inputs: Any, first: Attributions) -> Tensor | None:
    """`[n, d]` absolute distance of the inputs from the baseline: what a sum of the inputs owes to
    each of them.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or not len(first):
        return None
    plain = replace(
        asked,
        method="integrated_gradients",
        options={"steps": 1},
        target="predicted",
        precision="32-true",
    )
    owed = plain.explain(lambda rows: rows.flatten(1).sum(1), inputs[:_ROWS], alone=True).flat.abs()
    return owed if owed.shape[1] == first.flat.shape[1] else None


def _completeness(first: Attributions) -> Measures:
    """Share of rows whose contributions miss the change of their output."""
    if first.convergence_delta is None or not len(first):
        return {}
    return {"incomplete": share_of(first.relative_delta > _OVER)}


def _fidelity(first: Attributions, targets: Any) -> Measures:
    """Held-out R² of surrogates, on all rows and on those whose explained class is not the true
    one.
    """
    if first.held_out is None or not len(first):
        return {}
    told: Measures = {"held_out": _lower_quartile(first.held_out)}
    if _are_class_ids(targets) and first.outputs is not None:
        said = torch.where(first.targets < 0, (first.outputs > 0).long(), first.targets)
        wrong = said != targets.to(said.device)
        if int(wrong.sum()) >= 5:
            told["held_out_wrong"] = _lower_quartile(first.held_out[wrong])
    return told


def _lower_quartile(values: Tensor) -> Measure:
    """Lower quartile with the interval of order statistics (Conover, 1999, 3.2)."""
    half = 1.96 * (0.25 * 0.75 / len(values)) ** 0.5
    at = torch.tensor([0.25, max(0.0, 0.25 - half), min(1.0, 0.25 + half)], dtype=torch.float64)
    value, low, high = values.double().quantile(at).tolist()
    return Measure(value, low, high, len(values))


def _shufflable(
    model: Model, inputs: Any, targets: Any, first: Attributions, budget: float
) -> tuple[Records | None, dict[str, str]]:
    """The rows as a labeled table, if there are enough to shuffle columns, or why not."""
    flat = (
        isinstance(inputs, Tensor)
        and inputs.ndim == 2
        and inputs.is_floating_point()
        and inputs.shape[1] == first.flat.shape[1]
    )
    if not flat or not 1 < inputs.shape[1] <= _PAIRED or not _are_class_ids(targets):
        return None, {}
    if len(first) < _FEWEST:
        return None, {"permutation": f"{len(first)} rows are too few to shuffle"}
    if budget < _FEWEST * (_REPEATS * inputs.shape[1] + 1):
        return None, {"permutation": TOO_DEAR}
    return (
        (Records(inputs, targets), {}) if _names_classes(model, inputs[:1], targets) else (None, {})
    )


def _worth(
    model: Model,
    rows: Records,
    first: Attributions,
    budget: float,
    device: str | torch.device,
    seed: int,
) -> tuple[Measures, tuple[str, ...], float]:
    """How the ranking agrees with permutation importance, which features a random column would
    equal, and evaluations.
    """
    d = len(first.names)
    each = _REPEATS * d + 1.0
    most = max(_MOST_SHUFFLES, _FEWEST * each) if math.isinf(budget) else budget
    count = min(len(rows), int(most / each))
    places = torch.arange(count)
    rise = loss_rises(model, rows.select(places), repeats=_REPEATS, seed=seed, device=device)
    names, cost = summed(rise, first.names).noise, count * each
    if d < 4:
        return {}, names, cost
    per_row = {"attribution": first.flat[:count].abs(), "permutation": rise.mean(0).T}
    agreed = rank_agreement(per_row, first.names, seed=seed)
    # Few rows alone make a correlation small, so that its upper end is judged.
    return (
        {"permutation": Measure(float(agreed.high), float(agreed.low), float(agreed.high), count)},
        names,
        cost,
    )


def _holds_codes(inputs: Any) -> bool:
    """Whether the inputs are ids of tokens or categories, whose sizes mean nothing."""
    return isinstance(inputs, Tensor) and not inputs.is_floating_point()


def _are_class_ids(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()


def _names_classes(model: Model, row: Tensor, targets: Tensor) -> bool:
    """Whether the targets are ids of the outputs of the model."""
    with torch.no_grad(), evaluating(model):
        device = (
            next((p.device for p in model.parameters()), row.device)
            if isinstance(model, nn.Module)
            else row.device
        )
        logits = logits_of(model, row.to(device))
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    return int(targets.min()) >= 0 and int(targets.max()) < classes


def _twins(found: Attributions) -> tuple[tuple[str, ...], ...]:
    """Groups of features that are connected by correlations of at least 0.9; none for more than
    1,000 features.
    """
    if found.inputs is None or len(found) < 3 or not 2 <= found.flat.shape[1] <= _PAIRED:
        return ()
    flat = found.inputs.flatten(1).double()
    varies = flat.std(0) > 0
    linked = torch.corrcoef(flat.T).nan_to_num(0.0).abs() >= TWINS
    linked &= varies[:, None] & varies[None]
    label = torch.arange(len(linked))
    while True:
        spread = torch.where(linked, label[None], len(linked)).amin(1).minimum(label)
        if torch.equal(spread, label):
            break
        label = spread
    groups = [(label == at).nonzero()[:, 0].tolist() for at in sorted(set(label.tolist()))]
    return tuple(tuple(found.names[i] for i in group) for group in groups if len(group) > 1)


def _below_noise(found: Attributions, noise: Sequence[str]) -> tuple[str, ...] | None:
    """Features that contribute no more than the strongest declared noise."""
    places = [found.names.index(name) for name in noise if name in found.names]
    if not places or not len(found):
        return None
    size = found.flat.abs().mean(0)
    floor = float(size[places].max())
    return tuple(
        name for at, name in enumerate(found.names) if at not in places and float(size[at]) <= floor
    )
