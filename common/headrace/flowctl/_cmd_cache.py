"""`cache`: results of steps that are kept for others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from headrace.errors import InvalidRequest
from headrace.flowctl._output import colourful, emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, settings_of, shared_options
from headrace.flowctl._text import plain, rfc3339, table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import CachedView


@click.group(invoke_without_command=True)
@shared_options
@click.pass_context
def cache(context: click.Context) -> None:
    """Look at the results of steps that are kept by `cache:`, and forget them.

    \b
    Examples:
      flowctl cache list
      flowctl cache clear deps-v1
    """
    settings_of(context)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cache.command(name="list")
@click.argument("key", default="")
@shared_options
@pass_settings
def list_cached(settings: Settings, key: str) -> None:
    """List what is kept, the newest first.

    \b
    Examples:
      flowctl cache list deps-v1 -o json
    """

    async def action(client: Client) -> Sequence[CachedView]:
        return await client.cached.list(key)

    views = run_client(settings, action)
    header = ["KEY", "RUN", "STEP", "RECORDED", "UNTIL", "BYTES"]

    def lines(wide: bool) -> list[str]:
        rows = [
            [
                plain(view.key),
                view.run,
                plain(view.path),
                rfc3339(view.time_ms) or "",
                rfc3339(view.until_ms) or "",
                str(view.bytes),
                *([view.digest] if wide else []),
            ]
            for view in views
        ]
        return table([*header, *(["DIGEST"] if wide else [])], rows, colour=colourful(sys.stdout))

    emit(
        settings,
        [_json(view) for view in views],
        lines=lines,
        names=[view.key for view in views],
        nothing="nothing is kept",
    )


@cache.command(name="clear")
@click.argument("key", default="")
@click.option("--all", "everything", is_flag=True, help="All that is kept in the namespace.")
@shared_options
@pass_settings
def clear_cached(settings: Settings, key: str, everything: bool) -> None:
    """Forget what is kept under a key, or all of the namespace.

    \b
    Examples:
      flowctl cache clear deps-v1
      flowctl cache clear --all
    """
    if bool(key) == everything:
        raise InvalidRequest("name a key, or say --all")

    async def action(client: Client) -> int:
        return await client.cached.clear(key)

    gone = run_client(settings, action)
    note(f"{gone} results forgotten")


def _json(view: CachedView) -> dict[str, Any]:
    return {
        "key": view.key,
        "digest": view.digest,
        "run": view.run,
        "step": view.path,
        "recorded": rfc3339(view.time_ms),
        "until": rfc3339(view.until_ms),
        "bytes": view.bytes,
    }
