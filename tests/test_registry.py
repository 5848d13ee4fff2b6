from collections.abc import Iterator

import pytest
import torch

from gendebug_torch import Cause, Finding, Severity
from gendebug_torch.checks import registry
from gendebug_torch.checks.inputs import NOTHING, Cost, Deferred, DerivedInput
from gendebug_torch.checks.measured_costs import MEASURED, SPLITS, SizeCost
from gendebug_torch.checks.registry import all_checks, check
from gendebug_torch.data.records import Records
from gendebug_torch.errors import NO_DEADLINE, CheckError, Deadline, InputError, reject


@pytest.fixture
def checks(monkeypatch):
    """A registry of its own, so that a test leaves no check behind."""
    monkeypatch.setattr(registry, "_CHECKS", {})
    return registry


def planted(checks, body=None):
    @check(
        "demo.small",
        cause=Cause.THRESHOLD,
        needs=("validation.logits",),
        cost=lambda given: Cost(elements=5),
    )
    def is_small(validation: Records, *, limit: float = 0.5) -> Iterator[Finding]:
        """Says whether it is small.

        Args:
            limit: what counts as small,
                in units.

        Source: Somebody (2020), Journal.
        """
        if body is not None:
            body()
        yield is_small.finding(Severity.OK, "fine")

    return is_small


def test_the_signature_is_the_schema(checks):
    made = planted(checks)
    assert made.inputs == ("validation",)
    assert made.options["limit"].default == 0.5
    assert made.options["limit"].type is float
    assert made.options["limit"].help == "what counts as small, in units."
    assert made.summary == "Says whether it is small."
    assert made.source == "Somebody (2020), Journal."
    assert {"demo.small": made} == checks._CHECKS


def test_absent_input_is_a_skipped_finding(checks):
    (finding,) = planted(checks).run({"validation": None})
    assert finding.severity is Severity.SKIPPED
    assert "validation.logits" in finding.summary


def test_a_break_becomes_an_errored_finding_with_its_traceback(checks):

    def explode():
        raise ZeroDivisionError("boom")

    given = {"validation": Records(logits=torch.zeros(3))}
    (finding,) = planted(checks, explode).run(given)
    assert finding.severity is Severity.ERRORED
    assert "ZeroDivisionError: boom" in finding.numbers["traceback"]


def test_refused_input_says_so(checks):

    (finding,) = planted(checks, lambda: reject("x", "a", "b", "Do c.")).run(
        {"validation": Records(logits=torch.zeros(3))}
    )
    assert finding.summary == "Refused its input: `x`: expected a, got b. Do c."


def test_unknown_option(checks):
    with pytest.raises(InputError, match="limti"):
        planted(checks).run({}, {"limti": 1})


def test_contract_of_the_decorator(checks):
    planted(checks)
    with pytest.raises(CheckError, match="twice"):
        planted(checks)
    with pytest.raises(CheckError, match="vocabulary"):

        @check("demo.a", cause=Cause.THRESHOLD)
        def strange(dataset): ...

    with pytest.raises(CheckError, match="annotation and a default"):

        @check("demo.b", cause=Cause.THRESHOLD)
        def bare(validation, *, limit=3): ...


def test_only_findings_may_be_yielded(checks):
    @check("demo.c", cause=Cause.THRESHOLD)
    def wrong(validation: Records) -> Iterator[Finding]:
        yield "text"

    with pytest.raises(CheckError, match="str"):
        wrong(None)


def derived(checks, compute):
    """Two checks that share a derived input: one always uses it, one only where it is wanted."""
    total = DerivedInput("total", compute, lambda given: Cost(elements=100))
    price = {"cause": Cause.THRESHOLD, "cost": lambda given: Cost(elements=5)}

    @check("demo.always", derived=(total,), **price)
    def always(validation: Records, total: int | None = None) -> Iterator[Finding]:
        """The total is small."""
        yield always.finding(Severity.OK, f"total {total}")

    @check("demo.wanted", deferred=(total,), **price)
    def wanted(
        validation: Records,
        total: Deferred[int | None] = NOTHING,
        *,
        ask: bool = False,
    ) -> Iterator[Finding]:
        """The total is small where it is asked for."""
        yield wanted.finding(Severity.OK, f"total {total()}" if ask else "fine")

    return always, wanted


