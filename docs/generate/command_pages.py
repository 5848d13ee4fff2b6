"""The command line from its own help."""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from docs.generate.markdown import code, write
from gendebug_torch.cli.main import COMMANDS, main

_COMPLETION = """The Tab key completes commands, options, ids of checks and files once its script
is where your shell looks for one (extra `completion`; again after an update):

```sh
mkdir -p ~/.local/share/bash-completion/completions ~/.zfunc ~/.config/fish/completions
gendebug completion bash > ~/.local/share/bash-completion/completions/gendebug
gendebug completion zsh > ~/.zfunc/_gendebug  # with fpath+=~/.zfunc before compinit in ~/.zshrc
gendebug completion fish > ~/.config/fish/completions/gendebug.fish
```"""


def command_page(path: Path) -> int:
    """Write the page of all commands; returns how many there are."""
    parts = ["# Command line", code(_printed(["--help"])), _COMPLETION]
    for name in COMMANDS:
        parts += [f"## gendebug {name}", code(_printed([*name.split(), "--help"]))]
    write(path, "\n\n".join(parts) + "\n")
    return len(COMMANDS)


def _printed(words: Sequence[str]) -> str:
    """What `gendebug` prints for these words, 84 columns wide."""
    text = io.StringIO()
    with (
        contextlib.redirect_stdout(text),
        contextlib.suppress(SystemExit),
        mock.patch.dict("os.environ", {"COLUMNS": "84"}),
        mock.patch.object(sys, "argv", ["gendebug"]),
    ):
        main(words)
    return text.getvalue()
