"""What an expression sees from a place in a run: `inputs`, `env`, `steps`, `needs`, `matrix`, …

Built when asked for, name by name: an expression that reads one task's output costs the same in
a plan of ten nodes and of ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from headrace.coordinator.core import program as kinds
from headrace.coordinator.core import status
from headrace.coordinator.core.deferral import PLACES, resolve_for_worker
from headrace.coordinator.core.state import EMPTY_MAP, Run
from headrace.expressions import Opaque, to_string
from headrace.messages import subjects
from headrace.payloads import BLOB_KEY, replaced
from headrace.plan import Choice, Group, Loop, Task

_decode = msgspec.msgpack.Decoder().decode

RESULTS = {
    status.COMPLETED: "success",
    status.FAILED: "failure",
    status.UNKNOWN: "failure",
    status.CANCELLED: "cancelled",
    status.SKIPPED: "skipped",
}
_FAILED_BEFORE = 2


def outcome(run: Run, instance: int) -> str:
    """Return `success failure cancelled skipped`, or "" while it has not ended."""
    if instance in run.errors and run.status[instance] == status.SKIPPED:
        # Its policy made it count as skipped.
        return "failure"
    if instance in run.held:
        return "failure"
    return RESULTS.get(run.status[instance], "")


def conclusion(run: Run, instance: int) -> str:
    """Return the outcome after `continue-on-error`."""
    if instance in run.tolerated:
        return "success"
    return RESULTS.get(run.status[instance], "")


def _read(data: bytes) -> Any:
    """Decode outputs or inputs; what lies in the object store can only be passed on."""
    value = _decode(data)
    return replaced(value, Opaque) if BLOB_KEY in data else value


def outputs(run: Run, instance: int) -> dict[str, Any]:
    """Return the outputs of *instance* as a JSON object.

    A matrix merges its legs (the last one in order wins, as on GitHub); a `for-each` has
    ``results``, one object of outputs an item, in the order of the items.
    """
    node, _, _ = run.locate(instance)
    found = run.program.nodes[node]
    if isinstance(found, Loop):
        bases = run.iterations.get(instance, ())
        if found.kind == "matrix":
            merged: dict[str, Any] = {}
            for base in bases:
                merged.update({k: v for k, v in outputs(run, base).items() if v not in (None, "")})
            return merged
        return {"results": [body_outputs(run, base) for base in bases]}
    if isinstance(found, Choice):
        return _chosen(run, instance)
    value = _read(run.outputs.get(instance, EMPTY_MAP))
    return value if isinstance(value, dict) else {"result": value}


def _chosen(run: Run, instance: int) -> dict[str, Any]:
    """Return what the branch gave that ran."""
    node, shift, _ = run.locate(instance)
    for child in run.program.children[node]:
        if run.status[child + shift] == status.COMPLETED:
            given = body_outputs(run, child + shift)
            return given if isinstance(given, dict) else {"result": given}
    return {}


def body_outputs(run: Run, instance: int) -> Any:
    """Return what one iteration gives: its own outputs, its only task's, or all tasks' by name."""
    node, shift, _ = run.locate(instance)
    own = outputs(run, instance)
    children = run.program.children[node]
    if own or not children or isinstance(run.program.nodes[node], Loop):
        return own
    if len(children) == 1:
        return body_outputs(run, children[0] + shift)
    return {run.program.nodes[c].name: body_outputs(run, c + shift) for c in children}


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
    """The contexts at *instance* of *run*.

    *iteration*: (repetition, index) of the iteration that a repetition's condition is about.
    """

    def __init__(
        self, run: Run, instance: int, *, iteration: tuple[int, int] | None = None
    ) -> None:
        self._run, self._instance, self._iteration = run, instance, iteration
        self._cache: dict[str, Any] = {}
        self.secret_env: list[str] = []
        """Names in `env` that only the worker can evaluate; known once `env` was asked for."""
        self._builders: dict[str, Callable[[], Any]] = {
            "inputs": self._inputs,
            "env": self._env,
            "vars": lambda: run.program.plan.vars,
            "run": self._about,
            "github": self._about,
            "job": self._job,
            "steps": self._steps,
            "tasks": self._tasks,
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

    def _ancestors(self) -> list[int]:
        """Instances around this one, itself first."""
        found: list[int] = []
        at = self._instance
        while at >= 0:
            found.append(at)
            at = self._run.parent(at)
        return found

    def _levels(self, *, inside_job: bool) -> list[tuple[int, int]]:
        """(container node, shift) from the inside out; within the job only, or beyond it."""
        run = self._run
        job = run.job_of(self._instance)
        levels: list[tuple[int, int]] = []
        if inside_job and job == self._instance:
            return levels
        seen_job = job < 0 or job == self._instance
        for container in self._ancestors()[1:]:
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
        for at in self._ancestors():
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
        return _read(self._run.input)

    def _env(self) -> dict[str, Any]:
        run = self._run
        merged: dict[str, Any] = dict(run.program.plan.env)
        for at in reversed(self._ancestors()):
            node = run.program.nodes[run.locate(at)[0]]
            if isinstance(node, Group):
                merged.update(node.env)
                job = run.jobs.get(at)
                if job is not None:
                    merged.update(job.env)
        # `env` may itself hold expressions; they see everything but `env`. Secrets stay as they
        # are written: only the worker knows them.
        self._cache["env"] = {}
        noted: dict[str, Any] = {}
        resolved: dict[str, Any] = resolve_for_worker(
            merged, self, functions(run, self._instance), noted, (), texts=True
        )
        self.secret_env = [str(place[0]) for place in noted.get(PLACES, ())]
        return resolved

    def _about(self) -> dict[str, Any]:
        run = self._run
        namespace, name = subjects.split_key(run.key)
        return {
            "id": name,
            "run_id": name,
            "key": run.key,
            "namespace": namespace,
            "workflow": run.workflow,
            "priority": run.priority,
            "created_ms": run.created_ms,
            "labels": run.labels,
            "event_name": "workflow_dispatch",
            "run_attempt": 1,
            "run_number": 1,
        }

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

    def _need_view(self, instance: int) -> dict[str, Any]:
        return {
            "result": conclusion(self._run, instance),
            "outputs": outputs(self._run, instance),
        }

    def _needs(self) -> dict[str, Any]:
        """The needs of the nearest ancestor that has any (a job's, seen from its steps)."""
        run = self._run
        for at in self._ancestors():
            node, shift, _ = run.locate(at)
            found = run.program.nodes[node]
            job = run.program.job[node]
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
        at = next((at for at in self._ancestors() if at in run.handlers), -1)
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
                return {
                    "job-index": scope.index,
                    "job-total": len(self._run.iterations.get(scope.loop, ())),
                    "fail-fast": node.fail_fast,
                    "max-parallel": node.max_parallel,
                }
        return {}


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


def task_env(
    run: Run, instance: int, contexts: Contexts, deferred: dict[str, Any]
) -> dict[str, str]:
    """Return the environment of a task: the plan's, the groups' around it, the job's, its own."""
    node = run.program.nodes[run.locate(instance)[0]]
    assert isinstance(node, Task)
    status_functions = functions(run, instance)
    merged: dict[str, Any] = dict(contexts["env"])
    for name in contexts.secret_env:
        # Written with a secret further out: it is the worker's to evaluate, here too.
        place = ("env", name)
        resolve_for_worker(merged[name], contexts, status_functions, deferred, place, texts=True)
    if node.env:
        own = resolve_for_worker(
            node.env, contexts, status_functions, deferred, ("env",), texts=True
        )
        merged.update(own)
    return {name: to_string(value) for name, value in merged.items()}
