"""The command `doctor`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from headrace.errors import HeadraceError, InvalidConfig, Unreachable
from headrace.flowctl._output import colourful, emit
from headrace.flowctl._settings import Settings, connect_timeout_s, find_target
from headrace.flowctl._shared import note, pass_settings, shared_options
from headrace.flowctl._text import table

if TYPE_CHECKING:
    from headrace.bus import Bus
    from headrace.client import Target
    from headrace.flowctl._doctor import Facts, Finding

STREAMS_MAX = 4_096


@click.command()
@click.option(
    "--monitor",
    default="",
    metavar="URL",
    help="Monitoring port of a NATS server (http://host:8222): shows whether it syncs.",
)
@click.option("--strict", is_flag=True, help="Warnings fail, too.")
@shared_options
@pass_settings
def doctor(settings: Settings, monitor: str, strict: bool) -> None:
    """Check a cluster, and say what to do about what is wrong.

    Looks at the broker, coordinators, releases, shards, workers, lanes and clocks, and, with a
    login that reaches them (an operator's), at streams, replicas, space and snapshots. Changes
    nothing.
    Exits 0 if nothing failed, else 1; 5 if the broker cannot be reached.

    \b
    Examples:
      flowctl doctor
      flowctl doctor --monitor http://nats-0:8222 --strict -o json
    """
    from headrace.flowctl._doctor import findings

    found = list(findings(asyncio.run(_ask(find_target(settings), monitor))))
    emit(
        settings,
        [entry._asdict() for entry in found],
        lines=lambda _: _lines(found),
        names=[entry.check for entry in found if entry.state in ("warn", "fail")],
    )
    count = {state: sum(f.state == state for f in found) for state in ("fail", "warn")}
    note(f"{count['fail']} failed, {count['warn']} warnings")
    if count["fail"] or (strict and count["warn"]):
        raise click.exceptions.Exit(1)


def _lines(found: list[Finding]) -> list[str]:
    rows = [[entry.state, entry.check, entry.text] for entry in found]
    head, *lines = table(["STATE", "CHECK", "FOUND"], rows, colour=colourful(sys.stdout))
    out = [head]
    for entry, line in zip(found, lines, strict=True):
        out.append(line)
        if entry.todo and entry.state != "ok":
            out.append(f"        -> {entry.todo}")
    return out


async def _ask(target: Target, monitor: str) -> Facts:
    """Gather the facts. Raises `Unreachable` when there is no broker."""
    from headrace.bus import connect, credentials
    from headrace.client import Client
    from headrace.config import Broker
    from headrace.flowctl._doctor import Facts

    access = target.access
    login = credentials(Broker(**access)) if access else None  # type: ignore[arg-type]
    servers = [part.strip() for part in target.server.split(",")]
    try:
        bus = await connect(
            servers, name="flowctl-doctor", wait_s=connect_timeout_s(), credentials=login
        )
    except Unreachable as error:
        raise Unreachable(f"cannot reach the broker ({target.found}): {error}") from error
    async with bus:
        begun = time.monotonic()
        await bus.flush()
        facts = Facts(
            server=target.shown,
            found=target.found,
            login="nkey_file" in access or "creds_file" in access or "@" in target.server,
            round_trip_ms=(time.monotonic() - begun) * 1_000,
            now_ms=int(time.time() * 1_000),
        )
        known = await bus.server_facts(monitor=monitor)
        facts.nats_version, facts.sync = known.version, known.sync
        if monitor and known.sync == "unknown":
            raise InvalidConfig("--monitor", f"{monitor} is no monitoring port of a NATS server")
        await _ask_streams(bus, facts)
    try:
        async with await Client.connect(
            target.server,
            namespace=target.namespace,
            timeout_s=connect_timeout_s(),
            access=access,
        ) as client:
            facts.info = await client.info(workers=True)
    except HeadraceError as error:
        facts.trouble = str(error)
    return facts


async def _ask_streams(bus: Bus, facts: Facts) -> None:
    """Ask JetStream, as far as the login reaches."""
    from headrace.bus import JetStreamDisabled, NoResponders

    found: dict[str, dict[str, Any]] = {}
    try:
        facts.account = await bus.js.api("INFO", {}, dict[str, Any])
        while len(found) < STREAMS_MAX:
            page = await bus.js.api("STREAM.LIST", {"offset": len(found)}, dict[str, Any])
            streams = page.get("streams") or []
            found |= {stream["config"]["name"]: stream for stream in streams}
            if not streams or len(found) >= page.get("total", 0):
                break
    except (JetStreamDisabled, NoResponders):
        return
    facts.streams = {
        name: stream
        for name, stream in found.items()
        if name.startswith(("HEADRACE_", "OBJ_headrace-"))
    }
    if facts.streams:
        first = await bus.js.stream_info(next(iter(facts.streams)))
        facts.now_ms, facts.broker_ms = int(time.time() * 1_000), first.time_ms
    snapshots = facts.streams.get("OBJ_headrace-snapshots")
    if snapshots and (snapshots.get("state") or {}).get("messages"):
        from datetime import datetime

        last = datetime.fromisoformat(snapshots["state"]["last_ts"])
        facts.newest_snapshot_ms = int(last.timestamp() * 1_000)
