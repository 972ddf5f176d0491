"""What the nodes of a plan say, by their paths: so that two plans can be compared. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.plan._graph import (
    Group,
    Loop,
    Node,
    Plan,
    Position,
    Subworkflow,
    Task,
    decode_plan,
    plan_digest,
)

_encode = msgspec.msgpack.Encoder().encode

_PLACED = ("parent", "size", "position", "name")
"""Where a node stands, not what it is."""


def node_paths(plan: Plan) -> list[str]:
    """Return the path of each node, unique in the plan: `build/test`; "" for the root.

    The one child of a loop is ``loop[*]``, what is below it ``loop[*]/step``.
    """
    nodes = plan.nodes
    paths = [""]
    for index in range(1, len(nodes)):
        node = nodes[index]
        above = paths[node.parent]
        if isinstance(nodes[node.parent], Loop):
            paths.append(f"{above}[*]")
        else:
            paths.append(f"{above}/{node.name}" if above else node.name)
    return paths


def node_facts(node: Node, paths: list[str]) -> dict[str, Any]:
    """Return what *node* says, as plain data, with paths for the indexes of other nodes.

    *paths* are those of its plan (`node_paths`). Two nodes that stand in different places of
    their plans, and say the same, give equal facts; defaults are left out.
    """
    facts: dict[str, Any] = msgspec.to_builtins(node)
    for name in _PLACED:
        facts.pop(name, None)
    if node.needs:
        facts["needs"] = [paths[need] for need in node.needs]
    for name in ("compensate", "unknown_handler"):
        if facts.get(name, -1) >= 0:
            facts[name] = paths[facts[name]]
    policy = facts.get("on_failure")
    if policy and policy.get("handler", -1) >= 0:
        policy["handler"] = paths[policy["handler"]]
    if isinstance(node, Subworkflow):
        facts["plan"] = plan_digest(decode_plan(node.plan))
    return facts


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return what *plan* says beside its nodes, as plain data; defaults are left out."""
    facts: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(plan, nodes=(), file=""))
    for name in ("nodes", "file", "format"):
        facts.pop(name, None)
    return facts


def match_nodes(old: Plan, new: Plan) -> list[int]:
    """Return for each node of *old* the node of *new* at the same path, or -1: O(nodes)."""
    places = {
        (node.parent, "" if _is_body(new, node) else node.name, node.dormant): index
        for index, node in enumerate(new.nodes)
    }
    found = [0]
    for node in old.nodes[1:]:
        above, body = found[node.parent], _is_body(old, node)
        if above < 0 or body != isinstance(new.nodes[above], Loop):
            found.append(-1)
        else:
            found.append(places.get((above, "" if body else node.name, node.dormant), -1))
    return found


def _is_body(plan: Plan, node: Node) -> bool:
    return node.parent >= 0 and isinstance(plan.nodes[node.parent], Loop)


def same_node(old: Node, new: Node, moved: Sequence[int]) -> bool:
    """Tell whether two nodes at the same path say the same, wherever they stand in their files.

    *moved*: for each node of the old plan the one of the new plan (`match_nodes`).
    """
    if type(old) is not type(new) or len(old.needs) != len(new.needs):
        return False
    if any(moved[need] != other for need, other in zip(old.needs, new.needs, strict=True)):
        return False
    if [moved[at] if at >= 0 else -1 for at in _named(old)] != list(_named(new)):
        return False
    return _alone(old) == _alone(new)


def _named(node: Node) -> tuple[int, ...]:
    """Return the nodes that *node* names, for its failures or to cancel them; -1: none."""
    handler = node.on_failure.handler if node.on_failure is not None else -1
    if isinstance(node, Task):
        return handler, node.compensate, node.unknown_handler
    return (handler, *node.cancels) if isinstance(node, Group) else (handler,)


def _alone(node: Node) -> bytes:
    """Return what *node* says without its place and without other nodes' indexes."""
    change: dict[str, Any] = {
        "name": "", "parent": -1, "size": 1, "needs": (), "position": Position(),
    }  # fmt: skip
    if node.on_failure is not None and node.on_failure.handler >= 0:
        change["on_failure"] = msgspec.structs.replace(node.on_failure, handler=0)
    if isinstance(node, Task):
        change |= {"compensate": -1, "unknown_handler": -1}
    elif isinstance(node, Group):
        change["cancels"] = ()
    return _encode(msgspec.structs.replace(node, **change))
