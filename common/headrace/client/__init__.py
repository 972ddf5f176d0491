"""The Python client: start runs, look at them, change them.

::

    async with await Client.connect("nats://127.0.0.1:4222") as client:
        run = await client.submit(plan, {"name": "world"})
        run = await client.wait(run.id, timeout_s=30)

Everything is sent over the broker to whoever owns the run's shard, and sent again until it is
answered. `read_dev` and `write_dev` are the notes by which a development server is found.
"""

from headrace.client._client import Client
from headrace.client._compare import Comparison, Difference, compare
from headrace.client._dev import DevServer, clear_dev, dev_folder, dev_in, read_dev, write_dev
from headrace.client._follow import ENDED, changes, chosen, wait_end
from headrace.client._ids import RequestIds, RunIds
from headrace.client._rerun import carried_results
from headrace.client._submit import Submission
from headrace.client._target import (
    ACCESS,
    Config,
    Target,
    config_file,
    context_named,
    find_target,
    read_config,
)
from headrace.client._transport import Transport

__all__ = [
    "ACCESS",
    "ENDED",
    "Client",
    "Comparison",
    "Config",
    "DevServer",
    "Difference",
    "RequestIds",
    "RunIds",
    "Submission",
    "Target",
    "Transport",
    "carried_results",
    "changes",
    "chosen",
    "clear_dev",
    "compare",
    "config_file",
    "context_named",
    "dev_folder",
    "dev_in",
    "find_target",
    "read_config",
    "read_dev",
    "wait_end",
    "write_dev",
]
