"""The `jobs:` dialect: GitHub's spelling.

A job becomes ``Group(kind="job", affinity=True)``. With a matrix it is wrapped in
``Loop(kind="matrix")``, which takes the job's name, needs and condition; the job inside has the
same name and adds no segment to paths: ``build[linux]/test``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.language._calls import is_registered
from headrace.language._contexts import (
    JOB,
    JOB_DEFAULTS,
    JOB_ENV,
    JOB_IF,
    JOB_OUTPUTS,
    STEP_WORK,
)
from headrace.language._draft import Draft
from headrace.language._faults import read_on_failure
from headrace.language._gates import GATE_KEYS, read_gates
from headrace.language._parts import (
    Handlers,
    read_concurrency,
    read_retry,
    read_shell,
    read_trigger_rule,
)
from headrace.language._placement import (
    OUTPUTS,
    WORKER,
    Placement,
    broadcast,
    read_loss,
    read_placement,
    read_sticky,
)
from headrace.language._reader import Reader, shape
from headrace.language._report import Place, did_you_mean
from headrace.language._scope import Known, Scope
from headrace.language._steps import StepDefaults, Steps
from headrace.language._uses import FindCalled, FindPlan, new_call, read_call, read_child
from headrace.language._values import is_identifier
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Sequence, Tree
from headrace.plan import Group, Loop, Task

JOB_KEYS = (
    "needs", "if", "name", "runs-on", "strategy", "env", "defaults", "outputs", "timeout-minutes",
    "cancel-timeout-minutes", "continue-on-error", "concurrency", "on-worker-loss", "retry",
    "on-failure", "trigger-rule", *GATE_KEYS, "sticky", "steps",
)  # fmt: skip
CALL_KEYS = (
    "needs", "if", "name", "strategy", "uses", "with", "secrets", "concurrency",
    "timeout-minutes", "continue-on-error", "trigger-rule", *GATE_KEYS,
)  # fmt: skip
DEFAULTS_KEYS = ("run",)
DEFAULTS_RUN_KEYS = ("shell", "working-directory")
STRATEGY_KEYS = ("matrix", "fail-fast", "max-parallel")
_KEYS = frozenset((*JOB_KEYS, *CALL_KEYS))
JOB_UNSUPPORTED = {
    "container": "use a step with 'uses: docker/run'",
    "services": "use steps with 'uses: docker/compose-up' and 'docker/compose-down'",
    "permissions": "tokens of GitHub have no meaning here; remove it",
    "snapshot": "images of GitHub's runners have no meaning here; remove it",
    "environment": "use 'approval:' and 'concurrency:'",
    "depends-on": "write 'needs'",
    "depends_on": "write 'needs'",
}


def read_defaults(reader: Reader, node: Tree | None, what: str, scope: Scope) -> StepDefaults:
    """Return `defaults.run`."""
    entries = reader.mapping(node, what, DEFAULTS_KEYS)
    run = reader.mapping(entries.get("run"), f"{what}.run", DEFAULTS_RUN_KEYS)
    return StepDefaults(
        shell=read_shell(reader, run.get("shell"), f"{what}.run.shell", scope),
        working_directory=reader.text(
            run.get("working-directory"), f"{what}.run.working-directory", scope
        ),
    )


class Jobs:
    """Reads the jobs of one workflow."""

    def __init__(
        self,
        reader: Reader,
        handlers: Handlers,
        defaults: StepDefaults,
        find: FindCalled,
        find_plan: FindPlan,
    ) -> None:
        self._reader = reader
        self._handlers = handlers
        self._defaults = defaults
        self._find, self._find_plan = find, find_plan

    def read(self, node: Tree, scope: Scope) -> list[Draft]:
        """Return the drafts of all jobs."""
        reader = self._reader
        entries = reader.mapping(node, "jobs")
        if not entries and (isinstance(node, MappingNode) or shape(node) == "nothing"):
            reader.report.add("a workflow needs at least one job", node)
        drafts: list[Draft] = []
        seen: set[str] = set()
        for name, body in entries.items():
            assert isinstance(node, MappingNode)
            key = node.keys[name]
            if not is_identifier(name):
                hint = "a letter or '_', then letters, digits, '_' and '-'"
                reader.report.add(f"'{name}' cannot be the id of a job", key, hint)
            elif name.lower() in seen:
                reader.report.add(f"duplicate job '{name}' (case does not matter)", key)
            seen.add(name.lower())
            drafts.append(self._job(name, key, body, scope))
        return drafts

    def _job(self, name: str, key: Place, node: Tree, outer: Scope) -> Draft:
        reader, what = self._reader, f"jobs.{name}"
        entries = self._entries(node, key, what)
        needs = reader.placed_texts(entries.get("needs"), f"{what}.needs")
        scope = outer.with_known(needs={need.lower(): need for need, _ in needs})
        condition = reader.condition(entries.get("if"), f"{what}.if", scope.at(JOB_IF))
        matrix = self._matrix(entries.get("strategy"), name, key, what, scope.at(JOB_IF))
        if matrix is not None:
            scope = _with_axes(scope, matrix.fields["items"])
        if "uses" in entries:
            job = self._caller(name, key, entries, what, scope)
        else:
            job = self._own(name, key, entries, what, scope)
        top = job
        if matrix is not None:
            top = matrix
            matrix.children = [job]
        top.needs = needs
        rule = entries.get("trigger-rule")
        top.fields |= read_trigger_rule(reader, rule, f"{what}.trigger-rule", needs)
        if condition:
            top.fields["condition"] = condition
        return top

    def _entries(self, node: Tree, key: Place, what: str) -> dict[str, Tree]:
        """Return a job's entries; those that do not go together are noted."""
        reader = self._reader
        entries = reader.mapping(node, what, _KEYS, JOB_UNSUPPORTED)
        if isinstance(node, Scalar) and node.value is None:
            reader.report.add(f"{what} is empty", key, "a job has 'steps:', or 'uses:'")
        if not isinstance(node, MappingNode):
            return entries
        action = "uses" if "uses" in node.entries else "steps"
        allowed = frozenset(CALL_KEYS if action == "uses" else JOB_KEYS)
        if action == "steps" and "steps" not in entries:
            reader.report.add(f"{what} needs 'steps' (or 'uses')", key)
        for name in entries.keys() - allowed:
            hint = "what is called has its own" if action == "uses" else "it belongs to 'uses:'"
            text = f"'{name}' does not go with '{action}' in {what}"
            reader.report.add(text, node.keys[name], hint)
        return {name: value for name, value in entries.items() if name in allowed}

    def _own(
        self, name: str, key: Place, entries: Mapping[str, Tree], what: str, scope: Scope
    ) -> Draft:
        """Return a job with steps of its own."""
        steps: Known = {}
        scope = scope.with_known(steps=steps)
        placement = self._placement(entries, what, scope.at(JOB))
        if placement.broadcast is not None:
            scope = scope.with_variable(WORKER)
        fields = self._common(entries, what, scope) | self._fields(entries, what, scope)
        fields["runs_on"] = placement.labels
        place = f"{what}.sticky"
        fields |= read_sticky(self._reader, entries.get("sticky"), place, scope.at(JOB))
        if placement.broadcast is None:
            fields |= self._loss(entries.get("on-worker-loss"), what)
        job = Draft(Group, name, key, kind="job", affinity=True, **fields)
        job.children = self._steps(job, entries, what, scope.at(STEP_WORK), steps)
        declared = {output.lower(): output for output in fields["outputs"]}
        if placement.broadcast is not None:
            declared = dict(OUTPUTS)
        self._reader.names.job_outputs[name.lower()] = declared
        return broadcast(job, placement)

    def _placement(self, entries: Mapping[str, Tree], what: str, scope: Scope) -> Placement:
        """Return where a job runs, with what a broadcast does when it loses a worker."""
        reader = self._reader
        placement = read_placement(reader, entries.get("runs-on"), f"{what}.runs-on", scope)
        if placement.broadcast is None or "on-worker-loss" not in entries:
            return placement
        loss = read_loss(reader, entries["on-worker-loss"], f"{what}.on-worker-loss")
        return placement._replace(
            broadcast={"on_worker_loss": loss or "fail", **placement.broadcast}
        )

    def _caller(
        self, name: str, key: Place, entries: Mapping[str, Tree], what: str, scope: Scope
    ) -> Draft:
        """Return a job that calls a workflow."""
        job = new_call(name, key, **self._common(entries, what, scope))
        uses = entries["uses"]
        if isinstance(uses, Scalar) and is_registered(uses.text):
            outputs = read_child(self._reader, self._find_plan, entries, job, what, scope)
            if outputs is not None:
                self._reader.names.job_outputs[name.lower()] = outputs
            return job
        called = read_call(self._reader, self._find, entries, job, what, scope)
        if called is not None:
            declared = {output.lower(): output for output in called.outputs}
            self._reader.names.job_outputs[name.lower()] = declared
        return job

    def _steps(
        self, job: Draft, entries: Mapping[str, Tree], what: str, scope: Scope, known: Known
    ) -> list[Draft]:
        reader = self._reader
        policy = read_on_failure(reader, entries.get("on-failure"), f"{what}.on-failure")
        place = f"{what}.defaults"
        own = read_defaults(reader, entries.get("defaults"), place, scope.at(JOB_DEFAULTS))
        defaults = StepDefaults(
            shell=own.shell or self._defaults.shell,
            working_directory=own.working_directory or self._defaults.working_directory,
            retry=read_retry(reader, entries.get("retry"), f"{what}.retry") or self._defaults.retry,
            faults=self._defaults.faults._replace(policy=policy or self._defaults.faults.policy),
        )
        if policy is not None:
            job.fields["on_failure"] = policy.plan()
        steps = Steps(reader, self._handlers, defaults, known, self._find_plan)
        return _set_up(steps.read(entries.get("steps"), f"{what}.steps", scope))

    def _common(self, entries: Mapping[str, Tree], what: str, scope: Scope) -> dict[str, Any]:
        """Return the fields of jobs with steps and of those that call."""
        reader, scope = self._reader, scope.at(JOB)
        return {
            "title": reader.text(entries.get("name"), f"{what}.name", scope),
            "concurrency": read_concurrency(
                reader, entries.get("concurrency"), f"{what}.concurrency", scope
            ),
            "continue_on_error": reader.flag(
                entries.get("continue-on-error"), f"{what}.continue-on-error", scope
            ),
            "timeout_ms": reader.minutes(
                entries.get("timeout-minutes"), f"{what}.timeout-minutes", scope
            ),
            **read_gates(reader, entries, what, scope),
        }

    def _fields(self, entries: Mapping[str, Tree], what: str, scope: Scope) -> dict[str, Any]:
        reader = self._reader
        outputs = scope.at(JOB_OUTPUTS)
        fields: dict[str, Any] = {
            "env": reader.environment(entries.get("env"), f"{what}.env", scope.at(JOB_ENV)),
            "outputs": reader.environment(entries.get("outputs"), f"{what}.outputs", outputs),
            "cancel_timeout_ms": reader.minutes(
                entries.get("cancel-timeout-minutes"),
                f"{what}.cancel-timeout-minutes",
                scope.at(JOB),
            ),
        }
        return fields

    def _loss(self, node: Tree | None, what: str) -> dict[str, Any]:
        """Return what becomes of a job on one worker that is lost."""
        options = ("restart-job", "continue", "fail")
        loss = self._reader.choice(node, f"{what}.on-worker-loss", options)
        return {} if loss is None else {"on_worker_loss": loss}

    def _matrix(
        self, node: Tree | None, name: str, key: Place, what: str, scope: Scope
    ) -> Draft | None:
        reader, what = self._reader, f"{what}.strategy"
        entries = reader.mapping(node, what, STRATEGY_KEYS)
        matrix = entries.get("matrix")
        if matrix is None:
            # Without a matrix there is one leg, and nothing to limit.
            return None
        loop = Draft(
            Loop,
            name,
            key,
            kind="matrix",
            variable="matrix",
            items=self._axes(matrix, f"{what}.matrix", scope),
            fail_fast=True,
        )
        if "fail-fast" in entries:
            loop.fields["fail_fast"] = reader.flag(entries["fail-fast"], f"{what}.fail-fast", scope)
        limit = reader.count(entries.get("max-parallel"), f"{what}.max-parallel", scope)
        if limit is not None:
            loop.fields["max_parallel"] = limit
        return loop

    def _axes(self, node: Tree, what: str, scope: Scope) -> Any:
        reader = self._reader
        if isinstance(node, Scalar) and reader.is_expression(node, what, scope):
            return node.text
        entries = reader.mapping(node, what)
        if not entries:
            reader.report.add(f"{what} needs at least one axis", node)
            return {}
        for axis, values in entries.items():
            place = f"{what}.{axis}"
            if isinstance(values, Scalar):
                if not reader.is_expression(values, place, scope):
                    reader.report.add(f"{place} must be a list, not {shape(values)}", values)
            elif not isinstance(values, Sequence) or not values.items:
                reader.report.add(f"{place} must be a list of at least one value", values)
            elif axis in ("include", "exclude"):
                for index, item in enumerate(values.items):
                    if isinstance(item, Scalar) and "${{" in item.text:
                        continue
                    if not isinstance(item, MappingNode):
                        reader.report.add(
                            f"{place}[{index}] must be a mapping, not {shape(item)}", item
                        )
        self._check_exclude(entries, what)
        return reader.json(node, what, scope)

    def _check_exclude(self, entries: Mapping[str, Tree], what: str) -> None:
        """Note the keys of `exclude` that are no axes: GitHub refuses them, too."""
        exclude = entries.get("exclude")
        axes = [axis for axis in entries if axis not in ("include", "exclude")]
        for item in exclude.items if isinstance(exclude, Sequence) else ():
            for axis in item.entries if isinstance(item, MappingNode) else ():
                if axis not in axes and "${{" not in axis:
                    assert isinstance(item, MappingNode)
                    hint = did_you_mean(axis, axes) or "axes: " + ", ".join(axes)
                    self._reader.report.add(f"{what} has no axis '{axis}'", item.keys[axis], hint)


