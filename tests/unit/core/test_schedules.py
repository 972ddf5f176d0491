"""Schedules: firing, catching up, overlapping, pausing, takeovers, and those of definitions."""

from typing import Any

import pytest

from headrace.coordinator.core import OutMessage, Refusal, state_hash
from headrace.coordinator.core.schedules import PAUSE_MS
from headrace.events import RunCreated
from headrace.messages import (
    CreateSchedule,
    DeleteDefinition,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    RegisterDefinition,
    ScheduleSpec,
    ScheduleView,
    subjects,
)
from headrace.plan import InputSpec, Plan, Schedule, encode_plan
from support.corekit import NAMESPACE, START_MS, Kit, restored
from support.plans import key, plan, task

PLAN = plan(task("a"))
HOUR = 3_600_000
FIRST = START_MS // HOUR * HOUR + HOUR
"""The first full hour."""


@pytest.fixture
def kit() -> Kit:
    return Kit(0)


def ask(kit: Kit, request: Any) -> Any:
    return kit.tick(lambda m: m.request(NAMESPACE, request))


def change(kit: Kit, kind: Any, **options: Any) -> Any:
    options.setdefault("request_id", kit.request_id())
    options.setdefault("not_after_ms", kit.now_ms + 60_000)
    return ask(kit, kind(**options))


def create(kit: Kit, name: str = "hourly", found: Plan = PLAN, **options: Any) -> Any:
    more = {key: options.pop(key) for key in ("replace", "request_id") if key in options}
    spec = ScheduleSpec(**{"cron": "0 * * * *", **options})
    return change(kit, CreateSchedule, name=name, spec=spec, plan=encode_plan(found), **more)


def get(kit: Kit, name: str = "hourly", **options: Any) -> ScheduleView:
    found = ask(kit, GetSchedule(name=name, **options))
    assert isinstance(found, ScheduleView), found
    return found


def at(kit: Kit, when_ms: int) -> None:
    """Go to a time, and let timers fire until none is due."""
    kit.now_ms = max(kit.now_ms, when_ms)
    kit.tick()
    for _ in range(100):
        due_ms = kit.machine.timers.next_ms()
        if not due_ms or due_ms not in (kit.now_ms, kit.now_ms + PAUSE_MS):
            return
        kit.now_ms = max(kit.now_ms, due_ms)
        kit.tick()
    raise AssertionError("timers do not come to rest")


def runs(kit: Kit) -> list[str]:
    """Return the ids of the shard's runs: ``21`` for one whose nominal time is 21 o'clock."""
    return sorted(key.partition("/")[2] for key in kit.machine.state.runs)


def hours(kit: Kit) -> list[int]:
    """Return the hours after `FIRST` that have runs."""
    names = {name(n): n for n in range(200)}
    return [names[run] for run in runs(kit)]


def name(hour: int, stem: str = "hourly") -> str:
    return subjects.scheduled_run(f"{NAMESPACE}/{stem}", FIRST + hour * HOUR).partition("/")[2]


def end(kit: Kit, run: str) -> None:
    kit.complete("a", run=run)
    assert kit.state(run) == "COMPLETED"


def test_a_run_begins_at_its_time_and_says_whose_it_is(kit: Kit) -> None:
    view = create(kit)
    assert view.next_ms == [FIRST]
    at(kit, FIRST - 1)
    assert runs(kit) == []
    at(kit, FIRST)
    assert runs(kit) == ["hourly-20231114T230000Z"]
    assert kit.view(runs(kit)[0]).labels == {
        "headrace/schedule": "hourly",
        "headrace/scheduled-for": "2023-11-14T23:00:00Z",
    }
    shown = get(kit)
    assert shown.next_ms == [FIRST + n * HOUR for n in range(1, 6)]
    assert (shown.last_ms, shown.started, shown.missed) == (FIRST, 1, 0)


