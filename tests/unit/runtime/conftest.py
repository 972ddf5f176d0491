"""An owner in plain data for each test."""

import pytest

from support.ownerkit import Kit


@pytest.fixture
def kit() -> Kit:
    return Kit()
