"""What checks are given: the inputs of a diagnosis, and what several checks derive from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Generic, TypeVar

from gendebug_torch.checks.rows import rows_for_check
from gendebug_torch.errors import NO_DEADLINE

INPUTS = (
    "model",
    "curves",
    "network",
    "train",
    "validation",
    "production",
    "behavior",
    "served",
)
# Parameter of checks and derived inputs with long loops; no input: findings do not rest on it.
DEADLINE = "deadline"
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a check computes: rows through the model, forwards and backwards, and operations."""

    forwards: float = 0.0
    backwards: float = 0.0
    elements: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.elements + other.elements,
        )


class Deferred(Generic[T_co]):
    """A value that is computed when it is first called for, and only then.

    An error of the computation is kept too, and raised by each call.

    Args:
        function: computation of the value, without arguments.

    Example:
        >>> answer = Deferred(lambda: 6 * 7)
        >>> answer.computed, answer(), answer.computed
        (False, 42, True)
    """

    def __init__(self, function: Callable[[], T_co]) -> None:
        self._function = function

    def __call__(self) -> T_co:
        """The value, computed by the first call."""
        value: T_co
        value, error = self._outcome
        if error is not None:
            raise error
        return value

    @property
    def computed(self) -> bool:
        """Whether the value has been called for."""
        return "_outcome" in self.__dict__

    @cached_property
    def _outcome(self) -> tuple[Any, Exception | None]:
        try:
            return self._function(), None
        except Exception as error:
            return None, error


# Default of a deferred parameter: nothing is known.
NOTHING: Deferred[None] = Deferred(lambda: None)


@dataclass(frozen=True)
class DerivedInput(Generic[T_co]):
    """What several checks compute from the given inputs, so that it is computed once for all.

    Args:
        name: parameter of the checks that receives it.
        function: computation from parameters among `INPUTS`; absent ones are None.
        cost: inputs -> Cost.
        uses_labels: whether it reads labels where there are any: of records that are labeled for
            the most part it gets the labeled rows, of others all rows without labels.
        partial_labels: whether it reads rows that lack some of several labels as they are.
    """

    name: str
    function: Callable[..., T_co]
    cost: Callable[[Mapping[str, Any]], Cost] = lambda given: Cost()
    uses_labels: bool = False
    partial_labels: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the parameters of its function."""
        return tuple(inspect.signature(self.function).parameters)

    def of(self, given: Mapping[str, Any]) -> Deferred[T_co]:
        """The value for these inputs, not computed yet."""
        names = self.inputs

        def compute() -> T_co:
            inputs = {name: given.get(name) for name in names}
            if DEADLINE in names:
                inputs[DEADLINE] = given.get(DEADLINE, NO_DEADLINE)
            rows = partial(rows_for_check, labels=self.uses_labels, partly=self.partial_labels)
            return self.function(**{name: rows(value) for name, value in inputs.items()})

        return Deferred(compute)
