"""What is served against the network: named differences, files of every format, the command."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from gendebug_torch import Cause, Records, Severity, diagnose
from gendebug_torch.cli import main
from gendebug_torch.errors import InputError
from gendebug_torch.model.formats import load_served
from gendebug_torch.shift.serving.output_parity import output_parity
from tests.versions import require_raw_weights


def network(seed=0, inputs=6, classes=3):
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return made


def rows(n=300, seed=1, shape=(6,)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def rounded(model, dtype):
    made = copy.deepcopy(model)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(weight.to(dtype).float())
    return made


@pytest.mark.parametrize("seed", range(5))
def test_differences_are_named(seed):
    model, x = network(seed), rows(seed=seed + 10)
    served = {
        "class_order": lambda x: model(x)[:, [1, 2, 0]],
        "softmax": lambda x: model(x).softmax(1),
        "log_softmax": lambda x: model(x).log_softmax(1),
        "negated": lambda x: -model(x),
        "float16": rounded(model, torch.float16),
        "bfloat16": rounded(model, torch.bfloat16),
    }
    for name, answers in served.items():
        found = output_parity(model, answers, x, tolerance=1e-6)
        assert not found.is_equal
        assert found.explanation.name == name
        assert found.remaining < 0.01


def test_preprocessing_of_images_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    x = rows(64, shape=(3, 8, 8)).sigmoid()
    served = {"channel_order": lambda x: model(x.flip(1)), "over_255": lambda x: model(x / 255)}
    for name, answers in served.items():
        assert output_parity(model, answers, x).explanation.name == name


def test_an_equal_network_is_equal_and_left_as_it_was():
    model, x = network(), rows()
    served = copy.deepcopy(model).train()
    hooks = [len(module._forward_hooks) for module in served.modules()]
    found = output_parity(model, served, x)
    assert found.is_equal
    assert served.training
    served[2].bias.data.add_(1.0)
    assert "weights `2.bias`" in output_parity(model, served, x).first
    assert served.training
    assert hooks == [len(module._forward_hooks) for module in served.modules()]


def test_the_first_module_that_differs_is_named():
    model = network()
    served = copy.deepcopy(model)
    served[1] = nn.LeakyReLU(0.3)
    assert output_parity(model, served, rows()).first.startswith("module `1`")


def test_decisions_of_one_logit_and_missing_answers():
    model = nn.Linear(6, 1)
    found = output_parity(model, lambda x: model(x) * torch.nan, rows())
    assert not found.is_equal
    assert torch.isinf(found.difference).all()
    found = output_parity(model, lambda x: -model(x), rows())
    assert found.changed.all()
    with pytest.raises(InputError, match="same shape"):
        output_parity(model, lambda x: model(x).repeat(1, 2), rows())


def test_a_random_export_is_an_alarm_and_rounding_none():
    model, x = network(), Records(rows(), name="validation")
    dropped = nn.Dropout(0.5)

    def random(x):
        return nn.functional.dropout(model(x), dropped.p, training=True)

    (found,) = diagnose(model, served=random, validation=x, only="shift.served_outputs").findings
    assert (found.severity, found.subject) == (Severity.FAIL, "random")
    assert found.cause is Cause.TRAIN_SERVE_SKEW
    half = rounded(model, torch.float16)
    (found,) = diagnose(model, served=half, validation=x, only="shift.served_outputs").findings
    assert found.severity is Severity.OK


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The network, its rows and files of every format; the weights of `other.pt` differ."""
    folder = tmp_path_factory.mktemp("shipped")
    model, x = network(), rows()
    np.savez(folder / "rows.npz", features=x.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, x[:2]).save(str(folder / "net.pt"))
        torch.jit.trace(network(7), x[:2]).save(str(folder / "other.pt"))
        dynamic = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (x[:2],), dynamic_shapes=dynamic)
        torch.export.save(program, folder / "net.pt2")
        torch.onnx.export(model, (x[:2],), str(folder / "net.onnx"), dynamo=True, verbose=False)
    (folder / "parity_nets.py").write_text(
        "from tests.test_parity import network\n"
        "def exchanged(x):\n    return network()(x)[:, [2, 1, 0]]\n"
    )
    return folder


@pytest.mark.parametrize("file", ["net.pt", "net.pt2", "net.onnx"])
def test_every_format_answers_as_the_network(shipped, file):
    if file == "net.pt2":
        require_raw_weights(shipped / file)
    served, x = load_served(str(shipped / file)), rows()
    assert output_parity(network(), served, x).is_equal


def test_the_command(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shipped)

    def parity(served, *words):
        name = ["--model", "tests.test_parity:network", "--served", served, "--data", "rows.npz"]
        code = main(["parity", *name, "--out", str(tmp_path / "out"), *words])
        return code, json.loads((tmp_path / "out" / "findings.json").read_text())

    assert parity("net.pt")[0] == 0
    code, (found,) = parity("other.pt")
    assert code == 1
    assert "weights `0.weight`" in found["summary"]
    code, (found,) = parity("parity_nets:exchanged", "--max-rows", "50")
    assert found["subject"] == "class_order"
    assert found["numbers"]["rows"] == 50
    assert (tmp_path / "out" / "report.html").exists()
    words = ["parity", "--served", "net.pt", "--out", str(tmp_path / "none")]
    assert main(words) == 2
    assert "--model, --data" in capsys.readouterr().err
    assert main([*words, "--pipeline", "parity_nets:x"]) == 2
    assert main(["parity", "--out", str(tmp_path / "none")]) == 2
    with pytest.raises(InputError, match="onnx"):
        load_served("net.h5")
