"""The archive that the configuration names: how it is opened, and what others are told of it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from headrace.bus import Bus
from headrace.config import Config, Coordinator
from headrace.coordinator.archive.store import Archive
from headrace.errors import InvalidConfig, Unavailable

log = logging.getLogger(__name__)

RETRY_S = 1.0


def described(config: Config) -> str:
    """Return the kind, and behind a colon what a backup must know to open it."""
    kind = config.coordinator.archive
    if kind == "sqlite":
        return f"sqlite:{_file(config.coordinator).absolute()}"
    return f"postgres:{config.postgres.schema}" if kind == "postgres" else kind


async def open_archive(bus: Bus, config: Config) -> Archive:
    """Open it; wait for a broker as long as it takes. Raises `HeadraceError` where none helps."""
    kind = config.coordinator.archive
    if kind != "postgres" and config.postgres.url:
        # Workers may have it in an environment that all share; here it is a mistake.
        raise InvalidConfig("postgres.url", f"means nothing with coordinator.archive = {kind!r}")
    if kind == "sqlite":
        from headrace.coordinator.archive.sqlite import SqliteArchive

        path = _file(config.coordinator)
        path.parent.mkdir(parents=True, exist_ok=True)
        return await SqliteArchive.open(path)
    if kind == "postgres":
        return await _open_postgres(config)
    from headrace.coordinator.archive.jetstream import JetStreamArchive

    while True:
        try:
            return await JetStreamArchive.open(bus, replicas=config.coordinator.replicas)
        except Unavailable as error:
            # A cluster that has only just made its streams may still elect their leaders.
            log.warning("archive not ready", extra={"error": str(error)})
            await asyncio.sleep(RETRY_S)


async def _open_postgres(config: Config) -> Archive:
    """Runs need the database only once they have ended: its absence keeps no coordinator away."""
    try:
        from headrace.coordinator.archive.postgres import PostgresArchive
    except ImportError as error:
        raise InvalidConfig(
            "coordinator.archive",
            f"\"postgres\" needs more packages: pip install 'headrace[postgres]' ({error})",
        ) from error
    archive = PostgresArchive(config.postgres, coordinator=config.coordinator.id)
    try:
        await archive.prepare()
    except Unavailable as error:
        log.warning("archive not ready, runs wait for it", extra={"error": str(error)})
    except BaseException:
        await archive.close()
        raise
    return archive


def _file(settings: Coordinator) -> Path:
    return Path(settings.archive_path or Path(settings.data_dir) / "archive.db")
