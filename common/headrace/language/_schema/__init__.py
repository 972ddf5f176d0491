"""The language as JSON Schema (draft 2020-12), for editors and other programs.

Which keys there are is what the compiler's tables say; here are their meanings and values. What
needs more than one place (names, expressions, inputs of handlers that are required) only the
compiler checks, so a file may fit the schema and be refused; what compiles fits the schema.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from headrace.language import (
    _compile,
    _control,
    _faults,
    _gates,
    _jobs,
    _parts,
    _placement,
    _steps,
    _tasks,
    _triggers,
)
from headrace.language._handlers import (
    BUILTIN_HANDLERS,
    INPUT_ALIASES,
    NODE_TYPES,
    TASK_TYPE_ALIASES,
    HandlerSpec,
)
from headrace.language._handlers._spec import DIALECT
from headrace.language._schema import _values, _words
from headrace.language._schema._values import Fragment, either, mapping, ref
from headrace.language._schema._words import Word, Words

Dialect = Literal["jobs", "tasks"]

SCHEMA_ID = "urn:headrace:schema:workflow:1"
"""A name, not a place to read it from: `flowctl schema` prints it."""
_NO_WORD = Word("", {})


class Shape(NamedTuple):
    """A mapping of fixed keys."""

    keys: Collection[str]
    words: Words
    required: tuple[str, ...] = ()
    null: bool = False
    """Whether nothing may stand there."""

    def properties(self) -> dict[str, Fragment]:
        """Return the schema of each key, in the order of its words."""
        order = [key for key in self.words if key in self.keys]
        order += sorted(set(self.keys) - set(order))
        return {key: described(self.words.get(key, _NO_WORD)) for key in order}


def described(word: Word) -> Fragment:
    """Return the schema of a key's value, with its meaning."""
    return word.value | ({"description": word.text} if word.text else {})


_LOOP_BODY = frozenset(_control.LOOP_KEYS)
SHAPES: Mapping[str, Shape] = {
    "dispatch": Shape(_triggers.DISPATCH_KEYS, _words.DISPATCH, null=True),
    "call": Shape(_triggers.CALL_KEYS, _words.CALL, null=True),
    "call-secret": Shape(_triggers.SECRET_KEYS, _words.CALL_SECRET, null=True),
    "call-output": Shape(_triggers.OUTPUT_KEYS, _words.CALL_OUTPUT, ("value",)),
    "schedule": Shape(_triggers.SCHEDULE_KEYS, _words.SCHEDULE, ("cron",)),
    "event": Shape(_triggers.EVENT_KEYS, _words.EVENT, ("subject",)),
    "debounce": Shape(_triggers.DEBOUNCE_KEYS, _words.DEBOUNCE, ("period",)),
    "input": Shape(_parts.INPUT_KEYS, _words.INPUT, null=True),
    "concurrency": Shape(_parts.CONCURRENCY_KEYS, _words.CONCURRENCY, ("group",)),
    "cache": Shape(_gates.CACHE_KEYS, _words.CACHE, ("key",)),
    "lock": Shape(_gates.LOCK_KEYS, _words.LOCK, ("name",)),
    "rate-limit": Shape(_gates.RATE_LIMIT_KEYS, _words.RATE_LIMIT, ("key", "limit", "per")),
    "on-failure": Shape(_faults.ON_FAILURE_KEYS, _words.ON_FAILURE, ("action",)),
    "retry": Shape(_parts.RETRY_KEYS, _words.RETRY),
    "defaults": Shape(_jobs.DEFAULTS_KEYS, _words.DEFAULTS, null=True),
    "defaults-run": Shape(_jobs.DEFAULTS_RUN_KEYS, _words.DEFAULTS_RUN, null=True),
    "strategy": Shape(_jobs.STRATEGY_KEYS, _words.STRATEGY, null=True),
    "loop": Shape(_LOOP_BODY | {"steps"}, _words.LOOP, ("steps",)),
    "runs-on": Shape(_placement.RUNS_ON_KEYS, _words.RUNS_ON),
    "branch": Shape(frozenset(_control.BRANCH_KEYS) - {"tasks"}, _words.BRANCH, ("steps",)),
    "branch-of-tasks": Shape(_control.BRANCH_KEYS, _words.BRANCH),
    "elif": Shape(_control.ELIF_KEYS, _words.ELIF, ("if", "then")),
    "elif-of-tasks": Shape(_control.ELIF_KEYS, _words.ELIF_OF_TASKS, ("if", "then")),
    "wait": Shape(_control.WAIT_KEYS, _words.WAIT, ("signal",)),
    "approval": Shape(_control.APPROVAL_KEYS, _words.APPROVAL),
    "sleep": Shape(_control.SLEEP_KEYS, _words.SLEEP),
    "subworkflow": Shape(_control.SUBWORKFLOW_KEYS, _words.SUBWORKFLOW, ("uses",)),
}
"""Mappings whose keys do not depend on each other."""


