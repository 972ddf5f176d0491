"""A workflow function against its journal: deterministic, and without any I/O.

The host (`headrace.sdk._turn`) feeds entries in the order of their numbers. After each one the
function, and its branches, run to rest: until all of them wait. What they do on the way is left in
`changes` (to be reported), `todo` (steps that may run) and `stops` (steps that must not run any
more). The same entries in the same order make the same, whatever happened in between.

The function is driven by hand, not by asyncio: it can only wait for operations of its Context.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import msgspec

from headrace.messages import (
    NOTHING,
    Change,
    DigestAccepted,
    Entry,
    EntryDropped,
    EntryState,
    Query,
    QueryAnswer,
    StepError,
    TurnEnd,
    TurnOutcome,
    UpdateAnswered,
    ValueNoted,
)
from headrace.sdk import _codec
from headrace.sdk._conflict import difference, foreign
from headrace.sdk._entries import Journaled, StepRun
from headrace.sdk._errors import StepFailure, error_of
from headrace.sdk._handlers import Handlers
from headrace.sdk._operation import Condition, Operation
from headrace.sdk._running import driving
from headrace.sdk._strand import Strand

OWN_KINDS: Final = frozenset(("update", "cancel"))
"""Entries that the owner makes."""
_OPEN: Final = (EntryState.PENDING, EntryState.CLAIMED)
BEGUN_KEY: Final = "begun#0"
"""When a run that was continued as new began again."""


class ContinueAsNew(BaseException):
    """Raised by the Context: the run goes on with this input, and an empty journal."""

    def __init__(self, inputs: bytes) -> None:
        self.inputs = inputs
        super().__init__("continued as new")


class Execution:
    """One live workflow function. `begin` it, then `feed` it; `outcome` is set when it ends."""

    def __init__(
        self,
        *,
        run: str,
        workflow: str,
        generation: int = 0,
        created_ms: int = 0,
        skip: Iterable[str] = (),
        on_log: Callable[[str, str], None] | None = None,
    ) -> None:
        """*run*: run key. *workflow*: ``app/name``. *skip*: keys whose changed inputs are fine.

        *on_log* is given stream and text of what the function logs and emits.
        """
        self.run, self.workflow, self.generation = run, workflow, generation
        self.skip = set(skip)
        self.now_ms = created_ms
        """The function's time: of the last thing that has happened to it."""
        self.seen = 0
        """Number of the newest entry that was fed."""
        self.changes: list[Change] = []
        self.answers: list[QueryAnswer] = []
        self.todo: dict[str, StepRun[Any]] = {}
        self.stops: list[StepRun[Any]] = []
        self.conditions: list[Condition] = []
        self.outcome: TurnEnd | None = None
        self.current: Strand | None = None
        self.handlers = Handlers()
        self.patches: dict[str, bool] = {}
        self.closed = False
        self.on_log = on_log
        """May be replaced between turns."""
        self._held: list[tuple[str, str]] | None = None
        """What the function said since it went ahead of its journal."""
        self._journal: dict[str, Entry] = {}
        self._coming: deque[Entry] = deque()
        """Known, and not fed yet."""
        self._operations: dict[str, Journaled[Any]] = {}
        self._ready: deque[tuple[Strand, BaseException | None]] = deque()
        self._strands: set[Strand] = set()
        self._main: Strand | None = None
        self._unanswered: deque[Entry] = deque()

    # -- for the host --------------------------------------------------------------------------

    @property
    def replaying(self) -> bool:
        """More is known of what has happened than the function has seen."""
        return bool(self._coming)

    def begin(
        self, coroutine: Coroutine[Any, Any, Any], entries: Iterable[Entry], *, now_ms: int = 0
    ) -> None:
        """Start the function, and feed it with all *entries*, in their order."""
        entries = list(entries)
        self._know(entries)
        if self.generation:
            self._begun_again(now_ms)
        self._main = self.begin_strand(coroutine, "", self._main_ended)
        self._advance()
        self._feed()

    def feed(self, entries: Iterable[Entry]) -> None:
        """Feed *entries*, which are new, in their order."""
        self._know(entries)
        self._feed()

    def go_ahead(self, steps: Iterable[tuple[StepRun[Any], int]]) -> None:
        """Go on as if the results of *steps* stood in the journal, in this order, with their times.

        To be reported as such; then `caught_up`, and the entries are fed as all are.
        """
        self._held = []
        for operation, ended_ms in steps:
            if self.outcome is not None:
                return
            if ended_ms > self.now_ms:
                self.now_ms = ended_ms
            operation.settle(operation.take_local())
            self._advance()

    def caught_up(self) -> None:
        """What the function went ahead of stands in the journal now."""
        held, self._held = self._held, None
        if held and self.on_log is not None:
            for stream, text in held:
                self.on_log(stream, text)

    def ask(self, queries: Iterable[Query]) -> None:
        """Answer *queries* from the function's handlers; the function must be at rest."""
        for query in queries:
            value, error = self.handlers.answer(query.name, query.argument)
            self.answers.append(QueryAnswer(query.id, value, error))

    def close(self) -> None:
        """Forget the function. What its `finally` blocks do changes nothing any more.

        Nothing that is left refers to itself: the memory is free once nobody has this any more,
        and not only when cycles are looked for, which a worker does rarely.
        """
        self.closed = True
        self.conditions.clear()
        if self._strands:
            self._close_strands()
        self._operations.clear()
        self._ready.clear()
        self.todo.clear()
        self.handlers.clear()
        self._main = self.current = None

    def _close_strands(self) -> None:
        driving.execution = self
        try:
            for strand in list(self._strands):
                with contextlib.suppress(BaseException):
                    strand.coroutine.close()
                if strand.waiting is not None:
                    strand.waiting.forget()
                    strand.waiting = None
        finally:
            driving.execution = None
        self._strands.clear()

    # -- for operations and the Context --------------------------------------------------------

    def change(self, change: Change) -> None:
        """Note what the function did, for the next report."""
        if not self.closed:
            self.changes.append(change)

    def claim(self, operation: Journaled[Any]) -> None:
        """*operation* begins: find its entry, or begin it anew."""
        if self.closed:
            return
        key = operation.key
        if key in self._operations:
            text = f"{key}: another operation of this run has the same key"
            operation.settle(error=StepFailure("duplicate-key", text, retryable=False))
            return
        self._operations[key] = operation
        entry = self._journal.get(key)
        if entry is None:
            operation.fresh()
            return
        if not self._agrees(operation, entry):
            return
        if entry.number <= self.seen:
            operation.take(entry)

    def block(self, operation: Journaled[Any] | None, entry: Entry | None, why: str) -> None:
        """Stop for good: journal and code contradict each other."""
        text = difference(self, operation, entry, why)
        key = operation.key if operation is not None else ""
        if self.outcome is None:
            self.outcome = TurnEnd(
                TurnOutcome.BLOCKED, error=StepError("journal-conflict", text, False), key=key
            )

    def forget(self, operation: Journaled[Any]) -> None:
        """*operation* was dropped: tell the owner, if it knows of it and waits."""
        entry = self._journal.get(operation.key)
        begun = any(getattr(change, "key", "") == operation.key for change in self.changes)
        if begun or (entry is not None and entry.state in _OPEN):
            self.change(EntryDropped(operation.key))

    def wake(self, strand: Strand) -> None:
        """What *strand* awaits has settled."""
        self._ready.append((strand, None))

    def throw(self, strand: Strand, error: BaseException) -> None:
        """Raise *error* where *strand* waits."""
        if not strand.ended:
            self._ready.append((strand, error))

    def begin_strand(
        self,
        coroutine: Coroutine[Any, Any, Any],
        scope: str,
        on_end: Callable[[Any, BaseException | None], None],
    ) -> Strand:
        """Run *coroutine* beside what runs; it takes its first step soon."""
        strand = Strand(coroutine, scope, on_end)
        self._strands.add(strand)
        self._ready.append((strand, None))
        return strand

    def key(self, name: str) -> str:
        """Return the next key of *name* where the function is now."""
        strand = self.current or self._main
        return strand.key(name) if strand is not None else f"{name}#1"

    def log(self, stream: str, text: str) -> None:
        """Write what the function says, once."""
        if self.replaying or self.closed:
            return
        if self._held is not None:
            self._held.append((stream, text))
        elif self.on_log is not None:
            self.on_log(stream, text)

    def patched(self, name: str) -> bool:
        """See `Context.patched`."""
        found = self.patches.get(name)
        if found is None:
            key = f"patched:{name}"
            found = key in self._journal
            if not found and not self.replaying:
                self.change(ValueNoted(key, name, msgspec.Raw(b"\xc3")))
                found = True
            self.patches[name] = found
        return found

    def listener_ended(self, value: Any, error: BaseException | None) -> None:
        """A listener to signals has raised: the workflow fails as if it had."""
        if error is not None and self._main is not None:
            self.throw(self._main, error)

    # -- inside --------------------------------------------------------------------------------

    def _know(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._journal[entry.key] = entry
            self._coming.append(entry)

    def _feed(self) -> None:
        coming = self._coming
        while coming and self.outcome is None:
            entry = coming.popleft()
            self.seen = entry.number
            if entry.ended_ms > self.now_ms:
                self.now_ms = entry.ended_ms
            if entry.kind == "update":
                self._unanswered.append(entry)
                self._answer()
            elif entry.kind == "cancel":
                self._cancel()
            else:
                operation = self._operations.get(entry.key)
                if operation is not None and not operation.done:
                    operation.take(entry)
            if self._ready or self.conditions:
                self._advance()

    def _agrees(self, operation: Journaled[Any], entry: Entry) -> bool:
        if entry.kind != operation.kind:
            self.block(operation, entry, "they are of different kinds")
            return False
        if entry.digest and operation.digest and entry.digest != operation.digest:
            if operation.key not in self.skip:
                self.block(operation, entry, "its inputs differ")
                return False
            self.change(DigestAccepted(operation.key, operation.digest))
        return True

    def _begun_again(self, now_ms: int) -> None:
        entry = self._journal.get(BEGUN_KEY)
        if entry is not None:
            self.now_ms = _codec.decode(int, entry.value)
        else:
            self.now_ms = now_ms
            self.change(ValueNoted(BEGUN_KEY, "begun", msgspec.Raw(_codec.encode(now_ms))))

    def _cancel(self) -> None:
        main = self._main
        if main is not None and not main.ended:
            self.throw(main, asyncio.CancelledError("the run was cancelled"))

    # -- driving -------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Run to rest."""
        ready = self._ready
        while self.outcome is None:
            while ready and self.outcome is None:
                strand, error = ready.popleft()
                if not strand.ended:
                    self._drive(strand, error)
            if not self.conditions:
                return
            if not any(condition.check() for condition in list(self.conditions)) and not ready:
                return

    def _drive(self, strand: Strand, error: BaseException | None) -> None:
        self.current = strand
        driving.execution = self
        try:
            if error is None:
                waiting = strand.coroutine.send(None)
            else:
                waiting = strand.coroutine.throw(error)
        except StopIteration as end:
            self._ended(strand, end.value, None)
        except BaseException as raised:
            self._ended(strand, None, raised)
        else:
            if isinstance(waiting, Operation) and waiting.execution is self:
                strand.waiting = waiting
            elif self.outcome is None:
                self.block(None, None, foreign(self, strand, waiting))
        finally:
            self.current = driving.execution = None

    def _ended(self, strand: Strand, value: Any, error: BaseException | None) -> None:
        strand.ended = True
        self._strands.discard(strand)
        if isinstance(error, ContinueAsNew) and strand is not self._main:
            self._main_ended(None, error)
        else:
            strand.on_end(value, error)

    def _main_ended(self, value: Any, error: BaseException | None) -> None:
        if self.outcome is not None:
            return
        if error is None:
            try:
                self.outcome = TurnEnd(TurnOutcome.COMPLETED, msgspec.Raw(_codec.encode(value)))
            except _codec.CodecError as trouble:
                wrong = StepError("invalid-result", f"the workflow's result {trouble}", False)
                self.outcome = TurnEnd(TurnOutcome.FAILED, error=wrong)
        elif isinstance(error, ContinueAsNew):
            self.outcome = TurnEnd(TurnOutcome.AGAIN, msgspec.Raw(error.inputs))
        elif isinstance(error, asyncio.CancelledError):
            self.outcome = TurnEnd(TurnOutcome.CANCELLED)
        else:
            self.outcome = TurnEnd(TurnOutcome.FAILED, error=error_of(error))
        self.stops += self.todo.values()
        self.todo.clear()

    # -- updates -------------------------------------------------------------------------------

    def _answer(self) -> None:
        while self._unanswered:
            entry = self._unanswered.popleft()
            answered = entry.state not in _OPEN

            def ended(
                value: Any,
                error: BaseException | None,
                key: str = entry.key,
                answered: bool = answered,
            ) -> None:
                if not answered:
                    self._answered(key, value, error)

            coroutine = self.handlers.update(entry.name, entry.details)
            self.begin_strand(coroutine, f"{entry.key}/", ended)

    def _answered(self, key: str, value: Any, error: BaseException | None) -> None:
        data = NOTHING
        if error is None:
            try:
                data = msgspec.Raw(_codec.encode(value))
            except _codec.CodecError as trouble:
                error = trouble
        self.change(UpdateAnswered(key, data, error_of(error) if error is not None else None))
