"""Files of torch.save: tensors and plain values, and nothing else."""

import io
import zipfile

import pytest
import torch

from gendebug_torch.errors import InputError
from gendebug_torch.model.formats import load_tensors, load_weights


def rewritten(path, old, new):
    """The same archive with other bytes in its pickle."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content.replace(old, new) if name.endswith(".pkl") else content)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old layout"])
def test_tensors_come_back(tmp_path, archive):
    network = torch.nn.Linear(3, 2)
    state = network.state_dict()
    path = tmp_path / "net.pt"
    torch.save(state, path, _use_new_zipfile_serialization=archive)
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        held = load_tensors(source)
        assert held.keys() == state.keys()
        assert all(torch.equal(held[name], state[name]) for name in state)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old layout"])
def test_a_name_that_is_too_long_is_refused_at_once(tmp_path, archive):
    """PyTorch searches its own message about it for minutes."""
    network = torch.nn.Linear(3, 2)
    path = tmp_path / "net.pt"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=archive)
    name = b"FloatStorage" + 40_000 * b"x"
    if archive:
        rewritten(path, b"FloatStorage", name)
    else:
        path.write_bytes(path.read_bytes().replace(b"FloatStorage", name))
    with pytest.raises(InputError, match=r"net\.pt: it names a class by 40,\d\d\d characters"):
        load_weights(network, str(path))


@pytest.mark.parametrize("content", [b"", b"age,score\n1,0.5\n", b"(dp0\n."])
def test_what_torch_did_not_write_is_said_to_be_so(tmp_path, content):
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"net\.pt: it is no file of torch\.save"):
        load_weights(torch.nn.Linear(3, 2), str(path))
