"""Exit codes and spelling of the command line: the contract with shells and CI servers."""

import inspect
import json
import subprocess
import sys
import warnings
from importlib import import_module
from typing import get_type_hints

import pytest

from gendebug_torch.cli import main
from gendebug_torch.cli.arguments import parsed_arguments, python_words
from gendebug_torch.cli.main import COMMANDS
from gendebug_torch.cli.signatures import signature_of
from gendebug_torch.errors import UnsupportedError


@pytest.fixture
def broken(monkeypatch):
    """Makes `gendebug checks` raise."""

    def set_error(error):
        def explode(as_json: bool = False) -> int:
            """Raises."""
            raise error

        monkeypatch.setattr("gendebug_torch.cli.commands.checks.checks", explode)

    return set_error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnsupportedError("not for this network"), 2),
        (ZeroDivisionError("boom"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_exit_code_and_no_traceback(broken, capsys, error, code):
    broken(error)
    assert main(["checks"]) == code
    text = capsys.readouterr()
    assert "Traceback" not in text.err + text.out
    assert text.err.startswith("gendebug checks: ")


def test_debug_shows_the_traceback(broken, capsys):
    broken(ZeroDivisionError("boom"))
    assert main(["checks", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_warnings_of_others_do_not_act_on_a_terminal(monkeypatch, capsys):
    def warn(as_json: bool = False) -> int:
        """Warns."""
        warnings.simplefilter("always")
        warnings.warn("no letter for \x1b[2J", stacklevel=1)
        return 0

    monkeypatch.setattr("gendebug_torch.cli.commands.checks.checks", warn)
    assert main(["checks"]) == 0
    assert capsys.readouterr().err == "UserWarning: no letter for \\x1b[2J\n"


@pytest.mark.parametrize("words", [["diagnos"], [], ["shift-"]])
def test_an_unknown_command_is_bad_input(words, capsys):
    assert main(words) == 2
    text = capsys.readouterr()
    assert "gendebug" in text.err + text.out
    assert "diagnose" in text.err + text.out or "shift" in text.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["diagnose", "--outt", "x"], "`--outt`: expected an option of gendebug diagnose"),
        (["diagnose", "--outt", "x"], "Did you mean '--out'?"),
        (["curves"], "`file, --out`: expected a value, got none"),
        (["labels", "t", "--size", "1.5"], "`--size`: expected a whole number, got '1.5'"),
        (["curves", "f", "--fail-on", "x"], "`--fail-on`: expected one of note, warn, fail, never"),
        (["curves", "f", "--out", ""], "`--out`: expected a value, got an empty text"),
    ],
)
def test_wrong_words_are_bad_input(words, text, capsys):
    assert main(words) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--tags", "theft", "money", "s.yaml"],
        ["--tags", "theft,money", "s.yaml"],
        ["s.yaml", "--tags", "theft", "money"],
        ["--model", "m:n", "s.yaml", "--tags=theft,money"],
        ["--tags", "theft", "money", "s.yaml", "--model", "m:n"],
    ],
)
def test_a_list_leaves_what_is_given_by_position(words):
    def command(suite: str, tags: list[str] | None = None, model: str | None = None) -> int:
        return 0

    values = parsed_arguments("behave", command, ["suite"], words, "")
    assert values["suite"] == "s.yaml"
    assert values["tags"] == ["theft", "money"]


def test_a_flag_alone_means_yes():
    def command(fast: bool = False, out: str | None = None) -> int:
        return 0

    for words, fast in (
        (["--fast"], True),
        (["--fast", "false"], False),
        (["--fast", "--out", "x"], True),
    ):
        assert parsed_arguments("x", command, (), words, "")["fast"] is fast


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches_its_use(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"gendebug {name}" in text
    assert "Exit code: 0 clean" in " ".join(text.split())
    assert "fail_on" not in text


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--only", "shift"], ["shift"]),
        (["--only", "shift", "labels"], ["shift", "labels"]),
        (["--only", "shift,labels.noise"], ["shift", "labels.noise"]),
        (["--only=shift,labels"], ["shift", "labels"]),
        (["--only", '["shift", "labels"]'], ["shift", "labels"]),
    ],
)
def test_lists_are_written_as_people_write_them(words, values):
    def command(only: list[str] | None = None, fail_on: str = "warn") -> int:
        return 0

    flag, value, *rest = python_words([*words, "--fail-on", "never"], command)
    assert flag == "--only"
    assert json.loads(value) == values
    assert rest == ["--fail_on", "never"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_signature_from_the_source_is_that_of_the_function(name):
    command = COMMANDS[name]
    module = f"gendebug_torch.cli.commands.{command.module}"
    function = getattr(import_module(module), command.function)
    found = signature_of(module, command.function)
    assert found.__doc__ == function.__doc__
    assert get_type_hints(found) == get_type_hints(function)
    ours, theirs = (inspect.signature(one).parameters for one in (found, function))
    assert ours == theirs


def test_help_imports_no_torch():
    code = """
import sys
from gendebug_torch.cli import main
from gendebug_torch.cli.main import COMMANDS
main(["--help"]); main(["--version"])
for name in COMMANDS:
    try:
        main([*name.split(), "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0
print(sorted({"torch", "pandas", "numpy", "scipy", "matplotlib"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_has_seen_enough_changes_no_verdict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["curves", "runs.csv", "--out", "out"]
    epochs = "\n".join(f"{i},{1 / (i + 1)},{1 / (i + 1) + 0.1}" for i in range(30))
    (tmp_path / "runs.csv").write_text(f"epoch,train_loss,val_loss\n{epochs}\n")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-m", "gendebug_torch.cli", *words], **pipes) as process:
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == main(words), errors
    assert "BrokenPipe" not in errors


def test_half_a_letter_among_the_words_is_bad_input(capsys):
    assert main(["behave", "record", "\ud83d", "--model=a:b"]) == 2
    assert "Write the whole letter" in capsys.readouterr().err