def test_the_same_time_is_the_same_run(kit: Kit) -> None:
    create(kit)
    at(kit, FIRST)
    for _ in range(3):
        kit.kill()
        at(kit, FIRST)
    change(kit, DeleteSchedule, name="hourly")
    kit.now_ms = FIRST
    create(kit)
    at(kit, FIRST + 1)
    assert hours(kit) == [0]


def test_a_takeover_at_the_very_instant_loses_and_doubles_nothing(kit: Kit) -> None:
    create(kit)
    kit.now_ms = FIRST
    kit.kill(snapshot=True)
    at(kit, FIRST)
    kit.kill()
    at(kit, FIRST + HOUR)
    assert hours(kit) == [0, 1]


@pytest.mark.parametrize(
    ("policy", "expected"), [("none", []), ("one", [5]), ("all", [0, 1, 2, 3, 4, 5])]
)
def test_what_passed_is_caught_up_by_the_policy(kit: Kit, policy: Any, expected: list[int]) -> None:
    create(kit, catch_up=policy)
    at(kit, FIRST + 5 * HOUR + 30 * 60_000)
    assert hours(kit) == expected
    assert get(kit).missed == (policy != "all")
    at(kit, FIRST + 6 * HOUR)
    assert hours(kit) == [*expected, 6]


def test_a_time_that_is_just_late_is_not_missed(kit: Kit) -> None:
    create(kit, catch_up="none")
    at(kit, FIRST + 30_000)
    assert hours(kit) == [0]
    at(kit, FIRST + 4 * HOUR + 30_000)
    assert hours(kit) == [0, 4], "the newest is in time, whatever passed before it"


def test_what_lies_too_long_back_is_not_caught_up(kit: Kit) -> None:
    create(kit, catch_up="all", window_ms=2 * HOUR)
    create(kit, "daily", cron="0 0 * * *", window_ms=2 * HOUR)
    at(kit, FIRST + 10 * HOUR + 60_000)
    assert hours(kit) == [9, 10]
    assert get(kit, "daily").started == 0


def test_many_times_are_caught_up_bit_by_bit(kit: Kit) -> None:
    create(kit, catch_up="all", window_ms=20 * 86_400_000, cron="*/15 * * * *")
    at(kit, FIRST + 100 * HOUR)
    assert (
        len(runs(kit)) == len(set(runs(kit))) == 100 * 4 + 1 + (FIRST - START_MS) // (15 * 60_000)
    )


def test_overlaps_are_allowed(kit: Kit) -> None:
    create(kit)
    at(kit, FIRST)
    at(kit, FIRST + HOUR)
    assert [kit.state(run) for run in runs(kit)] == ["RUNNING", "RUNNING"]


def test_skip_lets_times_pass_while_one_runs(kit: Kit) -> None:
    create(kit, overlap="skip")
    at(kit, FIRST)
    at(kit, FIRST + HOUR)
    assert hours(kit) == [0]
    assert get(kit).running == [name(0)]
    kit.kill(snapshot=True)
    end(kit, name(0))
    assert get(kit).running == []
    at(kit, FIRST + 2 * HOUR)
    assert hours(kit) == [0, 2]
    assert get(kit).missed == 1


def test_queue_begins_them_one_after_the_other(kit: Kit) -> None:
    create(kit, overlap="queue")
    for hour in range(3):
        at(kit, FIRST + hour * HOUR)
    assert hours(kit) == [0]
    assert get(kit).queued_ms == [FIRST + HOUR, FIRST + 2 * HOUR]
    end(kit, name(0))
    assert hours(kit) == [0, 1]
    kit.kill(snapshot=True)
    end(kit, name(1))
    end(kit, name(2))
    at(kit, FIRST + 3 * HOUR)
    assert hours(kit) == [0, 1, 2, 3]
    assert get(kit).missed == 0


def test_cancel_previous_stops_it_and_begins_the_newest_then(kit: Kit) -> None:
    create(kit, overlap="cancel-previous")
    at(kit, FIRST)
    at(kit, FIRST + HOUR)
    assert kit.run(name(0)).cancelling
    assert hours(kit) == [0], "never two at a time"
    at(kit, FIRST + 2 * HOUR)
    kit.cancelled("a", run=name(0))
    assert hours(kit) == [0, 2]
    assert kit.state(name(0)) == "CANCELLED"


