"""`flowctl dev`: a NATS server, a coordinator and workers, as real processes, in one command."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from headrace.bus import BrokerProcess, FolderInUse, free_port
from headrace.client import DevServer, clear_dev, dev_in, write_dev
from headrace.errors import HeadraceError, InvalidConfig, Unavailable
from headrace.local.labels import labels_beyond
from headrace.local.once import WantedRun, submit_and_watch, until_ready, wanted_run
from headrace.local.processes import start, stop

T = TypeVar("T")

NATS_PORT = 4222
METRICS_PORT = 9464
WORKERS_MAX = 64
RESTART_PAUSE_S = 0.5
RESTART_PAUSE_S_MAX = 10.0
BLOCK_TRIES = 20
BROKER_START_S = 60.0
"""It reads its whole store first; a process that ends instead is noticed at once."""
STREAMS_BYTES = 4 * 1024**3
"""What steps write, the feed and events from outside may grow to 1.5 GiB; at a restart the broker
counts them as there, and once more as asked for."""
EXIT_INTERRUPTED = 130
EXIT_REFUSED = InvalidConfig.exit_code
"""A process that ends so at its first start would end so for ever."""
DEV_DEFAULTS = {
    "HEADRACE_CFG_WORKER__GRACE_MS": "2000",
    "HEADRACE_CFG_WORKER__KILL_MS": "2000",
}
"""Ctrl-C stops within seconds: a worker's steps are ended well before the worker would be killed,
or they would go on without it."""
HOST_LABELS = ("default", "linux", "ubuntu-latest", "self-hosted")


class _Ports(msgspec.Struct):
    """Ports of a data folder: kept, so that clients find the next `dev` where the last one was."""

    nats: int = NATS_PORT
    monitor: int = 0
    metrics: int = METRICS_PORT


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".headrace"),
    show_default=True,
    help="Folder for everything that is kept.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    help="Port of the NATS server (default: 4222, or a free one).",
)
@click.option(
    "--workers",
    type=click.IntRange(0, WORKERS_MAX),
    default=1,
    show_default=True,
    help="How many, each a process.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 10_000),
    default=16,
    show_default=True,
    help="Slots of each worker.",
)
@click.option("--capability", "-c", "capabilities", multiple=True, help="Further labels offered.")
@click.option("--app", "apps", multiple=True, help="Handlers to serve, package.module:name.")
@click.option("--reload", is_flag=True, help="Import the apps anew when their files change.")
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535 - WORKERS_MAX),
    help="First port for metrics (default: 9464 or free).",
)
@click.option(
    "--run",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Submit this workflow file, show its run, stop when it has ended; exits as `submit` does. "
    "The labels that it names are offered too.",
)
@click.option(
    "--input", "-i", "inputs", multiple=True, metavar="KEY=VALUE", help="One input of --run's file."
)
def dev(
    directory: Path,
    port: int | None,
    workers: int,
    slots: int,
    capabilities: tuple[str, ...],
    apps: tuple[str, ...],
    reload: bool,
    metrics_port: int | None,
    file: Path | None,
    inputs: tuple[str, ...],
) -> None:
    """Run everything on this machine: NATS, a coordinator and workers.

    Ctrl-C stops it; the data stays, and the next `flowctl dev` continues the live runs.

    \b
    Examples:
      flowctl dev
      flowctl dev --app shop.flows:app --reload
      flowctl dev --run workflow.yaml --input order=7
    """
    if inputs and file is None:
        raise click.UsageError("--input needs --run")
    if reload and not apps:
        raise click.UsageError("--reload needs --app")
    labels, wanted = (*HOST_LABELS, *capabilities), None
    if file is not None:
        wanted = wanted_run(file, inputs)
        labels = (*labels, *_further(wanted, labels))
    cluster = _Dev(
        directory.absolute(),
        port=port,
        workers=workers,
        slots=slots,
        labels=tuple(dict.fromkeys(labels)),
        apps=apps,
        reload=reload,
        metrics_port=metrics_port,
    )
    try:
        sys.exit(asyncio.run(cluster.run(wanted)))
    except HeadraceError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


def _further(wanted: WantedRun, labels: Sequence[str]) -> list[str]:
    """Return what the file names beyond *labels*: with one machine there is nobody else to ask."""
    further = labels_beyond(wanted.plan, labels)
    if further:
        _say(f"offering also what {wanted.file} needs: {', '.join(further)}")
    return further


def store_bytes(disk: int, free: int) -> int:
    """Return how much JetStream is told that it may store; 0: what it finds by itself. Pure.

    By itself it allows three quarters of what is *free*, and refuses to start with less than all
    streams may grow to: small disks would have no `dev` at all, for a few megabytes of data.
    """
    return 0 if free * 3 // 4 >= STREAMS_BYTES else max(disk, STREAMS_BYTES)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _free_block(count: int) -> int:
    """Return the first of *count* ports in a row that are free now, if that is soon found."""
    first = free_port()
    for _ in range(BLOCK_TRIES):
        if all(_is_free(first + n) for n in range(count)):
            break
        first = free_port()
    return first


def _say(text: str) -> None:
    click.echo(text, err=True)


class _Dev:
    """The processes of one `dev`, restarted when they die, stopped in order."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None,
        workers: int,
        slots: int,
        labels: Sequence[str],
        apps: Sequence[str],
        reload: bool,
        metrics_port: int | None,
    ) -> None:
        self._dir = directory
        self._wanted_port, self._wanted_metrics = port, metrics_port
        self._workers, self._slots, self._labels, self._apps = workers, slots, labels, apps
        self._reload = reload
        self._ports_file = directory / "ports.json"
        self._ports = self._choose_ports()
        self._broker = self._make_broker()
        self._stopping = asyncio.Event()
        self._refused = 0
        self._environment = {**DEV_DEFAULTS, **os.environ}

    def _choose_ports(self) -> _Ports:
        """Take the ports of last time, else the usual ones, else free ones."""
        self._dir.mkdir(parents=True, exist_ok=True)
        again = True
        try:
            ports = msgspec.json.decode(self._ports_file.read_bytes(), type=_Ports)
        except (OSError, msgspec.MsgspecError):
            ports, again = _Ports(), False
        if self._wanted_port is not None:
            if not _is_free(self._wanted_port):
                raise Unavailable(f"port {self._wanted_port} is taken; choose another with --port")
            ports.nats = self._wanted_port
        elif not again and not _is_free(ports.nats):
            # Last time's port may be held by what a killed `dev` left behind: see `_start_broker`.
            ports.nats = free_port()
        if not ports.monitor or (not again and not _is_free(ports.monitor)):
            ports.monitor = free_port()
        if self._wanted_metrics is not None:
            ports.metrics = self._wanted_metrics
        elif not all(_is_free(ports.metrics + n) for n in range(self._workers + 1)):
            ports.metrics = _free_block(self._workers + 1)
        return ports

    def _make_broker(self) -> BrokerProcess:
        disk = shutil.disk_usage(self._dir)
        store = store_bytes(disk.total, disk.free)
        if store:
            free = f"{disk.free // 1_000_000:,} MB"
            _say(f"warning: only {free} are free for {self._dir}; a full disk stops everything")
        return BrokerProcess(
            self._dir / "nats",
            port=self._ports.nats,
            monitor_port=self._ports.monitor,
            store_bytes_max=store,
        )

    async def _start_broker(self) -> None:
        """Start the broker where it was last time, so that clients that wait find it again.

        Starting ends a server of this folder whose `dev` was killed; only if somebody else has
        the ports are others taken. They are kept once the folder is certainly ours.
        """
        try:
            await self._broker.start(timeout_s=BROKER_START_S)
        except FolderInUse:
            other = dev_in(self._dir)
            who = f" (process {other.pid}, {other.server})" if other is not None else ""
            raise Unavailable(
                f"another `flowctl dev` runs in {self._dir}{who}; "
                "stop it, or choose another folder with --dir"
            ) from None
        except Unavailable:
            ports = self._ports
            taken = [port for port in (ports.nats, ports.monitor) if not _is_free(port)]
            if not taken or ports.nats == self._wanted_port:
                raise
            ports.nats = ports.nats if ports.nats not in taken else free_port()
            ports.monitor = free_port()
            self._broker = self._make_broker()
            await self._broker.start(timeout_s=BROKER_START_S)
        self._ports_file.write_bytes(msgspec.json.encode(self._ports))

    async def run(self, wanted: WantedRun | None = None) -> int:
        """Run until a signal, or until the *wanted* run has ended; then stop every process.

        Return the exit code. Raises `HeadraceError`.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        starting = await self._before_signal(self._start_broker())
        if starting is None:
            await self._broker.stop()
            return EXIT_INTERRUPTED
        starting.result()
        started_ms = int(time.time() * 1_000)
        write_dev(
            DevServer(
                server=self._broker.url, dir=str(self._dir), pid=os.getpid(), started_ms=started_ms
            )
        )
        _say(f"headrace dev: {self._broker.url}, data in {self._dir}")
        _say(f"metrics: http://127.0.0.1:{self._ports.metrics}/metrics (coordinator)")
        if wanted is None:
            _say("submit from another terminal: flowctl submit FILE --watch; Ctrl-C stops")
        else:
            # The run is what the user wants to read.
            self._environment.setdefault("HEADRACE_CFG_LOG__LEVEL", "warning")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_broker(), name="broker")
                children = [
                    group.create_task(self._keep(number, name, arguments), name=name)
                    for number, (name, arguments) in enumerate(self._commands())
                ]
                code = 0
                if wanted is None:
                    await self._stopping.wait()
                else:
                    code = await self._run_once(wanted)
                _say("stopping; the data stays where it is")
                # Workers go first: they hand back what they hold while somebody still listens.
                for ending in (children[1:], children[:1]):
                    for child in ending:
                        child.cancel()
                    if ending:
                        await asyncio.wait(ending)
                return self._refused or code
        finally:
            await self._broker.stop()
            clear_dev(os.getpid())

    async def _run_once(self, wanted: WantedRun) -> int:
        """Submit what is *wanted* and watch it, unless a signal comes first; return the code."""

        async def submit() -> int:
            await until_ready(self._broker.url, workers=self._workers, say=_say)
            return await submit_and_watch(self._broker.url, wanted)

        try:
            run = await self._before_signal(submit())
        finally:
            self._stopping.set()
        if run is None:
            return EXIT_INTERRUPTED
        try:
            return run.result()
        except HeadraceError as error:
            _say(f"error: {error}")
            return error.exit_code

    async def _before_signal(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T] | None:
        """Return *work* when it has ended; None: a signal came first, and it was cancelled."""
        task = asyncio.create_task(work, name="work")
        signalled = asyncio.create_task(self._stopping.wait(), name="signalled")
        try:
            await asyncio.wait([task, signalled], return_when=asyncio.FIRST_COMPLETED)
            ended = task.done()
        finally:
            task.cancel()
            signalled.cancel()
            await asyncio.gather(task, signalled, return_exceptions=True)
        return task if ended else None

    def _metrics_port(self, name: str, number: int) -> int:
        """Return the port for the metrics of process *number*, as it is about to start.

        Between the choice and the start, and after a crash, somebody else may take a port; a
        port that the user named is kept all the same.
        """
        port = self._ports.metrics + number
        if self._wanted_metrics is not None or _is_free(port):
            return port
        taken, port = port, free_port()
        _say(f"{name}: port {taken} is taken; metrics: http://127.0.0.1:{port}/metrics")
        return port

    def _commands(self) -> list[tuple[str, list[str]]]:
        """Return name and arguments of each process, but for its metrics port; by number."""
        server = ["--server", self._broker.url]
        commands = [
            (
                "coordinator",
                [
                    "coordinator",
                    *server,
                    *("--data-dir", str(self._dir), "--archive", "sqlite", "--shards", "1"),
                    *("--monitor", self._broker.monitor_url),
                ],
            )
        ]
        for number in range(self._workers):
            arguments = ["worker", *server, "--slots", str(self._slots)]
            arguments += ["--data-dir", str(self._dir / f"worker-{number}")]
            arguments += ["--id", f"dev-{number}"]
            for label in self._labels:
                arguments += ["-c", label]
            for app in self._apps:
                arguments += ["--app", app]
            if self._reload:
                arguments.append("--reload")
            commands.append((f"worker dev-{number}", arguments))
        return commands

    async def _keep_broker(self) -> None:
        """Restart the broker when it dies, until we stop."""
        while not self._stopping.is_set():
            await asyncio.sleep(0.25)
            if not self._broker.running and not self._stopping.is_set():
                _say("nats-server died; starting it again")
                try:
                    await self._broker.start(timeout_s=BROKER_START_S)
                except HeadraceError as error:
                    _say(f"nats-server does not start: {error}")
                    await asyncio.sleep(RESTART_PAUSE_S)

    async def _keep(self, number: int, name: str, arguments: Sequence[str]) -> None:
        """Run one process, again when it dies, with growing pauses; end it when cancelled."""
        pause_s, first = RESTART_PAUSE_S, True
        while True:
            started = time.monotonic()
            # Its own session: a Ctrl-C on the terminal reaches `dev`, which stops in order.
            metrics = ("--metrics-port", str(self._metrics_port(name, number)))
            process = await start([*arguments, *metrics], environment=self._environment)
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                await stop(process)
                raise
            if code == EXIT_REFUSED and first:
                _say(f"{name} refuses to start, see above")
                self._refused = code
                self._stopping.set()
                return
            first = False
            if time.monotonic() - started > 10 * RESTART_PAUSE_S_MAX:
                pause_s = RESTART_PAUSE_S
            _say(f"{name} ended with {code}; starting it again in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_PAUSE_S_MAX)
