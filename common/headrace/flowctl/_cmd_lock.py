"""`lock`: names that one holder has at a time."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from headrace.flowctl._output import colourful, emit, now_ms
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, settings_of, shared_options
from headrace.flowctl._text import duration, parse_duration, plain, rfc3339, table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import LockView

_TTL = click.option("--ttl", default="30s", metavar="TIME", help="Hold it so long (default: 30s).")
_WAIT = click.option(
    "--wait", default="0s", metavar="TIME", help="Wait so long for it (default: not at all)."
)
_OWNER = click.option("--owner", default="", metavar="TEXT", help="Who holds it.")
_TOKEN = click.option(
    "--token", type=click.IntRange(1), default=None, metavar="N", help="The holder's token."
)


@click.group(invoke_without_command=True)
@shared_options
@click.pass_context
def lock(context: click.Context) -> None:
    """Let one at a time do something.

    A lock is held until it is given back, or its time is over: hold it no longer than that. Each
    holder gets a token, higher than any before; what you protect should refuse lower ones. Steps
    have locks by `lock:`; these are the same locks.

    \b
    Examples:
      flowctl lock run deploy --ttl 30s --wait 5m -- ./deploy.sh
      flowctl lock list
    """
    settings_of(context)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@lock.command(name="acquire")
@click.argument("name")
@_TTL
@_OWNER
@_WAIT
@shared_options
@pass_settings
def acquire_lock(settings: Settings, name: str, ttl: str, owner: str, wait: str) -> None:
    """Have a lock; print its token. Exits with 3 when it is not free in time.

    \b
    Examples:
      flowctl lock acquire deploy --ttl 10m --owner "$CI_JOB_ID" --wait 1m
      token=$(flowctl lock acquire deploy -o json | jq .token)
    """
    ttl_ms, wait_ms = parse_duration(ttl), parse_duration(wait)

    async def action(client: Client) -> LockView:
        return await client.locks.acquire(
            name, ttl_ms=ttl_ms, owner=owner or _somebody(), wait_ms=wait_ms
        )

    _emit_one(settings, run_client(settings, action))


@lock.command(name="renew")
@click.argument("name")
@_TTL
@_TOKEN
@_OWNER
@shared_options
@pass_settings
def renew_lock(settings: Settings, name: str, ttl: str, token: int | None, owner: str) -> None:
    """Hold a lock for longer: for a time from now on.

    \b
    Examples:
      flowctl lock renew deploy --token 42 --ttl 10m
    """
    ttl_ms = parse_duration(ttl)

    async def action(client: Client) -> LockView:
        return await client.locks.renew(name, ttl_ms=ttl_ms, token=token or 0, owner=owner)

    _emit_one(settings, run_client(settings, action))


@lock.command(name="release")
@click.argument("name")
@_TOKEN
@_OWNER
@click.option("--force", is_flag=True, help="Whoever has it, be it a step.")
@shared_options
@pass_settings
def release_lock(settings: Settings, name: str, token: int | None, owner: str, force: bool) -> None:
    """Give a lock back.

    \b
    Examples:
      flowctl lock release deploy --token 42
      flowctl lock release deploy --force
    """

    async def action(client: Client) -> None:
        await client.locks.release(name, token=token or 0, owner=owner, force=force)

    run_client(settings, action)
    note(f"lock {name}: released")


@lock.command(name="list")
@shared_options
@pass_settings
def list_locks(settings: Settings) -> None:
    """List the locks that somebody has, those of steps too.

    \b
    Examples:
      flowctl lock list
    """

    async def action(client: Client) -> Sequence[LockView]:
        return await client.locks.list()

    views = run_client(settings, action)
    header = ["NAME", "OWNER", "TOKEN", "EXPIRES", "WAITING"]

    def lines(_wide: bool) -> list[str]:
        rows = [
            [
                plain(view.name),
                plain(view.owner),
                str(view.token),
                rfc3339(view.until_ms) or "with its step",
                str(len(view.waiting)),
            ]
            for view in views
        ]
        return table(header, rows, colour=colourful(sys.stdout))

    emit(
        settings,
        [lock_json(view) for view in views],
        lines=lines,
        names=[view.name for view in views],
        nothing="no locks",
    )


@lock.command(name="get")
@click.argument("name")
@shared_options
@pass_settings
def get_lock(settings: Settings, name: str) -> None:
    """Show who has a lock, until when, and who waits.

    \b
    Examples:
      flowctl lock get deploy -o json
    """

    async def action(client: Client) -> LockView:
        return await client.locks.get(name)

    _emit_one(settings, run_client(settings, action))


@lock.command(name="run", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@_TTL
@_OWNER
@_WAIT
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@shared_options
@pass_settings
def run_locked(
    settings: Settings, name: str, ttl: str, owner: str, wait: str, command: tuple[str, ...]
) -> None:
    """Run a command while holding a lock; exits as the command does.

    The lock is renewed while the command runs, and the command is ended when the lock is lost. It
    finds the token in HEADRACE_LOCK_TOKEN.

    \b
    Examples:
      flowctl lock run deploy --ttl 30s --wait 5m -- ./deploy.sh --all
    """
    from headrace.flowctl._locked import run_command

    ttl_ms, wait_ms = parse_duration(ttl), parse_duration(wait)

    async def action(client: Client) -> int:
        return await run_command(
            client, name, command, ttl_ms=ttl_ms, wait_ms=wait_ms, owner=owner or _somebody()
        )

    code = run_client(settings, action)
    if code:
        raise click.exceptions.Exit(code)


def lock_json(view: LockView) -> dict[str, Any]:
    """Return a lock for JSON and YAML."""
    return {
        "name": view.name,
        "namespace": view.namespace,
        "held": bool(view.holder),
        "owner": view.owner or None,
        "holder": view.holder or None,
        "token": view.token or None,
        "expires": rfc3339(view.until_ms),
        "waiting": view.waiting,
    }


def _emit_one(settings: Settings, view: LockView) -> None:
    def lines(_wide: bool) -> list[str]:
        name = plain(view.name)
        if not view.holder:
            return [f"{name}  free"]
        left = "until its step ends"
        if view.until_ms:
            left = f"for {duration(view.until_ms - now_ms())} (until {rfc3339(view.until_ms)})"
        shown = [f"{name}  held by {plain(view.owner)} {left}, token {view.token}"]
        shown += [f"  waiting: {plain(owner)}" for owner in view.waiting]
        return shown

    emit(settings, lock_json(view), lines=lines, names=[view.name])


def _somebody() -> str:
    """Return who asks, if nobody says so: one of its own for each process."""
    return f"{os.environ.get('USER') or 'somebody'}@{socket.gethostname()}:{os.getpid()}"
