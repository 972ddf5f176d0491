"""Cancel, pause and resume, signals, approvals: what people do to a live run."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import Limits, Refusal
from headrace.events import CancelRequested, SignalReceived, WaitEnded
from support.corekit import Kit
from support.plans import group, job, loop, plan, retry, sleep, task, wait

# --- cancel ------------------------------------------------------------------------------------


def test_cancel_stops_what_runs_and_drops_what_waits() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a"),
            task("b", needs=["a"]),
            wait("w"),
            sleep("s", 1_000_000),
            loop("l", task("x"), [1, 2, 3], max_parallel=1),
        )
    )
    kit.cancel(reason="enough", actor="ann")
    assert kit.statuses() == {
        "a": "DISPATCHED",
        "b": "PENDING",
        "w": "CANCELLED",
        "s": "CANCELLED",
        "l": "RUNNING",
        "l[0]": "DISPATCHED",
        "l[1]": "CANCELLED",
        "l[2]": "CANCELLED",
    }
    assert sorted(order.cancel.step for order in kit.orders) == sorted(kit.run().tokens)
    assert kit.orders[0].cancel.reason == "enough (ann)"
    kit.cancelled("a")
    assert kit.status("b") == "CANCELLED"
    assert kit.state() == "RUNNING", "only the worker's word ends a step that it runs"
    kit.lose("l[0]")
    assert kit.state() == "CANCELLED"
    assert kit.run().ended_reason == "enough (ann)"


def test_a_cancelled_runs_always_steps_still_run() -> None:
    kit = Kit()
    kit.start(
        plan(
            job(
                "j",
                task("a"),
                task("b"),
                task("clean", condition="always()"),
                task("tell", condition="cancelled()"),
                task("mend", condition="failure()"),
            )
        )
    )
    kit.cancel()
    kit.cancelled("j/a")
    assert kit.dispatched() == ["j/clean"]
    kit.complete("j/clean")
    assert kit.dispatched() == ["j/tell"]
    kit.complete("j/tell")
    assert kit.status("j/mend") == "CANCELLED"
    assert kit.state() == "CANCELLED"


def test_a_running_always_step_is_left_alone_the_first_time() -> None:
    """As on GitHub; asked again, everything stops."""
    kit = Kit()
    kit.start(plan(task("a"), task("clean", condition="always()")))
    kit.cancel()
    assert kit.run().doomed == {kit.instance("a")}
    kit.kill(snapshot=True)
    kit.cancel()
    assert kit.run().doomed == {kit.instance("a"), kit.instance("clean")}
    assert kit.orders[-1].cancel.step == kit.instance("clean")
    kit.cancel()
    assert len(kit.all_events(kind=CancelRequested)) == 2


def test_what_was_faster_than_the_cancel_is_recorded() -> None:
    kit = Kit()
    kit.start(plan(task("a"), task("b", needs=["a"])))
    kit.cancel()
    kit.complete("a", {"n": 1})
    assert kit.statuses() == {"a": "COMPLETED", "b": "CANCELLED"}
    assert kit.state() == "CANCELLED"


def test_a_cancelled_step_is_not_retried() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(5))))
    kit.cancel()
    kit.fail("a")
    assert kit.state() == "CANCELLED"


def test_a_step_that_waits_for_its_retry_is_cancelled() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(5))))
    kit.fail("a")
    kit.cancel()
    assert kit.state() == "CANCELLED"
    kit.advance(10_000)


def test_a_step_handed_back_after_the_cancel_is_cancelled() -> None:
    kit = Kit()
    kit.start(plan(task("a")))
    kit.cancel()
    kit.hand_back("a")
    assert kit.state() == "CANCELLED"


def test_orders_to_stop_are_given_again_by_a_new_leader() -> None:
    kit = Kit()
    kit.start(plan(task("a")))
    kit.cancel()
    kit.orders.clear()
    kit.kill()
    assert [order.cancel.step for order in kit.orders] == [kit.instance("a")]


def test_an_ended_run_cannot_be_cancelled() -> None:
    kit = Kit()
    kit.start(plan(group("empty")))
    reply = kit.cancel()
    assert isinstance(reply, Refusal)
    assert reply.code == "conflict"
    assert "COMPLETED" in reply.message
    reply = kit.cancel("nobody")
    assert reply.code == "not-found"


# --- pause -------------------------------------------------------------------------------------


def test_a_paused_run_dispatches_nothing_and_records_results() -> None:
    kit = Kit()
    kit.start(plan(task("a"), task("b", needs=["a"]), task("r", retry=retry(2))))
    kit.fail("r")
    kit.pause(reason="maintenance")
    kit.complete("a")
    kit.advance(10_000)
    assert kit.dispatched() == []
    assert kit.view().conditions == ["PAUSED", "WAITING"]
    assert "maintenance" in kit.explain().summary
    kit.kill(snapshot=True)
    assert kit.dispatched() == []
    kit.resume()
    assert sorted(kit.dispatched()) == ["b", "r"]


def test_pause_and_resume_twice_change_nothing() -> None:
    kit = Kit()
    kit.start(plan(task("a")))
    kit.pause()
    kit.pause()
    assert kit.names() == ["RequestSeen"]
    kit.resume()
    kit.resume()
    assert kit.names() == ["RequestSeen"]
    assert kit.dispatched() == ["a"]


def test_a_lost_step_of_a_paused_run_waits() -> None:
    kit = Kit()
    kit.start(plan(task("a")))
    kit.pause()
    kit.lose("a")
    assert kit.dispatched() == []
    kit.resume()
    assert kit.dispatched() == ["a"]


def test_a_held_run_can_be_paused() -> None:
    from support.plans import key

    kit = Kit()
    digest = kit.store(plan(task("a"), concurrency=key("k")))
    kit.start(digest, "one")
    kit.start(digest, "two")
    kit.pause("two")
    kit.cancel("one")
    kit.cancelled("a", run="one")
    assert kit.state("two") == "RUNNING"
    assert kit.dispatched("two") == []
    kit.resume("two")
    assert kit.dispatched("two") == ["a"]


# --- signals -----------------------------------------------------------------------------------


def test_a_signal_is_delivered_to_its_wait() -> None:
    kit = Kit()
    kit.start(
        plan(wait("w", "go"), task("a", needs=["w"], inputs={"n": "${{ needs.w.outputs.n }}"}))
    )
    assert "waiting for signal go" in kit.explain().summary
    kit.signal("go", {"n": 7}, actor="ann")
    assert kit.names()[:2] == ["SignalReceived", "WaitEnded w"]
    assert kit.inputs("a") == {"n": 7}
    assert kit.output("w") == {
        "n": 7,
        "payload": {"n": 7},
        "actor": "ann",
        "received_ms": kit.now_ms,
        "timed_out": False,
    }


def test_an_early_signal_is_kept() -> None:
    kit = Kit()
    kit.start(plan(task("a"), wait("w", "go", needs=["a"])))
    kit.signal("go", 1)
    kit.signal("go", 2)
    kit.kill(snapshot=True)
    kit.complete("a")
    assert kit.output("w")["payload"] == 1, "the oldest first"
    assert [signal.name for signal in kit.run().signals if True] == []
    assert kit.state() == "COMPLETED"


def test_a_signal_of_another_name_does_not_wake_it() -> None:
    kit = Kit()
    kit.start(plan(wait("w", "go")))
    kit.signal("stop")
    assert kit.status("w") == "WAITING"
    assert len(kit.run().signals) == 1


def test_a_signal_twice_with_one_request_id_is_one_signal() -> None:
    kit = Kit()
    kit.start(plan(wait("v", "go"), wait("w", "go", needs=["v"])))
    for _ in range(3):
        kit.signal("go", 1, request_id="same", not_after_ms=kit.now_ms + 1_000)
    kit.kill(snapshot=True)
    kit.signal("go", 1, request_id="same", not_after_ms=kit.now_ms + 1_000)
    assert len(kit.all_events(kind=SignalReceived)) == 1
    assert kit.statuses() == {"v": "COMPLETED", "w": "WAITING"}


def test_a_signal_that_comes_after_its_time_is_refused() -> None:
    kit = Kit()
    kit.start(plan(wait("w", "go")))
    reply = kit.signal("go", not_after_ms=kit.now_ms - 1)
    assert reply.code == "too-late"
    assert kit.status("w") == "WAITING"


def test_one_signal_wakes_one_of_several_waits() -> None:
    kit = Kit()
    kit.start(plan(wait("v", "go"), wait("w", "go"), wait("x", "go")))
    kit.signal("go", 1)
    kit.signal("go", 2)
    assert kit.statuses() == {"v": "COMPLETED", "w": "COMPLETED", "x": "WAITING"}
    assert [event.outcome for event in kit.all_events(kind=WaitEnded)] == ["signal", "signal"]


def test_a_wait_has_a_timeout() -> None:
    kit = Kit()
    kit.start(plan(wait("w", "go", timeout_ms=5_000)))
    kit.advance(5_000)
    assert kit.state() == "FAILED"
    assert kit.run().ended_reason == "w: timeout: signal go did not come in time"
    assert kit.run().waits == {}


def test_a_wait_has_a_default() -> None:
    kit = Kit()
    kit.start(plan(wait("w", "go", timeout_ms=5_000, default={"ok": False}, has_default=True)))
    kit.advance(5_000)
    assert kit.state() == "COMPLETED"
    assert kit.output("w") == {"ok": False, "payload": {"ok": False}, "timed_out": True}


def test_the_name_of_a_signal_may_be_an_expression() -> None:
    kit = Kit()
    kit.start(plan(wait("w", "go-${{ inputs.env }}")), input={"env": "prod"})
    kit.signal("go-prod")
    assert kit.state() == "COMPLETED"


def test_an_approval_is_a_signal_and_knows_who_gave_it() -> None:
    kit = Kit()
    kit.start(
        plan(
            wait("ok", "approval", approval=True),
            task("a", needs=["ok"], condition="needs.ok.outputs.approved"),
        )
    )
    kit.signal("approval", {"approved": True}, actor="ann")
    assert kit.output("ok")["actor"] == "ann"
    assert kit.dispatched() == ["a"]


def test_kept_signals_and_their_payloads_have_limits() -> None:
    kit = Kit(limits=Limits(signals=2, input_bytes=100))
    kit.start(plan(task("a")))
    kit.signal("x")
    kit.signal("x")
    assert kit.signal("x").code == "limit-exceeded"
    other = Kit(limits=Limits(input_bytes=100))
    other.start(plan(task("a")))
    assert other.signal("x", "y" * 200).code == "limit-exceeded"


@pytest.mark.parametrize("how", ["signal", "pause", "resume", "cancel"])
def test_a_mutation_sent_again_is_answered_again_after_the_run_has_ended(how: str) -> None:
    kit = Kit()
    kit.start(plan(wait("w", "go"), sleep("s", 1)))
    options = {"request_id": "once", "not_after_ms": kit.now_ms + 60_000}
    send = {"signal": lambda: kit.signal("go", **options)}.get(
        how, lambda: getattr(kit, how)(**options)
    )
    assert not isinstance(send(), Refusal)
    kit.resume()
    kit.signal("go")
    kit.advance(1)
    assert kit.state() in ("COMPLETED", "CANCELLED")
    assert not isinstance(send(), Refusal)


def test_a_correlation_key_tells_waits_of_one_name_apart() -> None:
    kit = Kit()
    waits = [
        wait(name, "paid", correlation_key="order-${{ inputs.n }}-" + name) for name in ("a", "b")
    ]
    kit.start(plan(*waits, wait("c", "paid")), input={"n": 7})
    assert "waiting for signal paid:order-7-a" in kit.explain().reasons[0].reason
    kit.signal("paid", {"sum": 1}, correlation_key="order-7-b")
    assert (kit.status("a"), kit.status("b"), kit.status("c")) == (
        "WAITING",
        "COMPLETED",
        "WAITING",
    )
    kit.signal("paid", {"sum": 2})
    assert (kit.status("a"), kit.status("c")) == ("WAITING", "COMPLETED")
    kit.kill(snapshot=True)
    kit.signal("paid", {"sum": 3}, correlation_key="order-7-a")
    assert kit.output("a")["sum"] == 3
    assert kit.state() == "COMPLETED"


def test_an_early_signal_with_a_key_is_kept_for_it() -> None:
    kit = Kit()
    kit.start(plan(sleep("s", 5), wait("w", "go", needs=["s"], correlation_key="k")))
    kit.signal("go", 1, correlation_key="other")
    kit.signal("go", 2, correlation_key="k")
    kit.next_timer()
    assert kit.output("w")["payload"] == 2


@pytest.mark.parametrize("key", ["${{ inputs.none }}", "x" * 257])
def test_a_correlation_key_that_is_none_fails_the_wait(key: str) -> None:
    kit = Kit()
    kit.start(plan(wait("w", "go", correlation_key=key)))
    assert kit.state() == "FAILED"
    assert "a correlation key has 1 to 256 characters" in kit.run().ended_reason


def test_an_approval_records_who_and_the_comment() -> None:
    kit = Kit()
    kit.start(plan(wait("w", "release", approval=True), wait("v", "release", approval=True)))
    kit.signal("release", None, actor="ann")
    kit.signal("release", {"approved": False, "comment": "too early"}, actor="bob")
    first, second = kit.output("v"), kit.output("w")
    assert {(o["approved"], o["by"], o["comment"]) for o in (first, second)} == {
        (True, "ann", ""),
        (False, "bob", "too early"),
    }
    received = [entry.data for entry in kit.history() if entry.type == "SignalReceived"]
    assert [data["actor"] for data in received] == ["ann", "bob"]
