"""Estimators of skorch as models and their history as curves: by their protocol, and by skorch."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn

from gendebug_torch import attribute, collect, diagnose, influence, recalibrate
from gendebug_torch.attribution import permutation_importance
from gendebug_torch.cli import main
from gendebug_torch.curves import LearningCurves
from gendebug_torch.data.records import Records
from gendebug_torch.data.task import Task
from gendebug_torch.errors import InputError
from gendebug_torch.model.collection.callables import as_model

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(400, 4)).astype("float32")
LABELS = (X[:, 0] + 0.5 * DRAW.normal(size=400) > 0).astype("int64")
ROWS = Records(torch.from_numpy(X), torch.from_numpy(LABELS))


def network(*last, outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, outputs), *last)


class Estimator:
    """What skorch's estimators have: a network, a loss, and what it makes of the outputs."""

    predict_nonlinearity = "auto"

    def __init__(self, module, loss):
        self.module_, self.criterion_ = module, loss

    def predict_proba(self, x):
        return self.module_(torch.from_numpy(x)).detach().numpy()


class Classifier(Estimator):
    classes_ = (0, 1)


def test_the_loss_says_what_the_network_returns():
    plain = network()
    logits = plain(ROWS.features)
    for loss in (nn.CrossEntropyLoss(), nn.MSELoss()):
        assert as_model(Classifier(plain, loss)) is plain
    # Without classes an estimator hands the outputs to its loss as they are.
    assert as_model(Estimator(plain, nn.NLLLoss())) is plain
    probable = nn.Sequential(plain, nn.Softmax(1))
    found = as_model(Classifier(probable, nn.NLLLoss()))(ROWS.features)
    torch.testing.assert_close(found, logits.log_softmax(1), rtol=0, atol=1e-4)
    single = network(outputs=1)
    found = as_model(Classifier(nn.Sequential(single, nn.Sigmoid()), nn.BCELoss()))(ROWS.features)
    torch.testing.assert_close(found, single(ROWS.features), rtol=0, atol=1e-4)


def test_probabilities_of_the_users_own_are_asked_for_by_predict_proba():
    own = Classifier(nn.Sequential(network(), nn.Softmax(1)), nn.MSELoss())
    own.predict_nonlinearity = torch.softmax
    model = as_model(own)
    assert not isinstance(model, nn.Module)
    torch.testing.assert_close(model(ROWS.features).exp(), own.module_(ROWS.features).detach())


def test_a_saturated_probability_has_finite_logits_and_gradients():
    class Sure(nn.Module):
        def forward(self, x):
            return (1000 * x).softmax(1)

    x = torch.tensor([[1.0, -1.0]], requires_grad=True)
    logits = as_model(Classifier(Sure(), nn.NLLLoss()))(x)
    logits[0, 0].backward()
    assert bool(logits.isfinite().all())
    assert bool(x.grad.isfinite().all())


def history(epochs=12):
    return [
        {
            "epoch": i,
            "train_loss": 1 / i,
            "valid_loss": 0.5 + 0.05 * i,
            "valid_acc": 0.5,
            "train_loss_best": i == 3,
            "valid_loss_best": np.bool_(i == 1),
            "dur": 0.1,
            "batches": [{"train_loss": 1.0}],
        }
        for i in range(1, epochs + 1)
    ]


def test_a_history_is_learning_curves(tmp_path):
    curves = LearningCurves.from_log(history())
    assert curves.val_loss[:2].tolist() == pytest.approx([0.55, 0.6])
    assert set(curves.metrics) == {"valid_acc"}
    found = diagnose(curves=history(), only="curves")
    given = diagnose(curves=curves, only="curves")
    assert found.to_frame().equals(given.to_frame())
    with pytest.raises(InputError, match="`curves`"):
        diagnose(curves={"loss": [1.0]})
    rows = [{**row, "valid_loss_best": False} for row in history()]
    (tmp_path / "history.json").write_text(json.dumps(rows))
    assert LearningCurves.from_run(tmp_path / "history.json").table().equals(curves.table())


