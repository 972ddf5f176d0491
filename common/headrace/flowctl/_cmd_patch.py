"""`flowctl patch`: a live run goes on with another definition."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from headrace.flowctl._cmd_submit import check_handlers
from headrace.flowctl._output import colourful, emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, shared_options
from headrace.flowctl._text import plain, table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import PatchView


@click.command()
@click.argument("run")
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="Only print what would change.")
@click.option(
    "--allow-unknown", is_flag=True, help="Take handlers that no worker offers at the moment."
)
@shared_options
@pass_settings
def patch(settings: Settings, run: str, file: str, dry_run: bool, allow_unknown: bool) -> None:
    """Let a live run go on with the definition in FILE.

    Nodes that have not begun are replaced: changed ones say what FILE says, those that FILE does
    not have are gone, new ones become part of the run; a new node whose needs have ended begins.
    Nodes are the same when their paths are (give steps an `id`).

    Everything that has begun or ended must be in FILE as it was; else nothing is changed, and each
    such node is named with its place. So must be what the whole workflow says (inputs, env, vars,
    concurrency, timeout). Below what has ended nothing can be added. The body of a loop that has
    begun changes for all its iterations, while none has come that far.

    The run's history says when it was patched and by whom; `flowctl get RUN --at EVENT` shows it
    as it was before.

    \b
    Examples:
      flowctl patch 01k3x… order.yaml --dry-run
      flowctl patch 01k3x… order.yaml
    """
    from headrace.flowctl._definitions import load_definition, looked_up

    # A file with mistakes is refused before anything is asked.
    plan = load_definition(file, allow_unknown=True)

    async def action(client: Client) -> PatchView:
        whole = await looked_up(client, file, plan)
        if not allow_unknown:
            await check_handlers(client, file, whole)
        return await client.patch(run, whole, dry_run=dry_run)

    view = run_client(settings, action)
    colour = colourful(sys.stdout)
    emit(settings, _json(view), lines=lambda _: _lines(view, colour=colour), names=[view.run])
    done = f"patched at event {view.event}" if view.event else "would be patched"
    note(f"run {view.run}: {done}; {view.begun} nodes have begun and stay as they are")


def _json(view: PatchView) -> dict[str, Any]:
    return {name: getattr(view, name) for name in view.__struct_fields__}


def _lines(view: PatchView, *, colour: bool) -> list[str]:
    changes = {"added": view.added, "removed": view.removed, "changed": view.changed}
    rows = [[plain(path), what] for what, paths in changes.items() for path in paths]
    if not rows:
        return ["no node is another one"]
    return table(["NODE", "CHANGE"], rows, colour=colour)
