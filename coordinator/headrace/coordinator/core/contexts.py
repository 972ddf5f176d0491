"""What an expression sees from a place in a run: `inputs`, `env`, `steps`, `needs`, `matrix`, …

Built when asked for, name by name: an expression that reads one task's output costs the same in
a plan of ten nodes and of ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from headrace.coordinator.core import program as kinds
from headrace.coordinator.core import status
from headrace.coordinator.core.deferral import (
    EnvLevel,
    defer_env,
    resolve_for_worker,
    split_env,
)
from headrace.coordinator.core.outcomes import (
    body_outputs,
    conclusion,
    outcome,
    outputs,
    read,
)
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.variables import merged
from headrace.expressions import Opaque, resolve, to_string, truthy
from headrace.messages import subjects
from headrace.payloads import replaced
from headrace.plan import Call, Group, Loop, Task, fit_inputs

_FAILED_BEFORE = 2


class _Siblings(Mapping[str, Any]):
    """Nodes that are visible from a place, by name; inner ones hide outer ones."""

    def __init__(self, run: Run, levels: list[tuple[int, int]], view: Callable[[int], Any]) -> None:
        self._run, self._levels, self._view = run, levels, view

    def __getitem__(self, name: str) -> Any:
        for container, shift in self._levels:
            child = self._run.program.names[container].get(name.lower())
            if child is not None:
                return self._view(child + shift)
        raise KeyError(name)

    def _names(self) -> dict[str, None]:
        found: dict[str, None] = {}
        nodes = self._run.program.nodes
        for container, _ in self._levels:
            for child in self._run.program.children[container]:
                found.setdefault(nodes[child].name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


class Contexts(Mapping[str, Any]):
    """The contexts at *instance* of *run*; *inside*: of a called workflow, seen from its jobs.

    *iteration*: (repetition, index) of the iteration that a repetition's condition is about.
    """

    def __init__(
        self,
        run: Run,
        instance: int,
        *,
        inside: bool = False,
        iteration: tuple[int, int] | None = None,
    ) -> None:
        self._run, self._instance, self._iteration = run, instance, iteration
        self._cache: dict[str, Any] = {}
        self._env_levels: list[EnvLevel] = []
        self._around: list[int] = []
        self.call = self._look_around(inside)
        """Instance of the called workflow around the place; -1: it is the run's own."""
        self._builders: dict[str, Callable[[], Any]] = {
            "inputs": self._inputs,
            "env": self._env,
            "vars": self._vars,
            "run": self._about,
            "github": self._about,
            "job": self._job,
            "steps": self._steps,
            "tasks": self._tasks,
            "jobs": self._jobs,
            "needs": self._needs,
            "matrix": lambda: self._item("matrix"),
            "strategy": self._strategy,
            "loop": self._loop,
            "failure": self._failure,
        }

    def __getitem__(self, name: str) -> Any:
        key = name.lower()
        if key not in self._cache:
            builder = self._builders.get(key)
            if builder is not None:
                self._cache[key] = builder()
            else:
                self._cache[key] = self._variable(name)
        return self._cache[key]

    def __iter__(self) -> Iterator[str]:
        yield from self._builders
        yield from self._variables()

    def __len__(self) -> int:
        return len(self._builders) + len(self._variables())

    # -- where we are -----------------------------------------------------------------------

    def _look_around(self, inside: bool) -> int:
        """Gather the instances around the place, itself first, up to the call that is its world."""
        run, at = self._run, self._instance
        nodes = run.program.nodes
        while at >= 0:
            node = nodes[run.locate(at)[0]]
            called = isinstance(node, Group) and node.call is not None
            if called and (inside or at != self._instance):
                return at
            self._around.append(at)
            at = run.parent(at)
        return -1

    def _called(self) -> Call:
        node = self._run.program.nodes[self._run.locate(self.call)[0]]
        assert isinstance(node, Group)
        assert node.call is not None
        return node.call

    def _containers(self) -> list[int]:
        """Return the containers around the place, inside out: those whose children it can name."""
        around = self._around[1:]
        return around if self.call < 0 else [*around, self.call]

    def _levels(self, *, inside_job: bool) -> list[tuple[int, int]]:
        """(container node, shift) from the inside out; within the job only, or beyond it."""
        run = self._run
        job = run.job_of(self._instance)
        levels: list[tuple[int, int]] = []
        if inside_job and job == self._instance:
            return levels
        seen_job = job < 0 or job == self._instance
        for container in self._containers():
            node, shift, _ = run.locate(container)
            if run.program.kind[node] != kinds.LOOP and (seen_job != inside_job or job < 0):
                levels.append((node, shift))
            if container == job:
                seen_job = True
                if inside_job:
                    break
        return levels

    def _scopes(self) -> list[Any]:
        run, found = self._run, []
        for at in self._around:
            node, _, scope = run.locate(at)
            if scope is not None and node == scope.body:
                found.append(scope)
        return found

    def _loop_node(self, scope: Any) -> Loop:
        node = self._run.program.nodes[self._run.locate(scope.loop)[0]]
        assert isinstance(node, Loop)
        return node

    # -- the contexts -----------------------------------------------------------------------

    def _inputs(self) -> Any:
        if self.call < 0:
            return read(self._run.input)
        found, _ = called_inputs(self._run, self.call)
        return found

    def _vars(self) -> Mapping[str, Any]:
        return merged(self._declared(), self._run.variables)

    def _declared(self) -> Mapping[str, Any]:
        """What the workflow, and those around a called one, declare under `vars`."""
        if self.call < 0:
            return self._run.program.plan.vars
        outer, own = Contexts(self._run, self.call)._declared(), self._called().vars
        return {**own, **outer} if own else outer

    def env_levels(self) -> list[EnvLevel]:
        """Return the environment around a step, and the step's own, as far as they are built."""
        return self._env_levels

    def _env(self) -> dict[str, Any]:
        """Build `env`. Texts in it see the level around it; what steps have added is data.

        What only the worker knows is there as an `Opaque`, which cannot be looked at.
        """
        run = self._run
        self._env_levels = []
        view: dict[str, Any] = {}
        self._cache["env"] = view
        available = functions(run, self._instance)
        for written, added in self._written_env():
            level = split_env(written, self, available)
            level.plain.update(added)
            self._env_levels.append(level)
            view = {**view, **level.plain, **dict.fromkeys(level.texts, _UNSEEN)}
            self._cache["env"] = view
        return view

    def _written_env(self) -> list[tuple[dict[str, Any], dict[str, str]]]:
        """Return (texts of the file, data that steps have added) by name, for each level.

        The workflow and its job are the first, then come groups inside the job, then the step.
        """
        run = self._run
        nodes = run.program.nodes
        written = dict(run.program.plan.env if self.call < 0 else self._called().env)
        added: dict[str, str] = {}
        levels = [(written, added)]
        in_job = False
        for at in reversed(self._around):
            node = nodes[run.locate(at)[0]]
            if isinstance(node, Group | Task) and node.env:
                if in_job or isinstance(node, Task):
                    levels.append((dict(node.env), {}))
                else:
                    written.update(node.env)
            job = run.jobs.get(at)
            if job is not None:
                in_job = True
                added.update(job.env)
        for name in added:
            written.pop(name, None)
        return levels

    def _about(self) -> dict[str, Any]:
        run = self._run
        namespace, name = subjects.split_key(run.key)
        return {
            "id": name,
            "run_id": name,
            "key": run.key,
            "namespace": namespace,
            "workflow": run.workflow,
            "name": run.title or run.workflow,
            "actor": run.actor,
            "job": self._job_name(),
            "event": {"inputs": read(run.input)},
            "priority": run.priority,
            "created_ms": run.created_ms,
            "labels": run.labels,
            "event_name": _begun_by(run),
            "run_attempt": 1,
        }

    def _job_name(self) -> str:
        job = self._run.job_of(self._instance)
        return "" if job < 0 else self._run.program.nodes[self._run.locate(job)[0]].name

    def _job(self) -> dict[str, Any]:
        run = self._run
        state = "success"
        if run.cancelling and not run.undoes(self._instance):
            state = "cancelled"
        elif run.taint[self._instance] & _FAILED_BEFORE:
            state = "failure"
        return {"status": state}

    def _step_view(self, instance: int) -> dict[str, Any]:
        run = self._run
        return {
            "outputs": outputs(run, instance),
            "outcome": outcome(run, instance),
            "conclusion": conclusion(run, instance),
        }

    def _steps(self) -> Mapping[str, Any]:
        levels = self._levels(inside_job=self._run.job_of(self._instance) >= 0)
        node = self._run.program.nodes[self._run.locate(self._instance)[0]]
        if isinstance(node, Group):
            # A group's own `outputs` look at what is inside it.
            own, shift, _ = self._run.locate(self._instance)
            levels.insert(0, (own, shift))
        return _Siblings(self._run, levels, self._step_view)

    def _task_view(self, instance: int) -> dict[str, Any]:
        run = self._run
        found = outputs(run, instance)
        return {
            "outputs": found,
            "output": found.get("result", found),
            "result": conclusion(run, instance),
            "status": status.NAMES[run.status[instance]],
        }

    def _tasks(self) -> Mapping[str, Any]:
        levels = self._levels(inside_job=False)
        own, shift, _ = self._run.locate(self._instance)
        if isinstance(self._run.program.nodes[own], Group):
            levels.insert(0, (own, shift))
        return _Siblings(self._run, levels, self._task_view)

    def _jobs(self) -> Mapping[str, Any]:
        """The jobs of the workflow, for its own outputs."""
        container = self.call if self.call >= 0 else 0
        node, shift, _ = self._run.locate(container)
        return _Siblings(self._run, [(node, shift)], self._need_view)

    def _need_view(self, instance: int) -> dict[str, Any]:
        return {
            "result": conclusion(self._run, instance),
            "outputs": outputs(self._run, instance),
        }

    def _needs(self) -> dict[str, Any]:
        """The needs of the nearest ancestor that has any (a job's, seen from its steps)."""
        run = self._run
        for at in self._around:
            node, shift, _ = run.locate(at)
            found = run.program.nodes[node]
            job = run.program.job[node]
            if run.program.sequence[node] and run.program.plan.dialect == "jobs":
                # A broadcast among steps: what is before it is no need.
                continue
            if found.needs and (job < 0 or job + shift == at):
                names = run.program.nodes
                return {names[n].name: self._need_view(n + shift) for n in found.needs}
        return {}

    def _item(self, variable: str) -> Any:
        for scope in self._scopes():
            node = self._loop_node(scope)
            if (node.variable == variable) or (variable == "matrix" and node.kind == "matrix"):
                return replaced(scope.item, Opaque)
        return {} if variable == "matrix" else None

    def _variables(self) -> list[str]:
        return [self._loop_node(scope).variable for scope in self._scopes()]

    def _variable(self, name: str) -> Any:
        for variable in self._variables():
            if variable.lower() == name.lower():
                return self._item(variable)
        raise KeyError(name)

    def _loop(self) -> dict[str, Any]:
        if self._iteration is not None:
            loop, index = self._iteration
            bases = self._run.iterations.get(loop, ())
            return {"index": index, "previous": self._previous(bases[-1] if bases else -1)}
        scopes = self._scopes()
        if not scopes:
            return {}
        scope = scopes[0]
        if self._loop_node(scope).kind != "repeat":
            return {"index": scope.index, "item": replaced(scope.item, Opaque)}
        base = self._run.iterations[scope.loop][scope.index - 1] if scope.index else -1
        return {"index": scope.index, "previous": self._previous(base)}

    def _previous(self, base: int) -> dict[str, Any]:
        """What the iteration at *base* gave; nothing before the first one."""
        if base < 0:
            return {}
        node, shift, _ = self._run.locate(base)
        levels = [(node, shift)]
        return {
            "outputs": body_outputs(self._run, base),
            "steps": _Siblings(self._run, levels, self._step_view),
            "tasks": _Siblings(self._run, levels, self._task_view),
        }

    def _failure(self) -> dict[str, Any]:
        """What has failed, seen from what handles it: a handler or a compensation."""
        run = self._run
        at = next((at for at in self._around if at in run.handlers), -1)
        if at < 0:
            return {}
        step = run.handlers[at]
        if run.undoes(at):
            saga = run.sagas.get(run.saga_around(step))
            if saga is None or saga.cause < 0:
                kind, _, message = (saga.reason if saga else "").partition(": ")
                if not kind and run.cancelling:
                    kind, message = "cancelled", run.cancel_reason
                return {"step": "", "kind": kind, "error": message, "attempt": 0}
            step = saga.cause
        error = run.errors.get(step)
        return {
            "step": run.path(step),
            "kind": error.type if error is not None else "",
            "error": error.message if error is not None else "",
            "attempt": run.attempt[step],
        }

    def _strategy(self) -> dict[str, Any]:
        for scope in self._scopes():
            node = self._loop_node(scope)
            if node.kind == "matrix":
                outer = Contexts(self._run, scope.loop)
                total = len(self._run.iterations.get(scope.loop, ()))
                available = functions(self._run, scope.loop)
                limit = resolve(node.max_parallel, outer, available)
                return {
                    "job-index": scope.index,
                    "job-total": total,
                    "fail-fast": truthy(resolve(node.fail_fast, outer, available)),
                    "max-parallel": total if limit in (None, "") else limit,
                }
        return {"job-index": 0, "job-total": 1, "fail-fast": True, "max-parallel": 1}


