"""What a release can read: one number, in every record of ownership."""

from __future__ import annotations

import os
from typing import Final

from headrace.errors import HeadraceError
from headrace.events import NEWEST_LEVEL

TEST_SWITCH: Final = "HEADRACE_TEST_FEATURE_LEVEL"
"""For tests of upgrades only: this process claims to have another level than its code has."""

FEATURE_LEVEL: Final = int(os.environ.get(TEST_SWITCH) or NEWEST_LEVEL)
"""Rises with each release that writes what the one before cannot read (an event with a new tag, a
new version of a batch or a snapshot). A shard's records never name a higher level than all
coordinators have; an owner writes nothing that needs more than its record names, and whoever has
less does not own the shard."""


class NeedsNewerRelease(HeadraceError):
    """A shard's log may hold what this release cannot read: it does not own the shard."""

    code = "needs-newer-release"
    exit_code = 5

    def __init__(self, shard: int, *, needs: int, has: int, owner: str, release: str) -> None:
        self.shard, self.needs, self.has, self.owner = shard, needs, has, owner
        by = f"{owner}, release {release}," if release else f"{owner},"
        super().__init__(
            f"shard {shard} needs feature level {needs} since {by} owned it, and this release has "
            f"level {has}: a downgrade is not possible; start release {release or 'that it was'} "
            "or a later one, or restore a backup of before the upgrade into an empty cluster"
        )
