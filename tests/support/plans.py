"""Plans written as nested calls, for tests: ``plan(task("a"), task("b", needs=["a"]))``.

Names stand for indexes; sequences (`job`, `pipeline`) get the needs that they must have.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from headrace.plan import (
    Cache,
    Choice,
    Concurrency,
    Group,
    Join,
    Lock,
    Loop,
    Node,
    OnFailure,
    Plan,
    RateLimit,
    Sleep,
    Subworkflow,
    Task,
    Wait,
    encode_plan,
    validate_plan,
)
from headrace.retry import RetryPolicy

SEQUENCES = ("job", "pipeline")


class Spec(NamedTuple):
    """A node that does not know its index yet."""

    make: Any
    name: str
    needs: tuple[str, ...]
    options: dict[str, Any]
    children: tuple[Spec, ...] = ()


def task(name: str, *, needs: tuple[str, ...] | list[str] = (), **options: Any) -> Spec:
    """A task of the handler `noop`, which every worker has."""
    return Spec(Task, name, tuple(needs), {"uses": "noop", **options})


def group(
    name: str, *children: Spec, needs: tuple[str, ...] | list[str] = (), **options: Any
) -> Spec:
    """A container; ``kind=`` graph (default), job, pipeline or parallel."""
    return Spec(Group, name, tuple(needs), options, children)


def job(name: str, *steps: Spec, needs: tuple[str, ...] | list[str] = (), **options: Any) -> Spec:
    """A job as on GitHub: a sequence whose steps share one worker."""
    return group(name, *steps, needs=needs, kind="job", affinity=True, **options)


def loop(
    name: str, body: Spec, items: Any, *, needs: tuple[str, ...] | list[str] = (), **options: Any
) -> Spec:
    """A `for-each` (or ``kind="matrix"``) over *items*."""
    if options.get("kind") == "matrix":
        options.setdefault("variable", "matrix")
    return Spec(Loop, name, tuple(needs), {"items": items, **options}, (body,))


def broadcast(
    name: str,
    body: Spec,
    *,
    needs: tuple[str, ...] | list[str] = (),
    **options: Any,
) -> Spec:
    """Once on each live worker that offers what the body needs."""
    fields = {"kind": "broadcast", "variable": "worker", **options}
    return Spec(Loop, name, tuple(needs), fields, (body,))


def repeat(
    name: str,
    body: Spec,
    times: Any = None,
    *,
    needs: tuple[str, ...] | list[str] = (),
    **options: Any,
) -> Spec:
    """A repetition; ``before=`` and ``after=`` are its conditions."""
    return Spec(Loop, name, tuple(needs), {"kind": "repeat", "times": times, **options}, (body,))


def choice(
    name: str, *branches: Spec, needs: tuple[str, ...] | list[str] = (), **options: Any
) -> Spec:
    """The first branch whose condition holds."""
    return Spec(Choice, name, tuple(needs), options, branches)


def wait(
    name: str, signal: str = "", *, needs: tuple[str, ...] | list[str] = (), **options: Any
) -> Spec:
    """A wait for a signal (by default of the node's name)."""
    return Spec(Wait, name, tuple(needs), {"signal": signal or name, **options})


def child(
    name: str, inner: Plan, *, needs: tuple[str, ...] | list[str] = (), **options: Any
) -> Spec:
    """A subworkflow: *inner* as a run of its own."""
    return Spec(Subworkflow, name, tuple(needs), {"plan": encode_plan(inner), **options})


def sleep(
    name: str, duration_ms: Any = None, *, needs: tuple[str, ...] | list[str] = (), **options: Any
) -> Spec:
    """A sleep of a duration (or ``until=``)."""
    return Spec(Sleep, name, tuple(needs), {"duration_ms": duration_ms, **options})


def retry(max_attempts: int = 3, **options: Any) -> RetryPolicy:
    """A policy with fixed delays of 1 s and without jitter, unless told otherwise."""
    defaults: dict[str, Any] = {"backoff": "fixed", "initial_ms": 1_000, "jitter": 0.0}
    return RetryPolicy(max_attempts=max_attempts, **{**defaults, **options})


def join(kind: str, value: int = 0, losers: str = "cancel") -> Join:
    """A join policy."""
    return Join(kind=kind, value=value, losers=losers)  # type: ignore[arg-type]


def key(name: str, **options: Any) -> Concurrency:
    """A concurrency block."""
    return Concurrency(group=name, **options)


def lock(name: str, **options: Any) -> Lock:
    """A lock."""
    return Lock(name=name, **options)


def rate(key: str, limit: int, per_ms: int, **options: Any) -> RateLimit:
    """A rate limit."""
    return RateLimit(key=key, limit=limit, per_ms=per_ms, **options)


def cached(key: str, **options: Any) -> Cache:
    """A cached result."""
    return Cache(key=key, **options)


def policy(action: str, **options: Any) -> OnFailure:
    """What follows a failure."""
    return OnFailure(action=action, **options)  # type: ignore[arg-type]


_HANDLERS = {"compensate": "compensate", "on_failure": "handler", "reconcile": "unknown_handler"}


def _with_dormant(children: tuple[Spec, ...]) -> list[Spec]:
    """Put what steps name as specs (`compensate`, `on_failure`, `reconcile`) behind them."""
    found: list[Spec] = []
    for child in children:
        found.append(child)
        for option in _HANDLERS:
            handler = child.options.get(option)
            if isinstance(handler, Spec):
                options = {**handler.options, "dormant": True}
                found.append(handler._replace(name=f"{child.name}~{option}", options=options))
    return found


def _named(spec: Spec, indexes: dict[str, int]) -> dict[str, Any]:
    """Return the options of *spec*, handlers and what it cancels by their index."""
    options = dict(spec.options)
    if "cancels" in options:
        options["cancels"] = tuple(indexes[name] for name in options["cancels"])
    for option in _HANDLERS:
        if not isinstance(options.get(option), Spec):
            continue
        del options[option]
        index = indexes[f"{spec.name}~{option}"]
        if option == "compensate":
            options["compensate"] = index
        elif option == "on_failure":
            options["on_failure"] = policy("run", handler=index)
        else:
            options |= {"on_unknown": "run", "unknown_handler": index}
    return options


def plan(
    *children: Spec, name: str = "test", root: dict[str, Any] | None = None, **options: Any
) -> Plan:
    """A validated plan whose root is a graph of *children*; *root*: options of the root group."""
    nodes: list[Node] = []
    _add(nodes, Spec(Group, "", (), root or {}, children), -1, ())
    found = Plan(name=name, nodes=tuple(nodes), dialect=options.pop("dialect", "tasks"), **options)
    validate_plan(found)
    return found


def _add(
    nodes: list[Any],
    spec: Spec,
    parent: int,
    needs: tuple[int, ...],
    around: dict[str, int] | None = None,
) -> int:
    index = len(nodes)
    nodes.append(None)
    children = _with_dormant(spec.children)
    indexes: dict[str, int] = {}
    # Siblings may be needed before they are numbered, so sizes come first.
    at = index + 1
    for child in children:
        indexes[child.name] = at
        at += _size(child)
    sequence = spec.options.get("kind") in SEQUENCES and spec.make is Group
    before: tuple[int, ...] = ()
    for child in children:
        if child.options.get("dormant"):
            _add(nodes, child, index, (), indexes)
            continue
        found = tuple(indexes[name] for name in child.needs)
        # In a sequence the needs are background steps before it, beside the last other one.
        if sequence:
            found = before + tuple(need for need in found if need not in before)
        own = _add(nodes, child, index, found, indexes)
        if not child.options.get("background"):
            before = (own,)
    nodes[index] = spec.make(
        name=spec.name,
        parent=parent,
        size=len(nodes) - index,
        needs=needs,
        **_named(spec, around or {}),
    )
    return index


def _size(spec: Spec) -> int:
    return 1 + sum(_size(child) for child in _with_dormant(spec.children))


def chain(length: int, **options: Any) -> Plan:
    """``t0 → t1 → …``"""
    return plan(
        *(task(f"t{i}", needs=[f"t{i - 1}"] if i else [], **options) for i in range(length)),
        name="chain",
    )
