"""Processes for steps that keep a CPU busy: one for each call at a time, kept for a while.

A process is started afresh (`spawn`), imports the step's module, and can be killed: when the
attempt is cancelled or its time is over, it is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, Final

from headrace.sdk._attempt import THREADS
from headrace.sdk._errors import StepFailure
from headrace.sdk._reference import resolve

if TYPE_CHECKING:
    from headrace.sdk._attempt import StepInfo

IDLE_MAX: Final = 4
"""Processes that are kept for the next call."""
JOIN_S: Final = 2.0
_context: Final = multiprocessing.get_context("spawn")
_idle: Final[list[_Process]] = []
_generation: Final = [0]
"""Processes of an earlier one have imported code that has changed since."""


class _Process:
    def __init__(self) -> None:
        self.generation = _generation[0]
        self.connection, theirs = _context.Pipe()
        self.process: SpawnProcess = _context.Process(
            target=_serve, args=(theirs,), name="headrace-step", daemon=True
        )
        self.process.start()
        theirs.close()

    def call(self, job: bytes, info: StepInfo) -> tuple[bool, Any]:
        """Send a job and read until its end, in a thread. Raises `EOFError` when it dies."""
        try:
            self.connection.send_bytes(job)
            while True:
                kind, value = pickle.loads(self.connection.recv_bytes())
                if kind == "beat":
                    info.heartbeat(value)
                elif kind == "log":
                    info.write(*value)
                else:
                    return kind == "done", value
        except (EOFError, OSError):
            # Also when it was killed from here: nothing is left of it.
            self.close()
            raise

    def kill(self) -> None:
        """Kill it; who reads from it sees the end."""
        self.process.kill()

    def close(self) -> None:
        """Kill it, and wait for its end."""
        self.process.kill()
        self.process.join(JOIN_S)
        self.connection.close()


async def in_process(
    reference: str, args: Sequence[Any], kwargs: Mapping[str, Any], info: StepInfo
) -> Any:
    """Call the function *reference* (``module:name``) in a process, and return its result.

    Arguments and result are pickled. Raises what the function raises, and `StepFailure` of type
    `process-died`.
    """
    try:
        job = pickle.dumps((reference, tuple(args), dict(kwargs), _facts(info)))
    except Exception as error:
        # Whatever a user's class raises while it is pickled.
        raise StepFailure("invalid-input", f"cannot be sent to a process: {error}") from error
    process = _idle.pop() if _idle else await THREADS.start(_Process)
    try:
        done, value = await THREADS.start(lambda: process.call(job, info))
    except (EOFError, OSError) as error:
        code = process.process.exitcode
        raise StepFailure("process-died", f"its process ended, exit code {code}") from error
    except BaseException:
        # Cancelled, or out of time: the thread that reads ends with the process.
        process.kill()
        raise
    if len(_idle) < IDLE_MAX and process.generation == _generation[0]:
        _idle.append(process)
    else:
        await THREADS.start(process.close)
    if done:
        return value
    raise value


def renew_processes() -> None:
    """Use no process again that is there now, since code has changed; idle ones are ended."""
    _generation[0] += 1
    while _idle:
        _idle.pop().close()


def _facts(info: StepInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "key": info.key,
        "run": info.run,
        "attempt": info.attempt,
        "idempotency": info.idempotency,
        "details": info.details,
    }


def _serve(connection: Connection) -> None:
    """Run jobs until the other side has gone."""
    from headrace.sdk._attempt import StepInfo, running_as

    # Ctrl-C is for the process that started this one: it ends it, if it ends. A handler, since
    # programs that a step starts would go on ignoring it.
    signal.signal(signal.SIGINT, lambda *_: None)
    with contextlib.suppress(EOFError, OSError):
        while True:
            reference, args, kwargs, facts = pickle.loads(connection.recv_bytes())

            def beat(details: Any) -> None:
                connection.send_bytes(pickle.dumps(("beat", details)))

            def write(stream: str, text: str) -> None:
                connection.send_bytes(pickle.dumps(("log", (stream, text))))

            info = StepInfo(**facts, on_heartbeat=beat, on_log=write)
            try:
                with running_as(info):
                    value = _load(reference)(*args, **kwargs)
                answer = pickle.dumps(("done", value))
            except BaseException as error:
                answer = _failure(error)
            connection.send_bytes(answer)


def _load(reference: str) -> Any:
    found = resolve(reference)
    # The step stands where its function was defined.
    return getattr(found, "function", found)


def _failure(error: BaseException) -> bytes:
    try:
        if not isinstance(error, Exception):
            raise TypeError("it would end who waits for the step")
        data = pickle.dumps(("failed", error))
        pickle.loads(data)
        return data
    except Exception:
        # An exception that cannot travel: its class and text can.
        return pickle.dumps(("failed", StepFailure(type(error).__name__, str(error))))
