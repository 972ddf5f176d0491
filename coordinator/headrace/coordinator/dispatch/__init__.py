"""Handing steps to workers: who is alive, who holds what, how many more may go out, and where to.

`fleet`, `leases` and `credit` are pure; `lanes` puts tasks on JetStream; `dispatcher` joins them
for one coordinator process, and `shard` is what each shard's owner sees of it. One judge of loss:
the owner, by leases; the broker only carries.
"""

from headrace.coordinator.dispatch.credit import Settings
from headrace.coordinator.dispatch.dispatcher import Dispatcher
from headrace.coordinator.dispatch.fleet import Fleet, WorkerRecord
from headrace.coordinator.dispatch.leases import Leases
from headrace.coordinator.dispatch.shard import ShardDispatch

__all__ = ["Dispatcher", "Fleet", "Leases", "Settings", "ShardDispatch", "WorkerRecord"]
