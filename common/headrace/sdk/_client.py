"""Starting workflows from outside, and talking to their runs."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

import msgspec

from headrace.errors import HeadraceError, InvalidRequest, Unreachable
from headrace.sdk import _codec
from headrace.sdk._durations import Duration, to_ms
from headrace.sdk._emit import Joined
from headrace.sdk._remote import RESULT
from headrace.sdk._workflow import Workflow, check_workflow

if TYPE_CHECKING:
    from headrace.client import Client as CoreClient
    from headrace.messages import Explanation, HistoryEntry, RunView
    from headrace.sdk._app import App

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class RunFailed(HeadraceError):
    """A run has ended without a result: `state` is FAILED or CANCELLED, `reason` says why."""

    code = "run-failed"

    def __init__(self, run: str, state: str, reason: str) -> None:
        self.run, self.state, self.reason = run, state, reason
        super().__init__(f"run {run} is {state}" + (f": {reason}" if reason else ""))


class Handle(Generic[R_co]):
    """A run of a workflow. Every method raises `NotFound` for a run that does not exist, and
    `Unreachable` when nobody answers."""

    def __init__(self, client: Client, id: str, kind: Any = Any) -> None:
        self.id, self._client, self._kind = id, client, kind

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    async def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait for the end, and return the result.

        Raises `RunFailed`, and `TimeoutError` when it has not ended after *timeout*.
        """
        client = self._client
        limit_s = to_ms(timeout) / 1_000 if timeout is not None else None
        view = await client.wait(self.id, limit_s)
        if view.state not in ("COMPLETED", "FAILED", "CANCELLED"):
            raise TimeoutError(f"run {self.id} has not ended: {view.state}")
        result: R_co = result_of(await client.core.whole(view), self._kind)
        return result

    async def view(self) -> RunView:
        """Return the run as people see it."""
        return await self._client.core.get(self.id)

    async def history(self) -> Sequence[HistoryEntry]:
        """Return its events, in order."""
        return await self._client.core.history(self.id)

    async def explain(self) -> Explanation:
        """Return why it is where it is."""
        return await self._client.core.explain(self.id)

    async def signal(self, name: str, payload: Any = None, *, correlation_key: str = "") -> None:
        """Deliver a signal once; it is kept if the run does not wait for it yet."""
        core = self._client.core
        await core.signal(self.id, name, _plain(payload), correlation_key=correlation_key)

    async def query(self, name: str, argument: Any = None, *, timeout: Duration = 10.0) -> Any:
        """Ask a live function; its answer as plain data.

        Raises `Conflict` when its handler fails or there is none, `Unavailable` when no worker
        answers within *timeout*.
        """
        timeout_s = to_ms(timeout) / 1_000
        return await self._client.core.query(self.id, name, _plain(argument), timeout_s=timeout_s)

    async def update(self, name: str, argument: Any = None, *, timeout: Duration = 30.0) -> Any:
        """Have a live function change something; what its handler returns, as plain data.

        Raises `Conflict` when it is refused, `Unavailable` when there is no answer within
        *timeout*: it may still be carried out.
        """
        timeout_s = to_ms(timeout) / 1_000
        return await self._client.core.update(self.id, name, _plain(argument), timeout_s=timeout_s)

    async def cancel(self, *, reason: str = "") -> None:
        """Cancel it: the function sees `CancelledError`, and can clean up."""
        await self._client.core.cancel(self.id, reason=reason)

    async def stream(self, name: str = "progress") -> AsyncIterator[Any]:
        """Yield what the function and its steps emit on a stream, until the run ends.

        From the beginning, as far as it is kept (on a cluster with the logs of steps; the newest 16
        MiB of all runs in an engine of this process, of its present life).
        """
        joined = Joined(name)
        async for lines in self._client.core.logs(self.id, follow=True):
            for line in lines.lines:
                for value in joined.taken(line.stream, line.text):
                    yield value


def _plain(value: Any) -> Any:
    """Return *value* as plain data."""
    return msgspec.msgpack.decode(_codec.encode(value))


def result_of(view: RunView, kind: Any) -> Any:
    """Return the result of an ended run as *kind*. Raises `RunFailed`."""
    if view.state != "COMPLETED":
        raise RunFailed(view.id, view.state, view.reason)
    output = view.output
    value = output.get(RESULT) if isinstance(output, dict) else output
    return _codec.convert(kind, value)


def decoded_result(kind: Any, data: msgspec.Raw) -> Any:
    """Return an encoded result as *kind*."""
    return _codec.decode(kind, data)


