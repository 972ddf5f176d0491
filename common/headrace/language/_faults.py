"""What follows a failure: `on-failure`, `compensate`, `on-unknown` and the `handlers` they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from headrace.language._draft import Draft
from headrace.language._reader import Reader, shape
from headrace.language._report import Place, did_you_mean
from headrace.language._scope import Scope
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Sequence, Tree
from headrace.plan import Group, OnFailure, Task, Wait
from headrace.retry import RetryPolicy

STEP_FAULT_KEYS = ("on-failure", "compensate", "on-unknown")
ON_FAILURE_KEYS = ("action", "max-rounds")
ACTIONS = ("retry", "skip", "abort", "fail", "compensate", "compensate-and-retry")
ROUNDS_MAX = 1_000
_RUN = "run "
_HINT = "write one of " + ", ".join(ACTIONS) + ", or 'run NAME' with NAME below 'handlers:'"


class Policy(NamedTuple):
    """An `on-failure`, as it is written."""

    action: str
    handler: str
    rounds: int | None
    place: Place

    def plan(self) -> OnFailure:
        """Return it as a plan has it; `retry` and `run` are of single steps."""
        action: Any = "fail" if self.action in ("retry", "run") else self.action
        return (
            OnFailure(action=action)
            if self.rounds is None
            else OnFailure(action=action, rounds=self.rounds)
        )


class Inherited(NamedTuple):
    """What a workflow or a job gives its steps."""

    policy: Policy | None = None
    handlers: Mapping[str, Tree] = {}


def read_on_failure(reader: Reader, node: Tree | None, what: str) -> Policy | None:
    """Return a policy: its name, ``run NAME``, or a mapping; None if absent."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return None
    rounds = None
    place = node
    if isinstance(node, MappingNode):
        entries = reader.mapping(node, what, ON_FAILURE_KEYS)
        if "action" not in entries:
            reader.report.add(f"{what} needs an 'action'", node, _HINT)
            return None
        rounds = reader.integer(entries.get("max-rounds"), f"{what}.max-rounds", 1, ROUNDS_MAX)
        node = entries["action"]
    text = node.text.strip() if isinstance(node, Scalar) else ""
    if text.startswith(_RUN) and text[len(_RUN) :].strip():
        return Policy("run", text[len(_RUN) :].strip(), None, place)
    if text not in ACTIONS:
        hint = did_you_mean(text, ACTIONS) if text else ""
        reader.report.add(f"{what} cannot be {shape(node)}", node, hint or _HINT)
        return None
    if rounds is not None and text != "compensate-and-retry":
        text = f"{what}: 'max-rounds' goes with 'action: compensate-and-retry'"
        reader.report.add(text, place)
        return None
    return Policy(text, "", rounds, place)


def read_on_cancel(reader: Reader, node: Tree | None) -> str:
    """Return what is done when the run is cancelled; '' for nothing."""
    found = reader.choice(node, "on-cancel", ("compensate", "stop"))
    return "compensate" if found == "compensate" else ""


def read_handlers(reader: Reader, node: Tree | None) -> dict[str, Tree]:
    """Return the declared handlers, by name."""
    entries = reader.mapping(node, "handlers")
    for name, body in entries.items():
        if not isinstance(body, (MappingNode, Sequence)):
            text = f"handlers.{name} must be a step or a list of steps, not {shape(body)}"
            reader.report.add(text, body)
    return {k: v for k, v in entries.items() if isinstance(v, (MappingNode, Sequence))}


class Faults:
    """Reads the policies of steps. *one* reads a step, *many* a list of them."""

    def __init__(
        self,
        reader: Reader,
        inherited: Inherited,
        one: Callable[[Tree, str, str, Scope], Draft | None],
        many: Callable[[Tree, str, Scope], list[Draft]],
    ) -> None:
        self._reader, self._inherited = reader, inherited
        self._one, self._many = one, many
        self._inside = False

    def read(
        self, draft: Draft, entries: Mapping[str, Tree], what: str, scope: Scope
    ) -> list[Draft]:
        """Give *draft* its policies; return what they run, to stand behind it."""
        if self._inside:
            for key in STEP_FAULT_KEYS:
                if key in entries:
                    hint = "'retry', 'continue-on-error' and time limits are possible"
                    text = f"what handles a failure has no '{key}' of its own"
                    self._reader.report.add(text, entries[key], hint)
            return []
        own = read_on_failure(self._reader, entries.get("on-failure"), f"{what}.on-failure")
        self._policy(draft, own, what, scope)
        if "compensate" in entries:
            self._handler(draft, "compensate", entries["compensate"], f"{what}.compensate", scope)
        if "on-unknown" in entries:
            self._unknown(draft, entries["on-unknown"], f"{what}.on-unknown", scope)
        return list(draft.handlers.values())

    def _policy(self, draft: Draft, own: Policy | None, what: str, scope: Scope) -> None:
        policy = own or self._inherited.policy
        if policy is None:
            return
        if own is not None:
            draft.fields["on_failure"] = own.plan()
        if draft.struct is Task and policy.action == "retry":
            draft.fields.setdefault("retry", RetryPolicy())
        elif policy.action == "run" and draft.struct in (Task, Wait):
            self._named(draft, "on_failure", policy.handler, policy.place, scope)
            draft.fields.pop("on_failure", None)
        elif own is not None and policy.action in ("run", "retry"):
            hint = "give it to the steps inside"
            self._reader.report.add(f"'{policy.action}' is for single steps", policy.place, hint)

    def _unknown(self, draft: Draft, node: Tree, what: str, scope: Scope) -> None:
        text = self._reader.text(node, what).strip()
        if draft.fields.get("effect") != "at-most-once":
            hint = "other steps are simply run again when their worker is lost"
            self._reader.report.add(f"{what} goes with 'effect: at-most-once'", node, hint)
        elif text.startswith(_RUN):
            draft.fields["on_unknown"] = "run"
            self._named(draft, "unknown_handler", text[len(_RUN) :].strip(), node, scope)
        elif text in ("fail", "wait"):
            draft.fields["on_unknown"] = text
        else:
            hint = "write fail, wait (for a person), or 'run NAME' with NAME below 'handlers:'"
            self._reader.report.add(f"{what} cannot be {shape(node)}", node, hint)

    def _named(self, draft: Draft, kind: str, name: str, place: Place, scope: Scope) -> None:
        body = self._inherited.handlers.get(name)
        if body is None:
            names = ", ".join(self._inherited.handlers) or "none"
            hint = did_you_mean(name, self._inherited.handlers) or f"handlers: {names}"
            self._reader.report.add(f"unknown handler '{name}'", place, hint)
            return
        self._handler(draft, kind, body, f"handlers.{name}", scope)

    def _handler(self, draft: Draft, kind: str, node: Tree, what: str, scope: Scope) -> None:
        mark = {"on_failure": "handler", "unknown_handler": "reconcile"}.get(kind, kind)
        segment, inner = f"{draft.name}~{mark}", scope.with_failure()
        self._inside = True
        try:
            if isinstance(node, Sequence):
                found: Draft | None = Draft(Group, segment, node, kind="pipeline")
                assert found is not None
                found.children = self._many(node, what, inner)
            else:
                found = self._one(node, segment, what, inner)
        finally:
            self._inside = False
        if found is None:
            return
        if found.struct is not Task and not isinstance(node, Sequence):
            self._reader.report.add(f"{what} must be a step that a worker runs", node)
            return
        found.name, found.needs = segment, []
        found.fields["dormant"] = True
        draft.handlers[kind] = found
