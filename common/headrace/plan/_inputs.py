"""A run's input against the inputs that its plan declares. Pure."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.errors import InvalidDefinition, Problem
from headrace.payloads import reference
from headrace.plan._graph import InputSpec, Plan

_SHOWN_MAX = 80
_EMPTY: dict[str, Any] = {"string": "", "number": 0, "boolean": False, "choice": "", "json": None}


class Unfit(ValueError):
    """A value that does not fit its declaration; the text says what was expected."""


def check_inputs(plan: Plan, given: dict[str, Any]) -> dict[str, Any]:
    """Return the run's input: *given*, converted to the declared types, with the defaults.

    Texts become numbers (``"3"``), booleans (``"true"``, ``"false"``) and JSON as declared, and
    numbers and booleans become texts. An optional input without a default is ``""``, 0, false or
    null by its type. A reference to the object store stands for a value of any type. A plan that
    declares no inputs takes any. Raises `InvalidDefinition` with every unknown, missing or unfit
    input.
    """
    if not plan.inputs:
        return dict(given)
    result, problems = fit_inputs(plan.inputs, given)
    if problems:
        raise InvalidDefinition(problems, file="<input>")
    return result


def fit_inputs(
    specs: Mapping[str, InputSpec], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """Return *given* as *specs* declare it, with the defaults, and what is wrong with it."""
    problems = [_unknown(name, specs) for name in given if name not in specs]
    result: dict[str, Any] = {}
    for name, spec in specs.items():
        value = given.get(name)
        if value is None:
            if spec.default is None and spec.required:
                problems.append(Problem(f"input '{name}' is required", hint=spec.description))
                continue
            result[name] = _EMPTY[spec.type] if spec.default is None else spec.default
            continue
        if reference(value) is not None or (value == "" and _may_stay_open(spec)):
            result[name] = value
            continue
        try:
            result[name] = coerce_input(spec, value)
        except Unfit as unfit:
            problems.append(Problem(f"input '{name}' must be {unfit}, not {_shown(value)}"))
    return result, problems


def _may_stay_open(spec: InputSpec) -> bool:
    """Tell whether nobody has to choose: what a client has filled in is checked again."""
    return spec.type == "choice" and not spec.required and spec.default is None


def _unknown(name: str, specs: Mapping[str, InputSpec]) -> Problem:
    near = difflib.get_close_matches(name, specs, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"inputs: {', '.join(specs)}"
    return Problem(f"unknown input '{name}'", hint=hint)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…"


def coerce_input(spec: InputSpec, value: Any) -> Any:
    """Return *value* as *spec* declares it; raises an error whose text says what was expected."""
    if spec.type == "json":
        return _json(value)
    if isinstance(value, (list, dict)):
        raise Unfit(f"a {spec.type}")
    if spec.type == "boolean":
        return _boolean(value)
    if spec.type == "number":
        return _number(value)
    text = _text(value)
    if spec.type == "choice" and text not in spec.options:
        raise Unfit("one of " + ", ".join(spec.options))
    return text


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unfit("JSON") from error


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise Unfit("true or false")


def _number(value: Any) -> int | float:
    if isinstance(value, bool):
        raise Unfit("a number")
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError as error:
            raise Unfit("a number") from error
        value = int(number) if number.is_integer() and abs(number) < 2**53 else number
    if isinstance(value, float) and not math.isfinite(value):
        raise Unfit("a number")
    assert isinstance(value, (int, float))
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)
