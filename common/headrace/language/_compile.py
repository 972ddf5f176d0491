"""Workflow text to plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from headrace.errors import InvalidDefinition
from headrace.language import _limits, _yaml
from headrace.language._calls import (
    FindRegistered,
    FoundPlan,
    Load,
    Source,
    Sources,
    is_registered,
)
from headrace.language._contexts import CALL_OUTPUTS, RUN, RUN_DEFAULTS, RUN_ENV, STEP_WORK
from headrace.language._draft import Draft, number
from headrace.language._faults import (
    Inherited,
    read_handlers,
    read_on_cancel,
    read_on_failure,
)
from headrace.language._gates import read_run_rate
from headrace.language._handlers import BUILTIN_HANDLERS, HandlerSpec
from headrace.language._jobs import Jobs, read_defaults
from headrace.language._parts import Handlers, read_concurrency, read_retry
from headrace.language._placement import one_worker
from headrace.language._reader import Reader, shape
from headrace.language._report import Report, did_you_mean
from headrace.language._scope import Known, Scope
from headrace.language._tasks import Tasks
from headrace.language._triggers import Triggers, read_call_outputs, read_triggers
from headrace.language._uses import Called
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Tree
from headrace.plan import (
    FAIRNESS_KEY_MAX,
    FAIRNESS_WEIGHT_MAX,
    FAIRNESS_WEIGHT_MIN,
    Group,
    Plan,
)
from headrace.retry import RetryPolicy

_ROOT_KEYS = (
    "name", "run-name", "description", "version", "on", "env", "vars", "labels", "concurrency",
    "rate-limit", "timeout-minutes", "retry", "on-failure", "on-cancel", "handlers",
    "fairness-key", "fairness-weight",
)  # fmt: skip
JOBS_KEYS = (*_ROOT_KEYS, "defaults", "jobs")
TASKS_KEYS = (*_ROOT_KEYS, "inputs", "tasks", "timeout", "runs-on")
ROOT_UNSUPPORTED = {
    "permissions": "tokens of GitHub have no meaning here; remove it",
    "steps": "put the steps into a job: 'jobs: {main: {steps: …}}'",
    "runs": "actions of GitHub do not run here; write a workflow with 'jobs:'",
}
_IN_TASKS = frozenset(("tasks", "needs", "steps", "loop"))
"""Contexts that the whole `tasks:` dialect has."""
_NAME_LENGTH_MAX = 128
_TIMEOUT_MINUTES_MAX = 60 * 24 * 366 * 100


def compile_workflow(
    text: str,
    *,
    file: str = "<workflow>",
    handlers: Mapping[str, HandlerSpec] | None = None,
    allow_unknown: bool = False,
    load: Load | None = None,
    find: FindRegistered | None = None,
) -> Plan:
    """Return the plan of the workflow in *text*, of either dialect.

    *file* is for messages, names a workflow that does not name itself, and is what the paths of
    called workflows are relative to; *load* returns their texts. *find* returns registered
    workflows that are named; without it they stay open: the plan cannot run before they were
    looked up. *handlers* are known beside the built-in ones and replace those of the same name.
    With *allow_unknown* a step may use any other name too: whoever knows the workers checks it
    again. Raises `InvalidDefinition` with all problems at once, each with its file, line, column
    and, where there is one, a suggestion.
    """
    report = Report(text, file)
    root = _yaml.load(text, report)
    if not isinstance(root, MappingNode):
        report.fatal(f"a workflow must be a mapping, not {shape(root)}", root.line, root.column)
    specs = {**BUILTIN_HANDLERS, **handlers} if handlers else BUILTIN_HANDLERS
    source = Source(file, root, report)
    known = Handlers(specs, allow_unknown=allow_unknown)
    try:
        return _Workflow(source, known, Sources(source, load, find), (file,)).plan()
    except RecursionError:
        # The caller's own stack was nearly full: the depth of files is bounded well below.
        report.fatal(f"nested too deeply: YAML_DEPTH_MAX = {_limits.YAML_DEPTH_MAX}")


class _Workflow:
    """Reads one file: as the workflow itself, or as one that it calls."""

    def __init__(
        self, source: Source, handlers: Handlers, sources: Sources, chain: tuple[str, ...]
    ) -> None:
        self._report = source.report
        self._reader = Reader(source.report)
        self._source = source
        self._handlers = handlers
        self._sources = sources
        self._chain = chain

    def plan(self) -> Plan:
        """Return the plan; raises `InvalidDefinition`."""
        reader, report, root = self._reader, self._report, self._source.root
        dialect = self._dialect(root)
        if dialect is None:
            report.finish()
            raise AssertionError("unreachable")
        keys = JOBS_KEYS if dialect == "jobs" else TASKS_KEYS
        entries = reader.mapping(root, "the workflow", keys, ROOT_UNSUPPORTED)
        triggers = read_triggers(reader, entries.get("on"), entries.get("inputs"))
        scope = self._scope(triggers, entries.get("vars"))
        fields = self._fields(entries, scope)
        top = Draft(Group, fields["name"], root, kind="graph")
        faults, retry = self._faults(top, entries)
        on_cancel = read_on_cancel(reader, entries.get("on-cancel"))
        if on_cancel:
            top.fields["on_cancel"] = on_cancel
        if dialect == "jobs":
            top.children = self._jobs(entries, scope, faults, retry)
            outputs = self._outputs(triggers, scope, top)
            if outputs:
                top.fields["outputs"] = outputs
        else:
            tasks: Known = {}
            reading = Tasks(reader, self._handlers, tasks, self._subplan, faults, retry)
            place = Scope(STEP_WORK, scope.known, _IN_TASKS)
            if "runs-on" in entries:
                top.fields["runs_on"] = one_worker(
                    reader, entries["runs-on"], "runs-on", scope.at(RUN)
                )
            top.children = reading.read(entries["tasks"], "tasks", place.with_known(tasks=tasks))
        reader.names.finish()
        nodes = number(top, report)
        report.finish()
        return Plan(
            nodes=nodes,
            dialect=dialect,
            inputs=triggers.inputs,
            schedules=triggers.schedules,
            events=triggers.events,
            secrets=triggers.secrets,
            **fields,
        )

    def called(self) -> Called | None:
        """Return the workflow as what a job calls; None: what is wrong is noted."""
        reader, report, root = self._reader, self._report, self._source.root
        dialect = self._dialect(root)
        if dialect != "jobs":
            if dialect is not None:
                report.add("a workflow that is called has 'jobs:'", root.keys["tasks"])
            return None
        entries = reader.mapping(root, "the workflow", JOBS_KEYS, ROOT_UNSUPPORTED)
        triggers = read_triggers(reader, entries.get("on"), None)
        if not triggers.callable:
            hint = "write 'on: workflow_call', with its inputs, secrets and outputs"
            report.add("this workflow cannot be called", root.keys.get("on", root), hint)
        if "rate-limit" in entries:
            hint = "give it to the job that calls, or to the jobs inside"
            report.add("a workflow that is called has no 'rate-limit'", entries["rate-limit"], hint)
        scope = self._scope(triggers, entries.get("vars"))
        fields = self._fields(entries, scope)
        body = Draft(Group, fields["name"], root, kind="graph")
        body.children = self._jobs(entries, scope, *self._faults(body, entries))
        outputs = self._outputs(triggers, scope, body)
        reader.names.finish()
        return Called(self._source.file, body, triggers.inputs, triggers.secrets, outputs, fields)

    def _scope(self, triggers: Triggers, variables: Tree | None) -> Scope:
        names = {name.lower(): name for name in triggers.inputs}
        declared = variables.entries if isinstance(variables, MappingNode) else {}
        known = {"vars": {name.lower(): name for name in declared}}
        return Scope(RUN, known | ({"inputs": names} if names else {}))

    def _faults(
        self, top: Draft, entries: Mapping[str, Tree]
    ) -> tuple[Inherited, RetryPolicy | None]:
        """Return what all steps inherit: policies and handlers, retries."""
        reader = self._reader
        policy = read_on_failure(reader, entries.get("on-failure"), "on-failure")
        if policy is not None:
            top.fields["on_failure"] = policy.plan()
        handlers = read_handlers(reader, entries.get("handlers"))
        return Inherited(policy, handlers), read_retry(reader, entries.get("retry"), "retry")

    def _jobs(
        self,
        entries: Mapping[str, Tree],
        scope: Scope,
        faults: Inherited,
        retry: RetryPolicy | None,
    ) -> list[Draft]:
        what = "defaults"
        defaults = read_defaults(self._reader, entries.get(what), what, scope.at(RUN_DEFAULTS))
        defaults = defaults._replace(faults=faults, retry=retry)
        jobs = Jobs(self._reader, self._handlers, defaults, self._call, self._subplan)
        return jobs.read(entries["jobs"], scope)

    def _outputs(self, triggers: Triggers, scope: Scope, top: Draft) -> dict[str, Any]:
        known = {job.name.lower(): job.name for job in top.children}
        place = scope.at(CALL_OUTPUTS).with_known(jobs=known)
        return read_call_outputs(self._reader, triggers.outputs, place)

    def _call(self, uses: str, at: Any) -> Called | None:
        """Read the workflow that a job of this one calls."""
        source = self._sources.called(uses, at, self._source, self._chain)
        if source is None:
            return None
        chain = (*self._chain, source.file)
        found = _Workflow(source, self._handlers, self._sources, chain).called()
        if found is not None:
            self._sources.grew(found.body, at, self._report)
        return found

    def _subplan(self, uses: str, at: Any) -> FoundPlan | None:
        """Compile or find the workflow that a subworkflow of this one runs."""
        if is_registered(uses):
            return self._sources.registered(uses, at, self._report)
        source = self._sources.called(uses, at, self._source, self._chain)
        if source is None:
            return None
        chain = (*self._chain, source.file)
        try:
            plan = _Workflow(source, self._handlers, self._sources, chain).plan()
            return FoundPlan(plan, uses)
        except InvalidDefinition:
            # Noted; what is wrong elsewhere is to be found, too.
            return None

    def _dialect(self, root: MappingNode) -> Any:
        """Return `jobs` or `tasks`; None: what is wrong is noted."""
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
        return None

    def _fields(self, entries: Mapping[str, Tree], scope: Scope) -> dict[str, Any]:
        reader = self._reader
        name = reader.text(entries.get("name"), "name") or _stem(self._source.file)
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
            **self._fairness(entries, scope),
            "description": reader.text(entries.get("description"), "description"),
            "version": reader.text(entries.get("version"), "version"),
            "env": reader.environment(entries.get("env"), "env", scope.at(RUN_ENV)),
            "vars": self._variables(variables),
            "labels": labels,
            "timeout_ms": timeout_ms,
            "concurrency": read_concurrency(
                reader, entries.get("concurrency"), "concurrency", scope
            ),
            "rate_limit": read_run_rate(reader, entries.get("rate-limit"), scope),
            "file": re.split(r"[/\\]", self._source.file)[-1],
        }

    def _fairness(self, entries: Mapping[str, Tree], scope: Scope) -> dict[str, Any]:
        reader = self._reader
        found: dict[str, Any] = {}
        key = reader.text(entries.get("fairness-key"), "fairness-key", scope)
        if key:
            found["fairness_key"] = key
        weight = reader.number(
            entries.get("fairness-weight"),
            "fairness-weight",
            FAIRNESS_WEIGHT_MIN,
            FAIRNESS_WEIGHT_MAX,
        )
        if weight is not None:
            found["fairness_weight"] = weight
            if not key:
                self._report.add(
                    "'fairness-weight' needs a 'fairness-key'", entries["fairness-weight"]
                )
        if len(key.encode()) > FAIRNESS_KEY_MAX and "${{" not in key:
            text = f"fairness-key is over {FAIRNESS_KEY_MAX} bytes"
            self._report.add(text, entries["fairness-key"])
        return found

    def _variables(self, node: Tree | None) -> dict[str, Any]:
        entries = self._reader.mapping(node, "vars")
        return {
            name: self._reader.json(value, f"vars.{name}", None) for name, value in entries.items()
        }


def _stem(file: str) -> str:
    base = re.split(r"[/\\]", file)[-1]
    return re.sub(r"\.ya?ml\Z", "", base)[:_NAME_LENGTH_MAX] or "workflow"
