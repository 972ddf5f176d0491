"""`flowctl lint` and `flowctl replay`: workflow functions before they are deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from headrace.errors import InvalidRequest
from headrace.flowctl._code import load_app, source_of
from headrace.flowctl._output import emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import pass_settings, run_client, shared_options, some_options

if TYPE_CHECKING:
    from headrace.client import Client

EXIT_FOUND = 1


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@some_options("output")
@pass_settings
def lint(settings: Settings, paths: tuple[str, ...]) -> int:
    """Find what workflow functions may not do themselves: clocks, chance, I/O, threads, sleep.

    PATH is a file, a folder of Python files, or the name of a module or package. Only the syntax is
    looked at, nothing is imported; what other functions do on behalf of a workflow is not seen:
    `flowctl replay` and tests with `headrace_engine` see that.

    \b
    Examples:
      flowctl lint orders.py
      flowctl lint src/orders
      flowctl lint orders.workflows

    Exit codes: 0 nothing found, 1 something found, 4 no such file.
    """
    from headrace.sdk import lint_paths

    found = lint_paths([source_of(path) for path in paths])
    rows = [
        {"file": p.file, "line": p.line, "column": p.column, "message": p.message, "hint": p.hint}
        for p in found
    ]
    emit(
        settings,
        rows,
        lines=lambda _wide: (
            [problem.render(problem.file) for problem in found] or ["nothing found"]
        ),
        names=[f"{problem.file}:{problem.line}" for problem in found],
    )
    return EXIT_FOUND if found else 0


@click.command()
@click.argument("app", metavar="MODULE:APP")
@click.option(
    "--history",
    "source",
    required=True,
    metavar="FILE|RUN",
    help="A file of `flowctl history RUN -o json`, or a run's id.",
)
@click.option("--check", is_flag=True, help="Say only whether they agree (always so).")
@shared_options
@pass_settings
def replay(settings: Settings, app: str, source: str, check: bool) -> int:
    """Replay a recorded history with the code of today; no step runs.

    For CI: whether runs that are live would go on with this code, or be BLOCKED, and why.

    \b
    Examples:
      flowctl replay orders:app --history order-7.json
      flowctl replay orders:app --history 01k3x…

    Exit codes: 0 they agree, 1 they contradict each other, 3 usage, 4 no such run or workflow.
    """
    from headrace.sdk import check_history

    found = check_history(load_app(app), _events(settings, source))
    emit(
        settings,
        msgspec.to_builtins(found),
        lines=lambda _wide: [
            found.conflict or f"{found.workflow}: the code agrees with {found.entries} entries"
        ],
        names=[found.workflow],
    )
    return EXIT_FOUND if found.conflict else 0


def _events(settings: Settings, source: str) -> list[dict[str, Any]]:
    path = Path(source)
    if not path.is_file():

        async def action(client: Client) -> list[dict[str, Any]]:
            return [msgspec.to_builtins(entry) for entry in await client.history(source)]

        return run_client(settings, action)
    try:
        events = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{source} is no history: {error}") from error
    return events
