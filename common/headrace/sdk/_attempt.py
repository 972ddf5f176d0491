"""One attempt of a step: what it can ask about itself, its timeouts, where it runs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.errors import InvalidRequest
from headrace.sdk import _codec
from headrace.sdk._emit import pieces
from headrace.sdk._errors import StepFailure
from headrace.threads import Threads

if TYPE_CHECKING:
    from headrace.sdk._step import Step

THREADS: Final = Threads("headrace-step")
"""Where plain functions run."""
_NOTHING: Final = b"\xc0"
_PASSED: Final = (
    Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit,
)  # fmt: skip
"""What a coroutine may raise: a turn knows what to do with it, or the event loop."""


class StepInfo:
    """What a step knows of the attempt that runs it. From any thread."""

    __slots__ = (
        "_on_details",
        "_on_heartbeat",
        "_on_log",
        "attempt",
        "beat_s",
        "cancelled",
        "details",
        "idempotency",
        "key",
        "latest",
        "name",
        "run",
    )

    def __init__(
        self,
        *,
        name: str,
        key: str,
        run: str,
        attempt: int,
        idempotency: str,
        details: bytes = _NOTHING,
        on_heartbeat: Callable[[Any], None] | None = None,
        on_details: Callable[[bytes], None] | None = None,
        on_log: Callable[[str, str], None] | None = None,
    ) -> None:
        """*on_heartbeat* is given the details as they are, *on_details* encoded ones, *on_log* a
        stream and a line; all may be called from any thread."""
        self.name, self.key, self.run, self.attempt = name, key, run, attempt
        """`key`: in the journal. `run`: ``<namespace>/<run id>``. `attempt`: from 1."""
        self.idempotency = idempotency
        self.cancelled = False
        """The attempt is being stopped; functions in threads look here and return soon."""
        self.latest = details
        """Details of the last heartbeat that had any, encoded; before that, those given."""
        self.beat_s = 0.0
        """Time of the loop at the last heartbeat that was noticed."""
        self.details = details
        self._on_heartbeat, self._on_details = on_heartbeat, on_details
        self._on_log = on_log

    def idempotency_key(self) -> str:
        """Return a text that is the same for all attempts of this step, and no other step's."""
        return self.idempotency

    def heartbeat(self, details: Any = None) -> None:
        """Say that the attempt is alive, and with *details* how far it is.

        They reach the next attempt as `last_details`: of an attempt that fails the last ones, of
        one that is lost with its worker those of a second ago (of a long one, of a hundredth of
        its time). Raises `InvalidRequest` for what has no form in a journal.
        """
        self.beat_s = -1.0
        if details is not None:
            self.latest = _codec.encode(details)
            if self._on_details is not None and not self.cancelled:
                self._on_details(self.latest)
        if self._on_heartbeat is not None:
            self._on_heartbeat(details)

    def emit(self, value: Any, *, stream: str = "progress") -> None:
        """Tell who follows the run something, as `Context.emit` does; each attempt tells anew.

        Of a step with `runs_on` it is on the stream of its own run. Raises `InvalidRequest` for
        what has no form in JSON.
        """
        for name, text in pieces(value, stream):
            self.write(name, text)

    def write(self, stream: str, text: str) -> None:
        """Write a line to the run's log."""
        if self._on_log is not None and not self.cancelled:
            self._on_log(stream, text)

    def last_details(self, kind: Any = Any) -> Any:
        """Return what attempts before this one said last in a heartbeat, as *kind*; None: nothing.

        Raises `InvalidRequest` when it does not fit *kind*.
        """
        if self.details == _NOTHING:
            return None
        return _codec.decode(kind, self.details)


_current: contextvars.ContextVar[StepInfo | None] = contextvars.ContextVar(
    "headrace-step", default=None
)


_faults: Final[list[Callable[[StepInfo], None]]] = []


