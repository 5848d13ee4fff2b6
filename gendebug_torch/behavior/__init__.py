"""Behavioral regression: cases that a model must pass, and what became of them."""

from gendebug_torch.behavior.cases import Case as Case
from gendebug_torch.behavior.cases import Expectation as Expectation
from gendebug_torch.behavior.cases import Suite as Suite
from gendebug_torch.behavior.compare import RunComparison as RunComparison
from gendebug_torch.behavior.compare import compare_runs as compare_runs
from gendebug_torch.behavior.edit import append_case as append_case
from gendebug_torch.behavior.edit import confirm as confirm
from gendebug_torch.behavior.edit import propose_expectations as propose_expectations
from gendebug_torch.behavior.explanation import Explanation as Explanation
from gendebug_torch.behavior.margins import CaseMargins as CaseMargins
from gendebug_torch.behavior.margins import case_margins as case_margins
from gendebug_torch.behavior.mutants import examine as examine
from gendebug_torch.behavior.mutants import explain_failures as explain_failures
from gendebug_torch.behavior.proposals import case_of_row as case_of_row
from gendebug_torch.behavior.proposals import proposed_expectations as proposed_expectations
from gendebug_torch.behavior.redundancy import Redundancy as Redundancy
from gendebug_torch.behavior.redundancy import redundancy as redundancy
from gendebug_torch.behavior.run import BehaviorRun as BehaviorRun
from gendebug_torch.behavior.run import CaseResult as CaseResult
from gendebug_torch.behavior.run import run_suite as run_suite
from gendebug_torch.behavior.suite_file import load_behavior as load_behavior
from gendebug_torch.behavior.suite_file import load_suite as load_suite
from gendebug_torch.behavior.system import as_predict as as_predict
from gendebug_torch.behavior.system import load_system as load_system
from gendebug_torch.behavior.system import network_predict as network_predict

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
