"""The trust card: how far the attributions of one run can be believed, measured on a sample of its rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gendebug_torch._plotting import GOOD, LIVE, NEUTRAL, axes
from gendebug_torch._tables import model_inputs
from gendebug_torch.attribution.agreement import rank_agreement
from gendebug_torch.attribution.attributions import Attributions
from gendebug_torch.attribution.inputs import unwrapped
from gendebug_torch.attribution.permutation import loss_rises, summed
from gendebug_torch.attribution.stability import jitter, row_spearman, top_k_jaccard
from gendebug_torch.records import Records
from gendebug_torch.runner import Model, evaluating, logits_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Relative error from which a row counts as not adding up, noise of the jitter, correlation that makes twins.
_OVER, _NOISE, _TWINS = 0.05, 0.02, 0.9
# Features up to which each is shuffled, and rows from which that tells something.
_PROBED, _FEWEST = 100, 20
# Measure -> (limit, whether more is better, what it says, whether it judges the ranking or single rows).
LIMITS: dict[str, tuple[float, bool, str, str]] = {
    "incomplete": (0.05, False, "rows that miss the change of their output by more than 5 %", "rows"),
    "rerun": (0.8, True, "overlap of the strongest features under another seed", "rows"),
    "rerun_ranking": (0.9, True, "rank correlation of the global ranking under another seed", "ranking"),
    "jitter": (0.7, True, "overlap of the strongest features when inputs move by 2 %", "rows"),
    "jitter_ranking": (0.9, True, "rank correlation of the global ranking when inputs move by 2 %", "ranking"),
    "randomized": (0.9, False, "rank correlation with the same network at random weights", "ranking"),
    "baseline": (0.5, True, "overlap of the strongest features against the mean as baseline", "rows"),
    "permutation": (0.2, True, "rank correlation with permutation importance, upper end of 95 %", "ranking"),
    "held_out": (0.5, True, "R² of the surrogate on left-out samples, lower quartile of rows", "rows"),
    "held_out_wrong": (0.5, True, "the same on rows that the network gets wrong", "rows"),
}


@dataclass(frozen=True)
class TrustCard:
    """Measures of trust by name, and what they allow.

    Args:
        measures: name in `LIMITS` -> value; what does not apply to the method or the network is absent.
        reference: rank correlation of contributions with the distance of inputs from their median: what the input alone
            gives, beside which `randomized` is to be read; None if the inputs are not known.
        twins: groups of features so correlated that their contributions are to be read as one.
        below_noise: features that contribute less than the strongest one declared as noise; None if none is.
        rows: of the sample.
        below_probe: features whose permutation importance is no more than that of a random column with the same values; None
            where that cannot be asked.
    """

    measures: dict[str, float]
    reference: float | None
    twins: tuple[tuple[str, ...], ...]
    below_noise: tuple[str, ...] | None
    rows: int
    below_probe: tuple[str, ...] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of single features, one line each."""
        told = [f"To be read as one, since they are correlated by {_TWINS} or more: {', '.join(group)}." for group in self.twins]
        if self.below_noise:
            told.append(f"Contribute no more than declared noise: {', '.join(self.below_noise)}.")
        if self.below_probe:
            told.append(f"Worth no more to labels than a random column of the same values: {', '.join(self.below_probe)}.")
        return tuple(told)

    @property
    def failed(self) -> tuple[str, ...]:
        """Measures beyond their limits."""
        return tuple(name for name, value in self.measures.items() if _fails(value, *LIMITS[name][:2]))

    @property
    def ranking_usable(self) -> bool:
        """Whether the global ranking of features can be believed."""
        return not any(LIMITS[name][3] == "ranking" for name in self.failed) and self.measures.get("incomplete", 0.0) <= 0.5

    @property
    def rows_usable(self) -> bool:
        """Whether the explanation of a single row can be believed."""
        return self.ranking_usable and not self.failed

    @property
    def verdict(self) -> str:
        """One line."""
        if self.rows_usable:
            return f"Global ranking usable, single rows usable ({self.rows} rows tried)."
        reasons = "; ".join(f"{LIMITS[name][2]}: {self.measures[name]:.2f}, limit {LIMITS[name][0]:g}" for name in self.failed)
        usable = "Global ranking usable, single rows not" if self.ranking_usable else "Neither the global ranking nor single rows usable"
        return f"{usable} ({reasons})."

    def table(self) -> pd.DataFrame:
        """One row per measure: value, limit, and whether it holds."""
        import pandas as pd

        rows = [[LIMITS[name][2], value, LIMITS[name][0], name not in self.failed] for name, value in self.measures.items()]
        return pd.DataFrame(rows, columns=["measure", "value", "limit", "holds"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Each measure as a bar, its limit as a tick; orange where it fails."""
        rows = self.table().iloc[::-1]
        ax = axes(ax, size=(8.6, 1.2 + 0.36 * max(1, len(rows))))
        colors = [GOOD if holds else LIVE for holds in rows["holds"]]
        ax.barh(rows["measure"].tolist(), rows["value"].clip(0, 1), color=colors)
        ax.scatter(rows["limit"], range(len(rows)), marker="|", s=160, color=NEUTRAL, zorder=3)
        ax.set(xlim=(0, 1), xlabel="value (bar) and limit (tick); orange fails")
        ax.set_title(self.verdict.partition(" (")[0], x=1.0, ha="right")
        ax.grid(visible=False, axis="y")
        return ax


def trust_card(
    again: Callable[..., Attributions],
    model: Any,
    inputs: Any,
    targets: Tensor | None,
    *,
    draws: bool = False,
    random_weights: bool = True,
    other_baseline: bool = True,
    noise: Sequence[str] = (),
    labeled: tuple[Records, Attributions] | None = None,
    seed: int = 0,
) -> TrustCard:
    """Measure how the explanations of a sample of rows behave when what should not matter changes.

    Source: completeness: Sundararajan et al. (2017); random weights: Adebayo et al. (2018), arXiv:1810.03292; jitter:
    Alvarez-Melis and Jaakkola (2018), arXiv:1806.08049; baselines: Sturmfels, Lundberg and Lee (2020), Distill.

    Args:
        again: (model, batches, **changes) -> Attributions, by the method under test.
        model: network.
        inputs: of the sample.
        targets: of the sample, or None.
        draws: whether the method has a `seed`.
        random_weights: whether it can be asked about a copy of the network.
        other_baseline: whether it has a baseline to change.
        noise: names of features declared as noise.
        labeled: rows with their attributions, for permutation importance; default the sample.
        seed: of jitter and random weights.

    Cost: up to five explanations of each row of the sample, and three forwards of each labeled row and feature.
    """
    first = again(model, [(inputs, targets)])
    # The class that was explained is explained again, so that a changed prediction is not a changed explanation.
    single = not len(first) or int(first.targets.min()) < 0
    same: dict[str, Any] = {} if single else {"target": "target"}
    held = targets if single else first.targets
    measures: dict[str, float] = {}
    if first.convergence_delta is not None and len(first):
        measures["incomplete"] = float((first.relative_delta > _OVER).double().mean())
    if draws:
        measures |= _agreement(first, again(model, [(inputs, held)], seed=seed + 1, **same), "rerun")
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        measures |= _agreement(first, again(model, [(jitter(inputs, _NOISE, seed), held)], **same), "jitter")
    module = unwrapped(model)
    if random_weights and isinstance(module, nn.Module) and any(True for _ in module.parameters()):
        scrambled = again(_at_random(module, seed), [(inputs, held)], **same)
        measures["randomized"] = _mean(row_spearman(first.flat, scrambled.flat))
    if other_baseline:
        measures["baseline"] = _agreement(first, again(model, [(inputs, held)], baseline="mean", **same), "baseline")["baseline"]
    measures |= _fidelity(first, targets)
    if labeled is None and targets is not None and isinstance(inputs, Tensor):
        labeled = Records(inputs.cpu(), targets.cpu()), first
    agreed, below_probe = ({}, None) if labeled is None else _worth(model, *labeled, seed)
    measures |= agreed
    known = first.inputs is not None and len(first) > 2
    reference = _mean(row_spearman(first.flat, _from_median(first))) if known else None
    measures = {name: value for name, value in measures.items() if value == value}
    return TrustCard(measures, reference, _twins(first) if known else (), _below_noise(first, noise), len(first), below_probe)


def _fails(value: float, limit: float, more_is_better: bool) -> bool:
    return value < limit if more_is_better else value > limit


def _agreement(first: Attributions, second: Attributions, name: str) -> dict[str, float]:
    """Mean overlap of the strongest features per row, and rank correlation of the mean absolute contributions."""
    both = first.usable & second.usable
    a, b = first.flat[both], second.flat[both]
    k = min(5, max(1, a.shape[1] // 2))
    ranking = row_spearman(a.abs().mean(0, keepdim=True), b.abs().mean(0, keepdim=True)) if len(a) else torch.tensor([torch.nan])
    return {name: _mean(top_k_jaccard(a, b, k)), f"{name}_ranking": float(ranking[0])}


def _fidelity(found: Attributions, targets: Tensor | None) -> dict[str, float]:
    """Lower quartile of the held-out R² over rows, and over rows whose explained class is not the true one."""
    if found.held_out is None or not len(found):
        return {}
    told = {"held_out": float(found.held_out.double().quantile(0.25))}
    if targets is not None and not targets.is_floating_point() and targets.ndim == 1 and found.outputs is not None:
        said = torch.where(found.targets < 0, (found.outputs > 0).long(), found.targets)
        wrong = said != targets.to(said.device)
        if int(wrong.sum()) >= 5:
            told["held_out_wrong"] = float(found.held_out[wrong].double().quantile(0.25))
    return told


def _worth(model: Model, rows: Records, found: Attributions, seed: int) -> tuple[dict[str, float], tuple[str, ...] | None]:
    """How the ranking agrees with permutation importance, and which features a random column would equal."""
    inputs, targets = model_inputs(rows), rows.targets
    flat = isinstance(inputs, Tensor) and inputs.ndim == 2 and inputs.is_floating_point() and inputs.shape[1] == found.flat.shape[1]
    if not flat or targets is None or targets.is_floating_point() or targets.ndim != 1 or not 1 < inputs.shape[1] <= _PROBED:
        return {}, None
    known = inputs.isfinite().all(1).nonzero()[:, 0]
    if len(known) < _FEWEST or not _are_classes(model, inputs[known[:1]], targets[known]):
        return {}, None
    rise = loss_rises(model, Records(inputs[known], targets[known]), repeats=3, seed=seed, device="auto")[0]
    names = summed(rise, found.names).noise
    if len(found.names) < 4:
        return {}, names
    per_row = {"attribution": found.flat[known].abs(), "permutation": rise.mean(0).T}
    if not found.usable[known].any():
        return {}, names
    return {"permutation": float(rank_agreement(per_row, found.names, seed=seed).high[0])}, names


def _are_classes(model: Model, row: Tensor, targets: Tensor) -> bool:
    """Whether the targets are ids of the outputs of the model."""
    with torch.no_grad(), evaluating(model):
        device = next((p.device for p in model.parameters()), row.device) if isinstance(model, nn.Module) else row.device
        logits = logits_of(model, row.to(device))
    classes = 2 if logits.ndim == 1 else logits.shape[1]
    return int(targets.min()) >= 0 and int(targets.max()) < classes


def _at_random(model: nn.Module, seed: int) -> nn.Module:
    """A copy with every parameter drawn anew, from a normal law of its own mean size."""
    scrambled, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in scrambled.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * parameter.square().mean().sqrt().cpu().float())
    return scrambled


def _from_median(found: Attributions) -> Tensor:
    assert found.inputs is not None
    flat = found.inputs.flatten(1).double()
    return flat - flat.median(0).values


def _twins(found: Attributions) -> tuple[tuple[str, ...], ...]:
    """Groups of features that are connected by correlations of at least 0.9; none for more than 1,000 features."""
    assert found.inputs is not None
    flat = found.inputs.flatten(1).double()
    if flat.shape[1] < 2 or flat.shape[1] > 1000:
        return ()
    varies = flat.std(0) > 0
    linked = torch.corrcoef(flat.T).nan_to_num(0.0).abs() >= _TWINS
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
    size = found.flat[found.usable].abs().mean(0)
    floor = float(size[places].max())
    return tuple(name for at, name in enumerate(found.names) if at not in places and float(size[at]) <= floor)


def _mean(values: Tensor) -> float:
    """Mean without NaN; NaN where there is nothing else."""
    return float(values.nanmean()) if len(values) else float("nan")
