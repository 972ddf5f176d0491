"""One `flowctl dev` for the tests of all folders that do no harm to it."""

from support.cluster import shared_dev

__all__ = ["shared_dev"]
