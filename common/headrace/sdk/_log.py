"""The logger of workflow functions: silent while they are replayed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.sdk._execution import Execution

logger = logging.getLogger("headrace.workflow")


class WorkflowLog(logging.LoggerAdapter[logging.Logger]):
    """``ctx.log.info("…")``: to the run's log, and to the logger `headrace.workflow`."""

    def __init__(self, execution: Execution) -> None:
        super().__init__(logger, {"run": execution.run})
        self._execution = execution

    def isEnabledFor(self, level: int) -> bool:
        """See `logging.Logger.isEnabledFor`."""
        return level >= logging.INFO or super().isEnabledFor(level)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """See `logging.Logger.log`."""
        if self._execution.replaying or self._execution.closed or not self.isEnabledFor(level):
            return
        text = str(msg) % args if args else str(msg)
        self._execution.log("system" if level >= logging.WARNING else "stdout", text)
        super().log(level, msg, *args, **kwargs)
