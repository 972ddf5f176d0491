"""A key's home shard asks about its holders: whatever was lost on the way, the key gets free."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import keys
from headrace.coordinator.core.keys import AUDIT_MS
from headrace.coordinator.core.state import ShardState
from headrace.events import KeyAudited, KeyDeclined, decode_batch
from support.core_pair import Pair
from support.corekit import Kit
from support.plans import job, key, plan, task

KEYED = plan(task("a"), concurrency=key("k2"))
OF_JOB = plan(job("j", task("a"), concurrency=key("k2")))


def lose(pair: Pair, kind: str) -> None:
    """Messages of *kind* that are on their way are confirmed, and nobody has got them."""
    pair.collect()
    for letter in [x for x in pair.wire if x.content is not None and x.content.kind == kind]:
        pair.wire.remove(letter)
        pair.kits[letter.source].tick(lambda m, name=letter.message: m.clear_outbox([name]))
    pair.calm()


def shard_events(kit: Kit, kind: type) -> list[object]:
    """Return all events of the log that are not a run's."""
    return [
        event
        for _, entry in kit.log
        for event in decode_batch(entry).after
        if isinstance(event, kind)
    ]


def later(pair: Pair, ms: int = AUDIT_MS) -> None:
    """Time passes at the key's home, and what it then says arrives."""
    pair.kits[2].advance(ms)
    pair.calm()


def one_of_two(found: object = KEYED) -> Pair:
    """Runs live in shard 1, their key in shard 2; `one` holds it, `two` waits."""
    pair = Pair()
    digest = pair.kits[1].store(found)
    for name in ("one", "two"):
        pair.kits[1].start(digest, name)
    pair.calm()
    return pair


@pytest.mark.parametrize("snapshot", [None, False, True])
@pytest.mark.parametrize("found", [KEYED, OF_JOB], ids=["run", "job"])
def test_a_lost_release_is_found(found: object, snapshot: bool | None) -> None:
    pair = one_of_two(found)
    home, kit = pair.kits[2], pair.kits[1]
    (holder,) = pair.holders("k2")
    kit.complete("j/a" if found is OF_JOB else "a", run="one")
    lose(pair, "release")
    if snapshot is not None:
        home.kill(snapshot=snapshot)
    (record,) = home.machine.state.keys.values()
    later(pair, record.audit_ms - home.now_ms - 1)
    assert pair.holders("k2") == {holder}, "it is not asked so soon"
    later(pair, 1)
    assert pair.running("k2") == pair.holders("k2") != {holder}
    kit.complete("j/a" if found is OF_JOB else "a", run="two")
    pair.calm()
    assert home.machine.state.keys == {}


@pytest.mark.parametrize("found", [KEYED, OF_JOB], ids=["run", "job"])
def test_a_holder_that_goes_on_keeps_its_key(found: object) -> None:
    pair = one_of_two(found)
    before = pair.holders("k2")
    for times in range(1, 4):
        later(pair)
        assert pair.holders("k2") == before
        assert len(shard_events(pair.kits[2], KeyAudited)) == times
    assert shard_events(pair.kits[1], KeyDeclined) == []
    assert not pair.kits[1].run("one").cancelling


def test_a_shard_that_has_forgotten_the_holder() -> None:
    """Its durability is a weaker one, and its owner has started again."""
    pair = one_of_two()
    pair.kits[1] = Kit(1, home=pair.home)
    later(pair)
    assert pair.kits[2].machine.state.keys == {}, "the one that waited is gone as well"
    pair.kits[1].start(plan(task("a"), concurrency=key("k2")), "three")
    pair.calm()
    assert pair.kits[1].state("three") == "RUNNING"


def test_a_run_of_the_same_name_is_another_one() -> None:
    pair = one_of_two()
    kit = pair.kits[1] = Kit(1, home=pair.home)
    kit.start(plan(task("a")), "one")
    later(pair)
    assert pair.holders("k2") == set()
    assert kit.state("one") == "RUNNING"


@pytest.mark.parametrize("found", [KEYED, OF_JOB], ids=["run", "job"])
def test_a_lost_grant_is_made_good(found: object) -> None:
    pair = Pair()
    kit = pair.kits[1]
    kit.start(found, "one")
    pair.collect()
    pair.deliver(0)
    lose(pair, "granted")
    assert pair.running("k2") == set()
    later(pair)
    assert pair.running("k2") == pair.holders("k2") != set()
    assert kit.dispatched("one")


@pytest.mark.parametrize("found", [KEYED, OF_JOB], ids=["run", "job"])
def test_a_blocked_holder_is_not_a_dead_one(found: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers may be at its steps; it keeps what it has until somebody ends it."""
    monkeypatch.setattr(Kit, "_check_run", lambda *_: None)
    pair = one_of_two(found)
    kit = pair.kits[1]
    before = pair.holders("k2")
    kit.tick(lambda m: m.quarantine(kit.run("one"), ValueError("x")))
    later(pair)
    assert pair.holders("k2") == before
    kit.cancel("one")
    pair.calm()
    assert pair.holders("k2").isdisjoint(before)


def test_holders_of_the_same_shard_are_looked_at_without_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit()
    digest = kit.store(plan(task("a"), concurrency=key("k")))
    kit.start(digest, "one")
    kit.start(digest, "two")
    entries = len(kit.log)
    kit.advance(3 * AUDIT_MS)
    assert len(kit.log) == entries, "all is well: nothing to log"
    with monkeypatch.context() as patched:
        patched.setattr(ShardState, "post", lambda *_: None)
        kit.complete("a", run="one")
    assert kit.state("two") == "PENDING"
    kit.advance(AUDIT_MS)
    assert kit.state("two") == "RUNNING"
    kit.complete("a", run="two")
    assert kit.machine.state.keys == {}
    kit.advance(AUDIT_MS)
    assert len(kit.machine.timers) == 0, "a shard without keys is not woken"


def test_of_many_holders_all_are_asked_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "AUDIT_HOLDERS_MAX", 2)
    pair = Pair()
    kit = pair.kits[1]
    digest = kit.store(plan(task("a"), concurrency=key("k2", limit=5)))
    for name in "abcde":
        kit.start(digest, name)
    pair.calm()
    for name in "abcde":
        kit.complete("a", run=name)
        lose(pair, "release")
    assert len(pair.holders("k2")) == 5
    for left in (3, 1, 0):
        later(pair)
        assert len(pair.holders("k2")) == left


def test_of_many_keys_some_are_looked_at_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "AUDIT_KEYS_MAX", 2)
    pair = Pair()
    kit = pair.kits[1]
    digest = kit.store(plan(task("a"), concurrency=key("${{ inputs.n }}2")))
    for number in range(5):
        kit.start(digest, f"r{number}", input={"n": f"k{number}-"})
    pair.calm()
    for number in range(5):
        kit.complete("a", run=f"r{number}")
        lose(pair, "release")
    for ms, left in ((AUDIT_MS, 3), (keys.AUDIT_PAUSE_MS, 1), (keys.AUDIT_PAUSE_MS, 0)):
        later(pair, ms)
        assert len(pair.kits[2].machine.state.keys) == left
