"""Between pysyncobj's message dicts and `wire`: commands lose their pickles and get new ones.

Pickles are read here in one direction only: those that were made in this process, by pysyncobj
or by `to_engine`. Bytes that came from a peer are only ever written into one.
"""

from __future__ import annotations

import gzip
import pickle
from typing import Any, TypeAlias

from headrace.coordinator.control.wire import (
    AppendEntries,
    Entry,
    Forward,
    InstallView,
    NextIndex,
    RaftMessage,
    RequestVote,
    Vote,
)

EngineMessage: TypeAlias = dict[str, Any]
EngineEntry: TypeAlias = tuple[bytes, int, int]
"""(command, index, term)"""

_REGULAR, _NO_OP = b"\x00", b"\x01"
"""pysyncobj's command types; it knows two more (membership, version), which we never use."""


def to_wire(message: EngineMessage) -> RaftMessage | None:
    """Return what to send for one of pysyncobj's messages; None: nothing.

    Not for its answers (`next_node_idx`) and snapshots, which need to know more. Never sent are
    kinds that we do not use (membership, transfer of leadership, answers to forwarded commands),
    and entries behind an index that the leader does not have.
    """
    match message["type"]:
        case "append_entries":
            if message["prevLogIdx"] is None:
                return None
            return AppendEntries(
                message["term"],
                message["commit_index"],
                message["prevLogIdx"],
                message["prevLogTerm"],
                [_unpack_entry(entry) for entry in message["entries"]],
            )
        case "request_vote":
            return RequestVote(message["term"], message["last_log_index"], message["last_log_term"])
        case "response_vote":
            return Vote(message["term"])
        case "apply_command":
            payload = _unpack_command(message["command"])
            return None if payload is None else Forward(payload)
        case _:
            return None


def view_to_wire(message: EngineMessage, snapshot: bytes) -> InstallView:
    """Return what to send for a whole snapshot (the pieces of `serialized`, joined)."""
    content, last, before, _ = pickle.loads(gzip.decompress(snapshot))
    return InstallView(
        message["term"],
        message["commit_index"],
        content["view"],
        _unpack_entry(before),
        _unpack_entry(last),
    )


def to_engine(message: RaftMessage) -> EngineMessage:
    """Return the dict that pysyncobj expects."""
    match message:
        case AppendEntries():
            return {
                "type": "append_entries",
                "term": message.term,
                "commit_index": message.commit_index,
                "prevLogIdx": message.previous_index,
                "prevLogTerm": message.previous_term,
                "entries": [_pack_entry(entry) for entry in message.entries],
            }
        case InstallView():
            last, before = _pack_entry(message.last), _pack_entry(message.before)
            packed = pickle.dumps(({"view": message.view}, last, before, []))
            return {
                "type": "append_entries",
                "term": message.term,
                "commit_index": message.commit_index,
                "serialized": (gzip.compress(packed, 1), True, True),
            }
        case NextIndex():
            return {
                "type": "next_node_idx",
                "next_node_idx": message.next_index,
                "reset": message.reset,
                "success": message.success,
            }
        case RequestVote(term, last_index, last_term):
            return {
                "type": "request_vote",
                "term": term,
                "last_log_index": last_index,
                "last_log_term": last_term,
            }
        case Vote(term):
            return {"type": "response_vote", "term": term}
        case Forward(payload):
            return {"type": "apply_command", "command": _pack_command(payload)}


def _pack_command(payload: bytes | None) -> bytes:
    if payload is None:
        return _NO_OP
    return _REGULAR + pickle.dumps((0, (payload,)), pickle.HIGHEST_PROTOCOL)


def _unpack_command(command: bytes) -> bytes | None:
    kind, call = command[:1], command[1:]
    if kind == _NO_OP:
        return None
    assert kind == _REGULAR, "neither membership nor version commands"
    _, (payload,) = pickle.loads(call)
    return bytes(payload)


def _pack_entry(entry: Entry) -> EngineEntry:
    return (_pack_command(entry.payload), entry.index, entry.term)


def _unpack_entry(entry: EngineEntry) -> Entry:
    command, index, term = entry
    return Entry(_unpack_command(command), index, term)
