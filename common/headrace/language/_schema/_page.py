"""Tables of the language for its page of documentation, drawn from what the compiler uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from headrace.language import _compile, _contexts, _jobs, _limits, _parts, _steps
from headrace.language._schema import (
    SHAPES,
    Shape,
    job_shape,
    root_shape,
    step_shapes,
    task_shapes,
)
from headrace.language._schema._values import Fragment

_BLOCK = re.compile(r"(<!-- generated: ([a-z -]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
_LINKED = re.compile(r"#/\$defs/(.+)")


def fill_page(page: str) -> str:
    """Return *page* with its generated parts as the compiler says now.

    A part stands between ``<!-- generated: NAME -->`` and ``<!-- /generated -->``. Raises
    `KeyError` for a name that nobody draws.
    """
    return _BLOCK.sub(lambda found: f"{found[1]}{_table(found[2])}{found[3]}", page)


def blocks(page: str) -> list[str]:
    """Return the names of the generated parts of *page*."""
    return [found[2] for found in _BLOCK.finditer(page)]


def tables() -> Mapping[str, Callable[[], Iterator[str]]]:
    """Return what can be drawn, by name."""
    shapes = {
        "root jobs": root_shape("jobs"),
        "root tasks": root_shape("tasks"),
        "job": job_shape("steps"),
        "job uses": job_shape("uses"),
    }
    shapes |= {f"step {action}": shape for action, shape in step_shapes().items()}
    shapes |= {f"task {kind}" if kind else "task": shape for kind, shape in task_shapes().items()}
    shapes |= SHAPES
    drawn: dict[str, Callable[[], Iterator[str]]] = {
        name: partial(_keys, shape) for name, shape in shapes.items()
    }
    return drawn | {
        "refused keys": _refused_keys,
        "refused actions": _refused_actions,
        "refused context": _refused_context,
        "places": _places,
        "limits": _limit_rows,
    }


def _table(name: str) -> str:
    return "\n".join([*tables()[name](), ""])


def _keys(shape: Shape) -> Iterator[str]:
    yield "| key | value | meaning |"
    yield "|---|---|---|"
    for key, fragment in shape.properties().items():
        text = " ".join(fragment.get("description", "").split()).replace("|", "\\|")
        mark = " (needed)" if key in shape.required else ""
        yield f"| `{key}`{mark} | {_value(fragment)} | {text} |"


_WORDS: Mapping[str, str] = {
    "expression": "",
    "steps": "steps",
    "tasks": "tasks",
    "handler": "a handler",
    "task-type": "a type",
    "inputs": "inputs by name",
}


def _value(fragment: Fragment) -> str:
    """Return what a value looks like, in a few words."""
    found = list(dict.fromkeys(word for word in _shapes(fragment) if word))
    return " or ".join(found) or "any value"


def _shapes(fragment: Fragment) -> Iterator[str]:
    if "$ref" in fragment:
        linked = _LINKED.fullmatch(fragment["$ref"])
        assert linked is not None
        yield _WORDS.get(linked[1], f"a mapping: {linked[1].replace('-', ' ')}")
    for part in fragment.get("anyOf", ()):
        yield from _shapes(part)
    if "enum" in fragment:
        yield ", ".join(f"`{option}`" for option in fragment["enum"] if option is not None)
    if "const" in fragment:
        const = fragment["const"]
        yield f"`{'true' if const is True else const}`"
    kinds = fragment.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
    if len(kinds) > 1 and "string" in kinds:
        kinds = ["string"]
    for kind in kinds:
        yield _KINDS[kind]


_KINDS: Mapping[str, str] = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


def _refused_keys() -> Iterator[str]:
    yield "| where | key | instead |"
    yield "|---|---|---|"
    for where, table in (
        ("workflow", _compile.ROOT_UNSUPPORTED),
        ("job", _jobs.JOB_UNSUPPORTED),
        ("step", _steps.STEP_UNSUPPORTED),
    ):
        yield from (f"| {where} | `{key}` | {_plain(hint)} |" for key, hint in table.items())


def _refused_actions() -> Iterator[str]:
    yield "| action | instead |"
    yield "|---|---|"
    yield from (f"| `{name}` | {_plain(hint)} |" for name, hint in _parts.ACTIONS.items())


def _refused_context() -> Iterator[str]:
    yield "| of `github` | instead |"
    yield "|---|---|"
    by_hint: dict[str, list[str]] = {}
    for name, hint in _contexts.GITHUB_HINTS.items():
        by_hint.setdefault(hint, []).append(name)
    for hint, names in by_hint.items():
        yield f"| {_listed(names)} | {_plain(hint)} |"


def _plain(hint: str) -> str:
    return hint.replace("|", "\\|")


def _places() -> Iterator[str]:
    yield "| where | contexts | `hashFiles` |"
    yield "|---|---|---|"
    for where, place in (
        ("`run-name`, `concurrency` of the workflow", _contexts.RUN),
        ("`env` of the workflow", _contexts.RUN_ENV),
        ("`defaults` of the workflow", _contexts.RUN_DEFAULTS),
        ("`on.workflow_call.outputs`", _contexts.CALL_OUTPUTS),
        ("`on.event.filter`", _contexts.EVENT),
        ("`if` and `strategy` of a job", _contexts.JOB_IF),
        ("`name`, `runs-on`, `concurrency`, time limits, `with` of a job", _contexts.JOB),
        ("`env` and `secrets` of a job", _contexts.JOB_ENV),
        ("`defaults` of a job", _contexts.JOB_DEFAULTS),
        ("`outputs` of a job", _contexts.JOB_OUTPUTS),
        ("`if` of a step that runs on a worker", _contexts.STEP_IF),
        ("`run`, `with`, `env`, `name` of a step", _contexts.STEP_WORK),
        ("control nodes, time limits of steps", _contexts.STEP),
    ):
        files = "yes" if place.files else "-"
        yield f"| {where} | {_listed(sorted(place.contexts))} | {files} |"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _limit_rows() -> Iterator[str]:
    yield "| limit | value |"
    yield "|---|---|"
    for name, value in vars(_limits).items():
        if name.endswith("_MAX"):
            yield f"| `{name}` | {value:,} |"
