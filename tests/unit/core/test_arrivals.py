"""Events from outside: what they begin, what is read twice, takeovers, and what is wrong."""

from typing import Any

import msgspec
import pytest

from headrace.coordinator.core import Limits, OutMessage, Refusal, Taken, state_hash
from headrace.coordinator.core.matching import choose
from headrace.errors import InvalidRequest
from headrace.events import RunEvicted
from headrace.messages import (
    Arrival,
    DeleteDefinition,
    ListTriggers,
    RegisterDefinition,
    TriggerView,
    subjects,
)
from headrace.plan import EventTrigger, InputSpec, Plan, encode_plan
from support.corekit import NAMESPACE, Kit, restored
from support.plans import key, plan, task

MADE = "2026-01-01T00:00:00Z"
INPUTS = {"id": InputSpec(required=True), "total": InputSpec(type="number", default=0)}
MAPPED = {"id": "${{ event.data.id }}", "total": "${{ event.data.total }}"}
ORDERS = EventTrigger(subject="orders.created", filter="event.data.total > 100", inputs=MAPPED)


@pytest.fixture
def kit() -> Kit:
    return Kit(0)


def waiting(*triggers: EventTrigger, **options: Any) -> Plan:
    return plan(task("a"), events=triggers or (ORDERS,), **{"inputs": INPUTS, **options})


def register(kit: Kit, name: str = "order", found: Plan | None = None, **options: Any) -> Any:
    request = RegisterDefinition(
        name=name,
        plan=encode_plan(found or waiting()),
        request_id=kit.request_id(),
        not_after_ms=kit.now_ms + 60_000,
        **options,
    )
    return kit.tick(lambda m: m.request(NAMESPACE, request))


def delete(kit: Kit, name: str = "order", version: str = "") -> Any:
    request = DeleteDefinition(
        name=name,
        version=version,
        request_id=kit.request_id(),
        not_after_ms=kit.now_ms + 60_000,
    )
    return kit.tick(lambda m: m.request(NAMESPACE, request))


def event(number: int, data: Any = None, subject: str = "orders.created", **more: Any) -> Arrival:
    raw = data if isinstance(data, bytes) else msgspec.json.encode(data)
    options = {"namespace": NAMESPACE, "subject": subject, **more}
    return Arrival(sequence=number, data=raw, **options)


def order(number: int, total: int = 200, **more: Any) -> Arrival:
    return event(number, {"id": f"o{number}", "total": total}, **more)


def take(kit: Kit, *events: Arrival, stream: str = MADE) -> Taken:
    return kit.tick(lambda m: m.take_events(stream, events))


def runs(kit: Kit) -> list[str]:
    return sorted(key.partition("/")[2] for key in kit.machine.state.runs)


def run_of(number: int, name: str = "order", stream: str = MADE) -> str:
    return subjects.event_run(f"{NAMESPACE}/{name}", stream, number).partition("/")[2]


def evict(kit: Kit, run: str) -> None:
    """The archive has an ended run."""
    gone = kit.run(run)
    event = RunEvicted(gone.key, gone.fingerprint, gone.state, gone.not_after_ms)
    kit.tick(lambda m: m.emit_shard(event))


def triggers(kit: Kit, namespace: str = NAMESPACE) -> list[TriggerView]:
    found = kit.tick(lambda m: m.request(namespace, ListTriggers()))
    assert isinstance(found, list), found
    return found


@pytest.mark.parametrize("header", ["traceparent", "Traceparent", "ce-traceparent"])
def test_a_run_is_in_the_trace_of_the_event_that_begins_it(kit: Kit, header: str) -> None:
    register(kit)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    take(kit, order(7, headers={header: trace}), order(8, headers={header: "nonsense"}))
    assert kit.run(run_of(7)).labels[subjects.TRACE_LABEL] == trace
    assert subjects.TRACE_LABEL not in kit.run(run_of(8)).labels


def test_an_event_begins_a_run_with_what_it_says(kit: Kit) -> None:
    register(kit)
    assert take(kit, order(7, id="pay-1")) == Taken(1, [], 0)
    (run,) = runs(kit)
    assert run.startswith("order-e7-")
    view = kit.view(run)
    assert view.input == {"id": "o7", "total": 200}
    assert view.labels == {
        "headrace/event": "orders.created",
        "headrace/event-id": "pay-1",
        "headrace/definition": "order@1",
    }
    assert kit.run(run).actor == "event orders.created"
    (shown,) = triggers(kit)
    assert (shown.definition, shown.version, shown.started) == ("order", "1", 1)
    assert (shown.last_run, shown.last_ms) == (run, kit.now_ms)
    assert (shown.subjects, shown.filters) == (["orders.created"], ["event.data.total > 100"])


