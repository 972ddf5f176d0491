"""What a node needs of workers, against what those offer that are there."""

from __future__ import annotations

from headrace.coordinator.core.contexts import Contexts, functions
from headrace.coordinator.core.facts import Facts, WorkerFacts
from headrace.coordinator.core.state import Run
from headrace.errors import HeadraceError
from headrace.expressions import resolve, to_string
from headrace.messages import WaitReason


def evaluated_labels(run: Run, instance: int) -> tuple[str, ...]:
    """Return the capabilities that a task or a broadcast needs, in order.

    Raises `ExpressionError`.
    """
    labels: set[str] = set()
    contexts = Contexts(run, instance)
    available = functions(run, instance)
    for label in run.program.needed_capabilities(run.locate(instance)[0]):
        value = resolve(label, contexts, available)
        values = value if isinstance(value, list) else [value]
        labels.update(to_string(item) for item in values)
    return tuple(sorted(labels))


def needed_labels(run: Run, instance: int) -> tuple[str, ...]:
    """Return the capabilities that are needed; as they are written where that fails."""
    node = run.locate(instance)[0]
    fixed = run.program.capabilities[node]
    if fixed is not None:
        return fixed
    try:
        return evaluated_labels(run, instance)
    except HeadraceError:
        return run.program.needed_capabilities(node)


def able(run: Run, needed: tuple[str, ...], facts: Facts) -> list[WorkerFacts]:
    """Return the workers of the run's namespace that offer all of *needed* and take new tasks."""
    wanted = {label.lower() for label in needed}
    return [
        worker
        for worker in facts.workers
        if worker.namespace == run.program.namespace
        and wanted <= worker.capabilities
        and not worker.draining
    ]


def nobody(run: Run, instance: int, needed: tuple[str, ...], facts: Facts) -> WaitReason:
    """Say what is missing, when no worker is able."""
    path = run.path(instance)
    live = [w for w in facts.workers if w.namespace == run.program.namespace]
    listed = ", ".join(needed)
    if not live:
        text = f"no worker is connected in namespace {run.program.namespace}"
        if needed:
            text += f" (needed: {listed})"
        return WaitReason(path=path, state="READY", owner="operator", reason=text)
    missing = [label for label in needed if not any(label.lower() in w.capabilities for w in live)]
    if missing:
        text = f"no worker offers {', '.join(missing)} (needed: {listed})"
    else:
        text = f"no one worker offers all of {listed}"
    since = max((facts.missing_since_ms.get(label, 0) for label in missing), default=0)
    return WaitReason(path=path, state="READY", owner="operator", reason=text, since_ms=since)


def absent(run: Run, instance: int, worker: str, facts: Facts) -> WaitReason | None:
    """Say that the one worker that may run a step is not there; None: it is."""
    namespace = run.program.namespace
    if any(w.worker == worker and w.namespace == namespace for w in facts.workers):
        return None
    text = f"waits for worker {worker}, which is not connected"
    return WaitReason(path=run.path(instance), state="READY", owner=worker, reason=text)
