"""A whole cluster in one file, and back: `flowctl cluster backup`, `restore` and `inspect`.

`cut` finds positions of all shards that fit together; `copying` writes a file, whose form `file`
knows; `restoring` brings it into an empty cluster. They speak with the broker themselves, and with
coordinators only to have them stand still for a moment.
"""

from headrace.coordinator.backup.copying import backup
from headrace.coordinator.backup.file import BackupReader, BackupWriter, BrokenBackup, Manifest
from headrace.coordinator.backup.restoring import Restored, read_states, restore

__all__ = [
    "BackupReader",
    "BackupWriter",
    "BrokenBackup",
    "Manifest",
    "Restored",
    "backup",
    "read_states",
    "restore",
]
