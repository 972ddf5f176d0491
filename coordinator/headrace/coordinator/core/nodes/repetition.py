"""Repetitions: `while`, `until`, `repeat`. One iteration after the other, each made when it begins.

The conditions see the steps of the last iteration as `steps` (or `tasks`), and `loop`.
"""

from __future__ import annotations

from headrace.coordinator.core.contexts import Contexts, functions
from headrace.coordinator.core.nodes.failing import fail_node
from headrace.coordinator.core.nodes.fields import deadline_ms, evaluated
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError, InvalidRequest
from headrace.events import Expanded
from headrace.expressions import Expression, to_number, truthy
from headrace.plan import Loop


def begin(tick: Tick, run: Run, instance: int, loop: Loop) -> None:
    """Begin a repetition, without an iteration yet; its first look makes that."""
    _times(run, instance, loop)
    due_ms = deadline_ms(run, instance, loop.timeout_ms, tick.state.now_ms)
    tick.emit(run, Expanded(instance, 0, [], 0, due_ms=due_ms))
    if due_ms:
        tick.timers.push(due_ms, run.key, instance)


def goes_on(tick: Tick, run: Run, instance: int, loop: Loop) -> bool:
    """Make the next iteration if there is to be one; tell whether the repetition has not ended."""
    counts = run.counts[instance]
    if counts.ended < counts.total:
        return True
    if counts.bad or counts.cancelled or run.cancelling:
        return False
    try:
        if not _wants_more(run, instance, loop, counts.total):
            return False
    except HeadraceError as error:
        fail_node(tick, run, instance, "expression", str(error))
        return True
    if counts.total >= loop.limit:
        text = f"{counts.total} iterations, and it has not ended (max-iterations)"
        fail_node(tick, run, instance, "limit-exceeded", text)
        return True
    if len(run.status) + run.program.nodes[run.locate(instance)[0] + 1].size > tick.limits.nodes:
        text = f"a run has at most {tick.limits.nodes} nodes"
        fail_node(tick, run, instance, "limit-exceeded", text)
        return True
    tick.emit(run, Expanded(instance, counts.total, [None], counts.total + 1))
    return True


def _wants_more(run: Run, instance: int, loop: Loop, made: int) -> bool:
    """Ask number and conditions, after *made* iterations."""
    node = run.locate(instance)[0]
    after, before = run.program.after.get(node), run.program.before.get(node)
    if made and after is not None and _holds(run, instance, after, made - 1):
        return False
    times = _times(run, instance, loop)
    if times is not None and made >= times:
        return False
    return before is None or _holds(run, instance, before, made)


def _times(run: Run, instance: int, loop: Loop) -> int | None:
    value = evaluated(run, instance, loop.times)
    if value is None:
        return None
    number = to_number(value)
    if not 0 <= number <= loop.limit or number != int(number):
        text = f"repeat is a whole number from 0 to {loop.limit}, not {value!r:.80}"
        raise InvalidRequest(text)
    return int(number)


def _holds(run: Run, instance: int, condition: Expression, index: int) -> bool:
    """Evaluate a condition at iteration *index*, as seen from the last one that was made."""
    bases = run.iterations.get(instance, ())
    at = bases[-1] if bases else instance
    contexts = Contexts(run, at, iteration=(instance, index))
    return truthy(condition.evaluate(contexts, functions(run, at)))
