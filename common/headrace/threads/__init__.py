"""Daemon threads for blocking calls: they are reused, and keep no process alive."""

from headrace.threads._threads import Threads

__all__ = ["Threads"]
