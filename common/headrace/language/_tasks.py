"""The `tasks:` dialect: a list of tasks, ordered by `depends_on` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.language._contexts import STEP, STEP_IF, STEP_NAME, STEP_WORK
from headrace.language._control import (
    APPROVAL_KEYS,
    IF_KEYS,
    LOOP_KEYS,
    SLEEP_KEYS,
    SUBWORKFLOW_KEYS,
    WAIT_KEYS,
    Control,
)
from headrace.language._draft import Draft
from headrace.language._faults import STEP_FAULT_KEYS, Faults, Inherited
from headrace.language._gates import GATE_KEYS, read_gates
from headrace.language._handlers import INPUT_ALIASES, TASK_TYPE_ALIASES
from headrace.language._parts import Handlers, read_trigger_rule
from headrace.language._placement import WORKER, broadcast, read_placement, read_sticky
from headrace.language._reader import Reader, shape
from headrace.language._report import Place, did_you_mean
from headrace.language._scope import Known, Scope
from headrace.language._steps import task_fields
from headrace.language._uses import FindPlan
from headrace.language._values import Names, is_identifier, slug
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Sequence, Tree
from headrace.plan import Group, Task
from headrace.retry import RetryPolicy

_COMMON = frozenset(
    ("name", "title", "description", "type", "depends-on", "needs", "if", "continue-on-error",
     "timeout", "timeout-minutes", "config", "trigger-rule")
)  # fmt: skip
TASK = _COMMON | {
    "with", "env", "retry", "effect", "priority", "heartbeat-timeout", "schedule-timeout",
    "attempt-timeout", "runs-on", "sticky", "cache", *GATE_KEYS, *STEP_FAULT_KEYS,
}  # fmt: skip
_BODY = frozenset(("tasks", "steps"))
_GROUP = _COMMON | _BODY | {"env", "join", "losers", "runs-on", "sticky", "on-failure", *GATE_KEYS}
_SETTINGS = _BODY | {"env", "join", "losers"}
"""Of a group, beside `type` or under `config`."""
CONTROL: Mapping[str, frozenset[str]] = {
    "parallel": _GROUP,
    "pipeline": _GROUP,
    "group": _GROUP,
    "loop": _COMMON | _BODY | set(LOOP_KEYS),
    "choose": _COMMON | {"choose", "branches"},
    "condition": _COMMON | set(IF_KEYS),
    "if": _COMMON | set(IF_KEYS),
    "wait": _COMMON | set(WAIT_KEYS),
    "wait-for": _COMMON | set(WAIT_KEYS),
    "approval": _COMMON | set(APPROVAL_KEYS) - {"name"},
    "sleep": _COMMON | set(SLEEP_KEYS),
    "subworkflow": _COMMON | set(SUBWORKFLOW_KEYS),
}
_KEYS = TASK.union(*CONTROL.values())
_ACTIONS = {"wait": "wait-for"}
"""Types whose settings `Control` reads under another name."""
_CONDITIONAL = ("if", "condition")
"""Types whose `if` chooses what is in them; a `condition` may have one of its own."""
_WAITING = ("wait", "wait-for", "approval")
"""Types whose `timeout` is that of the wait; it may have a `default`."""


class Tasks:
    """Reads the tasks of one workflow. *known* collects their names, for references to them."""

    def __init__(
        self,
        reader: Reader,
        handlers: Handlers,
        known: Known,
        find: FindPlan,
        faults: Inherited,
        retry: RetryPolicy | None,
    ) -> None:
        self._reader = reader
        self._handlers = handlers
        self._known = known
        self._control = Control(reader, self._body, find, sequence=False)
        self._retry = retry
        self._faults = Faults(reader, faults, self._one, self.read)

    def read(self, node: Tree, what: str, scope: Scope) -> list[Draft]:
        """Return the tasks in a list (or a mapping by name); at least one."""
        reader = self._reader
        if isinstance(node, MappingNode):
            named = [(name, item) for name, item in node.entries.items()]
        else:
            named = [("", item) for item in reader.sequence(node, what)]
        if not named and (isinstance(node, (Sequence, MappingNode)) or shape(node) == "nothing"):
            reader.report.add(f"{what} needs at least one task", node)
        taken = Names()
        drafts: list[Draft] = []
        for index, (name, item) in enumerate(named):
            draft = self._task(item, name, f"{what}[{index}]", scope, taken)
            if draft is not None:
                drafts.append(draft)
                drafts += draft.handlers.values()
        return drafts

    def _one(self, node: Tree, segment: str, what: str, scope: Scope) -> Draft | None:
        """Read a task that nothing names: what handles a failure."""
        known = dict(self._known)
        draft = self._task(node, "handler", what, scope, Names())
        self._known.clear()
        self._known.update(known)
        return draft

    def _body(
        self, node: Tree, entries: Mapping[str, Tree], what: str, scope: Scope
    ) -> list[Draft]:
        found = [key for key in ("tasks", "steps") if key in entries]
        if len(found) != 1:
            self._reader.report.add(f"{what} needs 'tasks' (or 'steps', in order)", node)
            return []
        return self.read(entries[found[0]], f"{what}.{found[0]}", scope)

    def _task(self, node: Tree, name: str, what: str, scope: Scope, taken: Names) -> Draft | None:
        reader = self._reader
        if not isinstance(node, MappingNode):
            reader.report.add(f"{what} must be a mapping, not {shape(node)}", node)
            return None
        entries = self._entries(node, what)
        name = self._name(node, entries, name, what, taken)
        what = f"task '{name}'"
        kind = reader.text(entries.get("type"), f"{what}: type")
        if not kind:
            hint = "http, script, shell, another handler, or parallel, loop, wait, …"
            reader.report.add(f"{what} needs a 'type'", node, hint)
        needs = self._needs(entries, what)
        scope = scope.with_known(needs={need.lower(): need for need, _ in needs})
        control = CONTROL.get(kind)
        for key in entries.keys() - (control or TASK) if kind else ():
            reader.report.add(f"'{key}' does not go with 'type: {kind}'", self._key(node, key))
        place = entries.get("runs-on") if "runs-on" in (control or TASK) else None
        placement = read_placement(reader, place, f"{what}: runs-on", scope.at(STEP_WORK))
        outside = scope
        if placement.broadcast is not None:
            scope = scope.with_variable(WORKER)
        if control is None:
            draft = self._handler(kind, node, entries, name, what, scope)
        elif kind in ("parallel", "pipeline", "group"):
            draft = self._group(kind, node, entries, name, what, scope)
        else:
            draft = self._controlled(kind, control, node, entries, name, what, scope)
        if placement.labels:
            draft.fields["runs_on"] = placement.labels
        if "sticky" in (control or TASK):
            wish = entries.get("sticky")
            draft.fields |= read_sticky(reader, wish, f"{what}: sticky", scope.at(STEP))
        draft.needs = needs
        rule = entries.get("trigger-rule")
        draft.fields |= read_trigger_rule(reader, rule, f"{what}: trigger-rule", needs)
        spread = placement.broadcast is not None
        self._condition(draft, entries, what, outside, on_worker=not spread)
        self._common(draft, entries, what, scope)
        self._faults.read(draft, entries, what, scope)
        return broadcast(draft, placement)

    def _entries(self, node: MappingNode, what: str) -> dict[str, Tree]:
        """Return the entries by their key with hyphens; ``depends_on`` is ``depends-on``."""
        entries: dict[str, Tree] = {}
        for key, value in node.entries.items():
            spelled = key.replace("_", "-")
            if spelled not in _KEYS:
                hint = did_you_mean(spelled, _KEYS) or "keys: " + ", ".join(sorted(TASK))
                self._reader.report.add(f"unknown key '{key}' in {what}", node.keys[key], hint)
            elif spelled in entries:
                self._reader.report.add(f"duplicate key '{key}'", node.keys[key])
            else:
                entries[spelled] = value
        return entries

    def _key(self, node: MappingNode, key: str) -> Place:
        """Return where *key* stands, however its hyphens are written."""
        return next(place for text, place in node.keys.items() if text.replace("_", "-") == key)

    def _name(
        self,
        node: MappingNode,
        entries: Mapping[str, Tree],
        key: str,
        what: str,
        taken: Names,
    ) -> str:
        reader = self._reader
        place: Tree = entries.get("name", node)
        name = key or reader.text(entries.get("name"), f"{what}.name")
        if not name:
            reader.report.add(f"{what} needs a 'name'", node)
        elif not is_identifier(name):
            near = slug(name).replace("-", "_")
            hint = f"write 'name: {near}' and 'title: {name}'" if is_identifier(near) else ""
            reader.report.add(f"'{name[:80]}' cannot be the name of a task", place, hint)
        elif not taken.claim(name):
            reader.report.add(f"duplicate task '{name}'", place)
        else:
            self._known[name.lower()] = name
            return name
        return taken.derive("task")

    def _needs(self, entries: Mapping[str, Tree], what: str) -> list[tuple[str, Place]]:
        found: list[tuple[str, Place]] = []
        for key in ("depends-on", "needs"):
            if key in entries:
                found += self._reader.placed_texts(entries[key], f"{what}: {key}")
        return found

    def _condition(
        self, draft: Draft, entries: Mapping[str, Tree], what: str, scope: Scope, *, on_worker: bool
    ) -> None:
        """Read `if`; a worker is asked about a task's, unless it decides whether workers are."""
        place = scope.at(STEP_IF if draft.struct is Task and on_worker else STEP)
        condition = self._reader.condition(entries.get("if"), f"{what}: if", place)
        if condition:
            draft.fields["condition"] = condition

    def _common(self, draft: Draft, entries: Mapping[str, Tree], what: str, scope: Scope) -> None:
        reader, fields = self._reader, draft.fields
        title = reader.text(entries.get("title"), f"{what}: title", scope.at(STEP_NAME))
        if title:
            fields["title"] = title
        reader.text(entries.get("description"), f"{what}: description")
        scope = scope.at(STEP)
        if "continue-on-error" in entries:
            fields["continue_on_error"] = reader.flag(
                entries["continue-on-error"], f"{what}: continue-on-error", scope
            )
        timeout: int | str | None = None
        if "timeout-minutes" in entries:
            timeout = reader.minutes(entries["timeout-minutes"], f"{what}: timeout-minutes", scope)
        elif "timeout" in entries and "timeout_ms" not in fields:
            timeout = reader.duration(entries["timeout"], f"{what}: timeout")
        if timeout is not None:
            fields["timeout_ms"] = timeout

    def _handler(
        self,
        kind: str,
        node: MappingNode,
        entries: Mapping[str, Tree],
        name: str,
        what: str,
        scope: Scope,
    ) -> Draft:
        reader, scope = self._reader, scope.at(STEP_WORK)
        uses = kind if kind in self._handlers else TASK_TYPE_ALIASES.get(kind, kind)
        aliases = INPUT_ALIASES.get(uses, {})
        config = entries.get("config") or entries.get("with")
        inputs: dict[str, Any] = {}
        if config is not None:
            reader.mapping(config, f"{what}: config")
            if isinstance(config, MappingNode):
                given = reader.json(config, f"{what}: config", scope)
                inputs = {aliases.get(key, key): value for key, value in given.items()}
        if kind:
            short = TASK_TYPE_ALIASES
            self._handlers.check(reader, uses, config, entries["type"], short=short)
        fields = task_fields(reader, entries, what, scope, self._retry)
        return Draft(Task, name, node, uses=uses, inputs=inputs, **fields)

    def _group(
        self,
        kind: str,
        node: MappingNode,
        entries: Mapping[str, Tree],
        name: str,
        what: str,
        scope: Scope,
    ) -> Draft:
        reader = self._reader
        entries = self._beside(entries, what)
        kind = "graph" if kind == "group" else kind
        if kind != "parallel" and "steps" in entries:
            kind = "pipeline"
        draft = Draft(Group, name, node, kind=kind, join=self._control.join(entries, what))
        if "env" in entries:
            draft.fields["env"] = reader.environment(entries["env"], f"{what}: env", scope)
        draft.fields |= read_gates(reader, entries, what, scope.at(STEP))
        draft.children = self._body(node, entries, what, scope)
        if draft.in_sequence:
            self._refuse_needs(draft.children, kind)
        return draft

    def _beside(self, entries: Mapping[str, Tree], what: str) -> Mapping[str, Tree]:
        """Return *entries* with what stands under `config`, as all control nodes have it."""
        config = entries.get("config")
        if not isinstance(config, MappingNode):
            if config is not None and shape(config) != "nothing":
                self._reader.mapping(config, f"{what}: config")
            return entries
        found = dict(entries)
        for key, value in config.entries.items():
            spelled = key.replace("_", "-")
            if spelled not in _SETTINGS:
                hint = did_you_mean(spelled, _SETTINGS) or "keys: " + ", ".join(sorted(_SETTINGS))
                text = f"unknown key '{key}' in {what}: config"
                self._reader.report.add(text, config.keys[key], hint)
            elif spelled in entries:
                self._reader.report.add(f"'{key}' stands beside 'config' too", config.keys[key])
            else:
                found[spelled] = value
        return found

    def _refuse_needs(self, children: list[Draft], kind: str) -> None:
        for child in children:
            for _, place in child.needs:
                self._reader.report.add(f"tasks in a {kind} run in order: no 'depends_on'", place)
            child.needs = []

    def _conditional(
        self,
        settings: MappingNode,
        node: MappingNode,
        entries: dict[str, Tree],
        name: str,
        what: str,
        scope: Scope,
    ) -> Draft:
        """Read `if`, `then`, `elif`, `else`, beside `type` or under `config`."""
        found = self._reader.mapping(settings, what, ("if", *IF_KEYS))
        if "if" not in found and "if" in entries:
            # It is the branch's, not the node's own.
            found["if"] = entries.pop("if")
        return self._control.conditional(node, found, name, what, scope.at(STEP))

    def _controlled(
        self,
        kind: str,
        allowed: frozenset[str],
        node: MappingNode,
        entries: dict[str, Tree],
        name: str,
        what: str,
        scope: Scope,
    ) -> Draft:
        """Read a control node whose settings stand beside `type` or under `config`."""
        config = entries.get("config")
        settings = MappingNode(node.line, node.column)
        for key, value in entries.items():
            if key in allowed - _COMMON or (key == "timeout" and kind in _WAITING):
                settings.entries[key] = value
                settings.keys[key] = Scalar(key, key, value.line, value.column)
        if isinstance(config, MappingNode):
            for key, value in config.entries.items():
                spelled = key.replace("_", "-")
                settings.entries[spelled] = value
                settings.keys[spelled] = config.keys[key]
        elif config is not None and shape(config) != "nothing":
            self._reader.mapping(config, f"{what}: config")
        action = _ACTIONS.get(kind, kind)
        body: Tree = settings
        if kind in _CONDITIONAL:
            return self._conditional(settings, node, entries, name, what, scope)
        if kind == "choose":
            found = settings.entries.get("choose") or settings.entries.get("branches")
            if found is None:
                self._reader.report.add(f"{what} needs 'branches'", node)
                return Draft(Group, name, node)
            body = found
        draft = self._control.read(action, body, name, what, scope.at(STEP))
        draft.place = node
        return draft
