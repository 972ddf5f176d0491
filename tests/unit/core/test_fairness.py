"""Whose turn it is: by priority, then by fairness key and its weight, then by age."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.coordinator.core import Refusal
from headrace.coordinator.core.fairness import FairQueue, Turns, weight_of
from headrace.coordinator.core.ready import Lane, ReadyQueue
from headrace.events import NamespaceChanged, RunCreated
from headrace.messages import GetNamespace, SetNamespace
from support.corekit import NAMESPACE, START_MS, Kit
from support.plans import child, group, plan, task


def run(key: str = "", weight: float = 1.0) -> Any:
    return SimpleNamespace(fair_key=key, fair_weight=weight)


def served(lane: Lane, count: int) -> list[str]:
    found = []
    for _ in range(count):
        entry = lane.pop()
        if entry is None:
            break
        if lane.fair:
            lane.charge(entry[0], 0)
        found.append(entry[0].fair_key)
    return found


def lane_of(*flows: tuple[Any, int]) -> Lane:
    lane = Lane("l", "default", ())
    step = 0
    for owner, count in flows:
        for _ in range(count):
            lane.push(owner, step, 0, 0)
            step += 1
    return lane


class TestQueue:
    def test_without_keys_the_oldest_is_the_first_in_a_plain_queue(self) -> None:
        lane = lane_of((run(), 3))
        assert [lane.pop()[1] for _ in range(3)] == [0, 1, 2]  # type: ignore[index]
        assert not lane.fair

    def test_keys_take_turns_however_much_each_has(self) -> None:
        lane = lane_of((run("a"), 100), (run("b"), 3))
        assert served(lane, 8) == ["a", "b", "a", "b", "a", "b", "a", "a"]

    def test_a_weight_is_a_share(self) -> None:
        lane = lane_of((run("a", 3.0), 100), (run("b"), 100))
        assert Counter(served(lane, 40)) == {"a": 30, "b": 10}

    def test_runs_without_a_key_share_one_turn(self) -> None:
        lane = lane_of((run(), 50), (run("a"), 50))
        assert Counter(served(lane, 20)) == {"": 10, "a": 10}

    def test_within_a_key_the_oldest_is_the_first(self) -> None:
        lane = lane_of((run("a"), 2), (run("b"), 1), (run("a"), 1))
        assert [lane.pop()[1] for _ in range(4)] == [0, 1, 3, 2]  # type: ignore[index]

    def test_who_comes_late_has_saved_up_nothing(self) -> None:
        a, b = run("a"), run("b")
        lane = lane_of((a, 50))
        served(lane, 20)
        for step in range(20):
            lane.push(b, step, 0, 0)
        assert Counter(served(lane, 10)) == {"a": 5, "b": 5}

    def test_what_is_stale_costs_nothing(self) -> None:
        lane = lane_of((run("a"), 50), (run("b"), 10))
        for _ in range(20):
            entry = lane.pop()
            assert entry is not None
            assert entry[0].fair_key == "a"
        assert Counter(served(lane, 10)) == {"a": 5, "b": 5}

    def test_priority_goes_first(self) -> None:
        lane = Lane("l", "default", ())
        lane.push(run("a"), 0, 0, 0)
        lane.push(run("b"), 1, 0, 5)
        assert lane.priority() == 5
        assert served(Lane("x", "default", ()), 1) == []
        assert [lane.pop()[1], lane.pop()[1]] == [1, 0]  # type: ignore[index]

    def test_an_empty_lane_is_plain_again(self) -> None:
        lane = lane_of((run("a"), 2))
        assert lane.fair
        assert lane.oldest_ms() == 0
        served(lane, 3)
        assert (lane.fair, lane.length) == (False, 0)
        lane.push(run(), 1, 7, 0)
        assert (lane.fair, lane.oldest_ms()) == (False, 7)

    def test_idle_keys_are_forgotten(self) -> None:
        queue = FairQueue()
        for number in range(1_000):
            one = run(f"k{number}")
            queue.append((one, 0, 0))
            queue.popleft()
            queue.charge(one)
            queue.append((run("steady"), 0, 0))
            queue.popleft()
            queue.charge(run("steady"))
        assert len(queue._flows) < 200


def test_namespaces_take_turns_by_weight() -> None:
    turns, given = Turns(), Counter[str]()
    for _ in range(40):
        name = turns.first({"a", "b"})
        turns.charge(name, {"a": 3.0, "b": 1.0}[name])
        given[name] += 1
    assert given == {"a": 30, "b": 10}


def test_lanes_by_priority_then_namespace_then_age() -> None:
    ready = ReadyQueue()
    for name, namespace, since, priority in (
        ("l1", "a", 5, 0), ("l2", "a", 3, 0), ("l3", "b", 9, 0), ("l4", "b", 9, 2)
    ):  # fmt: skip
        ready.lane(name, namespace, ()).push(run(), 1, since, priority)
        ready.filled[name] = None
    order = []
    while (lane := ready.next_lane(ready.filled)) is not None:
        lane.pop()
        ready.turns.charge(lane.namespace, 1.0)
        order.append(lane.name)
    assert order == ["l4", "l2", "l1", "l3"]
    ready.drop_empty()
    assert not ready.filled


class TestRuns:
    def plan(self, **options: Any) -> Any:
        return plan(group("g", *(task(f"t{n}") for n in range(30)), kind="parallel"), **options)

    def kit(self) -> Kit:
        kit = Kit(credit=1)
        kit.start(self.plan(), "a", fairness_key="a", fairness_weight=3.0)
        kit.start(self.plan(), "b", fairness_key="b")
        return kit

    def order(self, kit: Kit, ticks: int) -> str:
        for _ in range(ticks):
            kit.tick()
        found = [(e.token, name) for name in "ab" for e in kit.scheduled(name)]
        return "".join(name for _, name in sorted(found))

    def test_runs_of_two_keys(self) -> None:
        kit = self.kit()
        order = self.order(kit, 20)
        assert 11 <= order[4:20].count("a") <= 13

    def test_a_takeover_keeps_keys_and_weights(self) -> None:
        for snapshot in (False, True):
            kit = self.kit()
            kit.kill(snapshot=snapshot)
            before = len(self.order(kit, 0))
            order = self.order(kit, 16)
            assert 11 <= order[before : before + 16].count("a") <= 13

    def test_the_plan_may_say_it(self) -> None:
        kit = Kit()
        found = self.plan(
            fairness_key="t-${{ inputs.tenant }}",
            fairness_weight=2.0,
            inputs={"tenant": {"type": "string"}},
        )
        kit.start(found, "a", input={"tenant": "x"})
        assert (kit.run("a").fair_key, kit.run("a").fair_weight) == ("t-x", 2.0)
        kit.start(found, "b", input={"tenant": "x"}, fairness_key="y")
        assert kit.run("b").fair_key == "y"
        assert kit.view("b").fairness_key == "y"
        (created,) = kit.all_events("a", RunCreated)
        assert created.fairness == ("t-x", 2.0)

    def test_a_child_takes_its_parents_turns(self) -> None:
        kit = Kit()
        kit.start(plan(child("s", plan(task("t")))), fairness_key="k", fairness_weight=4.0)
        (begun,) = [r for r in kit.machine.state.runs.values() if r.family and r.family.parent]
        assert (begun.fair_key, begun.fair_weight) == ("k", 4.0)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"fairness_key": "k" * 65}, "at most 64 bytes"),
            ({"fairness_key": "k", "fairness_weight": 2_000.0}, "from 0.001 to 1000, not 2000"),
            ({"fairness_key": "k", "fairness_weight": -1.0}, "not -1"),
        ],
    )
    def test_what_is_refused(self, options: Any, said: str) -> None:
        reply = Kit().submit(self.plan(), "a", **options)
        assert isinstance(reply, Refusal)
        assert said in reply.message


class TestNamespaces:
    def set(self, kit: Kit, weight: float, **options: Any) -> Any:
        stamp: dict[str, Any] = {"request_id": kit.request_id(), "not_after_ms": START_MS + 60_000}
        stamp |= options
        return kit.tick(lambda m: m.request(NAMESPACE, SetNamespace(weight=weight, **stamp)))

    def test_set_and_get(self) -> None:
        kit = Kit(shard=0)
        assert kit.tick(lambda m: m.request("other", GetNamespace())).weight == 1.0
        assert self.set(kit, 3.0).weight == 3.0
        assert kit.tick(lambda m: m.request(NAMESPACE, GetNamespace())).weight == 3.0
        kit.kill(snapshot=True)
        assert weight_of(kit.machine.state, NAMESPACE) == 3.0

    def test_sent_twice_it_is_done_once(self) -> None:
        kit = Kit(shard=0)
        self.set(kit, 3.0, request_id="x")
        self.set(kit, 5.0)
        assert self.set(kit, 3.0, request_id="x").weight == 5.0
        assert isinstance(self.set(kit, 2.0, not_after_ms=1), Refusal)
        assert isinstance(self.set(kit, 0.0), Refusal)
        assert isinstance(self.set(Kit(shard=1), 2.0), Refusal)

    def test_the_other_shards_hear_of_it_in_any_order(self) -> None:
        from headrace.events import SettingsChanged

        kit, other = Kit(shard=0), Kit(shard=1)
        layout = {"layout": {"journal": 2, "snapshot": 1, "memory": 0}}
        kit.tick(lambda m: m.emit_shard(SettingsChanged(layout)))
        self.set(kit, 3.0)
        self.set(kit, 5.0)
        sent = [out for out in kit.outgoing if out.content.kind == "namespace"]
        assert sorted(out.shard for out in sent) == [1, 1, 2, 2]
        for out in reversed([out for out in sent if out.shard == 1]):
            other.tick(lambda m, out=out: m.deliver(out.message, out.content))  # type: ignore[misc]
        assert weight_of(other.machine.state, NAMESPACE) == 5.0
        assert [e for _, e in other.fresh if isinstance(e, NamespaceChanged)] == []

    def test_a_shard_that_is_new_hears_of_it(self) -> None:
        from headrace.events import SettingsChanged

        kit, new = Kit(shard=0), Kit(shard=2)
        kit.tick(lambda m: m.emit_shard(SettingsChanged({"layout": {"journal": 2}})))
        self.set(kit, 3.0)
        kit.tick(lambda m: m.emit_shard(SettingsChanged({"layout": {"journal": 3}})))
        (told,) = [o for o in kit.outgoing if o.content.kind == "namespace" and o.shard == 2]
        new.tick(lambda m: m.deliver(told.message, told.content))  # type: ignore[misc]
        assert weight_of(new.machine.state, NAMESPACE) == 3.0
