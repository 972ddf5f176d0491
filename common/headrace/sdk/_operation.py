"""What a workflow function can wait for: operations, and how several are joined.

An operation begins when it is awaited (or given to `parallel`), and settles once. Everything here
happens while the function is driven, never beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from headrace.errors import InvalidRequest
from headrace.plan import Join
from headrace.sdk._errors import JoinFailed

if TYPE_CHECKING:
    from headrace.sdk._execution import Execution
    from headrace.sdk._strand import Strand

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Operation(Generic[T_co]):
    """Something to await in a workflow function; awaited again it gives the same."""

    __slots__ = ("_begun", "done", "error", "execution", "key", "value", "waiters")

    def __init__(self, execution: Execution, key: str) -> None:
        self.execution, self.key = execution, key
        self._begun = self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.waiters: list[Strand | Callable[[Operation[Any]], None]] = []

    def __await__(self) -> Generator[Any, Any, T_co]:
        if not self._begun:
            self._begun = True
            self._begin()
        if not self.done:
            strand = self.execution.current
            if strand is None:
                raise InvalidRequest("await it in the workflow function that it belongs to")
            self.waiters.append(strand)
            try:
                yield self
            except GeneratorExit:
                # The function is forgotten, here and now.
                raise
            except BaseException:
                if strand in self.waiters:
                    self.waiters.remove(strand)
                if not self.waiters:
                    self.drop()
                while not self.done:
                    # A branch cleans up: like a task group, this goes on once it is over.
                    self.waiters.append(strand)
                    yield self
                raise
        if self.error is not None:
            raise self.error
        value: T_co = self.value
        return value

    def begin(self) -> None:
        """Begin it, unless it has begun."""
        if not self._begun:
            self._begun = True
            self._begin()

    def _begin(self) -> None:
        raise NotImplementedError

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        """It has ended: wake who waits."""
        if self.done:
            return
        self.done = True
        self.value, self.error = value, error
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if callable(waiter):
                waiter(self)
            else:
                self.execution.wake(waiter)

    def drop(self) -> None:
        """Nobody wants it any more. Of what has ended, or has not begun, nothing is left to do."""
        if not self.done:
            self.done = True
            self.waiters = []
            if self._begun:
                self._dropped()
            self._begun = True
            self.error = asyncio.CancelledError("it was dropped")

    def _dropped(self) -> None:
        """Let go of what was begun."""

    def forget(self) -> None:
        """Its function is forgotten: let go of all that refers to it."""
        self.waiters = []


class Condition(Operation[bool]):
    """Holds once *predicate* does; False when *timeout* has ended before."""

    __slots__ = ("predicate", "timeout")

    def __init__(
        self,
        execution: Execution,
        key: str,
        predicate: Callable[[], bool],
        timeout: Operation[Any] | None,
    ) -> None:
        super().__init__(execution, key)
        self.predicate, self.timeout = predicate, timeout

    def _begin(self) -> None:
        if self.check():
            return
        self.execution.conditions.append(self)
        if self.timeout is not None:
            self.timeout.waiters.append(lambda _: self._end(False))
            self.timeout.begin()

    def check(self) -> bool:
        """Look whether it holds now."""
        if self.done:
            return True
        try:
            holds = bool(self.predicate())
        except Exception as error:
            self._end(False, error)
            return True
        if holds:
            self._end(True)
        return holds

    def _end(self, value: bool, error: BaseException | None = None) -> None:
        if not self.done:
            self._dropped()
            self.settle(value, error)

    def _dropped(self) -> None:
        if self in self.execution.conditions:
            self.execution.conditions.remove(self)
        if self.timeout is not None:
            self.timeout.drop()

    def forget(self) -> None:
        """See `Operation.forget`."""
        super().forget()
        if self.timeout is not None:
            self.timeout.forget()


class Branch(Operation[T_co]):
    """A coroutine of the user's, run beside others."""

    __slots__ = ("coroutine", "strand")

    def __init__(
        self, execution: Execution, key: str, coroutine: Coroutine[Any, Any, T_co]
    ) -> None:
        super().__init__(execution, key)
        self.coroutine = coroutine
        self.strand: Strand | None = None

    def _begin(self) -> None:
        self.strand = self.execution.begin_strand(self.coroutine, self.key + "/", self.settle)

    def drop(self) -> None:
        """Cancel the coroutine: it is over once it has cleaned up."""
        if self.done:
            return
        if self.strand is None:
            self.coroutine.close()
            super().drop()
        else:
            self.execution.throw(self.strand, asyncio.CancelledError())

    def forget(self) -> None:
        """See `Operation.forget`."""
        super().forget()
        self.strand = None