def workflow_schema(dialect: Dialect | None = None) -> dict[str, Any]:
    """Return the JSON Schema of workflow files: of one dialect, or of both."""
    definitions: dict[str, Fragment] = {"expression": _values.EXPRESSION}
    definitions |= _words.OTHERS
    for name, shape in SHAPES.items():
        definitions[name] = mapping(shape.properties(), required=shape.required, null=shape.null)
    definitions["on"] = _on()
    definitions["job"] = _job()
    definitions["step"] = _step()
    definitions["task"] = _task()
    definitions["handler"] = _names(BUILTIN_HANDLERS)
    definitions["task-type"] = _names([*BUILTIN_HANDLERS, *TASK_TYPE_ALIASES, *NODE_TYPES])
    for spec in BUILTIN_HANDLERS.values():
        definitions[_with(spec.name)] = _inputs(spec)
    root = {
        "$schema": DIALECT,
        "$id": SCHEMA_ID,
        "title": "Headrace workflow",
        "description": "A workflow: `jobs:` in the spelling of GitHub Actions, or `tasks:`.",
        **_root(dialect),
    }
    # A leaf of a dialect that is not asked for would only bloat what an editor loads.
    return root | {"$defs": _reachable(root, definitions)}


def root_shape(dialect: Dialect) -> Shape:
    """Return the shape of a whole file."""
    keys = _compile.JOBS_KEYS if dialect == "jobs" else _compile.TASKS_KEYS
    return Shape(keys, _words.ROOT, (dialect,))


def job_shape(action: Literal["steps", "uses"]) -> Shape:
    """Return the shape of a job with steps, or of one that calls a workflow."""
    return Shape(_jobs.CALL_KEYS if action == "uses" else _jobs.JOB_KEYS, _words.JOB, (action,))


def step_shapes() -> dict[str, Shape]:
    """Return the shapes of steps by what they do."""
    return {action: Shape(keys, _words.STEP, (action,)) for action, keys in _steps.ACTIONS.items()}


def task_shapes() -> dict[str, Shape]:
    """Return the shapes of tasks by their type; '' is a handler."""
    found = {kind: Shape(keys, _words.TASK, ("type",)) for kind, keys in _tasks.CONTROL.items()}
    return {"": Shape(_tasks.TASK, _words.TASK, ("type",)), **found}


def _root(dialect: Dialect | None) -> Fragment:
    if dialect is not None:
        shape = root_shape(dialect)
        return mapping(shape.properties(), required=shape.required)
    jobs, tasks = root_shape("jobs"), root_shape("tasks")
    both = Shape({*jobs.keys, *tasks.keys}, _words.ROOT)
    return mapping(both.properties()) | {
        "oneOf": [{"required": ["jobs"]}, {"required": ["tasks"]}],
        "if": {"required": ["jobs"]},
        "then": _only(jobs.keys),
        "else": _only(tasks.keys),
    }


def _only(keys: Iterable[str]) -> Fragment:
    return {"propertyNames": {"enum": sorted(keys)}}


def _on() -> Fragment:
    ours: dict[str, Fragment] = {
        "workflow_dispatch": {"description": "Somebody submits it; its inputs."} | ref("dispatch"),
        "workflow_call": {"description": "A job of another workflow calls it."} | ref("call"),
        "schedule": {
            "description": "Times at which runs begin.",
            "type": "array",
            "minItems": 1,
            "items": ref("schedule"),
        },
        "event": {"description": "Events that begin runs."}
        | either({"type": "string"}, ref("event"), {"type": "array", "items": _event()}),
    }
    theirs: dict[str, Fragment] = {
        name: {"description": "An event of GitHub: taken, and never fires here."}
        for name in sorted(_triggers.GITHUB_EVENTS)
    }
    name = {"enum": [*ours, *theirs]}
    return {
        "anyOf": [
            {"enum": [*ours, *theirs, None]},
            {"type": "array", "items": name},
            mapping(ours | theirs),
        ]
    }


