"""The rules of the house, held by reading the source: who imports whom, and how big a thing is."""

import ast
import functools
import inspect
import io
import statistics
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import pytest

import gendebug_torch
from gendebug_torch.checks.registry import TOPICS, all_checks, folder_of

PACKAGE = Path(gendebug_torch.__file__).parent
MODULES = {path.relative_to(PACKAGE): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {path: ast.parse(text) for path, text in MODULES.items()}
# A module imports only from rooms on lower floors, and from its own room.
FLOORS = {"errors": 0, "progress": 0, "version": 0, "data": 1, "modality": 1, "checks": 2}
FLOORS |= {"stats": 3, "model": 3}
FLOORS |= dict.fromkeys(map(folder_of, TOPICS), 4)
FLOORS |= {"profiles": 5, "report": 5, "diagnosis": 6, "callbacks": 7, "cli": 7, "pytest_plugin": 7}
# Libraries that cost time or are seldom needed: imported where they are used.
HEAVY = {"captum", "jinja2", "jsonargparse", "lightning", "matplotlib", "pandas", "pyarrow"}
HEAVY |= {"PIL", "markupsafe", "onnxruntime", "ruamel", "safetensors", "scipy", "shap", "tqdm"}
HEAVY |= {"transformers"}
# One file per check or command: such a room may be larger.
LISTS = ("checks", "commands")


def room(path):
    return path.parts[0].removesuffix(".py")


@functools.cache
def imported(tree):
    """Dotted names of every import in a tree, `module.name` for `from module import name`."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def own_imports(tree):
    """Parts of the dotted names that are imported from this package, without its own name."""
    for name in imported(tree):
        package, *parts = name.split(".")
        if package == "gendebug_torch" and parts and parts[0] in FLOORS:
            yield parts


@functools.cache
def at_run_time(tree):
    """A module without what only a type checker imports."""
    typing = [node for node in tree.body if "TYPE_CHECKING" in ast.unparse(node)[:20]]
    return ast.Module([node for node in tree.body if node not in typing], type_ignores=[])


@functools.cache
def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def body(function):
    """Statements of a function after its docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return function.body[documented:]


def test_a_module_imports_only_from_lower_floors_and_its_own_room():
    wrong = [
        f"{path} (floor {FLOORS[room(path)]}) imports {'.'.join(parts)}"
        for path, tree in TREES.items()
        if path != Path("__init__.py")
        for parts in own_imports(at_run_time(tree))
        if parts[0] != room(path) and FLOORS[parts[0]] >= FLOORS[room(path)]
    ]
    assert not wrong, wrong


def module_of(parts):
    """The file that `a.b.name` comes from."""
    while parts:
        for path in (Path(*parts).with_suffix(".py"), Path(*parts, "__init__.py")):
            if path in MODULES:
                return path
        parts = parts[:-1]
    return None


def test_there_is_no_import_cycle():
    graph = {
        path: {module_of(parts) for parts in own_imports(at_run_time(tree))} - {path, None}
        for path, tree in TREES.items()
        if path.name != "__init__.py"
    }
    while free := {path for path, needed in graph.items() if not needed & graph.keys()}:
        graph = {path: needed for path, needed in graph.items() if path not in free}
    assert not graph, f"these import each other: {sorted(map(str, graph))}"


def test_one_check_one_file_named_after_it():
    topics = {folder_of(topic): topic for topic in TOPICS}
    files = {
        f"{topics.get(path.parts[0])}.{path.stem}"
        for path in MODULES
        if len(path.parts) == 3 and path.parts[1] == "checks" and not path.stem.startswith("_")
    }
    assert {check.name for check in all_checks()} == files
    for path, tree in TREES.items():
        inside = len(path.parts) > 1 and path.parts[1] == "checks"
        for parts in own_imports(tree):
            is_check = len(parts) > 2 and parts[1] == "checks" and not parts[2].startswith("_")
            assert not (inside and is_check), f"{path} imports the check {'.'.join(parts)}"
        if path.parts[0] in topics and not inside:
            knows = {parts[1] for parts in own_imports(tree) if parts[0] == "checks"}
            assert knows <= {"evidence"}, f"{path} knows of checks: {knows}"


def test_foreign_libraries_are_touched_in_one_place():
    imports = {path: set(imported(tree)) for path, tree in TREES.items()}

    def touching(library):
        return {
            path.as_posix()
            for path, names in imports.items()
            if any(name.startswith(library) for name in names)
        }

    assert touching("captum") <= {"attribution/methods/captum/classes.py"}
    assert touching("ruamel") <= {"data/yaml.py"}
    assert touching("matplotlib.fig") | touching("matplotlib.back") == {"checks/evidence.py"}
    lightning = {name for name in touching("lightning") if not name.startswith("callbacks/")}
    assert lightning <= {"attribution/devices.py"}
    # `pickletools` reads the steps of a pickle and runs none.
    unpickling = ("cloudpickle", "dill", "joblib")
    assert not touching("pickle.") | {p for p, names in imports.items() if "pickle" in names}
    networking = ("socket", "urllib", "requests", "http.")
    assert not set().union(*map(touching, unpickling + networking))
    for path, tree in TREES.items():
        # The edges import what a command runs; pytest loads the plugin in every run of every user.
        edge = room(path) in ("cli", "pytest_plugin") or path.name == "__init__.py"
        for function in [] if edge else functions(tree):
            names = {name.split(".")[0] for name in imported(function)}
            assert names <= HEAVY, f"{path}: {function.name} imports {names - HEAVY}"


def tokens_of_bodies(text, tree):
    """(function, tokens of its body) of a module; comments and line ends are no tokens."""
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    starts = [
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in layout
    ]
    counts = Counter(starts)
    for function in functions(tree):
        if inner := body(function):
            lines = range(inner[0].lineno, function.end_lineno + 1)
            yield function, sum(counts[line] for line in lines)


def test_budgets_of_size():
    sizes = []
    for path, text in MODULES.items():
        lines = text.splitlines()
        assert len(lines) <= 400, f"{path} has {len(lines)} lines"
        for function, tokens in tokens_of_bodies(text, TREES[path]):
            sizes.append(tokens)
            inner = body(function)
            length = function.end_lineno - inner[0].lineno + 1
            assert length <= 50, f"{path}:{function.lineno} {function.name} has {length} lines"
            assert tokens <= 450, f"{path}:{function.lineno} {function.name} has {tokens} tokens"
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.ClassDef):
                methods = [f for f in node.body if isinstance(f, ast.FunctionDef)]
                methods = [f for f in methods if not f.name.startswith("__")]
                assert len(methods) <= 12, f"{path} {node.name} has {len(methods)} methods"
    assert statistics.mean(tokens > 300 for tokens in sizes) <= 0.02
    rooms = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    crowded = {str(r): n for r, n in rooms.items() if n > 7 and r.name not in LISTS}
    assert not crowded, crowded


