"""Commands about this program: `version`, `completion`, `context`."""

from __future__ import annotations

import os
import platform

import click

from headrace.errors import InvalidRequest
from headrace.flowctl._output import emit
from headrace.flowctl._settings import (
    Settings,
    valid_context_name,
    write_config,
)
from headrace.flowctl._shared import note, pass_settings, settings_of, some_options
from headrace.flowctl._text import table


@click.command()
@some_options("output")
@pass_settings
def version(settings: Settings) -> None:
    """Print the version of this program.

    \b
    Examples:
      flowctl version -o json
    """
    from importlib.metadata import version as installed

    release = installed("headrace")
    emit(
        settings,
        {"version": release, "python": platform.python_version()},
        lines=lambda _: [f"flowctl {release}"],
        names=[release],
    )


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(flowctl completion bash)"
      flowctl completion fish > ~/.config/fish/completions/flowctl.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    root = context.find_root().command
    click.echo(kind(root, {}, "flowctl", "_FLOWCTL_COMPLETE").source())


@click.group()
@some_options("output", "namespace", "server")
@click.pass_context
def context(context: click.Context) -> None:
    """Name the clusters that you work with; kept in ~/.config/flowctl/config.toml."""
    settings_of(context)


@context.command(name="list")
@some_options("output")
@pass_settings
def list_contexts(settings: Settings) -> None:
    """List the contexts; the current one bears a star.

    \b
    Examples:
      flowctl context list -o json
    """
    from headrace.client import read_config
    from headrace.config import shown_addresses

    config = read_config()
    entries = [
        {
            "name": name,
            "current": name == config.current,
            # Logins stay in the file.
            "server": shown_addresses(entry["server"]) if entry.get("server") else "",
            "namespace": entry.get("namespace", ""),
        }
        for name, entry in sorted(config.contexts.items())
    ]
    rows = [
        [
            "*" if entry["current"] else "",
            *(str(entry[key]) for key in ("name", "server", "namespace")),
        ]
        for entry in entries
    ]
    emit(
        settings,
        entries,
        lines=lambda _: table(["", "NAME", "SERVER", "NAMESPACE"], rows),
        names=[str(entry["name"]) for entry in entries],
    )


@context.command(name="use")
@click.argument("name")
def use_context(name: str) -> None:
    """Make NAME the current context; `-` means none.

    \b
    Examples:
      flowctl context use production
      flowctl context use -
    """
    from headrace.client import context_named, read_config

    config = read_config()
    if name != "-":
        context_named(config, name)
    config.current = "" if name == "-" else name
    write_config(config)
    note(f"current context: {config.current or 'none'}")


@context.command(name="set")
@click.argument("name")
@click.option("--creds-file", default="", help="NATS credentials (FLOWCTL_CREDS_FILE).")
@click.option("--nkey-file", default="", help="Seed of a NATS nkey (FLOWCTL_NKEY_FILE).")
@click.option("--tls-ca-file", default="", help="Authorities to trust (FLOWCTL_TLS_CA_FILE).")
@click.option("--tls-cert-file", default="", help="Our certificate (FLOWCTL_TLS_CERT_FILE).")
@click.option("--tls-key-file", default="", help="And its key (FLOWCTL_TLS_KEY_FILE).")
@click.option("--tls-hostname", default="", help="The server's name (FLOWCTL_TLS_HOSTNAME).")
@some_options("namespace", "server")
@pass_settings
def set_context(settings: Settings, name: str, **access: str) -> None:
    """Keep a server, how to log in, and a namespace under NAME.

    The first context becomes the current one. Of files their absolute path is kept.

    \b
    Examples:
      flowctl context set prod --server nats://nats.example:4222 -n billing
      flowctl context set prod --server tls://nats.example:4222 --tls-ca-file ca.pem
    """
    from headrace.client import config_file, read_config

    if not valid_context_name(name):
        raise InvalidRequest(f"not a name: {name!r} (letters, digits, - and _, at most 64)")
    if not (settings.server or settings.namespace or any(access.values())):
        raise InvalidRequest("say what to keep: --server, --namespace, how to log in")
    config = read_config()
    entry = config.contexts.setdefault(name, {})
    if settings.server:
        entry["server"] = settings.server
    if settings.namespace:
        entry["namespace"] = settings.namespace
    for key, value in access.items():
        if value:
            entry[key] = os.path.abspath(value) if key.endswith("_file") else value
    config.current = config.current or name
    write_config(config)
    note(f"context {name} written to {config_file()}")
