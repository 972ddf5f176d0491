"""Workflow text to plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from headrace.language import _limits, _yaml
from headrace.language._draft import Draft, number
from headrace.language._handlers import BUILTIN_HANDLERS, HandlerSpec
from headrace.language._jobs import Jobs, read_defaults, read_runs_on
from headrace.language._parts import Handlers, read_concurrency, read_inputs
from headrace.language._reader import CONTEXTS, Known, Reader, Scope, shape
from headrace.language._report import Report, did_you_mean
from headrace.language._tasks import Tasks
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Sequence, Tree
from headrace.plan import Group, InputSpec, Plan

_ROOT_KEYS = (
    "name", "run-name", "description", "version", "on", "env", "vars", "labels", "concurrency",
    "timeout-minutes",
)  # fmt: skip
_JOBS_KEYS = (*_ROOT_KEYS, "defaults", "jobs")
_TASKS_KEYS = (*_ROOT_KEYS, "inputs", "tasks", "timeout", "runs-on")
_ROOT_UNSUPPORTED = {
    "permissions": "tokens of GitHub have no meaning here; remove it",
    "steps": "put the steps into a job: 'jobs: {main: {steps: …}}'",
}
_EVENTS_LATER = ("schedule", "event")
_NAME_LENGTH_MAX = 128
_TIMEOUT_MINUTES_MAX = 60 * 24 * 366 * 100


def compile_workflow(
    text: str,
    *,
    file: str = "<workflow>",
    handlers: Mapping[str, HandlerSpec] | None = None,
    allow_unknown: bool = False,
) -> Plan:
    """Return the plan of the workflow in *text*, of either dialect.

    *file* is for messages, and names a workflow that does not name itself. *handlers* are known
    beside the built-in ones and replace those of the same name. With *allow_unknown* a step may
    use any other name too: whoever knows the workers checks it again. Raises `InvalidDefinition`
    with all problems at once, each with its line, column and, where there is one, a suggestion.
    """
    report = Report(text, file)
    root = _yaml.load(text, report)
    if not isinstance(root, MappingNode):
        report.fatal(f"a workflow must be a mapping, not {shape(root)}", root.line, root.column)
    specs = {**BUILTIN_HANDLERS, **handlers} if handlers else BUILTIN_HANDLERS
    compiler = _Compiler(report, Handlers(specs, allow_unknown=allow_unknown), file)
    try:
        return compiler.compile(root)
    except RecursionError:
        # The caller's own stack was nearly full: the depth of files is bounded well below.
        report.fatal(f"nested too deeply: YAML_DEPTH_MAX = {_limits.YAML_DEPTH_MAX}")


class _Compiler:
    def __init__(self, report: Report, handlers: Handlers, file: str) -> None:
        self._report = report
        self._reader = Reader(report)
        self._handlers = handlers
        self._file = file

    def compile(self, root: MappingNode) -> Plan:
        reader, report = self._reader, self._report
        dialect = self._dialect(root)
        keys = _JOBS_KEYS if dialect == "jobs" else _TASKS_KEYS
        entries = reader.mapping(root, "the workflow", keys, _ROOT_UNSUPPORTED)
        inputs = self._inputs(entries)
        known = {"inputs": {name.lower(): name for name in inputs}} if inputs else {}
        scope = Scope(CONTEXTS, known)
        fields = self._fields(entries, scope)
        name = fields["name"]
        top = Draft(Group, name, root, kind="graph")
        if dialect == "jobs":
            defaults = read_defaults(reader, entries.get("defaults"), "defaults", scope)
            top.children = Jobs(reader, self._handlers, defaults).read(entries["jobs"], scope)
        else:
            tasks: Known = {}
            reading = Tasks(reader, self._handlers, tasks)
            if "runs-on" in entries:
                top.fields["runs_on"] = read_runs_on(reader, entries["runs-on"], "runs-on", scope)
            top.children = reading.read(entries["tasks"], "tasks", scope.with_known(tasks=tasks))
        reader.check_references()
        nodes = number(top, report)
        report.finish()
        return Plan(nodes=nodes, dialect=dialect, inputs=inputs, **fields)

    def _dialect(self, root: MappingNode) -> Any:
        found = [key for key in ("jobs", "tasks") if key in root.entries]
        if len(found) == 1:
            return found[0]
        if found:
            self._report.add("a workflow has 'jobs' or 'tasks', not both", root.keys["tasks"])
        else:
            hint = next(
                (hint for key in root.entries if (hint := did_you_mean(key, ("jobs", "tasks")))),
                "",
            )
            self._report.add("a workflow needs 'jobs:' or 'tasks:'", root, hint)
        self._report.finish()
        raise AssertionError("unreachable")

    def _fields(self, entries: Mapping[str, Tree], scope: Scope) -> dict[str, Any]:
        reader = self._reader
        name = reader.text(entries.get("name"), "name") or _stem(self._file)
        if len(name) > _NAME_LENGTH_MAX:
            self._report.add(f"name is over {_NAME_LENGTH_MAX} characters", entries.get("name"))
        timeout_ms = None
        if "timeout-minutes" in entries:
            node = entries["timeout-minutes"]
            minutes = reader.number(node, "timeout-minutes", 0, _TIMEOUT_MINUTES_MAX)
            if minutes == 0:
                self._report.add("timeout-minutes must be more than 0", node)
            timeout_ms = max(1, round(minutes * 60_000)) if minutes else None
        elif "timeout" in entries:
            timeout_ms = reader.duration(entries["timeout"], "timeout")
        variables = entries.get("vars")
        labels = reader.environment(entries.get("labels"), "labels", None)
        return {
            "name": name,
            "run_name": reader.text(entries.get("run-name"), "run-name", scope),
            "description": reader.text(entries.get("description"), "description"),
            "version": reader.text(entries.get("version"), "version"),
            "env": reader.environment(entries.get("env"), "env", scope),
            "vars": self._variables(variables),
            "labels": labels,
            "timeout_ms": timeout_ms,
            "concurrency": read_concurrency(
                reader, entries.get("concurrency"), "concurrency", scope
            ),
            "file": re.split(r"[/\\]", self._file)[-1],
        }

    def _variables(self, node: Tree | None) -> dict[str, Any]:
        entries = self._reader.mapping(node, "vars")
        return {
            name: self._reader.json(value, f"vars.{name}", None) for name, value in entries.items()
        }

    def _inputs(self, entries: Mapping[str, Tree]) -> dict[str, InputSpec]:
        """Return the inputs that `on:` declares (or `inputs:` beside tasks); checks `on:`."""
        reader = self._reader
        node = entries.get("on")
        declared = read_inputs(reader, entries.get("inputs"), "inputs")
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return declared
        if isinstance(node, (Scalar, Sequence)):
            for event, place in reader.placed_texts(node, "on"):
                self._event(event, place)
            return declared
        for event, body in node.entries.items():
            self._event(event, node.keys[event])
            if event in ("workflow_dispatch", "workflow_call"):
                what = f"on.{event}"
                keys = ("inputs",) if event == "workflow_dispatch" else ("inputs", "outputs")
                fields = reader.mapping(body, what, (*keys, "secrets"))
                declared.update(read_inputs(reader, fields.get("inputs"), f"{what}.inputs"))
        return declared

    def _event(self, event: str, place: Any) -> None:
        """Check the name of a trigger. GitHub's own events are let through: they never fire."""
        if event in _EVENTS_LATER:
            hint = "it is planned; in this version runs begin with 'flowctl submit'"
            self._report.add(f"'on.{event}' is not supported", place, hint)
        elif event not in _GITHUB_EVENTS:
            hint = did_you_mean(event, ("workflow_dispatch", "workflow_call", *_GITHUB_EVENTS))
            self._report.add(f"unknown event '{event}'", place, hint)


_GITHUB_EVENTS = frozenset(
    (
        "workflow_dispatch", "workflow_call", "push", "pull_request", "pull_request_target",
        "release", "issues", "issue_comment", "create", "delete", "fork", "label", "milestone",
        "page_build", "public", "pull_request_review", "pull_request_review_comment",
        "registry_package", "repository_dispatch", "status", "watch", "workflow_run", "check_run",
        "check_suite", "deployment", "deployment_status", "discussion", "discussion_comment",
        "gollum", "merge_group", "branch_protection_rule",
    )
)  # fmt: skip


def _stem(file: str) -> str:
    base = re.split(r"[/\\]", file)[-1]
    return re.sub(r"\.ya?ml\Z", "", base)[:_NAME_LENGTH_MAX] or "workflow"
