"""Steps: functions whose results are recorded."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, Literal, ParamSpec, Self, TypeAlias, TypeVar, cast

import msgspec

from headrace.errors import InvalidRequest
from headrace.sdk._durations import Duration, to_ms
from headrace.sdk._retry import Retry
from headrace.sdk._running import refuse_direct_call
from headrace.sdk._signature import Signature

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

Kind: TypeAlias = Literal["async", "thread", "process"]
Effect: TypeAlias = Literal["at-least-once", "at-most-once"]
Key: TypeAlias = str | Callable[..., str]
"""A key, or what makes it of the step's arguments."""


class StepOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a step is run."""

    retry: Retry | None = None
    """None: one attempt."""
    timeout_ms: int = 0
    """Longest attempt, from start to end; 0: none."""
    heartbeat_timeout_ms: int = 0
    """Longest time between two heartbeats of an attempt; 0: none."""
    schedule_timeout_ms: int = 0
    """Longest wait until an attempt starts; 0: none."""
    effect: Effect = "at-least-once"
    runs_on: tuple[str, ...] = ()
    """Labels of workers elsewhere; empty: it runs where the workflow function runs."""
    key: Key | None = None


class Step(Generic[P, R_co]):
    """A step; made by `App.step`. Called directly it is the plain function, for tests."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        app: str,
        version: str,
        name: str,
        kind: Kind,
        options: StepOptions,
    ) -> None:
        self.function, self.app, self.version = function, app, version
        self.name, self.kind = name, kind
        self.options_ = options
        self.signature = Signature(function)
        self.reference = f"{function.__module__}:{function.__qualname__}"
        """Where another process finds it."""
        functools.update_wrapper(cast(Any, self), function)

    def __repr__(self) -> str:
        return f"<step {self.app}/{self.name}>"

    def options(
        self,
        *,
        key: Key | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        schedule_timeout: Duration | None = None,
        effect: Effect | None = None,
        runs_on: tuple[str, ...] | None = None,
    ) -> Self:
        """Return this step with other options, for one call of it or for several.

        ``await ctx.step(charge.options(key=f"charge-{order.id}"), order)``
        """
        changed = step_options(
            base=self.options_,
            key=key,
            retry=retry,
            timeout=timeout,
            heartbeat_timeout=heartbeat_timeout,
            schedule_timeout=schedule_timeout,
            effect=effect,
            runs_on=runs_on,
        )
        other = copy.copy(self)
        other.options_ = changed
        return other


class AsyncStep(Step[P, R_co]):
    """A step that is a coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call the plain function. Raises `InvalidRequest` in a workflow function."""
        refuse_direct_call(self.name)
        called: Coroutine[Any, Any, R_co] = self.function(*args, **kwargs)
        return called


class SyncStep(Step[P, R_co]):
    """A step that is a plain function: run in a thread, or in a process."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the plain function. Raises `InvalidRequest` in a workflow function."""
        refuse_direct_call(self.name)
        result: R_co = self.function(*args, **kwargs)
        return result


def step_options(
    *,
    base: StepOptions | None = None,
    key: Key | None,
    retry: Retry | None,
    timeout: Duration | None,
    heartbeat_timeout: Duration | None,
    schedule_timeout: Duration | None,
    effect: Effect | None,
    runs_on: tuple[str, ...] | None,
) -> StepOptions:
    """Return *base* (by default the defaults) with what is given. Raises `InvalidRequest`."""
    if isinstance(runs_on, str):
        raise InvalidRequest(f"runs_on is a tuple of labels: ({runs_on!r},)")
    if effect not in (None, *_EFFECTS):
        raise InvalidRequest(f"effect is one of {', '.join(_EFFECTS)}, not {effect!r}")
    changes: dict[str, Any] = {
        "key": key,
        "retry": retry,
        "timeout_ms": None if timeout is None else to_ms(timeout),
        "heartbeat_timeout_ms": None if heartbeat_timeout is None else to_ms(heartbeat_timeout),
        "schedule_timeout_ms": None if schedule_timeout is None else to_ms(schedule_timeout),
        "effect": effect,
        "runs_on": runs_on,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    base = base or StepOptions()
    return msgspec.structs.replace(base, **given) if given else base


def make_step(
    function: Callable[..., Any],
    *,
    app: str,
    version: str,
    name: str,
    kind: Kind | None,
    options: StepOptions,
) -> AsyncStep[Any, Any] | SyncStep[Any, Any]:
    """Return the step that *function* is. Raises `InvalidRequest` for a kind it cannot be."""
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidRequest(f"step {name} yields: a step returns its result, and emits the rest")
    is_async = inspect.iscoroutinefunction(function)
    kind = kind or ("async" if is_async else "thread")
    if is_async != (kind == "async"):
        text = "an async function" if is_async else "a plain function"
        raise InvalidRequest(f"step {name} is {text}: it cannot be of kind {kind!r}")
    if kind == "process" and "<locals>" in function.__qualname__:
        raise InvalidRequest(f"step {name} runs in a process: define it at the top of its module")
    cls = AsyncStep if is_async else SyncStep
    return cls(function, app=app, version=version, name=name, kind=kind, options=options)


_EFFECTS: Final = ("at-least-once", "at-most-once")
