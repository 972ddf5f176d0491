"""The `jobs:` dialect: GitHub's spelling.

A job becomes ``Group(kind="job", affinity=True)``. With a matrix it is wrapped in
``Loop(kind="matrix")``, which takes the job's name, needs and condition; the job inside has the
same name and adds no segment to paths: ``build[linux]/test``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.language._draft import Draft
from headrace.language._parts import Handlers, read_concurrency, read_retry
from headrace.language._reader import Known, Reader, Scope, shape
from headrace.language._report import Place
from headrace.language._steps import StepDefaults, Steps
from headrace.language._values import is_identifier
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Sequence, Tree
from headrace.plan import Group, Loop

_JOB_KEYS = (
    "needs", "if", "name", "runs-on", "strategy", "env", "defaults", "outputs", "timeout-minutes",
    "continue-on-error", "concurrency", "on-worker-loss", "retry", "steps",
)  # fmt: skip
_LATER = "it is planned; not in this version"
_JOB_UNSUPPORTED = {
    "container": "use a step with 'uses: docker/run'",
    "services": "use steps with 'uses: docker/compose-up' and 'docker/compose-down'",
    "permissions": "tokens of GitHub have no meaning here; remove it",
    "snapshot": "images of GitHub's runners have no meaning here; remove it",
    "environment": "use 'approval:' and 'concurrency:'",
    "uses": "reusable workflows are planned; not in this version",
    "with": "reusable workflows are planned; not in this version",
    "secrets": "reusable workflows are planned; not in this version",
    "cancel-timeout-minutes": _LATER,
}


def read_defaults(reader: Reader, node: Tree | None, what: str, scope: Scope) -> StepDefaults:
    """Return `defaults.run`."""
    entries = reader.mapping(node, what, ("run",))
    run = reader.mapping(entries.get("run"), f"{what}.run", ("shell", "working-directory"))
    return StepDefaults(
        shell=reader.text(run.get("shell"), f"{what}.run.shell", scope),
        working_directory=reader.text(
            run.get("working-directory"), f"{what}.run.working-directory", scope
        ),
    )


def read_runs_on(reader: Reader, node: Tree | None, what: str, scope: Scope) -> tuple[str, ...]:
    """Return the labels that a worker must have, each once."""
    if isinstance(node, MappingNode):
        hint = "write one label or a list of labels; groups are planned, not in this version"
        reader.report.add(f"{what} must be labels, not a mapping", node, hint)
        return ()
    return tuple(dict.fromkeys(reader.texts(node, what, scope)))


class Jobs:
    """Reads the jobs of one workflow."""

    def __init__(self, reader: Reader, handlers: Handlers, defaults: StepDefaults) -> None:
        self._reader = reader
        self._handlers = handlers
        self._defaults = defaults

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
        entries = reader.mapping(node, what, _JOB_KEYS, _JOB_UNSUPPORTED)
        if isinstance(node, Scalar):
            if node.value is None:
                reader.report.add(f"{what} is empty", key, "a job has 'steps:'")
        elif "steps" not in entries and not (
            isinstance(node, MappingNode) and "uses" in node.entries
        ):
            reader.report.add(f"{what} needs 'steps'", key)
        needs = reader.placed_texts(entries.get("needs"), f"{what}.needs")
        steps: Known = {}
        scope = outer.with_known(needs={need.lower(): need for need, _ in needs}, steps=steps)
        job = Draft(
            Group, name, key, kind="job", affinity=True, **self._fields(entries, what, scope)
        )
        job.children = self._steps(entries, what, scope, steps)
        condition = reader.condition(entries.get("if"), f"{what}.if", scope)
        matrix = self._matrix(entries.get("strategy"), name, key, what, scope)
        top = job
        if matrix is not None:
            top = matrix
            matrix.children = [job]
        top.needs = needs
        if condition:
            top.fields["condition"] = condition
        return top

    def _steps(
        self, entries: Mapping[str, Tree], what: str, scope: Scope, known: Known
    ) -> list[Draft]:
        reader = self._reader
        own = read_defaults(reader, entries.get("defaults"), f"{what}.defaults", scope)
        defaults = StepDefaults(
            shell=own.shell or self._defaults.shell,
            working_directory=own.working_directory or self._defaults.working_directory,
            retry=read_retry(reader, entries.get("retry"), f"{what}.retry"),
        )
        steps = Steps(reader, self._handlers, defaults, known)
        return steps.read(entries.get("steps"), f"{what}.steps", scope)

    def _fields(self, entries: Mapping[str, Tree], what: str, scope: Scope) -> dict[str, Any]:
        reader = self._reader
        fields: dict[str, Any] = {
            "title": reader.text(entries.get("name"), f"{what}.name", scope),
            "runs_on": read_runs_on(reader, entries.get("runs-on"), f"{what}.runs-on", scope),
            "env": reader.environment(entries.get("env"), f"{what}.env", scope),
            "outputs": reader.environment(entries.get("outputs"), f"{what}.outputs", scope),
            "concurrency": read_concurrency(
                reader, entries.get("concurrency"), f"{what}.concurrency", scope
            ),
            "continue_on_error": reader.flag(
                entries.get("continue-on-error"), f"{what}.continue-on-error", scope
            ),
            "timeout_ms": reader.minutes(
                entries.get("timeout-minutes"), f"{what}.timeout-minutes", scope
            ),
        }
        loss = reader.choice(
            entries.get("on-worker-loss"),
            f"{what}.on-worker-loss",
            ("restart-job", "continue", "fail"),
        )
        if loss is not None:
            fields["on_worker_loss"] = loss
        return fields

    def _matrix(
        self, node: Tree | None, name: str, key: Place, what: str, scope: Scope
    ) -> Draft | None:
        reader, what = self._reader, f"{what}.strategy"
        entries = reader.mapping(node, what, ("matrix", "fail-fast", "max-parallel"))
        matrix = entries.get("matrix")
        if matrix is None:
            if entries:
                reader.report.add(f"{what} needs a 'matrix'", node)
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
                    if not isinstance(item, MappingNode):
                        reader.report.add(
                            f"{place}[{index}] must be a mapping, not {shape(item)}", item
                        )
        return reader.json(node, what, scope)