def test_a_derived_input_is_computed_once_and_only_on_demand(checks):
    calls = []
    always, wanted = derived(checks, lambda validation: calls.append(validation) or len(calls))
    given = {"validation": 7, "train": None}
    shared = registry.derived_inputs([always, wanted], given)
    assert [finding.summary for finding in wanted.run(given, {"ask": False}, shared)] == ["fine"]
    assert not calls
    for made, options in ((always, {}), (wanted, {"ask": True}), (always, {})):
        assert [finding.summary for finding in made.run(given, options, shared)] == ["total 1"]
    assert calls == [7]
    assert always.inputs == wanted.inputs == ("validation",)
    assert [finding.summary for finding in always(8)] == ["total 2"], "alone it computes its own"
    assert [finding.summary for finding in always(8, total=0)] == ["total 0"]
    assert [finding.summary for finding in wanted.run(given, {"ask": True})] == ["total 3"]


def test_a_derived_input_that_breaks_is_an_errored_finding_of_each_check_that_uses_it(checks):
    def explode(validation):
        explode.calls += 1
        raise ZeroDivisionError("boom")

    explode.calls = 0
    always, wanted = derived(checks, explode)
    shared = registry.derived_inputs([always, wanted], {"validation": 7})
    runs = [
        made.run({"validation": 7}, options, shared)
        for made, options in ((always, {}), (wanted, {"ask": True}), (wanted, {}))
    ]
    assert [finding.severity.value for (finding,) in runs] == ["errored", "errored", "ok"]
    assert "boom" in runs[1][0].summary
    assert explode.calls == 1


def test_the_cost_of_a_derived_input_counts_once(checks):
    always, wanted = derived(checks, lambda validation: 1)
    given = {"validation": 7}
    shared = registry.derived_inputs([always, wanted], given)
    assert always.total_cost(given, shared).elements == 105
    assert wanted.total_cost(given, shared).elements == 5
    always.run(given, shared=shared)
    assert always.total_cost(given, shared).elements == 5


def test_a_check_that_asks_its_deadline_is_stopped_and_says_so(checks):
    steps = []

    @check("demo.long", cause=Cause.THRESHOLD)
    def takes_long(validation: Records, deadline: Deadline = NO_DEADLINE) -> Iterator[Finding]:
        for step in range(5):
            deadline.check()
            steps.append(step)
        yield takes_long.finding(Severity.OK, "done")

    assert takes_long.inputs == ("validation",)
    assert takes_long.lacks({"validation": 1}) == []
    (finding,) = takes_long.run({"validation": 1, "deadline": Deadline(0.0)})
    assert finding.severity is Severity.SKIPPED
    assert "stopped" in finding.summary
    assert steps == []
    for given in ({"validation": 1}, {"validation": 1, "deadline": Deadline(60.0)}):
        (finding,) = takes_long.run(given)
        assert finding.severity is Severity.OK
    assert len(steps) == 10


def test_a_derived_input_that_is_stopped_stops_its_checks(checks):
    def slow(validation, deadline):
        deadline.check()
        return 1

    part = DerivedInput("part", slow)

    @check("demo.derived", cause=Cause.THRESHOLD, needs=("validation",), derived=(part,))
    def rests_on_it(validation: Records, part: int) -> Iterator[Finding]:
        yield rests_on_it.finding(Severity.OK, str(part))

    given = {"validation": 1, "deadline": Deadline(0.0)}
    (finding,) = rests_on_it.run(given)
    assert finding.severity is Severity.SKIPPED
    (finding,) = rests_on_it.run({"validation": 1})
    assert finding.summary == "1"


def test_measured_costs_belong_to_checks_and_grow_with_the_rows():
    checks = all_checks()
    parts = {part.name for one in checks for part in (*one.derived, *one.deferred)}
    assert set(MEASURED) <= {one.name for one in checks} | parts
    small, large = (
        {name: Records(torch.zeros(n, 4), torch.zeros(n)) for name in SPLITS} for n in (10, 10**4)
    )
    for cost in MEASURED.values():
        assert min(cost.fixed, cost.rows, cost.cells, cost.scores, cost.columns) >= 0
        assert 0 <= cost.elements(small, SPLITS) <= cost.elements(large, SPLITS) < 1e12


def test_a_measured_cost_counts_what_the_check_inspects(checks, monkeypatch):
    made = planted(checks)
    measured = {"demo.small": SizeCost(fixed=1.0, rows=2.0, cells=3.0, scores=4.0, max_rows=20)}
    monkeypatch.setattr("gendebug_torch.checks.registry.MEASURED", measured)
    records = Records(features=torch.zeros(50, 3), logits=torch.zeros(50, 5))
    given = {"validation": records, "train": records}
    assert made.total_cost(given).elements == 1 + 20 * (2 + 3 * 3 + 5 * 4)
    assert made.total_cost({}).elements == 1
