"""What a coordinator says of a broker that does not fsync before it acknowledges."""

import pytest

from headrace.bus import ServerFacts
from headrace.coordinator.runtime.command import weak_sync


@pytest.mark.parametrize(
    ("sync", "interval_ms", "said"),
    [
        ("always", 0, []),
        ("periodic", 120_000, ["fsyncs every 120 s only"]),
        ("unknown", 0, ["it is not known whether"]),
    ],
)
def test_the_warning_says_how_much_may_be_lost(sync, interval_ms, said):
    facts = ServerFacts(name="n", version="2", sync=sync, sync_interval_ms=interval_ms)
    warnings = weak_sync(facts)
    assert len(warnings) == len(said)
    assert all(text in warning for text, warning in zip(said, warnings, strict=True))
