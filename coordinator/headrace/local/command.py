"""`flowctl run`: a workflow file in this process, without a server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import uvloop

from headrace.coordinator.core.matching import choose
from headrace.errors import Conflict, InvalidRequest, NotFound
from headrace.flowctl import (
    Progress,
    Settings,
    collect_arguments,
    collect_inputs,
    emit_run,
    exit_code_of,
    input_options,
    is_code,
    load_workflow,
    parse_labels,
    pass_settings,
    some_options,
)
from headrace.local.engine import SLOTS, LocalEngine
from headrace.local.event_file import event_in
from headrace.local.labels import labels_beyond
from headrace.messages import Arrival, LogLines, RunView, subjects
from headrace.plan import Plan
from headrace.telemetry import setup_logging
from headrace.worker.builtin import builtin_registry
from headrace.worker.handlers import Registry
from headrace.worker.plugins import Plugins
from headrace.worker.sources import secrets_at, variables_at

DIRECTORY: Final = Path(".headrace/run")
EXIT_KILLED: Final = 130
IDLE_S: Final = 2.0
"""A run that does nothing for so long, and waits for a person, is explained."""
KILLED_S: Final = 2.0
"""After the second Ctrl-C, for the run to end all the same."""
OPEN_RUNS_MAX: Final = 1_000


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    file: str
    inputs: tuple[str, ...]
    input_file: str | None
    event: Arrival | None
    run_id: str
    labels: dict[str, str]
    signals: list[tuple[str, Any]]
    priority: int
    persistence: str
    directory: Path | None
    resumes: bool
    slots: int
    capabilities: tuple[str, ...]
    apps: tuple[str, ...]
    plugins: str
    secrets_path: str
    vars_path: str
    quiet: bool
    namespace: str


@click.command()
@click.argument("file", required=False, default="", type=click.Path(dir_okay=False))
@input_options
@click.option(
    "--event",
    "event_file",
    metavar="FILE",
    help="Begin as by this event: JSON or YAML with `subject` and `data`; `-` reads stdin.",
)
@click.option("--id", "run_id", default="", metavar="ID", help="Choose the run's id.")
@click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="A label.")
@click.option("--priority", type=int, default=0, help="Higher goes first (default: 0).")
@click.option(
    "--signal",
    "signals",
    multiple=True,
    metavar="NAME[=JSON]",
    help="Send a signal at the start; it is kept until the run waits for it.",
)
@click.option(
    "--persistence",
    type=click.Choice(["memory", "snapshot", "journal"]),
    help="What survives a crash (default: memory, nothing; with --dir: journal, everything).",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Folder for what survives (default: {DIRECTORY}, if anything does).",
)
@click.option(
    "--continue", "resumes", is_flag=True, help="Go on with the unfinished runs of --dir."
)
@click.option(
    "--slots",
    type=click.IntRange(1, 10_000),
    default=SLOTS,
    show_default=True,
    help="Steps that run at the same time.",
)
@click.option(
    "--capability",
    "-c",
    "capabilities",
    multiple=True,
    help="Offer only these labels (default: every one that the workflow names).",
)
@click.option("--app", "apps", multiple=True, help="Handlers to use, package.module:name.")
@click.option("--plugins", default="", help="Folder of Python files with handlers.")
@click.option("--secrets", "secrets_path", default="", help="Folder or file with secrets.")
@click.option("--vars", "vars_path", default="", help="Folder or file with variables.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no output of steps on stderr.")
@some_options("output", "namespace")
@pass_settings
def run(
    settings: Settings,
    file: str,
    inputs: tuple[str, ...],
    input_file: str | None,
    event_file: str | None,
    run_id: str,
    labels: tuple[str, ...],
    priority: int,
    signals: tuple[str, ...],
    persistence: str | None,
    directory: Path | None,
    resumes: bool,
    slots: int,
    capabilities: tuple[str, ...],
    apps: tuple[str, ...],
    plugins: str,
    secrets_path: str,
    vars_path: str,
    quiet: bool,
) -> None:
    """Run the workflow in FILE here, without a server, to its end.

    FILE may be a workflow function, `module:function` or `module:app/workflow`. This machine offers
    every label that the workflow names, unless -c says what is offered. Progress and output of
    steps go to stderr, the run to stdout. Ctrl-C cancels the run, a second one kills its steps.

    With --dir, a run that was killed goes on: `--continue --dir DIR`, or again with the same --id.

    \b
    Examples:
      flowctl run hello.yaml
      flowctl run order.yaml --input count=3 -o json
      flowctl run shop.orders:process --input order_id=o-7
      flowctl run backup.yaml --dir /var/lib/backup --id backup-2024-05-01

    Exit codes: 0 completed, 1 the run failed, 2 cancelled, 3 usage or invalid definition.
    """
    namespace = settings.namespace or os.environ.get("FLOWCTL_NAMESPACE") or "default"
    level = _level(file, persistence, kept=directory is not None, resumes=resumes)
    wanted = _Wanted(
        file=file,
        inputs=inputs,
        input_file=input_file,
        event=_event(event_file, namespace, alone=not (resumes or inputs or input_file)),
        run_id=run_id,
        labels=parse_labels(labels),
        signals=[_signal(text) for text in signals],
        priority=priority,
        persistence=level,
        directory=None if level == "memory" else directory or DIRECTORY,
        resumes=resumes,
        slots=slots,
        capabilities=capabilities,
        apps=apps,
        plugins=plugins,
        secrets_path=secrets_path,
        vars_path=vars_path,
        quiet=quiet,
        namespace=namespace,
    )
    setup_logging(level="info" if os.environ.get("FLOWCTL_DEBUG") else "error")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        views = runner.run(_Session(wanted).run())
    for view in views:
        emit_run(settings, view)
    code = max((exit_code_of(view.state) for view in views), default=EXIT_KILLED)
    if code:
        sys.stdout.flush()
        raise click.exceptions.Exit(code)


def _level(file: str, persistence: str | None, *, kept: bool, resumes: bool) -> str:
    """Return what is to survive; refuse what does not fit together."""
    if resumes == bool(file):
        raise click.UsageError("give a FILE, or --continue")
    kept = kept or resumes
    if persistence == "memory" and kept:
        raise click.UsageError("--dir and --continue need --persistence journal or snapshot")
    return persistence or ("journal" if kept else "memory")


class _Session:
    """One life of the command."""

    def __init__(self, wanted: _Wanted) -> None:
        self._wanted = wanted
        self._progress = Progress()
        self._interrupts = 0
        self._killed = asyncio.Event()
        self._names: list[str] = []
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> list[RunView]:
        """Return the runs as they ended; none: they did not end. Raises `HeadraceError`."""
        wanted = self._wanted
        async with LocalEngine(
            persistence=wanted.persistence,
            path=wanted.directory,
            slots=wanted.slots,
            handlers=await _handlers(wanted.apps, wanted.plugins),
            capabilities=wanted.capabilities or None,
            namespace=wanted.namespace,
            secrets=secrets_at(wanted.secrets_path),
            variables=variables_at(wanted.vars_path),
            artifacts=(wanted.directory or DIRECTORY) / "artifacts",
            on_log=None if wanted.quiet else self._show_lines,
            own_process=True,
        ) as engine:
            # What exists now stays: a full collection need not look at it again.
            gc.freeze()
            gc.set_threshold(50_000, 20, 100)
            self._names = await self._begin(engine)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._interrupt, engine)
            killed = asyncio.create_task(self._killed.wait(), name="killed")
            work = asyncio.create_task(self._follow_all(engine), name="follow")
            try:
                await asyncio.wait((killed, work), return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    await asyncio.wait((work,), timeout=KILLED_S)
                if work.done():
                    return work.result()
                await engine.close(kill_s=0)
                return []
            finally:
                for task in (killed, work, *self._background):
                    task.cancel()
                await asyncio.gather(killed, work, *self._background, return_exceptions=True)

    async def _begin(self, engine: LocalEngine) -> list[str]:
        """Start the run, or find those to continue; return their ids."""
        wanted = self._wanted
        open_runs = (await engine.list(states=["PENDING", "RUNNING"], limit=OPEN_RUNS_MAX)).runs
        earlier = [view.id for view in open_runs if view.id != wanted.run_id]
        if wanted.resumes:
            names = [wanted.run_id] if wanted.run_id else sorted(earlier)
            if not names:
                raise NotFound(f"no unfinished run in {wanted.directory}")
        else:
            if is_code(wanted.file):
                plan, given, labels = _of_code(engine, wanted)
            else:
                plan = engine.compile(wanted.file)
                _check_offer(plan, wanted)
                given, labels = _given(plan, wanted)
            if earlier and not wanted.quiet:
                self._progress.note(f"{len(earlier)} earlier runs of {wanted.directory} go on, too")
            name = await engine.submit(
                plan,
                given,
                run_id=wanted.run_id,
                labels=labels,
                priority=wanted.priority,
            )
            names = [name]
        for name in names:
            for signal_name, payload in wanted.signals:
                await engine.signal(name, signal_name, payload)
        return names

    async def _follow_all(self, engine: LocalEngine) -> list[RunView]:
        return [await self._follow(engine, name) for name in self._names]

    async def _follow(self, engine: LocalEngine, name: str) -> RunView:
        if self._wanted.quiet:
            return await engine.wait(name)
        explaining = asyncio.create_task(self._explain(engine, name), name="explain")
        try:
            return await self._progress.follow(engine.watch(name))
        finally:
            explaining.cancel()

    async def _explain(self, engine: LocalEngine, name: str) -> None:
        """Say what only a person can change, once for each reason."""
        told: set[tuple[str, str]] = set()
        while True:
            await asyncio.sleep(IDLE_S)
            try:
                explanation = await engine.explain(name)
            except NotFound:
                return
            for reason in explanation.reasons:
                if reason.owner in ("person", "operator") and (
                    (reason.path, reason.reason) not in told
                ):
                    told.add((reason.path, reason.reason))
                    self._progress.note(f"{reason.path or name}: {reason.reason}")

    def _show_lines(self, lines: LogLines) -> None:
        for line in lines.lines:
            self._progress.note(f"{lines.path} | {_printable(line.text)}")

    # -- signals -------------------------------------------------------------------------------

    def _interrupt(self, engine: LocalEngine) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._progress.note("cancelling; once more kills the steps")
            self._spawn(self._cancel(engine))
        elif self._interrupts == 2:
            self._progress.note("killing")
            self._spawn(self._kill(engine))
        else:
            os._exit(EXIT_KILLED)

    async def _cancel(self, engine: LocalEngine) -> None:
        for name in self._names:
            with contextlib.suppress(Conflict, NotFound):
                await engine.cancel(name, reason="interrupted")

    async def _kill(self, engine: LocalEngine) -> None:
        await engine.kill_children()
        self._killed.set()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name="interrupt")
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _handlers(apps: Sequence[str], plugins: str) -> Registry:
    # Modules of applications lie where the command was started.
    sys.path.insert(0, os.getcwd())
    registry = builtin_registry()
    registry.add_entry_points()
    for app in apps:
        registry.add_app(app)
    if plugins:
        folder = Plugins(Path(plugins), registry)
        await folder.scan()
        if folder.problems:
            raise InvalidRequest(f"--plugins: {'; '.join(folder.problems)}")
    return registry


def _of_code(engine: LocalEngine, wanted: _Wanted) -> tuple[Plan, dict[str, Any], dict[str, str]]:
    """Return plan, inputs and labels of a workflow function. Raises `HeadraceError`."""
    workflow = load_workflow(wanted.file)
    if wanted.event is not None:
        raise InvalidRequest("--event begins workflows in files, not functions")
    given = collect_arguments(workflow, wanted.inputs, wanted.input_file)
    assert workflow.owner is not None, "it was made by an app"
    engine.serve(workflow.owner)
    return workflow.plan, given, wanted.labels


def _check_offer(plan: Plan, wanted: _Wanted) -> None:
    """Refuse what could only wait for ever. Raises `InvalidRequest`."""
    if not wanted.capabilities:
        return
    missing = labels_beyond(plan, wanted.capabilities)
    if missing:
        listed = ", ".join(missing)
        raise InvalidRequest(f"{wanted.file} needs {listed}, which -c does not offer")


def _event(file: str | None, namespace: str, *, alone: bool) -> Arrival | None:
    if not file:
        return None
    if not alone:
        raise click.UsageError("--event gives the inputs: no --input and --continue beside it")
    return event_in(file, namespace)


def _given(plan: Plan, wanted: _Wanted) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the inputs and the labels of the run. Raises `HeadraceError`."""
    event = wanted.event
    if event is None:
        return collect_inputs(plan, wanted.inputs, wanted.input_file), wanted.labels
    labels = {subjects.EVENT_LABEL: event.subject, subjects.EVENT_ID_LABEL: event.id or "1"}
    return choose(plan, event), {**labels, **wanted.labels}


def _signal(text: str) -> tuple[str, Any]:
    """Return (name, payload) of `NAME[=JSON]`; what is no JSON is text."""
    name, equals, value = text.partition("=")
    if not name:
        raise InvalidRequest(f"--signal {text!r}: NAME or NAME=JSON is expected")
    if not equals:
        return name, None
    try:
        return name, msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return name, value


def _printable(text: str) -> str:
    """Return a step's line without what would move the cursor or ring the bell."""
    return "".join(c if c >= " " and c != "\x7f" else "\t" if c == "\t" else "�" for c in text)
