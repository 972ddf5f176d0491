"""`handlers`: what steps can use, with inputs, outputs and examples."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from headrace.flowctl._output import colourful, emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import pass_settings, run_client, shared_options
from headrace.flowctl._text import table

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.language import HandlerSpec, NodeSpec

NODE = "engine"
BUILTIN = "built in"


@click.command()
@click.argument("name", required=False, default="")
@click.option(
    "--workers", "asks", is_flag=True, help="Also those of your own that the workers offer."
)
@shared_options
@pass_settings
def handlers(settings: Settings, name: str, asks: bool) -> None:
    """List what steps can use; with NAME its inputs, outputs and an example.

    `-o json` gives the inputs and outputs as JSON Schema.

    \b
    Examples:
      flowctl handlers
      flowctl handlers http/request
      flowctl handlers file/transfer -o json
    """
    from headrace.language import BUILTIN_HANDLERS, NODE_TYPES, TASK_TYPE_ALIASES

    offered = run_client(settings, _offered) if asks else {}
    wanted = TASK_TYPE_ALIASES.get(name, name)
    if not name:
        _emit_list(settings, offered)
    elif wanted in BUILTIN_HANDLERS:
        spec = BUILTIN_HANDLERS[wanted]
        emit(
            settings,
            spec_json(spec),
            lines=lambda _: spec_lines(spec, colour=colourful(sys.stdout)),
            names=[spec.name],
        )
    elif wanted in NODE_TYPES:
        node = NODE_TYPES[wanted]
        emit(settings, node_json(node), lines=lambda _: node_lines(node), names=[node.name])
    elif wanted in offered:
        emit(
            settings,
            {"name": wanted, "kind": "custom", "workers": offered[wanted]},
            lines=lambda _: [f"{wanted}: offered by {', '.join(offered[wanted])}"],
            names=[wanted],
        )
    else:
        raise _unknown(name, [*BUILTIN_HANDLERS, *NODE_TYPES, *TASK_TYPE_ALIASES, *offered])


def _emit_list(settings: Settings, offered: dict[str, list[str]]) -> None:
    from headrace.language import BUILTIN_HANDLERS, NODE_TYPES

    data = [spec_json(spec) for spec in BUILTIN_HANDLERS.values()]
    data += [node_json(node) for node in NODE_TYPES.values()]
    data += [
        {"name": name, "kind": "custom", "description": f"Offered by {', '.join(workers)}."}
        for name, workers in sorted(offered.items())
    ]
    rows = [[entry["name"], entry["kind"], _first_sentence(entry["description"])] for entry in data]
    emit(
        settings,
        data,
        lines=lambda _: table(["NAME", "KIND", "DESCRIPTION"], rows),
        names=[entry["name"] for entry in data],
    )


async def _offered(client: Client) -> dict[str, list[str]]:
    """Return who offers each handler that is not built in."""
    found: dict[str, list[str]] = {}
    for worker in (await client.info(workers=True)).workers:
        if worker.state != "Offline":
            for name in worker.handlers:
                found.setdefault(name, []).append(worker.id)
    return found


def _unknown(name: str, known: list[str]) -> Exception:
    import difflib

    from headrace.errors import NotFound

    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "`flowctl handlers` lists them"
    return NotFound(f"no handler {name!r}; {hint} (those of your workers: --workers)")


def spec_json(spec: HandlerSpec) -> dict[str, Any]:
    """Return a handler for JSON and YAML, with JSON Schemas."""
    from headrace.language import TASK_TYPE_ALIASES, json_schema

    return {
        "name": spec.name,
        "kind": BUILTIN,
        "aliases": [alias for alias, name in TASK_TYPE_ALIASES.items() if name == spec.name],
        "description": spec.description,
        "extra": spec.extra or None,
        **json_schema(spec),
        "example": spec.example,
    }


def node_json(node: NodeSpec) -> dict[str, Any]:
    """Return a type of tasks that the engine carries out."""
    return {
        "name": node.name,
        "kind": NODE,
        "description": node.description,
        "step": node.step or None,
        "example": node.example,
    }


def spec_lines(spec: HandlerSpec, *, colour: bool) -> list[str]:
    """Return a handler for people."""
    lines = [spec.name, "", *_wrapped(spec.description)]
    if spec.extra:
        lines += ["", f"Needs on the worker: pip install 'headrace[{spec.extra}]'"]
    lines += ["", "Inputs:"]
    rows = [
        [name, given.type, _default(given.required, given.default), _options(given)]
        for name, given in spec.inputs.items()
    ]
    lines += _indented(table(["NAME", "TYPE", "DEFAULT", "MEANING"], rows, colour=colour))
    lines += ["  any other"] if spec.open else []
    for names in spec.exactly_one:
        lines.append(f"  exactly one of: {', '.join(names)}")
    for names in spec.at_most_one:
        lines.append(f"  at most one of: {', '.join(names)}")
    lines += ["", "Outputs:"]
    rows = [[name, made.type, made.description] for name, made in spec.outputs.items()]
    lines += _indented(table(["NAME", "TYPE", "MEANING"], rows, colour=colour)) if rows else []
    lines += ["  any other"] if spec.open_outputs else []
    return [*lines, "", "Example:", *_indented(spec.example.splitlines())]


def node_lines(node: NodeSpec) -> list[str]:
    """Return a type of tasks for people."""
    lines = [f"{node.name} (carried out by the engine; no worker is needed)", "", node.description]
    if node.step:
        lines += ["", f"In `jobs:` it is a step with the key `{node.step}`."]
    return [*lines, "", "Example, under `tasks:`:", *_indented(node.example.splitlines())]


def _default(required: bool, default: Any) -> str:
    if required:
        return "required"
    return "" if default in (None, "", [], {}) else json.dumps(default)


def _options(given: Any) -> str:
    text = str(given.description)
    options = [option for option in given.options if option]
    return f"{text} One of {', '.join(options)}." if options else text


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].partition(": ")[0].removesuffix(".") + "."


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 96)


def _indented(lines: list[str]) -> Iterator[str]:
    return (f"  {line}" if line else "" for line in lines)
