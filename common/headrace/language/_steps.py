"""Steps of the `jobs:` dialect, control nodes among them, to drafts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from headrace.language._contexts import STEP, STEP_IF, STEP_NAME, STEP_WORK
from headrace.language._control import Control
from headrace.language._draft import Draft
from headrace.language._faults import STEP_FAULT_KEYS, Faults, Inherited
from headrace.language._gates import GATE_KEYS, read_cache, read_gates
from headrace.language._handlers import INPUT_ALIASES
from headrace.language._parts import Handlers, read_retry, read_shell
from headrace.language._placement import (
    WORKER,
    Placement,
    broadcast,
    read_placement,
)
from headrace.language._reader import Reader, shape
from headrace.language._scope import Known, Scope
from headrace.language._uses import FindPlan
from headrace.language._values import Names, is_identifier, slug
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Tree
from headrace.plan import Group, Task
from headrace.retry import RetryPolicy

_COMMON = frozenset(("id", "name", "if", "continue-on-error", "timeout-minutes"))
_STARTED = _COMMON | {"background"}
_WAITING = _COMMON - {"timeout-minutes"}
_TASK = _STARTED | {
    "env", "retry", "effect", "priority", "heartbeat-timeout", "schedule-timeout",
    "attempt-timeout", "runs-on", "cache", *GATE_KEYS, *STEP_FAULT_KEYS,
}  # fmt: skip
_GROUP = _STARTED | {"env", "join", "losers", "on-failure", "runs-on", *GATE_KEYS}
ACTIONS: Mapping[str, frozenset[str]] = {
    "uses": _TASK | {"uses", "with"},
    "run": _TASK | {"run", "shell", "working-directory"},
    "parallel": _GROUP | {"parallel"},
    "pipeline": _STARTED | {"pipeline", "env", "on-failure", "runs-on", *GATE_KEYS},
    "loop": _STARTED | {"loop"},
    "choose": _STARTED | {"choose"},
    "then": _STARTED | {"then", "elif", "else"},
    "wait-for": _STARTED | {"wait-for", "on-failure"},
    "approval": _STARTED | {"approval", "on-failure"},
    "sleep": _STARTED | {"sleep"},
    "subworkflow": _STARTED | {"subworkflow"},
    "wait": _WAITING | {"wait"},
    "wait-all": _WAITING | {"wait-all"},
    "cancel": _WAITING | {"cancel"},
}
_STEP_KEYS = frozenset().union(*ACTIONS.values())
STEP_UNSUPPORTED: Mapping[str, str] = {}
_NAMED = (
    "parallel", "pipeline", "loop", "choose", "wait-for", "approval", "sleep", "subworkflow",
    "wait", "wait-all", "cancel",
)  # fmt: skip
"""Actions that name their step, if nothing else does."""
_PRIORITY_MAX = 1_000_000


class StepDefaults(NamedTuple):
    """What a job gives its steps."""

    shell: str = ""
    working_directory: str = ""
    retry: RetryPolicy | None = None
    faults: Inherited = Inherited()


def task_fields(
    reader: Reader, entries: Mapping[str, Tree], what: str, scope: Scope, retry: RetryPolicy | None
) -> dict[str, Any]:
    """Return the fields of a `Task` that both dialects spell alike."""
    fields: dict[str, Any] = {}
    own = read_retry(reader, entries.get("retry"), f"{what}.retry") or retry
    if own is not None:
        fields["retry"] = own
    if "env" in entries:
        fields["env"] = reader.environment(entries["env"], f"{what}.env", scope.at(STEP_WORK))
    for key, field in (
        ("attempt-timeout", "attempt_timeout_ms"),
        ("heartbeat-timeout", "heartbeat_timeout_ms"),
        ("schedule-timeout", "schedule_timeout_ms"),
    ):
        if key in entries:
            fields[field] = reader.duration(entries[key], f"{what}.{key}")
    effect = reader.choice(
        entries.get("effect"), f"{what}.effect", ("at-least-once", "at-most-once")
    )
    if effect is not None:
        fields["effect"] = effect
    priority = reader.integer(
        entries.get("priority"), f"{what}.priority", -_PRIORITY_MAX, _PRIORITY_MAX
    )
    if priority is not None:
        fields["priority"] = priority
    place = scope.at(STEP)
    fields |= read_cache(reader, entries, what, place)
    return fields | read_gates(reader, entries, what, place)


class Steps:
    """Reads the steps of one job. *known* collects their names, for references to them."""

    def __init__(
        self,
        reader: Reader,
        handlers: Handlers,
        defaults: StepDefaults,
        known: Known,
        find: FindPlan,
    ) -> None:
        self._reader = reader
        self._handlers = handlers
        self._defaults = defaults
        self._known = known
        self._control = Control(reader, self.body, find)
        self._faults = Faults(reader, defaults.faults, self._step, self.read)

    def read(self, node: Tree | None, what: str, scope: Scope) -> list[Draft]:
        """Return the steps in a list, named; at least one."""
        reader = self._reader
        items = reader.sequence(node, what)
        if not items and node is not None and not isinstance(node, MappingNode):
            reader.report.add(f"{what} needs at least one step", node)
        taken = Names()
        names = [self._id(item, taken) for item in items]
        drafts: list[Draft] = []
        for index, (item, name) in enumerate(zip(items, names, strict=True)):
            segment = name or taken.derive(_segment(item, index))
            draft = self._step(item, segment, f"{what}[{index}]", scope)
            self._known[segment.lower()] = segment
            if draft is not None:
                drafts.append(draft)
                drafts += draft.handlers.values()
        return drafts

    def body(self, node: Tree, entries: Mapping[str, Tree], what: str, scope: Scope) -> list[Draft]:
        """Return the steps under the key `steps` of a control node."""
        if "steps" not in entries:
            self._reader.report.add(f"{what} needs 'steps'", node)
        return self.read(entries.get("steps"), f"{what}.steps", scope)

    def _id(self, node: Tree, taken: Names) -> str:
        """Return a step's own id, checked; '' if it has none."""
        found = node.entries.get("id") if isinstance(node, MappingNode) else None
        if found is None:
            return ""
        name = self._reader.text(found, "id")
        if not is_identifier(name):
            hint = "a letter or '_', then letters, digits, '_' and '-'"
            self._reader.report.add(f"'{name}' cannot be an id", found, hint)
            return ""
        if not taken.claim(name):
            self._reader.report.add(f"duplicate id '{name}'", found)
            return ""
        return name

    def _step(self, node: Tree, segment: str, what: str, scope: Scope) -> Draft | None:
        reader = self._reader
        if not isinstance(node, MappingNode):
            reader.report.add(f"{what} must be a mapping, not {shape(node)}", node)
            return None
        entries = reader.mapping(node, what, _STEP_KEYS, STEP_UNSUPPORTED)
        actions = [key for key in ACTIONS if key in entries]
        if len(actions) != 1:
            found = " and ".join(f"'{key}'" for key in actions) or "none"
            reader.report.add(
                f"{what} needs one action, and has {found}", node, "one of: " + ", ".join(ACTIONS)
            )
            return None
        action = actions[0]
        for key in entries.keys() - ACTIONS[action]:
            reader.report.add(f"'{key}' does not go with '{action}'", node.keys[key])
        spread = entries.get("runs-on") if "runs-on" in ACTIONS[action] else None
        placement = self._placement(spread, what, scope)
        outside = scope
        if placement.broadcast is not None:
            scope = scope.with_variable(WORKER)
        draft = self._act(action, node, entries, segment, what, scope)
        draft.place = node
        if placement.labels:
            draft.fields["runs_on"] = placement.labels
        fields = draft.fields
        title = reader.text(entries.get("name"), f"{what}.name", scope.at(STEP_NAME))
        if title:
            fields["title"] = title
        on_worker = action in ("uses", "run") and placement.broadcast is None
        place = outside.at(STEP_IF if on_worker else STEP)
        condition = reader.condition(entries.get("if"), f"{what}.if", place)
        if condition and action != "then":
            fields["condition"] = condition
        if "continue-on-error" in entries:
            fields["continue_on_error"] = reader.flag(
                entries["continue-on-error"], f"{what}.continue-on-error", scope.at(STEP)
            )
        timeout = reader.minutes(
            entries.get("timeout-minutes"), f"{what}.timeout-minutes", scope.at(STEP)
        )
        if timeout is not None:
            fields["timeout_ms"] = timeout
        if reader.boolean(entries.get("background"), f"{what}.background"):
            fields["background"] = True
        self._faults.read(draft, entries, what, scope)
        return broadcast(draft, placement)

    def _placement(self, node: Tree | None, what: str, scope: Scope) -> Placement:
        """Return where a step runs: all steps of a job run on its worker, but for broadcasts."""
        if node is None:
            return Placement()
        placement = read_placement(self._reader, node, f"{what}.runs-on", scope.at(STEP))
        if placement.broadcast is None:
            hint = "give it to the job, or write 'runs-on: {group: …, all: true}'"
            self._reader.report.add(f"{what}: a step runs on the worker of its job", node, hint)
        return placement

    def _act(
        self,
        action: str,
        node: MappingNode,
        entries: Mapping[str, Tree],
        segment: str,
        what: str,
        scope: Scope,
    ) -> Draft:
        if action == "uses":
            return self._uses(node, entries, segment, what, scope)
        if action == "run":
            return self._run(node, entries, segment, what, scope)
        if action in ("wait", "wait-all", "cancel"):
            return self._wait(action, entries[action], segment, what)
        if action in ("parallel", "pipeline"):
            fields = read_gates(self._reader, entries, what, scope.at(STEP))
            draft = Draft(Group, segment, node, kind=action, **fields)
            draft.children = self.read(entries[action], f"{what}.{action}", scope)
            if action == "parallel":
                self._refuse_background(draft.children)
                draft.fields["join"] = self._control.join(entries, what)
            if "env" in entries:
                draft.fields["env"] = self._reader.environment(
                    entries["env"], f"{what}.env", scope.at(STEP_WORK)
                )
            return draft
        if action == "then":
            return self._control.conditional(node, entries, segment, what, scope.at(STEP))
        return self._control.read(
            action, entries[action], segment, f"{what}.{action}", scope.at(STEP)
        )

    def _wait(self, action: str, node: Tree, segment: str, what: str) -> Draft:
        """Return an empty group: it needs what it waits for, or names what it stops."""
        reader = self._reader
        draft = Draft(Group, segment, node, kind="graph")
        if action in ("wait", "cancel"):
            named = reader.placed_texts(node, f"{what}.{action}")
            if not named:
                reader.report.add(f"{what}.{action} needs the id of a background step", node)
            if action == "wait":
                draft.needs = named
            else:
                draft.cancels = named
        elif isinstance(node, Scalar) and node.value is False:
            reader.report.add(f"{what}.wait-all is 'true', or nothing", node)
        else:
            reader.boolean(node, f"{what}.wait-all")
            draft.waits_for_all = True
        return draft

    def _refuse_background(self, children: list[Draft]) -> None:
        for child in children:
            if child.fields.get("background") or child.asks_for_background:
                hint = "steps in 'parallel' run side by side already; put it around them"
                text = "background steps and waits for them stand in a job or a pipeline"
                self._reader.report.add(text, child.place, hint)
                child.needs, child.cancels = [], []

    def _uses(
        self,
        node: MappingNode,
        entries: Mapping[str, Tree],
        segment: str,
        what: str,
        scope: Scope,
    ) -> Draft:
        reader, scope = self._reader, scope.at(STEP_WORK)
        uses = reader.text(entries["uses"], f"{what}.uses")
        given = entries.get("with")
        inputs: dict[str, Any] = {}
        if given is not None:
            reader.mapping(given, f"{what}.with")
            if isinstance(given, MappingNode):
                aliases = INPUT_ALIASES.get(uses, {})
                written = reader.json(given, f"{what}.with", scope)
                inputs = {aliases.get(key, key): value for key, value in written.items()}
        if uses:
            self._handlers.check(reader, uses, given, entries["uses"])
        else:
            reader.report.add(f"{what}.uses names a handler", entries["uses"])
        fields = task_fields(reader, entries, what, scope, self._defaults.retry)
        return Draft(Task, segment, node, uses=uses, inputs=inputs, **fields)

    def _run(
        self,
        node: MappingNode,
        entries: Mapping[str, Tree],
        segment: str,
        what: str,
        scope: Scope,
    ) -> Draft:
        reader, scope = self._reader, scope.at(STEP_WORK)
        inputs = {"run": reader.text(entries["run"], f"{what}.run", scope)}
        if not inputs["run"].strip():
            reader.report.add(f"{what}.run is empty", entries["run"])
        directory = "working-directory"
        for key, value, default in (
            (
                "shell",
                read_shell(reader, entries.get("shell"), f"{what}.shell", scope),
                self._defaults.shell,
            ),
            (
                directory,
                reader.text(entries.get(directory), f"{what}.{directory}", scope),
                self._defaults.working_directory,
            ),
        ):
            if value or default:
                inputs[key] = value or default
        fields = task_fields(reader, entries, what, scope, self._defaults.retry)
        return Draft(Task, segment, node, uses="shell", inputs=inputs, **fields)


def _segment(node: Tree, index: int) -> str:
    """Return the path segment of a step without an id: from its name, its handler, its place."""
    entries = node.entries if isinstance(node, MappingNode) else {}
    for key in ("name", "uses"):
        value = entries.get(key)
        if isinstance(value, Scalar) and "${{" not in value.text:
            found = slug(value.text)
            if found:
                return found
    if "then" in entries:
        return "if"
    for key in _NAMED:
        if key in entries:
            return key
    return f"step-{index + 1}"