def _begun_by(run: Run) -> str:
    """Return the key of `on:` that has begun a run."""
    if subjects.EVENT_LABEL in run.labels:
        return "event"
    return "schedule" if subjects.TIME_LABEL in run.labels else "workflow_dispatch"


def functions(
    run: Run, instance: int, *, cancelling: bool = False
) -> dict[str, Callable[..., Any]]:
    """Return the status functions at *instance*. `success('job')` looks at that need alone.

    *cancelling*: as if the run were being cancelled.
    """
    taint = run.taint[instance]
    cancelling = (cancelling or run.cancelling) and not run.undoes(instance)

    def named(names: tuple[Any, ...], wanted: str) -> list[bool]:
        contexts = Contexts(run, instance)
        needs = contexts["needs"]
        return [needs.get(to_string(name), {}).get("result") == wanted for name in names]

    def success(*names: Any) -> bool:
        if names:
            return all(named(names, "success")) and not cancelling
        return not taint & 1 and not cancelling

    def failure(*names: Any) -> bool:
        if names:
            return any(named(names, "failure")) and not cancelling
        return bool(taint & _FAILED_BEFORE) and not cancelling

    return {
        "success": success,
        "failure": failure,
        "cancelled": lambda: cancelling,
        "always": lambda: True,
    }


