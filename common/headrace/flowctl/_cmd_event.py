"""`event`: what happens outside, and begins runs of registered workflows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from headrace.errors import InvalidRequest
from headrace.flowctl._inputs import parse_json, read_json
from headrace.flowctl._output import colourful, emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, settings_of, shared_options
from headrace.flowctl._text import rfc3339, table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.client._events import Published
    from headrace.messages import TriggerView


@click.group(invoke_without_command=True)
@shared_options
@click.pass_context
def event(context: click.Context) -> None:
    """Publish events, and see what waits for them.

    An event begins a run of each registered workflow whose `on: event:` fits. Any client of the
    broker may publish: to `headrace.in.NAMESPACE.SUBJECT`.

    \b
    Examples:
      flowctl event publish orders.created --data '{"id": "o-17", "total": 120}'
      flowctl event triggers
    """
    settings_of(context)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@event.command(name="publish")
@click.argument("subject")
@click.option("--data", metavar="JSON", help="What the workflow sees as `event.data`.")
@click.option(
    "--data-file", metavar="FILE", help="The same from a file, JSON or YAML; `-` reads stdin."
)
@click.option(
    "--id", "name", default="", help="The event's id: with the same one again nothing happens."
)
@shared_options
@pass_settings
def publish_event(
    settings: Settings, subject: str, data: str | None, data_file: str | None, name: str
) -> None:
    """Publish an event; once this ends with 0 it is stored, and is not lost.

    What it begins is for the cluster to decide: `flowctl list --label headrace/event=SUBJECT`.
    An --id counts for ten minutes, in its namespace and subject.

    \b
    Examples:
      flowctl event publish orders.created --data '{"id": "o-17", "total": 120}'
      flowctl event publish backup.done --data-file report.json --id backup-2026-01-31
    """
    if data is not None and data_file is not None:
        raise click.UsageError("give --data or --data-file, not both")
    value: Any = None
    if data is not None:
        try:
            value = parse_json(data)
        except ValueError as error:
            hint = "a text needs its quotes: '\"text\"'"
            raise InvalidRequest(f"--data {data!r:.80}: {error} ({hint})") from error
    elif data_file is not None:
        value = read_json(data_file)

    async def action(client: Client) -> Published:
        return await client.events.publish(subject, value, id=name)

    found = run_client(settings, action)
    shown = {
        "subject": found.subject,
        "id": found.id,
        "sequence": found.sequence,
        "duplicate": found.duplicate,
    }

    def lines(_wide: bool) -> list[str]:
        again = " (it was there already)" if found.duplicate else ""
        return [f"event {found.sequence} of {found.subject} is stored: {found.id}{again}"]

    emit(settings, shown, lines=lines, names=[found.id])


@event.command(name="triggers")
@shared_options
@pass_settings
def list_triggers(settings: Settings) -> None:
    """List the registered workflows that events begin, and what they have begun.

    \b
    Examples:
      flowctl event triggers -o wide
    """

    async def action(client: Client) -> Sequence[TriggerView]:
        return await client.events.triggers()

    found = run_client(settings, action)

    def lines(wide: bool) -> list[str]:
        header = ["WORKFLOW", "SUBJECTS", "STARTED", "HELD", "FAILED", "LAST RUN", "LAST"]
        header += ["FILTERS", "PROBLEM"] if wide else []
        rows = [_row(view, wide=wide) for view in found]
        return table(header, rows, colour=colourful(sys.stdout))

    emit(
        settings,
        [trigger_json(view) for view in found],
        lines=lines,
        names=[view.definition for view in found],
        nothing="no registered workflow waits for events",
    )
    for view in found:
        if view.problem and settings.format == "table":
            note(f"{view.definition}: {view.problem}")


def trigger_json(view: TriggerView) -> dict[str, Any]:
    """Return what waits for events for JSON and YAML."""
    return {
        "definition": view.definition,
        "version": view.version,
        "namespace": view.namespace,
        "events": [
            {"subject": subject, "filter": condition or None}
            for subject, condition in zip(view.subjects, view.filters, strict=True)
        ],
        "started": view.started,
        "failed": view.failed,
        "held": view.held,
        "last_run": view.last_run or None,
        "last": rfc3339(view.last_ms),
        "problem": view.problem or None,
        "problem_at": rfc3339(view.problem_ms),
    }


def _row(view: TriggerView, *, wide: bool) -> list[str]:
    row = [
        f"{view.definition}@{view.version}",
        ", ".join(view.subjects),
        str(view.started),
        str(view.held),
        str(view.failed),
        view.last_run,
        rfc3339(view.last_ms) or "",
    ]
    if wide:
        row += ["; ".join(filter(None, view.filters)), view.problem]
    return row
