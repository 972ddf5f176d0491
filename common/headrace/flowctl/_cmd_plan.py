"""`plan`: what a run of a file would do, before it is one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from headrace.flowctl._inputs import collect_inputs, input_options
from headrace.flowctl._output import emit
from headrace.flowctl._settings import Settings
from headrace.flowctl._shared import note, pass_settings, run_client, shared_options

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.language import Forecast, PlannedNode
    from headrace.messages import WorkerView

_SHOWN = {"runs": "yes", "skipped": "no", "depends": "maybe"}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@input_options
@click.option("--workers", is_flag=True, help="Ask the cluster which workers could run each step.")
@shared_options
@pass_settings
def plan(
    settings: Settings, file: str, inputs: tuple[str, ...], input_file: str | None, workers: bool
) -> None:
    """Print what a run of FILE would do and why; nothing is run or sent.

    Conditions are evaluated with the given inputs, as if all goes well. `maybe` depends on what
    only the run itself learns, and says on what.

    \b
    Examples:
      flowctl plan deploy.yaml --input target=prod
      flowctl plan deploy.yaml --workers -o json
    """
    from headrace.flowctl._definitions import load_definition
    from headrace.language import BUILTIN_HANDLERS, forecast

    loaded = load_definition(file, allow_unknown=True)
    found = forecast(loaded, collect_inputs(loaded, inputs, input_file))
    online = run_client(settings, _workers) if workers else None
    fit = None if online is None else [_fitting(n, online, BUILTIN_HANDLERS) for n in found.nodes]
    emit(settings, _json(found, fit), lines=lambda wide: _lines(found, fit, wide=wide))
    if found.truncated:
        note(f"only the first {len(found.nodes)} nodes are shown")


async def _workers(client: Client) -> list[WorkerView]:
    info = await client.info(workers=True)
    return [worker for worker in info.workers if worker.namespace == client.namespace]


def _fitting(node: PlannedNode, online: Iterable[WorkerView], builtin: Iterable[str]) -> list[str]:
    """Return the workers that could run a task; empty for what the engine does itself."""
    if node.kind != "task" or node.decision == "skipped":
        return []
    return [
        worker.id
        for worker in online
        if set(node.labels) <= set(worker.capabilities)
        and (node.uses in builtin or node.uses in worker.handlers)
    ]


def _json(found: Forecast, fit: list[list[str]] | None) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    for number, node in enumerate(found.nodes):
        entry = {name: getattr(node, name) for name in node.__struct_fields__}
        if fit is not None and node.kind == "task":
            entry["workers"] = fit[number]
        nodes.append(entry)
    return {
        "workflow": found.workflow,
        "inputs": found.inputs,
        "truncated": found.truncated,
        "nodes": nodes,
    }


def _lines(found: Forecast, fit: list[list[str]] | None, *, wide: bool) -> list[str]:
    from headrace.flowctl._text import one_line, table

    titles = ["NODE", "DOES", "RUNS", "AFTER", "NEEDS", *(["WORKERS"] if fit else []), "WHY"]
    length = 10_000 if wide else 60
    rows: list[list[str]] = []
    for number, node in enumerate(found.nodes):
        labels = ", ".join(node.labels) if node.kind == "task" else ""
        offered = []
        if fit is not None:
            none = "none" if node.kind == "task" and node.decision != "skipped" else ""
            offered = [one_line(", ".join(fit[number]) or none, length)]
        after = ", ".join(path.rsplit("/", 1)[-1] for path in node.after)
        rows.append(
            [
                node.path,
                node.uses or node.kind,
                _SHOWN[node.decision],
                one_line(after, length),
                one_line(labels, length),
                *offered,
                one_line(node.reason, length),
            ]
        )
    return table(titles, rows)
