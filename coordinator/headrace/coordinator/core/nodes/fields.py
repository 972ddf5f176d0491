"""Values of a node's fields, which may be expressions: evaluated when the node needs them."""

from __future__ import annotations

from typing import Any

from headrace.coordinator.core.contexts import Contexts, functions
from headrace.coordinator.core.deferral import is_the_workers
from headrace.coordinator.core.durations import parse_duration_ms
from headrace.coordinator.core.program import TASK
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.surroundings import NEED_FAILED, NEED_SUCCEEDED
from headrace.coordinator.core.waking import lets_go
from headrace.errors import HeadraceError, InvalidRequest
from headrace.expressions import resolve, to_string, truthy
from headrace.plan import Concurrency, Group, TriggerRule

KEY_LENGTH_MAX = 512


def evaluated(run: Run, instance: int, value: Any) -> Any:
    """Return *value* with its expressions evaluated at *instance*; raises `ExpressionError`."""
    return resolve(value, Contexts(run, instance), functions(run, instance))


def timeout_ms(run: Run, instance: int, value: int | str | None) -> int:
    """Return a node's timeout in ms (0: none); an expression gives minutes, as on GitHub."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    return parse_duration_ms(evaluated(run, instance, value), unit_ms=60_000)


def deadline_ms(run: Run, instance: int, value: int | str | None, now_ms: int) -> int:
    """Return when the timeout of a node that begins at *now_ms* passes; 0: never."""
    limit_ms = timeout_ms(run, instance, value)
    return now_ms + limit_ms if limit_ms else 0


def cancel_due_ms(run: Run, instance: int, now_ms: int) -> int:
    """Return when what still runs in a job is stopped, in a run that is cancelled now; 0: never."""
    group = run.program.nodes[run.locate(instance)[0]]
    if not isinstance(group, Group) or group.cancel_timeout_ms is None:
        return 0
    try:
        return deadline_ms(run, instance, group.cancel_timeout_ms, now_ms)
    except HeadraceError:
        # A broken expression must not keep the run from being cancelled.
        return 0


def is_tolerated(run: Run, instance: int) -> bool:
    """Evaluate `continue-on-error`."""
    value = run.program.nodes[run.locate(instance)[0]].continue_on_error
    if isinstance(value, bool):
        return value
    try:
        return truthy(evaluated(run, instance, value))
    except HeadraceError:
        # The step has failed already; a broken expression must not turn that into success.
        return False


def is_wanted(run: Run, instance: int, node: int) -> bool:
    """Evaluate the node's condition; `success()` is implied unless a status function is there."""
    program = run.program
    cancelling = run.cancelling and not program.undoes[node]
    rule = program.rule.get(node) if program.rule else None
    if rule is not None:
        if (program.implied[node] and cancelling) or not rule_holds(run, instance, rule):
            return False
    elif program.implied[node] and (run.taint[instance] & 1 or cancelling):
        # A workflow function that was asked to let go runs on until it has.
        return node == program.code and lets_go(run)
    condition = program.condition[node]
    if condition is None:
        return True
    contexts = Contexts(run, instance)
    if program.kind[node] == TASK and is_the_workers(condition, contexts):
        # The worker will say so if it does not hold.
        return True
    return truthy(condition.evaluate(contexts, functions(run, instance)))


def rule_holds(run: Run, instance: int, rule: TriggerRule) -> bool:
    """Tell whether what became of its needs is what the node's trigger rule asks for."""
    taint = run.taint[instance]
    succeeded, failed = taint & NEED_SUCCEEDED, taint & NEED_FAILED
    if rule == "all_success":
        return not taint & 1
    if rule == "one_success":
        return bool(succeeded)
    if rule == "one_failed":
        return bool(failed)
    if rule == "none_failed":
        return not failed
    return rule == "all_done" or bool(succeeded and not failed)


def concurrency(
    run: Run, instance: int, wanted: Concurrency, *, inside: bool = False
) -> tuple[str, int, int]:
    """Return (key, limit, mode) of a concurrency block; keys are per namespace, without case.

    *inside*: as the workflow that *instance* calls sees it.
    """
    contexts, available = Contexts(run, instance, inside=inside), functions(run, instance)
    group = to_string(resolve(wanted.group, contexts, available)).lower()
    cancel = truthy(resolve(wanted.cancel_in_progress, contexts, available))
    mode = (1 if cancel else 0) | (2 if wanted.queue == "single" else 0)
    if len(group) > KEY_LENGTH_MAX:
        raise InvalidRequest(f"a concurrency group of {len(group)} characters: {group[:80]}…")
    return f"{run.program.namespace}/{group}", max(wanted.limit, 1), mode
