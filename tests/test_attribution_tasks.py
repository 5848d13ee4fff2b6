"""Every check of attribution answers every task, or says in one line why not."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from gendebug_torch import Records, Schema, Severity
from gendebug_torch.attribution import permutation_importance
from gendebug_torch.attribution.compare.feature_use import quantity_slope
from gendebug_torch.checks.registry import all_checks

CHECKS = {check.name: check for check in all_checks() if check.name.startswith("attribution.")}
NAMES = ["cause", "shortcut", "noise", "other"]
DECLARED = {"noise": ("noise",), "direction": {"cause": "increasing"}}


class Linear(nn.Module):
    """Outputs that are linear in the inputs, `[n]` for one."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, x):
        outputs = x @ self.weights.T
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs


RULE = [1.0, 2.0, 0.0, 0.3]
MODELS = {
    "binary, one logit": [RULE],
    "binary, two logits": [[0.0] * 4, RULE],
    "multiclass": [[0.0] * 4, RULE, [0.2, 0.1, 0.0, -1.0]],
    "multilabel": [RULE, [0.5, 1.5, 0.0, 0.0]],
    "regression": [RULE],
    "two quantities": [RULE, [80.0, 160.0, 0.0, 0.0]],
}


def table(task, seed, name, *, lost=False, n=1500):
    """Targets that follow the model, or in production all but the shortcut."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype("float32")
    inputs = x.copy()
    if lost:
        inputs[:, 1] = rng.normal(size=n)
    model = Linear(MODELS[task])
    with torch.no_grad():
        outputs, truth = (model(torch.from_numpy(part)) for part in (x, inputs))
    if task in ("regression", "two quantities"):
        noise = torch.from_numpy(rng.normal(size=truth.shape).astype("float32"))
        targets = truth + noise * torch.tensor([1.0, 80.0])[: max(truth.ndim * 2 - 2, 1)]
        targets = targets.reshape(truth.shape)
    elif task in ("multilabel", "binary, one logit"):
        targets = (torch.from_numpy(rng.random(truth.shape)) < (2 * truth).sigmoid()).long()
    else:
        gumbel = torch.from_numpy(rng.gumbel(size=truth.shape))
        targets = (2 * truth + gumbel).argmax(1)
    schema = Schema(multilabel=task == "multilabel", **DECLARED)
    logits = outputs if task in ("regression", "two quantities") else 2 * outputs
    return Records(pd.DataFrame(x, columns=NAMES), targets, logits, None, schema, name)


def run(check, task, **options):
    sides = {
        "validation": table(task, 0, "validation"),
        "production": table(task, 1, "production", **options),
    }
    # The binary and multiclass logits were doubled, and so is the model.
    scale = 1.0 if task in ("regression", "two quantities") else 2.0
    model = Linear((scale * torch.tensor(MODELS[task])).tolist())
    return CHECKS[check].run({"model": model} | sides)


@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("check", CHECKS)
def test_every_check_answers_every_task(check, task):
    for finding in run(check, task):
        assert finding.severity is not Severity.ERRORED, finding.numbers["traceback"]
        assert "\n" not in finding.summary
        assert len(finding.summary) < 400
        if task in ("regression", "two quantities"):
            for word in ("probab", "log odds", "label", "positive"):
                assert word not in f"{finding.summary} {finding.remedy}"


@pytest.mark.parametrize("task", [task for task in MODELS if task != "multiclass"])
def test_a_shortcut_that_is_gone_in_production_is_named(task):
    (finding,) = run("attribution.shortcut", task, lost=True)
    assert finding.severity is Severity.FAIL
    assert finding.subject == "shortcut"
    (clean,) = run("attribution.shortcut", task)
    assert clean.severity is Severity.OK


@pytest.mark.parametrize("task", ["regression", "two quantities"])
def test_noise_and_direction_of_quantities(task):
    (noise,) = run("attribution.noise_feature", task)
    assert noise.severity is Severity.OK
    (direction,) = run("attribution.direction", task)
    assert direction.severity is (Severity.OK if task == "regression" else Severity.NOTE)


def test_importance_is_measured_by_the_loss_of_the_task():
    for task in MODELS:
        side = table(task, 0, "validation")
        found = permutation_importance(Linear(MODELS[task]), side)
        quantities = task in ("regression", "two quantities")
        assert found.metric == ("squared_error" if quantities else "nll")
        assert found.unimportant == ("noise",)


def test_the_slope_of_a_quantity_on_contributions():
    rng = np.random.default_rng(0)
    own = torch.from_numpy(rng.normal(size=(4000, 2)))
    for true in (1.0, 0.0, -0.5):
        targets = 7 + true * own[:, 0] + own[:, 1] + torch.from_numpy(rng.normal(size=4000))
        slope, error = quantity_slope(own, 0, targets)
        assert slope == pytest.approx(true, abs=3 * error)
        assert error == pytest.approx(1 / 4000**0.5, rel=0.1)
