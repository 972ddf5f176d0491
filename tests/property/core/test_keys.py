"""Concurrency keys across two shards, over a wire that loses, doubles, delays and reorders."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.coordinator.core import status
from headrace.coordinator.core.keys import AUDIT_MS
from headrace.messages import ResultStatus
from support.core_pair import Pair
from support.core_settings import TIMEOUT_S, examples
from support.corekit import NAMESPACE, Kit
from support.plans import job, key, plan, task

pytestmark = pytest.mark.timeout(TIMEOUT_S)
LIMITS = {"k1": 1, "k2": 2}
RUNS_MAX = 8


class Keys(RuleBasedStateMachine):
    """Runs and jobs of both shards that want keys of both shards."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.names: list[tuple[int, str]] = []
        self.modes: set[bool] = set()

    def _kit(self, number: int) -> Kit:
        return self.pair.kits[number]

    @precondition(lambda self: len(self.names) < RUNS_MAX)
    @rule(
        shard=st.sampled_from([1, 2]),
        name=st.sampled_from(sorted(LIMITS)),
        of_job=st.booleans(),
        cancels=st.integers(0, 3),
        queue=st.sampled_from(["max", "max", "single"]),
    )
    def submit(self, shard: int, name: str, of_job: bool, cancels: int, queue: str) -> None:
        block = key(name, limit=LIMITS[name], cancel_in_progress=cancels == 0, queue=queue)
        found: Any
        if of_job:
            found = plan(job("j", task("a"), concurrency=block), task("b", needs=["j"]))
        else:
            found = plan(task("a"), task("b", needs=["a"]), concurrency=block)
        run = f"r{len(self.names)}"
        self.modes.add(cancels == 0 or queue == "single")
        self._kit(shard).start(found, run)
        self.names.append((shard, run))
        self.pair.collect()

    @precondition(lambda self: any(kit.tasks for kit in self.pair.kits.values()))
    @rule(data=st.data())
    def result(self, data: st.DataObject) -> None:
        tasks = {
            (number, task.token): task
            for number, kit in self.pair.kits.items()
            for task in kit.tasks.values()
        }
        chosen = data.draw(st.sampled_from(sorted(tasks)))
        self._end(self._kit(chosen[0]), tasks[chosen])
        self.pair.collect()

    def _end(self, kit: Kit, task: Any) -> None:
        doomed = task.step in kit.machine.state.runs[task.run].doomed
        outcome = ResultStatus.CANCELLED if doomed else ResultStatus.COMPLETED
        assert kit.report(kit.result(task, outcome)) == []

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        shard, run = data.draw(st.sampled_from(self.names))
        self._kit(shard).cancel(run)
        self.modes.add(True)
        self.pair.collect()

    @precondition(lambda self: self.pair.wire)
    @rule(data=st.data(), keep=st.booleans(), answer=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool, answer: bool) -> None:
        index = data.draw(st.integers(0, len(self.pair.wire) - 1))
        self.pair.deliver(index, keep=keep and len(self.pair.wire) < 30, answer=answer)

    @precondition(lambda self: self.pair.wire)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        del self.pair.wire[data.draw(st.integers(0, len(self.pair.wire) - 1))]

    @precondition(lambda self: self._releases())
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """A release is confirmed, and its target never got it: the audit must find it out."""
        chosen = data.draw(st.sampled_from(self._releases()))
        letter = self.pair.wire[chosen]
        del self.pair.wire[chosen]
        self._kit(letter.source).tick(lambda m: m.clear_outbox([letter.message]))
        self.pair.collect()

    def _releases(self) -> list[int]:
        return [
            index
            for index, letter in enumerate(self.pair.wire)
            if letter.content is not None and letter.content.kind == "release"
        ]

    @rule(shard=st.sampled_from([1, 2]))
    def audit(self, shard: int) -> None:
        self._kit(shard).advance(AUDIT_MS)
        self.pair.collect()

    @rule()
    def resend(self) -> None:
        self.pair.resend()

    @rule(shard=st.sampled_from([1, 2]))
    def kill(self, shard: int) -> None:
        self.pair.kill(shard)

    @invariant()
    def never_over_the_limit(self) -> None:
        for name, limit in LIMITS.items():
            self.pair.check(name, limit)

    def _busy(self) -> list[tuple[Kit, Any]]:
        return [(kit, task) for kit in self.pair.kits.values() for task in kit.tasks.values()]

    def teardown(self) -> None:
        """Every run ends; nobody was cancelled whom nobody cancelled; every key is free."""
        for _ in range(200):
            self.pair.calm()
            if not self._busy():
                for kit in self.pair.kits.values():
                    kit.advance(2 * AUDIT_MS)
                self.pair.calm()
            if not self._busy():
                break
            self._end(*self._busy()[0])
        for shard, run in self.names:
            found = self._kit(shard).machine.state.runs[f"{NAMESPACE}/{run}"]
            assert status.is_final(found.state), f"{run} hangs"
            if True not in self.modes:
                assert status.NAMES[found.state] == "COMPLETED"
        for kit in self.pair.kits.values():
            assert kit.machine.state.keys == {}
            assert kit.machine.state.outbox == {}


TestKeys = Keys.TestCase
TestKeys.settings = examples(150, steps=30)
