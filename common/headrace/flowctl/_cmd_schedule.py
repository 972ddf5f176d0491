"""`schedule`: runs that begin by themselves at their times."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from headrace.errors import InvalidRequest
from headrace.flowctl._inputs import collect_inputs, input_options
from headrace.flowctl._output import colourful, emit, emit_run
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, settings_of, shared_options
from headrace.flowctl._text import duration, facts, parse_duration, rfc3339, table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import RunView, ScheduleView

NEXT_SHOWN = 5
BACKFILL_MAX = 1_000
"""Runs of one `schedule backfill`."""


@click.group(invoke_without_command=True)
@shared_options
@click.pass_context
def schedule(context: click.Context) -> None:
    """Start runs at their times.

    A time of day that a change of the clock skips is the first instant after the gap; one that
    comes twice counts once. Each time has one run, whose id is made of the schedule and the time.

    \b
    Examples:
      flowctl schedule create nightly --workflow report --cron "30 2 * * *" \\
        --timezone Europe/Berlin
      flowctl schedule get nightly
    """
    settings_of(context)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@schedule.command(name="create")
@click.argument("name")
@click.option("--workflow", required=True, metavar="FILE|NAME[@VERSION]", help="What to run.")
@click.option(
    "--cron",
    required=True,
    help="Five fields: minute, hour, day of the month, month, day of the week.",
)
@click.option("--timezone", default="UTC", metavar="ZONE", help="Default: UTC.")
@input_options
@click.option(
    "--catch-up",
    type=click.Choice(["none", "one", "all"]),
    default="one",
    help="Of times that passed while no coordinator was there (default: one, the newest).",
)
@click.option(
    "--catch-up-window", default="1d", metavar="TIME", help="What is older is not (default: 1d)."
)
@click.option(
    "--overlap",
    type=click.Choice(["allow", "skip", "queue", "cancel-previous"]),
    default="allow",
    help="When the run before has not ended (default: allow).",
)
@click.option("--jitter", default="0s", metavar="TIME", help="Begin up to this much later.")
@click.option("--replace", is_flag=True, help="Put it in the place of one of the same name.")
@shared_options
@pass_settings
def create_schedule(
    settings: Settings,
    name: str,
    workflow: str,
    cron: str,
    timezone: str,
    inputs: tuple[str, ...],
    input_file: str | None,
    catch_up: Any,
    catch_up_window: str,
    overlap: Any,
    jitter: str,
    replace: bool,
) -> None:
    """Start runs of a workflow at the times of a cron expression.

    The workflow is taken as it is now: a later version needs `--replace`. (Schedules that stand
    in a registered file, under `on:`, follow its newest version by themselves.)

    \b
    Examples:
      flowctl schedule create nightly --workflow report --cron "30 2 * * *" --overlap skip
      flowctl schedule create poll --workflow poll.yaml --cron "*/5 * * * *" -i depth=3
    """
    from headrace.flowctl._definitions import is_file, load_definition, looked_up, registered_plan
    from headrace.messages import ScheduleSpec

    window_ms, jitter_ms = parse_duration(catch_up_window), parse_duration(jitter)
    written = load_definition(workflow, allow_unknown=True) if is_file(workflow) else None

    async def action(client: Client) -> ScheduleView:
        if written is None:
            plan, shown = await registered_plan(client, workflow), workflow
        else:
            plan, shown = await looked_up(client, workflow, written), ""
        spec = ScheduleSpec(
            cron=cron,
            timezone=timezone,
            catch_up=catch_up,
            window_ms=window_ms,
            overlap=overlap,
            jitter_ms=jitter_ms,
            input=collect_inputs(plan, inputs, input_file),
            workflow=shown or plan.name,
        )
        await client.schedules.create(name, spec, plan, replace=replace)
        return await client.schedules.get(name, times=NEXT_SHOWN)

    _emit_one(settings, run_client(settings, action))


@schedule.command(name="list")
@shared_options
@pass_settings
def list_schedules(settings: Settings) -> None:
    """List the schedules, those of registered definitions too.

    \b
    Examples:
      flowctl schedule list -o wide
    """

    async def action(client: Client) -> Sequence[ScheduleView]:
        return await client.schedules.list()

    found = run_client(settings, action)

    def lines(wide: bool) -> list[str]:
        header = ["NAME", "CRON", "TIME ZONE", "WORKFLOW", "NEXT", "LAST"]
        header += ["OVERLAP", "CATCH-UP", "STARTED", "MISSED"] if wide else []
        return table(
            header, [_row(view, wide=wide) for view in found], colour=colourful(sys.stdout)
        )

    emit(
        settings,
        [schedule_json(view) for view in found],
        lines=lines,
        names=[view.name for view in found],
        nothing="no schedules",
    )


@schedule.command(name="get")
@click.argument("name")
@shared_options
@pass_settings
def get_schedule(settings: Settings, name: str) -> None:
    """Show a schedule, its next times and what it is doing.

    \b
    Examples:
      flowctl schedule get nightly -o json
    """

    async def action(client: Client) -> ScheduleView:
        return await client.schedules.get(name, times=NEXT_SHOWN)

    _emit_one(settings, run_client(settings, action))


@schedule.command(name="pause")
@click.argument("name")
@click.option("--reason", default="", help="Kept with the schedule.")
@shared_options
@pass_settings
def pause_schedule(settings: Settings, name: str, reason: str) -> None:
    """Let times pass until `resume`; what runs goes on.

    \b
    Examples:
      flowctl schedule pause nightly --reason "maintenance"
    """
    _change(settings, name, paused=True, reason=reason)


@schedule.command(name="resume")
@click.argument("name")
@shared_options
@pass_settings
def resume_schedule(settings: Settings, name: str) -> None:
    """Go on with the next time; what passed meanwhile is not caught up.

    \b
    Examples:
      flowctl schedule resume nightly
    """
    _change(settings, name, paused=False, reason="")


@schedule.command(name="delete")
@click.argument("name")
@shared_options
@pass_settings
def delete_schedule(settings: Settings, name: str) -> None:
    """Start no more runs; those that run go on.

    \b
    Examples:
      flowctl schedule delete nightly
    """

    async def action(client: Client) -> None:
        await client.schedules.delete(name)

    run_client(settings, action)
    note(f"schedule {name}: deleted")


@schedule.command(name="trigger")
@click.argument("name")
@shared_options
@pass_settings
def trigger_schedule(settings: Settings, name: str) -> None:
    """Start a run now, beside the schedule's times, whatever its pause and overlap policy say.

    \b
    Examples:
      flowctl schedule trigger nightly -o name
    """

    async def action(client: Client) -> RunView:
        return await client.schedules.trigger(name)

    emit_run(settings, run_client(settings, action))


@schedule.command(name="backfill")
@click.argument("name")
@click.option("--from", "since", required=True, metavar="TIME", help="RFC 3339, or a date.")
@click.option("--to", "until", required=True, metavar="TIME", help="RFC 3339, or a date.")
@shared_options
@pass_settings
def backfill_schedule(settings: Settings, name: str, since: str, until: str) -> None:
    """Start the runs of past times, both ends included; a time that has its run keeps it.

    All begin at once, whatever the overlap policy: at most 1000 at a time.

    \b
    Examples:
      flowctl schedule backfill nightly --from 2026-01-01 --to 2026-01-31T23:59:59Z
    """
    after_ms, until_ms = parse_time(since) - 1, parse_time(until)
    if until_ms <= after_ms:
        raise InvalidRequest("--to lies before --from")

    async def action(client: Client) -> Sequence[RunView]:
        view = await client.schedules.get(
            name, times=BACKFILL_MAX, after_ms=max(after_ms, 1), until_ms=until_ms
        )
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        past = [time_ms for time_ms in view.next_ms if time_ms <= now_ms]
        if len(past) == BACKFILL_MAX:
            note(f"only the first {BACKFILL_MAX} times; go on behind {rfc3339(past[-1])}")
        return await client.schedules.backfill(name, past)

    found = run_client(settings, action)

    def lines(_wide: bool) -> list[str]:
        rows = [[run.id, run.state] for run in found]
        return table(["RUN", "STATE"], rows, colour=colourful(sys.stdout))

    emit(
        settings,
        [{"id": run.id, "state": run.state} for run in found],
        lines=lines,
        names=[run.id for run in found],
        nothing="no time of the schedule lies between the two, and in the past",
    )


def parse_time(text: str) -> int:
    """Return an RFC 3339 time or a date (UTC) in ms since the epoch. Raises `InvalidRequest`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"not a time: {text!r}; write 2026-01-31T08:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def schedule_json(view: ScheduleView) -> dict[str, Any]:
    """Return a schedule for JSON and YAML."""
    spec = view.spec
    return {
        "name": view.name,
        "namespace": view.namespace,
        "workflow": spec.workflow,
        "cron": spec.cron,
        "timezone": spec.timezone,
        "catch_up": spec.catch_up,
        "catch_up_window": duration(spec.window_ms),
        "overlap": spec.overlap,
        "jitter": duration(spec.jitter_ms),
        "input": spec.input,
        "definition": view.definition or None,
        "paused": view.paused,
        "reason": view.reason or None,
        "next": [rfc3339(time_ms) for time_ms in view.next_ms],
        "last": rfc3339(view.last_ms),
        "started": view.started,
        "missed": view.missed,
        "running": view.running,
        "queued": [rfc3339(time_ms) for time_ms in view.queued_ms],
        "problem": view.problem or None,
        "created_at": rfc3339(view.created_ms),
    }


def _change(settings: Settings, name: str, *, paused: bool, reason: str) -> None:
    async def action(client: Client) -> ScheduleView:
        return await client.schedules.pause(name, paused=paused, reason=reason)

    view = run_client(settings, action)
    note(f"schedule {name}: {'paused' if view.paused else 'goes on'}")
    if settings.format not in ("table", "wide"):
        _emit_one(settings, view)


def _emit_one(settings: Settings, view: ScheduleView) -> None:
    shown = schedule_json(view)
    emit(settings, shown, lines=lambda _wide: facts(shown), names=[view.name])


def _row(view: ScheduleView, *, wide: bool) -> list[str]:
    spec = view.spec
    next_shown = "paused" if view.paused else rfc3339(next(iter(view.next_ms), 0)) or "never"
    row = [view.name, spec.cron, spec.timezone, spec.workflow, next_shown]
    row.append(rfc3339(view.last_ms) or "")
    if wide:
        row += [spec.overlap, spec.catch_up, str(view.started), str(view.missed)]
    return row
