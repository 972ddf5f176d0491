"""`docs/protocol/vectors.json` is what the code speaks, and has every message of the protocol."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from headrace import messages
from headrace.messages import _code, _steps
from support.protocol_vectors import VECTORS, examples, kind_of, text

PAGE = (VECTORS.parents[1] / "protocol.md").read_text("utf-8")
FILED = json.loads(VECTORS.read_text("utf-8"))["vectors"]
KINDS = {
    kind.__name__
    for module in (_steps, _code)
    for kind in vars(module).values()
    if isinstance(kind, type)
    and issubclass(kind, msgspec.Struct)
    and kind.__module__ == module.__name__
}


def test_the_file_is_what_the_script_writes() -> None:
    """Mend with: PYTHONPATH=tests python -m support.protocol_vectors. Is it still version 1?"""
    assert VECTORS.read_text("utf-8") == text()


def test_every_message_has_a_vector_and_a_table() -> None:
    assert {kind_of(vector["name"]) for vector in FILED} == KINDS
    assert set(re.findall(r"<!-- fields: (\w+) -->", PAGE)) == KINDS


@pytest.mark.parametrize(("vector", "example"), [*zip(FILED, examples(), strict=True)])
def test_a_vector_is_read(vector: dict, example: tuple) -> None:
    _, _, message = example
    kind = getattr(messages, kind_of(vector["name"]))
    assert messages.decode(kind, bytes.fromhex(vector["hex"])) == message


def test_shorter_arrays_are_read() -> None:
    """What the page promises: fields at the end may be missing, and others may follow."""
    short = msgspec.msgpack.encode([1, 3, 7, "default", 0, []])
    assert messages.decode(messages.TaskBatch, short).round == 0
    longer = msgspec.msgpack.encode([[], 250, "later"])
    assert messages.decode(messages.ResultReply, longer).retry_after_ms == 250


def test_the_page_shows_a_vector_as_it_is() -> None:
    (shown,) = re.findall(r"```json\n(\{\"name\".*)\n```", PAGE)
    assert json.loads(shown) in FILED


def test_vectors_are_one_a_line() -> None:
    assert len(Path(VECTORS).read_text("utf-8").splitlines()) == len(FILED) + 2
