"""Releases that talk to each other: new fields are ignored, new kinds refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import inspect

import headrace.messages
from headrace.coordinator.control.heartbeat import CoordinatorHeartbeat
from headrace.coordinator.core import (
    BadSnapshot,
    BrokenLog,
    Folder,
    OutMessage,
    ShardState,
    decode_state,
    encode_state,
)
from headrace.coordinator.core.snapshot import SNAPSHOT_VERSION
from headrace.coordinator.runtime.holding import GoOn, Hold, Places, Where
from headrace.coordinator.runtime.leading import Delivery
from headrace.coordinator.shardlog.jetstream import EpochRecord
from headrace.errors import InvalidRequest
from headrace.events import BATCH_VERSION
from headrace.messages import ClientBatch, ResultBatch, TaskBatch, decode, encode
from support.core_golden import scenario
from support.corekit import BUILTIN, Kit
from support.plans import plan, task

MESSAGES = [
    found
    for name in sorted(headrace.messages.__all__)
    if isinstance(found := getattr(headrace.messages, name), type)
    and issubclass(found, msgspec.Struct)
]
OURS = [EpochRecord, Delivery, Hold, Where, GoOn, Places, OutMessage, CoordinatorHeartbeat]


PLAIN: dict[type, Any] = {
    inspect.StrType: "x",
    inspect.BytesType: b"x",
    inspect.IntType: 7,
    inspect.FloatType: 1.5,
    inspect.BoolType: True,
    inspect.RawType: {"any": 1},
    inspect.AnyType: {"any": 1},
    inspect.NoneType: None,
}


def example(kind: Any) -> Any:
    """Return some value of a type, as plain data."""
    match kind:
        case inspect.StructType():
            values = [example(field.type) for field in kind.fields]
            names = [field.encode_name for field in kind.fields]
            if kind.array_like:
                return values if kind.tag is None else [kind.tag, *values]
            found = dict(zip(names, values, strict=True))
            return found if kind.tag is None else {kind.tag_field: kind.tag, **found}
        case inspect.UnionType():
            return example(kind.types[0])
        case inspect.ListType() | inspect.VarTupleType():
            return [example(kind.item_type)]
        case inspect.TupleType():
            return [example(item) for item in kind.item_types]
        case inspect.DictType():
            return {example(kind.key_type): example(kind.value_type)}
        case inspect.LiteralType():
            return kind.values[0]
        case _:
            return PLAIN[type(kind)]


@pytest.mark.parametrize("kind", [*MESSAGES, *OURS], ids=lambda kind: kind.__name__)
def test_fields_of_a_later_release_are_ignored(kind: type[msgspec.Struct]) -> None:
    plain = example(inspect.type_info(kind))
    wanted = decode(kind, msgspec.msgpack.encode(plain))
    later = [*plain, "new"] if isinstance(plain, list) else {**plain, "of a later release": 1}
    assert decode(kind, msgspec.msgpack.encode(later)) == wanted


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (ClientBatch, [1, "default", [{"type": "teleport", "run": "r"}]]),
        (TaskBatch, ["teleport", 1]),
        (ResultBatch, ["teleport", 1, "w", "1", []]),
    ],
)
def test_a_kind_of_a_later_release_is_refused_by_name(kind: Any, data: Any) -> None:
    with pytest.raises(InvalidRequest, match=kind.__name__) as caught:
        decode(kind, encode(data))
    if kind is not TaskBatch:
        assert "'teleport'" in str(caught.value)
        assert "if a newer release has sent it, upgrade this one" in str(caught.value)


def entry() -> list[Any]:
    """Return a log entry as plain data."""
    kit = Kit(watch=False)
    kit.start(plan(task("a")), "one")
    return list(msgspec.msgpack.decode(kit.log[0][1]))


def test_an_entry_of_a_later_version_halts_and_says_what_to_do() -> None:
    newer = entry()
    newer[0] = BATCH_VERSION + 1
    for data in (newer, [*newer[:8], "another form"]):
        folder = Folder(ShardState(1, BUILTIN))
        with pytest.raises(BrokenLog, match=rf"entry of version {BATCH_VERSION + 1}: a newer rel"):
            folder.fold(1, msgspec.msgpack.encode(data))


def test_an_event_of_a_later_release_halts_the_shard_and_says_what_to_do() -> None:
    newer = entry()
    newer[8] = [[9_999, "of a later release"]]
    folder = Folder(ShardState(1, BUILTIN))
    with pytest.raises(BrokenLog, match=r"unknown event .*9999.*: a newer release wrote it; start"):
        folder.fold(1, msgspec.msgpack.encode(newer))


def test_a_torn_entry_is_not_called_newer() -> None:
    folder = Folder(ShardState(1, BUILTIN))
    with pytest.raises(BrokenLog, match="unreadable entry"):
        folder.fold(1, msgspec.msgpack.encode(entry())[:-3])


def test_a_snapshot_of_a_later_version_is_refused_and_says_what_to_do() -> None:
    image = msgspec.msgpack.decode(encode_state(scenario().folder.state))
    image[0] = SNAPSHOT_VERSION + 1
    with pytest.raises(BadSnapshot, match=r"of version 2: a newer release wrote it; start that"):
        decode_state(msgspec.msgpack.encode(image), BUILTIN)


def test_fields_of_a_later_snapshot_are_ignored() -> None:
    data = encode_state(scenario().folder.state)
    later = msgspec.msgpack.encode([*msgspec.msgpack.decode(data), {"of a later release": 1}])
    assert encode_state(decode_state(later, BUILTIN)) == data


def test_an_intent_of_a_later_release_waits_for_somebody_who_knows_it() -> None:
    kit = Kit()
    told: list[bool] = []
    newer = OutMessage("k", "teleport", ["k", "r", "of a later release"])
    kit.tick(lambda m: told.append(m.deliver("teleport:k:r", newer)))
    assert told == [False]
