"""Files and directories that are written whole or not at all."""

import errno
import os
import resource
import stat

import pytest
import torch
from safetensors.torch import save_file

from gendebug_torch.data import files
from gendebug_torch.data.files import (
    read_text,
    replacing,
    replacing_directory,
    replacing_files,
    write_whole,
)
from gendebug_torch.errors import InputError


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def full_disk(monkeypatch):
    """A disk on which a file may hold 10 kB."""
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


def test_texts_and_bytes_replace_a_file(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    assert write_whole(path, "a\r\né\n") == path
    assert path.read_bytes() == "a\r\né\n".encode()
    os.chmod(path, 0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    write_whole(link, b"\xff")
    assert link.is_symlink()
    assert path.read_bytes() == b"\xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == ["a.txt"]


def test_new_files_have_the_permissions_of_the_process(tmp_path):
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "")
        with replacing_directory(tmp_path / "b"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750


@pytest.mark.parametrize(
    "name", ["folder", "file/below", "/proc/nowhere/a", "/dev/null", "x" * 300]
)
def test_what_cannot_be_a_file_is_refused_by_name(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError) as refused:
        write_whole(tmp_path / name, "new", "save")
    assert "`save`" in str(refused.value)
    assert name in str(refused.value)
    assert contents(tmp_path) == {"file": "old"}


def write_tensors(path):
    save_file({"x": torch.zeros(100_000)}, path)


def write_text(path):
    path.write_text("x" * 100_000)


def a_file(folder, write):
    with replacing(folder / "a") as scratch:
        write(scratch)


def a_directory(folder, write):
    with replacing_directory(folder / "b") as scratch:
        (scratch / "small").write_text("new")
        write(scratch / "big")


def some_files(folder, write):
    with replacing_files(folder, ["a", "big"]) as scratch:
        (scratch / "a").write_text("new")
        write(scratch / "big")


@pytest.mark.parametrize("replace", [a_file, a_directory, some_files])
@pytest.mark.parametrize("write", [write_tensors, write_text])
def test_a_full_disk_leaves_the_old_files(tmp_path, full_disk, replace, write):
    (tmp_path / "a").write_text("old")
    with pytest.raises(InputError, match="free some space"):
        replace(tmp_path, write)
    assert contents(tmp_path) == {"a": "old"}
    assert os.listdir(tmp_path) == ["a"]


def test_a_directory_replaces_all_of_the_old_one(tmp_path):
    target = tmp_path / "deep" / "records"
    for names in ("ab", "bc"):
        with replacing_directory(target) as scratch:
            for name in names:
                (scratch / name).write_text(names)
    assert contents(tmp_path) == {"deep/records/b": "bc", "deep/records/c": "bc"}
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError, match="file"), replacing_directory(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "old"


def test_files_are_replaced_together_and_others_stay(tmp_path):
    for name in ("a", "b", "gone", "other"):
        (tmp_path / name).write_text("old")
    with replacing_files(tmp_path, ["a", "b", "c", "gone"]) as scratch:
        for name in ("a", "b", "c"):
            (scratch / name).write_text("new")
    assert contents(tmp_path) == {"a": "new", "b": "new", "c": "new", "other": "old"}


def breaking(monkeypatch, step, error):
    """Let the given step of all renaming fail."""
    steps, replace = [], os.replace

    def faulty(source, target):
        steps.append(source)
        if len(steps) == step:
            raise error
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", faulty)


def replace_three(folder):
    with replacing_files(folder, ["a", "b", "c", "gone"]) as scratch:
        for name in ("a", "b", "c"):
            (scratch / name).write_text("new")


@pytest.mark.parametrize("step", range(1, 7))
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()], ids=repr)
def test_a_failed_step_puts_the_old_files_back(tmp_path, monkeypatch, step, error):
    for name in ("a", "b", "gone"):
        (tmp_path / name).write_text("old")
    breaking(monkeypatch, step, error)
    with pytest.raises((InputError, KeyboardInterrupt)):
        replace_three(tmp_path)
    assert contents(tmp_path) == {"a": "old", "b": "old", "gone": "old"}


@pytest.mark.parametrize("step", [1, 2])
def test_a_failed_step_puts_the_old_directory_back(tmp_path, monkeypatch, step):
    write_whole(tmp_path / "b" / "a", "old")
    breaking(monkeypatch, step, OSError(errno.EIO, "broken"))
    with pytest.raises(InputError):
        a_directory(tmp_path, write_text)
    assert contents(tmp_path) == {"b/a": "old"}


@pytest.mark.parametrize("error", [ValueError("own"), KeyboardInterrupt()])
def test_an_error_of_the_writer_is_passed_on_and_nothing_is_replaced(tmp_path, error):
    write_whole(tmp_path / "d" / "a", "old")
    for replace in (
        lambda: replacing(tmp_path / "d" / "a"),
        lambda: replacing_directory(tmp_path / "d"),
        lambda: replacing_files(tmp_path / "d", ["a"]),
    ):
        with pytest.raises(type(error)), replace():
            raise error
        assert contents(tmp_path) == {"d/a": "old"}


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_what_is_no_text_is_refused_by_name(tmp_path, content):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"`suite`: .*a\.txt"):
        read_text(path, "suite")
    with pytest.raises(InputError, match="directory"):
        read_text(tmp_path, "suite")
