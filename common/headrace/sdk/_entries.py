"""Operations that have an entry in the journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from headrace.messages import (
    ChildBegun,
    Entry,
    EntryState,
    SignalAwaited,
    SleepBegun,
    StepClaim,
    StepError,
    StepTried,
    ValueNoted,
)
from headrace.sdk import _codec
from headrace.sdk._errors import (
    EFFECT_UNKNOWN,
    ChildFailed,
    EffectUnknown,
    SignalTimeout,
    StepFailed,
)
from headrace.sdk._operation import Operation

if TYPE_CHECKING:
    from headrace.sdk._execution import Execution
    from headrace.sdk._step import Step
    from headrace.sdk._strand import Strand

T_co = TypeVar("T_co", covariant=True)
_CANCELLED = StepError("cancelled", "the run was cancelled", False)


class Journaled(Operation[T_co]):
    """Base: its entry begins, ends or drops it."""

    __slots__ = ("digest", "kind", "name")

    def __init__(
        self, execution: Execution, key: str, kind: str, name: str, digest: str = ""
    ) -> None:
        super().__init__(execution, key)
        self.kind, self.name, self.digest = kind, name, digest

    @property
    def what(self) -> str:
        """Kind and key, for people."""
        return f"{self.kind} {self.key}"

    def _begin(self) -> None:
        self.execution.claim(self)

    def fresh(self) -> None:
        """Begin it: the journal does not have it."""
        raise NotImplementedError

    def take(self, entry: Entry) -> None:
        """Go by the journal's entry, which may have ended."""
        if entry.state == EntryState.COMPLETED:
            try:
                value = self._value(entry)
            except _codec.CodecError as error:
                self.execution.block(self, entry, f"its recorded result {error}")
                return
            self.settle(value)
        elif entry.state == EntryState.FAILED or (
            entry.state == EntryState.CANCELLED and entry.error is not None
        ):
            self.settle(error=self._error(entry))
        else:
            self.pending(entry)

    def pending(self, entry: Entry) -> None:
        """The entry has not ended: most wait for their owner."""

    def _value(self, entry: Entry) -> Any:
        return _codec.decode(Any, entry.value)

    def _error(self, entry: Entry) -> BaseException:
        return ChildFailed(self.what, self.key, entry.error or _CANCELLED)

    def _dropped(self) -> None:
        self.execution.forget(self)


