"""Logging is the process's: what a test sets up for its own must not reach the next one."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

SET = ("nats", "asyncpg", "httpx", "httpcore", "aiosqlite")
"""Loggers that `setup_logging` sets levels of."""


@contextmanager
def logging_as_it_was() -> Generator[logging.Logger]:
    """Give the root logger; on leaving, its handlers and all levels are those of before."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    others = {name: logging.getLogger(name).level for name in SET}
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, before in others.items():
            logging.getLogger(name).setLevel(before)
        logging.captureWarnings(False)
