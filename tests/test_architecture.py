"""The rules of the house, held by reading the source: who may import whom, how big a thing may be, what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gendebug_torch
from gendebug_torch.checks.registry import TOPICS

PACKAGE = Path(gendebug_torch.__file__).parent
MODULES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
FLOORS = {
    "errors": 0,
    "_files": 0,
    "_importing": 1,
    "stats": 0,
    "_plotting": 0,
    "_tables": 1,
    "affine": 1,
    "label_shift": 1,
    "_shards": 1,
    "_batches": 1,
    "records": 1,
    "finding": 1,
    "registry": 2,
    "runner": 2,
    "probe": 2,
    "attribution": 3,
    "behavior": 3,
    "calibration": 3,
    "curves": 3,
    "leakage": 3,
    "labels": 3,
    "shift": 3,
    "slices": 3,
    "standing": 2,
    "budget": 3,
    "decision": 3,
    "triage": 4,
    "report": 4,
    "suite": 5,
    "callbacks": 6,
    "cli": 6,
    "pytest_plugin": 6,
}
# _tables and records are two halves of one door, and batches are cut from both.
SAME_FLOOR = {("_tables", "records"), ("records", "_tables"), ("_batches", "_tables"), ("_batches", "records")}
HEAVY = ("captum", "jinja2", "jsonargparse", "lightning", "matplotlib", "pandas", "safetensors", "scipy", "shap", "tqdm", "yaml", "pyarrow")


def room(path):
    return path.parts[0].removesuffix(".py")


def imported(tree):
    """(dotted name, is at type-checking or function level) of every import in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree):
    for name in imported(tree):
        parts = name.split(".")
        if parts[0] == "gendebug_torch" and len(parts) > 1 and parts[1] in FLOORS:
            yield parts[1]


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__init__.py" or len(path.parts) > 1], ids=str)
def test_a_module_imports_only_lower_floors(path):
    here = room(path)
    assert here in FLOORS, f"{here} has no floor: give it one here and in the design"
    for other in own_imports(MODULES[path]):
        allowed = other == here or FLOORS[other] < FLOORS[here] or (here, other) in SAME_FLOOR
        assert allowed, f"{path} (floor {FLOORS[here]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] in TOPICS and not path.name.startswith("checks")], ids=str)
def test_maths_knows_nothing_of_checks(path):
    knows = {"registry", "finding", "suite"} & set(own_imports(MODULES[path]))
    assert not knows, f"{path} imports {knows}; only checks.py may"
    assert not any(name.startswith(f"gendebug_torch.{path.parts[0]}.checks") for name in imported(MODULES[path]))


def test_captum_and_lightning_are_touched_in_one_place():
    def touching(library):
        return {path.as_posix() for path, tree in MODULES.items() if any(name.startswith(library) for name in imported(tree))}

    captum, lightning = touching("captum"), {name for name in touching("lightning") if not name.startswith("callbacks/")}
    matplotlib = touching("matplotlib.fig") | touching("matplotlib.back")
    assert captum <= {"attribution/captum_bridge.py"}
    assert lightning == {"attribution/devices.py"}
    assert matplotlib == {"_plotting.py"}


def body_lines(node):
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    start = first.end_lineno + 1 if documented else first.lineno
    return node.end_lineno - start + 1


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_budgets(path):
    assert len((PACKAGE / path).read_text().splitlines()) <= 400
    for node in ast.walk(MODULES[path]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert body_lines(node) <= 50, f"{path}:{node.lineno} {node.name} has {body_lines(node)} lines"
        if isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("__")]
            assert len(methods) <= 12, f"{path}:{node.lineno} {node.name} has {len(methods)} methods"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_only_heavy_libraries_are_imported_inside_functions(path):
    for function in ast.walk(MODULES[path]):
        if not isinstance(function, ast.FunctionDef):
            continue
        for name in imported(ast.Module(body=function.body, type_ignores=[])):
            # pytest loads the plugin in every run of every user: it imports the library only where a suite is met.
            edge = path.parts[0] == "cli" or path.name in ("__init__.py", "pytest_plugin.py")
            assert edge or name.split(".")[0] in HEAVY, f"{path}: {function.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_exception_is_swallowed_and_nothing_is_unpickled(path):
    for node in ast.walk(MODULES[path]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno} bare except"
            assert not all(isinstance(item, ast.Pass) for item in node.body), f"{path}:{node.lineno} swallows"
    names = {name.split(".")[0] for name in imported(MODULES[path])}
    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "socket", "urllib", "requests", "http"}


def test_the_public_face():
    names = [name for name in gendebug_torch.__all__ if name not in gendebug_torch._TOPICS]
    assert len(names) <= 15
    for name in gendebug_torch.__all__:
        assert getattr(gendebug_torch, name) is not None
    with pytest.raises(AttributeError, match="diagnose"):
        gendebug_torch.diagnos  # noqa: B018


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_is_light_and_opens_no_socket():
    code = """
import sys, socket
import torch
def refuse(*a, **k): raise AssertionError("a socket was opened")
socket.socket = refuse
before = set(sys.modules)
import time; started = time.perf_counter()
import gendebug_torch
seconds = time.perf_counter() - started
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(seconds, *sorted(loaded & {"lightning", "captum", "matplotlib", "pandas", "scipy", "jsonargparse", "jinja2"}))
"""
    seconds, *loaded = run(code).split()
    assert loaded == []
    assert float(seconds) < 0.1


def test_every_check_stands_behind_a_source():
    from gendebug_torch.checks.registry import all_checks

    for check in all_checks():
        assert check.name.partition(".")[0] in TOPICS
        assert any(character.isdigit() for character in check.source), f"{check.name} names no source with a year"
        for option in check.options.values():
            assert option.help, f"{check.name}: option {option.name} has no line in Args"
