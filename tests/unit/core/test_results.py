"""What workers send: recorded once, fenced by attempt and token; claims of at-most-once steps."""

from __future__ import annotations

import msgspec
import pytest

from headrace.messages import Claim, ResultStatus, StepResult
from support.corekit import Kit
from support.plans import plan, retry, task


def two() -> Kit:
    kit = Kit()
    kit.start(plan(task("a"), task("b", needs=["a"])))
    return kit


def test_a_result_sent_twice_is_recorded_once() -> None:
    kit = two()
    result = kit.result(kit.task("a"), ResultStatus.COMPLETED, output={"n": 1})
    assert kit.report(result) == []
    position = len(kit.log)
    assert kit.report(result) == [], "it is in the log: the worker may forget it"
    assert kit.report(result, result) == []
    assert len(kit.log) == position


def test_a_result_twice_in_one_batch_is_recorded_once() -> None:
    kit = two()
    result = kit.result(kit.task("a"), ResultStatus.COMPLETED)
    assert kit.report(result, result) == []
    assert kit.names() == ["StepCompleted a", "StepScheduled b"]


def test_an_old_attempt_is_refused() -> None:
    kit = two()
    old = kit.result(kit.task("a"), ResultStatus.COMPLETED)
    kit.lose("a")
    position = len(kit.log)
    assert kit.report(old) == [0]
    assert len(kit.log) == position
    assert kit.task("a").attempt == 2
    kit.complete("a")


@pytest.mark.parametrize("field", ["token", "attempt", "step"])
@pytest.mark.parametrize("by", [-1, 1])
def test_a_wrong_token_attempt_or_step_is_refused(field: str, by: int) -> None:
    kit = two()
    right = kit.result(kit.task("a"), ResultStatus.COMPLETED)
    wrong = msgspec.structs.replace(right, **{field: getattr(right, field) + by})
    position = len(kit.log)
    assert kit.report(wrong) == [0]
    assert len(kit.log) == position
    assert kit.report(right) == []


def test_tokens_rise_with_every_dispatch_of_the_shard() -> None:
    kit = Kit()
    digest = kit.store(plan(task("a"), task("b")))
    kit.start(digest, "x")
    kit.start(digest, "y")
    kit.lose("a", run="x")
    kit.kill()
    kit.lose("b", run="y")
    tokens = [event.token for name in "xy" for event in kit.scheduled(name)]
    assert sorted(tokens) == list(range(1, 7))


def test_results_of_an_ended_or_unknown_run_are_refused() -> None:
    kit = two()
    late = kit.result(kit.task("a"), ResultStatus.COMPLETED)
    kit.cancel()
    kit.lose("a")
    assert kit.state() == "CANCELLED"
    unknown = msgspec.structs.replace(late, run="default/other")
    far = msgspec.structs.replace(late, step=99)
    position = len(kit.log)
    assert kit.report(unknown, far) == [0, 1]
    kit.report(late)
    assert len(kit.log) == position


def test_a_mixed_batch_names_what_it_refused() -> None:
    kit = Kit()
    kit.start(plan(task("a"), task("b"), task("c")))
    results = [kit.result(kit.task(name), ResultStatus.COMPLETED) for name in "abc"]
    kit.lose("b")
    assert kit.report(*results) == [1]
    assert kit.statuses() == {"a": "COMPLETED", "b": "DISPATCHED", "c": "COMPLETED"}


def test_outputs_that_cannot_be_read_fail_the_step_and_not_the_shard() -> None:
    for output in (b"\x81\xa1k\xa2\xff\xfe", msgspec.msgpack.encode([1, 2])):
        kit = two()
        good = kit.result(kit.task("a"), ResultStatus.COMPLETED)
        assert kit.report(msgspec.structs.replace(good, output=msgspec.Raw(output))) == []
        assert kit.run().errors[kit.instance("a")].type == "invalid-output"
        assert kit.state() == "FAILED"
        kit.view()
        kit.history()


