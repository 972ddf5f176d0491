"""Random plans: everything that a run can be made of, in small."""

from __future__ import annotations

import itertools
import random
from typing import Any, get_args

import msgspec

from headrace.plan import (
    Choice,
    Concurrency,
    Group,
    Join,
    Lock,
    Loop,
    Node,
    OnFailure,
    Plan,
    Sleep,
    Subworkflow,
    Task,
    TriggerRule,
    Wait,
    encode_plan,
    validate_plan,
)
from headrace.retry import RetryPolicy
from support.sim.extras import LOCKS, Extras

HANDLER = "sim"
RUN_KEYS = {"deploy": 1, "gpu": 2}
GROUP_KEYS = {"lock": 1, "stage": 2}
"""Concurrency groups and their limits: runs hold the first, groups within runs the second, and
child runs none, so that nobody waits for what waits for him. Wherever there are two shards or
three, two of them are homes of each."""
CORRELATION_KEYS = ("", "", "k1", "k2")
DEPTH_MAX = 3
NODES_MAX = 14
ITERATIONS_MAX = 3
"""Of a repetition."""


class Spec:
    """A node before it has an index."""

    def __init__(self, made_as: type[Any], children: list[Spec], **fields: Any) -> None:
        self.made_as, self.children, self.fields = made_as, children, fields
        self.needs: list[int] = []
        """Positions among the siblings."""
        self.stops: list[int] = []
        """Likewise: those that it cancels."""
        self.handlers: dict[str, Spec] = {}
        """What is dormant beside it, by the field that names it."""


