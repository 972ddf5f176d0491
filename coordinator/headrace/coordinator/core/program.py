"""A plan made ready to run: everything about a node that does not change from run to run.

Node indexes are those of the plan. A run numbers its *instances*: the static ones as the plan
does, those of a loop's iterations behind them, each iteration a copy of the loop's body slice.
Rules here: read-only after construction; no state of any run.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.deferral import is_always_the_workers
from headrace.coordinator.core.gate import CACHE, LOCK, RATE
from headrace.expressions import Expression, parse
from headrace.messages import TaskOptions, subjects
from headrace.plan import (
    Choice,
    Group,
    Loop,
    Node,
    OnFailure,
    Plan,
    Sleep,
    Subworkflow,
    Task,
    TriggerRule,
    Wait,
    decode_plan,
    is_expression,
    plan_digest,
)

TASK: Final = 0
GROUP: Final = 1
LOOP: Final = 2
CHOICE: Final = 3
WAIT: Final = 4
SLEEP: Final = 5
CHILD: Final = 6

_KINDS: dict[type, int] = {
    Task: TASK,
    Group: GROUP,
    Loop: LOOP,
    Choice: CHOICE,
    Wait: WAIT,
    Sleep: SLEEP,
    Subworkflow: CHILD,
}
STATUS_FUNCTIONS: Final = frozenset({"success", "failure", "cancelled", "always"})

_encode = msgspec.msgpack.Encoder().encode
_ordered = msgspec.msgpack.Encoder(order="deterministic").encode
"""For comparing: the order of keys says nothing."""


class PlainTask(NamedTuple):
    """A task whose way from enabled to dispatched has no questions in it: most are like that.

    No condition, rule, job, gate, preference, expression or deadline; what is sent is known here.
    """

    lane: str
    capabilities: tuple[str, ...]
    priority: int
    inputs: msgspec.Raw
    options: TaskOptions


class Program:
    """One plan in one namespace; shared by all its runs."""

    __slots__ = (
        "after",
        "asks_at_entry",
        "before",
        "brief",
        "broadcasts",
        "builtin",
        "capabilities",
        "children",
        "code",
        "compensates",
        "compensation",
        "condition",
        "dependents",
        "digest",
        "fed",
        "gates",
        "implied",
        "job",
        "kind",
        "lane",
        "leaves",
        "names",
        "namespace",
        "nodes",
        "options",
        "parent",
        "path",
        "plain",
        "plan",
        "policies",
        "raw_inputs",
        "roots",
        "rule",
        "sequence",
        "size",
        "status_template",
        "sticky",
        "subplans",
        "timed",
        "undoes",
        "waiting_template",
    )

    def __init__(self, plan: Plan, digest: str, namespace: str, builtin: frozenset[str]) -> None:
        """Compile *plan* for *namespace*; *builtin* are the handlers that every worker has."""
        nodes: Sequence[Node] = plan.nodes
        self.plan, self.digest, self.namespace = plan, digest, namespace
        self.nodes, self.size, self.builtin = nodes, len(nodes), builtin
        self.kind = bytes(_KINDS[type(node)] for node in nodes)
        self.parent = [node.parent for node in nodes]
        self._family()
        self.names = self._names()
        """For each container: lower-case name -> child, or a node further in."""
        self.roots = [tuple(c for c in found if not nodes[c].needs) for found in self.children]
        self.waiting_template = array("I", (len(node.needs) for node in nodes))
        self.sequence = bytes(
            isinstance(parent, Group) and parent.kind in ("job", "pipeline")
            for parent in (nodes[node.parent] if node.parent >= 0 else None for node in nodes)
        )
        self.condition = [parse(node.condition) if node.condition else None for node in nodes]
        self.implied = bytes(
            condition is None or not (condition.functions() & STATUS_FUNCTIONS)
            for condition in self.condition
        )
        self.before, self.after = self._repetitions()
        """For the repetitions that have them: conditions before and after each iteration."""
        self._few()
        self.subplans = self._subplans()
        """For each subworkflow: (digest, plan)."""
        self.compensation = {
            index: node.compensate
            for index, node in enumerate(nodes)
            if isinstance(node, Task) and node.compensate >= 0
        }
        """Step -> what undoes it."""
        self.undoes = self._undoing()
        """1 for what is part of a compensation."""
        self.compensates = bool(self.compensation) or any(
            node.on_failure is not None and node.on_failure.action == "compensate-and-retry"
            for node in nodes
        )
        self.timed = frozenset(
            index
            for index, node in enumerate(nodes)
            if isinstance(node, Task)
            and (node.timeout_ms or (node.retry is not None and node.retry.max_elapsed_ms))
        )
        """Tasks whose time is counted from their first attempt on."""
        self.job = self._jobs()
        self.policies = self._policies()
        """Node -> (what follows when it fails for good, the group that `compensate` is about)."""
        self.path = self._paths()
        self.status_template = self._statuses()
        self.fed = bytes(
            isinstance(node, Task)
            and plan.dialect == "tasks"
            and node.uses == "script"
            and bool(node.needs)
            and "input_data" not in node.inputs
            for node in nodes
        )
        """Scripts that read the results of what they depend on."""
        self._tasks()

    def _tasks(self) -> None:
        """What a task message needs, and which tasks are plain."""
        self.capabilities: list[tuple[str, ...] | None] = []
        self.lane: list[str] = []
        self.raw_inputs: list[msgspec.Raw | None] = []
        self.options: list[TaskOptions | None] = []
        for index, node in enumerate(self.nodes):
            self._task(index, node)
        self.plain = [self._plain_task(index, node) for index, node in enumerate(self.nodes)]
        """For each task that is one, what makes it plain; the long way decides the same of it."""
        self.brief = self._is_brief()
        """It is one workflow function, or one plain task, and nothing else: see `whole`."""

    def _few(self) -> None:
        """What few nodes have."""
        self.gates = self._gates()
        """What some nodes need before they begin: bits, see `gate`."""
        nodes = self.nodes
        self.rule: dict[int, TriggerRule] = {
            i: node.trigger_rule for i, node in enumerate(nodes) if node.trigger_rule is not None
        }
        """Trigger rules."""
        self.broadcasts = frozenset(
            i for i, node in enumerate(nodes) if isinstance(node, Loop) and node.kind == "broadcast"
        )
        """Loops whose iterations are the workers of a group."""
        self.code = next(
            (i for i, node in enumerate(nodes) if isinstance(node, Task) and node.code), -1
        )
        """The task that is a workflow function; -1: none."""
        self.sticky = self._sticky()
        """Tasks that prefer a worker -> the key."""
        self.asks_at_entry = bool(
            self.plan.run_name or self.plan.concurrency or self.plan.rate_limit
        )
        """Whether a new run has a title to be made, or something to wait for."""
        self.leaves = tuple(
            c for found in self.children[:1] for c in found if not self.dependents[c]
        )
        """The nodes of the root that nothing needs."""

    def _sticky(self) -> dict[int, str]:
        keys: dict[int, str] = {}
        for index, node in enumerate(self.nodes):
            own = node.sticky if isinstance(node, Task | Group) else ""
            if own or node.parent in keys:
                keys[index] = own or keys[node.parent]
        return {at: key for at, key in keys.items() if isinstance(self.nodes[at], Task)}

    def _family(self) -> None:
        """Who needs whom, and who is inside of whom."""
        nodes = self.nodes
        dependents: list[list[int]] = [[] for _ in nodes]
        children: list[list[int]] = [[] for _ in nodes]
        for index, node in enumerate(nodes):
            for need in node.needs:
                dependents[need].append(index)
            if node.parent >= 0 and not node.dormant:
                children[node.parent].append(index)
        self.dependents = [tuple(found) for found in dependents]
        self.children = [tuple(found) for found in children]

    def _jobs(self) -> list[int]:
        """For each node the nearest ancestor (or itself) with affinity, or -1."""
        jobs: list[int] = []
        for index, node in enumerate(self.nodes):
            if isinstance(node, Group) and node.affinity:
                jobs.append(index)
            elif self.undoes[index]:
                # It may run long after its job, whose workspace is gone by then.
                jobs.append(-1)
            elif index in self.broadcasts:
                # What is inside runs on workers of its own.
                jobs.append(-1)
            else:
                jobs.append(jobs[node.parent] if node.parent >= 0 else -1)
        return jobs

    def _names(self) -> list[dict[str, int]]:
        """For each container the names of its children; and of what is inside them, if it is there
        once for each of the container: so not inside loops, jobs and called workflows."""
        nodes = self.nodes
        names = [{nodes[c].name.lower(): c for c in found} for found in self.children]
        for index in range(len(nodes) - 1, 0, -1):
            node = nodes[index]
            if node.dormant:
                continue
            if isinstance(node, Choice) or (
                isinstance(node, Group) and not node.affinity and node.call is None
            ):
                above = names[node.parent]
                for name, inner in names[index].items():
                    above.setdefault(name, inner)
        return names

    def _subplans(self) -> dict[int, tuple[str, Plan]]:
        found: dict[int, tuple[str, Plan]] = {}
        for index, node in enumerate(self.nodes):
            if isinstance(node, Subworkflow):
                plan = decode_plan(node.plan)
                found[index] = plan_digest(plan), plan
        return found

    def _repetitions(self) -> tuple[dict[int, Expression], dict[int, Expression]]:
        before: dict[int, Expression] = {}
        after: dict[int, Expression] = {}
        for index, node in enumerate(self.nodes):
            if isinstance(node, Loop):
                if node.before:
                    before[index] = parse(node.before)
                if node.after:
                    after[index] = parse(node.after)
        return before, after

    def _undoing(self) -> bytes:
        found = bytearray(self.size)
        for index in self.compensation.values():
            size = self.nodes[index].size
            found[index : index + size] = b"\1" * size
        return bytes(found)

    def _gates(self) -> dict[int, int]:
        found = {
            index: (LOCK if node.lock is not None else 0)
            | (RATE if node.rate_limit is not None else 0)
            | (CACHE if isinstance(node, Task) and node.cache is not None else 0)
            for index, node in enumerate(self.nodes)
            if isinstance(node, Task | Group)
        }
        return {index: wanted for index, wanted in found.items() if wanted}

    def content_digest(self, index: int) -> str:
        """Return a digest of what the task at *index* does, as it is written: its handler, inputs
        and `env`."""
        task = self.nodes[index]
        assert isinstance(task, Task)
        content = _ordered([task.uses, task.inputs, task.env])
        return hashlib.blake2b(content, digest_size=12).hexdigest()

    def _policies(self) -> dict[int, tuple[OnFailure, int]]:
        """Each node's own policy, else that of what is around it; none in what handles failures."""
        found: dict[int, tuple[OnFailure, int]] = {}
        silent = 0
        for index, node in enumerate(self.nodes):
            if node.dormant:
                silent = max(silent, index + node.size)
            if index < silent:
                continue
            own = node.on_failure
            if own is not None:
                scope = index if isinstance(node, Group) else max(self.job[index], 0)
                found[index] = (own, scope)
            elif node.parent in found:
                found[index] = found[node.parent]
        return found

    def _paths(self) -> list[str]:
        """Paths below the root, or below the loop body that holds the node ("" for the body)."""
        paths: list[str] = []
        for node in self.nodes:
            parent = node.parent
            if parent < 0 or self.kind[parent] == LOOP:
                paths.append("")
            else:
                above = paths[parent]
                paths.append(f"{above}/{node.name}" if above else node.name)
        return paths

    def _statuses(self) -> bytearray:
        return self.body_template(0)[0]

    def body_template(self, body: int) -> tuple[bytearray, array[int]]:
        """Return fresh (statuses, waiting counts) for the node *body* and what is below it.

        No instance before something happens is a loop's body, and what is dormant.
        """
        size = self.nodes[body].size
        statuses = bytearray(size)
        for index in range(body, body + size):
            dormant = index > body and self.nodes[index].dormant
            if dormant or self.kind[index] == LOOP:
                first = index - body + (0 if dormant else 1)
                last = index - body + self.nodes[index].size
                statuses[first:last] = bytes([status.TEMPLATE]) * (last - first)
        return statuses, self.waiting_template[body : body + size]

    def _task(self, index: int, node: Node) -> None:
        """Precompute what a task message needs, where no expression is in the way."""
        if not isinstance(node, Task):
            self.capabilities.append(None)
            self.lane.append("")
            self.raw_inputs.append(None)
            self.options.append(None)
            return
        needed = self.needed_capabilities(index)
        fixed = not any(is_expression(label) for label in needed)
        self.capabilities.append(needed if fixed else None)
        self.lane.append(subjects.lane_of(self.namespace, needed) if fixed else "")
        self.raw_inputs.append(
            None
            if self.fed[index] or has_expression(node.inputs)
            else msgspec.Raw(_encode(node.inputs))
        )
        plain = (
            self.job[index] < 0
            and not node.env
            and not self.plan.env
            and not node.timeout_ms
            and not self._inherited_env(index)
            and not is_expression(node.title)
            and not self._is_asked_of_the_worker(index)
        )
        self.options.append(self._plain_options(node) if plain else None)

    def _plain_task(self, index: int, node: Node) -> PlainTask | None:
        capabilities = self.capabilities[index]
        raw, options = self.raw_inputs[index], self.options[index]
        if (
            not isinstance(node, Task)
            or capabilities is None
            or raw is None
            or options is None
            or options.at_most_once
            or node.dormant
            or node.code
            or node.schedule_timeout_ms
            or self.condition[index] is not None
            or self.job[index] >= 0
            or self.undoes[index]
            or self.broadcasts
            or any(index in few for few in (self.rule, self.gates, self.sticky))
            or (node.parent >= 0 and self.kind[node.parent] == CHOICE)
        ):
            return None
        return PlainTask(self.lane[index], capabilities, node.priority, raw, options)

    def _is_brief(self) -> bool:
        plan, root, task = self.plan, self.nodes[0], self.nodes[-1]
        if self.size != 2 or not isinstance(task, Task) or self.asks_at_entry:
            return False
        assert isinstance(root, Group)
        if root != Group(name=root.name, size=2, cancel_timeout_ms=root.cancel_timeout_ms):
            return False
        if plan.timeout_ms or plan.fairness_key or (task.code and plan.inputs):
            return False
        if task.code:
            fixed = (self.capabilities[1], self.raw_inputs[1], self.options[1])
            bare = Task(name=task.name, parent=0, uses=task.uses, runs_on=task.runs_on, code=True)
            return task == bare and None not in fixed
        bare = Task(
            name=task.name,
            title=task.title,
            parent=0,
            uses=task.uses,
            inputs=task.inputs,
            runs_on=task.runs_on,
            retry=task.retry,
            priority=task.priority,
            attempt_timeout_ms=task.attempt_timeout_ms,
            heartbeat_timeout_ms=task.heartbeat_timeout_ms,
        )
        return task == bare and self.plain[1] is not None

    def _is_asked_of_the_worker(self, index: int) -> bool:
        condition = self.condition[index]
        return condition is not None and is_always_the_workers(condition)

    def _inherited_env(self, index: int) -> bool:
        parent = self.nodes[index].parent
        while parent >= 0:
            node = self.nodes[parent]
            if isinstance(node, Group) and node.env:
                return True
            parent = node.parent
        return False

    def _plain_options(self, node: Task) -> TaskOptions:
        return TaskOptions(
            timeout_ms=node.attempt_timeout_ms or 0,
            heartbeat_timeout_ms=node.heartbeat_timeout_ms or 0,
            at_most_once=node.effect == "at-most-once",
            title=node.title,
            workflow=self.plan.name,
        )

    def needed_capabilities(self, index: int) -> tuple[str, ...]:
        """Return the labels that the task at *index* needs (expressions as they stand), sorted.

        A handler that is not built in is a capability too: ``uses:<name>``. Of a broadcast: what
        makes a worker one of its group.
        """
        labels: set[str] = set()
        node = self.nodes[index]
        if isinstance(node, Task) and node.uses not in self.builtin:
            labels.add(f"uses:{node.uses}")
        at = index + 1 if index in self.broadcasts else index
        while at >= 0:
            node = self.nodes[at]
            if isinstance(node, Task | Group):
                labels.update(node.runs_on)
            at = node.parent
        return tuple(sorted(labels))


def has_expression(value: object) -> bool:
    """Tell whether a JSON *value* holds an expression anywhere."""
    if isinstance(value, str):
        return "${{" in value
    if isinstance(value, dict):
        return any(has_expression(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(has_expression(item) for item in value)
    return False
