"""Tasks whose coroutine takes its first step before the event loop comes to them."""

from headrace.eager._begin import begin
from headrace.eager._standby import Standby
from headrace.eager._step import first_step, resumed

__all__ = ["Standby", "begin", "first_step", "resumed"]
