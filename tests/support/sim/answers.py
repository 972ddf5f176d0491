"""Answers, to clients and to workers: is what they say in the log by now?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.messages import AcquireLock, TurnReply, TurnReport, UpdateRun, subjects
from headrace.plan import decode_plan, plan_digest
from support.sim.instances import DISPATCHED

if TYPE_CHECKING:
    from support.sim.oracle import ShardOracle
    from support.sim.runs import RunModel

_decode = msgspec.msgpack.Decoder().decode


def check_answer(shard: ShardOracle, request: Any, result: bytes) -> None:
    """A coordinator answers *request* with *result*."""
    check = _CHECKS.get(type(request).__name__)
    if check is not None:
        check(shard, request, _decode(result))


def check_update(shard: ShardOracle, run: RunModel | None, request: Any, view: Any) -> None:
    """A client was told what became of its update."""
    if run is None or view["state"] == "PENDING":
        return
    found = run.update(request.request_id)
    if found is None or found.ended_as(view["state"]) != view.get("value"):
        shard.fault(f"update {request.request_id} of {request.run} is shown as {view}")


def check_results(shard: ShardOracle, batch: Any, reply: Any) -> None:
    """A worker was told what became of its results."""
    if reply.retry_after_ms:
        return
    for index, result in enumerate(batch.results):
        run = shard.runs.get(result.run)
        step = run.instances[result.step] if run is not None else None
        if step is None or step.state != DISPATCHED or step.attempt != result.attempt:
            continue
        if index not in reply.refused:
            shard.fault(f"result of {result.run} step {result.step} confirmed, not in the log")
        elif step.token == result.token:
            shard.fault(
                f"result of {result.run} step {result.step} attempt {result.attempt} is "
                "refused for good, though it is the very one that is waited for"
            )


def check_claim(shard: ShardOracle, claim: Any, reply: Any) -> None:
    """A worker was told whether it may begin."""
    if not reply.granted:
        return
    run = shard.runs.get(claim.run)
    step = run.instances[claim.step] if run is not None else None
    if step is None or not step.claimed or step.attempt != claim.attempt:
        shard.fault(f"claim of {claim.run} step {claim.step} is granted and not in the log")


def check_turn(shard: ShardOracle, report: TurnReport, reply: TurnReply) -> None:
    """A worker was told what became of its report, and what else there is in the journal."""
    run = shard.runs.get(report.run)
    if run is None or reply.retry_after_ms:
        return
    logged = run.reported >= (report.attempt, report.sequence)
    says = bool(report.changes or report.end is not None)
    if reply.refused:
        if says and not logged and run.has_turn(report.attempt, report.token):
            shard.fault(f"a report of {report.run} is refused, and it has the turn: {reply}")
    elif reply.overtaken:
        # What follows from them was not taken: the function goes another way.
        for change in report.changes[: report.ahead]:
            if change.key not in run.journal:  # type: ignore[union-attr]
                shard.fault(f"{change} of {report.run} is confirmed, and not in the log")
    elif says and not logged:
        shard.fault(f"report {report.sequence} of {report.run} is confirmed, and not in the log")
    else:
        for entry in reply.entries:
            wrong = run.differs(entry.key, entry.state, _decode(entry.value))
            if wrong:
                shard.fault(f"a worker is told of {report.run}: {wrong}")


def check_unknown(shard: ShardOracle, run: RunModel | None, request: Any, message: str) -> None:
    """A client was told that what it asks about is not there."""
    if run is None or run.evicted:
        return
    if isinstance(request, UpdateRun) and run.has_answered(request.request_id):
        return  # the answer went with its generation
    kind = type(request).__name__
    shard.fault(f"{kind} of {request.run} is refused: {message}; the log knows it well")


def check_changed(shard: ShardOracle, request: Any) -> None:
    """A client was told that its change is done: the log has it."""
    seen = request.request_id in shard.seen
    kind = type(request).__name__
    if kind == "RegisterDefinition":
        digest = plan_digest(decode_plan(request.plan))
        seen = seen or digest in shard.registry.versions.values()
    elif kind == "SetVariable":
        # What is so already is no change.
        seen = seen or any(request.value == v.get(request.name) for v in shard.registry.variables)
    elif kind == "SetNamespace":
        seen = seen or request.weight in (1.0, *shard.registry.weights)
    elif kind == "ReleaseLock" and request.acquired_by:
        return
    if not seen:
        shard.fault(f"{kind} {request.request_id} is acknowledged and not in the log")


def _definition(shard: ShardOracle, request: Any, view: Any) -> None:
    key, version = f"default/{view['name']}", view["version"]
    if shard.registry.versions.get((key, version)) != view["digest"]:
        shard.fault(f"{key}@{version} is shown as {view['digest']}")
    plan = getattr(request, "plan", b"") or view.get("plan", b"")
    if plan and plan_digest(decode_plan(plan)) != view["digest"]:
        shard.fault(f"{key}@{version} is shown with another plan")


def _definitions(shard: ShardOracle, request: Any, views: Any) -> None:
    for view in views:
        _definition(shard, None, view)


def _variables(shard: ShardOracle, request: Any, view: Any) -> None:
    if view.get("values", {}) not in shard.registry.variables:
        shard.fault(f"variables are shown as {view}, they were {shard.registry.variables}")


def _namespace(shard: ShardOracle, request: Any, view: Any) -> None:
    if view.get("weight", 1.0) not in (1.0, *shard.registry.weights):
        shard.fault(f"a weight is shown as {view}, they were {shard.registry.weights}")


def _lock(shard: ShardOracle, request: Any, view: Any) -> None:
    holder = view.get("holder", "")
    key = subjects.lock_key("default", view["name"])
    if not holder:
        return
    token, _ = shard.homes.grants.get((key, holder), (0, 0))
    if token != view.get("token", 0):
        shard.fault(f"{key} is shown as {holder}'s with token {view.get('token')}, it has {token}")
    asks = isinstance(request, AcquireLock) and view.get("granted", False)
    if asks and holder != f"@{request.request_id}":
        shard.fault(f"{key} is said to be {request.request_id}'s, and is {holder}'s")


def _locks(shard: ShardOracle, request: Any, views: Any) -> None:
    for view in views:
        _lock(shard, None, view)


def _cached(shard: ShardOracle, request: Any, views: Any) -> None:
    for view in views:
        if (f"default/{view['run']}", view["path"]) not in shard.homes.stored:
            shard.fault(f"a cached result is shown that was never kept: {view}")


def _triggers(shard: ShardOracle, request: Any, views: Any) -> None:
    for view in views:
        if view.get("started", 0) > len(shard.registry.to_begin):
            shard.fault(f"{view} is shown, and {shard.registry.to_begin} were to begin")


_CHECKS: dict[str, Callable[[ShardOracle, Any, Any], None]] = {
    "RegisterDefinition": _definition,
    "GetDefinition": _definition,
    "ListDefinitions": _definitions,
    "SetVariable": _variables,
    "GetVariables": _variables,
    "SetNamespace": _namespace,
    "GetNamespace": _namespace,
    "AcquireLock": _lock,
    "RenewLock": _lock,
    "GetLock": _lock,
    "ListLocks": _locks,
    "ListCached": _cached,
    "ListTriggers": _triggers,
}
