"""Behavioral regression: cases that a model must pass, after CheckList (Ribeiro et al., 2020)."""

from gendebug_torch.behavior.audit.explain import explain_failures as explain_failures
from gendebug_torch.behavior.running.compare import compare_runs as compare_runs
from gendebug_torch.behavior.running.model_adapter import network_predict as network_predict
from gendebug_torch.behavior.running.results import BehaviorRun as BehaviorRun
from gendebug_torch.behavior.running.run import run_suite as run_suite
from gendebug_torch.behavior.suite.cases import Case as Case
from gendebug_torch.behavior.suite.cases import Suite as Suite
from gendebug_torch.behavior.suite.edit import append_case as append_case
from gendebug_torch.behavior.suite.edit import confirm_expectations as confirm_expectations
from gendebug_torch.behavior.suite.edit import propose_expectations as propose_expectations
from gendebug_torch.behavior.suite.suite_file import load_suite as load_suite

__all__ = [
    "BehaviorRun",
    "Case",
    "Suite",
    "append_case",
    "compare_runs",
    "confirm_expectations",
    "explain_failures",
    "load_suite",
    "network_predict",
    "propose_expectations",
    "run_suite",
]
