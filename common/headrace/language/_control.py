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
from headrace.language._values import is_identifier
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Sequence, Tree
from headrace.plan import Choice, Group, Join, Loop, Sleep, Wait

Body = Callable[[Tree, Mapping[str, Tree], str, Scope], list[Draft]]

LOOP_KEYS = ("for-each", "as", "max-parallel", "fail-fast", "join", "losers")
WAIT_KEYS = ("signal", "timeout", "default")
APPROVAL_KEYS = ("signal", "name", "timeout", "default")
SLEEP_KEYS = ("for", "duration", "until")
_BODY_KEYS = ("steps", "tasks")
_LATER = {
    key: "only 'for-each' is in this version" for key in ("while", "until", "repeat", "times")
}
_ITEMS_MAX = 100_000


class Control:
    """Reads control nodes; *body* reads the steps (or tasks) inside one."""

    def __init__(self, reader: Reader, body: Body, *, sequence: bool = True) -> None:
        self._reader = reader
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
        entries = reader.mapping(node, what, (*LOOP_KEYS, *_BODY_KEYS), _LATER)
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

    def _items(self, node: Tree, items: Tree | None, what: str, scope: Scope) -> Any:
        reader = self._reader
        if items is None:
            reader.report.add(f"{what} needs 'for-each'", node)
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
            entries = reader.mapping(branch, place, ("if", "else", *_BODY_KEYS))
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
        if "default" in entries:
            draft.fields["has_default"] = True
            draft.fields["default"] = self._reader.json(
                entries["default"], f"{what}.default", scope
            )
            if timeout is None:
                self._reader.report.add(f"{what}.default needs a 'timeout'", entries["default"])
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
