"""Behavioral regression: cases that a model must pass, and what became of them."""

from gendebug_torch.behavior.audit.mutants import examine as examine
from gendebug_torch.behavior.audit.mutants import explain_failures as explain_failures
from gendebug_torch.behavior.audit.redundancy import Redundancy as Redundancy
from gendebug_torch.behavior.audit.redundancy import redundancy as redundancy
from gendebug_torch.behavior.running.compare import RunComparison as RunComparison
from gendebug_torch.behavior.running.compare import compare_runs as compare_runs
from gendebug_torch.behavior.running.explanation import Explanation as Explanation
from gendebug_torch.behavior.running.margins import CaseMargins as CaseMargins
from gendebug_torch.behavior.running.margins import case_margins as case_margins
from gendebug_torch.behavior.running.model_adapter import as_predict as as_predict
from gendebug_torch.behavior.running.model_adapter import load_system as load_system
from gendebug_torch.behavior.running.model_adapter import network_predict as network_predict
from gendebug_torch.behavior.running.run import BehaviorRun as BehaviorRun
from gendebug_torch.behavior.running.run import CaseResult as CaseResult
from gendebug_torch.behavior.running.run import run_suite as run_suite
from gendebug_torch.behavior.suite.cases import Case as Case
from gendebug_torch.behavior.suite.cases import Expectation as Expectation
from gendebug_torch.behavior.suite.cases import Suite as Suite
from gendebug_torch.behavior.suite.edit import append_case as append_case
from gendebug_torch.behavior.suite.edit import confirm as confirm
from gendebug_torch.behavior.suite.edit import propose_expectations as propose_expectations
from gendebug_torch.behavior.suite.proposals import case_of_row as case_of_row
from gendebug_torch.behavior.suite.proposals import proposed_expectations as proposed_expectations
from gendebug_torch.behavior.suite.suite_file import load_behavior as load_behavior
from gendebug_torch.behavior.suite.suite_file import load_suite as load_suite

__all__ = [
    "BehaviorRun",
    "Case",
    "CaseMargins",
    "CaseResult",
    "Expectation",
    "Explanation",
    "Redundancy",
    "RunComparison",
    "Suite",
    "append_case",
    "as_predict",
    "case_margins",
    "case_of_row",
    "compare_runs",
    "confirm",
    "examine",
    "explain_failures",
    "load_behavior",
    "load_suite",
    "load_system",
    "network_predict",
    "propose_expectations",
    "proposed_expectations",
    "redundancy",
    "run_suite",
]
