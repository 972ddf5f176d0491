"""What can go wrong between us and the broker, by what a caller can conclude from it.

::

    Unreachable (headrace.errors)   outcome unknown
    ├── Disconnected    no connection, or it broke before the answer came
    ├── NoResponders    nobody listens on the subject: certainly not received
    └── TimedOut        sent, and no answer in time
    JetStreamError      the broker refused, with its error code
    ├── WrongLastSequence   a compare-and-set did not hold (10071, 10164)
    ├── StorageFull         a limit on space or number: certainly not stored
    ├── JetStreamDisabled   the login's account has no JetStream
    ├── JetStreamInUse      the name is that of something else
    ├── JetStreamMissing    no such stream, consumer or message
    └── JetStreamBusy       the broker cannot now (503, 10008, 10167, …): outcome unknown
"""

from __future__ import annotations

from headrace.errors import HeadraceError, Unreachable


class Disconnected(Unreachable):
    """No connection, or it broke before the answer came."""


class NoResponders(Unreachable):
    """Nobody listens on the subject; the request was certainly not received."""


class TimedOut(Unreachable):
    """The request was sent and nobody answered in time."""


class JetStreamError(HeadraceError):
    """The broker's JetStream refused; `err_code` is its own number, 0 when it gave none."""

    code = "jetstream"
    exit_code = 5

    def __init__(self, description: str, *, status: int = 0, err_code: int = 0) -> None:
        self.description, self.status, self.err_code = description, status, err_code
        super().__init__(f"JetStream: {description} ({err_code or status})")


class WrongLastSequence(JetStreamError):
    """A compare-and-set on a sequence did not hold; this message was not stored."""


class StorageFull(JetStreamError):
    """A limit on bytes or messages is reached; the message was not stored."""


class JetStreamMissing(JetStreamError):
    """There is no such stream, consumer or message."""


class JetStreamDisabled(JetStreamError):
    """The account that the login belongs to has no JetStream."""


class JetStreamInUse(JetStreamError):
    """There is another stream of this name, with other settings."""


class JetStreamBusy(JetStreamError):
    """The broker cannot do this now (no leader, overload, a failed write); outcome unknown."""


_WRONG_LAST = frozenset({10071, 10164})
# 10023 insufficient resources, 10028 memory, 10047 storage, 10120 a stream's bytes.
_FULL = frozenset({10023, 10028, 10047, 10120})
_NAME_IN_USE = 10058
_DISABLED = 10039
_STORE_FAILED = 10077
# 10008 no leader, 10074/10005 peers, 10082 replicas, 10118 raft log, 10167 too many requests.
_BUSY = frozenset({10004, 10005, 10008, 10074, 10118, 10167})


def jetstream_error(status: int, err_code: int, description: str) -> JetStreamError:
    """Return the typed error for an ``error`` object of the JetStream API."""
    cls = JetStreamError
    if err_code in _WRONG_LAST:
        cls = WrongLastSequence
    elif err_code in _FULL or (
        # The store's own limits are checked before it writes; any other failed write is in doubt.
        err_code == _STORE_FAILED and description.startswith("maximum ")
    ):
        cls = StorageFull
    elif err_code == _DISABLED:
        cls = JetStreamDisabled
    elif err_code in _BUSY or status >= 500:
        cls = JetStreamBusy
    elif err_code == _NAME_IN_USE:
        cls = JetStreamInUse
    elif status == 404:
        cls = JetStreamMissing
    return cls(description, status=status, err_code=err_code)