def add_fault(fault: Callable[[StepInfo], None]) -> None:
    """Call *fault* before each attempt of a step in this process: it may raise. For tests."""
    _faults.append(fault)


def remove_fault(fault: Callable[[StepInfo], None]) -> None:
    """Call *fault* no more; twice is fine."""
    if fault in _faults:
        _faults.remove(fault)


def current_step() -> StepInfo | None:
    """Return what is known of the step that runs here; None outside of steps."""
    return _current.get()


@contextlib.contextmanager
def running_as(info: StepInfo) -> Generator[None]:
    """Let `step_info` return *info* inside."""
    token = _current.set(info)
    try:
        yield
    finally:
        _current.reset(token)


def step_info() -> StepInfo:
    """Return what is known of the step that runs here. Raises `InvalidRequest` outside."""
    found = _current.get()
    if found is None:
        raise InvalidRequest("step_info() is for steps, and none runs here")
    return found


async def run_step(
    step: Step[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any], info: StepInfo
) -> Any:
    """Run one attempt in the current task and return what the step returns.

    Raises what the step raises, `StepFailure` of type `timeout`, and `CancelledError`.
    """
    _current.set(info)
    for fault in _faults:
        fault(info)
    options = step.options_
    try:
        if options.timeout_ms or options.heartbeat_timeout_ms:
            return await _limited(step, args, kwargs, info)
        if step.kind == "async":
            return await step.function(*args, **kwargs)
        return await _off_loop(step, args, kwargs, info)
    except _PASSED:
        raise
    except BaseException as error:
        raise _as_failure(error) from error


async def _limited(
    step: Step[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any], info: StepInfo
) -> Any:
    """Run it within its limits. Raises also `StepFailure` of type `timeout`."""
    options = step.options_
    loop = asyncio.get_running_loop()
    info.beat_s = loop.time()
    watch: asyncio.Task[None] | None = None
    limit = asyncio.timeout(options.timeout_ms / 1_000 or None)
    try:
        async with limit:
            if options.heartbeat_timeout_ms:
                silence_s = options.heartbeat_timeout_ms / 1_000
                watch = loop.create_task(_watch(info, limit, silence_s), name="heartbeat-watch")
            if step.kind == "async":
                return await step.function(*args, **kwargs)
            return await _off_loop(step, args, kwargs, info)
    except TimeoutError as error:
        if not limit.expired():
            raise
        text = f"ran longer than {options.timeout_ms} ms"
        if watch is not None and watch.done():
            text = f"no heartbeat for {options.heartbeat_timeout_ms} ms"
        raise StepFailure("timeout", text) from error
    finally:
        if watch is not None:
            watch.cancel()


async def _watch(info: StepInfo, limit: asyncio.Timeout, silence_s: float) -> None:
    """Let *limit* expire once no heartbeat has come for *silence_s*."""
    loop = asyncio.get_running_loop()
    while True:
        if info.beat_s < 0:
            info.beat_s = loop.time()
        left_s = info.beat_s + silence_s - loop.time()
        if left_s <= 0:
            limit.reschedule(loop.time())
            return
        # Looked at often enough that a heartbeat's own time is known well.
        await asyncio.sleep(min(left_s, silence_s / 4))


def _called(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a plain function; what it raises says nothing to the event loop of who waits for it."""
    try:
        return function(*args, **kwargs)
    except Exception:
        raise
    except BaseException as error:
        raise _as_failure(error) from error


async def _off_loop(
    step: Step[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any], info: StepInfo
) -> Any:
    """Run a plain function in a thread, or in a process."""
    try:
        if step.kind == "thread":
            return await THREADS.start(lambda: _called(step.function, args, kwargs))
        from headrace.sdk._processes import in_process

        return await in_process(step.reference, args, kwargs, info)
    except asyncio.CancelledError:
        info.cancelled = True
        raise


def _as_failure(error: BaseException) -> StepFailure:
    return StepFailure(type(error).__name__, str(error))
