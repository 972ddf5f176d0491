"""Bytes from outside that nobody can read: counted, logged once, dropped."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.coordinator.runtime.leading import Shard
from headrace.errors import InvalidRequest
from headrace.messages import Claim, ResultBatch, StepResult, decode, encode, subjects
from support.fakebus import FakeMessage

NESTED = b"\x91" * 100_000
GOOD = encode(ResultBatch(1, "w", "1", []))
BAD = [b"nonsense", b"\xc1", NESTED, GOOD.replace(b"\xa1w", b"\xa1\xff")]


@pytest.mark.parametrize("data", BAD)
def test_a_result_that_cannot_be_read(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert data != GOOD
    refused: list[str] = []
    posted: list[Any] = []
    around = SimpleNamespace(
        layout=SimpleNamespace(level=lambda _shard: "journal"),
        refused=refused.append,
        bus=None,
        respond=lambda *_: None,
    )
    shard = Shard(0, cast("Any", around))
    shard.owner = cast("Any", SimpleNamespace(post_results=lambda *args: posted.append(args)))
    subject = subjects.result("default", 0, "w")
    with caplog.at_level(logging.WARNING):
        shard._on_worker(cast("Any", FakeMessage(subject, data)))
    assert (refused, posted) == (["malformed"], [])
    assert [record.message for record in caplog.records] == ["result not understood"]
    shard._on_worker(cast("Any", FakeMessage(subject, GOOD)))
    assert len(posted) == 1


@pytest.mark.parametrize("kind", [str, Claim, StepResult, dict[str, int], object])
@pytest.mark.parametrize("data", [b"\xa2\xff\xfe", b"\x81\xa2\xff\xfe\x01", NESTED, b""])
def test_decode_raises_our_error_and_no_other(kind: Any, data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode(kind, data)
