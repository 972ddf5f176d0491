"""What nodes have come to: their outcomes and conclusions, and their outputs as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.state import EMPTY_MAP, Run
from headrace.expressions import Opaque
from headrace.payloads import BLOB_KEY, replaced
from headrace.plan import Choice, Loop

_decode = msgspec.msgpack.Decoder().decode

RESULTS = {
    status.COMPLETED: "success",
    status.FAILED: "failure",
    status.UNKNOWN: "failure",
    status.CANCELLED: "cancelled",
    status.SKIPPED: "skipped",
}


def outcome(run: Run, instance: int) -> str:
    """Return `success failure cancelled skipped`, or "" while it has not ended."""
    if instance in run.errors and run.status[instance] == status.SKIPPED:
        # Its policy made it count as skipped.
        return "failure"
    if instance in run.held:
        return "failure"
    return RESULTS.get(run.status[instance], "")


def conclusion(run: Run, instance: int) -> str:
    """Return the outcome after `continue-on-error`."""
    if instance in run.tolerated:
        return "success"
    return RESULTS.get(run.status[instance], "")


def read(data: bytes) -> Any:
    """Decode outputs or inputs; what lies in the object store can only be passed on."""
    value = _decode(data)
    return replaced(value, Opaque) if BLOB_KEY in data else value


def outputs(run: Run, instance: int) -> dict[str, Any]:
    """Return the outputs of *instance* as a JSON object.

    A matrix merges its legs (the last one in order wins, as on GitHub); a `for-each` has
    ``results``, one object of outputs an item, in the order of the items; a broadcast has
    ``workers`` and ``results``, by worker.
    """
    node, _, _ = run.locate(instance)
    found = run.program.nodes[node]
    if isinstance(found, Loop):
        bases = run.iterations.get(instance, ())
        if found.kind == "matrix":
            merged: dict[str, Any] = {}
            for base in bases:
                merged.update({k: v for k, v in outputs(run, base).items() if v not in (None, "")})
            return merged
        if found.kind == "broadcast":
            workers = [run.broadcast_to(base) for base in bases]
            results = [body_outputs(run, base) for base in bases]
            return {"workers": workers, "results": dict(zip(workers, results, strict=True))}
        return {"results": [body_outputs(run, base) for base in bases]}
    if isinstance(found, Choice):
        return _chosen(run, instance)
    value = read(run.outputs.get(instance, EMPTY_MAP))
    return value if isinstance(value, dict) else {"result": value}


def _chosen(run: Run, instance: int) -> dict[str, Any]:
    """Return what the branch gave that ran."""
    node, shift, _ = run.locate(instance)
    for child in run.program.children[node]:
        if run.status[child + shift] == status.COMPLETED:
            given = body_outputs(run, child + shift)
            return given if isinstance(given, dict) else {"result": given}
    return {}


def body_outputs(run: Run, instance: int) -> Any:
    """Return what one iteration gives: its own outputs, its only task's, or all tasks' by name."""
    node, shift, _ = run.locate(instance)
    own = outputs(run, instance)
    children = run.program.children[node]
    if own or not children or isinstance(run.program.nodes[node], Loop):
        return own
    if len(children) == 1:
        return body_outputs(run, children[0] + shift)
    return {run.program.nodes[c].name: body_outputs(run, c + shift) for c in children}
