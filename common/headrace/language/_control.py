"""Control nodes of both dialects: loop, choice, wait, approval, sleep. Bodies come from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from headrace.language._contexts import ALL
from headrace.language._draft import Draft
from headrace.language._parts import read_join
from headrace.language._reader import Reader, shape
from headrace.language._scope import Scope
from headrace.language._uses import FindPlan, check_given, embedded
from headrace.language._values import is_identifier
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Sequence, Tree
from headrace.plan import (
    Choice,
    Group,
    Join,
    Loop,
    Sleep,
    Subworkflow,
    Wait,
)
from headrace.plan._validate import ITERATIONS_MAX

Body = Callable[[Tree, Mapping[str, Tree], str, Scope], list[Draft]]

_FORMS = ("for-each", "while", "until", "repeat")
_EACH_KEYS = ("as", "max-parallel", "fail-fast", "join", "losers")
LOOP_KEYS = (*_FORMS, *_EACH_KEYS, "max-iterations")
IF_KEYS = ("then", "elif", "else")
WAIT_KEYS = ("signal", "correlation-key", "timeout", "default")
APPROVAL_KEYS = ("signal", "name", "correlation-key", "timeout", "default")
SLEEP_KEYS = ("for", "duration", "until")
_BODY_KEYS = ("steps", "tasks")
BRANCH_KEYS = ("if", "else", *_BODY_KEYS)
ELIF_KEYS = ("if", "then")
_LOOP_HINTS = {
    "times": "write 'repeat'",
    "limit": "write 'max-iterations'",
    "break": "write 'until', with the condition that ends the loop",
}
_ONE_BY_ONE = "this loop makes one iteration after the other"
SUBWORKFLOW_KEYS = ("uses", "with", "detached")
_SUBWORKFLOW_HINTS = {
    "file": "write 'uses'",
    "workflow": "write 'uses'",
    "inputs": "write 'with'",
    "wait": "write 'detached: true' if nobody is to wait for it",
    "secrets": "a run of its own takes the secrets that its worker has",
}
_ITEMS_MAX = 100_000


class Control:
    """Reads control nodes; *body* reads the steps (or tasks) inside one."""

    def __init__(
        self, reader: Reader, body: Body, find: FindPlan, *, sequence: bool = True
    ) -> None:
        self._reader = reader
        self._find = find
        self._body = body
        self._kind = "pipeline" if sequence else "graph"

    def read(self, action: str, node: Tree, name: str, what: str, scope: Scope) -> Draft:
        """Return the control node *action* whose settings are in *node*."""
        readers: dict[str, Callable[[Tree, str, str, Scope], Draft]] = {
            "loop": self._loop,
            "choose": self._choose,
            "wait-for": self._wait,
            "approval": self._approval,
            "sleep": self._sleep,
            "subworkflow": self._subworkflow,
        }
        return readers[action](node, name, what, scope)

    def join(self, entries: Mapping[str, Tree], what: str) -> Join:
        """Return the join of a group from its keys `join` and `losers`."""
        return read_join(self._reader, entries.get("join"), entries.get("losers"), what)

    def _group(self, entries: Mapping[str, Tree], name: str, node: Tree) -> Draft:
        """Return the group around a body: tasks have their own order, steps follow each other."""
        kind = "graph" if "tasks" in entries else "pipeline" if "steps" in entries else self._kind
        return Draft(Group, name, node, kind=kind)

    def _loop(self, node: Tree, name: str, what: str, scope: Scope) -> Draft:
        reader = self._reader
        entries = reader.mapping(node, what, (*LOOP_KEYS, *_BODY_KEYS), _LOOP_HINTS)
        if "for-each" not in entries and any(key in entries for key in _FORMS):
            return self._repeat(node, entries, name, what, scope)
        if isinstance(node, MappingNode):
            for key in ("while", "until", "repeat", "max-iterations"):
                if key in entries:
                    text = f"'{key}' does not go with 'for-each'"
                    reader.report.add(text, node.keys.get(key, node))
        variable = reader.text(entries.get("as"), f"{what}.as") or "item"
        if not is_identifier(variable) or variable.lower() in ALL:
            reader.report.add(f"'{variable}' cannot be the name of a variable", entries.get("as"))
            variable = "item"
        draft = Draft(
            Loop,
            name,
            node,
            kind="for-each",
            items=self._items(node, entries.get("for-each"), what, scope),
            variable=variable,
            join=self.join(entries, what),
        )
        limit = reader.count(entries.get("max-parallel"), f"{what}.max-parallel", scope)
        if limit is not None:
            draft.fields["max_parallel"] = limit
        if "fail-fast" in entries:
            draft.fields["fail_fast"] = reader.flag(
                entries["fail-fast"], f"{what}.fail-fast", scope
            )
        inside = self._group(entries, name, node)
        inside.children = self._body(node, entries, what, scope.with_variable(variable))
        draft.children = [inside]
        return draft

    def _repeat(
        self, node: Tree, entries: Mapping[str, Tree], name: str, what: str, scope: Scope
    ) -> Draft:
        """Return a loop that makes one iteration after the other."""
        reader = self._reader
        for key in _EACH_KEYS:
            if key in entries and isinstance(node, MappingNode):
                place = node.keys.get(key, node)
                reader.report.add(f"'{key}' goes with 'for-each' only", place, _ONE_BY_ONE)
        inner = scope.with_loop()
        draft = Draft(Loop, name, node, kind="repeat", variable="loop")
        for key, field in (("while", "before"), ("until", "after")):
            if key in entries:
                condition = reader.condition(entries[key], f"{what}.{key}", inner)
                if not condition:
                    reader.report.add(f"{what}.{key} needs a condition", entries[key])
                draft.fields[field] = condition or "false"
        times = reader.count(entries.get("repeat"), f"{what}.repeat", scope)
        if times is not None:
            draft.fields["times"] = times
        elif "repeat" in entries:
            draft.fields["times"] = 1
        most = reader.integer(
            entries.get("max-iterations"), f"{what}.max-iterations", 1, ITERATIONS_MAX
        )
        if most is None:
            most = max(times, Loop(name="", kind="repeat").limit) if isinstance(times, int) else 0
        if isinstance(times, int) and times > min(most, ITERATIONS_MAX):
            limit = min(most, ITERATIONS_MAX)
            reader.report.add(f"{what}.repeat is over the limit of {limit}", entries["repeat"])
        elif most:
            draft.fields["limit"] = most
        inside = self._group(entries, name, node)
        inside.children = self._body(node, entries, what, inner)
        draft.children = [inside]
        return draft

    def conditional(
        self, node: Tree, entries: Mapping[str, Tree], name: str, what: str, scope: Scope
    ) -> Draft:
        """Return the choice that `if`, `then`, `elif` and `else` in *entries* spell."""
        reader = self._reader
        draft = Draft(Choice, name, node)
        found = [("if", entries, "then")]
        later = entries.get("elif")
        items = later.items if isinstance(later, Sequence) else [later] if later else []
        for index, item in enumerate(items):
            inner = reader.mapping(item, f"{what}.elif[{index}]", ELIF_KEYS)
            if isinstance(item, MappingNode):
                found.append((f"elif[{index}]", inner, "then"))
        if "else" in entries:
            found.append(("else", entries, "else"))
        for number, (spelled, branch, key) in enumerate(found, 1):
            place = what if spelled == "if" else f"{what}.{spelled}"
            segment = "else" if key == "else" else f"case-{number}"
            inside = Draft(Group, segment, branch.get(key, node), kind=self._kind)
            if key == "then":
                condition = reader.condition(branch.get("if"), f"{place}.if", scope)
                if not condition:
                    reader.report.add(f"{place} needs 'if', with a condition", node)
                inside.fields["condition"] = condition or "false"
            body = branch.get(key)
            if body is None:
                reader.report.add(f"{place} needs '{key}', with the steps", node)
            else:
                steps = {"steps" if self._kind == "pipeline" else "tasks": body}
                inside.children = self._body(node, steps, place, scope)
            draft.children.append(inside)
        return draft

    def _items(self, node: Tree, items: Tree | None, what: str, scope: Scope) -> Any:
        reader = self._reader
        if items is None:
            reader.report.add(f"{what} needs one of: {', '.join(_FORMS)}", node)
            return []
        if isinstance(items, Scalar):
            if not reader.is_expression(items, f"{what}.for-each", scope):
                reader.report.add(
                    f"{what}.for-each must be a list or an expression, not {shape(items)}", items
                )
            return items.text
        if isinstance(items, Sequence) and len(items.items) > _ITEMS_MAX:
            reader.report.add(f"{what}.for-each has over {_ITEMS_MAX} items", items)
        return reader.json(items, f"{what}.for-each", scope)

    def _choose(self, node: Tree, name: str, what: str, scope: Scope) -> Draft:
        reader = self._reader
        draft = Draft(Choice, name, node)
        branches = reader.sequence(node, what)
        if not branches:
            reader.report.add(f"{what} needs at least one branch", node, "- if: …, steps: […]")
        for index, branch in enumerate(branches):
            place = f"{what}[{index}]"
            entries = reader.mapping(branch, place, BRANCH_KEYS)
            last = index == len(branches) - 1
            if "else" in entries and "if" in entries:
                reader.report.add(f"{place} has both 'if' and 'else'", branch)
            elif "else" in entries:
                self._check_else(entries["else"], place, last=last)
            elif "if" not in entries and isinstance(branch, MappingNode):
                reader.report.add(f"{place} needs 'if' or 'else: true'", branch)
            segment = "else" if "else" in entries else f"case-{index + 1}"
            inside = self._group(entries, segment, branch)
            condition = reader.condition(entries.get("if"), f"{place}.if", scope)
            if condition:
                inside.fields["condition"] = condition
            inside.children = self._body(branch, entries, place, scope)
            draft.children.append(inside)
        return draft

    def _check_else(self, node: Tree, what: str, *, last: bool) -> None:
        if not (isinstance(node, Scalar) and node.value is True):
            self._reader.report.add(f"{what}: write 'else: true', and 'steps:' beside it", node)
        elif not last:
            self._reader.report.add(f"{what}: 'else' must be the last branch", node)

    def _wait(self, node: Tree, name: str, what: str, scope: Scope) -> Draft:
        reader = self._reader
        if isinstance(node, Scalar):
            signal = reader.text(node, what, scope)
            entries: dict[str, Tree] = {}
        else:
            entries = reader.mapping(node, what, WAIT_KEYS)
            signal = reader.text(entries.get("signal"), f"{what}.signal", scope)
        if not signal:
            reader.report.add(f"{what} needs the name of a signal", node)
        return self._waiting(Draft(Wait, name, node, signal=signal), entries, what, scope)

    def _approval(self, node: Tree, name: str, what: str, scope: Scope) -> Draft:
        reader = self._reader
        if isinstance(node, Scalar):
            plain = node.value is None or node.value is True
            signal = "" if plain else reader.text(node, what, scope)
            entries: dict[str, Tree] = {}
        else:
            entries = reader.mapping(node, what, APPROVAL_KEYS)
            key = "signal" if "signal" in entries else "name"
            signal = reader.text(entries.get(key), f"{what}.{key}", scope)
        draft = Draft(Wait, name, node, signal=signal or "approval", approval=True)
        return self._waiting(draft, entries, what, scope)

    def _waiting(self, draft: Draft, entries: Mapping[str, Tree], what: str, scope: Scope) -> Draft:
        timeout = self._reader.duration_or_expression(
            entries.get("timeout"), f"{what}.timeout", scope
        )
        if timeout is not None:
            draft.fields["timeout_ms"] = timeout
        if "correlation-key" in entries:
            node = entries["correlation-key"]
            key = self._reader.text(node, f"{what}.correlation-key", scope)
            if not key:
                self._reader.report.add(f"{what}.correlation-key is empty", node)
            draft.fields["correlation_key"] = key
        if "default" in entries:
            draft.fields["has_default"] = True
            draft.fields["default"] = self._reader.json(
                entries["default"], f"{what}.default", scope
            )
            if timeout is None:
                self._reader.report.add(f"{what}.default needs a 'timeout'", entries["default"])
        return draft

    def _subworkflow(self, node: Tree, name: str, what: str, scope: Scope) -> Draft:
        reader = self._reader
        entries: dict[str, Tree] = {}
        place: Tree | None = node
        if not isinstance(node, Scalar):
            entries = reader.mapping(node, what, SUBWORKFLOW_KEYS, _SUBWORKFLOW_HINTS)
            place = entries.get("uses")
        source = reader.text(place, f"{what}.uses")
        draft = Draft(Subworkflow, name, node, plan=b"", source=source)
        given = entries.get("with")
        if given is not None:
            reader.mapping(given, f"{what}.with")
        if isinstance(given, MappingNode):
            draft.fields["inputs"] = reader.json(given, f"{what}.with", scope)
        if "detached" in entries:
            draft.fields["detached"] = reader.boolean(entries["detached"], f"{what}.detached")
        if not source or place is None:
            hint = "uses: ./file.yaml, or a registered name"
            reader.report.add(f"{what} needs 'uses'", node, hint)
            return draft
        found = self._find(source, place)
        if found is not None:
            draft.fields |= embedded(reader, found, place)
            if found.plan is not None and found.plan.inputs:
                check_given(reader, source, found.plan.inputs, given, place, f"{what}.with")
        return draft

    def _sleep(self, node: Tree, name: str, what: str, scope: Scope) -> Draft:
        reader = self._reader
        draft = Draft(Sleep, name, node)
        if isinstance(node, Scalar):
            draft.fields["duration_ms"] = reader.duration_or_expression(node, what, scope)
            if node.value is None:
                reader.report.add(f"{what} needs a duration", node)
            return draft
        entries = reader.mapping(node, what, SLEEP_KEYS)
        if len(entries) != 1:
            reader.report.add(f"{what} needs a duration or 'until'", node)
            return draft
        key, value = next(iter(entries.items()))
        if key == "until":
            draft.fields["until"] = self._until(value, f"{what}.until", scope)
        else:
            draft.fields["duration_ms"] = reader.duration_or_expression(
                value, f"{what}.{key}", scope
            )
        return draft

    def _until(self, node: Tree, what: str, scope: Scope) -> str:
        text = self._reader.text(node, what, scope)
        if "${{" not in text:
            try:
                datetime.fromisoformat(text)
            except ValueError:
                self._reader.report.add(
                    f"{what} must be a time, not {shape(node)}", node, "write 2027-01-31T08:00:00Z"
                )
        return text