def _set_up(steps: list[Draft]) -> list[Draft]:
    """Return the steps of a job, behind one that does nothing if there are background steps.

    The first step that ends decides on which worker the job runs. Nobody would wait for one in the
    background, so none of those may be the first.
    """
    if not _has_background(steps):
        return steps
    first = steps[0]
    if first.struct is Task and not (first.fields.keys() & {"background", "condition"}):
        return steps
    names = {step.name.lower() for step in steps}
    name = next(name for name in ("set-up", "set-up-job", "set-up-the-job") if name not in names)
    return [Draft(Task, name, first.place, uses="noop", title="Set up the job"), *steps]


def _has_background(steps: list[Draft]) -> bool:
    return any(s.fields.get("background") or _has_background(s.children) for s in steps)


def _with_axes(scope: Scope, matrix: Any) -> Scope:
    """Return *scope* with the names in `matrix` known, if they stand in the file."""
    if not isinstance(matrix, dict):
        return scope
    names = {axis.lower(): axis for axis in matrix if axis not in ("include", "exclude")}
    include = matrix.get("include", [])
    if not isinstance(include, list):
        return scope
    for item in include:
        if not isinstance(item, dict):
            return scope
        names.update({name.lower(): name for name in item})
    return scope.with_known(matrix=names)
