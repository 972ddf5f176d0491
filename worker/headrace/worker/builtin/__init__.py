"""The handlers that every worker has."""

from __future__ import annotations

from headrace.worker.builtin import artifact, docker, file, http, notify, transfer
from headrace.worker.builtin.basic import noop, sleep
from headrace.worker.builtin.script import script
from headrace.worker.builtin.shell import shell
from headrace.worker.handlers import Registry, handler_of

_FUNCTIONS = (
    noop,
    sleep,
    shell,
    script,
    http.request,
    file.read,
    file.write,
    file.copy,
    file.move,
    file.archive,
    file.extract,
    transfer.transfer,
    artifact.upload,
    artifact.download,
    notify.webhook,
    docker.run,
    docker.execute,
    docker.pull,
    docker.compose_up,
    docker.compose_down,
)


def builtin_registry() -> Registry:
    """Return a new registry with the built-in handlers."""
    registry = Registry()
    for function in _FUNCTIONS:
        handler = handler_of(function)
        assert handler is not None
        handler.builtin = True
        registry.add(handler)
    return registry