class Client:
    """A user's view of a cluster, or of the engine of this process.

    ``async with await Client.connect("nats://localhost:4222"): …`` makes it the one that
    `Workflow.start` uses inside.
    """

    def __init__(self, core: CoreClient, *, serve: Callable[[App], None] | None = None) -> None:
        """*serve* is called with the app of each workflow that is started."""
        self.core = core
        """The client of runs of all kinds."""
        self._serve = serve

    @classmethod
    async def connect(
        cls,
        url: str = "",
        *,
        namespace: str = "",
        timeout: Duration = 5.0,
        access: Mapping[str, str] | None = None,
    ) -> Self:
        """Connect to the NATS servers of a cluster, several divided by commas.

        Without *url*, to the cluster that `flowctl` finds: `FLOWCTL_SERVER`, the context in use,
        the last `flowctl dev` on this machine; with its namespace and login. *access*: how to log
        in, as keys of section `broker` of the configuration. Raises `Unreachable` within
        *timeout*, without *url* also `NotFound` and `InvalidConfig`.
        """
        from headrace.client import Client as CoreClient
        from headrace.client import find_target

        timeout_s = to_ms(timeout) / 1_000
        if url:
            core = await CoreClient.connect(
                url, namespace=namespace or "default", timeout_s=timeout_s, access=access
            )
            return cls(core)
        target = find_target(namespace=namespace)
        try:
            core = await CoreClient.connect(
                target.server,
                namespace=target.namespace,
                timeout_s=timeout_s,
                access=target.access if access is None else access,
            )
        except Unreachable as error:
            raise Unreachable(
                f"cannot reach the cluster at {target.shown} ({target.found}): {error}"
            ) from error
        return cls(core)

    async def start(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]:
        """Start a run; once this returns it is never lost.

        Raises `Conflict` for an id that is taken by another workflow or other inputs,
        `InvalidRequest`, `LimitExceeded`, `Unavailable`, `Busy`.
        """
        options = workflow.options_
        data = self.inputs_of(workflow, args, kwargs)
        view = await self.core.submit(
            workflow.plan,
            data,
            run_id=options.id,
            labels=options.labels,
            priority=options.priority,
        )
        return Handle(self, view.id, workflow.signature.result)

    async def start_and_wait(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Start a run, and return its result. Raises also `RunFailed`."""
        handle = await self.start(workflow, *args, **kwargs)
        return await handle.result()

    async def wait(self, run: str, timeout_s: float | None) -> RunView:
        """Return a run once it has ended, or as it is after *timeout_s*."""
        return await self.core.wait(run, timeout_s)

    def inputs_of(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the input of a run as plain data, and make sure that it can run here."""
        data: dict[str, Any] = msgspec.msgpack.decode(self.encoded_inputs(workflow, args, kwargs))
        return data

    def encoded_inputs(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> bytes:
        """Return the input of a run as msgpack, and make sure that it can run here."""
        check_workflow(workflow)
        if self._serve is not None and workflow.owner is not None:
            self._serve(workflow.owner)
        return workflow.signature.as_map(args, kwargs)

    @overload
    def handle(self, id: str) -> Handle[Any]: ...
    @overload
    def handle(self, id: str, workflow: Workflow[Any, R]) -> Handle[R]: ...
    def handle(self, id: str, workflow: Workflow[Any, Any] | None = None) -> Handle[Any]:
        """Return the run *id*, with results of the type of *workflow*."""
        return Handle(self, id, Any if workflow is None else workflow.signature.result)

    async def close(self) -> None:
        """Close the connection."""
        await self.core.close()

    def use(self) -> None:
        """Let `Workflow.start` use this client from now on: in this context, else everywhere."""
        _current.set(self)
        _used.append(self)

    def unuse(self) -> None:
        """Use it no more; twice is fine."""
        if self in _used:
            _used.remove(self)
        if _current.get() is self:
            _current.set(None)

    async def __aenter__(self) -> Self:
        self.use()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.unuse()
        await self.close()


_current: contextvars.ContextVar[Client | None] = contextvars.ContextVar(
    "headrace-client", default=None
)
_used: list[Client] = []
"""For code in other contexts, a fixture's beside its test's: the newest one counts."""


def current_client() -> Client:
    """Return the client in use here. Raises `InvalidRequest` when there is none."""
    found = _current.get() or (_used[-1] if _used else None)
    if found is None:
        raise InvalidRequest(
            "no client is in use: `async with await Client.connect(url):`, or an engine around it"
        )
    return found
