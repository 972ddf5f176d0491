"""Which workflow function this thread is driving right now, if any."""

from __future__ import annotations

import threading
from typing import Any

from headrace.errors import InvalidRequest


class _Driving(threading.local):
    execution: Any = None


driving = _Driving()


def refuse_direct_call(name: str) -> None:
    """Raise `InvalidRequest` when a workflow function calls a step as a plain function."""
    if driving.execution is not None:
        raise InvalidRequest(f"{name}(…) would not be recorded: write `await ctx.step({name}, …)`")
