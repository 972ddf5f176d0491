"""`Workflow`: a function that is run durably, and how it is started."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

import msgspec

from headrace.errors import InvalidRequest
from headrace.plan import Plan, encode_plan
from headrace.sdk._durations import Duration, to_ms
from headrace.sdk._plans import code_plan
from headrace.sdk._signature import Signature

if TYPE_CHECKING:
    from headrace.sdk._app import App
    from headrace.sdk._client import Client, Handle
    from headrace.sdk._context import Context

P = ParamSpec("P")

R_co = TypeVar("R_co", covariant=True)
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")


class WorkflowOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a run of it is started."""

    id: str = ""
    """Run id; empty: one is made."""
    key: str = ""
    """In the journal of a parent."""
    labels: dict[str, str] = {}
    priority: int = 0


class StartOptions(TypedDict, total=False):
    """How a run is started, beside the inputs; see `Workflow.options`."""

    id: str
    labels: Mapping[str, str]
    priority: int


class Workflow(Generic[P, R_co]):
    """A workflow; made by `App.workflow`. Called directly it is the plain function."""

    def __init__(
        self,
        function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R_co]],
        *,
        app: str,
        version: str,
        name: str,
        timeout: Duration | None = None,
        cancel_timeout: Duration | None = None,
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            raise InvalidRequest(f"workflow {name} is not an async function")
        if not inspect.signature(function).parameters:
            raise InvalidRequest(f"workflow {name} takes no Context")
        self.function, self.app, self.version, self.name = function, app, version, name
        self.timeout_ms = to_ms(timeout) if timeout is not None else None
        self.cancel_timeout_ms = to_ms(cancel_timeout) if cancel_timeout is not None else None
        self.signature = Signature(function, skip=1)
        self.options_ = WorkflowOptions()
        self.owner: App | None = None
        """The app that it belongs to."""
        functools.update_wrapper(cast(Any, self), function)

    def __repr__(self) -> str:
        return f"<workflow {self.uses}>"

    def __call__(
        self, ctx: Context, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R_co]:
        """Call the plain function: a part of another workflow, in the same journal."""
        called: Coroutine[Any, Any, R_co] = self.function(ctx, *args, **kwargs)
        return called

    @property
    def uses(self) -> str:
        """``app@version/name``: what a task of it names."""
        return f"{self.app}@{self.version}/{self.name}"

    @functools.cached_property
    def plan(self) -> Plan:
        """The plan of its runs."""
        return code_plan(
            app=self.app,
            version=self.version,
            name=self.name,
            timeout_ms=self.timeout_ms,
            cancel_timeout_ms=self.cancel_timeout_ms,
        )

    @functools.cached_property
    def encoded_plan(self) -> bytes:
        """`plan` as msgpack."""
        return encode_plan(self.plan)

    def options(
        self,
        *,
        id: str = "",
        key: str = "",
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
    ) -> Self:
        """Return this workflow with options for one start of it.

        ``await order_processing.options(id="order-7").start("7")``. *key* is for children only.
        """
        # Made once, and shared by the copies.
        _ = self.plan, self.encoded_plan
        other = copy.copy(self)
        other.options_ = WorkflowOptions(
            id=id, key=key, labels=dict(labels or {}), priority=priority
        )
        return other

    # What follows P.args can be P.kwargs only, so `start(order, id="o-7")` is told to type checkers
    # by the number of inputs (ADR 63): each form takes self as the plain function that it is, too.
    @overload
    async def start(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]: ...
    @overload
    async def start(
        self: Callable[[Context], Coroutine[Any, Any, R_co]],
        **options: Unpack[StartOptions],
    ) -> Handle[R_co]: ...  # fmt: skip
    @overload
    async def start(
        self: Callable[[Context, T1], Coroutine[Any, Any, R_co]],
        a: T1, /,
        **options: Unpack[StartOptions],
    ) -> Handle[R_co]: ...  # fmt: skip
    @overload
    async def start(
        self: Callable[[Context, T1, T2], Coroutine[Any, Any, R_co]],
        a: T1, b: T2, /,
        **options: Unpack[StartOptions],
    ) -> Handle[R_co]: ...  # fmt: skip
    @overload
    async def start(
        self: Callable[[Context, T1, T2, T3], Coroutine[Any, Any, R_co]],
        a: T1, b: T2, c: T3, /,
        **options: Unpack[StartOptions],
    ) -> Handle[R_co]: ...  # fmt: skip
    @overload
    async def start(
        self: Callable[[Context, T1, T2, T3, T4], Coroutine[Any, Any, R_co]],
        a: T1, b: T2, c: T3, d: T4, /,
        **options: Unpack[StartOptions],
    ) -> Handle[R_co]: ...  # fmt: skip
    @overload
    async def start(
        self: Callable[[Context, T1, T2, T3, T4, T5], Coroutine[Any, Any, R_co]],
        a: T1, b: T2, c: T3, d: T4, e: T5, /,
        **options: Unpack[StartOptions],
    ) -> Handle[R_co]: ...  # fmt: skip
    async def start(self, *args: Any, **kwargs: Any) -> Handle[R_co]:
        """Start a run by the client that is in use (`Client.connect`, an engine), and return it.

        With an id (`options`, or ``id=…`` where the workflow has no input of that name) that was
        started before with the same inputs, that run is returned. Raises `Conflict` for other
        inputs, `InvalidRequest` when no client is in use, and what `Client.start` raises.
        """
        workflow, rest = self._with_options(kwargs)
        return await _client().start(workflow, *args, **rest)

    @overload
    async def start_and_wait(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    async def start_and_wait(
        self: Callable[[Context], Coroutine[Any, Any, R_co]],
        **options: Unpack[StartOptions],
    ) -> R_co: ...  # fmt: skip
    @overload
    async def start_and_wait(
        self: Callable[[Context, T1], Coroutine[Any, Any, R_co]],
        a: T1, /,
        **options: Unpack[StartOptions],
    ) -> R_co: ...  # fmt: skip
    @overload
    async def start_and_wait(
        self: Callable[[Context, T1, T2], Coroutine[Any, Any, R_co]],
        a: T1, b: T2, /,
        **options: Unpack[StartOptions],
    ) -> R_co: ...  # fmt: skip
    @overload
    async def start_and_wait(
        self: Callable[[Context, T1, T2, T3], Coroutine[Any, Any, R_co]],
        a: T1, b: T2, c: T3, /,
        **options: Unpack[StartOptions],
    ) -> R_co: ...  # fmt: skip
    @overload
    async def start_and_wait(
        self: Callable[[Context, T1, T2, T3, T4], Coroutine[Any, Any, R_co]],
        a: T1, b: T2, c: T3, d: T4, /,
        **options: Unpack[StartOptions],
    ) -> R_co: ...  # fmt: skip
    @overload
    async def start_and_wait(
        self: Callable[[Context, T1, T2, T3, T4, T5], Coroutine[Any, Any, R_co]],
        a: T1, b: T2, c: T3, d: T4, e: T5, /,
        **options: Unpack[StartOptions],
    ) -> R_co: ...  # fmt: skip
    async def start_and_wait(self, *args: Any, **kwargs: Any) -> R_co:
        """Start a run as `start` does, and return its result. Raises also `RunFailed`."""
        workflow, rest = self._with_options(kwargs)
        return await _client().start_and_wait(workflow, *args, **rest)

    def _with_options(self, kwargs: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Take options out of the arguments that are no inputs."""
        rest = dict(kwargs)
        given = {
            name: rest.pop(name)
            for name in ("id", "labels", "priority")
            if name in rest and name not in self.signature.names
        }
        return (self.options(**given) if given else self), rest


def check_workflow(given: object) -> None:
    """Raise `InvalidRequest` for what is no workflow: a plain function, a step."""
    if not isinstance(given, Workflow):
        raise InvalidRequest(f"{given!r} is no workflow: mark the function with @app.workflow")


def _client() -> Client:
    from headrace.sdk._client import current_client

    return current_client()
