"""`variable`: variables of a namespace, that workflows read as `vars`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from headrace.errors import NotFound
from headrace.flowctl._output import emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, settings_of, shared_options
from headrace.flowctl._text import one_line, plain, table

if TYPE_CHECKING:
    from headrace.client import Client


@click.group(invoke_without_command=True)
@shared_options
@click.pass_context
def variable(context: click.Context) -> None:
    """Keep variables that all runs of a namespace read as `vars` (`var` for short).

    A run goes by the values that it began with. What a workflow declares under `vars:` goes before
    them, and they go before what a worker is configured with. They are no secrets: everybody who
    may look at runs sees them.

    \b
    Examples:
      flowctl variable set REGION eu-west-1
      flowctl var list -n payments
    """
    settings_of(context)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@variable.command("set")
@click.argument("name")
@click.argument("value", required=False)
@click.option("--body", "-b", help="The value, as `gh variable set` has it.")
@shared_options
@pass_settings
def set_variable(settings: Settings, name: str, value: str | None, body: str | None) -> None:
    """Set NAME for runs that begin from now on; without a value it is read from stdin.

    \b
    Examples:
      flowctl variable set REGION eu-west-1
      flowctl variable set MOTD < motd.txt
    """
    if value is not None and body is not None:
        raise click.UsageError("the value stands behind the name, or in --body: choose one")
    text = value if value is not None else body
    if text is None:
        text = sys.stdin.read().removesuffix("\n")
    given = text

    async def action(client: Client) -> None:
        await client.variables.set(name, given)

    run_client(settings, action)
    note(f"variable {name} is set")


@variable.command("get")
@click.argument("name")
@shared_options
@pass_settings
def get_variable(settings: Settings, name: str) -> None:
    """Print the value of NAME.

    \b
    Examples:
      flowctl variable get REGION
    """

    async def action(client: Client) -> tuple[str, str]:
        for known, value in (await client.variables.all()).items():
            if known.lower() == name.lower():
                return known, value
        raise NotFound(f"no variable {name} in namespace {client.namespace}")

    known, value = run_client(settings, action)
    data = {"name": known, "value": value}
    emit(settings, data, lines=lambda _: [plain(line) for line in value.split("\n")], names=[known])


@variable.command("list")
@shared_options
@pass_settings
def list_variables(settings: Settings) -> None:
    """List the variables of the namespace.

    \b
    Examples:
      flowctl variable list -o json
    """

    async def action(client: Client) -> dict[str, str]:
        return await client.variables.all()

    values = run_client(settings, action)

    def lines(wide: bool) -> list[str]:
        width = 10_000 if wide else 80
        return table(["NAME", "VALUE"], [[n, one_line(v, width)] for n, v in values.items()])

    data = [{"name": name, "value": value} for name, value in values.items()]
    emit(settings, data, lines=lines, names=values, nothing="no variables")


@variable.command("delete")
@click.argument("name")
@shared_options
@pass_settings
def delete_variable(settings: Settings, name: str) -> None:
    """Delete NAME; runs that have begun keep its value.

    \b
    Examples:
      flowctl variable delete REGION
    """

    async def action(client: Client) -> None:
        await client.variables.delete(name)

    run_client(settings, action)
    note(f"variable {name} is deleted")
