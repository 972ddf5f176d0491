"""`Context`: all that a workflow function may do."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, ParamSpec, TypeAlias, TypeVar, cast, overload

from headrace.errors import InvalidRequest
from headrace.messages import LabelsSet, subjects
from headrace.plan import Plan
from headrace.sdk import _elsewhere
from headrace.sdk._durations import Duration, to_ms
from headrace.sdk._emit import pieces
from headrace.sdk._entries import Signal, Sleep, StepRun, Value
from headrace.sdk._execution import ContinueAsNew, Execution
from headrace.sdk._log import WorkflowLog
from headrace.sdk._operation import Branch, Condition, Operation, Parallel, parse_join
from headrace.sdk._retry import Retry
from headrace.sdk._step import Step
from headrace.sdk._workflow import Workflow

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")

Awaited: TypeAlias = Operation[T] | Coroutine[Any, Any, T]
"""What can run in parallel: an operation, or a coroutine of the user's own."""

_ABSENT: Final[Any] = object()


class Context:
    """First parameter of a workflow function. Everything here is replayed as it was recorded."""

    __slots__ = ("_compensations", "_execution", "_log", "labels", "run_id")

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.run_id = subjects.split_key(execution.run)[1]
        self._log: WorkflowLog | None = None
        self.labels: dict[str, str] = {}
        """Those that this function has set."""
        self._compensations: list[tuple[Step[Any, Any], tuple[Any, ...], dict[str, Any]]] = []

    @property
    def log(self) -> WorkflowLog:
        """A `logging.Logger` that is silent while the function is replayed."""
        if self._log is None:
            self._log = WorkflowLog(self._execution)
        return self._log

    # -- work ----------------------------------------------------------------------------------

    def step(self, step: Step[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Operation[R]:
        """Run *step*, and record its result; recorded, it is never run again.

        Raises, when awaited, `StepFailed` once its retries are used up, `EffectUnknown` for an
        at-most-once step whose worker was lost. Its key in the journal is the step's name with a
        number, or that of ``step.options(key=…)``.
        """
        return _run(self._execution, step, args, kwargs)

    def call(
        self,
        runs_on: str | Sequence[str],
        handler: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        result: Callable[..., T] | type[T] = _ABSENT,
        key: str = "",
        retry: Retry | None = None,
        timeout: Duration | None = None,
        schedule_timeout: Duration | None = None,
    ) -> Operation[T]:
        """Run a handler (`http/request`, `shell`, one of a plug-in) on a worker with *runs_on*.

        *runs_on*: labels, all of which the worker must offer. Its outputs (a dict) are the result,
        as *result* if that is given. *timeout*: of one attempt, *schedule_timeout*: until it
        starts, in seconds or as a `timedelta`. Raises, when awaited, `ChildFailed`.
        """
        return _elsewhere.call(
            self._execution,
            (runs_on,) if isinstance(runs_on, str) else tuple(runs_on),
            handler,
            dict(inputs or {}),
            result=Any if result is _ABSENT else result,
            key=key,
            retry=retry,
            timeout_ms=to_ms(timeout) if timeout is not None else 0,
            schedule_timeout_ms=to_ms(schedule_timeout) if schedule_timeout is not None else 0,
        )

    def child(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Operation[R]:
        """Run another workflow as a run of its own, and wait for its result.

        ``workflow.options(id=…)`` names it. When it is not awaited any more, it is cancelled.
        Raises, when awaited, `ChildFailed`.
        """
        return _elsewhere.child(self._execution, workflow, args, kwargs, detached=False)

    def start_child(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Operation[str]:
        """Begin another workflow that goes on by itself; the result, awaited, is its run id.

        Raises `InvalidRequest` for an id with other characters than letters, digits, - and _.
        """
        return _elsewhere.child(self._execution, workflow, args, kwargs, detached=True)

    def run_plan(
        self, plan: Plan | str, inputs: Mapping[str, Any] | None = None, *, key: str = ""
    ) -> Operation[Any]:
        """Run a graph that was made just now: a `Plan`, or the YAML of a workflow.

        It is checked first. Raises, when awaited, `InvalidDefinition` with all that is wrong with
        it, and `ChildFailed`.
        """
        return _elsewhere.run_plan(self._execution, plan, dict(inputs or {}), key=key)

    # -- several at a time ---------------------------------------------------------------------

    @overload
    def parallel(self, first: Awaited[T1], second: Awaited[T2], /) -> Operation[tuple[T1, T2]]: ...
    @overload
    def parallel(
        self, first: Awaited[T1], second: Awaited[T2], third: Awaited[T3], /
    ) -> Operation[tuple[T1, T2, T3]]: ...
    @overload
    def parallel(
        self, first: Awaited[T1], second: Awaited[T2], third: Awaited[T3], fourth: Awaited[T4], /
    ) -> Operation[tuple[T1, T2, T3, T4]]: ...
    @overload
    def parallel(
        self,
        members: Iterable[Awaited[T]],
        /,
        *,
        join: str | int = "all",
        max_parallel: int | None = None,
    ) -> Operation[list[T]]: ...
    def parallel(
        self, *members: Any, join: str | int = "all", max_parallel: int | None = None
    ) -> Operation[Any]:
        """Run several operations, or coroutines of your own, at the same time.

        ``await ctx.parallel([ctx.step(a), ctx.step(b)])`` gives their results in their order (as a
        tuple without the list, and each with its own type); the first failure is raised, and the
        others are dropped. *join*: ``"any"``, a number, or a share such as ``"60%"`` of them must
        succeed; then the results are those of the ones that have, in their order, and the rest is
        dropped. Raises, when awaited, `JoinFailed` when too few can. *max_parallel*: so many run at
        a time.
        """
        if len(members) == 1 and not isinstance(members[0], Operation | Coroutine):
            return self._parallel("parallel", list(members[0]), join, max_parallel)
        return self._parallel("parallel", list(members), join, max_parallel, shape=tuple)

    @overload
    def map(
        self,
        function: Step[[T1], R],
        items: Iterable[T1],
        /,
        *,
        join: str | int = "all",
        max_parallel: int | None = None,
    ) -> Operation[list[R]]: ...
    @overload
    def map(
        self,
        function: Callable[[T1], Awaited[R]],
        items: Iterable[T1],
        /,
        *,
        join: str | int = "all",
        max_parallel: int | None = None,
    ) -> Operation[list[R]]: ...
    def map(
        self,
        function: Any,
        items: Iterable[Any],
        /,
        *,
        join: str | int = "all",
        max_parallel: int | None = None,
    ) -> Operation[Any]:
        """Run a step, or an async function of your own, for each item; see `parallel`."""
        if isinstance(function, Step):
            members: list[Any] = [self.step(function, item) for item in items]
        else:
            members = [function(item) for item in items]
        return self._parallel("map", members, join, max_parallel)

    def _parallel(
        self,
        name: str,
        row: list[Any],
        join: str | int,
        max_parallel: int | None,
        shape: type[list[Any] | tuple[Any, ...]] = list,
    ) -> Operation[Any]:
        if max_parallel is not None and max_parallel < 1:
            raise InvalidRequest(f"max_parallel: 1 or more, not {max_parallel}")
        key = self._execution.key(name)
        members: list[Operation[Any]] = []
        for index, member in enumerate(row):
            if isinstance(member, Operation):
                members.append(member)
            elif isinstance(member, Coroutine):
                members.append(Branch(self._execution, f"{key}/{index}", member))
            else:
                raise InvalidRequest(f"{name} takes operations and coroutines, not {member!r}")
        parsed = parse_join(join, len(members))
        return Parallel(self._execution, key, members, parsed, max_parallel or 0, shape)

    # -- waiting -------------------------------------------------------------------------------

    def sleep(self, duration: Duration) -> Operation[None]:
        """Wait for a time: seconds, a `timedelta`, ``days(3)``. It holds no worker.

        Raises `InvalidRequest` for a time that is negative, no number, or over a century.
        """
        key = self._execution.key("sleep")
        return Sleep(self._execution, key, duration_ms=to_ms(duration))

    def sleep_until(self, moment: datetime) -> Operation[None]:
        """Wait until *moment*; one that has passed is no wait. It holds no worker.

        Raises `InvalidRequest` for a moment without a time zone.
        """
        if moment.tzinfo is None:
            raise InvalidRequest("sleep_until: the moment has no time zone")
        key = self._execution.key("sleep")
        until_ms = max(int(moment.timestamp() * 1_000), 1)
        return Sleep(self._execution, key, until_ms=until_ms)

    @overload
    def signal(
        self, name: str, kind: type[T], /, *, timeout: Duration | None = None,
        correlation_key: str = "", key: str = "",
    ) -> Operation[T]: ...  # fmt: skip
    @overload
    def signal(
        self, name: str, kind: type[T], /, *, timeout: Duration | None = None, default: T,
        correlation_key: str = "", key: str = "",
    ) -> Operation[T]: ...  # fmt: skip
    @overload
    def signal(
        self, name: str, /, *, timeout: Duration | None = None, default: Any = ...,
        correlation_key: str = "", key: str = "",
    ) -> Operation[Any]: ...  # fmt: skip
    def signal(
        self,
        name: str,
        kind: Any = Any,
        /,
        *,
        timeout: Duration | None = None,
        default: Any = _ABSENT,
        correlation_key: str = "",
        key: str = "",
    ) -> Operation[Any]:
        """Wait for the next signal *name*, one that came before included; its payload as *kind*.

        After *timeout* (seconds or a `timedelta`; None: no limit) the result is *default*; without
        one, awaiting raises `SignalTimeout`. It raises `SignalInvalid` when the payload is no
        *kind*. With a *correlation_key* only a signal that names the same one is taken. *key*: its
        name in the journal, by default of *name* and a number.
        """
        if not subjects.valid_name(name):
            raise InvalidRequest(f"not a signal name: {name!r} (letters, digits, - and _)")
        return Signal(
            self._execution,
            key or self._execution.key(f"signal:{name}"),
            name,
            kind,
            timeout_ms=to_ms(timeout) if timeout is not None else 0,
            default=None if default is _ABSENT else (default,),
            correlation_key=correlation_key,
        )

    def on_signal(self, name: str, function: Callable[[Any], None], kind: Any = Any) -> None:
        """Call *function* with the payload of each signal *name* from now on, in their order.

        For conditions over several signals: see `wait_until`.
        """

        async def listen() -> None:
            while True:
                function(await self.signal(name, kind))

        execution = self._execution
        execution.begin_strand(listen(), f"on:{name}/", execution.listener_ended)

    def wait_until(
        self, predicate: Callable[[], bool], *, timeout: Duration | None = None
    ) -> Operation[bool]:
        """Wait until *predicate* holds: looked at after each thing that happens to the function.

        The result is False when *timeout* (seconds or a `timedelta`; None: no limit) came first.
        What *predicate* raises is raised here; it must change nothing, and wait for nothing.
        """
        key = self._execution.key("wait_until")
        limit = None
        if timeout is not None:
            limit = Sleep(self._execution, key, duration_ms=to_ms(timeout))
        return Condition(self._execution, key, predicate, limit)

    # -- being asked ---------------------------------------------------------------------------

    def query(self, name: str, function: Callable[..., Any]) -> None:
        """Answer query *name* by *function*, of one argument or none, which changes nothing.

        The argument is read as its annotation says; the answer is any value that a step may
        return. What *function* raises goes to who asked, as `Conflict`; the run goes on.
        """
        self._execution.handlers.add_query(name, function)

    def update(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        validate: Callable[..., Any] | None = None,
    ) -> None:
        """Carry out update *name* by *function*, plain or async, with one argument or none.

        *validate*, with the same argument, may refuse it by raising before anything is done. What
        *validate* or *function* raise goes to who asked, as `Conflict`; the run goes on. *function*
        may wait for steps and all else that the workflow may.
        """
        self._execution.handlers.add_update(name, function, validate)

    # -- time, chance, values ------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the workflow's time: of the last thing that has happened to it, in UTC."""
        return datetime.fromtimestamp(self._execution.now_ms / 1_000, UTC)

    def random(self, *, key: str = "") -> random.Random:
        """Return a source of chance that is the same in each replay."""
        return random.Random(self._seed("random", key))

    def uuid(self, *, key: str = "") -> uuid.UUID:
        """Return a UUID that is the same in each replay."""
        return uuid.UUID(bytes=self._seed("uuid", key), version=4)

    def _seed(self, name: str, key: str) -> bytes:
        execution = self._execution
        text = f"{execution.run}\0{execution.generation}\0{key or execution.key(name)}\0{name}"
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def memo(self, name: str, compute: Callable[[], T]) -> Operation[T]:
        """Compute a value once, and record it: for what would differ in a replay.

        *compute* runs in the workflow function: it must be quick, and is not tried again. What it
        raises is raised, when awaited, and not recorded.
        """
        return Value(self._execution, self._execution.key(f"memo:{name}"), name, compute)

    def patched(self, name: str) -> bool:
        """Tell whether this run goes the new way of a change called *name*.

        True for runs that come here for the first time, False for those that were past this place
        before the change; the answer stays the same for a run. Only for changes that stable keys
        cannot absorb.
        """
        return self._execution.patched(name)

    # -- telling -------------------------------------------------------------------------------

    def set_label(self, name: str, value: str) -> None:
        """Set a label of the run: lists filter by it."""
        self.labels[name] = value
        if not self._execution.replaying:
            self._execution.change(LabelsSet({name: value}))

    def emit(self, value: Any, *, stream: str = "progress") -> None:
        """Tell who follows the run something (progress, tokens): `Handle.stream`.

        It is in no journal, and told once, or again after the loss of a worker. In a step it is
        ``step_info().emit(…)``. Raises `InvalidRequest` for what has no form in JSON.
        """
        for name, text in pieces(value, stream):
            self._execution.log(name, text)

    # -- ends ----------------------------------------------------------------------------------

    def compensate(self, step: Step[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run *step* if the workflow fails or is cancelled later; the newest first.

        They are durable steps, with their own retries. One that fails does not keep the others
        from running.
        """
        self._compensations.append((step, args, kwargs))

    def continue_as_new(
        self, workflow: Workflow[P, Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> NoReturn:
        """End here, and run *workflow* (this one) again with new inputs and an empty journal.

        The run keeps its id. Raises `InvalidRequest` for another workflow, and for inputs that do
        not fit.
        """
        if workflow.name != self._execution.workflow.rpartition("/")[2]:
            raise InvalidRequest(f"a run continues as its own workflow, not as {workflow.name}")
        raise ContinueAsNew(workflow.signature.as_map(args, kwargs))

    async def undo(self) -> Sequence[Exception]:
        """Run what was registered by `compensate` now, the newest first; return what failed."""
        failures: list[Exception] = []
        while self._compensations:
            step, args, kwargs = self._compensations.pop()
            try:
                await _run(self._execution, step, args, kwargs, prefix="compensate:")
            except Exception as error:
                failures.append(error)
        return failures


def _run(
    execution: Execution,
    step: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    prefix: str = "",
) -> Operation[Any]:
    if not isinstance(cast("object", step), Step):
        raise InvalidRequest(f"{step!r} is not a step: mark the function with @app.step")
    key: Any = step.options_.key
    if key is not None and not isinstance(key, str):
        key = str(key(*args, **kwargs))
    if key is None or prefix:
        key = execution.key(prefix + (key or step.name))
    if step.options_.runs_on:
        return _elsewhere.step(execution, key, step, args, dict(kwargs))
    packed = step.signature.packed(args, kwargs)
    return StepRun(execution, key, step, args, dict(kwargs), packed)
