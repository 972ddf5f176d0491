"""Commands that look at runs: `list`, `get`, `history`, `explain`, `logs`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from headrace.flowctl._cmd_submit import finish, followed
from headrace.flowctl._inputs import parse_labels
from headrace.flowctl._logs import Shown, StepLog
from headrace.flowctl._output import as_json, colourful, emit, now_ms
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, note_trouble, pass_settings, run_client, shared_options
from headrace.flowctl._text import one_line, parse_at, parse_since, plain, rfc3339, table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import Explanation, HistoryEntry, LogLines, RunPage, RunView

STATES = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "PAUSED", "WAITING", "BLOCKED")
"""States of runs, and the conditions of live ones."""
ENTRY_HEADER = ["NUMBER", "TIME", "TYPE", "PATH", "DATA"]
ENTRY_WIDTHS = (6, 24, 15, 24, 0)
"""Of the columns while the rest is not known."""


@click.command(name="list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES, case_sensitive=False),
    help="Only runs in this state; may be given again.",
)
@click.option("--workflow", default="", help="Only runs of this workflow.")
@click.option(
    "--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="With this label."
)
@click.option("--since", default="", metavar="TIME", help="Created since: 1h, 2d, or RFC 3339.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, help="At most so many (50).")
@click.option("--cursor", default="", help="Go on behind an earlier page.")
@shared_options
@pass_settings
def list_runs(
    settings: Settings,
    states: tuple[str, ...],
    workflow: str,
    labels: tuple[str, ...],
    since: str,
    limit: int,
    cursor: str,
) -> None:
    """List runs, newest first, open and closed ones.

    In JSON and YAML a listed run has the keys that `get` has, but for what lists do not know:
    input, output, as_of, steps; with a closed run patched and parent, too. `get` tells them.

    \b
    Examples:
      flowctl list --state failed --since 1d
      flowctl list --label team=web -o json
    """
    from headrace.flowctl._views import listed_json, run_rows

    marks = parse_labels(labels)
    since_ms = parse_since(since, now_ms()) if since else 0

    async def action(client: Client) -> RunPage:
        return await client.list(
            states=[state.upper() for state in states],
            workflow=workflow,
            labels=marks,
            since_ms=since_ms,
            limit=limit,
            cursor=cursor,
        )

    page = run_client(settings, action)
    colour = colourful(sys.stdout)
    nothing = "no more runs" if cursor else "no runs"
    emit(
        settings,
        [listed_json(run) for run in page.runs],
        lines=lambda wide: table(*run_rows(page.runs, now_ms(), wide=wide), colour=colour),
        names=[run.id for run in page.runs],
        nothing=f"{nothing} so far" if page.cursor else nothing,
    )
    if page.cursor:
        note(f"there are more: --cursor {page.cursor}")


@click.command()
@click.argument("run")
@click.option("--watch", is_flag=True, help="Show the run live until it ends.")
@click.option(
    "--full",
    is_flag=True,
    help="Fetch large inputs and outputs too, instead of showing references to them.",
)
@click.option(
    "--at",
    default="",
    metavar="EVENT|TIME",
    help="The run as it was: behind this event of its history, or at a time (-10m, RFC 3339).",
)
@shared_options
@pass_settings
def get(settings: Settings, run: str, watch: bool, full: bool, at: str) -> None:
    """Show a run and its steps.

    With --watch the exit code is that of the run: 0 completed, 1 failed, 2 cancelled.
    With --at it is folded again from its history up to there.

    \b
    Examples:
      flowctl get 01k3x… --watch
      flowctl get 01k3x… -o json
      flowctl get 01k3x… -o json --full
      flowctl get 01k3x… --at 12
      flowctl get 01k3x… --at -10m
    """
    if at and watch:
        raise click.UsageError("--at shows the past, --watch what comes: choose one")
    at_event, at_ms = parse_at(at, now_ms()) if at else (None, 0)

    async def action(client: Client) -> RunView:
        first = await client.get(run, at_event=at_event, at_ms=at_ms)
        view = await followed(client, first, wait=False, watch=watch)
        return await client.whole(view) if full else view

    finish(settings, run_client(settings, action), followed=watch)


@click.command()
@click.argument("run")
@click.option(
    "--since",
    type=click.IntRange(min=1),
    default=1,
    metavar="NUMBER",
    help="Only events from this number on.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@shared_options
@pass_settings
def history(settings: Settings, run: str, since: int, follow: bool) -> None:
    """Show every event of a run, in order.

    With --follow each event is printed as it happens; with -o json one object a line.

    \b
    Examples:
      flowctl history 01k3x… -o json
      flowctl history 01k3x… -f --since 20
    """
    from headrace.flowctl._views import entry_json

    if follow:
        _follow_history(settings, run, since)
        return

    async def action(client: Client) -> list[HistoryEntry]:
        return list(await client.history(run, after=since - 1))

    entries = run_client(settings, action)

    def lines(wide: bool) -> list[str]:
        return table(ENTRY_HEADER, [_entry_row(entry, wide=wide) for entry in entries])

    emit(
        settings,
        [entry_json(entry) for entry in entries],
        lines=lines,
        names=[str(entry.number) for entry in entries],
    )


def _entry_row(entry: HistoryEntry, *, wide: bool) -> list[str]:
    data = one_line(as_json(entry.data), 10_000 if wide else 80) if entry.data else ""
    time = rfc3339(entry.time_ms) or ""
    return [str(entry.number), time, entry.type, plain(entry.path), data]


def _follow_history(settings: Settings, run: str, since: int) -> None:
    """Print events as they happen."""
    import msgspec

    from headrace.flowctl._views import entry_json

    chosen = settings.format
    if chosen == "yaml":
        raise click.UsageError("`flowctl history --follow` prints lines or -o json, not yaml")
    if chosen in ("table", "wide"):
        click.echo(_columns(ENTRY_HEADER))

    async def action(client: Client) -> None:
        entries = client.follow_history(run, after=since - 1, on_trouble=note_trouble)
        async for fresh in entries:
            for entry in fresh:
                if chosen == "json":
                    click.echo(msgspec.json.encode(entry_json(entry)).decode())
                elif chosen == "name":
                    click.echo(str(entry.number))
                else:
                    click.echo(_columns(_entry_row(entry, wide=chosen == "wide")))
            sys.stdout.flush()

    run_client(settings, action)


def _columns(cells: list[str]) -> str:
    """Return a line of a table whose later lines nobody knows yet."""
    padded = [cell.ljust(width) for cell, width in zip(cells, ENTRY_WIDTHS, strict=True)]
    return "  ".join(padded).rstrip()


@click.command()
@click.argument("run")
@shared_options
@pass_settings
def explain(settings: Settings, run: str) -> None:
    """Say why a run is where it is: what it waits for, since when, on whom.

    \b
    Examples:
      flowctl explain 01k3x…
    """
    from headrace.flowctl._views import explanation_json

    async def action(client: Client) -> Explanation:
        return await client.explain(run)

    explanation = run_client(settings, action)

    def lines(wide: bool) -> list[str]:
        shown = [f"{explanation.run}  {explanation.state}: {plain(explanation.summary)}"]
        if explanation.reasons:
            rows = [
                [
                    plain(reason.path) or "(run)",
                    reason.state,
                    rfc3339(reason.since_ms) or "",
                    rfc3339(reason.deadline_ms) or "",
                    reason.owner,
                    one_line(reason.reason, 1_000 if wide else 200),
                ]
                for reason in explanation.reasons
            ]
            header = ["STEP", "STATE", "SINCE", "DEADLINE", "WAITS FOR", "REASON"]
            shown += ["", *table(header, rows, colour=colourful(sys.stdout))]
        return shown

    emit(settings, explanation_json(explanation), lines=lines, names=[explanation.run])


@click.command()
@click.argument("run")
@click.option("--step", default="", metavar="PATH", help="Only this step, or the steps below it.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@click.option("--timestamps", is_flag=True, help="Print the time of each line.")
@click.option("--expand", is_flag=True, help="Print what is in groups, on a terminal too.")
@shared_options
@pass_settings
def logs(
    settings: Settings, run: str, step: str, follow: bool, timestamps: bool, expand: bool
) -> None:
    """Print what the steps of a run wrote; with -o json one object a line, as it was written.

    Annotations (`::error::`, `::warning::`, `::notice::`) are printed as such. On a terminal,
    unless it follows, a `::group::` is one line.

    \b
    Examples:
      flowctl logs 01k3x… -f
      flowctl logs 01k3x… --step build/test --expand
    """
    if settings.output in ("yaml", "name"):
        raise click.UsageError(f"`flowctl logs` prints lines or -o json, not {settings.output}")
    fold = sys.stdout.isatty() and not follow and not expand
    lines = _Lines(fold=fold, timestamps=timestamps, prefix=not step)
    printer = _print_objects if settings.format == "json" else lines.print

    async def action(client: Client) -> None:
        async for found in client.logs(run, step=step, follow=follow):
            printer(found)

    run_client(settings, action)
    lines.end()


class _Lines:
    """Prints lines for people, each step's commands and groups by themselves."""

    def __init__(self, *, fold: bool, timestamps: bool, prefix: bool) -> None:
        self._fold, self._timestamps, self._prefix = fold, timestamps, prefix
        self._colour = colourful(sys.stdout)
        self._steps: dict[tuple[str, int], StepLog] = {}

    def print(self, lines: LogLines) -> None:
        """Print what a piece of a step's output gives."""
        key = lines.path, lines.attempt
        if key not in self._steps:
            self._steps[key] = StepLog(fold=self._fold, colour=self._colour)
        for number, line in enumerate(lines.lines, lines.first):
            self._show(lines.path, self._steps[key].line(line.text, number, line.time_ms))
        sys.stdout.flush()

    def end(self) -> None:
        """Print what is left of groups that nobody has ended."""
        for (path, _), step in self._steps.items():
            self._show(path, step.end())

    def _show(self, path: str, found: Iterable[Shown]) -> None:
        for shown in found:
            time = f"{rfc3339(shown.time_ms)} " if self._timestamps else ""
            where = f"{path} | " if self._prefix else ""
            click.echo(f"{time}{where}{shown.text}", color=True if self._colour else None)


def _print_objects(lines: LogLines) -> None:
    import msgspec

    for number, line in enumerate(lines.lines, lines.first):
        data = {
            "time": rfc3339(line.time_ms),
            "path": lines.path,
            "attempt": lines.attempt,
            "number": number,
            "stream": line.stream,
            "text": line.text,
        }
        click.echo(msgspec.json.encode(data).decode())
    sys.stdout.flush()
