"""`flowctl coordinator`: a coordinator as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from pathlib import Path

import click
import uvloop

from headrace.bus import Bus, ServerFacts, dial
from headrace.config import Config, listed_addresses, load
from headrace.coordinator.runtime.server import CoordinatorServer, release
from headrace.errors import HeadraceError
from headrace.telemetry import (
    BusMetrics,
    CoordinatorMetrics,
    Tracer,
    new_registry,
    setup_logging,
    status_server,
)

log = logging.getLogger(__name__)

MONITOR_TRIES = 3
MONITOR_PAUSE_S = 0.5


@click.command()
@click.option("--server", "-s", "servers", multiple=True, help="Addresses of NATS servers.")
@click.option("--id", "coordinator_id", help="Stable name of this coordinator.")
@click.option("--peer", "peers", multiple=True, help="Name of a coordinator (repeat for all).")
@click.option("--data-dir", help="Folder of the SQLite archive, where there is one.")
@click.option(
    "--archive", type=click.Choice(["sqlite", "jetstream", "postgres"]), help="Where runs end up."
)
@click.option("--shards", type=int, help="Shards of durability level journal.")
@click.option("--replicas", type=int, help="Copies of each stream in the NATS cluster.")
@click.option("--metrics-port", type=int, help="Port of /metrics, /healthz and /readyz.")
@click.option("--monitor", default="", help="Monitoring address of the NATS server (http://…).")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
def coordinator(
    servers: tuple[str, ...],
    coordinator_id: str | None,
    peers: tuple[str, ...],
    data_dir: str | None,
    archive: str | None,
    shards: int | None,
    replicas: int | None,
    metrics_port: int | None,
    monitor: str,
    path: Path | None,
) -> None:
    """Run a replica of the control plane until SIGTERM.

    \b
    Examples:
      flowctl coordinator --server nats://n1:4222 --id c1 --data-dir /var/lib/headrace
    """
    overrides = {
        "broker.servers": listed_addresses(servers) or None,
        "coordinator.id": coordinator_id,
        "coordinator.peers": list(peers) or None,
        "coordinator.data_dir": data_dir,
        "coordinator.archive": archive,
        "coordinator.shards_journal": shards,
        "coordinator.replicas": replicas,
        "metrics.port": metrics_port,
    }
    try:
        config = load(path, os.environ, overrides)
        setup_logging(level=config.log.level, format=config.log.format)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(config, monitor=monitor))
    except HeadraceError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


async def serve(config: Config, *, monitor: str = "") -> None:
    """Run a coordinator until SIGTERM or SIGINT. Raises `HeadraceError` when it cannot start."""
    work = asyncio.create_task(_serve(config, monitor), name="coordinator")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def _serve(config: Config, monitor: str) -> None:
    registry = new_registry(release=release(), role="coordinator")
    tracer = Tracer.from_environment("coordinator")
    server: CoordinatorServer | None = None

    def ready() -> tuple[bool, list[str]]:
        return (False, ["not connected to the broker"]) if server is None else server.ready

    async def redial() -> Bus:
        return await dial(config.broker, name="headrace-coordinator-raft", wait_s=5.0)

    # Before the broker is there: who waits for it is alive, and not ready.
    async with (
        status_server(config.metrics.host, config.metrics.port, registry, ready),
        await dial(config.broker, name="headrace-coordinator") as bus,
    ):
        bus.count_in(BusMetrics(registry))
        facts = await _facts(bus, monitor)
        server = CoordinatorServer(
            bus,
            config,
            metrics=CoordinatorMetrics(registry),
            tracer=tracer,
            synced=facts.sync == "always",
            warnings=weak_sync(facts),
            redial=redial,
        )
        # What exists now stays: a full collection need not look at it again.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        try:
            await server.run()
        finally:
            if tracer is not None:
                await asyncio.to_thread(tracer.close)


async def _facts(bus: Bus, monitor: str) -> ServerFacts:
    """Return what the server tells; a monitoring port that has only just opened is asked again."""
    for _ in range(MONITOR_TRIES - 1):
        facts = await bus.server_facts(monitor=monitor)
        if facts.sync != "unknown" or not monitor:
            return facts
        await asyncio.sleep(MONITOR_PAUSE_S)
    return await bus.server_facts(monitor=monitor)


def weak_sync(facts: ServerFacts) -> tuple[str, ...]:
    """Say it loudly when the broker acknowledges before the data is on disk."""
    if facts.sync == "always":
        return ()
    if facts.sync == "unknown":
        text = (
            "it is not known whether the NATS server fsyncs before it acknowledges: set "
            "`sync_interval: always` there (and give --monitor to have it checked)"
        )
        log.warning("durability not verified", extra={"reason": text})
    else:
        text = (
            f"the NATS server fsyncs every {facts.sync_interval_ms / 1_000:g} s only: a power loss "
            "can lose what it acknowledged since; set `sync_interval: always`"
        )
        log.error("durability is weaker than level journal", extra={"reason": text})
    return (text,)