def called_inputs(run: Run, call: int) -> tuple[dict[str, Any], list[str]]:
    """Return the inputs of a called workflow, and what is wrong with them."""
    node = run.program.nodes[run.locate(call)[0]]
    assert isinstance(node, Group)
    assert node.call is not None
    given = resolve(node.call.given, Contexts(run, call), functions(run, call))
    found, problems = fit_inputs(node.call.inputs, given)
    return found, [problem.message for problem in problems]


def secret_levels(run: Run, call: int) -> list[list[Any]]:
    """Return ``[texts, what they read]`` of each call that names its secrets, outermost first."""
    levels: list[list[Any]] = []
    while call >= 0:
        node = run.program.nodes[run.locate(call)[0]]
        assert isinstance(node, Group)
        assert node.call is not None
        outer = Contexts(run, call)
        if node.call.secrets is not None:
            read: dict[str, Any] = {}
            texts = resolve_for_worker(
                node.call.secrets, outer, functions(run, call), read, (), texts=True
            )
            levels.append([texts, read])
        call = outer.call
    levels.reverse()
    return levels


_UNSEEN = Opaque()


def task_env(contexts: Contexts, deferred: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a task as far as it is known: what is not is in *deferred*."""
    assert contexts["env"] is not None
    levels = contexts.env_levels()
    defer_env(contexts, deferred)
    known: dict[str, str] = {}
    for level in levels:
        known.update(level.plain)
        for name in level.texts:
            known.pop(name, None)
    return known