class StepRun(Journaled[T_co]):
    """A step inside the turn."""

    __slots__ = (
        "args", "attempts", "claiming", "details", "due_ms", "first_ms", "kwargs", "launched",
        "local", "started_ms", "step", "stopped",
    )  # fmt: skip

    def __init__(
        self,
        execution: Execution,
        key: str,
        step: Step[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        packed: bytes,
    ) -> None:
        # Not by way of its bases: each step of a function makes one.
        self.execution, self.key, self.kind, self.name = execution, key, "step", step.name
        self.digest = _codec.digest(packed)
        self._begun = self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.waiters: list[Strand | Callable[[Operation[Any]], None]] = []
        self.step, self.args, self.kwargs = step, args, kwargs
        self.attempts = self.due_ms = self.first_ms = 0
        """Failed attempts; when the next may begin; when the first began."""
        self.launched = self.started_ms = 0
        """The newest attempt that has begun here, and when."""
        self.details: bytes = b"\xc0"
        self.claiming = self.stopped = False
        self.local: tuple[msgspec.Raw, Any] | None = None
        """What it returned here, encoded and as the function will see it."""

    def fresh(self) -> None:
        """See `Journaled.fresh`."""
        if self.step.options_.effect == "at-most-once":
            self.claiming = True
            self.execution.change(StepClaim(self.key, self.name, self.digest))
        else:
            self.execution.todo[self.key] = self

    def pending(self, entry: Entry) -> None:
        """See `Journaled.pending`: it is between attempts, or claimed."""
        if entry.state == EntryState.CLAIMED and not self.claiming:
            now_ms = self.execution.now_ms
            text = "its worker was lost after it had claimed the effect"
            error = StepError(EFFECT_UNKNOWN, text, False)
            started_ms = entry.started_ms or now_ms
            self.execution.change(
                StepTried(self.key, self.name, self.digest, started_ms, now_ms, error)
            )
            return
        if entry.state == EntryState.CANCELLED:
            return
        if entry.attempts < self.launched:
            # It runs here, and has said how far it is.
            return
        self.attempts, self.due_ms = entry.attempts, entry.due_ms
        self.first_ms = self.first_ms or entry.started_ms
        self.details = bytes(entry.details)
        self.execution.todo[self.key] = self

    def take_local(self) -> Any:
        """Return what it returned here, as the function will see it; once."""
        assert self.local is not None
        value, self.local = self.local[1], None
        return value

    def _value(self, entry: Entry) -> Any:
        local, self.local = self.local, None
        if local is not None and local[0] == entry.value:
            return local[1]
        return _codec.decode(self.step.signature.result, entry.value)

    def _error(self, entry: Entry) -> BaseException:
        return _step_failed(self.key, entry)

    def _dropped(self) -> None:
        self.execution.todo.pop(self.key, None)
        self.execution.stops.append(self)
        super()._dropped()


def _step_failed(key: str, entry: Entry) -> StepFailed:
    error = entry.error or _CANCELLED
    cls = EffectUnknown if error.type == EFFECT_UNKNOWN else StepFailed
    return cls(f"step {key}", key, error, attempts=entry.attempts)


class Value(Journaled[T_co]):
    """Something that is computed once."""

    __slots__ = ("compute", "local")

    def __init__(
        self, execution: Execution, key: str, name: str, compute: Callable[[], T_co]
    ) -> None:
        super().__init__(execution, key, "value", name)
        self.compute = compute
        self.local: Any = None

    def fresh(self) -> None:
        """See `Journaled.fresh`."""
        try:
            value = self.compute()
            data = _codec.encode(value)
        except Exception as error:
            self.settle(error=error)
            return
        self.local = (msgspec.Raw(data), value)
        self.execution.change(ValueNoted(self.key, self.name, msgspec.Raw(data)))


class Sleep(Journaled[None]):
    """Until a time."""

    __slots__ = ("duration_ms", "until_ms")

    def __init__(
        self, execution: Execution, key: str, *, duration_ms: int = 0, until_ms: int = 0
    ) -> None:
        super().__init__(execution, key, "sleep", "sleep")
        self.duration_ms, self.until_ms = duration_ms, until_ms

    def fresh(self) -> None:
        """See `Journaled.fresh`."""
        due_ms = self.until_ms or self.execution.now_ms + self.duration_ms
        self.execution.change(SleepBegun(self.key, max(due_ms, 1)))


class Signal(Journaled[T_co]):
    """The next signal of a name."""

    __slots__ = ("correlation_key", "default", "result", "timeout_ms")

    def __init__(
        self,
        execution: Execution,
        key: str,
        name: str,
        result: Any,
        *,
        timeout_ms: int,
        default: tuple[T_co] | None,
        correlation_key: str,
    ) -> None:
        super().__init__(execution, key, "signal", name)
        self.result, self.timeout_ms, self.default = result, timeout_ms, default
        self.correlation_key = correlation_key

    def fresh(self) -> None:
        """See `Journaled.fresh`."""
        due_ms = self.execution.now_ms + self.timeout_ms if self.timeout_ms else 0
        self.execution.change(SignalAwaited(self.key, self.name, due_ms, self.correlation_key))

    def take(self, entry: Entry) -> None:
        """See `Journaled.take`."""
        if entry.state != EntryState.COMPLETED:
            super().take(entry)
            return
        told = _ENVELOPE.decode(entry.value)
        if told.timed_out:
            if self.default is not None:
                self.settle(self.default[0])
                return
            error = StepError("timeout", f"no signal {self.name} in time", False)
            self.settle(error=SignalTimeout(f"signal {self.key}", self.key, error))
            return
        try:
            self.settle(_codec.decode(self.result, told.payload))
        except _codec.CodecError as error:
            # A sender's mistake, not the code's: who waits decides.
            wrong = StepError("invalid-signal", f"signal {self.name}: its payload {error}", False)
            self.settle(error=SignalInvalid(f"signal {self.key}", self.key, wrong))


class Child(Journaled[T_co]):
    """Another run."""

    __slots__ = ("detached", "id", "inputs", "make_plan", "result", "unwrap")

    def __init__(
        self,
        execution: Execution,
        key: str,
        name: str,
        make_plan: Callable[[], bytes],
        inputs: bytes,
        *,
        digest: str,
        result: Any = Any,
        unwrap: str = "",
        id: str = "",
        detached: bool = False,
    ) -> None:
        super().__init__(execution, key, "child", name, digest)
        self.make_plan, self.inputs, self.result, self.unwrap = make_plan, inputs, result, unwrap
        self.id, self.detached = id, detached

    def fresh(self) -> None:
        """See `Journaled.fresh`."""
        try:
            plan = self.make_plan()
        except Exception as error:
            self.settle(error=error)
            return
        self.execution.change(
            ChildBegun(
                self.key,
                self.name,
                self.digest,
                plan,
                msgspec.Raw(self.inputs),
                self.id,
                self.detached,
            )
        )

    def _value(self, entry: Entry) -> Any:
        if self.detached:
            return self.id
        value = entry.value
        if self.unwrap:
            value = _MAP.decode(value).get(self.unwrap, msgspec.Raw(b"\xc0"))
        return _codec.decode(self.result, value)


class StepElsewhere(Child[T_co]):
    """A step that is a run of its own, on another worker: it fails as a step does."""

    __slots__ = ()

    def _error(self, entry: Entry) -> BaseException:
        return _step_failed(self.key, entry)


class SignalInvalid(SignalTimeout):
    """A signal came whose payload is not what was asked for."""


class _Envelope(msgspec.Struct):
    payload: msgspec.Raw = msgspec.Raw(b"\xc0")
    timed_out: bool = False


_ENVELOPE = msgspec.msgpack.Decoder(_Envelope)
_MAP = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
