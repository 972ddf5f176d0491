"""Structural invariants of plans that come from elsewhere (the wire, a store). Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from headrace.errors import InvalidDefinition, Problem
from headrace.plan._graph import (
    Choice,
    Group,
    Loop,
    Node,
    Plan,
    RateLimit,
    Sleep,
    Subworkflow,
    Task,
    Wait,
    decode_plan,
)

NODES_MAX = 100_000
"""Nodes of one plan."""
NESTING_MAX = 64
"""Depth of the tree of nodes, the root included."""
SUBPLAN_BYTES_MAX = 256 * 1024
"""Size of a plan inside a plan, with all that is inside it: it travels in one message."""
SUBPLAN_DEPTH_MAX = 10
"""Plans inside each other, the outermost included."""
ITERATIONS_MAX = 100_000
"""Iterations of one repetition."""
RATE_MAX = 1_000_000
"""Starts of a rate limit in one period."""
RATE_PERIOD_MS_MAX = 366 * 86_400_000
_PROBLEMS_MAX = 20
_SEQUENCES = frozenset(("job", "pipeline"))


def validate_plan(plan: Plan, *, depth: int = 1) -> None:
    """Check that *plan* is a tree that the engine can run.

    Checked: limits; indexes, parents and sizes (depth first, contiguous); names unique among
    siblings; needs that point at siblings and make no cycle; what each kind of node must hold.
    Plans inside are checked too; *depth* is how
    deep this one is. Expressions are not parsed. Raises `InvalidDefinition` with what is wrong.
    """
    nodes = plan.nodes
    if not nodes:
        raise InvalidDefinition(
            [Problem("a plan has at least one node")], file=plan.file or "<plan>"
        )
    if len(nodes) > NODES_MAX:
        problem = Problem(f"a plan of {len(nodes)} nodes is too large: NODES_MAX = {NODES_MAX}")
        raise InvalidDefinition([problem], file=plan.file or "<plan>")
    problems = _tree(nodes)
    if not problems:
        children: list[list[int]] = [[] for _ in nodes]
        for index in range(1, len(nodes)):
            if not nodes[index].dormant:
                children[nodes[index].parent].append(index)
        problems += _dormant(nodes)
        for index, node in enumerate(nodes):
            problems.extend(_node(index, node, nodes))
            if isinstance(node, Subworkflow):
                problems.extend(_subworkflow(index, node, depth))
            problems.extend(_handlers(nodes, index, node))
            if children[index] or isinstance(node, (Loop, Choice)):
                problems.extend(_children(nodes, index, children[index]))
            if len(problems) >= _PROBLEMS_MAX:
                break
    problems.extend(rate_limit_problems("the plan", plan.rate_limit))
    if problems:
        raise InvalidDefinition(
            [Problem(text) for text in problems[:_PROBLEMS_MAX]], file=plan.file or "<plan>"
        )


def _tree(nodes: tuple[Node, ...]) -> list[str]:
    """Check parents and sizes: every subtree is the slice [index, index + size)."""
    root = nodes[0]
    if not isinstance(root, Group) or root.parent != -1 or root.size != len(nodes) or root.needs:
        return [f"node 0 must be a group without parent and needs, of size {len(nodes)}"]
    # Ends of the subtrees that are open at the node under inspection, the root's first.
    open_nodes = [(0, len(nodes))]
    for index in range(1, len(nodes)):
        node = nodes[index]
        while index >= open_nodes[-1][1]:
            open_nodes.pop()
        parent, end = open_nodes[-1]
        if node.parent != parent:
            return [f"node {index}: its parent is {node.parent}, by position it is {parent}"]
        if node.size < 1 or index + node.size > end:
            return [f"node {index}: size {node.size} does not fit into its parent"]
        if not isinstance(nodes[parent], (Group, Loop, Choice)):
            return [f"node {index}: its parent {parent} cannot have children"]
        if len(open_nodes) >= NESTING_MAX:
            return [f"node {index} is nested too deeply: NESTING_MAX = {NESTING_MAX}"]
        open_nodes.append((index, index + node.size))
    return []


def _node(index: int, node: Node, nodes: tuple[Node, ...]) -> Iterable[str]:
    if index and (not node.name or "/" in node.name):
        yield f"node {index}: a name is not empty and has no '/': {node.name!r}"
    if isinstance(node.timeout_ms, int) and node.timeout_ms <= 0:
        yield f"node {index}: a timeout is positive"
    if isinstance(node, Task) and not node.uses:
        yield f"node {index}: a task names a handler"
    if isinstance(node, Task) and node.code:
        yield from _code(index, node, nodes)
    if isinstance(node, Sleep) and (node.duration_ms is None) == (node.until is None):
        yield f"node {index}: a sleep has a duration or a time, one of the two"
    if isinstance(node, Wait) and not node.signal:
        yield f"node {index}: a wait names a signal"
    if isinstance(node, (Group, Loop)):
        join = node.join
        if join.kind == "percent" and not 1 <= join.value <= 100:
            yield f"node {index}: join of {join.value} percent"
        if join.kind == "count" and join.value < 1:
            yield f"node {index}: join of {join.value}"
    if isinstance(node, Group) and node.cancels and node.size > 1:
        yield f"node {index}: what cancels others has no children"
    if node.trigger_rule is not None and not node.needs:
        yield f"node {index}: a trigger rule is about needs, and it has none"
    if isinstance(node, Loop):
        yield from _loop(index, node)
    if isinstance(node, (Task, Group)):
        yield from _gates(index, node)


def _code(index: int, node: Task, nodes: tuple[Node, ...]) -> Iterable[str]:
    """A workflow function is the only task of its plan; its steps have policies of their own."""
    if len(nodes) != 2:
        yield f"node {index}: a workflow function is the only task of its plan"
    if node.retry is not None or node.cache is not None or node.effect != "at-least-once":
        yield f"node {index}: a workflow function has no retries, effect or cache; its steps have"


def _gates(index: int, node: Task | Group) -> Iterable[str]:
    lock = node.lock
    if lock is not None and (not lock.name or min(lock.ttl_ms, lock.timeout_ms) < 0):
        yield f"node {index}: a lock has a name, and times that are not negative"
    yield from rate_limit_problems(f"node {index}", node.rate_limit)
    cache = node.cache if isinstance(node, Task) else None
    if cache is not None and (not cache.key or cache.ttl_ms < 0):
        yield f"node {index}: a cached result has a key, and a time that is not negative"
    if (lock is not None or node.rate_limit is not None) and not index:
        yield "node 0: a whole workflow has no lock, and its rate limit is the plan's"


def rate_limit_problems(what: str, limit: RateLimit | None) -> Iterable[str]:
    """Yield what is wrong with a rate limit."""
    if limit is None:
        return
    if not limit.key or limit.timeout_ms < 0:
        yield f"{what}: a rate limit has a key, and times that are not negative"
    if not 1 <= limit.limit <= RATE_MAX or not 1 <= limit.per_ms <= RATE_PERIOD_MS_MAX:
        yield f"{what}: a rate limit is from 1 to {RATE_MAX}, its period at most 366 days"


def _subworkflow(index: int, node: Subworkflow, depth: int) -> Iterable[str]:
    if not node.plan:
        yield (
            f"'{node.source}' was not looked up yet: `flowctl submit FILE` and `flowctl register "
            "FILE` do so"
        )
        return
    if depth >= SUBPLAN_DEPTH_MAX:
        yield f"node {index}: plans inside each other: SUBPLAN_DEPTH_MAX = {SUBPLAN_DEPTH_MAX}"
        return
    if len(node.plan) > SUBPLAN_BYTES_MAX:
        size = len(node.plan)
        yield f"node {index}: a plan of {size} bytes: SUBPLAN_BYTES_MAX = {SUBPLAN_BYTES_MAX}"
        return
    try:
        validate_plan(decode_plan(node.plan), depth=depth + 1)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        yield f"node {index}: not a plan: {error}"
    except InvalidDefinition as error:
        yield from (f"node {index}: inside: {problem.message}" for problem in error.problems)


def _loop(index: int, node: Loop) -> Iterable[str]:
    if isinstance(node.max_parallel, int) and node.max_parallel < 1:
        yield f"node {index}: max_parallel is at least 1"
    if node.kind == "broadcast":
        if node.items is not None:
            yield f"node {index}: the items of a broadcast are the workers of that moment"
        return
    if node.kind != "repeat":
        if not isinstance(node.items, (list, str, dict)):
            yield f"node {index}: a loop needs items"
        return
    if node.times is None and not node.before and not node.after:
        yield f"node {index}: a repetition has a number or a condition"
    if not 1 <= node.limit <= ITERATIONS_MAX:
        yield f"node {index}: a limit of iterations is from 1 to {ITERATIONS_MAX}"


def handlers_of(node: Node) -> tuple[int, ...]:
    """Return the dormant nodes that *node* names."""
    found = [node.on_failure.handler] if node.on_failure is not None else []
    if isinstance(node, Task):
        found += [node.compensate, node.unknown_handler]
    return tuple(index for index in found if index >= 0)


def _dormant(nodes: tuple[Node, ...]) -> list[str]:
    """Check that each dormant node is named by one sibling, and waits for nothing."""
    named: dict[int, int] = {}
    for index, node in enumerate(nodes):
        for handler in handlers_of(node):
            if not 0 < handler < len(nodes) or not nodes[handler].dormant:
                return [f"node {index} names node {handler}, which is not dormant"]
            if nodes[handler].parent != node.parent or handler in named:
                return [f"node {handler} must be named by one sibling"]
            named[handler] = index
    inside = 0
    for index, node in enumerate(nodes):
        if any(nodes[need].dormant for need in node.needs if 0 <= need < len(nodes)):
            return [f"node {index} needs a dormant node"]
        if index < inside and (node.dormant or node.on_failure is not None or handlers_of(node)):
            return [f"node {index}: what handles failures has no such policies itself"]
        if not node.dormant:
            continue
        if index not in named or node.needs or not isinstance(nodes[node.parent], Group):
            return [f"node {index} is dormant: a sibling in a group names it, and it needs nothing"]
        inside = max(inside, index + node.size)
    return []


def _handlers(nodes: tuple[Node, ...], index: int, node: Node) -> Iterable[str]:
    policy = node.on_failure
    if policy is not None:
        if (policy.action == "run") != (policy.handler >= 0):
            yield f"node {index}: 'run' names a handler, and nothing else does"
        if policy.action == "run" and not isinstance(node, (Task, Wait)):
            yield f"node {index}: only steps and waits have a handler"
        if policy.rounds < 1:
            yield f"node {index}: at least one round"
    if isinstance(node, Task) and (node.on_unknown == "run") != (node.unknown_handler >= 0):
        yield f"node {index}: 'run' names a handler, and nothing else does"
    if isinstance(node, Group) and node.on_cancel and index:
        yield f"node {index}: only a whole workflow has 'on_cancel'"


def _children(nodes: tuple[Node, ...], index: int, children: list[int]) -> Iterable[str]:
    node = nodes[index]
    if isinstance(node, Loop) and len(children) != 1:
        yield f"node {index}: a loop has one child, not {len(children)}"
        return
    if isinstance(node, Choice) and not children:
        yield f"node {index}: a choice has at least one child"
    names = {nodes[child].name.lower() for child in children}
    if len(names) != len(children):
        yield f"node {index}: two of its children have the same name"
    siblings = set(children)
    for child in children:
        other = nodes[child]
        for target in other.cancels if isinstance(other, Group) else ():
            if target not in siblings or target >= child or not nodes[target].background:
                yield f"node {child}: it can only cancel background steps before it"
                return
    for child in children:
        needs = nodes[child].needs
        if not needs:
            continue
        if len(set(needs)) != len(needs) or not siblings.issuperset(needs) or child in needs:
            yield f"node {child}: its needs must be siblings, each once"
            return
    if isinstance(node, Group) and node.kind in _SEQUENCES:
        for child in _out_of_order(nodes, children):
            yield f"node {child}: in a sequence it must need the node before it"
            return
    if not _acyclic(nodes, children):
        yield f"node {index}: the needs of its children make a cycle"


def _out_of_order(nodes: tuple[Node, ...], children: list[int]) -> Iterable[int]:
    """Yield the children of a sequence that do not need what they must, first of all."""
    before: tuple[int, ...] = ()
    background: set[int] = set()
    for child in children:
        needs = nodes[child].needs
        if needs[: len(before)] != before or not background.issuperset(needs[len(before) :]):
            yield child
        if nodes[child].background:
            background.add(child)
        else:
            before = (child,)


def _acyclic(nodes: tuple[Node, ...], children: list[int]) -> bool:
    """Tell whether *children* can be put in an order (Kahn's algorithm)."""
    missing = {child: len(nodes[child].needs) for child in children if nodes[child].needs}
    if all(need < child for child in missing for need in nodes[child].needs):
        return True
    dependents: dict[int, list[int]] = {}
    for child in missing:
        for need in nodes[child].needs:
            dependents.setdefault(need, []).append(child)
    ready = [child for child in children if child not in missing]
    while ready:
        for child in dependents.get(ready.pop(), ()):
            missing[child] -= 1
            if not missing[child]:
                del missing[child]
                ready.append(child)
    return not missing