def _event() -> Fragment:
    return either({"type": "string"}, ref("event"))


def _job() -> Fragment:
    own, calling = job_shape("steps"), job_shape("uses")
    every = Shape({*own.keys, *calling.keys}, _words.JOB)
    return mapping(every.properties()) | {
        "if": {"required": ["uses"]},
        "then": _only(calling.keys),
        "else": {"required": ["steps"], **_only(own.keys)},
    }


def _step() -> Fragment:
    shapes = step_shapes()
    every = Shape(frozenset().union(*(shape.keys for shape in shapes.values())), _words.STEP)
    return mapping(every.properties()) | {
        "oneOf": [{"required": [action]} for action in shapes],
        "allOf": [
            *(
                {"if": {"required": [action]}, "then": _only(shape.keys)}
                for action, shape in shapes.items()
            ),
            *_handler_inputs("uses", "with", BUILTIN_HANDLERS),
        ],
    }


def _task() -> Fragment:
    shapes = task_shapes()
    every = Shape(frozenset().union(*(shape.keys for shape in shapes.values())), _words.TASK)
    names = [*BUILTIN_HANDLERS, *(name for name in TASK_TYPE_ALIASES)]
    handlers = {name: name for name in names if name not in shapes}
    conditions: list[Fragment] = [
        {
            "if": {"properties": {"type": {"enum": [kind]}}, "required": ["type"]},
            "then": _only(_spellings(shape.keys)),
        }
        for kind, shape in shapes.items()
        if kind
    ]
    conditions.append(
        {
            "if": {"properties": {"type": {"enum": [*(kind for kind in shapes if kind)]}}},
            "else": _only(_spellings(shapes[""].keys)),
        }
    )
    for key in ("config", "with"):
        conditions += _handler_inputs("type", key, handlers)
    properties = {
        spelling: fragment
        for key, fragment in every.properties().items()
        for spelling in _spellings([key])
    }
    return mapping(properties, required=("type",)) | {"allOf": conditions}


def _spellings(keys: Iterable[str]) -> list[str]:
    """Return *keys*, with underscores too: ``depends_on`` is ``depends-on``."""
    return [spelled for key in keys for spelled in dict.fromkeys((key, key.replace("-", "_")))]


def _handler_inputs(key: str, inputs: str, names: Iterable[str]) -> list[Fragment]:
    return [
        {
            "if": {"properties": {key: {"const": name}}, "required": [key]},
            "then": {"properties": {inputs: ref(_with(TASK_TYPE_ALIASES.get(name, name)))}},
        }
        for name in names
    ]


def _names(known: Iterable[str]) -> Fragment:
    """Return a text that may be one of *known*: editors offer these."""
    return {"anyOf": [{"enum": list(known)}, {"type": "string", "minLength": 1}]}


def _with(handler: str) -> str:
    return "with-" + handler.replace("/", "-")


_INPUT_TYPES: Mapping[str, Fragment] = {
    "string": {"type": ["string", "number", "boolean", "null"]},
    "number": {"type": ["number", "null"]},
    "integer": {"type": ["integer", "null"]},
    "boolean": {"type": ["boolean", "null"]},
    "list": {"type": ["array", "string", "null"]},
    "object": {"type": ["object", "null"]},
    "any": {},
    "duration": _values.DURATION,
    "texts": {"type": ["string", "number", "boolean", "array", "null"]},
}


def _inputs(spec: HandlerSpec) -> Fragment:
    """Return what stands under `with:`; any value may be an expression."""
    properties: dict[str, Fragment] = {}
    for name, given in spec.inputs.items():
        value = _INPUT_TYPES[given.type]
        if given.options:
            value = {"enum": [*given.options, None]}
        if value:
            value = either(value, ref("expression"))
        properties[name] = value | {"description": given.description}
    for alias, name in INPUT_ALIASES.get(spec.name, {}).items():
        properties[alias] = properties[name] | {"description": f"As `{name}`."}
    return {
        "type": ["object", "null"],
        "description": spec.description,
        "properties": properties,
        "additionalProperties": spec.open,
    }


def _reachable(root: Fragment, definitions: Mapping[str, Fragment]) -> dict[str, Fragment]:
    """Return the definitions that *root* needs, in their order."""
    needed: set[str] = set()
    waiting: list[Any] = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix("#/$defs/")
            if name in definitions and name not in needed:
                needed.add(name)
                waiting.append(definitions[name])
            waiting += value.values()
    return {name: found for name, found in definitions.items() if name in needed}
