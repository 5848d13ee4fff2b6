"""Every public function answers CUDA tensors as it answers those of the host, values included.

The calls are those of the docstrings' examples, each asked on CUDA beside.
"""

import dataclasses
import doctest
import functools
import importlib
import inspect

import pandas as pd
import pytest
import torch
from torch import Tensor

import gendebug_torch
from gendebug_torch import Records
from gendebug_torch.checks.evidence import axes
from gendebug_torch.checks.registry import TOPICS, folder_of

MODULES = [
    gendebug_torch,
    *(importlib.import_module(f"gendebug_torch.{folder_of(t)}") for t in TOPICS),
]
PUBLIC = {
    f"{module.__name__.rpartition('.')[2]}.{name}": function
    for module in MODULES
    for name in module.__all__
    if inspect.isfunction(function := getattr(module, name))
}
# The findings of a diagnosis are compared in test_cuda.py; the seconds that it took differ.
FUNCTIONS = {
    name: function
    for name, function in PUBLIC.items()
    if ">>>" in function.__doc__ and name != "gendebug_torch.diagnose"
}
# What their examples pass lies in tables, files or the network alone.
WITHOUT_TENSORS = {
    *("behavior.append_case", "behavior.compare_runs", "behavior.confirm_expectations"),
    *("behavior.explain_failures", "behavior.load_suite", "behavior.network_predict"),
    *("behavior.propose_expectations", "behavior.run_suite", "calibration.load_calibration"),
    *("leakage.feature_parity", "leakage.identifier_columns", "leakage.label_delays"),
    *(
        "gendebug_torch.compare",
        "gendebug_torch.profile",
        "leakage.near_duplicate_texts",
        "leakage.shared_values",
    ),
    *("shift.category_shift", "shift.prepare_table"),
}


def on_cuda(value):
    """The same value with its tensors on CUDA, and whether there were any."""
    if isinstance(value, (Tensor, Records, torch.nn.Module)):
        return value.to("cuda"), True
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {
            f.name: on_cuda(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init
        }
        if not any(moved for _, moved in parts.values()):
            return value, False
        return dataclasses.replace(value, **{key: part for key, (part, _) in parts.items()}), True
    if type(value) in (list, tuple):
        parts = [on_cuda(part) for part in value]
        return type(value)(part for part, _ in parts), any(moved for _, moved in parts)
    if type(value) is dict:
        parts = {key: on_cuda(part) for key, part in value.items()}
        return {key: part for key, (part, _) in parts.items()}, any(m for _, m in parts.values())
    return value, False


def assert_same(found, known, path="answer"):
    """Equal values, wherever they lie: numbers to the rounding of float32, all else exactly."""
    if isinstance(known, Tensor):
        assert found.shape == known.shape, path
        assert found.dtype == known.dtype, path
        found, known = found.detach().cpu().double(), known.detach().cpu().double()
        assert torch.allclose(found, known, rtol=1e-4, atol=1e-6, equal_nan=True), path
    elif isinstance(known, pd.DataFrame):
        pd.testing.assert_frame_equal(found, known, rtol=1e-4, atol=1e-6, obj=path)
    elif isinstance(known, Records) or dataclasses.is_dataclass(known):
        for field in dataclasses.fields(known):
            one, other = getattr(found, field.name), getattr(known, field.name)
            assert_same(one, other, f"{path}.{field.name}")
    elif isinstance(known, dict):
        assert list(found) == list(known), path
        for key in known:
            assert_same(found[key], known[key], f"{path}[{key!r}]")
    elif isinstance(known, (list, tuple)):
        assert len(found) == len(known), path
        for i, (one, other) in enumerate(zip(found, known, strict=True)):
            assert_same(one, other, f"{path}[{i}]")
    elif isinstance(known, float):
        assert found == pytest.approx(known, rel=1e-4, abs=1e-6, nan_ok=True), path
    elif isinstance(known, (str, int, bool, type(None))):
        assert found == known, path


def derived(answer):
    """What an answer is asked for next: a plot, its table and its properties."""
    if not dataclasses.is_dataclass(answer):
        return {}
    kind = type(answer)
    properties = (property, functools.cached_property)
    names = [name for name in dir(kind) if isinstance(getattr(kind, name, None), properties)]
    values = {name: getattr(answer, name) for name in names if not name.startswith("_")}
    if hasattr(answer, "plot"):
        answer.plot(axes())
    return values | ({"table": answer.table()} if hasattr(answer, "table") else {})


def asked_on_both(function, asked):
    """The function, which also asks on CUDA, compares, and answers from the host."""

    @functools.wraps(function)
    def both(*args, **options):
        (moved_args, any_arg), (moved_options, any_option) = on_cuda(args), on_cuda(options)
        found = None
        if any_arg or any_option:
            found = function(*moved_args, **moved_options)
            asked.append(function.__name__)
            # A network is moved in place.
            for value in (*args, *options.values()):
                if isinstance(value, torch.nn.Module):
                    value.cpu()
        known = function(*args, **options)
        if found is not None:
            assert_same(found, known)
            assert_same(derived(found), derived(known), "derived")
        return known

    return both


def test_every_public_function_has_an_example():
    assert set(PUBLIC) == {*FUNCTIONS, "gendebug_torch.diagnose"}
    assert ">>>" in PUBLIC["gendebug_torch.diagnose"].__doc__


@pytest.mark.gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_the_same_on_cuda(name):
    function = FUNCTIONS[name]
    asked = []
    places = importlib.import_module(function.__module__).__dict__ | {
        function.__name__: asked_on_both(function, asked)
    }
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=places)
    lines = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=lines.append)
    assert not result.failed, "".join(lines)
    assert bool(asked) == (name not in WITHOUT_TENSORS), asked
