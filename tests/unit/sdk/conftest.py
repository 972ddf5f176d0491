"""Every test begins with no step run."""

import pytest

from support import flows


@pytest.fixture(autouse=True)
def _clean():
    flows.ran.clear()
