"""Readers of networks, of their outputs, and of runs over rows that were interrupted."""

import io
import json
import warnings
from functools import cache, partial

import numpy as np
import torch
from safetensors.torch import save

from gendebug_torch import attribute, recalibrate
from gendebug_torch.data.records import Records
from gendebug_torch.influences.checkpoints import checkpoint_states
from gendebug_torch.model.formats import load_served, load_weights
from tests.fuzz.reader import Reader, command, frame, inputs, network, written

MADE = f"{__name__}:new_network"
LIGHTNING = "tests.fuzz.lightning_network:Network"


def new_network():
    """A network of its own, into which weights are loaded."""
    return torch.nn.Linear(4, 3)


def served(batch):
    """What is served in the place of the network."""
    return batch[:, :3]


def _script(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(network(), inputs()).save(folder / "network.ts")


@cache
def _onnx():
    import onnx

    make = onnx.helper
    value, number = make.make_tensor_value_info, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    node = make.make_node("MatMul", ["x", "w"], ["logits"])
    ends = ([value("x", number, ["n", 4])], [value("logits", number, ["n", 3])])
    graph = make.make_graph([node], "product", *ends, [weight])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    return {"network.onnx": model.SerializeToString()}


def _outputs():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(60) % 3
    return {"logits": torch.randn(60, 3, generator=generator), "targets": targets}


def _read_outputs(folder):
    (path,) = folder.iterdir()
    one = {"logits": str(path), "candidates": ["temperature"], "out": str(folder / "out")}
    command("recalibrate", **one)


def _checkpoint(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    return {"run.ckpt": stream.getvalue()}


def _plain():
    return _checkpoint({"state_dict": network().state_dict(), "epoch": 3})


def _of_lightning():
    more = {"pytorch-lightning_version": "2.6.0", "hyper_parameters": {"width": 4}}
    state = {f"layer.{name}": value for name, value in network().state_dict().items()}
    return _checkpoint({"state_dict": state, "epoch": 3, "global_step": 30, **more})


def _read_checkpoint(name, folder):
    rows = frame().assign(label=np.arange(60) % 3)[["label", "x1", "x2", "customer", "score"]]
    rows.to_csv(folder / "rows.csv", index=False)
    (folder / "schema.yaml").write_text("target: label\n", encoding="utf-8")
    paths = {
        "data": str(folder / "rows.csv"),
        "schema": str(folder / "schema.yaml"),
        "checkpoint": str(folder / "run.ckpt"),
        "out": str(folder / "out"),
    }
    command("recalibrate", model=name, candidates=["temperature"], **paths)


def _features():
    stream = io.BytesIO()
    np.savez(stream, features=inputs().numpy())
    return {"rows.npz": stream.getvalue()}


def _read_features(folder):
    one = {"model": MADE, "served": f"{__name__}:served", "out": str(folder / "out")}
    command("parity", data=str(folder / "rows.npz"), **one)


def _moments():
    stream = io.BytesIO()
    torch.save(network().state_dict(), stream)
    return {"1.safetensors": save(network().state_dict()), "2.pt": stream.getvalue()}


def _shipped(folder):
    rows = Records(inputs().repeat(8, 1), torch.arange(240) % 3)
    recalibrate(network(), rows, candidates=["temperature"], keep_predictions=False).save(folder)
    held = ("model.safetensors", "calibration.json")
    for path in folder.iterdir():
        if path.name not in held:
            path.unlink()


def _read_shipped(folder):
    header = json.loads(written(_shipped)["calibration.json"])
    assert "model_sha256" in header
    load_weights(new_network(), str(folder / "model.safetensors"))


def _attributed(folder):
    options = {"batch_size": 10, "stream": True, "trust": False}
    return attribute(network(), inputs(), "saliency", checkpoint=folder / "run", **options)


def _read_attributed(folder):
    found = _attributed(folder)
    expected = attribute(network(), inputs(), "saliency", trust=False)
    assert torch.equal(found.values, expected.values), "a damaged checkpoint changed the answers"


NETWORK_READERS = (
    Reader("torchscript", partial(written, _script), lambda f: load_served(str(f / "network.ts"))),
    Reader("onnx", _onnx, lambda f: load_served(str(f / "network.onnx"))(inputs())),
    Reader("outputs", lambda: {"outputs.safetensors": save(_outputs())}, _read_outputs, cost=60),
    Reader("checkpoint of a network", _plain, partial(_read_checkpoint, MADE), cost=300),
    Reader("lightning checkpoint", _of_lightning, partial(_read_checkpoint, LIGHTNING), cost=300),
    Reader("features npz", _features, _read_features, cost=40),
    Reader(
        "weights over time",
        _moments,
        lambda f: checkpoint_states(network(), [f / "1.safetensors", f / "2.pt"]),
    ),
    Reader("weights with a note", partial(written, _shipped), _read_shipped),
    Reader("attributed rows", partial(written, _attributed), _read_attributed, cost=4),
)
