"""What can be told of an encoded run without making a record of it: for lists, and for loading."""

from __future__ import annotations

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.journal import is_blocked
from headrace.coordinator.core.runs import condition
from headrace.coordinator.core.snapshot import RunImage
from headrace.coordinator.core.state import ShardState

Raw = msgspec.Raw
EMPTY = b"\x90"
"""msgpack of an empty array."""
_NO_SETS = b"\x93\x90\x90\x90"
_FIELDS = len(RunImage.__struct_fields__)
_HEAD = b"\xdc" + _FIELDS.to_bytes(2, "big")
"""How runs begin that have exactly the fields of this release."""


class Outline(msgspec.Struct, array_like=True, gc=False):
    """A run: the fields of `RunImage` in its order; those that nobody looks at are left encoded."""

    key: str
    plan: str
    state: int
    times: list[int]
    input: Raw
    output: Raw
    labels: dict[str, str]
    priority: int
    request: Raw
    carried: Raw
    status: bytes
    attempt: Raw
    waiting: bytes
    taint: Raw
    tokens: Raw
    outputs: Raw
    errors: Raw
    due: list[tuple[int, int]]
    first_ms: Raw
    losses: Raw
    claims: Raw
    waits: Raw
    sets: Raw
    counts: Raw
    jobs: Raw
    scopes: Raw
    signals: Raw
    flags: list[bool]
    texts: list[str]
    key_name: str
    key_facts: Raw
    node_keys: Raw
    events: int
    history_first: int
    history: Raw
    uncounted: Raw
    family: Raw
    faults: Raw
    names: Raw
    fairness: Raw
    gates: Raw
    variables: Raw
    patches: Raw
    sticky: Raw
    journal: Raw

    @property
    def created_ms(self) -> int:
        """When it was created."""
        return self.times[0]

    @property
    def program(self) -> tuple[str, str]:
        """What `ShardState.program` knows its plan by."""
        return self.plan, self.key.partition("/")[0]

    @property
    def condition(self) -> str:
        """How it is counted while it is parked."""
        return condition(self.state, self.status)


_decode = msgspec.msgpack.Decoder(Outline).decode


def outline(data: bytes | Raw) -> Outline:
    """Return what the encoded run *data*, of this release, says."""
    return _decode(data)


def parkable(state: ShardState, data: bytes | Raw) -> Outline | None:
    """Return the outline of an encoded run that plainly only waits; None: look at its record.

    Says yes to nothing that `parking.only_waits` denies; what has iterations, jobs, faults, locks
    or patches is not plain. None for bytes of another release: parked bytes are hashed as they are.
    """
    if bytes(memoryview(data)[: len(_HEAD)]) != _HEAD:
        return None
    found = _decode(data)
    paused, cancelling, _, held = found.flags
    if paused or cancelling or found.texts[3] or bytes(found.sets) != _NO_SETS:
        return None
    for part in (
        found.tokens,
        found.claims,
        found.jobs,
        found.scopes,
        found.node_keys,
        found.faults,
        found.gates,
        found.patches,
    ):
        if bytes(part) != EMPTY:
            return None
    if found.state == status.PENDING:
        return found if found.key_name and not held else None
    if is_blocked(bytes(memoryview(found.journal)[:2])):
        return None
    if found.state != status.RUNNING or status.WAITING not in found.status:
        return None
    program = state.program(*found.program)
    if program.broadcasts:
        return None
    return found if _nothing_may_begin(found.status, found.waiting, program.parent) else None


def _nothing_may_begin(instances: bytes, waiting: bytes, parents: list[int]) -> bool:
    needs = memoryview(waiting).cast("I")
    at = instances.find(status.PENDING)
    while at >= 0:
        if not needs[at] and (parents[at] < 0 or instances[parents[at]] == status.RUNNING):
            return False
        at = instances.find(status.PENDING, at + 1)
    return True
