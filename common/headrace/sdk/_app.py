"""`App`: the steps and workflows that are deployed together, under one version."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, Final, Literal, ParamSpec, Protocol, TypeVar, overload

from headrace.errors import InvalidRequest
from headrace.messages import subjects
from headrace.sdk._context import Context
from headrace.sdk._durations import Duration
from headrace.sdk._remote import remote_workflow
from headrace.sdk._retry import Retry
from headrace.sdk._step import (
    AsyncStep,
    Effect,
    Key,
    Kind,
    Step,
    SyncStep,
    make_step,
    step_options,
)
from headrace.sdk._workflow import Workflow

P = ParamSpec("P")
R = TypeVar("R")

VERSION_CHARS_MAX: Final = 64


class App:
    """A namespace of steps and workflows. Its runs pin *version*: raise it for changes that live
    runs must not see; a worker may serve several versions at the same time."""

    def __init__(self, name: str, version: str = "1") -> None:
        """Raises `InvalidRequest` for a name or version that holds other characters."""
        if not subjects.valid_name(name):
            raise InvalidRequest(f"not an app's name: {name!r} (letters, digits, - and _)")
        if not subjects.valid_name(version.replace(".", "-")) or len(version) > VERSION_CHARS_MAX:
            raise InvalidRequest(f"not a version: {version!r} (letters, digits, '.', - and _)")
        self.name, self.version = name, version
        self.steps: dict[str, Step[Any, Any]] = {}
        self.workflows: dict[str, Workflow[Any, Any]] = {}

    def __repr__(self) -> str:
        return f"<app {self.name}@{self.version}>"

    @property
    def capability(self) -> str:
        """What a worker offers that has this app in this version."""
        return f"app:{self.name}@{self.version}"

    # -- steps ---------------------------------------------------------------------------------

    @overload
    def step(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncStep[P, R]: ...
    @overload
    def step(self, function: Callable[P, R], /) -> SyncStep[P, R]: ...
    @overload
    def step(
        self,
        *,
        name: str = "",
        key: Key | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        schedule_timeout: Duration | None = None,
        effect: Effect = "at-least-once",
        runs_on: tuple[str, ...] = (),
        kind: Literal["process", "thread"],
    ) -> _SyncDecorator: ...
    @overload
    def step(
        self,
        *,
        name: str = "",
        key: Key | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        schedule_timeout: Duration | None = None,
        effect: Effect = "at-least-once",
        runs_on: tuple[str, ...] = (),
        kind: Literal["async"] | None = None,
    ) -> _Decorator: ...
    def step(
        self,
        function: Any = None,
        *,
        name: str = "",
        key: Key | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        schedule_timeout: Duration | None = None,
        effect: Effect = "at-least-once",
        runs_on: tuple[str, ...] = (),
        kind: Kind | None = None,
    ) -> Any:
        """Make a function a step: ``@app.step`` or ``@app.step(retry=Retry(5), timeout=30)``.

        An async function runs on the worker's event loop, a plain one in a thread, with
        ``kind="process"`` in a process of its own. *retry*: None is one attempt. *timeout*: of one
        attempt, from start to end; *heartbeat_timeout*: between two heartbeats of it;
        *schedule_timeout*: until it starts. All are seconds or a `timedelta`, and None is no limit;
        an attempt that is over one fails with the type `timeout` (of its start:
        `schedule-timeout`). ``effect="at-most-once"`` claims the step in the log before it runs;
        when its worker is lost, it is never run again, and the workflow sees `EffectUnknown`.
        *runs_on*: labels of other workers; the step is then a run of its own there, which may have
        to wait for its start. *key*: stable name in the journal
        instead of *name* with a number, or a function of the step's arguments. Raises
        `InvalidRequest` for options that do not fit, and for a name that is taken.
        """
        options = step_options(
            key=key,
            retry=retry,
            timeout=timeout,
            heartbeat_timeout=heartbeat_timeout,
            schedule_timeout=schedule_timeout,
            effect=effect,
            runs_on=runs_on,
        )

        def mark(function: Callable[..., Any]) -> Step[Any, Any]:
            called = name or function.__name__
            made = make_step(
                function,
                app=self.name,
                version=self.version,
                name=called,
                kind=kind,
                options=options,
            )
            self._claim(called, self.steps)
            self.steps[called] = made
            return made

        return mark if function is None else mark(function)

    # -- workflows -----------------------------------------------------------------------------

    @overload
    def workflow(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]: ...
    @overload
    def workflow(
        self,
        *,
        name: str = "",
        timeout: Duration | None = None,
        cancel_timeout: Duration | None = None,
    ) -> _WorkflowDecorator: ...
    def workflow(
        self,
        function: Any = None,
        *,
        name: str = "",
        timeout: Duration | None = None,
        cancel_timeout: Duration | None = None,
    ) -> Any:
        """Make an async function, whose first parameter is a `Context`, a workflow.

        *timeout*: of a whole run, in seconds or as a `timedelta`. *cancel_timeout*: how long the
        function may clean up after a cancel; then its run is CANCELLED without it. None, the
        default: as long as it takes, for a cancel asks; a second one ends the run at once. Raises
        `InvalidRequest` for what is no async function with a `Context`, and for a name that is
        taken.
        """

        def mark(function: Callable[..., Any]) -> Workflow[Any, Any]:
            called = name or function.__name__
            self._claim(called, self.workflows)
            made: Workflow[Any, Any] = Workflow(
                function,
                app=self.name,
                version=self.version,
                name=called,
                timeout=timeout,
                cancel_timeout=cancel_timeout,
            )
            made.owner = self
            self.workflows[called] = made
            return made

        return mark if function is None else mark(function)

    # -- for workers ---------------------------------------------------------------------------

    @functools.cached_property
    def remote(self) -> Workflow[Any, Any]:
        """What runs a step for a workflow that runs elsewhere."""
        return remote_workflow(self.steps, app=self.name, version=self.version)

    def _claim(self, name: str, taken: Mapping[str, object]) -> None:
        if not subjects.valid_name(name):
            raise InvalidRequest(f"not a name: {name!r} (letters, digits, - and _)")
        if name in taken:
            raise InvalidRequest(f"app {self.name} has two functions called {name!r}")


class _Decorator(Protocol):
    """``@app.step(…)``, as a type checker sees it."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncStep[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncStep[P, R]: ...


class _SyncDecorator(Protocol):
    """``@app.step(kind="process")``, as a type checker sees it."""

    def __call__(self, function: Callable[P, R], /) -> SyncStep[P, R]:
        """Make *function* a step."""
        ...


class _WorkflowDecorator(Protocol):
    """``@app.workflow(…)``, as a type checker sees it."""

    def __call__(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]:
        """Make *function* a workflow."""
        ...