def test_a_worker_that_stopped_it_hands_it_back() -> None:
    kit = two()
    kit.fail("a", "worker-stopped")
    assert kit.names() == ["StepReturned a", "StepScheduled a"]


def test_cancelled_by_nobodys_order_is_a_failure() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(2))))
    kit.cancelled("a")
    assert kit.status("a") == "WAITING"


# --- at most once ------------------------------------------------------------------------------


def paying(**options: object) -> Kit:
    kit = Kit()
    kit.start(
        plan(
            task("pay", effect="at-most-once", **options),
            task("ask", needs=["pay"], condition="failure()"),
        )
    )
    return kit


def test_the_task_says_that_it_needs_a_claim_and_until_when_it_may_start() -> None:
    kit = paying()
    options = kit.task("pay").options
    assert options is not None
    assert options.at_most_once
    assert options.start_by_ms > kit.now_ms


def test_a_claim_is_logged_and_idempotent_for_one_life_of_one_worker() -> None:
    kit = paying()
    assert kit.claim("pay").granted
    assert kit.names() == ["StepClaimed pay"]
    position = len(kit.log)
    assert kit.claim("pay").granted
    assert len(kit.log) == position
    assert not kit.claim("pay", life="2").granted
    assert not kit.claim("pay", worker="other").granted
    kit.kill(snapshot=True)
    assert kit.claim("pay").granted
    assert not kit.claim("pay", life="2").granted


def test_a_lost_claimed_step_is_unknown_and_never_runs_again() -> None:
    kit = paying()
    old = kit.result(kit.task("pay"), ResultStatus.COMPLETED)
    assert kit.claim("pay").granted
    kit.lose("pay")
    assert kit.status("pay") == "UNKNOWN"
    assert kit.report(old) == [0]
    assert kit.dispatched() == ["ask"], "the workflow decides what follows"
    kit.kill()
    assert kit.dispatched() == ["ask"]
    kit.complete("ask")
    assert kit.state() == "FAILED"
    assert "pay" in kit.run().ended_reason


def test_lost_before_the_claim_it_runs_elsewhere() -> None:
    kit = paying()
    old = kit.task("pay")
    kit.lose("pay")
    assert kit.task("pay").attempt == 2
    claim = Claim(1, "w", "1", old.run, old.step, old.attempt, old.token)
    assert not kit.tick(lambda m: m.claim(claim, start_by_ms=0)).granted


def test_an_unknown_step_may_be_tolerated() -> None:
    kit = paying(continue_on_error=True)
    assert kit.claim("pay").granted
    kit.lose("pay")
    assert kit.state() == "COMPLETED"


def test_lost_while_being_cancelled_it_is_unknown_all_the_same() -> None:
    kit = paying()
    assert kit.claim("pay").granted
    kit.cancel()
    kit.lose("pay")
    assert kit.status("pay") == "UNKNOWN"
    assert kit.state() == "CANCELLED"


@pytest.mark.parametrize("field", ["token", "attempt", "step", "run"])
def test_a_claim_that_names_something_else_is_refused(field: str) -> None:
    kit = paying()
    found = kit.task("pay")
    right = Claim(1, "w", "1", found.run, found.step, found.attempt, found.token)
    value = "default/other" if field == "run" else getattr(right, field) + 7
    wrong = msgspec.structs.replace(right, **{field: value})
    assert not kit.tick(lambda m: m.claim(wrong, start_by_ms=0)).granted


def test_a_doomed_step_cannot_be_claimed() -> None:
    kit = paying()
    kit.cancel()
    assert not kit.claim("pay").granted


def test_results_are_plain_tuples_of_data() -> None:
    kit = two()
    result = kit.result(kit.task("a"), ResultStatus.COMPLETED, output={"n": 1})
    data = msgspec.msgpack.encode(result)
    assert msgspec.msgpack.decode(data, type=StepResult) == result
