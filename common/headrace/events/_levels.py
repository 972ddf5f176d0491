"""Which feature level a reader must have to know an event. What is not named here, all know.

Owners state such an event only once every coordinator has that level: a standby, or whoever takes
over in the middle of an upgrade, could not read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from headrace.events._code import EntryBeat

EVENT_LEVELS: Final[Mapping[type[Any], int]] = {EntryBeat: 2}
NEWEST_LEVEL: Final = max(EVENT_LEVELS.values())
