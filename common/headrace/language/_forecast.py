"""What a run of a plan would do, as far as its inputs tell: which nodes run, which do not, and why.

Conditions are evaluated as if all goes well: what comes before has succeeded. What only the run
itself learns (outputs, secrets, who triggered it) is unknown, and so is what depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NoReturn

import msgspec

from headrace.errors import InvalidRequest
from headrace.expressions import (
    STATUS_FUNCTIONS,
    Expression,
    ExpressionError,
    evaluate_template,
    parse_condition,
    resolve,
    truthy,
)
from headrace.plan import Choice, Group, Loop, Node, Plan, Task, expand_items, is_expression

Decision = Literal["runs", "skipped", "depends"]
STEPS_MAX = 20_000
"""Nodes of a forecast, iterations counted each; what is beyond is left out, and said."""


class PlannedNode(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One node of a run to come."""

    path: str
    """As the run will have it; ``[*]`` stands for iterations that are not known yet."""
    kind: str
    decision: Decision
    reason: str = ""
    """Why it is skipped, what it depends on, how many iterations there are."""
    title: str = ""
    uses: str = ""
    after: list[str] = []
    """Paths of the nodes that must have ended first."""
    labels: list[str] = []
    """That a worker must offer; only of tasks."""
    line: int = 0


class Forecast(msgspec.Struct, kw_only=True):
    """A plan with its inputs."""

    workflow: str
    inputs: dict[str, Any]
    nodes: list[PlannedNode]
    truncated: bool = False


class _Unknown(ExpressionError):
    """An expression asks for what is not known before the run."""

    def __init__(self, name: str) -> None:
        super().__init__("evaluation", name)
        self.name = name


