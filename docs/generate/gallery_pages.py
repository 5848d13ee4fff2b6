"""A page and a notebook per example of the gallery: the script, what it printed, its picture."""

import ast
import hashlib
import inspect
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from docs.generate.markdown import code, contents, folded, write

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# Scripts that tell a story, with the words that they are built with, in the order of the gallery.
GALLERY = {
    "fraud_walkthrough": ("--rows", "50000", "--epochs", "10"),
    "image_serving_fault": (),
    "image_shortcut": (),
    "text_serving_fault": (),
    "regression_drift": (),
    "recalibrate_and_ship": (),
    "label_audit": (),
    "sensor_series": (),
    "network_that_does_not_learn": (),
    "monitoring": (),
    "ci_gate": (),
}


def gallery_pages(folder: Path, cache: Path, *, run: bool) -> dict[str, float]:
    """Write the pages; returns the seconds of every example that was run now.

    Args:
        folder: where pages go.
        cache: where the outputs of examples are kept, by their sources and the package's.
        run: whether examples that are not in the cache are run; else their pages show what an
            earlier run printed, if there was one.
    """
    seconds = {}
    for name, words in GALLERY.items():
        kept = cache / f"{name}-{_fingerprint(name)}"
        if run and not (kept / "printed.txt").exists():
            seconds[name] = _execute(name, words, kept)
        if not run:
            earlier = sorted(cache.glob(f"{name}-*"), key=lambda path: path.stat().st_mtime)
            kept = next(reversed(earlier), kept)
        write(folder / f"{name}.md", _page(name, kept, folder))
        write(folder / f"{name}.ipynb", _notebook(name))
        write(folder / f"{name}.py", (EXAMPLES / f"{name}.py").read_text())
    titles = "# Gallery\n\nWhole stories, each a script that ends in a picture.\n\n"
    entries = "\n\n".join(_entry(name, folder) for name in GALLERY)
    write(folder / "index.md", f"{titles}{entries}\n\n{contents(GALLERY, hidden=True)}\n")
    return seconds


def _entry(name: str, folder: Path) -> str:
    """The title of a story with its first paragraph, and its picture where there is one."""
    first, _, text = _parts(name)[0].partition("\n\n")
    entry = f"**[{first.rstrip('.')}]({name}.md)**\\\n{text.partition(chr(10) * 2)[0]}"
    drawn = (folder / f"{name}.png").exists()
    return f"{entry}\n\n![{first}]({name}.png){{width=480px}}" if drawn else entry


def _fingerprint(name: str) -> str:
    """What the output depends on: the examples' sources and the package's."""
    sources = [*EXAMPLES.glob(f"{name.partition('_')[0]}*.py"), *_package()]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources)))
    return digest.hexdigest()[:16]


def _package() -> list[Path]:
    return list((ROOT / "gendebug_torch").rglob("*.py"))


def _execute(name: str, words: tuple[str, ...], kept: Path) -> float:
    started = time.perf_counter()
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--out", str(kept), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"examples/{name}.py ended with {done.returncode}:\n{done.stderr}")
    took = time.perf_counter() - started
    write(kept / "printed.txt", done.stdout.replace(str(kept), f"runs/{name}"))
    return took


def _parts(name: str) -> tuple[str, str]:
    """Docstring and the code after it."""
    source = (EXAMPLES / f"{name}.py").read_text()
    first = ast.parse(source).body[0]
    return ast.get_docstring(ast.parse(source)) or "", "\n".join(
        source.splitlines()[first.end_lineno :]
    ).strip()


def _page(name: str, kept: Path, folder: Path) -> str:
    docstring, rest = _parts(name)
    first, _, text = docstring.partition("\n\n")
    parts = [f"# {first.rstrip('.')}", _prose(text)]
    if (kept / "printed.txt").exists():
        if (kept / "picture.png").exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kept / "picture.png", folder / f"{name}.png")
            parts.append(f"![{first}]({name}.png)")
        parts += ["## What it prints", code((kept / "printed.txt").read_text())]
    files = f"{{download}}`Script <{name}.py>` · {{download}}`Notebook <{name}.ipynb>`"
    parts += ["## The script", files]
    parts += [folded(f"<code>examples/{name}.py</code>", code(rest, "python"))]
    return "\n\n".join(parts) + "\n"


def _prose(text: str) -> str:
    """Paragraphs of a docstring; indented ones are commands."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        code(inspect.cleandoc(paragraph)) if paragraph.startswith("    ") else paragraph
        for paragraph in paragraphs
    )


def _notebook(name: str) -> str:
    """The script as a Jupyter notebook: what it says, what it defines, and the call."""
    docstring, rest = _parts(name)
    defined = rest.partition("if __name__")[0].rstrip()
    cells = [("markdown", docstring), ("code", defined), ("code", "main([])")]
    empty = {"execution_count": None, "outputs": []}
    return json.dumps(
        {
            "cells": [
                {"cell_type": kind, "metadata": {}, "source": text}
                | (empty if kind == "code" else {})
                for kind, text in cells
            ],
            "metadata": {"language_info": {"name": "python"}},
            "nbformat": 4,
            "nbformat_minor": 4,
        },
        indent=1,
    )