def test_no_state_no_swallowed_exception_no_deep_inheritance():
    bases = {}
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                text = ast.unparse(node.value)
                empty = text in ("{}", "[]", "set()", "dict()", "list()")
                cached = "WeakKey" in text or "lru_cache" in text
                registry = path == Path("checks/registry.py")
                assert registry or not (empty or cached), f"{path}:{node.lineno} keeps state"
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                raise AssertionError(f"{path}:{node.lineno} changes a global")
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno} catches everything"
                swallows = all(isinstance(item, ast.Pass) for item in node.body)
                assert not swallows, f"{path}:{node.lineno} swallows an exception"
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]

    def depth(name):
        return 1 + max(map(depth, bases[name]), default=0) if name in bases else 0

    assert max(map(depth, bases)) <= 2 + 1, "the exception tree alone is three deep"


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


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
heavy = {"lightning", "captum", "matplotlib", "pandas", "scipy", "jsonargparse", "jinja2"}
print(seconds, *sorted(loaded & heavy))
"""
    seconds, *loaded = run(code).split()
    assert loaded == []
    assert float(seconds) < 0.1


def test_a_diagnosis_imports_what_takes_long_only_where_it_is_used():
    code = """
import sys
import gendebug_torch
from gendebug_torch.checks.registry import all_checks
gendebug_torch.diagnose, all_checks()
heavy = {"scipy.stats", "scipy.optimize", "matplotlib", "captum", "lightning", "jinja2"}
print(*sorted(heavy & set(sys.modules)))
"""
    assert run(code).split() == []


def test_every_check_names_its_source_and_explains_its_options():
    for check in all_checks():
        assert check.name.partition(".")[0] in TOPICS
        dated = any(character.isdigit() for character in check.source)
        assert dated, f"{check.name} names no source with a year"
        for option in check.options.values():
            assert option.help, f"{check.name}: option {option.name} has no line in Args"


PUBLIC = {
    "attribution": """
        METHODS Attributions attribute beeswarm compare_attributions
        counterfactual permutation_importance rank_agreement
    """,
    "behavior": """
        BehaviorRun Case Suite append_case compare_runs confirm_expectations
        explain_failures load_suite network_predict propose_expectations run_suite
    """,
    "calibration": """
        Recalibration ReliabilityBins adapt_to_label_shift calibration_sums
        choose_threshold classwise_bins confusion_matrix dense_records
        expected_calibration_error fit_affine fit_isotonic fit_temperature
        fit_top_label_map load_calibration miscalibration_shape operating_point
        recalibrate reliability_bins reliability_bins_of_confidence
    """,
    "callbacks": """
        AttributionMonitor BehaviorMonitor CalibrationError CalibrationMonitor
        LearningCurveMonitor NetworkMonitor TrainingDynamicsMonitor extra_forward
        learning_curve_over_sizes
    """,
    "curves": """
        CurveDiagnosis LearningCurves SizeCurves diagnose_curves
        early_stopping_diagnosis generalization_gap
    """,
    "diagnosis": "bill",
    "labels": """
        DynamicsRecorder audit_sheet cross_fitted_logits label_issues label_noise
        label_ranking noise_by_group pruning_effect read_review
    """,
    "leakage": """
        association feature_parity identical_rows identifier_columns label_delays
        missing_value_association near_duplicate_rows near_duplicate_texts
        preprocessing_leaks shared_values time_overlap
    """,
    "network": """
        preflight watch
    """,
    "shift": """
        DriftMonitor PreparedReference category_shift change_kinds change_point
        confidence_bimodality confidence_shift drift_windows effect_sizes
        estimated_accuracy joint_shift ks_two_sample missing_shift prepare_reference
        prepare_table
    """,
    "slices": """
        confirmed_slices confusion_cell error_clusters find_slices isotonic_rate
        review_rows review_sheet slice_change
    """,
}


def test_the_public_face():
    """The names that users may rely on, at most a hundred over the topics; see CONTRIBUTING."""
    top = [name for name in gendebug_torch.__all__ if name not in gendebug_torch._TOPICS]
    assert " ".join(top) == (
        "Cause Diagnosis Finding Profile Records Schema Severity attribute collect compare "
        "diagnose influence profile recalibrate"
    )
    for name in gendebug_torch.__all__:
        assert getattr(gendebug_torch, name) is not None
    with pytest.raises(AttributeError, match="diagnose"):
        gendebug_torch.diagnos  # noqa: B018
    for topic, names in PUBLIC.items():
        module = getattr(gendebug_torch, topic)
        assert sorted(module.__all__) == sorted(names.split()), topic
        assert all(getattr(module, name) is not None for name in names.split())
    assert sum(len(names.split()) for names in PUBLIC.values()) <= 100


def test_most_public_functions_have_a_runnable_example():
    functions = [getattr(gendebug_torch, name) for name in gendebug_torch.__all__]
    functions += [
        getattr(getattr(gendebug_torch, topic), name)
        for topic, names in PUBLIC.items()
        for name in names.split()
    ]
    functions = [function for function in functions if inspect.isfunction(function)]
    without = [f.__name__ for f in functions if ">>>" not in (f.__doc__ or "")]
    assert len(without) <= 0.2 * len(functions), without
