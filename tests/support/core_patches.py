"""Random edits of a plan, for properties of patches."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from headrace.plan import Choice, Group, Loop, Plan, Task
from support import plans
from support.plans import SEQUENCES, Spec

_PLACED = ("name", "parent", "size", "needs", "position", "dormant")
_WHOLE = ("name", "nodes", "file", "format")


def spec_of(plan: Plan, index: int = 0) -> Spec:
    """Return the nested calls that a node was made of."""
    node = plan.nodes[index]
    options = {name: getattr(node, name) for name in node.__struct_fields__ if name not in _PLACED}
    handlers = {}
    if isinstance(node, Task):
        handlers = {"compensate": node.compensate, "reconcile": node.unknown_handler}
        del options["unknown_handler"], options["compensate"]
    if node.on_failure is not None and node.on_failure.handler >= 0:
        handlers["on_failure"] = node.on_failure.handler
    for option, handler in handlers.items():
        if handler >= 0:
            options[option] = spec_of(plan, handler)
    names = tuple(plan.nodes[need].name for need in node.needs)
    above = plan.nodes[node.parent] if node.parent >= 0 else None
    if isinstance(above, Group) and above.kind in SEQUENCES:
        # The rest of them follow from the order.
        names = tuple(plan.nodes[need].name for need in node.needs if plan.nodes[need].background)
    children = tuple(
        spec_of(plan, at)
        for at in range(index + 1, index + node.size)
        if plan.nodes[at].parent == index and not plan.nodes[at].dormant
    )
    return Spec(type(node), node.name, names, options, children)


def plan_of(root: Spec, like: Plan) -> Plan:
    """Return the plan of these nodes that says all else as another one does."""
    options = {name: getattr(like, name) for name in Plan.__struct_fields__ if name not in _WHOLE}
    return plans.plan(*root.children, name=like.name, root=root.options, **options)


@st.composite
def edited(draw: st.DrawFn, plan: Plan, bound: frozenset[str]) -> Plan:
    """Return *plan* with some nodes added, removed and changed, mostly not those at *bound*."""
    root = spec_of(plan)
    for number in range(draw(st.integers(1, 3))):
        root = draw(_edit(root, "", bound, f"x{number}"))
    return plan_of(root, plan)


@st.composite
def _edit(draw: st.DrawFn, spec: Spec, path: str, bound: frozenset[str], fresh: str) -> Spec:
    """Change one thing at or below *spec*."""
    inside = [at for at, child in enumerate(spec.children) if child.children]
    if inside and draw(st.booleans()):
        at = draw(st.sampled_from(inside))
        child = spec.children[at]
        below = f"{path}/{child.name}" if path else child.name
        below = f"{path}[*]" if spec.make is Loop else below
        return _with(spec, at, draw(_edit(child, below, bound, fresh)))
    if spec.make is Loop:
        return spec
    free = [
        at
        for at, child in enumerate(spec.children)
        if (f"{path}/{child.name}" if path else child.name) not in bound
    ]
    what = draw(st.sampled_from(["add", "add", "remove", "change", "needs"]))
    if draw(st.integers(0, 9)) == 0:
        free = list(range(len(spec.children)))
    if what == "add" or not free:
        return draw(_added(spec, fresh))
    at = draw(st.sampled_from(free))
    child = spec.children[at]
    if what == "remove" and len(spec.children) > 1:
        rest = tuple(_without(other, child.name) for other in spec.children if other is not child)
        return spec._replace(children=rest)
    if what == "needs" and _is_graph(spec):
        names = [other.name for other in spec.children[:at]]
        needs = draw(st.lists(st.sampled_from(names), unique=True, max_size=2)) if names else []
        return _with(spec, at, _needing(child, tuple(needs)))
    if child.make is Task:
        options = {**child.options, "inputs": {"edited": fresh}}
        return _with(spec, at, child._replace(options=options))
    return spec


def _is_graph(spec: Spec) -> bool:
    return spec.make is Group and spec.options.get("kind", "graph") not in SEQUENCES


@st.composite
def _added(draw: st.DrawFn, spec: Spec, fresh: str) -> Spec:
    new = plans.task(f"{spec.name}{fresh}")
    if spec.make is Choice:
        new = plans.task(f"{spec.name}{fresh}", condition="true")
    if draw(st.integers(0, 3)) == 0:
        new = plans.loop(f"{spec.name}{fresh}", plans.task("do"), [1, 2])
    at = draw(st.integers(0, len(spec.children)))
    if spec.make is Group and _is_graph(spec) and at:
        names = [other.name for other in spec.children[:at]]
        new = new._replace(
            needs=tuple(draw(st.lists(st.sampled_from(names), unique=True, max_size=2)))
        )
    if any(other.name == new.name for other in spec.children):
        return spec
    return spec._replace(children=(*spec.children[:at], new, *spec.children[at:]))


def _with(spec: Spec, at: int, child: Spec) -> Spec:
    return spec._replace(children=(*spec.children[:at], child, *spec.children[at + 1 :]))


def _without(spec: Spec, name: str) -> Spec:
    return _needing(spec, tuple(need for need in spec.needs if need != name))


def _needing(spec: Spec, needs: tuple[str, ...]) -> Spec:
    options: dict[str, Any] = dict(spec.options)
    if not needs:
        options["trigger_rule"] = None
    return spec._replace(needs=needs, options=options)
