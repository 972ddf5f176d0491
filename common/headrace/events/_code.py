"""What happens to a code-first run: its journal's entries, and its turns (see `messages._code`)."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from headrace.messages import NOTHING, StepError
from headrace.messages import EntryState as State


class TurnReported(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=60):
    """A worker's report is in the log, with all changes right before this event."""

    step: int
    attempt: int
    sequence: int
    worker: str
    """``<id>.<incarnation>``."""


class EntryBegun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=61):
    """The journal has a new entry that has not ended; or one of the owner's own (`cancel`)."""

    key: str
    kind: str
    name: str
    digest: str = ""
    state: int = State.PENDING
    due_ms: int = 0
    value: msgspec.Raw = NOTHING
    details: msgspec.Raw = NOTHING
    """Of an update its argument."""
    request_id: str = ""
    not_after_ms: int = 0
    actor: str = ""


class EntryEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=62):
    """An entry has its end, and may have begun with that."""

    key: str
    kind: str
    name: str
    digest: str
    state: int
    started_ms: int
    ended_ms: int
    value: msgspec.Raw = NOTHING
    error: StepError | None = None
    taken: str = ""
    """The kept signal that it has taken, by name and correlation key."""


class EntryTried(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=63):
    """An attempt of a step inside a turn has failed; the next one may begin at `retry_ms`."""

    key: str
    name: str
    digest: str
    started_ms: int
    ended_ms: int
    error: StepError
    retry_ms: int
    details: msgspec.Raw = NOTHING


class ChildRunBegun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=64):
    """A workflow function begins another run; the intent to begin it is part of this event."""

    key: str
    name: str
    digest: str
    child: str
    """Run id."""
    plan: str
    """Digest; stored before this event."""
    input: msgspec.Raw
    detached: bool = False


class TurnEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=65):
    """A turn is over and the run is not: it waits, is blocked, or begins anew (`TurnOutcome`)."""

    step: int
    attempt: int
    worker: str
    outcome: int
    value: msgspec.Raw = NOTHING
    """Of AGAIN: the new input."""
    error: StepError | None = None
    key: str = ""
    again: bool = False
    """Something has happened that the worker has not seen: the next turn is due at once."""


class TurnDue(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=66):
    """The next attempt of a step is due: so is a turn."""

    key: str


class RunUnblocked(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=67):
    """Somebody has said what becomes of a contradiction between journal and code."""

    action: str
    """`skip` (take the recorded result of `key`), `patch` (the code has been mended) or `fail`."""
    key: str
    request_id: str
    not_after_ms: int
    actor: str = ""


class LabelsChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=68):
    """The run has these labels, beside those that it had."""

    labels: dict[str, str]


class EntryAccepted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=69):
    """The recorded result of an entry stands for other inputs from now on."""

    key: str
    digest: str


class EntryBeat(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=70):
    """The attempt of a step inside a turn has said how far it is; the next attempt is told."""

    key: str
    name: str
    digest: str
    started_ms: int
    details: msgspec.Raw


OF_ENTRIES: Final = (
    EntryBegun, EntryEnded, EntryTried, EntryAccepted, ChildRunBegun, TurnDue, EntryBeat,
)  # fmt: skip
"""Those that name an entry by its key."""

CodeEvent: TypeAlias = (
    TurnReported
    | EntryBegun
    | EntryEnded
    | EntryTried
    | ChildRunBegun
    | TurnEnded
    | TurnDue
    | RunUnblocked
    | LabelsChanged
    | EntryAccepted
    | EntryBeat
)
