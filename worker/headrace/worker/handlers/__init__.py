"""What authors of handlers import: `handler`, `Context`, `HandlerError`; and the registry.

A handler is found by an entry point of the group ``headrace.handlers``, or by an application
that the worker is told to serve.
"""

from headrace.worker.handlers._context import Context, Extra, Services
from headrace.worker.handlers._errors import HandlerError
from headrace.worker.handlers._handler import (
    EMPTY_MAP,
    Handler,
    encode_details,
    encode_output,
    handler,
    handler_of,
    load_attribute,
)
from headrace.worker.handlers._registry import Registry

__all__ = [
    "EMPTY_MAP",
    "Context",
    "Extra",
    "Handler",
    "HandlerError",
    "Registry",
    "Services",
    "encode_details",
    "encode_output",
    "handler",
    "handler_of",
    "load_attribute",
]
