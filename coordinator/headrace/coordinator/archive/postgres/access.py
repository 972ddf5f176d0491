"""Connections to the database: a small pool, bounded waits, and the server's errors as ours.

Every statement here reads or writes short ranges of indexes, so sessions are told to use them
whatever statistics say: `_PLANS`. A commit is on the server's disk before it returns.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, cast

import asyncpg

from headrace.config import Postgres
from headrace.errors import HeadraceError, InvalidConfig, Unavailable

log = logging.getLogger(__name__)


class Connection(Protocol):
    """One session, for as long as a caller has it; asyncpg has no types of its own."""

    async def execute(self, sql: str, *values: Any, timeout: float | None = None) -> str:
        """Do one statement, or several without values; *timeout* in seconds, if not the usual."""
        ...

    async def fetch(self, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
        """Return the rows."""
        ...

    async def fetchval(self, sql: str, *values: Any) -> Any:
        """Return the first column of the first row, or None."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Begin one; it is committed or rolled back at the end."""
        ...


_PLANS: Final = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # A plan for values not yet seen would not know rare labels from common ones.
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
}

_REFUSED: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
"""What does not mend itself: logins, rights, databases that are not there."""

_UNREADABLE: Final = (FileNotFoundError, IsADirectoryError, PermissionError)

_FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


class NotAllowed(HeadraceError):
    """The server does not let us in, or not do this: somebody must change something."""

    code = "unavailable"
    exit_code = 3


class Access:
    """The pool of one process; opened by the first use, and again after it could not be."""

    def __init__(self, settings: Postgres, *, name: str) -> None:
        """*name* is what the server's list of sessions shows."""
        self.settings = settings
        self.shown = f"PostgreSQL archive {settings.place}"
        self._name = name
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._closed = self._warned = False

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Connection]:
        """Lend a session, in autocommit mode.

        Raises `Unavailable`, and `NotAllowed` where waiting does not help.
        """
        wait_s = self.settings.connect_timeout_ms / 1_000
        with self._translated():
            pool = await self._open()
            async with pool.acquire(timeout=wait_s) as connection:
                yield cast(Connection, connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        """Lend a session in a transaction that is committed, on disk, when this ends well.

        Raises as `session`. Whether a commit that fails has happened is not known.
        """
        async with self.session() as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        """End the sessions; twice is fine."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(self.settings.connect_timeout_ms / 1_000):
                await pool.close()
        except _FAILURES:
            pool.terminate()

    async def _open(self) -> asyncpg.Pool:
        async with self._opening:
            if self._closed:
                raise Unavailable(f"{self.shown}: closed")
            if self._pool is None:
                self._pool = await self._connect()
            return self._pool

    async def _connect(self) -> asyncpg.Pool:
        settings = self.settings
        try:
            return await asyncpg.create_pool(
                settings.url,
                password=self._password() or None,
                min_size=1,
                max_size=settings.connections_max,
                max_inactive_connection_lifetime=300.0,
                timeout=settings.connect_timeout_ms / 1_000,
                command_timeout=settings.statement_timeout_ms / 1_000,
                init=self._begin,
                reset=_as_it_is,
                server_settings={
                    "application_name": self._name[:63],
                    "search_path": settings.schema,
                    "statement_timeout": str(settings.statement_timeout_ms),
                    "idle_in_transaction_session_timeout": str(settings.statement_timeout_ms),
                    "lock_timeout": str(settings.statement_timeout_ms),
                    **_PLANS,
                },
            )
        except ssl.SSLError:
            raise  # a kind of ValueError, too
        except (asyncpg.ClientConfigurationError, OSError, ValueError) as error:
            if isinstance(error, OSError) and not isinstance(error, _UNREADABLE):
                raise
            # Of files named in the URL, or of its form: not quoted, it may hold a password.
            raise InvalidConfig("postgres.url", _of_url(error)) from None

    def _password(self) -> str | Any:
        """Return the password, or what returns it for each connection; empty: the URL's."""
        settings = self.settings
        if not settings.password_file:
            return settings.password
        return lambda: _first_line(settings.password_file)

    async def _begin(self, connection: Connection) -> None:
        """Look at a new session's server, and have commits waited for."""
        ((encoding, fsync),) = await connection.fetch(
            "SELECT current_setting('server_encoding'), current_setting('fsync')"
        )
        if encoding != "UTF8":
            raise NotAllowed(f"{self.shown}: its encoding is {encoding}, and UTF8 is needed")
        if fsync != "on" and not self._warned:
            self._warned = True
            log.warning("the database does not fsync", extra={"archive": self.shown})
        await connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except _REFUSED as error:
            raise NotAllowed(f"{self.shown}: {_sentence(error)}") from error
        except _FAILURES as error:
            raise Unavailable(f"{self.shown}: {_sentence(error)}") from error


async def _as_it_is(_connection: Connection) -> None:
    """Nothing of ours changes a session, so nothing has to be put back."""


def _first_line(path: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig("postgres.password_file", str(error)) from error
    return lines[0] if lines else ""


def _of_url(error: Exception) -> str:
    if isinstance(error, asyncpg.ClientConfigurationError):
        return str(error).splitlines()[0]
    if isinstance(error, OSError):
        return f"a file that it names cannot be read: {error.strerror}"
    return "cannot be read"


def _sentence(error: BaseException) -> str:
    """Return what happened, in one line."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    state: str = getattr(error, "sqlstate", "") or ""
    code = f" ({state})" if state else ""
    return f"{str(error).partition(chr(10))[0] or type(error).__name__}{code}"
