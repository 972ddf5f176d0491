"""Hard limits: a named refusal before anything changes, or a named failure of the one run."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import Limits, Refusal, status
from support.corekit import Kit, finish
from support.plans import loop, plan, task

ONE = plan(task("a"))


def refusal(kit: Kit, what, **options) -> Refusal:
    answer = kit.submit(what, **options)
    assert isinstance(answer, Refusal), answer
    assert "default/r" not in kit.machine.state.runs
    return answer


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        ({str(n): "" for n in range(4)}, "limit-exceeded"),
        ({"n" * 11: ""}, "limit-exceeded"),
        ({"n": "v" * 11}, "limit-exceeded"),
        ({"n": "ö" * 6}, "limit-exceeded"),
        ({"": "v"}, "invalid-request"),
        ({"a\nb": "v"}, "invalid-request"),
    ],
)
def test_labels_over_a_limit(labels, code) -> None:
    kit = Kit(limits=Limits(labels=3, label_bytes=10))
    assert refusal(kit, ONE, labels=labels).code == code


def test_labels_within_the_limits_and_the_plans_own_count_too() -> None:
    kit = Kit(limits=Limits(labels=3, label_bytes=10))
    labels = {"a": "v" * 10, "b" * 10: "", "c": "ö" * 5}
    assert not isinstance(kit.submit(ONE, labels=labels), Refusal)
    labelled = plan(task("a"), labels={"own": "x"})
    answer = kit.submit(labelled, run="other", labels=labels)
    assert isinstance(answer, Refusal)
    assert "4 labels; the limit is 3" in answer.message


def test_input_and_carried_results_together() -> None:
    kit = Kit(limits=Limits(request_bytes=1_000))
    carried = {"a": b"\x81\xa1x\xc4\xc8" + b"v" * 200}
    assert not isinstance(kit.submit(ONE, input={"x": "v" * 700}, carried=carried), Refusal)
    answer = kit.submit(ONE, run="other", input={"x": "v" * 900}, carried=carried)
    assert isinstance(answer, Refusal)
    assert answer.code == "limit-exceeded"


def test_a_workflow_of_too_many_nodes() -> None:
    kit = Kit(limits=Limits(nodes=3))
    answer = refusal(kit, plan(*(task(f"t{n}") for n in range(3))))
    assert "has 4 nodes; the limit is 3" in answer.message


def test_a_run_of_too_many_events_fails_by_name() -> None:
    kit = Kit(limits=Limits(events=30))
    kit.start(plan(loop("each", task("a"), items=list(range(50)), max_parallel=1)))
    finish(kit)
    found = kit.run()
    assert found.state == status.FAILED
    assert found.ended_reason == "limit-exceeded: over 30 events"
    assert found.events < 150


def test_appends_are_as_small_as_is_asked_for() -> None:
    kit = Kit(limits=Limits(append_bytes=2_000))
    kit.start(plan(loop("each", task("a"), items=list(range(300)))))
    assert max(len(entry) for _, entry in kit.log) < 4_000