class PlanMaker:
    """Makes plans from one source of chance."""

    def __init__(
        self,
        rng: random.Random,
        *,
        keys: bool,
        jobs: bool,
        sagas: bool = False,
        generations: int = 0,
        patient: bool = True,
        nodes_max: int = NODES_MAX,
        locks: random.Random | None = None,
        extras: Extras | None = None,
        child: bool = False,
    ) -> None:
        """*generations*: how deep child runs may have child runs; *patient*: there may be waits
        that only somebody's signal ends; *locks*: steps may have locks, by a chance of their
        own, so that worlds without them stay what they are; *extras* likewise; *child*: of a
        run that another one waits for."""
        self._locks, self._extras, self._child = locks, extras, child
        self._rng = rng
        self._keys, self._jobs, self._sagas = keys, jobs, sagas
        self._generations, self._patient, self._nodes_max = generations, patient, nodes_max
        self._left = self._children_left = 0

    def plan(self, name: str) -> Plan:
        """Return a valid plan."""
        rng = self._rng
        self._left = min(rng.choice([2, 4, 8, NODES_MAX]), self._nodes_max)
        self._children_left = 2
        concurrency = None
        if self._keys and rng.random() < 0.3:
            group = rng.choice(list(RUN_KEYS))
            concurrency = Concurrency(
                group=group,
                limit=RUN_KEYS[group],
                cancel_in_progress=rng.random() < 0.15,
                queue="single" if rng.random() < 0.1 else "max",
            )
        root = Spec(Group, self._children(1, keyed=False), kind="graph")
        if self._sagas:
            add_policies(rng, root)
        if self._extras is not None:
            self._extras.decorate(root, child=self._child)
        nodes: list[Node] = []
        _flatten(root, -1, (), nodes, "")
        plan = Plan(
            name=name,
            nodes=tuple(nodes),
            concurrency=concurrency,
            timeout_ms=rng.choice([2_000, 6_000]) if rng.random() < 0.05 else None,
        )
        if self._extras is not None:
            plan = self._extras.whole(plan)
        validate_plan(plan)
        return plan

    def _children(self, depth: int, *, keyed: bool) -> list[Spec]:
        rng = self._rng
        found = [self._spec(depth, keyed=keyed)]
        while self._left > 0 and rng.random() < 0.75:
            found.append(self._spec(depth, keyed=keyed))
        for at in range(1, len(found)):
            if rng.random() < 0.6:
                found[at].needs = sorted(rng.sample(range(at), rng.randint(1, min(at, 2))))
        self._rules(found)
        return found

    def _spec(self, depth: int, *, keyed: bool) -> Spec:
        self._left -= 1
        rng = self._rng
        kinds = ["task"] * 10 + ["sleep", "wait"]
        if depth < DEPTH_MAX and self._left > 0:
            kinds += ["group", "group", "group", "loop", "loop", "choice", "sequence"]
            kinds += ["job"] * 2 if self._jobs else []
        if self._generations and self._children_left:
            kinds += ["subworkflow"] * 5
        kind = rng.choice(kinds)
        made: Spec = getattr(self, f"_{kind}")(depth, keyed)
        if rng.random() < 0.05:
            made.fields["condition"] = rng.choice(["false", "always()", "failure()", "true"])
        if rng.random() < 0.08:
            made.fields["continue_on_error"] = True
        return made

    def _rules(self, found: list[Spec]) -> None:
        """Give some of those that have needs a trigger rule."""
        for spec in found:
            if spec.needs and self._rng.random() < 0.15:
                spec.fields["trigger_rule"] = self._rng.choice(get_args(TriggerRule))

    def _task(self, depth: int = 0, keyed: bool = False, *, plain: bool = False) -> Spec:
        rng = self._rng
        draw = rng.random()
        fields: dict[str, Any] = {"uses": HANDLER}
        if draw < 0.25:
            fields["inputs"] = {"kind": "instant"}
        elif draw < 0.45:
            fields["inputs"] = {"kind": "flaky"}
            fields["retry"] = RetryPolicy(
                max_attempts=rng.randint(2, 5),
                backoff=rng.choice(["fixed", "exponential", "random"]),
                initial_ms=rng.choice([1, 50, 400]),
                max_ms=1_000,
                jitter=rng.choice([0.0, 0.5]),
            )
        elif draw < 0.48:
            fields["inputs"] = {"kind": "broken"}
        elif draw < 0.58 and not plain:
            fields["effect"] = "at-most-once"
        if rng.random() < 0.12 and not plain:
            fields["runs_on"] = ("gpu",)
        if rng.random() < 0.04:
            fields["attempt_timeout_ms"] = 400
        if rng.random() < 0.04:
            fields["schedule_timeout_ms"] = rng.choice([300, 3_000])
        if rng.random() < 0.04:
            fields["timeout_ms"] = 2_000
        if rng.random() < 0.1:
            fields["priority"] = rng.randint(-2, 2)
        if self._locks is not None and self._locks.random() < 0.5:
            fields["lock"] = Lock(name=self._locks.choice(LOCKS))
        return Spec(Task, [], **fields)

    def _sleep(self, depth: int, keyed: bool) -> Spec:
        return Spec(Sleep, [], duration_ms=self._rng.choice([1, 20, 150, 700, 1_500]))

    def _wait(self, depth: int, keyed: bool) -> Spec:
        rng = self._rng
        fields: dict[str, Any] = {"signal": rng.choice(["go", "yes"])}
        fields["correlation_key"] = rng.choice(CORRELATION_KEYS)
        if not self._patient or rng.random() < 0.4:
            fields["timeout_ms"] = rng.choice([50, 400, 2_000])
            if rng.random() < 0.7:
                fields |= {"default": {"v": 0}, "has_default": True}
        return Spec(Wait, [], **fields)

    def _subworkflow(self, depth: int, keyed: bool) -> Spec:
        """A run of its own."""
        rng = self._rng
        self._children_left -= 1
        inner = PlanMaker(
            rng,
            keys=False,
            jobs=rng.random() < 0.2,
            sagas=self._sagas and rng.random() < 0.5,
            generations=self._generations - 1,
            patient=False,
            nodes_max=3,
            extras=self._extras,
            child=True,
        ).plan(f"inner{rng.randrange(3)}")
        fields: dict[str, Any] = {"plan": encode_plan(inner)}
        if rng.random() < 0.25:
            fields["detached"] = True
        elif rng.random() < 0.15:
            fields["timeout_ms"] = rng.choice([200, 1_500])
        return Spec(Subworkflow, [], **fields)

    def _join(self) -> Join:
        rng = self._rng
        kind = rng.choice(["all", "any", "count", "percent"])
        value = {"count": rng.randint(1, 3), "percent": rng.choice([30, 50, 100])}.get(kind, 0)
        losers = rng.choice(["cancel", "detach", "await"])
        return Join(kind=kind, value=value, losers=losers)  # type: ignore[arg-type]

    def _group(self, depth: int, keyed: bool) -> Spec:
        rng = self._rng
        fields: dict[str, Any] = {"kind": rng.choice(["graph", "parallel"])}
        if rng.random() < 0.5:
            fields["join"] = self._join()
        if rng.random() < 0.06:
            fields["timeout_ms"] = rng.choice([200, 1_500])
        if self._keys and not keyed and rng.random() < 0.4:
            group = rng.choice(list(GROUP_KEYS))
            fields["concurrency"] = Concurrency(group=group, limit=GROUP_KEYS[group])
            keyed = True
        return Spec(Group, self._children(depth + 1, keyed=keyed), **fields)

    def _sequence(self, depth: int, keyed: bool) -> Spec:
        children = [self._spec(depth + 1, keyed=keyed) for _ in range(self._rng.randint(1, 3))]
        before: list[int] = []
        background: list[int] = []
        for at, spec in enumerate(children):
            spec.needs = before + [b for b in background if self._rng.random() < 0.5]
            if self._rng.random() < 0.2:
                spec.fields["background"] = True
                background.append(at)
            else:
                before = [at]
        return Spec(Group, children, kind="pipeline")

    def _job(self, depth: int, keyed: bool) -> Spec:
        rng = self._rng
        children = [self._task(plain=True) for _ in range(rng.randint(1, 3))]
        self._left -= len(children)
        for at in range(1, len(children)):
            children[at].needs = [at - 1]
        loss = rng.choice(["restart-job", "continue", "fail"])
        return Spec(Group, children, kind="job", affinity=True, on_worker_loss=loss)

    def _loop(self, depth: int, keyed: bool) -> Spec:
        rng = self._rng
        if rng.random() < 0.4:
            return self._repeat(depth, keyed)
        fields: dict[str, Any] = {"items": list(range(rng.choice([0, 1, 2, 3, 4])))}
        if rng.random() < 0.4:
            fields["max_parallel"] = rng.randint(1, 2)
        if rng.random() < 0.3:
            fields["fail_fast"] = True
        if rng.random() < 0.4:
            fields["join"] = self._join()
        return Spec(Loop, [self._spec(depth + 1, keyed=keyed)], **fields)

    def _repeat(self, depth: int, keyed: bool) -> Spec:
        fields: dict[str, Any] = {"kind": "repeat", "times": self._rng.choice([0, 1, 2, 3])}
        if self._rng.random() < 0.3:
            fields |= {"times": None, "before": "loop.index < 3"}
        if self._rng.random() < 0.3:
            fields["after"] = "loop.index == 1"
        return Spec(Loop, [self._spec(depth + 1, keyed=keyed)], **fields)

    def _choice(self, depth: int, keyed: bool) -> Spec:
        rng = self._rng
        children = [self._spec(depth + 1, keyed=keyed) for _ in range(rng.randint(1, 3))]
        for child in children:
            child.fields["condition"] = rng.choice(["true", "false", "2 > 1"])
        return Spec(Choice, children)


