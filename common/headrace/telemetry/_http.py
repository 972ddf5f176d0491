"""A small HTTP server for `/metrics`, `/healthz` and `/readyz`: GET and HEAD, one answer each.

Everything is bounded: time for a request, its size, and how many are answered at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from http import HTTPStatus
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry

from headrace.errors import Unavailable
from headrace.telemetry._log import CountingHandler
from headrace.telemetry._metrics import ProcessMetrics, render

log = logging.getLogger(__name__)

Verdict: TypeAlias = tuple[bool, Sequence[str]]
"""Whether it is so, and if not, why not: one short sentence each."""

REQUEST_BYTES_MAX: Final = 8 * 1024
REQUEST_TIMEOUT_S: Final = 5.0
CONNECTIONS_MAX: Final = 32

_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text"
_OPENMETRICS_TYPE: Final = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"
_JSON_TYPE: Final = "application/json"
_TEXT_TYPE: Final = "text/plain; charset=utf-8"


def _always() -> Verdict:
    return True, ()


class StatusServer:
    """Owns a listening socket and its connections from `start` to `close`.

    `/healthz` answers 200 as long as the event loop turns and *live* agrees; `/readyz` answers
    what *ready* says (503 with the reasons when not). Both callables must be quick.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        registry: CollectorRegistry,
        ready: Callable[[], Verdict],
        live: Callable[[], Verdict] = _always,
        metrics: ProcessMetrics | None = None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        self._ready = ready
        self._live = live
        self._metrics = metrics
        self._request_timeout_s = request_timeout_s
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that it listens on; differs from the one asked for when that was 0."""
        assert self._server is not None, "not started"
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen. Raises `Unavailable` when the address is taken."""
        try:
            self._server = await asyncio.start_server(
                self._serve, self._host, self._port, limit=REQUEST_BYTES_MAX
            )
        except OSError as error:
            raise Unavailable(
                f"metrics port {self._host}:{self._port}: {error.strerror or error}"
            ) from error

    async def close(self) -> None:
        """Stop listening and end open connections; harmless when not started."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= CONNECTIONS_MAX or self._server is None:
            writer.close()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(self._request_timeout_s):
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.LimitOverrunError:
                    answer = _answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                else:
                    answer = self._respond(head)
                writer.write(answer)
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            pass  # A client that is slow or gone: nobody is left to tell.
        except asyncio.CancelledError:
            # By `close` alone. Swallowed here because the streams' own callback would log it.
            pass
        finally:
            self._connections.discard(task)
            if writer.transport.get_write_buffer_size():
                # A graceful close would wait for a peer that reads nothing.
                writer.transport.abort()
            else:
                writer.close()

    def _respond(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if not rest.rpartition(" ")[2].startswith("HTTP/1."):
            return _answer(HTTPStatus.BAD_REQUEST)
        if method not in ("GET", "HEAD"):
            return _answer(HTTPStatus.METHOD_NOT_ALLOWED)
        body: bytes | None
        try:
            match path:
                case "/metrics":
                    # Who understands OpenMetrics is given exemplars, too.
                    asks = _OPENMETRICS.encode() in head.lower()
                    body = render(self._registry, openmetrics=asks)
                    kind, status = _OPENMETRICS_TYPE if asks else _METRICS_TYPE, HTTPStatus.OK
                case "/healthz":
                    body, kind, status = _verdict(self._live())
                case "/readyz":
                    body, kind, status = _verdict(self._ready())
                case _:
                    return _answer(HTTPStatus.NOT_FOUND)
        except Exception:
            # The boundary to callables of others: the request fails, the server goes on.
            log.exception("status request failed", extra={"path": path})
            body, kind, status = None, _TEXT_TYPE, HTTPStatus.INTERNAL_SERVER_ERROR
        if self._metrics is not None:
            self._metrics.status_requests.inc(path, str(status.value))
        return _answer(status, body, kind, bodiless=method == "HEAD")


@contextlib.asynccontextmanager
async def status_server(
    host: str, port: int, registry: CollectorRegistry, ready: Callable[[], Verdict]
) -> AsyncGenerator[None, None]:
    """Serve for as long as the context lasts; port 0: not at all. Raises `Unavailable`."""
    if not port:
        yield
        return
    metrics = ProcessMetrics(registry)
    metrics.tasks.follow(lambda: len(asyncio.all_tasks()))
    counting = CountingHandler(metrics.log_records)
    server = StatusServer(host=host, port=port, registry=registry, ready=ready, metrics=metrics)
    await server.start()
    logging.getLogger().addHandler(counting)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(counting)
        await server.close()


def _verdict(verdict: Verdict) -> tuple[bytes, str, HTTPStatus]:
    good, reasons = verdict
    body = json.dumps({"ok": good, "reasons": list(reasons)}).encode() + b"\n"
    return body, _JSON_TYPE, HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE


def _answer(
    status: HTTPStatus,
    body: bytes | None = None,
    kind: str = _TEXT_TYPE,
    *,
    bodiless: bool = False,
) -> bytes:
    content = f"{status.phrase}\n".encode() if body is None else body
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n"
        + ("Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else "")
        + "\r\n"
    ).encode()
    return head if bodiless else head + content
