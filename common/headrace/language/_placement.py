"""`runs-on`: which labels a worker must offer, and whether one worker runs it or all do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from headrace.language._draft import Draft
from headrace.language._parts import read_join
from headrace.language._reader import Reader
from headrace.language._scope import Known, Scope
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Tree
from headrace.plan import Group, Loop

RUNS_ON_KEYS = (
    "group", "labels", "all", "max-parallel", "fail-fast", "join", "losers", "on-worker-loss",
)  # fmt: skip
WORKER = "worker"
"""The context under which the steps of a broadcast see their worker."""
OUTPUTS: Known = {"workers": "workers", "results": "results"}
"""Outputs of a broadcast."""
_ON_ALL = ("max-parallel", "fail-fast", "join", "losers", "on-worker-loss")
_ON_LOOP = ("condition", "background", "trigger_rule")
"""Fields that are about the whole of a broadcast; all others are each worker's."""


class Placement(NamedTuple):
    """What `runs-on` says."""

    labels: tuple[str, ...] = ()
    broadcast: Mapping[str, Any] | None = None
    """Fields of the loop over all workers; None: one worker runs it."""


def read_placement(reader: Reader, node: Tree | None, what: str, scope: Scope) -> Placement:
    """Return the labels that a worker must have, each once, and what `all: true` asks for."""
    if not isinstance(node, MappingNode):
        return Placement(tuple(dict.fromkeys(reader.texts(node, what, scope))))
    entries = reader.mapping(node, what, RUNS_ON_KEYS)
    found = reader.texts(entries.get("group"), f"{what}.group", scope)
    found += reader.texts(entries.get("labels"), f"{what}.labels", scope)
    if not found:
        reader.report.add(f"{what} needs a 'group', or 'labels'", node)
    labels = tuple(dict.fromkeys(found))
    if reader.boolean(entries.get("all"), f"{what}.all"):
        return Placement(labels, _broadcast(reader, entries, what, scope))
    for key in _ON_ALL:
        if key in entries:
            reader.report.add(f"{what}: '{key}' goes with 'all: true'", node.keys[key])
    return Placement(labels)


def one_worker(reader: Reader, node: Tree | None, what: str, scope: Scope) -> tuple[str, ...]:
    """Return the labels of a place that cannot be broadcast."""
    placement = read_placement(reader, node, what, scope)
    if placement.broadcast is not None:
        hint = "write it on a job, a step or a task"
        reader.report.add(f"{what}: 'all: true' is not for this place", node, hint)
    return placement.labels


def _broadcast(
    reader: Reader, entries: Mapping[str, Tree], what: str, scope: Scope
) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "join": read_join(reader, entries.get("join"), entries.get("losers"), what)
    }
    limit = reader.count(entries.get("max-parallel"), f"{what}.max-parallel", scope)
    if limit is not None:
        fields["max_parallel"] = limit
    if "fail-fast" in entries:
        fields["fail_fast"] = reader.flag(entries["fail-fast"], f"{what}.fail-fast", scope)
    loss = read_loss(reader, entries.get("on-worker-loss"), f"{what}.on-worker-loss")
    return fields | ({"on_worker_loss": loss} if loss else {})


def read_sticky(reader: Reader, node: Tree | None, what: str, scope: Scope) -> dict[str, Any]:
    """Return the field `sticky`: `true` is a key of each run; nothing if absent, or false."""
    if node is None or (isinstance(node, Scalar) and node.value in (None, False)):
        return {}
    if isinstance(node, Scalar) and node.value is True:
        return {"sticky": "${{ run.id }}"}
    text = reader.text(node, what, scope)
    return {"sticky": text} if text else {}


def read_loss(reader: Reader, node: Tree | None, what: str) -> str | None:
    """Return what becomes of the part of a worker that is lost; None if absent."""
    return reader.choice(node, what, ("fail", "skip"))


def broadcast(draft: Draft, placement: Placement) -> Draft:
    """Return *draft*, or a loop over workers around it."""
    if placement.broadcast is None:
        return draft
    fields = {key: draft.fields.pop(key) for key in _ON_LOOP if key in draft.fields}
    fields |= placement.broadcast
    found = Draft(Loop, draft.name, draft.place, kind="broadcast", variable=WORKER, **fields)
    found.needs, draft.needs = draft.needs, []
    inside = draft
    if draft.handlers:
        # Each worker has its own: they stand beside the step that they are for.
        inside = Draft(Group, draft.name, draft.place, kind="graph")
        inside.children = [draft, *draft.handlers.values()]
    found.children = [inside]
    return found
