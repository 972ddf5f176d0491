"""Large values and output lines, for those whose login reaches no stream: any coordinator answers.

It owns nothing: the bucket and the stream are the broker's. What it adds is the look at the
namespace, which is in the subject that was asked, and so in the asker's permissions.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, cast

from headrace.bus import Bus, Message, ObjectBucket, Subscription, read_lines
from headrace.errors import Busy, HeadraceError, InvalidRequest, LimitExceeded
from headrace.messages import (
    AddChunk,
    GetLines,
    GetObject,
    NameObject,
    StoreReply,
    StoreRequest,
    TouchObject,
    decode,
    encode,
    nuid_of,
    subjects,
)

log = logging.getLogger(__name__)

VERSION: Final = 1
ASKING_MAX: Final = 256
"""Questions that are being answered; who comes then is asked to come again."""
CHUNKS_MAX: Final = 4
ANSWER_BYTES: Final = 512 * 1024
TIMEOUT_S: Final = 20.0


class Stored:
    """One coordinator's answers. Use: `start`, `close`."""

    def __init__(self, bus: Bus, *, object_bytes_max: int) -> None:
        self._bus, self._bytes_max = bus, object_bytes_max
        self._bucket = ObjectBucket(bus, subjects.BLOB_BUCKET, timeout_s=TIMEOUT_S)
        self._asking: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._subscription = self._bus.subscribe(subjects.store("*"), self._on_ask, queue="store")

    def close(self) -> None:
        """Answer no more."""
        if self._subscription is not None:
            self._subscription.close()
        for task in self._asking:
            task.cancel()

    def _on_ask(self, message: Message) -> None:
        if len(self._asking) >= ASKING_MAX:
            self._respond(message, _refused(Busy("too many values are being read and written")))
            return
        task = asyncio.create_task(self._answer(message), name="stored")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer(self, message: Message) -> None:
        namespace = message.subject.rpartition(".")[2]
        try:
            request: StoreRequest = decode(cast("Any", StoreRequest), message.data)
            async with asyncio.timeout(TIMEOUT_S):
                reply = await self._reply(namespace, request)
        except HeadraceError as error:
            reply = _refused(error)
        except TimeoutError:
            reply = _refused(Busy("the broker does not answer in time"))
        self._respond(message, reply)

    def _respond(self, message: Message, reply: StoreReply) -> None:
        try:
            self._bus.respond(message, encode(reply))
        except (Busy, LimitExceeded) as error:
            log.warning("answer not sent", extra={"subject": message.subject, "error": str(error)})

    async def _reply(self, namespace: str, request: StoreRequest) -> StoreReply:
        _check(namespace, request)
        bucket = self._bucket
        if isinstance(request, GetObject):
            return await self._object(request)
        if isinstance(request, AddChunk):
            await bucket.add_chunk(request.nuid, request.data)
        elif isinstance(request, NameObject):
            if request.size > self._bytes_max:
                raise LimitExceeded(
                    f"{request.name}: {request.size} bytes; the limit is {self._bytes_max}"
                )
            info = bucket.describe(
                request.name, request.nuid, size=request.size, digest=request.digest
            )
            await bucket.register(info)
        elif isinstance(request, TouchObject):
            touched = await bucket.touch(request.name, size=request.size)
            return StoreReply(VERSION, size=request.size if touched else -1)
        else:
            parts, more = await read_lines(
                self._bus, request.subject, request.after, bytes_max=ANSWER_BYTES
            )
            return StoreReply(VERSION, parts=parts, more=more)
        return StoreReply(VERSION)

    async def _object(self, request: GetObject) -> StoreReply:
        info = await self._bucket.info(request.name)
        if info is None or info.deleted:
            return StoreReply(VERSION)
        parts = []
        if request.count > 0 and info.chunks:
            count = min(request.count, CHUNKS_MAX)
            parts = await self._bucket.chunks(info, request.after, count=count)
        digest = info.digest.partition("=")[2]
        return StoreReply(VERSION, size=info.size, chunks=info.chunks, digest=digest, parts=parts)


def _check(namespace: str, request: StoreRequest) -> None:
    """Raise `InvalidRequest` for what is another namespace's."""
    if isinstance(request, GetLines):
        tokens = request.subject.split(".")
        own = len(tokens) == 5 and request.subject == subjects.step_logs(
            tokens[2], f"{namespace}/{tokens[4]}"
        )
        # No wildcards: they would reach further than a run.
        if not own or not tokens[2].isdigit() or not subjects.valid_name(tokens[4]):
            raise InvalidRequest(f"{request.subject} is no run's output in namespace {namespace}")
    elif isinstance(request, AddChunk):
        token = request.nuid.removeprefix(nuid_of(namespace, ""))
        if token == request.nuid or not subjects.valid_name(token):
            raise InvalidRequest(f"{request.nuid} is no chunk of namespace {namespace}")
    else:
        if not request.name.startswith(f"{namespace}/"):
            raise InvalidRequest(f"{request.name} is not in namespace {namespace}")
        if isinstance(request, NameObject):
            _check(namespace, AddChunk(VERSION, request.nuid, b""))
            if request.size < 0:
                raise InvalidRequest(f"{request.name}: a size below nothing")


def _refused(error: HeadraceError) -> StoreReply:
    return StoreReply(VERSION, error.code, str(error))
