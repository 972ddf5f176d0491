"""What the nodes of a plan say, by their paths: so that two plans can be compared. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.plan._graph import Loop, Node, Plan, Subworkflow, decode_plan, plan_digest

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