def test_a_pause_lets_times_pass_and_a_resume_goes_on(kit: Kit) -> None:
    create(kit, catch_up="all")
    change(kit, PauseSchedule, name="hourly", reason="night")
    assert get(kit).reason == "night"
    at(kit, FIRST + 3 * HOUR)
    assert runs(kit) == []
    kit.kill(snapshot=True)
    change(kit, PauseSchedule, name="hourly", paused=False)
    at(kit, FIRST + 4 * HOUR)
    assert hours(kit) == [4]


def test_jitter_delays_the_run_and_not_its_name(kit: Kit) -> None:
    create(kit, jitter_ms=600_000)
    at(kit, FIRST + 299_000)
    assert runs(kit) == []
    at(kit, FIRST + 300_000)
    assert hours(kit) == [0]


def test_inputs_are_checked_and_given(kit: Kit) -> None:
    found = plan(task("a"), inputs={"n": InputSpec(type="number", required=True)})
    refused = create(kit, found=found)
    assert isinstance(refused, Refusal)
    assert "input 'n' is required" in refused.message
    create(kit, found=found, input={"n": "3"})
    at(kit, FIRST)
    assert kit.view(name(0)).input == {"n": 3}


def test_the_same_again_changes_nothing_and_another_must_be_meant(kit: Kit) -> None:
    create(kit)
    assert isinstance(create(kit), ScheduleView)
    clash = create(kit, cron="5 * * * *")
    assert clash.code == "conflict"
    assert isinstance(create(kit, cron="5 * * * *", replace=True), ScheduleView)
    assert get(kit).next_ms[0] == FIRST + 300_000 - (HOUR if START_MS % HOUR < 300_000 else 0)


def test_a_time_that_has_come_survives_a_replacement(kit: Kit) -> None:
    create(kit, jitter_ms=600_000)
    kit.now_ms = FIRST + 1
    create(kit, jitter_ms=600_000, overlap="skip", replace=True)
    at(kit, FIRST + 300_000)
    assert hours(kit) == [0]


@pytest.mark.parametrize(
    "spec",
    [
        {"cron": "61 * * * *"},
        {"cron": "0 0 30 2 *"},
        {"timezone": "Mars"},
        {"jitter_ms": -1},
        {"window_ms": 10**12},
    ],
)
def test_what_cannot_be_is_refused(kit: Kit, spec: dict[str, Any]) -> None:
    assert create(kit, **spec).code == "invalid-request"
    assert create(kit, "a.b").code == "invalid-request"
    assert kit.machine.state.schedules == {}


def test_a_run_that_cannot_begin_is_told(kit: Kit) -> None:
    kit.start(PLAN, name(0))
    create(kit, overlap="skip")
    at(kit, FIRST)
    assert "is another one" in get(kit).problem
    assert get(kit).running == []
    at(kit, FIRST + HOUR)
    assert get(kit).running == [name(1)]
    assert isinstance(ask(kit, GetSchedule(name="x")), Refusal)


def test_requests_are_answered_again_and_not_done_again(kit: Kit) -> None:
    create(kit, request_id="c")
    change(kit, DeleteSchedule, name="hourly", request_id="d")
    assert change(kit, DeleteSchedule, name="hourly", request_id="d") is None
    assert ask(kit, ListSchedules()) == []
    late = change(kit, PauseSchedule, name="hourly")
    assert late.code == "not-found"


def test_far_away_times_are_waited_for(kit: Kit) -> None:
    create(kit, cron="0 0 29 2 *", catch_up="all", window_ms=366 * 86_400_000)
    assert get(kit).next_ms[0] - START_MS < 4 * 366 * 86_400_000
    at(kit, START_MS + 200 * 365 * 86_400_000)
    assert len(runs(kit)) <= 1