class Parallel(Operation[Sequence[T]]):
    """Several operations at the same time; ends when its join is settled."""

    __slots__ = (
        "_ending",
        "_failed",
        "_next",
        "_pumping",
        "_running",
        "_shape",
        "limit",
        "members",
        "needed",
    )

    def __init__(
        self,
        execution: Execution,
        key: str,
        members: Sequence[Operation[T]],
        join: Join,
        limit: int,
        shape: type[list[Any] | tuple[Any, ...]] = list,
    ) -> None:
        """*limit*: so many at a time; 0: all. *shape*: of the results."""
        super().__init__(execution, key)
        self.members, self.limit, self._shape = members, limit, shape
        self.needed = join.needed(len(members))
        self._next = self._running = 0
        self._failed: list[BaseException] = []
        self._pumping = False
        self._ending: tuple[Any, BaseException | None] | None = None

    def _begin(self) -> None:
        self._pump()

    def _pump(self) -> None:
        """Begin as many as may run. Not recursive: what has ended before ends at once here."""
        if self._pumping:
            return
        self._pumping = True
        while self._ending is None and self._next < len(self.members):
            if self.limit and self._running >= self.limit:
                break
            member = self.members[self._next]
            self._next += 1
            self._running += 1
            if member.done:
                self._member_ended(member)
            else:
                member.waiters.append(self._member_ended)
                member.begin()
        self._pumping = False
        self._look()

    def _member_ended(self, member: Operation[Any]) -> None:
        self._running -= 1
        if member.error is not None:
            self._failed.append(member.error)
        if not self._pumping:
            self._pump()

    def _look(self) -> None:
        """Settle when the join is decided, and what it does not need has let go."""
        if self.done:
            return
        if self._ending is None:
            ended = self._next - self._running
            total = len(self.members)
            if ended - len(self._failed) >= self.needed and (self.needed < total or ended == total):
                row = [m.value for m in self.members if m.done and m.error is None]
                self._decide(self._shape(row), None)
            elif total - len(self._failed) < self.needed:
                self._decide(None, self._failure())
        elif not self._running:
            self.settle(*self._ending)

    def _failure(self) -> BaseException:
        total = len(self.members)
        if self.needed == total:
            # Of all: the first failure is the reason, as if it had been awaited alone.
            return self._failed[0]
        return JoinFailed(self.needed, total, self._failed)

    def _decide(self, value: Any, error: BaseException | None) -> None:
        self._ending = (value, error)
        self._let_go()
        self._look()

    def _let_go(self) -> None:
        for member in self.members:
            if not member.done:
                begun = self._member_ended in member.waiters
                member.drop()
                ended: bool = member.done
                if ended and begun:
                    self._running -= 1

    def drop(self) -> None:
        """Drop what has not ended; branches clean up first, and who waits hears of it then."""
        if not self.done and self._ending is None:
            self._ending = (None, asyncio.CancelledError())
            self._let_go()
            if self._running:
                return
        super().drop()

    def forget(self) -> None:
        """See `Operation.forget`."""
        super().forget()
        members, self.members = self.members, ()
        for member in members:
            member.forget()


def parse_join(join: str | int, total: int) -> Join:
    """Return the join that `all`, `any`, a number or a share means. Raises `InvalidRequest`."""
    if join == "all":
        return Join()
    if join == "any":
        return Join(kind="any")
    if isinstance(join, int) and join >= 1:
        return Join(kind="count", value=join)
    if isinstance(join, str) and join.endswith("%") and join[:-1].isdigit():
        percent = int(join[:-1])
        if 1 <= percent <= 100:
            return Join(kind="percent", value=percent)
    raise InvalidRequest(f"join: 'all', 'any', a number, or a share such as '60%'; not {join!r}")
