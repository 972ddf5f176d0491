"""Fixtures of the suite here."""

from support.broker import shared_broker

__all__ = ["shared_broker"]