def add_policies(rng: random.Random, root: Spec) -> None:
    """Give some nodes of a plan what failures, cancels and lost effects lead to."""
    if rng.random() < 0.6:
        root.fields["on_failure"] = _undo(rng)
    if rng.random() < 0.5:
        root.fields["on_cancel"] = "compensate"
    _add_policies(rng, root)


def _add_policies(rng: random.Random, above: Spec) -> None:
    for spec in above.children:
        if spec.made_as is Task and above.made_as is Group:
            _add_handlers(rng, spec)
        elif spec.made_as is Group and rng.random() < 0.3:
            spec.fields["on_failure"] = _undo(rng)
        if spec.made_as in (Task, Subworkflow) and rng.random() < 0.1:
            action = rng.choice(["skip", "abort", "fail", "compensate"])
            spec.handlers.pop("on_failure", None)
            spec.fields["on_failure"] = OnFailure(action=action)  # type: ignore[arg-type]
        _add_policies(rng, spec)


def _undo(rng: random.Random) -> OnFailure:
    if rng.random() < 0.4:
        return OnFailure(action="compensate-and-retry", rounds=rng.choice([2, 3]))
    return OnFailure(action="compensate")


def _add_handlers(rng: random.Random, spec: Spec) -> None:
    """What undoes a task, decides about its failure, finds out what became of it."""
    if rng.random() < 0.6:
        spec.handlers["compensate"] = _handler(rng)
        if rng.random() < 0.2:
            spec.handlers["compensate"] = _several(rng)
    if rng.random() < 0.12:
        spec.handlers["on_failure"] = _handler(rng, "decides")
    if spec.fields.get("effect") == "at-most-once":
        found = rng.choice(["fail", "wait", "run", "run"])
        spec.fields["on_unknown"] = found
        if found == "run":
            spec.handlers["unknown_handler"] = _handler(rng, "decides")


