"""Completion in a shell: the script that `gendebug completion` prints, as bash reads it."""

import shutil
import subprocess
import sys

import pytest

from gendebug_torch.checks.registry import all_checks
from gendebug_torch.cli import main
from gendebug_torch.cli.main import COMMANDS

BASH = shutil.which("bash")


def test_without_shtab_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'gendebug_torch[completion]'" in capsys.readouterr().err


def printed(shell, capsys):
    pytest.importorskip("shtab", reason="shtab is not installed (extra `completion`)")
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_every_command_and_option_is_in_the_script(shell, capsys):
    text = printed(shell, capsys)
    for words in ("fail-on", "shift.ks", "integrated_gradients", "redundancy", *COMMANDS):
        assert all(word in text for word in words.split())


@pytest.fixture
def completed(tmp_path, capsys):
    """What bash offers for the last of some words, in a folder with `rows.csv` and `runs/`."""
    if BASH is None:
        pytest.skip("no bash here")
    script = tmp_path / "gendebug.bash"
    script.write_text(printed("bash", capsys))
    subprocess.run([BASH, "-n", str(script)], check=True)
    (tmp_path / "rows.csv").touch()
    (tmp_path / "runs").mkdir()

    def offered(*words):
        code = (
            'source ./gendebug.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
            '_shtab_gendebug; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        command = [BASH, "--norc", "-c", code, "bash", "gendebug", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.split()

    return offered


def test_bash_completes_commands_options_and_values(completed):
    assert completed("") == list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    assert completed("dia") == ["diagnose"]
    assert completed("diagnose", "--va") == ["--validation"]
    assert completed("diagnose", "--fail-on", "") == ["note", "warn", "fail", "never"]
    checks = [check.name for check in all_checks() if check.name.startswith("leakage.")]
    assert completed("diagnose", "--only", "leakage.") == checks
    assert completed("diagnose", "--only", "shift", "leakage.") == checks
    assert completed("attribute", "--method", "kernel") == ["kernel_shap"]


def test_bash_completes_files_and_folders(completed):
    assert completed("shift", "rows.csv", "r") == ["rows.csv", "runs"]
    assert completed("diagnose", "--out", "r") == ["runs"]
    assert completed("leakage", "rows.csv", "rows.csv", "ro") == ["rows.csv"]


def test_bash_completes_the_commands_of_a_command(completed):
    assert completed("behave", "") == ["run", "add", "record", "confirm", "redundancy"]
    assert completed("behave", "add", "--fr") == ["--from"]
    assert completed("behave", "run", "ro") == ["rows.csv"]
    assert completed("behave", "cases.behavior.yaml", "--mo") == ["--model"]
