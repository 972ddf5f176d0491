"""Typed configuration of the server processes: read once, checked as a whole, no globals.

Order: defaults, `headrace.toml`, variables ``HEADRACE_CFG_<SECTION>__<KEY>``, flags. Unknown keys
are refused. ``python -m headrace.config`` prints the reference page.
"""

from headrace.config._addresses import listed_addresses, shown_address, shown_addresses
from headrace.config._load import DEFAULT_FILE, PREFIX, load
from headrace.config._reference import describe
from headrace.config._schema import (
    Broker,
    Config,
    Coordinator,
    Dispatch,
    Limits,
    Log,
    Metrics,
    Postgres,
    Worker,
)

__all__ = [
    "DEFAULT_FILE",
    "PREFIX",
    "Broker",
    "Config",
    "Coordinator",
    "Dispatch",
    "Limits",
    "Log",
    "Metrics",
    "Postgres",
    "Worker",
    "describe",
    "listed_addresses",
    "load",
    "shown_address",
    "shown_addresses",
]