def _several(rng: random.Random) -> Spec:
    """A compensation of more than one step."""
    steps = [_handler(rng) for _ in range(rng.randint(1, 3))]
    for at, step in enumerate(steps):
        del step.fields["dormant"]
        step.needs = [at - 1] if at else []
    return Spec(Group, steps, kind="pipeline", dormant=True)


def _handler(rng: random.Random, kind: str = "instant") -> Spec:
    fields: dict[str, Any] = {"uses": HANDLER, "dormant": True, "inputs": {"kind": kind}}
    draw = rng.random()
    if draw < 0.3:
        fields["inputs"] = {"kind": ""}
    elif draw < 0.5 and kind == "instant":
        fields["inputs"] = {"kind": "flaky"}
        fields["retry"] = RetryPolicy(max_attempts=5, backoff="fixed", initial_ms=50)
    elif draw < 0.55:
        fields["inputs"] = {"kind": "broken"}
    return Spec(Task, [], **fields)


def _flatten(spec: Spec, parent: int, needs: tuple[int, ...], nodes: list[Node], name: str) -> None:
    index = len(nodes)
    nodes.append(spec.made_as(name=name, parent=parent, needs=needs, **spec.fields))
    places: list[int] = []
    for at, child in enumerate(spec.children):
        places.append(len(nodes))
        _flatten(child, index, tuple(places[n] for n in child.needs), nodes, f"n{at}")
        named: dict[str, Any] = {}
        for field, handler in child.handlers.items():
            named[field] = len(nodes)
            _flatten(handler, index, (), nodes, f"n{at}~{field}")
        if "on_failure" in named:
            named["on_failure"] = OnFailure(action="run", handler=named["on_failure"])
        if child.stops:
            named["cancels"] = tuple(places[stopped] for stopped in child.stops)
        nodes[places[at]] = msgspec.structs.replace(nodes[places[at]], **named)
    nodes[index] = msgspec.structs.replace(nodes[index], size=len(nodes) - index)


def signals_needed(plan: Plan) -> dict[tuple[str, str], int]:
    """Return how many signals of each (name, correlation key) a run could take, iterations of
    loops included, and groups that begin anew."""
    found: dict[tuple[str, str], int] = {}
    times = [_rounds(plan.nodes[0])] * len(plan.nodes)
    for index, node in enumerate(plan.nodes):
        if index:
            above = plan.nodes[node.parent]
            items = 1
            if isinstance(above, Loop):
                items = ITERATIONS_MAX if above.items is None else len(items_of(above))
            times[index] = times[node.parent] * items * _rounds(node)
        if isinstance(node, Wait):
            place = (node.signal, node.correlation_key)
            found[place] = found.get(place, 0) + times[index]
    return found


def items_of(loop: Loop) -> list[Any]:
    """Return what a loop goes through, if its plan says so."""
    if isinstance(loop.items, dict):
        names, axes = list(loop.items), loop.items.values()
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*axes)]
    return loop.items or []


def _rounds(node: Node) -> int:
    policy = node.on_failure
    return policy.rounds if policy is not None and policy.action == "compensate-and-retry" else 1


def asks_for_more(plan: Plan) -> bool:
    """Tell whether some node may begin in a cancelled run."""
    if any(isinstance(node, Task) and node.code for node in plan.nodes):
        # Its function is asked to let go, and may undo what it did.
        return True
    return any("always" in node.condition or "failure" in node.condition for node in plan.nodes)


def drawn(plan: Plan) -> str:
    """Return a plan as text, a line a node."""
    lines = [f"plan {plan.name} concurrency={plan.concurrency} timeout={plan.timeout_ms}"]
    depth: list[int] = []
    for index, node in enumerate(plan.nodes):
        depth.append(0 if node.parent < 0 else depth[node.parent] + 1)
        fields = {
            name: getattr(node, name)
            for name in node.__struct_fields__
            if name not in ("name", "title", "parent", "size", "position", "uses", "plan")
            and getattr(node, name) not in ("", None, (), {}, False, 0)
        }
        lines.append(f"{'  ' * depth[-1]}{index} {type(node).__name__} {node.name} {fields}")
    return "\n           ".join(lines)
