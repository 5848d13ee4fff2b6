"""Behavioral suites as pytest items: `pytest path/to/suite.behavior.yaml`.

The model is `--behavior-model MODULE:NAME`, or the ini value `behavior_model`, or `model:` of the
suite. All cases of a suite go through it in one run when its first item runs; each case is an item
that passes or fails by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gendebug_torch.behavior import BehaviorRun, Case, Suite
    from gendebug_torch.behavior.running.results import CaseResult


class CaseFailed(Exception):
    """A case fails; the message holds its expectation and its scores."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--behavior-model` and the ini value of the same name."""
    help_text = "MODULE:NAME of the model that behavioral suites (*.behavior.yaml) test"
    parser.getgroup("gendebug").addoption("--behavior-model", default=None, help=help_text)
    parser.addini("behavior_model", help_text, default="")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A suite file, recognised by its name."""
    if file_path.name.endswith((".behavior.yaml", ".behavior.yml")):
        return SuiteFile.from_parent(parent, path=file_path)
    return None


class SuiteFile(pytest.File):
    """One suite: its cases are read at collection and run together before the first test."""

    @cached_property
    def suite(self) -> Suite:
        """The cases."""
        from gendebug_torch.behavior import load_suite

        return load_suite(self.path)

    @cached_property
    def results(self) -> dict[str, CaseResult]:
        """Id of a case -> its result."""
        from gendebug_torch.behavior import run_suite
        from gendebug_torch.behavior.running.model_adapter import load_model
        from gendebug_torch.errors import reject

        name = (
            self.config.getoption("--behavior-model")
            or self.config.getini("behavior_model")
            or self.suite.model
        )
        if not name:
            remedy = (
                "Pass --behavior-model, set behavior_model in the ini file, or write "
                "`model:` in the suite."
            )
            reject(
                "--behavior-model", "MODULE:NAME of the model", f"none for {self.path.name}", remedy
            )
        run: BehaviorRun = run_suite(self.suite, load_model(name), name=name)
        return {result.id: result for result in run.results}

    def collect(self) -> Iterator[CaseItem]:
        """One item per case."""
        from gendebug_torch.errors import InputError

        try:
            cases = self.suite.cases
        except InputError as error:
            raise self.CollectError(str(error)) from None
        for case in cases:
            yield CaseItem.from_parent(self, name=case.id, case=case)


class CaseItem(pytest.Item):
    """One case; `-k` finds it by id, capability and tags."""

    def __init__(self, *, case: Case, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self.extra_keyword_matches.update({case.capability, *case.tags})

    def runtest(self) -> None:
        """Test the case; a failure that is not reviewed is expected, and a draft is skipped."""
        parent: Any = self.parent
        result: CaseResult = parent.results[self.case.id]
        if result.status == "draft":
            pytest.skip("a draft without an expectation")
        if result.status == "passed":
            return
        if not result.reviewed:
            pytest.xfail("the expectation is not reviewed")
        raise CaseFailed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Expectation, scores and line of the case, and the traceback of an error of the model."""
        from gendebug_torch.errors import InputError

        if isinstance(excinfo.value, InputError):
            return str(excinfo.value)
        if not isinstance(excinfo.value, CaseFailed):
            return super().repr_failure(excinfo, style)
        result: CaseResult = excinfo.value.args[0]
        lines = [
            f"{self.path}:{result.line}: {result.id}",
            f"  expected {result.expected}",
            f"  got      {result.got}",
        ]
        lines += [f"  from     {result.origin}"] if result.origin else []
        return "\n".join([*lines, result.error] if result.error else lines)

    def reportinfo(self) -> tuple[Path, int, str]:
        """The line of the case in its file."""
        return self.path, self.case.line - 1, self.case.id