def test_the_state_folds_and_snapshots(kit: Kit) -> None:
    create(kit, overlap="queue", input={})
    at(kit, FIRST)
    at(kit, FIRST + HOUR)
    change(kit, PauseSchedule, name="hourly", reason="x")
    assert state_hash(restored(kit.folded())) == state_hash(kit.machine.state)


# -- of definitions -------------------------------------------------------------------------------


def registered(*crons: str, step: str = "a") -> Plan:
    return plan(task(step), schedules=tuple(Schedule(cron=cron) for cron in crons))


def register(kit: Kit, found: Plan, **options: Any) -> Any:
    options.setdefault("name", "hourly")
    return change(kit, RegisterDefinition, plan=encode_plan(found), **options)


def schedules(kit: Kit) -> dict[str, str]:
    found = ask(kit, ListSchedules())
    return {view.name: f"{view.spec.cron} {view.spec.workflow}" for view in found}


def test_a_definition_brings_its_schedules_and_takes_them_along(kit: Kit) -> None:
    register(kit, registered("0 * * * *", "30 * * * *"))
    assert schedules(kit) == {
        "hourly.1": "0 * * * * hourly@1",
        "hourly.2": "30 * * * * hourly@1",
    }
    at(kit, FIRST)
    assert runs(kit) == ["hourly-20231114T223000Z-2", "hourly-20231114T230000Z-1"]
    register(kit, registered("5 * * * *", step="b"))
    assert schedules(kit) == {"hourly.1": "5 * * * * hourly@2"}
    change(kit, DeleteDefinition, name="hourly", version="2")
    assert list(schedules(kit).values()) == ["0 * * * * hourly@1", "30 * * * * hourly@1"]
    change(kit, DeleteDefinition, name="hourly")
    assert schedules(kit) == {}
    assert kit.machine.state.outbox == {}


def test_policies_of_a_definition_are_those_of_its_schedules(kit: Kit) -> None:
    wanted = Schedule(
        cron="0 * * * *",
        catch_up="none",
        window_ms=HOUR,
        overlap="skip",
        jitter_ms=1_000,
        inputs={"n": 3},
    )
    found = plan(task("a"), schedules=(wanted,), inputs={"n": InputSpec(type="number")})
    register(kit, found)
    spec = get(kit, "hourly.1").spec
    assert (spec.catch_up, spec.window_ms, spec.overlap, spec.jitter_ms, spec.input) == (
        "none",
        HOUR,
        "skip",
        1_000,
        {"n": 3},
    )
    at(kit, FIRST + 1_000)
    at(kit, FIRST + HOUR + 1_000)
    (run,) = runs(kit)
    assert kit.view(run).input == {"n": 3}
    # Missed ones are not caught up, after a takeover neither.
    kit.now_ms = FIRST + 5 * HOUR + 30 * 60_000
    kit.kill()
    kit.tick()
    assert runs(kit) == [run]
    assert get(kit, "hourly.1").missed == 2


def test_news_of_a_definition_that_come_late_change_nothing(kit: Kit) -> None:
    register(kit, registered("0 * * * *"))
    late = ["default/hourly", "1", "1", encode_plan(registered("0 * * * *"))]
    change(kit, DeleteDefinition, name="hourly")
    kit.tick(lambda m: m.deliver("schedules:x", OutMessage("#0", "schedules", late)))
    assert schedules(kit) == {}


def test_a_schedule_of_a_definition_is_not_deleted_by_itself(kit: Kit) -> None:
    register(kit, registered("0 * * * *"))
    refused = change(kit, DeleteSchedule, name="hourly.1")
    assert refused.code == "conflict"
    change(kit, PauseSchedule, name="hourly.1")
    register(kit, registered("0 * * * *", step="b"))
    at(kit, FIRST)
    assert runs(kit) == [], "a pause outlives a new version"


