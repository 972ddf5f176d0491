"""`flowctl cluster migrate`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import click

from headrace.config import load
from headrace.coordinator.archive.postgres.access import Access
from headrace.coordinator.archive.postgres.migrations import (
    Migration,
    Standing,
    bring_up,
    finish,
    look,
)
from headrace.flowctl import Settings, emit, note, pass_settings, shared_options, table


@click.command()
@click.option("--post", is_flag=True, help="The post migrations too: all coordinators are new.")
@click.option("--check", is_flag=True, help="Change nothing, only show.")
@click.option("--force", is_flag=True, help="Whichever releases are connected.")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The coordinators' configuration file.",
)
@shared_options
@pass_settings
def migrate(settings: Settings, post: bool, check: bool, force: bool, path: Path | None) -> None:
    """Bring the tables of the PostgreSQL archive up to this release.

    Needs the section [postgres] of the coordinators' configuration (or HEADRACE_CFG_POSTGRES__URL),
    not the broker. Coordinators do the same when they start, but for post migrations, which take
    away what only earlier releases needed: those are refused while one of them is connected.

    \b
    Examples:
      flowctl cluster migrate --check
      flowctl cluster migrate --post
    """
    database = load(path, os.environ, {"coordinator.archive": "postgres"}).postgres

    async def action() -> tuple[Sequence[Migration], Standing]:
        access = Access(database, name="flowctl-migrate")
        try:
            done: Sequence[Migration] = ()
            if not check:
                done = await (finish(access, force=force) if post else bring_up(access))
            return done, await look(access)
        finally:
            await access.close()

    done, standing = asyncio.run(action())
    for one in done:
        note(f"migration {one.number} applied: {one.name}")
    rows = [[str(number), phase, "applied", name] for number, phase, name in standing.applied]
    rows += [[str(one.number), one.phase, "pending", one.name] for one in standing.pending]
    emit(
        settings,
        [dict(zip(("number", "phase", "state", "name"), row, strict=True)) for row in rows],
        lines=lambda _: table(["NUMBER", "PHASE", "STATE", "NAME"], rows),
        names=[row[0] for row in rows],
    )