def test_what_does_not_fit_begins_nothing(kit: Kit) -> None:
    register(kit)
    taken = take(
        kit,
        order(1, total=100),
        order(2, subject="orders.created.eu"),
        order(3, subject="orders"),
        order(4, namespace="other"),
    )
    assert taken == Taken(0, [], 4)
    assert runs(kit) == []
    assert triggers(kit, "other") == []
    assert kit.machine.state.incoming.position == 4


def test_the_same_event_read_again_begins_nothing(kit: Kit) -> None:
    register(kit)
    take(kit, order(1), order(2))
    assert take(kit, order(1), order(2), order(3)).begun == 1
    assert runs(kit) == [run_of(n) for n in (1, 2, 3)]
    # Not even when the run has ended and left.
    kit.complete("a", run=run_of(1))
    evict(kit, run_of(1))
    take(kit, order(1), order(2), order(3))
    assert runs(kit) == [run_of(n) for n in (2, 3)]


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_takeover_in_between_loses_and_doubles_nothing(kit: Kit, snapshot: bool) -> None:
    register(kit)
    take(kit, order(1))
    kit.kill(snapshot=snapshot)
    take(kit, order(1), order(2))
    kit.kill(snapshot=snapshot)
    assert runs(kit) == [run_of(1), run_of(2)]
    assert triggers(kit)[0].started == 2
    assert state_hash(restored(kit.folder.state)) == state_hash(kit.machine.state)


def test_a_new_stream_begins_to_count_anew(kit: Kit) -> None:
    register(kit)
    take(kit, order(1))
    take(kit, order(1), stream="2026-02-02T00:00:00Z")
    assert runs(kit) == sorted([run_of(1), run_of(1, stream="2026-02-02T00:00:00Z")])
    assert kit.machine.state.incoming.position == 1


def test_the_first_fitting_entry_decides_and_begins_one_run(kit: Kit) -> None:
    both = (
        EventTrigger(subject="orders.*", filter="event.data.total > 500", inputs={"id": "large"}),
        EventTrigger(subject="orders.>", inputs={"id": "any"}),
        EventTrigger(subject=">", inputs={"id": "rest"}),
    )
    register(kit, found=waiting(*both))
    take(kit, order(1, total=600), order(2), event(3, subject="a.b"))
    given = [kit.view(run_of(n)).input["id"] for n in (1, 2, 3)]
    assert given == ["large", "any", "rest"]


def test_every_definition_that_waits_for_it_gets_a_run(kit: Kit) -> None:
    register(kit, "one")
    register(kit, "two")
    assert take(kit, order(1)).begun == 2
    assert runs(kit) == [run_of(1, "one"), run_of(1, "two")]


def test_the_newest_version_counts(kit: Kit) -> None:
    register(kit)
    register(kit, found=waiting(EventTrigger(subject="orders.paid", inputs={"id": "x"})))
    take(kit, order(1), order(2, subject="orders.paid"))
    assert runs(kit) == [run_of(2)]
    assert kit.view(run_of(2)).labels["headrace/definition"] == "order@2"
    delete(kit, version="2")
    take(kit, order(3), order(4, subject="orders.paid"))
    assert runs(kit) == [run_of(2), run_of(3)]
    register(kit, found=plan(task("a")))
    take(kit, order(5))
    assert triggers(kit) == []
    delete(kit)
    take(kit, order(6))
    assert runs(kit) == [run_of(2), run_of(3)]


@pytest.mark.parametrize(
    ("data", "filter", "problem"),
    [
        (b"{", "", "its data is not JSON"),
        (b"\xff\xfe", "", "its data is not JSON"),
        (b"[" * 150 + b"]" * 150, "", "nested more than 100 deep"),
        (b"[" * 100_000, "", "its data is not JSON"),
        ({"id": "x"}, "fromJSON('{').x", "Error parsing JSON"),
        ({"id": {"a": 1}}, "", "input 'id' must be a string"),
        ({"id": "x", "total": "many"}, "", "input 'total' must be a number"),
        ({}, "", "input 'id' is required"),
        ({"id": "x" * 600_000}, "", "the limit is"),
        (b'{"id": "x", "total": 1' + b"0" * 400 + b"}", "", "a number that large"),
    ],
)
def test_a_bad_event_is_told_of_and_holds_up_nothing(
    kit: Kit, data: Any, filter: str, problem: str
) -> None:
    bad = EventTrigger(subject="orders.*", filter=filter, inputs=MAPPED)
    register(kit, found=waiting(bad))
    register(kit, "other")
    taken = take(kit, event(1, data, subject="orders.bad"), order(2), order(3))
    assert [(arrival.sequence, key) for arrival, key, _ in taken.failed][:1] == [
        (1, "default/order")
    ]
    assert problem in taken.failed[0][2]
    assert {run_of(n, "other") for n in (2, 3)} <= set(runs(kit))
    shown = {view.definition: view for view in triggers(kit)}["order"]
    assert shown.failed
    assert "event" in shown.problem


