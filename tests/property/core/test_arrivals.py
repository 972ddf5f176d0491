"""Events from outside under any order of reads, repeated reads, takeovers and ends: each that fits
begins one run; of those that are held, the last one of each quiet time."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.messages import Arrival, RegisterDefinition, subjects
from headrace.plan import Debounce, EventTrigger, InputSpec, encode_plan
from support.corekit import NAMESPACE, Kit
from support.plans import plan, task

MADE = "2026-01-01T00:00:00Z"
PERIOD_MS, LONGEST_MS = 5_000, 12_000
KEYS = ("a", "b")
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(KEYS)),
    st.tuples(st.just("read"), st.integers(1, 4)),
    st.tuples(st.just("read again"), st.integers(1, 6)),
    st.tuples(st.just("wait"), st.sampled_from([1, 1_000, PERIOD_MS - 1, PERIOD_MS, 60_000])),
    st.tuples(st.just("kill"), st.booleans()),
    st.tuples(st.just("end"), st.integers(0, 5)),
)


class World:
    """A stream, a reader's place in it that may be behind, and a shard."""

    def __init__(self, debounce: Debounce | None) -> None:
        self.kit = Kit(0)
        self.stream: list[Arrival] = []
        self.begun: set[str] = set()
        self.read_at: dict[int, int] = {}
        """Number of an event -> when it was read first."""
        trigger = EventTrigger(
            subject="e", filter="event.data.key != 'b' || event.data.n != 3",
            inputs={"n": "${{ event.data.n }}"}, debounce=debounce,
        )  # fmt: skip
        inputs = {"n": InputSpec(type="number")}
        request = RegisterDefinition(
            name="d",
            plan=encode_plan(plan(task("x"), events=(trigger,), inputs=inputs)),
            request_id="q",
            not_after_ms=self.kit.now_ms,
        )
        self.kit.tick(lambda m: m.request(NAMESPACE, request))

    def step(self, kind: str, value: Any) -> None:
        if kind == "publish":
            number = len(self.stream) + 1
            data = msgspec.json.encode({"key": value, "n": number})
            event = Arrival(sequence=number, namespace=NAMESPACE, subject="e", data=data)
            self.stream.append(event)
        elif kind == "read":
            self.read(self.kit.machine.state.incoming.position, value)
        elif kind == "read again":
            self.read(max(self.kit.machine.state.incoming.position - value, 0), value + 1)
        elif kind == "wait":
            self.kit.advance(value)
        elif kind == "kill":
            self.kit.kill(snapshot=value)
            self.kit.tick()
        elif tasks := sorted(self.kit.tasks):
            name = self.kit.tasks[tasks[value % len(tasks)]].run.partition("/")[2]
            self.kit.complete("x", run=name)
        self.note()

    def read(self, after: int, count: int) -> None:
        found = self.stream[after : after + count]
        self.kit.tick(lambda m: m.take_events(MADE, found))
        for event in found:
            self.read_at.setdefault(event.sequence, self.kit.machine.state.now_ms)

    def note(self) -> None:
        self.begun |= set(self.kit.machine.state.runs)

    def finish(self) -> None:
        self.read(0, len(self.stream))
        self.note()
        for _ in range(3):
            self.kit.advance(LONGEST_MS)
            self.note()

    def fitting(self) -> list[tuple[int, str]]:
        """Return (number, key) of the events that the filter lets through."""
        found = [(n, key_of(event)) for n, event in enumerate(self.stream, 1)]
        return [(n, key) for n, key in found if (n, key) != (3, "b")]


def key_of(event: Arrival) -> str:
    key: str = msgspec.json.decode(event.data)["key"]
    return key


def run_of(number: int) -> str:
    return subjects.event_run(f"{NAMESPACE}/d", MADE, number)


@settings(max_examples=60, deadline=None)
@given(script=st.lists(STEPS, min_size=5, max_size=30))
def test_each_event_that_fits_begins_one_run(script: list[Any]) -> None:
    world = World(None)
    for kind, value in script:
        world.step(kind, value)
    world.finish()
    assert world.begun == {run_of(n) for n, _ in world.fitting()}
    facts = world.kit.machine.state.incoming.triggers[f"{NAMESPACE}/d"]
    assert (facts.started, facts.failed) == (len(world.begun), 0)


@settings(max_examples=60, deadline=None)
@given(script=st.lists(STEPS, min_size=5, max_size=30), bounded=st.booleans())
def test_of_those_that_come_closely_the_last_one_does(script: list[Any], bounded: bool) -> None:
    debounce = Debounce(
        period_ms=PERIOD_MS, key="${{ event.data.key }}", max_ms=LONGEST_MS if bounded else 0
    )
    world = World(debounce)
    for kind, value in script:
        world.step(kind, value)
    world.finish()
    assert not world.kit.machine.state.incoming.held
    for key in KEYS:
        numbers = [n for n, found in world.fitting() if found == key]
        wanted, first_ms = [], -1
        for n, following in zip(numbers, [*numbers[1:], 0], strict=False):
            at_ms = world.read_at[n]
            first_ms = at_ms if first_ms < 0 else first_ms
            due_ms = at_ms + PERIOD_MS
            due_ms = min(due_ms, first_ms + LONGEST_MS) if bounded else due_ms
            if not following or world.read_at[following] > due_ms:
                wanted.append(n)
                first_ms = -1
            elif world.read_at[following] == due_ms:
                return  # both came at one instant: either order is right
        assert {n for n in numbers if run_of(n) in world.begun} == set(wanted)
