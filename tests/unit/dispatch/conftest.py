"""A dispatcher to which nothing is subscribed any more when the test is over."""

from __future__ import annotations

import pytest

from support.dispatchkit import World


@pytest.fixture
async def world():
    made = World()
    await made.lanes.start()
    yield made
    made.dispatcher.close()
    assert made.bus.subscriptions == []
    assert made.bus.ups == []
