"""Locks of clients: acquired once whatever is sent again, renewed, released, expired."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.coordinator.core import Refusal
from headrace.coordinator.core.requests.locks import NAME_MAX, TTL_MS_MAX
from headrace.messages import (
    AcquireLock,
    GetKey,
    GetLock,
    ListLocks,
    LockView,
    ReleaseLock,
    RenewLock,
)
from support.core_pair import Pair
from support.corekit import NAMESPACE, Kit
from support.plans import lock, plan, rate, task

TTL_MS = 30_000


def ask(kit: Kit, request: Any, namespace: str = NAMESPACE) -> Any:
    return kit.tick(lambda m: m.request(namespace, request))


def stamp(kit: Kit, options: dict[str, Any]) -> dict[str, Any]:
    options.setdefault("name", "db")
    options.setdefault("request_id", kit.request_id())
    options.setdefault("not_after_ms", kit.now_ms + 60_000)
    return options


def acquire(kit: Kit, owner: str = "me", wait_ms: int = 0, **options: Any) -> Any:
    until_ms = kit.now_ms + wait_ms if wait_ms else 0
    options = {"ttl_ms": TTL_MS, "until_ms": until_ms, "owner": owner, **options}
    return ask(kit, AcquireLock(**stamp(kit, options)))


def renew(kit: Kit, **options: Any) -> Any:
    return ask(kit, RenewLock(**stamp(kit, {"ttl_ms": TTL_MS, **options})))


def release(kit: Kit, **options: Any) -> Any:
    return ask(kit, ReleaseLock(**stamp(kit, options)))


def get(kit: Kit, name: str = "db") -> LockView:
    found = ask(kit, GetLock(name=name))
    assert isinstance(found, LockView)
    return found


def test_one_at_a_time_with_a_growing_token() -> None:
    kit = Kit()
    first = acquire(kit)
    assert (first.granted, first.owner, first.until_ms) == (True, "me", kit.now_ms + TTL_MS)
    refused = acquire(kit, "you")
    assert isinstance(refused, Refusal)
    assert refused.message == "lock db is not free, held by me for at most 30.0 s more"
    assert release(kit, token=first.token) is None
    assert not get(kit).holder
    second = acquire(kit, "you")
    assert second.token > first.token
    assert release(kit, owner="you") is None
    assert kit.machine.state.keys == {}


def test_sent_again_it_is_the_same() -> None:
    kit = Kit()
    request = AcquireLock(**stamp(kit, {"ttl_ms": TTL_MS}))
    first = ask(kit, request)
    events = len(kit.log)
    assert ask(kit, request) == first
    assert len(kit.log) == events
    kit.kill(snapshot=True)
    assert ask(kit, request).token == first.token
    # Released, and then once more: it is not acquired again.
    request_id = kit.request_id()
    assert release(kit, token=first.token, request_id=request_id) is None
    assert release(kit, token=first.token, request_id=request_id) is None
    found = ask(kit, request)
    assert isinstance(found, Refusal)
    assert found.code == "conflict"
    assert kit.machine.state.keys == {}


def test_it_expires() -> None:
    kit = Kit()
    request = AcquireLock(**stamp(kit, {"ttl_ms": TTL_MS, "owner": "me"}))
    held = ask(kit, request)
    kit.advance(TTL_MS - 1)
    assert get(kit).owner == "me"
    kit.kill()
    assert not get(kit).holder
    assert isinstance(ask(kit, request), Refusal)
    assert isinstance(renew(kit, token=held.token), Refusal)
    assert isinstance(release(kit, token=held.token), Refusal)


def test_it_is_renewed() -> None:
    kit = Kit()
    held = acquire(kit)
    for _ in range(5):
        kit.advance(TTL_MS - 1)
        request_id = kit.request_id()
        found = renew(kit, token=held.token, request_id=request_id)
        assert found.until_ms == kit.now_ms + TTL_MS
        log = len(kit.log)
        assert renew(kit, token=held.token, request_id=request_id) == found
        assert len(kit.log) == log
    assert renew(kit, owner="me", ttl_ms=1_000).until_ms == kit.now_ms + 1_000
    kit.advance(1_000)
    assert not get(kit).holder


def test_waiting_in_line() -> None:
    kit = Kit()
    held = acquire(kit)
    second = AcquireLock(
        **stamp(kit, {"ttl_ms": TTL_MS, "owner": "two", "until_ms": kit.now_ms + 10_000})
    )
    third = AcquireLock(
        **stamp(kit, {"ttl_ms": TTL_MS, "owner": "three", "until_ms": kit.now_ms + 20_000})
    )
    assert not ask(kit, second).granted
    assert ask(kit, third).waiting == ["two", "three"]
    kit.advance(10_000)
    found = ask(kit, second)
    assert isinstance(found, Refusal), "its time is over"
    assert release(kit, token=held.token) is None
    assert ask(kit, third).granted
    assert get(kit).owner == "three"


def test_who_stops_waiting_leaves_the_line() -> None:
    kit = Kit()
    held = acquire(kit)
    acquire(kit, "two", wait_ms=60_000, request_id="two")
    assert release(kit, acquired_by="two") is None
    assert get(kit).waiting == []
    # The question was still on its way: it comes too late.
    assert release(kit, acquired_by="three") is None
    assert isinstance(acquire(kit, "three", wait_ms=60_000, request_id="three"), Refusal)
    assert release(kit, token=held.token) is None
    assert kit.machine.state.keys == {}


def test_what_cannot_be() -> None:
    kit = Kit()
    for wrong in (
        acquire(kit, name=""),
        acquire(kit, name="x" * (NAME_MAX + 1)),
        acquire(kit, name="a\nb"),
        acquire(kit, ttl_ms=0),
        acquire(kit, ttl_ms=TTL_MS_MAX + 1),
        acquire(kit, owner="x" * 257),
        renew(kit),
        release(kit),
    ):
        assert isinstance(wrong, Refusal)
        assert wrong.code == "invalid-request", wrong
    late = acquire(kit, not_after_ms=kit.now_ms - 1)
    assert isinstance(late, Refusal)
    assert late.code == "too-late"
    assert kit.machine.state.keys == {}


def test_namespaces_have_their_own() -> None:
    kit = Kit()
    acquire(kit)
    other = AcquireLock(**stamp(kit, {"ttl_ms": TTL_MS}))
    assert ask(kit, other, "other").granted
    assert [view.name for view in ask(kit, ListLocks(), "other")] == ["db"]
    assert ask(kit, GetLock(name="db"), "third").holder == ""
    assert not ask(kit, GetKey(key=f"lock:{NAMESPACE}/db"), "third").text


def test_steps_and_clients_share_locks() -> None:
    kit = Kit()
    held = acquire(kit)
    kit.start(plan(task("a", lock=lock("db"))))
    assert kit.dispatched() == []
    assert kit.explain().summary == "a: waits for lock db, held by me for at most 30.0 s more"
    kit.advance(TTL_MS)
    assert kit.dispatched() == ["a"]
    (view,) = ask(kit, ListLocks())
    assert (view.owner, view.until_ms) == ("r a", 0)
    assert view.token > held.token
    refused = release(kit, owner="r a")
    assert isinstance(refused, Refusal)
    assert "--force" in refused.message
    assert isinstance(renew(kit, token=view.token), Refusal)


def test_a_step_s_lock_is_taken_by_force() -> None:
    kit = Kit()
    kit.start(plan(task("a", lock=lock("db"))))
    assert release(kit, force=True) is None
    assert acquire(kit).granted
    kit.complete("a")
    assert kit.state() == "COMPLETED"
    assert get(kit).owner == "me"


def test_a_takeover_keeps_a_client_s_wait() -> None:
    kit = Kit()
    acquire(kit, "one")
    waiting = AcquireLock(
        **stamp(kit, {"ttl_ms": 5_000, "owner": "two", "until_ms": kit.now_ms + 60_000})
    )
    ask(kit, waiting)
    kit.kill(snapshot=True)
    kit.advance(TTL_MS)
    found = ask(kit, waiting)
    assert found.granted
    assert found.until_ms <= kit.now_ms + 5_000


@pytest.mark.parametrize("kind", ["lock", "rate"])
def test_the_home_shard_says_what_others_wait_for(kind: str) -> None:
    pair = Pair()
    options: dict[str, Any] = {"lock": lock("k2")}
    if kind == "rate":
        options = {"rate_limit": rate("k2", 1, 60_000)}
    found = plan(task("a", **options))
    pair.kits[2].start(found, "one")
    pair.kits[1].start(found, "two")
    pair.calm()
    (reason,) = pair.kits[1].explain("two").reasons
    assert reason.key == f"{kind}:{NAMESPACE}/k2"
    view = ask(pair.kits[2], GetKey(key=reason.key, holder=reason.holder))
    if kind == "lock":
        assert view.text == ", held by one a"
    else:
        assert view.due_ms == pair.kits[2].now_ms + 60_000
        assert view.text == " (1 per 60 s; 1 have begun in that time), 60.0 s more"
