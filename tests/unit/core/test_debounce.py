"""Debounce: of events that come closely one after the other the last one begins the run."""

from typing import Any

import msgspec
import pytest

from headrace.coordinator.core import Limits, Refusal, state_hash
from headrace.messages import (
    Arrival,
    DeleteDefinition,
    ListTriggers,
    RegisterDefinition,
    subjects,
)
from headrace.plan import Debounce, EventTrigger, InputSpec, encode_plan
from support.corekit import NAMESPACE, Kit, restored
from support.plans import plan, task

MADE = "2026-01-01T00:00:00Z"
PERIOD = 5_000


@pytest.fixture
def kit() -> Kit:
    return Kit(0)


def waiting(task_name: str = "a", **debounce: Any) -> Any:
    found = Debounce(**{"period_ms": PERIOD, "key": "${{ event.data.id }}", **debounce})
    trigger = EventTrigger(subject="orders", inputs={"n": "${{ event.data.n }}"}, debounce=found)
    return plan(task(task_name), events=(trigger,), inputs={"n": InputSpec(type="number")})


def change(kit: Kit, kind: Any, **options: Any) -> Any:
    options |= {"request_id": kit.request_id(), "not_after_ms": kit.now_ms + 60_000}
    return kit.tick(lambda m: m.request(NAMESPACE, kind(**options)))


def register(kit: Kit, found: Any = None, name: str = "order") -> Any:
    return change(kit, RegisterDefinition, name=name, plan=encode_plan(found or waiting()))


def event(number: int, key: Any = "o1") -> Arrival:
    data = msgspec.json.encode({"id": key, "n": number})
    return Arrival(sequence=number, namespace=NAMESPACE, subject="orders", data=data)


def take(kit: Kit, *numbers: int, key: Any = "o1") -> Any:
    return kit.tick(lambda m: m.take_events(MADE, [event(n, key) for n in numbers]))


def begun(kit: Kit) -> list[int]:
    """Return the numbers of the events that have runs."""
    found = [msgspec.msgpack.decode(run.input)["n"] for run in kit.machine.state.runs.values()]
    names = [subjects.event_run(f"{NAMESPACE}/order", MADE, n) for n in found]
    assert sorted(names) == sorted(kit.machine.state.runs)
    return sorted(found)


def held(kit: Kit) -> int:
    found = kit.tick(lambda m: m.request(NAMESPACE, ListTriggers()))
    return found[0].held if found else 0


def test_the_last_event_of_a_quiet_time_begins_one_run(kit: Kit) -> None:
    register(kit)
    assert take(kit, 1).held == 1
    for n in (2, 3):
        kit.advance(PERIOD - 1)
        take(kit, n)
    kit.advance(PERIOD - 1)
    assert begun(kit) == []
    assert held(kit) == 1
    kit.advance(1)
    assert begun(kit) == [3]
    assert held(kit) == 0
    take(kit, 4)
    kit.advance(PERIOD)
    assert begun(kit) == [3, 4]
    (shown,) = kit.tick(lambda m: m.request(NAMESPACE, ListTriggers()))
    assert shown.started == 2


def test_events_of_one_read_count_as_they_came(kit: Kit) -> None:
    register(kit)
    assert take(kit, 1, 2, 3).held == 3
    kit.advance(PERIOD)
    assert begun(kit) == [3]


def test_each_key_has_its_own_quiet_time(kit: Kit) -> None:
    register(kit)
    take(kit, 1, key="a")
    kit.advance(3_000)
    take(kit, 2, key="b")
    kit.advance(2_000)
    assert begun(kit) == [1]
    kit.advance(3_000)
    assert begun(kit) == [1, 2]


def test_without_a_key_all_are_one(kit: Kit) -> None:
    register(kit, waiting(key=""))
    take(kit, 1, key="a")
    take(kit, 2, key="b")
    kit.advance(PERIOD)
    assert begun(kit) == [2]


def test_it_begins_at_the_latest_although_it_is_never_quiet(kit: Kit) -> None:
    register(kit, waiting(max_ms=12_000))
    for n in range(1, 13):
        take(kit, n)
        kit.advance(1_000)
    assert begun(kit) == [12]
    take(kit, 13)
    kit.advance(PERIOD)
    assert begun(kit) == [12, 13]


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_takeover_in_the_middle_changes_nothing(kit: Kit, snapshot: bool) -> None:
    register(kit)
    take(kit, 1)
    kit.kill(snapshot=snapshot)
    kit.advance(3_000)
    take(kit, 1, 2)
    kit.kill(snapshot=snapshot)
    assert state_hash(restored(kit.folder.state)) == state_hash(kit.machine.state)
    kit.advance(PERIOD - 10)
    assert begun(kit) == []
    # The time comes while nobody leads.
    kit.now_ms += 60_000
    kit.kill(snapshot=snapshot)
    kit.tick()
    assert begun(kit) == [2]
    kit.kill(snapshot=snapshot)
    kit.advance(PERIOD)
    assert begun(kit) == [2]


def test_it_begins_what_was_registered_when_its_last_event_came(kit: Kit) -> None:
    register(kit)
    take(kit, 1)
    register(kit, waiting("b"))
    kit.kill(snapshot=True)
    kit.advance(PERIOD)
    (run,) = kit.machine.state.runs.values()
    assert kit.view(run.key.partition("/")[2]).steps[0].path == "a"
    take(kit, 2)
    kit.advance(PERIOD)
    assert begun(kit) == [1, 2]


def test_a_shorter_period_of_a_new_version_counts_from_the_next_event(kit: Kit) -> None:
    register(kit)
    take(kit, 1)
    register(kit, waiting(period_ms=100))
    take(kit, 2)
    kit.advance(100)
    assert begun(kit) == [2]


@pytest.mark.parametrize("delete", [True, False])
def test_what_is_held_goes_with_the_definition(kit: Kit, delete: bool) -> None:
    register(kit)
    take(kit, 1)
    if delete:
        change(kit, DeleteDefinition, name="order")
    else:
        register(kit, plan(task("a")))
    assert not kit.machine.state.incoming.held
    kit.kill(snapshot=True)
    kit.advance(PERIOD)
    assert begun(kit) == []


def test_the_number_of_what_is_held_is_bounded() -> None:
    kit = Kit(0, limits=Limits(held=2))
    register(kit)
    for n, key in enumerate(("a", "b", "c", "b"), 1):
        take(kit, n, key=key)
    (shown,) = kit.tick(lambda m: m.request(NAMESPACE, ListTriggers()))
    assert (shown.held, shown.failed) == (2, 1)
    assert "2 runs wait" in shown.problem
    kit.advance(PERIOD)
    assert begun(kit) == [1, 4]


def test_a_key_that_is_too_long_is_a_failure(kit: Kit) -> None:
    register(kit)
    taken = take(kit, 1, key="k" * 600)
    assert "the limit is 512" in taken.failed[0][2]
    assert not kit.machine.state.incoming.held


@pytest.mark.parametrize(
    "debounce", [{"period_ms": 0}, {"period_ms": 400 * 86_400_000}, {"max_ms": 1}]
)
def test_what_could_never_be_quiet_is_not_registered(kit: Kit, debounce: Any) -> None:
    found = register(kit, waiting(**debounce))
    assert isinstance(found, Refusal)
    assert "debounce" in found.message


def test_a_timer_is_armed_once_however_many_events_come(kit: Kit) -> None:
    register(kit)
    for n in range(1, 200):
        take(kit, n)
    assert len(kit.machine.timers) == 1
