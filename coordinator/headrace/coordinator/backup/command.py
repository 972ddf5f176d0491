"""`flowctl cluster backup`, `restore` and `inspect`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from headrace.bus import Bus, JetStreamError, connect, credentials
from headrace.config import Broker, listed_addresses
from headrace.coordinator.backup.copying import backup as back_up
from headrace.coordinator.backup.file import BackupReader, Manifest
from headrace.coordinator.backup.restoring import read_states
from headrace.coordinator.backup.restoring import restore as bring_back
from headrace.coordinator.core import state_hash
from headrace.coordinator.core import status as states
from headrace.coordinator.runtime.server import release
from headrace.coordinator.shardlog import FEATURE_LEVEL
from headrace.errors import InvalidRequest, Unavailable, Unreachable
from headrace.flowctl import (
    Settings,
    connect_timeout_s,
    emit,
    find_target,
    note,
    pass_settings,
    shared_options,
    table,
)

T = TypeVar("T")

_FILE = click.Path(path_type=Path, dir_okay=False)
_archive = click.option(
    "--archive",
    type=_FILE,
    default=None,
    metavar="FILE",
    help="The coordinator's SQLite archive, where it is not at the path that it says itself.",
)
_config = click.option(
    "--config",
    type=_FILE,
    default=None,
    metavar="FILE",
    help="The coordinators' configuration file, for the address of a PostgreSQL archive.",
)


@click.command()
@click.argument("file", type=_FILE)
@_archive
@_config
@shared_options
@pass_settings
def backup(settings: Settings, file: Path, archive: Path | None, config: Path | None) -> None:
    """Write all that the cluster knows to FILE, while it works.

    Live runs, definitions, schedules, variables, locks, closed runs with their histories, large
    values. Not: what steps have printed, secrets, shards of level memory, settings of processes.
    The file appears when it is complete; one of that name is replaced.

    \b
    Examples:
      flowctl cluster backup headrace.backup
    """
    if not file.parent.is_dir():
        raise InvalidRequest(f"{file}: there is no folder {file.parent}")

    async def action(bus: Bus) -> Manifest:
        return await back_up(
            bus,
            file,
            release=release(),
            archive_file=archive,
            config_file=config,
            tell=note,
        )

    manifest = _run(settings, action, file)
    _emit(settings, manifest, file)


@click.command()
@click.argument("file", type=_FILE)
@_archive
@_config
@shared_options
@pass_settings
def restore(settings: Settings, file: Path, archive: Path | None, config: Path | None) -> None:
    """Bring the backup in FILE into an empty cluster, whose coordinators run.

    Every part of the file is checked before anything is changed, and no shard is led before all of
    them are whole; a restore that was interrupted is run again with the same file. What was under
    way when the backup was taken is made again, but for steps with `effect: at-most-once` that had
    begun: they are UNKNOWN.

    \b
    Examples:
      flowctl cluster restore headrace.backup
    """

    async def action(bus: Bus) -> dict[str, Any]:
        return msgspec.to_builtins(  # type: ignore[no-any-return]
            await bring_back(bus, file, archive_file=archive, config_file=config, tell=note)
        )

    found = _run(settings, action, file)
    rows = [
        ["live runs", str(found["runs"])],
        ["closed runs", str(found["closed"])],
        ["attempts that were under way", str(found["lost"])],
        ["definitions", str(found["definitions"])],
        ["schedules", str(found["schedules"])],
        ["events that nobody had read", str(found["events"])],
    ]
    emit(settings, found, lines=lambda _: table(["RESTORED", "COUNT"], rows), names=[str(file)])


@click.command()
@click.argument("file", type=_FILE)
@shared_options
@pass_settings
def inspect(settings: Settings, file: Path) -> None:
    """Check every part of the backup in FILE, fold its shards, and show what it holds.

    \b
    Examples:
      flowctl cluster inspect headrace.backup
    """
    try:
        reader = BackupReader.open(file, feature_level=FEATURE_LEVEL)
        found = []
        for part, state in read_states(reader):
            runs = (state.runs.peek(key) for key in state.runs)
            live = sum(run is not None and not states.is_final(run.state) for run in runs)
            found.append(
                {
                    **msgspec.to_builtins(part),
                    "runs": live,
                    "definitions": len(state.definitions),
                    "schedules": len(state.schedules),
                    "state_hash": state_hash(state),
                }
            )
    except OSError as error:
        raise _of_file(error, file) from error
    _emit(settings, reader.manifest, file, found)


def _emit(
    settings: Settings, manifest: Manifest, file: Path, shards: list[dict[str, Any]] | None = None
) -> None:
    plain = msgspec.to_builtins(manifest)
    plain["parts"] = len(manifest.parts)
    plain["bytes"] = sum(part.size for part in manifest.parts)
    if shards is not None:
        plain["shards"] = shards
    rows = [[str(shard.get(key, "")) for key in _COLUMNS] for shard in plain["shards"]]
    facts = ", ".join(f"{count} {what}" for what, count in manifest.counts.items())
    lines = [
        f"{file}: backup {manifest.id} of release {manifest.release}, {plain['bytes']} bytes",
        f"archive: {facts} (runs: closed ones, and their plans; blobs: large values)",
        "",
        *table([column.upper().replace("_", " ") for column in _COLUMNS], rows),
    ]
    emit(settings, plain, lines=lambda _: lines, names=[str(file)])


_COLUMNS = ("shard", "level", "epoch", "position", "entries", "runs", "state_hash")


def _run(settings: Settings, action: Callable[[Bus], Awaitable[T]], file: Path) -> T:
    """Connect as the other commands do, do *action*, disconnect."""
    if not os.environ.get("FLOWCTL_DEBUG"):
        logging.getLogger("headrace").addHandler(logging.NullHandler())
        logging.getLogger("headrace").propagate = False
    target = find_target(settings)

    async def connected() -> T:
        try:
            bus = await connect(
                listed_addresses([target.server]),
                name="headrace-backup",
                wait_s=connect_timeout_s(),
                credentials=credentials(Broker(**target.access)),  # type: ignore[arg-type]
            )
        except Unreachable as error:
            raise Unreachable(
                f"cannot reach the cluster at {target.shown} ({target.found}): {error}"
            ) from error
        async with bus:
            return await action(bus)

    try:
        return asyncio.run(connected())
    except OSError as error:
        raise _of_file(error, file) from error
    except JetStreamError as error:
        raise Unavailable(f"the broker refuses: {error}") from error


def _of_file(error: OSError, file: Path) -> InvalidRequest:
    return InvalidRequest(f"{error.filename or file}: {error.strerror or error}")
