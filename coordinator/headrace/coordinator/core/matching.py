"""Events from outside against `on.event`: whether one begins a run, and with which inputs.

Functions of a plan and of one event; what they raise tells why the event begins no run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from headrace.errors import HeadraceError, InvalidDefinition, InvalidRequest, LimitExceeded
from headrace.expressions import Expression, parse, resolve, to_string, truthy
from headrace.messages import Arrival, subjects
from headrace.plan import EventTrigger, Plan, check_inputs, is_expression

KEY_LENGTH_MAX: Final = 512
PERIOD_MS_MAX: Final = 366 * 86_400_000
DEPTH_MAX: Final = 100
"""Of lists and maps in each other, in an event's data."""

_NO_FUNCTIONS: Final[dict[str, Any]] = {}


class Matcher:
    """One entry of `on.event`, made ready. Raises `ExpressionError` for a filter that is none."""

    __slots__ = ("_filter", "index", "plan", "tokens", "trigger")

    def __init__(self, plan: Plan, index: int) -> None:
        self.plan, self.index = plan, index
        self.trigger: EventTrigger = plan.events[index]
        self.tokens = self.trigger.subject.split(".")
        self._filter: Expression | None = (
            parse(self.trigger.filter) if self.trigger.filter else None
        )

    def covers(self, tokens: Sequence[str]) -> bool:
        """Tell whether it is about events of a subject, given as its tokens."""
        return subjects.matches(self.tokens, tokens)

    def wants(self, context: dict[str, Any]) -> bool:
        """Tell whether the filter holds; raises `ExpressionError`."""
        if self._filter is None:
            return True
        return truthy(self._filter.evaluate(self._contexts(context)))

    def inputs(self, context: dict[str, Any]) -> dict[str, Any]:
        """Return the checked inputs of the run; raises `HeadraceError`."""
        given = resolve(self.trigger.inputs, self._contexts(context), _NO_FUNCTIONS)
        return _checked(self.plan, given)

    def key(self, context: dict[str, Any]) -> str:
        """Return the key of the debounce; raises `HeadraceError`."""
        debounce = self.trigger.debounce
        if debounce is None or not debounce.key:
            return ""
        found = to_string(resolve(debounce.key, self._contexts(context), _NO_FUNCTIONS))
        if len(found) > KEY_LENGTH_MAX:
            raise LimitExceeded(
                f"the key of its debounce has {len(found)} characters; the limit is "
                f"{KEY_LENGTH_MAX}"
            )
        return found

    def _contexts(self, context: dict[str, Any]) -> dict[str, Any]:
        return {"event": context, "vars": self.plan.vars}


def _checked(plan: Plan, given: dict[str, Any]) -> dict[str, Any]:
    """Check inputs that no person has written: what is wrong is one sentence."""
    try:
        return check_inputs(plan, given)
    except InvalidDefinition as error:
        raise InvalidRequest("; ".join(found.message for found in error.problems)) from error


def matchers(plan: Plan) -> list[Matcher]:
    """Return the entries of `on.event` in their order; raises `ExpressionError`."""
    return [Matcher(plan, index) for index in range(len(plan.events))]


def event_context(arrival: Arrival) -> dict[str, Any]:
    """Return the context `event`; raises `InvalidRequest` when its data is not JSON."""
    return {
        "id": arrival.id or str(arrival.sequence),
        "subject": arrival.subject,
        "namespace": arrival.namespace,
        "time": arrival.time,
        "sequence": arrival.sequence,
        "headers": arrival.headers,
        "data": _data(arrival.data),
    }


def _data(data: bytes) -> Any:
    if not data.strip():
        return None
    try:
        found = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"its data is not JSON: {error}") from error
    if _is_deeper(found, DEPTH_MAX):
        raise InvalidRequest(f"its data is nested more than {DEPTH_MAX} deep")
    return found


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    while level and depth:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level, depth = inner, depth - 1
    return any(isinstance(item, (dict, list)) for item in level)


def problem(plan: Plan) -> str:
    """Return why the `on.event` of a plan could begin no run; '' if it can."""
    try:
        matchers(plan)
    except HeadraceError as error:
        return f"on.event: its filter: {error}"
    for trigger in plan.events:
        debounce = trigger.debounce
        if debounce is not None and not (
            0 < debounce.period_ms <= PERIOD_MS_MAX
            and (not debounce.max_ms or debounce.period_ms <= debounce.max_ms <= PERIOD_MS_MAX)
        ):
            return "on.event: a debounce is of 1 ms to 366 days, and its 'max' is no less"
        if not is_expression_in(trigger.inputs):
            try:
                _checked(plan, trigger.inputs)
            except InvalidRequest as error:
                return f"on.event: {error}"
        missing = [
            name
            for name, spec in plan.inputs.items()
            if spec.required and spec.default is None and name not in trigger.inputs
        ]
        if missing:
            return f"on.event: a run has no input {missing[0]}: write it into 'inputs:'"
    return ""


def is_expression_in(value: Any) -> bool:
    """Tell whether *value*, or something in it, is an expression."""
    if isinstance(value, dict):
        return any(map(is_expression_in, value.values()))
    if isinstance(value, list):
        return any(map(is_expression_in, value))
    return is_expression(value)


def choose(plan: Plan, arrival: Arrival) -> dict[str, Any]:
    """Return the inputs of the run of *plan* that *arrival* begins, by its first fitting entry.

    Raises `InvalidRequest` that says why there is none, and what else is wrong.
    """
    if not plan.events:
        raise InvalidRequest("events begin no runs of this workflow: it has no 'on.event'")
    tokens = arrival.subject.split(".")
    covering = [found for found in matchers(plan) if found.covers(tokens)]
    if not covering:
        listed = ", ".join(trigger.subject for trigger in plan.events)
        raise InvalidRequest(f"no entry of 'on.event' is about {arrival.subject} (they: {listed})")
    context = event_context(arrival)
    for matcher in covering:
        if matcher.wants(context):
            return matcher.inputs(context)
    filters = "; ".join(found.trigger.filter for found in covering)
    raise InvalidRequest(f"the event begins no run: the filter does not hold ({filters})")