class _Known(Mapping[str, Any]):
    """Contexts that are known before a run; asking for another one ends the evaluation."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values_by_name = values

    def __getitem__(self, name: str) -> Any:
        found = self.values_by_name.get(name.lower(), self)
        if found is self:
            raise _Unknown(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)

    def with_values(self, values: Mapping[str, Any]) -> _Known:
        """Return these contexts and others."""
        return _Known({**self.values_by_name, **values})


def _unknown_files(*_: Any) -> NoReturn:
    raise _Unknown("hashFiles")


_ALL_WELL: Mapping[str, Any] = {
    "success": lambda: True,
    "always": lambda: True,
    "failure": lambda: False,
    "cancelled": lambda: False,
    "hashfiles": _unknown_files,
}


class _Place(msgspec.Struct):
    """Where the walk stands."""

    path: str
    known: _Known
    decision: Decision = "runs"
    labels: tuple[str, ...] = ()


def forecast(plan: Plan, inputs: Mapping[str, Any]) -> Forecast:
    """Return what a run of *plan* with *inputs* (checked, defaults filled in) would do."""
    walk = _Walk(plan)
    known = _Known({"inputs": dict(inputs), "vars": plan.vars})
    root = plan.nodes[0]
    labels = tuple(root.runs_on) if isinstance(root, Group) else ()
    walk.children(0, _Place("", known, labels=labels))
    return Forecast(
        workflow=plan.name, inputs=dict(inputs), nodes=walk.found, truncated=walk.truncated
    )


class _Walk:
    """Goes through a plan from above, and notes each node."""

    def __init__(self, plan: Plan) -> None:
        self._nodes = plan.nodes
        self._children: list[list[int]] = [[] for _ in plan.nodes]
        for index, node in enumerate(plan.nodes):
            if node.parent >= 0:
                self._children[node.parent].append(index)
        self.found: list[PlannedNode] = []
        self.truncated = False

    def children(self, index: int, place: _Place) -> None:
        """Note all that is in node *index*."""
        parent = self._nodes[index]
        decided: dict[int, Decision] = {}
        chosen: Decision = "skipped"
        before = -1
        sequence = isinstance(parent, Group) and parent.kind in ("job", "pipeline")
        for child in self._children[index]:
            if len(self.found) >= STEPS_MAX:
                self.truncated = True
                return
            node = self._nodes[child]
            # In a sequence the next step runs whatever was skipped before it.
            decision, reason = self._decide(node, {} if sequence else decided, place)
            if node.dormant and decision != "skipped":
                decision, reason = "depends", self._called_for(index, child)
            if isinstance(parent, Choice) and place.decision != "skipped":
                decision, reason, chosen = _branch(decision, reason, chosen)
            decided[child] = decision
            needs = node.needs or ((before,) if sequence and before >= 0 else ())
            if node.dormant:
                needs = ()
            else:
                before = child
            after = [self._path(need, place) for need in needs]
            self._note(child, decision, reason, after, place)

    def _called_for(self, parent: int, dormant: int) -> str:
        """Return what would call for a node that nothing comes to by itself."""
        for sibling in self._children[parent]:
            node = self._nodes[sibling]
            if isinstance(node, Task) and node.compensate == dormant:
                return f"undoes '{node.name}', if that has completed and is compensated"
        return "only if a failure or a cancel calls for it"

    def _path(self, index: int, place: _Place) -> str:
        name = self._nodes[index].name
        return f"{place.path}/{name}" if place.path else name

    def _decide(
        self, node: Node, decided: Mapping[int, Decision], place: _Place
    ) -> tuple[Decision, str]:
        """Return whether *node* runs, and why not."""
        if place.decision == "skipped":
            return "skipped", "what it stands in is skipped"
        decision, reason = _condition(node, place.known)
        needs = {need: decided.get(need, "runs") for need in node.needs}
        missing = [need for need, found in needs.items() if found != "runs"]
        if decision != "skipped" and missing and _wants_success(node):
            name = self._nodes[missing[0]].name
            if any(found == "skipped" for found in needs.values()):
                name = next(self._nodes[n].name for n, d in needs.items() if d == "skipped")
                return "skipped", f"it needs '{name}', which is skipped"
            return "depends", reason or f"it needs '{name}'"
        if node.trigger_rule in ("one_failed",) and decision == "runs":
            return "depends", "it runs as soon as one of its needs has failed"
        if decision == "runs" and place.decision == "depends":
            decision = "depends"
        return decision, reason

    def _note(
        self, index: int, decision: Decision, reason: str, after: list[str], place: _Place
    ) -> None:
        node, path = self._nodes[index], self._path(index, place)
        labels = list(place.labels)
        if isinstance(node, Task | Group):
            labels += [_text(label, place.known) for label in node.runs_on]
        labels = list(dict.fromkeys(labels))
        entry = PlannedNode(
            path=path,
            kind=_kind(node),
            decision=decision,
            reason=reason,
            title=_text(node.title, place.known) if node.title else "",
            uses=node.uses if isinstance(node, Task) else "",
            after=after,
            labels=labels if isinstance(node, Task) else [],
            line=node.position.line,
        )
        self.found.append(entry)
        inner = _Place(path, place.known, decision, tuple(labels))
        if isinstance(node, Loop):
            self._iterations(index, node, entry, inner)
        elif isinstance(node, Group) and node.call is not None:
            inner.known = _called(node, place.known)
            self.children(index, inner)
        else:
            self.children(index, inner)

    def _iterations(self, index: int, loop: Loop, entry: PlannedNode, place: _Place) -> None:
        """Note the body of a loop: once for each iteration that is known."""
        legs = None if entry.decision == "skipped" else _legs(loop, place.known)
        body = index + 1
        if isinstance(legs, str):
            entry.reason = entry.reason or legs
        if not isinstance(legs, list):
            inner = _Place(f"{place.path}[*]", place.known, entry.decision, place.labels)
            self._body(body, inner)
            return
        one = "leg" if loop.kind == "matrix" else "iteration"
        entry.reason = entry.reason or f"{len(legs)} {one}{'' if len(legs) == 1 else 's'}"
        for number, (label, values) in enumerate(legs):
            if len(self.found) >= STEPS_MAX:
                self.truncated = True
                return
            turn = {} if loop.kind == "matrix" else {"loop": {"index": number}}
            known = place.known.with_values(values | turn)
            self._body(body, _Place(f"{place.path}[{label}]", known, place.decision, place.labels))

    def _body(self, body: int, place: _Place) -> None:
        """Note what is in a loop's body, which has the loop's own path."""
        node = self._nodes[body]
        labels = place.labels
        if isinstance(node, Group):
            own = (_text(label, place.known) for label in node.runs_on)
            place.labels = tuple(dict.fromkeys((*labels, *own)))
            if node.call is not None:
                place.known = _called(node, place.known)
        self.children(body, place)


def _branch(decision: Decision, reason: str, chosen: Decision) -> tuple[Decision, str, Decision]:
    """Return the decision on a branch, and whether one is chosen behind it."""
    if chosen == "runs":
        return "skipped", "an earlier branch is taken", chosen
    if chosen == "depends" and decision == "runs":
        return "depends", "unless an earlier branch is taken", chosen
    return decision, reason, decision if decision != "skipped" else chosen


def _wants_success(node: Node) -> bool:
    """Tell whether *node* does not run when something that it needs was skipped."""
    if node.trigger_rule is not None:
        return node.trigger_rule == "all_success"
    try:
        return "success" in parse_condition(node.condition).functions()
    except ExpressionError:
        return True


def _condition(node: Node, known: _Known) -> tuple[Decision, str]:
    if not node.condition:
        return "runs", ""
    try:
        expression = parse_condition(node.condition)
        _ask_variables(expression, known)
        holds = truthy(expression.evaluate(known, _ALL_WELL))
    except _Unknown as unknown:
        return "depends", f"if: {node.condition} ('{unknown.name}' is not known yet)"
    except ExpressionError as error:
        return "depends", f"if: {node.condition} ({error.message})"
    if holds:
        return "runs", f"if: {node.condition}"
    if expression.functions() & STATUS_FUNCTIONS & {"failure", "cancelled"}:
        return "depends", f"if: {node.condition} (not as long as all goes well)"
    return "skipped", f"if: {node.condition} is false"


def _ask_variables(expression: Expression, known: _Known) -> None:
    """Raise `_Unknown` for a variable that the workflow does not declare: its namespace may."""
    declared = {name.lower() for name in known.values_by_name.get("vars", {})}
    for name in expression.properties().get("vars") or ():
        if name.lower() not in declared:
            raise _Unknown(f"vars.{name}")


def _legs(loop: Loop, known: _Known) -> list[tuple[str, dict[str, Any]]] | str:
    """Return (label, contexts) of each iteration; a text: why they are not known."""
    if loop.kind == "repeat":
        if isinstance(loop.times, int) and not loop.before and not loop.after:
            return [(str(number), {}) for number in range(loop.times)]
        return "as often as its conditions say"
    if loop.kind == "broadcast":
        return "once on every worker of its group"
    try:
        items, labels = expand_items(loop, resolve(loop.items, known, _ALL_WELL))
    except _Unknown as unknown:
        return f"its items come from '{unknown.name}', which is not known yet"
    except (ExpressionError, InvalidRequest) as error:
        return f"its items cannot be expanded: {error}"
    names = labels or [str(number) for number in range(len(items))]
    return [(name, {loop.variable.lower(): item}) for name, item in zip(names, items, strict=True)]


def _called(group: Group, known: _Known) -> _Known:
    """Return what a called workflow sees; inputs that are not known yet are unknown as a whole."""
    call = group.call
    assert call is not None
    values: dict[str, Any] = {"vars": call.vars}
    try:
        given = resolve(call.given, known, _ALL_WELL)
    except ExpressionError:
        return _Known(values)
    defaults = {name: spec.default for name, spec in call.inputs.items()}
    return _Known(values | {"inputs": {**defaults, **given}})


def _text(text: str, known: _Known) -> str:
    """Return *text*, evaluated as far as it is known."""
    if not is_expression(text):
        return text
    try:
        return str(evaluate_template(text, known, _ALL_WELL))
    except ExpressionError:
        return text


def _kind(node: Node) -> str:
    if isinstance(node, Group | Loop):
        plain = isinstance(node, Loop) and node.kind not in ("matrix", "broadcast")
        return "loop" if plain else node.kind
    return type(node).__name__.lower()
