"""`flowctl worker`: a worker as a process of its own."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import uvloop

from headrace.bus import Bus, dial
from headrace.config import Config, listed_addresses, load
from headrace.errors import HeadraceError, InvalidConfig
from headrace.telemetry import (
    BusMetrics,
    Tracer,
    WorkerMetrics,
    new_registry,
    setup_logging,
    status_server,
)
from headrace.worker.app import Worker
from headrace.worker.builtin import builtin_registry
from headrace.worker.handlers import Registry
from headrace.worker.identity import DataDirLock, release, worker_folder
from headrace.worker.orphans import kill_orphans, mark
from headrace.worker.plugins import Plugins
from headrace.worker.reloading import Reloading


@click.command()
@click.option("--server", "-s", "servers", multiple=True, help="Addresses of NATS servers.")
@click.option("--id", "worker_id", help="Name of this worker; made and kept when not given.")
@click.option("--capability", "-c", "capabilities", multiple=True, help="Label that it offers.")
@click.option("--slots", type=int, help="Steps that run at the same time.")
@click.option("--namespace", "-n", help="Namespace whose steps it runs.")
@click.option("--data-dir", help="Folder of workspaces and of the worker's id.")
@click.option("--app", "apps", multiple=True, help="Handlers to serve, package.module:name.")
@click.option("--reload", is_flag=True, help="Import the apps anew when their files change.")
@click.option("--plugins", help="Folder of Python files with handlers; it is watched.")
@click.option("--secrets", "secrets_path", help="Folder or file with secrets.")
@click.option("--vars", "vars_path", help="Folder or file with variables.")
@click.option("--metrics-port", type=int, help="Port of /metrics, /healthz and /readyz.")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
def worker(
    servers: tuple[str, ...],
    worker_id: str | None,
    capabilities: tuple[str, ...],
    slots: int | None,
    namespace: str | None,
    data_dir: str | None,
    apps: tuple[str, ...],
    reload: bool,
    plugins: str | None,
    secrets_path: str | None,
    vars_path: str | None,
    metrics_port: int | None,
    path: Path | None,
) -> None:
    """Run steps until SIGTERM, then finish them and leave.

    \b
    Examples:
      flowctl worker --server nats://n1:4222 -c linux -c gpu --slots 8 --app shop.flows:app
    """
    overrides = {
        "broker.servers": listed_addresses(servers) or None,
        "worker.id": worker_id,
        "worker.capabilities": list(capabilities) or None,
        "worker.slots": slots,
        "worker.namespace": namespace,
        "worker.data_dir": data_dir,
        "worker.apps": list(apps) or None,
        "worker.plugins": plugins,
        "worker.secrets_path": secrets_path,
        "worker.vars_path": vars_path,
        "metrics.port": metrics_port,
    }
    try:
        config = load(path, os.environ, overrides)
        setup_logging(level=config.log.level, format=config.log.format)
        _run(serve(config, reload=reload))
    except HeadraceError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


async def serve(config: Config, *, reload: bool = False) -> None:
    """Run a worker to its end: SIGTERM and SIGINT drain, a second one kills.

    *reload*: import its apps anew when their files change, for development. Raises
    `HeadraceError` when it cannot start.
    """
    handlers, plugins, reloading = await _code(config, reload=reload)
    registry = new_registry(release=release(), role="worker")
    life: Worker | None = None
    lock = DataDirLock(worker_folder(config.worker.data_dir))
    connecting = asyncio.create_task(_connected(config, lock), name="connect")
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if life is None:
            connecting.cancel()
        else:
            life.drain(grace_ms=None if signals == 1 else 0)

    def ready() -> tuple[bool, list[str]]:
        return (False, ["not connected to the broker"]) if life is None else life.ready

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    # Before the broker is there: who waits for it is alive, and not ready.
    async with status_server(config.metrics.host, config.metrics.port, registry, ready):
        await asyncio.wait([connecting])
        if connecting.cancelled():
            return
        async with connecting.result() as bus:
            if signals:
                return
            bus.count_in(BusMetrics(registry))
            life = Worker(
                bus,
                config,
                registry=handlers,
                plugins=plugins,
                reloading=reloading,
                metrics=WorkerMetrics(registry),
                tracer=Tracer.from_environment("worker"),
                lock=lock,
            )
            incarnation = life.identity.incarnation
            await asyncio.to_thread(kill_orphans, life.data_dir, incarnation)
            mark(life.data_dir, incarnation)
            # What exists now stays: a full collection need not look at it again.
            gc.freeze()
            gc.set_threshold(50_000, 20, 100)
            await life.run()


async def _connected(config: Config, lock: DataDirLock) -> Bus:
    """Take the data folder, then connect, however long the broker takes. Raises `Conflict`."""
    await lock.acquire_within(config.worker.lock_wait_ms / 1_000)
    return await dial(config.broker, name="headrace-worker")


async def _code(
    config: Config, *, reload: bool
) -> tuple[Registry, Plugins | None, Reloading | None]:
    """Return the handlers, and who watches files of them. Raises `InvalidConfig`."""
    # Modules of applications lie where the worker was started.
    sys.path.insert(0, os.getcwd())
    handlers = builtin_registry()
    handlers.add_entry_points()
    settings = config.worker
    for app in settings.apps:
        handlers.add_app(app)
    if reload and not settings.apps:
        raise InvalidConfig("worker.apps", "--reload needs an --app")
    reloading = Reloading(settings.apps, handlers) if reload else None
    plugins = Plugins(Path(settings.plugins), handlers) if settings.plugins else None
    if plugins is not None:
        await plugins.scan()
    return handlers, plugins, reloading


def _run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
