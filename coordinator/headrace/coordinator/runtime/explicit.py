"""Ids that users choose stay unique for as long as the archive remembers them."""

from __future__ import annotations

from headrace.coordinator.archive.store import Archive
from headrace.coordinator.core import Refusal
from headrace.coordinator.core.requests import fingerprint
from headrace.coordinator.runtime.inbox import PendingBatch, reply_of
from headrace.coordinator.runtime.owner import Owner
from headrace.errors import HeadraceError
from headrace.messages import SubmitRun, subjects


def needs_check(pending: PendingBatch) -> bool:
    """Tell whether *pending* holds a submit with an id that the user chose."""
    return any(isinstance(r, SubmitRun) and r.explicit for r in pending.requests)


async def check_explicit(archive: Archive, owner: Owner, pending: PendingBatch) -> None:
    """Answer those submits whose id belongs to a closed run; the owner decides about the rest."""
    for index, request in enumerate(pending.requests):
        if not isinstance(request, SubmitRun) or not request.explicit:
            continue
        machine = owner.machine
        key = subjects.run_key(pending.namespace, request.run)
        if machine is not None and key in machine.state.runs:
            continue
        try:
            found = await archive.get(pending.namespace, request.run)
        except HeadraceError as error:
            pending.answer(index, reply_of(Refusal.of(error)))
            pending.requests[index] = None
            continue
        if found is None:
            continue
        if found.fingerprint == fingerprint(request.plan, request.input):
            refusal = Refusal("archived", f"run {request.run} has ended, it is in the archive")
        else:
            refusal = Refusal(
                "conflict",
                f"run {request.run} exists with another definition or input; choose another id",
            )
        pending.answer(index, reply_of(refusal))
        pending.requests[index] = None
