"""Pictures in folders, arrays without a schema, loaders and network files on the command line."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gendebug_torch import Schema
from gendebug_torch.cli.main import main
from gendebug_torch.data.inputs.image_folder import read_image_folder
from gendebug_torch.errors import InputError
from gendebug_torch.model.formats import load_network
from tests.versions import require_raw_weights


def draw(path, mode="RGB", size=(12, 12), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    if mode == "I;16":
        picture = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        picture = picture.convert(mode)
    picture.save(path)


def test_a_folder_for_each_class(tmp_path):
    for i in range(6):
        draw(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png", seed=i)
    found = read_image_folder(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.files[0] == "cat/1.png"
    pixels, target = found[0]
    assert (pixels.shape, pixels.dtype, int(target)) == ((3, 12, 12), torch.float32, 0)
    assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1
    assert list(found.metadata.iloc[0]) == ["cat/1.png", 12, 12]
    assert read_image_folder(tmp_path, ("dog", "cat")).targets.tolist() == [1, 1, 1, 0, 0, 0]
    with pytest.raises(InputError, match="folders named as the classes"):
        read_image_folder(tmp_path, ("dog",))


def test_pictures_of_every_kind_and_damaged_ones(tmp_path):
    for i, mode in enumerate(("RGB", "RGBA", "P", "L", "1", "I;16", "LA", "CMYK")):
        draw(tmp_path / "a" / f"{i}.{'jpg' if mode == 'CMYK' else 'png'}", mode, seed=i)
    draw(tmp_path / "a" / "small.png", size=(1, 1))
    draw(tmp_path / "outside.png")
    whole = (tmp_path / "outside.png").read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a" / "text.jpg").write_text("no picture")
    (tmp_path / "a" / "notes.txt").write_text("left out without a word")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = read_image_folder(tmp_path)
    assert found.pixels.shape == (10, 3, 12, 12)
    assert sorted(path.rsplit("/", 1)[1] for path in found.unreadable) == ["cut.png", "text.jpg"]
    texts = [str(warning.message) for warning in said]
    assert any("2 files" in text and "cut.png" in text for text in texts)
    assert any("1 pictures" in text and "resized to 12 x 12" in text for text in texts)
    assert found.targets[-1] == -100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deep = found.pixels[found.files.index("a/5.png")].float().mean()
    assert 100 < float(deep) < 155


def test_grey_pictures_keep_one_channel_and_all_their_bits(tmp_path):
    for i in range(3):
        draw(tmp_path / "grey" / f"{i}.png", "L", seed=i)
        draw(tmp_path / "deep" / f"{i}.png", "I;16", seed=i)
    grey, deep = (read_image_folder(tmp_path / name) for name in ("grey", "deep"))
    assert (grey.pixels.dtype, grey.pixels.shape[1]) == (torch.uint8, 1)
    assert int(deep.pixels.max()) > 60_000
    assert float(deep[0][0].max()) <= 1


def test_floats_are_shares_of_white_and_hidden_folders_no_classes(tmp_path):
    values = np.random.default_rng(0).random((12, 12)).astype(np.float32)
    (tmp_path / "a").mkdir()
    Image.fromarray(values).save(tmp_path / "a" / "shares.tif")
    Image.fromarray(255 * values).save(tmp_path / "a" / "values.tif")
    glass = Image.fromarray((255 * values).astype(np.uint8)).convert("P")
    glass.save(tmp_path / "a" / "glass.png", transparency=bytes(range(256)))
    for hidden in (".ipynb_checkpoints", "__MACOSX", "a/.thumbnails"):
        draw(tmp_path / hidden / "1.png")
    (tmp_path / "a" / "folder.png").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image_folder(tmp_path)
    assert found.classes == ("a",)
    assert found.files == ("a/glass.png", "a/shares.tif", "a/values.tif")
    for pixels in found.pixels:
        assert abs(float(pixels.float().mean()) - 255 * values.mean()) < 2


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="none can be read"):
        read_image_folder(tmp_path)


MODULE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 2))

def rows():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(80, 3, 12, 12, generator=generator), torch.arange(80) % 2)
"""


def run(tmp_path, *words):
    code = main(
        ["diagnose", "--out", str(tmp_path / "out"), "--only", "shift.ks,shift.quality", *words]
    )
    return code, json.loads((tmp_path / "out" / "findings.json").read_text())


