"""The journal of a code-first run: what its function did and waits for, by stable key.

Plain data of a `Run`; the fold (`evolve_code`) alone changes it. `entries` are in the order of
their numbers, so that what a worker has not seen is at the end.
"""

from __future__ import annotations

import msgspec

from headrace.messages import NOTHING, Entry, EntryState

ENTRY_BYTES = 120
"""What an entry is counted as, beside its key, its name and its values."""
_decode = msgspec.msgpack.Decoder().decode


class Journal:
    """One run's, of its present generation."""

    __slots__ = (
        "asked",
        "awaited",
        "blocked",
        "bytes",
        "due",
        "entries",
        "generation",
        "input",
        "killed",
        "known",
        "number",
        "reported",
        "skip",
        "waits",
        "worker",
    )

    def __init__(self) -> None:
        self.generation = 0
        """How often the run was continued as new."""
        self.input: bytes | None = None
        """What it was continued with; None: the run's own input."""
        self.number = 0
        """Of the newest change."""
        self.reported: tuple[int, int] = (0, 0)
        """(attempt, sequence) of the last report that is in the log."""
        self.worker = ""
        """``<id>.<incarnation>`` of who had the last turn and may have the function still."""
        self.known = 0
        """The newest change that this worker was told of."""
        self.skip: list[str] = []
        self.blocked: tuple[str, str, str] | None = None
        """(key, type, message) of a contradiction between journal and code."""
        self.killed = False
        """It is not asked any more to let go: the turn is stopped."""
        self.asked = False
        """Somebody asks it something: a turn is due for that. Not in the log."""
        self._empty()

    def _empty(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.bytes = 0
        # What of the entries waits, for those who look for it.
        self.due: dict[str, int] = {}
        self.waits: dict[str, str] = {}
        """Key -> the name (with the correlation key) of the signal that it waits for."""
        self.awaited: dict[str, str] = {}
        """Key -> id of the run that it waits for."""

    def begin_anew(self, given: bytes) -> None:
        """Continue as new, with *given* as the input."""
        self.generation += 1
        self.input = given
        self.number = self.known = 0
        self.skip = []
        kept = [e for e in self.entries.values() if e.kind == "update" and self.is_open(e.key)]
        self._empty()
        for entry in kept:
            # They were acknowledged: the next generation answers them.
            entry.number = 0
            self.put(entry)

    def put(self, entry: Entry) -> None:
        """Keep *entry*, as the newest change unless it has a number."""
        key = entry.key
        old = self.entries.get(key)
        if old is not None:
            self._forget(old)
        if not entry.number:
            self.entries.pop(key, None)
            self.number += 1
            entry.number = self.number
        self.entries[key] = entry
        self._note(entry)

    def beat(self, key: str, details: msgspec.Raw) -> None:
        """Note how far the attempt of a step is. No change that its worker is told of."""
        entry = self.entries[key]
        self.bytes += len(details) - len(entry.details)
        entry.details = details

    def _note(self, entry: Entry) -> None:
        self.bytes += size_of(entry)
        if entry.state != EntryState.PENDING:
            return
        if entry.due_ms:
            self.due[entry.key] = entry.due_ms
        if entry.kind == "signal":
            self.waits[entry.key] = entry.name
        elif entry.kind == "child":
            self.awaited[entry.key] = _decode(entry.details)

    def _forget(self, entry: Entry) -> None:
        self.bytes -= size_of(entry)
        self.due.pop(entry.key, None)
        self.waits.pop(entry.key, None)
        self.awaited.pop(entry.key, None)

    def is_open(self, key: str) -> bool:
        """Tell whether the entry *key* is there and has not ended."""
        entry = self.entries.get(key)
        return entry is not None and entry.state in (EntryState.PENDING, EntryState.CLAIMED)

    def since(self, number: int, bytes_max: int) -> list[Entry]:
        """Return the entries behind change *number*, the oldest first, of some *bytes_max* bytes.

        At least one, if there is any.
        """
        found: list[Entry] = []
        for entry in reversed(self.entries.values()):
            if entry.number <= number:
                break
            found.append(entry)
        found.reverse()
        if self.bytes <= bytes_max:
            return found
        total = 0
        for count, entry in enumerate(found):
            total += size_of(entry)
            if total > bytes_max and count:
                return found[:count]
        return found

    def image(self) -> JournalImage:
        """Return it as plain data."""
        return JournalImage(
            self.blocked,
            self.generation,
            self.input,
            self.number,
            self.reported,
            self.worker,
            self.known,
            self.skip,
            self.killed,
            list(self.entries.values()),
        )

    @classmethod
    def of(cls, image: JournalImage) -> Journal:
        """Return what `image` was made of."""
        journal = cls()
        journal.blocked, journal.generation, journal.input = (
            image.blocked,
            image.generation,
            image.input,
        )
        journal.number, journal.reported, journal.worker = (
            image.number,
            image.reported,
            image.worker,
        )
        journal.known, journal.skip, journal.killed = image.known, image.skip, image.killed
        for entry in image.entries:
            entry.value, entry.details = own(entry.value), own(entry.details)
            journal.entries[entry.key] = entry
            journal._note(entry)
        return journal


class JournalImage(msgspec.Struct, array_like=True, gc=False):
    """A journal as plain data. The order of the fields is the format; see `is_blocked`."""

    blocked: tuple[str, str, str] | None
    generation: int
    input: bytes | None
    number: int
    reported: tuple[int, int]
    worker: str
    known: int
    skip: list[str]
    killed: bool
    entries: list[Entry]


def own(raw: msgspec.Raw) -> msgspec.Raw:
    """Return a copy: a value must not keep the whole message alive that it came in."""
    return NOTHING if len(raw) == 1 and raw == NOTHING else msgspec.Raw(bytes(raw))


def is_blocked(image: bytes) -> bool:
    """Tell from how an encoded `JournalImage` (or nil) begins whether it is blocked."""
    return image != b"\xc0" and image[1:2] != b"\xc0"


def size_of(entry: Entry) -> int:
    """Return how many bytes an entry takes, about."""
    error = entry.error
    return (
        ENTRY_BYTES
        + len(entry.key)
        + len(entry.name)
        + len(entry.value)
        + len(entry.details)
        + (len(error.message) if error is not None else 0)
    )
