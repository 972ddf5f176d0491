"""How much of the processor a world may take: one that goes round for ever is told of."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

CPU_S_MAX = 60.0
"""A world takes some 0.2 s."""
OVERDUE = "it does not come to an end"


class Overdue(KeyboardInterrupt):
    """It has taken all that it may. Neither asyncio nor the code that is judged keeps it back."""


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Raise `Overdue` inside after `CPU_S_MAX` of CPU time, and again after each tenth of it.

    Only in a process's main thread: signals reach no other one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _overdue)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S_MAX, CPU_S_MAX / 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _overdue(_number: int, frame: FrameType | None) -> None:
    where = "nowhere"
    if frame is not None:
        where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
    raise Overdue(f"{CPU_S_MAX:g} s of CPU time are over, at {where}")
