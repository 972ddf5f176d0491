"""Runs of one function, or of one task, that are recorded when they have ended, in one tick.

Where a log is read by nobody, a function or a handler may begin before its run is known (decision
74). If it has ended before it waited for anything, what is recorded is what the long way would
have: the events of a submit, a dispatch and a report, in that order. What follows from each of them
is known here, so nothing is put on the agenda for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.commands import Refusal
from headrace.coordinator.core.creation import create_run
from headrace.coordinator.core.journal import ENTRY_BYTES
from headrace.coordinator.core.limits import Limits
from headrace.coordinator.core.requests.submit import Fitting, fitting
from headrace.coordinator.core.results import is_readable
from headrace.coordinator.core.state import EMPTY_MAP, Run
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.turns import KEY_MAX, completed_output, step_ended
from headrace.errors import HeadraceError
from headrace.events import (
    NodeEnded,
    RunEnded,
    RunEvent,
    StepCompleted,
    StepScheduled,
    TurnReported,
)
from headrace.messages import StepRan, StepResult, SubmitRun, subjects

_NOTHING = msgspec.Raw(EMPTY_MAP)
BYTES_MAX = 256 * 1024
"""Of what a run leaves that is recorded as a whole, about: some hundred of them may wait."""


class Life(NamedTuple):
    """A run whose function went from its beginning to its end without waiting."""

    key: str
    request: SubmitRun
    begun: Fitting
    worker: str
    """``<id>.<incarnation>``, as in reports."""
    ran: Sequence[StepRan]
    result: msgspec.Raw

    @property
    def output(self) -> msgspec.Raw:
        """The run's."""
        return completed_output(self.result)

    def told(self, now_ms: int) -> Iterator[RunEvent]:
        """Yield what happened behind the dispatch, as it is recorded at *now_ms*."""
        step = self.begun.program.code
        for ran in self.ran:
            yield step_ended(ran)
        yield TurnReported(step, 1, 1, self.worker)
        yield StepCompleted(step, 1, self.worker, now_ms, now_ms, self.output)

    def fits(self, limits: Limits) -> bool:
        """Tell whether journal and run can take it; the long way says why one cannot."""
        size = len(self.result)
        if size > limits.output_bytes or len(self.ran) > limits.journal_entries:
            return False
        bytes_max = min(limits.journal_bytes, BYTES_MAX)
        keys = set()
        for ran in self.ran:
            length = len(ran.value)
            if length > limits.output_bytes or not 0 < len(ran.key) <= KEY_MAX:
                return False
            size += length + len(ran.key) + len(ran.name) + ENTRY_BYTES
            keys.add(ran.key)
        return size <= bytes_max and len(keys) == len(self.ran)


class TaskLife(NamedTuple):
    """A run whose one task has completed at its first attempt."""

    key: str
    request: SubmitRun
    begun: Fitting
    worker: str
    result: StepResult

    @property
    def output(self) -> msgspec.Raw:
        """The run's."""
        return self.result.output

    def told(self, now_ms: int) -> Iterator[RunEvent]:
        """See `Life.told`."""
        done = self.result
        times = (done.started_ms, done.ended_ms)
        yield StepCompleted(1, 1, self.worker, *times, done.output, done.extra)

    def fits(self, limits: Limits) -> bool:
        """See `Life.fits`."""
        output = self.result.output
        if len(output) > min(limits.output_bytes, BYTES_MAX):
            return False
        return len(output) == 1 or is_readable(output)


def brief(
    tick: Tick, namespace: str, request: SubmitRun, data: bytes | None = None
) -> Fitting | None:
    """Return what a run begins with whose function or handler may begin now; None: by the long
    way.

    *data*: the input of a function, encoded, in the place of the request's.
    """
    state = tick.state
    program = state.programs.get((request.plan, namespace))
    if (
        program is None
        or not program.brief
        or (program.code < 0) is not (data is None)
        or state.variables
        or tick.traced
        or request.fairness_key
        or subjects.TRACE_LABEL in request.labels
        or subjects.run_key(namespace, request.run) in state.runs
    ):
        return None
    try:
        fit = fitting(tick, namespace, request, data)
    except HeadraceError:
        return None
    return None if isinstance(fit, Refusal) else fit


def record(tick: Tick, life: Life | TaskLife) -> None:
    """Record a run that has completed."""
    state, begun = tick.state, life.begun
    program = begun.program
    run = Run(life.key, program)
    state.leading = False
    try:
        create_run(tick, run, life.request, begun.input, begun.labels)
        tick.emit(run, StepScheduled(1, 1, state.token_last + 1, program.lane[1]))
        for event in life.told(state.now_ms):
            tick.emit(run, event)
        tick.emit(run, NodeEnded(0, status.COMPLETED, _NOTHING, "", False, False))
        tick.emit(run, RunEnded(status.COMPLETED, "", life.output))
    finally:
        state.leading = True
    tick.ended.append(run)
