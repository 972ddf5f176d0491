"""The command line.

`main` is the program. The rest of `__all__` is for commands of other packages (`dev`, `run`, …),
found by the entry point group `headrace.commands`: click commands that share options, input
parsing, the live view and the output formats. Names are loaded when first used, since the time
that `flowctl` takes to start is time that a person waits.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.flowctl._app import main
    from headrace.flowctl._cmd_submit import check_handlers, followed
    from headrace.flowctl._code import collect_arguments, is_code, load_workflow
    from headrace.flowctl._definitions import load_definition, looked_up
    from headrace.flowctl._inputs import collect_inputs, input_options, parse_labels, read_json
    from headrace.flowctl._live import Progress
    from headrace.flowctl._output import emit, emit_run, exit_code_of
    from headrace.flowctl._settings import Settings, connect_timeout_s, find_target
    from headrace.flowctl._shared import (
        mute_logs,
        note,
        pass_settings,
        shared_options,
        some_options,
    )
    from headrace.flowctl._text import table

__all__ = [
    "Progress",
    "Settings",
    "check_handlers",
    "collect_arguments",
    "collect_inputs",
    "connect_timeout_s",
    "emit",
    "emit_run",
    "exit_code_of",
    "find_target",
    "followed",
    "input_options",
    "is_code",
    "load_definition",
    "load_workflow",
    "looked_up",
    "main",
    "mute_logs",
    "note",
    "parse_labels",
    "pass_settings",
    "read_json",
    "shared_options",
    "some_options",
    "table",
]

_HOMES = {
    "Progress": "_live",
    "Settings": "_settings",
    "check_handlers": "_cmd_submit",
    "collect_arguments": "_code",
    "collect_inputs": "_inputs",
    "connect_timeout_s": "_settings",
    "emit": "_output",
    "emit_run": "_output",
    "exit_code_of": "_output",
    "find_target": "_settings",
    "followed": "_cmd_submit",
    "input_options": "_inputs",
    "is_code": "_code",
    "load_definition": "_definitions",
    "load_workflow": "_code",
    "looked_up": "_definitions",
    "main": "_app",
    "mute_logs": "_shared",
    "note": "_shared",
    "parse_labels": "_inputs",
    "pass_settings": "_shared",
    "read_json": "_inputs",
    "shared_options": "_shared",
    "some_options": "_shared",
    "table": "_text",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