def test_a_run_of_another_kind_with_the_id_is_said(kit: Kit) -> None:
    register(kit)
    kit.start(plan(task("a")), run_of(1))
    take(kit, order(1))
    (shown,) = triggers(kit)
    assert (shown.started, shown.failed) == (1, 1)
    assert "is another one" in shown.problem


def test_without_room_a_run_waits_and_is_not_lost() -> None:
    kit = Kit(0, limits=Limits(runs=1))
    register(kit)
    take(kit, order(1), order(2))
    assert runs(kit) == [run_of(1)]
    kit.kill(snapshot=True)
    kit.complete("a", run=run_of(1))
    evict(kit, run_of(1))
    kit.tick(lambda m: m.posted.clear())
    assert runs(kit) == [run_of(2)]
    assert not kit.machine.state.outbox


def test_runs_begin_in_the_shard_of_their_id() -> None:
    def home(key: str) -> int:
        return 1

    system, other = Kit(0, home=home), Kit(1, home=home)
    register(system)
    take(system, order(1))
    assert runs(system) == []
    (out,) = system.outgoing
    for _ in range(2):
        other.tick(lambda m: m.deliver(out.message, out.content))
    assert runs(other) == [run_of(1)]
    system.tick(lambda m: m.clear_outbox([out.message]))
    assert not system.machine.state.outbox
    # What cannot begin is told once, however often the news arrive.
    other.start(plan(task("a")), run_of(2))
    take(system, order(2))
    other.tick(lambda m: m.deliver(system.outgoing[1].message, system.outgoing[1].content))
    (news,) = other.outgoing
    assert news.shard == 0
    for _ in range(2):
        system.tick(lambda m: m.deliver(news.message, news.content))
    assert triggers(system)[0].failed == 1


def test_many_large_inputs_are_several_facts(kit: Kit) -> None:
    register(kit)
    taken = take(kit, *(order(n, total=200, id="i" * 10) for n in range(1, 4)))
    assert taken.begun == 3
    large = EventTrigger(subject="big", inputs={"id": "${{ event.data }}"})
    for n in range(8):
        register(kit, f"big{n}", waiting(large))
    take(kit, event(4, "x" * 100_000, subject="big"))
    facts = [found for _, found in kit.fresh if type(found).__name__ == "EventsTaken"]
    assert len(facts) > 1
    assert [fact.position for fact in facts[:-1]] == [3] * (len(facts) - 1)
    assert facts[-1].position == 4
    assert sum(len(fact.begun) for fact in facts) == 8


@pytest.mark.parametrize(
    ("trigger", "problem"),
    [
        (EventTrigger(subject="a", filter="event.x >"), "on.event: its filter"),
        (EventTrigger(subject="a"), "input 'id' is required"),
        (EventTrigger(subject="a", inputs={"total": "${{ event.data }}"}), "has no input id"),
        (EventTrigger(subject="a", inputs={"id": "1", "total": "many"}), "must be a number"),
        (EventTrigger(subject="a", inputs={"id": "1", "idd": 2}), "unknown input 'idd'"),
    ],
)
def test_what_could_begin_no_run_is_not_registered(
    kit: Kit, trigger: EventTrigger, problem: str
) -> None:
    found = register(kit, found=waiting(trigger))
    assert isinstance(found, Refusal)
    assert found.code == "invalid-definition"
    assert problem in found.message


def test_triggers_are_asked_for_in_the_system_shard() -> None:
    found = Kit(1).tick(lambda m: m.request(NAMESPACE, ListTriggers()))
    assert isinstance(found, Refusal)


def test_runs_know_what_has_begun_them(kit: Kit) -> None:
    found = waiting(EventTrigger(subject="e", inputs={"id": "x"}), run_name="${{ run.event_name }}")
    register(kit, found=found)
    take(kit, event(1, subject="e"))
    assert kit.view(run_of(1)).name == "event"


def test_a_key_of_concurrency_counts_for_them_too(kit: Kit) -> None:
    register(kit, found=waiting(concurrency=key("${{ inputs.id }}")))
    take(kit, order(1), event(2, {"id": "o1", "total": 200}))
    assert kit.state(run_of(1)) == "RUNNING"
    assert kit.state(run_of(2)) == "PENDING"


def test_choosing_says_why_not() -> None:
    assert choose(waiting(), order(1)) == {"id": "o1", "total": 200}
    for found, wanted in (
        (plan(task("a")), "no 'on.event'"),
        (waiting(EventTrigger(subject="stock.>")), "they: stock.>"),
        (waiting(), "the filter does not hold"),
    ):
        with pytest.raises(InvalidRequest, match=wanted):
            choose(found, order(1, total=1))


def test_an_intent_of_a_deleted_definition_is_still_a_run(kit: Kit) -> None:
    register(kit)
    take(kit, order(1))
    delete(kit)
    assert runs(kit) == [run_of(1)]
    content = OutMessage("#0", "event-declined", [f"{NAMESPACE}/order", "default/x", "late"])
    kit.tick(lambda m: m.deliver("event-declined:x", content))
    assert triggers(kit) == []
