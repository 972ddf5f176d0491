"""Workers that are asked to finish what they have, and stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from headrace.client._submit import MUTATION_S
from headrace.client._transport import Transport
from headrace.errors import NotFound, Unreachable
from headrace.messages import DrainWorker, ServerInfo, WorkerView, encode, subjects

NAMED_MAX = 10
"""Of the workers that there are, in a message."""
PAUSE_S = 0.25


async def drain(
    transport: Transport,
    look: Callable[[], Awaitable[ServerInfo]],
    worker: str,
    grace_ms: int | None,
) -> WorkerView:
    """See `Client.drain`; *look* tells which workers there are."""
    until = time.monotonic() + MUTATION_S
    # On the wire 0 stands for the worker's own grace.
    order = encode(DrainWorker(0 if grace_ms is None else max(grace_ms, 1)))
    name, _, incarnation = worker.partition(".")
    last: WorkerView | None = None
    while True:
        workers = (await look()).workers
        found = [
            view for view in workers if view.id == name and incarnation in ("", view.incarnation)
        ]
        alive = [view for view in found if view.state != "Offline"]
        if not alive and last is None:
            others = sorted(view.id for view in workers if view.state != "Offline")
            known = ", ".join(others[:NAMED_MAX]) or "none"
            raise NotFound(f"no worker {worker} is online (online: {known})")
        if not alive:
            assert last is not None
            return msgspec.structs.replace(last, state="Offline")
        last = alive[0]
        if last.state == "Draining":
            return last
        # What is started in its place is not meant.
        incarnation = last.incarnation
        if time.monotonic() >= until:
            message = f"worker {worker} did not begin to drain in {MUTATION_S:g} s"
            raise Unreachable(f"{message}; a login for it must be an operator's")
        await transport.publish(
            subjects.worker_orders(last.namespace, name, last.incarnation, last.capabilities), order
        )
        await asyncio.sleep(PAUSE_S)
