"""What releases tell each other by intents, in the middle of an upgrade."""

from __future__ import annotations

from headrace.coordinator.core import OutMessage
from support.corekit import Kit


def test_what_a_newer_release_says_more_can_be_done_without() -> None:
    kit = Kit()
    acquire = OutMessage("k", "acquire", ["k", "default/far", 1, 0, 2])
    release = OutMessage("k", "release", ["k", "default/far", "of a newer release", 7])
    assert kit.tick(lambda m: m.deliver("m1", acquire))
    assert kit.machine.state.keys["k"].holders == {"default/far": 2}
    assert kit.tick(lambda m: m.deliver("m2", release))
    assert "k" not in kit.machine.state.keys or not kit.machine.state.keys["k"].holders
