"""Schedules: times at which runs begin by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from headrace.client._calls import Calls, result_of
from headrace.client._submit import MUTATION_S
from headrace.messages import (
    ClientRequest,
    CreateSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    RunView,
    ScheduleSpec,
    ScheduleView,
    subjects,
)
from headrace.plan import Plan, decode_plan, encode_plan

T = TypeVar("T")


class Submit(Protocol):
    """`Client.submit`, as far as it is needed here."""

    def __call__(
        self, plan: Plan, input: dict[str, Any], *, run_id: str, labels: dict[str, str]
    ) -> Awaitable[RunView]:
        """Start a run."""
        ...


class Schedules:
    """Those of one namespace. Every method may raise `Unreachable` or `Busy`, as the client's."""

    def __init__(self, calls: Calls, stamp: Callable[[], dict[str, Any]], submit: Submit) -> None:
        """*stamp* returns what a mutation carries: request id, not-after time, actor."""
        self._calls, self._stamp, self._submit = calls, stamp, submit

    async def create(
        self, name: str, spec: ScheduleSpec, plan: Plan, *, replace: bool = False
    ) -> ScheduleView:
        """Begin to start runs of *plan*; the same again changes nothing.

        Raises `Conflict` when another one has the name, unless *replace*; `InvalidRequest` for
        what is no cron expression, time zone or name; `InvalidDefinition` for inputs that do not
        fit; `LimitExceeded`.
        """
        request = CreateSchedule(
            name=name, spec=spec, plan=encode_plan(plan), replace=replace, **self._stamp()
        )
        return await self._ask(name, request, ScheduleView, within_s=MUTATION_S)

    async def get(
        self, name: str, *, times: int = 5, after_ms: int = 0, until_ms: int = 0
    ) -> ScheduleView:
        """Return a schedule with its plan and its times after *after_ms* (0: now).

        At most *times* of them, none after *until_ms* (0: no end). Raises `NotFound`.
        """
        request = GetSchedule(name=name, times=times, after_ms=after_ms, until_ms=until_ms)
        return await self._ask(name, request, ScheduleView)

    async def list(self) -> Sequence[ScheduleView]:
        """Return all schedules by name, without plans."""
        found: list[ScheduleView] = []
        for shard in self._calls.routes.all_shards():
            subject = subjects.command(self._calls.namespace, shard)
            raw = await self._calls.ask(lambda subject=subject: subject, ListSchedules())  # type: ignore[misc]
            found += result_of(list[ScheduleView], raw)
        return sorted(found, key=lambda view: view.name)

    async def pause(self, name: str, *, paused: bool = True, reason: str = "") -> ScheduleView:
        """Let times pass, or go on with those to come. Raises `NotFound`."""
        request = PauseSchedule(name=name, paused=paused, reason=reason, **self._stamp())
        return await self._ask(name, request, ScheduleView, within_s=MUTATION_S)

    async def delete(self, name: str) -> None:
        """Start no more runs; those that run go on. Raises `NotFound`, `Conflict`."""
        request = DeleteSchedule(name=name, **self._stamp())
        await self._ask(name, request, type(None), within_s=MUTATION_S)

    async def trigger(self, name: str) -> RunView:
        """Start a run now, whatever the schedule says of pauses and overlaps."""
        view = await self.get(name, times=0)
        labels = {subjects.SCHEDULE_LABEL: name}
        return await self._submit(decode_plan(view.plan), view.spec.input, run_id="", labels=labels)

    async def backfill(self, name: str, times_ms: Sequence[int]) -> Sequence[RunView]:
        """Start the runs of past times, all at once; one that was started already is that run.

        Raises `Conflict` when a time has a run of another definition or input.
        """
        view = await self.get(name, times=0)
        plan, key = decode_plan(view.plan), subjects.run_key(self._calls.namespace, name)
        started: list[RunView] = []
        for nominal_ms in times_ms:
            run = subjects.split_key(subjects.scheduled_run(key, nominal_ms))[1]
            labels = subjects.scheduled_labels(key, nominal_ms)
            started.append(await self._submit(plan, view.spec.input, run_id=run, labels=labels))
        return started

    async def _ask(
        self, name: str, request: ClientRequest, kind: type[T], *, within_s: float | None = None
    ) -> T:
        home = subjects.schedule_home(subjects.run_key(self._calls.namespace, name))

        def subject() -> str:
            shard = self._calls.shard(home, "journal")
            return subjects.command(self._calls.namespace, shard)

        return result_of(kind, await self._calls.ask(subject, request, within_s=within_s))
