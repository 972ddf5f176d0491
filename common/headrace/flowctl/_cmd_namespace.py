"""`namespace`: settings of a namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.flowctl._output import emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import pass_settings, run_client, settings_of, shared_options

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import NamespaceView


@click.group(invoke_without_command=True)
@shared_options
@click.pass_context
def namespace(context: click.Context) -> None:
    """Show and change settings of a namespace.

    \b
    Examples:
      flowctl namespace set payments --weight 3
      flowctl namespace get payments
    """
    settings_of(context)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@namespace.command("set")
@click.argument("name")
@click.option(
    "--weight",
    type=click.FloatRange(0.001, 1_000),
    required=True,
    help="Share of what it competes for with other namespaces (without a word: 1).",
)
@shared_options
@pass_settings
def set_namespace(settings: Settings, name: str, weight: float) -> None:
    """Change the settings of NAME.

    Where runs of several namespaces wait for the same room and have the same priority, each
    namespace is given a share by its weight.

    \b
    Examples:
      flowctl namespace set payments --weight 3
    """
    settings.namespace = name

    async def action(client: Client) -> NamespaceView:
        return await client.settings.set(weight=weight)

    _emit(settings, run_client(settings, action))


@namespace.command("get")
@click.argument("name")
@shared_options
@pass_settings
def get_namespace(settings: Settings, name: str) -> None:
    """Show the settings of NAME.

    \b
    Examples:
      flowctl namespace get payments -o json
    """
    settings.namespace = name

    async def action(client: Client) -> NamespaceView:
        return await client.settings.get()

    _emit(settings, run_client(settings, action))


def _emit(settings: Settings, view: NamespaceView) -> None:
    def lines(_wide: bool) -> list[str]:
        return [f"name    {view.name}", f"weight  {view.weight:g}"]

    emit(settings, {"name": view.name, "weight": view.weight}, lines=lines, names=[view.name])
