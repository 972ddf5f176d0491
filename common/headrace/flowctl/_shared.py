"""Options that every command takes, and the connection that most of them need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace.flowctl._settings import FORMATS, Settings, connect_timeout_s, find_target

if TYPE_CHECKING:
    from headrace.client import Client

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


def settings_of(context: click.Context) -> Settings:
    """Return the settings of this invocation; options before and after the command share them."""
    root = context.find_root()
    if not isinstance(root.obj, Settings):
        root.obj = Settings()
    return root.obj


def _store(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value:
        setattr(settings_of(context), str(parameter.name), value)


_OPTIONS = {
    "output": click.option(
        "--output",
        "-o",
        type=click.Choice(FORMATS),
        expose_value=False,
        callback=_store,
        help="Output format (default: table).",
    ),
    "namespace": click.option(
        "--namespace", "-n", expose_value=False, callback=_store, help="Namespace of the runs."
    ),
    "context": click.option(
        "--context", expose_value=False, callback=_store, help="Named cluster, see `context`."
    ),
    "server": click.option(
        "--server",
        "-s",
        expose_value=False,
        callback=_store,
        metavar="URL",
        help="NATS address of the cluster (FLOWCTL_SERVER).",
    ),
}


def some_options(*names: str) -> Callable[[Command], Command]:
    """Add those of the shared options that mean something to a command."""

    def add(function: Command) -> Command:
        for name in names:
            function = _OPTIONS[name](function)
        return function

    return add


def shared_options(function: Command) -> Command:
    """Add `--server`, `--context`, `--namespace` and `--output`; read them by `pass_settings`."""
    return some_options(*_OPTIONS)(function)


def refuse_others(context: click.Context, name: str, command: click.Command) -> None:
    """Raise `UsageError` for a shared option before the command that does not take it.

    *context* is that of the group; what stood behind the command, click has refused by itself.
    """
    taken = {parameter.name for parameter in command.params}
    for option in _OPTIONS:
        if getattr(settings_of(context), option) and option not in taken:
            raise click.UsageError(f"`flowctl {name}` takes no --{option}")


def pass_settings(function: Callable[..., T]) -> Callable[..., T]:
    """Give the command's function the `Settings` as its first argument."""

    def call(*args: Any, **kwargs: Any) -> T:
        return function(settings_of(click.get_current_context()), *args, **kwargs)

    call.__name__ = function.__name__
    call.__doc__ = function.__doc__
    # click keeps the options of decorators below this one on the function.
    call.__dict__.update(function.__dict__)
    return call


def run_client(settings: Settings, action: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, do *action*, disconnect.

    Raises `Unreachable` within `connect_timeout_s`; it names the address and how it was found.
    """
    import asyncio

    mute_logs()
    return asyncio.run(_connected(settings, action))


def mute_logs() -> None:
    """Let no record reach the user: lost connections are told by who waits, in people's words."""
    import logging
    import os

    if not os.environ.get("FLOWCTL_DEBUG"):
        logging.getLogger("headrace").addHandler(logging.NullHandler())
        logging.getLogger("headrace").propagate = False


async def _connected(settings: Settings, action: Callable[[Client], Awaitable[T]]) -> T:
    from headrace.client import ACCESS, Client
    from headrace.errors import InvalidConfig, Unreachable

    target = find_target(settings)
    try:
        client = await Client.connect(
            target.server,
            namespace=target.namespace,
            timeout_s=connect_timeout_s(),
            access=target.access,
        )
    except InvalidConfig as error:
        key = error.key.removeprefix("broker.")
        if key not in ACCESS:
            raise
        raise InvalidConfig(
            f"FLOWCTL_{key.upper()}, or {key} of the context", error.reason
        ) from None
    except Unreachable as error:
        raise Unreachable(
            f"cannot reach the cluster at {target.shown} ({target.found}): {error}\n"
            "start one with `flowctl dev`, or name one with --server"
        ) from error
    async with client:
        return await action(client)


def note(text: str) -> None:
    """Tell the user something that is not the result."""
    click.echo(text, err=True)


def note_trouble(error: Exception) -> None:
    """Tell the user that a command waits for the cluster to come back."""
    note(f"waiting for the cluster to answer again: {error}")