def test_pictures_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture_nets.py").write_text(MODULE)
    for i in range(100):
        draw(tmp_path / "before" / ("ab"[i % 2]) / f"{i}.png", seed=i)
        draw(tmp_path / "after" / f"{i}.png", seed=1000 + i)
    for i in range(100):
        with Image.open(tmp_path / "after" / f"{i}.png") as picture:
            dark = picture.point(lambda value: value // 3)
        dark.save(tmp_path / "after" / f"{i}.png")
    sides = ("--validation", "before", "--production", "after")
    code, found = run(tmp_path, *sides, "--model", "picture_nets:build")
    assert code == 1
    failed = {finding["subject"] for finding in found if finding["severity"] == "fail"}
    assert "brightness" in failed
    assert not [finding for finding in found if finding["severity"] == "errored"]
    (tmp_path / "after" / "empty.png").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _, alone = run(tmp_path, *sides)
    assert any(f["check"] == "shift.ks" and f["severity"] == "fail" for f in alone)
    assert "gendebug diagnose: 1 files of after cannot be read" in capsys.readouterr().err
    assert "1 files of after cannot be read" in (tmp_path / "out" / "report.html").read_text()


def test_folders_of_two_sizes_are_refused_or_resized_as_declared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sized_nets.py").write_text(MODULE)
    for i in range(60):
        draw(tmp_path / "before" / ("ab"[i % 2]) / f"{i}.png", seed=i)
        draw(tmp_path / "after" / ("ab"[i % 2]) / f"{i}.png", size=(24, 20), seed=1000 + i)
    words = ("--validation", "before", "--production", "after", "--model", "sized_nets:build")
    assert main(["diagnose", "--out", "o", *words]) == 2
    said = capsys.readouterr().err
    assert "3 x 12 x 12 in before, 3 x 20 x 24 in after" in said
    assert "image_size" in said
    assert main(["diagnose", "--out", "o", "--validation", "after", *words[4:]]) == 2
    said = capsys.readouterr().err
    assert "--validation" in said
    assert "3 x 20 x 24, at which it raises RuntimeError" in said
    (tmp_path / "size.yaml").write_text("image_size: [12, 12]")
    _, found = run(tmp_path, *words, "--schema", "size.yaml")
    by_check = {finding["check"]: finding for finding in found}
    assert by_check["shift.quality"]["numbers"]["n"] == 60
    assert "resized" not in capsys.readouterr().err
    words = ["leakage", "before", "after", "--out", "o"]
    (tmp_path / "none.yaml").write_text("classes: [a, b]")
    assert main([*words, "--schema", "none.yaml"]) == 2
    assert "`tables`: expected pictures of one size" in capsys.readouterr().err
    assert main([*words, "--schema", "size.yaml"]) in (0, 1)


@pytest.mark.parametrize("size", ["[12]", "[0, 4]", "[1.5, 2]", "12x12", "[true, 2]"])
def test_sizes_that_are_none(tmp_path, size):
    (tmp_path / "size.yaml").write_text(f"image_size: {size}")
    with pytest.raises(InputError, match="width and height in pixels"):
        Schema.from_file(tmp_path / "size.yaml")
    assert Schema(image_size=7).image_size == (7, 7)


def test_arrays_and_loaders_need_no_schema(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_too.py").write_text(MODULE)
    pixels = np.random.default_rng(0).random((80, 3, 12, 12), dtype=np.float32)
    np.savez(tmp_path / "rows.npz", features=pixels, targets=np.arange(80) % 2)
    given = ("--validation", "rows.npz", "--production", "nets_too:rows")
    _, found = run(tmp_path, *given, "--model", "nets_too:build")
    assert not [finding for finding in found if finding["severity"] == "errored"]
    by_check = {finding["check"]: finding for finding in found}
    assert by_check["shift.quality"]["numbers"]["n"] == 80
    assert main(["diagnose", "--out", "o", "--validation", "nets_too:nothing"]) == 2
    assert main(["diagnose", "--out", "o", "--validation", "rows.csv"]) == 2


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_networks_come_from_files(tmp_path):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 3), nn.Softplus()).eval(), torch.randn(5, 4)
    expected = network(x)
    torch.jit.save(torch.jit.script(network), tmp_path / "net.pt")
    torch.testing.assert_close(load_network(str(tmp_path / "net.pt"), None)(x), expected)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="a TorchScript archive"):
        load_network(str(tmp_path / "weights.pt"), None)
    with pytest.raises(InputError, match="without weights of its own"):
        load_network(str(tmp_path / "net.pt"), "weights.pt")
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="an ONNX model"):
        load_network(str(tmp_path / "net.onnx"), None)
    rows = {0: torch.export.Dim("rows", min=2)}
    torch.export.save(
        torch.export.export(network, (x,), dynamic_shapes=(rows,)), tmp_path / "net.pt2"
    )
    require_raw_weights(tmp_path / "net.pt2")
    torch.testing.assert_close(load_network(str(tmp_path / "net.pt2"), None)(x), expected)


def test_a_network_comes_from_an_onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    weight = np.arange(8, dtype=np.float32).reshape(4, 2)
    make = onnx.helper
    value = make.make_tensor_value_info
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["logits"])],
        "product",
        [value("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [value("logits", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    x = torch.randn(5, 4)
    found = load_network(str(tmp_path / "net.onnx"), None)(x)
    torch.testing.assert_close(found, x @ torch.from_numpy(weight))