def test_a_definition_whose_schedule_cannot_run_is_refused(kit: Kit) -> None:
    found = plan(
        task("a"),
        schedules=(Schedule(cron="0 * * * *"),),
        inputs={"n": InputSpec(type="number", required=True)},
    )
    refused = register(kit, found)
    assert refused.code == "invalid-definition"
    assert "input 'n' is required" in refused.message
    assert (
        "time zone"
        in register(kit, plan(schedules=(Schedule(cron="0 * * * *", timezone="X"),))).message
    )
    for options, problem in (
        ({"jitter_ms": -1}, "a jitter or a window"),
        ({"window_ms": 400 * 86_400_000}, "a jitter or a window"),
        ({"inputs": {"m": 1}}, "unknown input 'm'"),
    ):
        wrong = Schedule(cron="0 * * * *", **options)
        inputs = {"n": InputSpec(type="number")}
        refused = register(kit, plan(task("a"), schedules=(wrong,), inputs=inputs))
        assert problem in refused.message, refused


def test_a_run_may_live_in_another_shard() -> None:
    home, other = Kit(0, home=_apart), Kit(1, home=_apart)
    create(home, overlap="skip")
    at(home, FIRST)
    assert runs(home) == []
    _carry(home, other)
    _carry(home, other)
    assert runs(other) == [name(0)]
    home.kill()
    _carry(home, other)
    assert get(home).running == [name(0)]
    end(other, name(0))
    _carry(other, home)
    assert get(home).running == []
    assert home.machine.state.outbox == other.machine.state.outbox == {}


def _apart(key: str) -> int:
    return 0 if key.startswith("schedule:") else 1


def _carry(source: Kit, target: Kit) -> None:
    """Deliver what one shard has for the other; a second time it is delivered again."""
    target.now_ms = max(target.now_ms, source.now_ms)
    taken, source.outgoing = source.outgoing, []
    for out in taken:
        target.tick(lambda m, out=out: m.deliver(out.message, out.content))
        target.tick(lambda m, out=out: m.deliver(out.message, out.content))
        source.tick(lambda m, out=out: m.clear_outbox([out.message]))


def test_a_key_that_cannot_be_evaluated_declines_the_run_and_nothing_else(kit: Kit) -> None:
    found = plan(task("a"), concurrency=key("${{ fromJSON('{') }}"))
    create(kit, found=found, overlap="queue")
    at(kit, FIRST)
    assert runs(kit) == []
    assert get(kit).problem != ""
    at(kit, FIRST + HOUR)
    assert (get(kit).started, get(kit).running) == (2, [])


def test_an_outage_of_its_home_begins_no_run_twice() -> None:
    home, other = Kit(0, home=_apart), Kit(1, home=_apart)
    create(home, overlap="skip")
    at(home, FIRST)
    (start,) = home.outgoing
    other.now_ms = home.now_ms
    other.tick(lambda m: m.deliver(start.message, start.content))
    end(other, name(0))
    other.archive()
    assert runs(other) == [name(0)], "nobody has heard of its end"
    for kit in (home, other):
        kit.advance(5 * HOUR)
        kit.start(plan(task("a")), f"later-{kit.shard}")
    home.kill()
    (again,) = [out for out in home.outgoing if out.message == start.message]
    other.tick(lambda m: m.deliver(again.message, again.content))
    _carry(other, home)
    home.outgoing.clear()
    other.archive()
    home.tick(lambda m: m.posted.clear())
    assert [out for out in home.outgoing if out.message == start.message] == []
    created = [event for event in other.all_events(name(0)) if isinstance(event, RunCreated)]
    assert (len(created), name(0) in runs(other)) == (1, False)


def test_who_is_to_be_stopped_is_begun_first() -> None:
    home, other = Kit(0, home=_apart), Kit(1, home=_apart)
    create(home, overlap="cancel-previous")
    at(home, FIRST)
    at(home, FIRST + HOUR)
    home.tick(lambda m: m.posted.clear())
    assert {out.content.kind for out in home.outgoing} == {"start"}
    _carry(home, other)
    assert [out.content.kind for out in home.outgoing] == ["stop"]
    _carry(home, other)
    assert other.run(name(0)).cancelling
