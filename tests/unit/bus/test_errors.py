"""What a caller may conclude from an error of the broker."""

import pytest

from headrace.bus import (
    Disconnected,
    JetStreamBusy,
    JetStreamError,
    JetStreamMissing,
    NoResponders,
    StorageFull,
    TimedOut,
    WrongLastSequence,
)
from headrace.bus._errors import jetstream_error
from headrace.errors import Unreachable


@pytest.mark.parametrize(
    ("status", "err_code", "description", "kind"),
    [
        (400, 10071, "wrong last sequence: 5", WrongLastSequence),
        (400, 10164, "wrong last sequence", WrongLastSequence),
        (500, 10047, "insufficient storage resources available", StorageFull),
        (503, 10023, "insufficient resources", StorageFull),
        (503, 10077, "maximum bytes exceeded", StorageFull),
        (503, 10077, "maximum messages exceeded", StorageFull),
        (503, 10077, "write failed: input/output error", JetStreamBusy),
        (503, 10008, "JetStream system temporarily unavailable", JetStreamBusy),
        (429, 10167, "too many requests", JetStreamBusy),
        (404, 10059, "stream not found", JetStreamMissing),
        (404, 10037, "no message found", JetStreamMissing),
        (400, 10054, "message size exceeds maximum allowed", JetStreamError),
    ],
)
def test_the_kind_of_an_error(
    status: int, err_code: int, description: str, kind: type[JetStreamError]
):
    error = jetstream_error(status, err_code, description)
    assert type(error) is kind
    assert (error.status, error.err_code) == (status, err_code)


@pytest.mark.parametrize("kind", [Disconnected, NoResponders, TimedOut])
def test_no_answer_is_unreachable(kind: type[Unreachable]):
    assert issubclass(kind, Unreachable)
    assert kind("reason").exit_code == 5
