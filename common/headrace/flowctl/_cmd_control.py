"""Commands that change a run: `cancel`, `pause`, `resume`, `signal`, `resolve`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from headrace.flowctl._inputs import parse_payload
from headrace.flowctl._output import emit_run
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, shared_options

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import RunView


def _change(
    settings: Settings, run: str, done: str, change: Callable[[Client], Awaitable[None]]
) -> None:
    """Make a change, say so, and print the run for programs."""

    async def action(client: Client) -> RunView | None:
        await change(client)
        if settings.format in ("table", "wide"):
            return None
        return await client.get(run)

    view = run_client(settings, action)
    note(f"run {run}: {done}")
    if view is not None:
        emit_run(settings, view)


@click.command()
@click.argument("run")
@click.option("--reason", default="", help="Kept in the history.")
@click.option("--force", is_flag=True, help="Stop a workflow function without asking it.")
@shared_options
@pass_settings
def cancel(settings: Settings, run: str, reason: str, force: bool) -> None:
    """Stop a run; its running steps are killed first.

    A workflow function sees the cancel, and may still undo what it has done. A second cancel, or
    --force, stops it at once.

    \b
    Examples:
      flowctl cancel 01k3x… --reason "wrong input"
    """
    _change(
        settings,
        run,
        "cancelling",
        lambda client: client.cancel(run, reason=reason, force=force),
    )


@click.command()
@click.argument("run")
@click.option("--reason", default="", help="Kept in the history.")
@shared_options
@pass_settings
def pause(settings: Settings, run: str, reason: str) -> None:
    """Start no more steps of a run until `resume`; running ones finish.

    \b
    Examples:
      flowctl pause 01k3x…
    """
    _change(settings, run, "paused", lambda client: client.pause(run, reason=reason))


@click.command()
@click.argument("run")
@shared_options
@pass_settings
def resume(settings: Settings, run: str) -> None:
    """Go on with a paused run.

    \b
    Examples:
      flowctl resume 01k3x…
    """
    _change(settings, run, "resumed", lambda client: client.resume(run))


@click.command()
@click.argument("run")
@click.argument("name")
@click.option("--payload", metavar="JSON", help="JSON, or a text; @FILE reads a file.")
@click.option("--correlation-key", default="", help="Only a wait with this key takes it.")
@click.option("--comment", help="Said with it; the payload's `comment`.")
@shared_options
@pass_settings
def signal(
    settings: Settings,
    run: str,
    name: str,
    payload: str | None,
    correlation_key: str,
    comment: str | None,
) -> None:
    """Send the signal NAME to a run; it is kept if the run does not wait for it yet.

    \b
    Examples:
      flowctl signal 01k3x… approval --payload '{"by": "ada"}' --comment "looks good"
      flowctl signal 01k3x… paid --correlation-key order-7
    """
    value = parse_payload(payload)
    if comment is not None:
        if value is not None and not isinstance(value, dict):
            raise click.UsageError("--comment goes with a payload that is an object, or none")
        value = {**(value or {}), "comment": comment}

    async def send(client: Client) -> None:
        await client.signal(run, name, value, correlation_key=correlation_key)

    _change(settings, run, f"signal {name} sent", send)


@click.command()
@click.argument("run")
@click.argument("step")
@click.option("--completed", "resolution", flag_value="completed", help="It took effect.")
@click.option("--failed", "resolution", flag_value="failed", help="It did not, and is to fail.")
@click.option("--retry", "resolution", flag_value="retry", help="It did not: run it again.")
@click.option("--outputs", "outputs", metavar="JSON", help="Outputs of a completed one; or @FILE.")
@shared_options
@pass_settings
def resolve(
    settings: Settings, run: str, step: str, resolution: str | None, outputs: str | None
) -> None:
    """Say what became of STEP (a path), whose worker was lost after it had claimed its effect.

    \b
    Examples:
      flowctl resolve 01k3x… pay/charge --completed --outputs '{"id": "ch_1"}'
      flowctl resolve 01k3x… pay/charge --retry
    """
    if resolution is None:
        raise click.UsageError("one of --completed, --failed and --retry is needed")
    value = parse_payload(outputs) if outputs is not None else {}
    if outputs is not None and resolution != "completed":
        raise click.UsageError("--outputs goes with --completed")
    if not isinstance(value, dict):
        raise click.UsageError("--outputs must be a JSON object")
    _change(
        settings,
        run,
        f"step {step} is {'run again' if resolution == 'retry' else resolution}",
        lambda client: client.resolve(run, step, resolution, value),
    )
