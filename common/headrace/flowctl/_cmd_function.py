"""Commands that talk to workflow functions: `update`, `query`, `unblock`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from headrace.flowctl._inputs import parse_payload
from headrace.flowctl._output import emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, shared_options
from headrace.flowctl._text import plain

if TYPE_CHECKING:
    from headrace.client import Client


_ARGUMENT: Final = click.option(
    "--argument", metavar="JSON", help="JSON, or a text; @FILE reads a file."
)


def _show(settings: Settings, value: Any) -> None:
    import json

    def lines(_wide: bool) -> list[str]:
        text = value if isinstance(value, str) else json.dumps(value, indent=2, default=str)
        return [] if value is None else [plain(text)]

    emit(settings, value, lines=lines)


@click.command()
@click.argument("run")
@click.argument("name")
@_ARGUMENT
@click.option("--timeout", "timeout_s", type=float, default=60.0, help="Seconds (default: 60).")
@shared_options
@pass_settings
def update(settings: Settings, run: str, name: str, argument: str | None, timeout_s: float) -> None:
    """Have the update handler NAME of a workflow function run, and print what it returns.

    It is in the history of the run, and runs once. The function may refuse it.

    \b
    Examples:
      flowctl update 01k3x… add_item --argument '{"sku": "A-7"}'
    """
    value = parse_payload(argument)

    async def send(client: Client) -> Any:
        return await client.update(run, name, value, timeout_s=timeout_s)

    _show(settings, run_client(settings, send))


@click.command()
@click.argument("run")
@click.argument("name")
@_ARGUMENT
@click.option("--timeout", "timeout_s", type=float, default=10.0, help="Seconds (default: 10).")
@shared_options
@pass_settings
def query(settings: Settings, run: str, name: str, argument: str | None, timeout_s: float) -> None:
    """Ask a workflow function something that changes nothing, and print the answer.

    A worker that has its code answers; a run that waits needs one for that moment.

    \b
    Examples:
      flowctl query 01k3x… progress
    """
    value = parse_payload(argument)

    async def ask(client: Client) -> Any:
        return await client.query(run, name, value, timeout_s=timeout_s)

    _show(settings, run_client(settings, ask))


@click.command()
@click.argument("run")
@click.option("--skip", "action", flag_value="skip", help="Take what is recorded of the step.")
@click.option("--patch", "action", flag_value="patch", help="Try the code that is deployed now.")
@click.option("--fail", "action", flag_value="fail", help="Let the run fail.")
@click.option("--key", default="", help="With --skip: of this step (default: the one in the way).")
@shared_options
@pass_settings
def unblock(settings: Settings, run: str, action: str | None, key: str) -> None:
    """Say how a run goes on whose journal and code contradict each other.

    `flowctl explain RUN` shows what differs.

    \b
    Examples:
      flowctl unblock 01k3x… --skip
      flowctl unblock 01k3x… --patch
    """
    if action is None:
        raise click.UsageError("one of --skip, --patch and --fail is needed")
    if key and action != "skip":
        raise click.UsageError("--key goes with --skip")

    async def send(client: Client) -> None:
        await client.unblock(run, action, key=key)

    run_client(settings, send)
    done = {"skip": "goes on with what is recorded", "patch": "tries again", "fail": "fails"}
    note(f"run {run}: {done[action]}")