@pytest.fixture(scope="module")
def nets():
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    names = ("NeuralNetClassifier", "NeuralNetBinaryClassifier", "NeuralNetRegressor")
    several, binary, regressor = (getattr(skorch, name) for name in names)
    settings = {"max_epochs": 12, "lr": 0.1, "verbose": 0}
    nets = {
        "probabilities": several(network(nn.Softmax(1)), **settings),
        "logits": several(network(), criterion=nn.CrossEntropyLoss, **settings),
        "binary": binary(network(outputs=1), **settings),
        "regression": regressor(network(outputs=1), **settings),
    }
    for name, net in nets.items():
        # Its loss compares outputs [n, 1] with targets as they are.
        targets = {"binary": LABELS.astype("float32"), "regression": 2 * X[:, :1]}
        net.fit(X, targets.get(name, LABELS))
    return nets


@pytest.mark.parametrize("name", ["probabilities", "logits", "binary"])
def test_a_classifier_of_skorch_at_every_door(nets, name):
    net = nets[name]
    records = collect(net, ROWS)
    theirs = torch.from_numpy(net.predict_proba(X))
    logits = records.logits if records.logits.ndim > 1 else records.logits[:, None]
    ours = logits.softmax(1) if name != "binary" else torch.cat([-logits, logits], 1).sigmoid()
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-5)
    assert permutation_importance(net, ROWS).table()["feature"].iloc[0] == "feature_0"
    found = attribute(net, ROWS.features[:50], "integrated_gradients", trust=False)
    assert int(found.values.abs().mean(0).argmax()) == 0
    assert influence(net, ROWS, ROWS.select(range(20)), method="gradients") is not None
    calibrated = recalibrate(net, ROWS)
    assert isinstance(calibrated.model, nn.Module)
    diagnosis = diagnose(net, curves=net.history, train=ROWS, validation=ROWS, budget="20s")
    assert any(f.check == "curves.regime" and f.severity.level >= 0 for f in diagnosis.findings)
    assert not [f for f in diagnosis.findings if f.severity == "errored"]


def test_a_regressor_of_skorch(nets):
    net = nets["regression"]
    rows = Records(ROWS.features, torch.from_numpy(2 * X[:, 0]))
    records = collect(net, rows)
    assert records.task is Task.REGRESSION
    torch.testing.assert_close(records.logits, torch.from_numpy(net.predict(X)[:, 0]))
    found = attribute(net, ROWS.features[:50], "integrated_gradients", trust=False)
    assert int(found.values.abs().mean(0).argmax()) == 0


def test_the_history_of_skorch(nets, tmp_path):
    net = nets["logits"]
    curves = LearningCurves.from_log(net.history)
    assert curves.train_loss.tolist() == pytest.approx(list(net.history[:, "train_loss"]))
    assert curves.val_loss.tolist() == pytest.approx(list(net.history[:, "valid_loss"]))
    assert set(curves.metrics) == {"valid_acc"}
    net.history.to_file(str(tmp_path / "history.json"))
    assert LearningCurves.from_run(tmp_path / "history.json").table().equals(curves.table())


@pytest.mark.skipif(not importlib.util.find_spec("skorch"), reason="skorch is not installed")
def test_the_command_line_takes_an_estimator(tmp_path, monkeypatch):
    (tmp_path / "skorch_net.py").write_text(
        "import numpy as np, torch, skorch\n"
        "def fitted():\n"
        "    torch.manual_seed(0)\n"
        "    x = np.random.default_rng(0).normal(size=(200, 2)).astype('float32')\n"
        "    net = skorch.NeuralNetClassifier(\n"
        "        torch.nn.Linear(2, 2), criterion=torch.nn.CrossEntropyLoss, verbose=0\n"
        "    )\n"
        "    return net.fit(x, (x[:, 0] > 0).astype('int64'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rows = [f"{a},{b},{int(a > 0)}" for a, b in DRAW.normal(size=(200, 2))]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,label", *rows]))
    (tmp_path / "schema.yaml").write_text("target: label\n")
    words = ["--model", "skorch_net:fitted", "--data", "rows.csv", "--schema", "schema.yaml"]
    assert main(["attribute", *words, "--out", "out", "--fail-on", "never"]) == 0
