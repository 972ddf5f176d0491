"""`register` and `definitions`: workflows that the cluster keeps by name and version."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from headrace.flowctl._output import colourful, emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, settings_of, shared_options
from headrace.flowctl._text import facts, rfc3339, table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import DefinitionView


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--name", default="", metavar="NAME", help="Default: the `name:` in the file.")
@click.option(
    "--version",
    default="",
    metavar="VERSION",
    help="Default: the next whole number, unless the newest version is this very workflow.",
)
@click.option(
    "--allow-unknown", is_flag=True, help="Also take handlers that no worker online offers."
)
@shared_options
@pass_settings
def register(settings: Settings, file: str, name: str, version: str, allow_unknown: bool) -> None:
    """Keep the workflow in FILE in the cluster, under a name and a version.

    Then `flowctl submit NAME` runs its newest version and `flowctl submit NAME@VERSION` a certain
    one. The same file again changes nothing; a version never changes its content.

    \b
    Examples:
      flowctl register order.yaml
      flowctl register order.yaml --version 2.1 && flowctl submit order@2.1
    """
    from headrace.errors import InvalidRequest
    from headrace.flowctl._cmd_submit import check_handlers
    from headrace.flowctl._definitions import load_definition, looked_up
    from headrace.messages import subjects

    plan = load_definition(file, allow_unknown=True)
    chosen = name or plan.name
    if not subjects.valid_name(chosen):
        near = re.sub(r"[^A-Za-z0-9_-]+", "-", chosen).strip("-").lower()[:128]
        hint = f", for instance --name {near}" if near and not name else ""
        raise InvalidRequest(
            f"{chosen!r} cannot be the name of a definition: letters, digits, - and _{hint}"
        )

    async def action(client: Client) -> DefinitionView:
        whole = await looked_up(client, file, plan)
        if not allow_unknown:
            await check_handlers(client, file, whole)
        return await client.definitions.register(whole, name=chosen, version=version)

    _emit_one(settings, run_client(settings, action))


@click.group(invoke_without_command=True)
@shared_options
@click.pass_context
def definitions(context: click.Context) -> None:
    """List, show and delete the workflows that the cluster keeps.

    \b
    Examples:
      flowctl definitions list
      flowctl definitions get order@2.1 -o json
    """
    settings_of(context)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@definitions.command(name="list")
@click.argument("name", required=False, default="")
@shared_options
@pass_settings
def list_definitions(settings: Settings, name: str) -> None:
    """List what is registered, or the versions of NAME, the newest first.

    \b
    Examples:
      flowctl definitions list
      flowctl definitions list order -o name
    """

    async def action(client: Client) -> Sequence[DefinitionView]:
        return await client.definitions.list(name)

    found = run_client(settings, action)
    _emit_all(settings, found, nothing="nothing is registered; `flowctl register FILE` does it")


@definitions.command(name="get")
@click.argument("target", metavar="NAME[@VERSION]")
@shared_options
@pass_settings
def get_definition(settings: Settings, target: str) -> None:
    """Show a registered version (the newest, if none is named) with its steps.

    \b
    Examples:
      flowctl definitions get order
      flowctl definitions get order@2.1 -o yaml
    """
    name, _, version = target.partition("@")

    async def action(client: Client) -> DefinitionView:
        return await client.definitions.get(name, version)

    _emit_one(settings, run_client(settings, action))


@definitions.command(name="delete")
@click.argument("target", metavar="NAME[@VERSION]")
@shared_options
@pass_settings
def delete_definition(settings: Settings, target: str) -> None:
    """Forget a version, or without one every version of NAME; its runs go on.

    \b
    Examples:
      flowctl definitions delete order@2.1
    """
    name, _, version = target.partition("@")

    async def action(client: Client) -> Sequence[DefinitionView]:
        return await client.definitions.delete(name, version)

    gone = run_client(settings, action)
    note("deleted: " + ", ".join(f"{view.name}@{view.version}" for view in gone))
    if settings.format not in ("table", "wide"):
        _emit_all(settings, gone)


def definition_json(view: DefinitionView) -> dict[str, Any]:
    """Return a definition for JSON and YAML; `inputs` and `steps` only if its plan is there."""
    from headrace.plan import decode_plan

    found: dict[str, Any] = {
        "name": view.name,
        "version": view.version,
        "namespace": view.namespace,
        "latest": view.latest,
        "digest": view.digest,
        "created_at": rfc3339(view.created_ms),
        "actor": view.actor,
    }
    if view.plan:
        plan = decode_plan(view.plan)
        found["workflow"] = plan.name
        found["description"] = plan.description
        found["inputs"] = dict(plan.inputs)
        found["schedules"] = list(plan.schedules)
        found["events"] = list(plan.events)
        found["steps"] = [node.title or node.name for node in plan.nodes[1:]]
    return found


def _emit_one(settings: Settings, view: DefinitionView) -> None:
    shown = definition_json(view)
    emit(
        settings,
        shown,
        lines=lambda _wide: facts({name: _brief(value) for name, value in shown.items()}),
        names=[f"{view.name}@{view.version}"],
    )


def _brief(value: Any) -> Any:
    """Return of inputs and triggers what tells them apart."""
    if isinstance(value, dict | list):
        return [getattr(item, "cron", getattr(item, "subject", item)) for item in value]
    return value


def _emit_all(settings: Settings, found: Sequence[DefinitionView], *, nothing: str = "") -> None:
    def lines(wide: bool) -> list[str]:
        header = ["NAME", "VERSION", "LATEST", "REGISTERED", "BY"]
        header += ["DIGEST"] if wide else []
        rows = [
            [
                view.name,
                view.version,
                "yes" if view.latest else "",
                rfc3339(view.created_ms) or "",
                view.actor,
                *([view.digest] if wide else []),
            ]
            for view in found
        ]
        return table(header, rows, colour=colourful(sys.stdout))

    emit(
        settings,
        [definition_json(view) for view in found],
        lines=lines,
        names=[f"{view.name}@{view.version}" for view in found],
        nothing=nothing,
    )
