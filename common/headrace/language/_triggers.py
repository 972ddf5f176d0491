"""What begins a run: ``on:`` with its inputs, schedules and events, and what a caller gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from zoneinfo import available_timezones

import msgspec

from headrace.language._contexts import EVENT
from headrace.language._cron import cron_problem
from headrace.language._parts import read_inputs
from headrace.language._reader import Reader, shape
from headrace.language._report import Place, did_you_mean
from headrace.language._scope import Scope
from headrace.language._uses import check_given
from headrace.language._values import is_identifier
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Sequence, Tree
from headrace.plan import Debounce, EventTrigger, InputSpec, Schedule, SecretSpec

DISPATCH_KEYS = ("inputs",)
CALL_KEYS = ("inputs", "outputs", "secrets")
SECRET_KEYS = ("description", "required")
OUTPUT_KEYS = ("description", "value")
SCHEDULE_KEYS = (
    "cron",
    "timezone",
    "catch-up",
    "catch-up-window",
    "overlap",
    "jitter",
    "inputs",
)
CATCH_UP = ("none", "one", "all")
OVERLAP = ("allow", "skip", "queue", "cancel-previous")
EVENT_KEYS = ("subject", "filter", "inputs", "debounce")
DEBOUNCE_KEYS = ("period", "key", "max")
_SCHEDULES_MAX = 100
_EVENTS_MAX = 100
_PERIOD_MS_MAX = 366 * 86_400_000
_SUBJECT = re.compile(r"(?:[A-Za-z0-9_$-]+|\*)(?:\.(?:[A-Za-z0-9_$-]+|\*))*(?:\.>)?\Z|>\Z")
_SUBJECT_LENGTH_MAX = 256
_OURS = ("workflow_dispatch", "workflow_call", "schedule", "event")
GITHUB_EVENTS = frozenset(
    (
        "push", "pull_request", "pull_request_target", "release", "issues", "issue_comment",
        "create", "delete", "fork", "label", "milestone", "page_build", "public",
        "pull_request_review", "pull_request_review_comment", "registry_package",
        "repository_dispatch", "status", "watch", "workflow_run", "check_run", "check_suite",
        "deployment", "deployment_status", "discussion", "discussion_comment", "gollum",
        "merge_group", "branch_protection_rule", "image_version",
    )
)  # fmt: skip
"""Let through, so that a file can serve both: here they never fire."""


class Triggers(msgspec.Struct):
    """What `on:` says."""

    inputs: dict[str, InputSpec] = {}
    """Of a run that is submitted, and of a call."""
    callable: bool = False
    outputs: Tree | None = None
    """`workflow_call.outputs`, to be read when the jobs are known."""
    secrets: dict[str, SecretSpec] = {}
    schedules: tuple[Schedule, ...] = ()
    events: tuple[EventTrigger, ...] = ()


def read_triggers(reader: Reader, node: Tree | None, inputs: Tree | None) -> Triggers:
    """Return what `on:` (and `inputs:` beside tasks) says."""
    found = Triggers(inputs=read_inputs(reader, inputs, "inputs"))
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return found
    if isinstance(node, (Scalar, Sequence)):
        for event, place in reader.placed_texts(node, "on"):
            _event(reader, event, place)
            if event in ("schedule", "event"):
                hint = "write 'on: {schedule: [{cron: …}]}'"
                hint = hint if event == "schedule" else "write 'on: {event: {subject: …}}'"
                reader.report.add(f"'on.{event}' needs its settings", place, hint)
            found.callable = found.callable or event == "workflow_call"
        return found
    for event, body in node.entries.items():
        _event(reader, event, node.keys[event])
        if event == "workflow_dispatch":
            fields = reader.mapping(body, f"on.{event}", DISPATCH_KEYS)
            found.inputs.update(read_inputs(reader, fields.get("inputs"), f"on.{event}.inputs"))
        elif event == "workflow_call":
            _call(reader, body, found)
    # The last: what runs are given is checked against the inputs that they have.
    if "schedule" in node.entries:
        body = node.entries["schedule"]
        found.schedules = _schedules(reader, body, "on.schedule", found.inputs)
    if "event" in node.entries:
        found.events = _events(reader, node.entries["event"], "on.event", found.inputs)
    return found


def _event(reader: Reader, event: str, place: Place) -> None:
    if event not in _OURS and event not in GITHUB_EVENTS:
        hint = did_you_mean(event, (*_OURS, *GITHUB_EVENTS)) or "events: " + ", ".join(_OURS)
        reader.report.add(f"unknown event '{event}'", place, hint)


def _call(reader: Reader, node: Tree, found: Triggers) -> None:
    what = "on.workflow_call"
    fields = reader.mapping(node, what, CALL_KEYS)
    found.callable = True
    found.inputs.update(read_inputs(reader, fields.get("inputs"), f"{what}.inputs"))
    found.outputs = fields.get("outputs")
    secrets = fields.get("secrets")
    for name, body in reader.mapping(secrets, f"{what}.secrets").items():
        place = f"{what}.secrets.{name}"
        assert isinstance(secrets, MappingNode)
        if not is_identifier(name):
            reader.report.add(f"'{name}' cannot be the name of a secret", secrets.keys[name])
        entries = reader.mapping(body, place, SECRET_KEYS)
        found.secrets[name] = SecretSpec(
            description=reader.text(entries.get("description"), f"{place}.description"),
            required=reader.boolean(entries.get("required"), f"{place}.required"),
        )


def read_call_outputs(reader: Reader, node: Tree | None, scope: Scope) -> dict[str, Any]:
    """Return `on.workflow_call.outputs`, by name, as expressions over `jobs`."""
    what = "on.workflow_call.outputs"
    found: dict[str, Any] = {}
    for name, body in reader.mapping(node, what).items():
        assert isinstance(node, MappingNode)
        if not is_identifier(name):
            reader.report.add(f"'{name}' cannot be the name of an output", node.keys[name])
        entries = reader.mapping(body, f"{what}.{name}", OUTPUT_KEYS)
        reader.text(entries.get("description"), f"{what}.{name}.description")
        if "value" not in entries:
            hint = "write 'value: ${{ jobs.<job>.outputs.<name> }}'"
            reader.report.add(f"{what}.{name} needs a 'value'", node.keys[name], hint)
        found[name] = reader.text(entries.get("value"), f"{what}.{name}.value", scope)
    return found


def _schedules(
    reader: Reader, node: Tree, what: str, inputs: Mapping[str, InputSpec]
) -> tuple[Schedule, ...]:
    items = reader.sequence(node, what)
    if len(items) > _SCHEDULES_MAX:
        reader.report.add(f"{what} has over {_SCHEDULES_MAX} entries", node)
        return ()
    if not items and isinstance(node, (Sequence, Scalar)):
        reader.report.add(f"{what} needs at least one 'cron'", node)
    found: list[Schedule] = []
    for index, item in enumerate(items):
        place = f"{what}[{index}]"
        entries = reader.mapping(item, place, SCHEDULE_KEYS)
        cron = reader.text(entries.get("cron"), f"{place}.cron")
        problem = cron_problem(cron) if cron else ""
        if not cron and isinstance(item, MappingNode):
            reader.report.add(f"{place} needs a 'cron'", item, "write '- cron: \"30 5 * * 1-5\"'")
        elif problem:
            reader.report.add(f"{place}.cron {problem}", entries["cron"])
        more = _policies(reader, entries, place)
        given = entries.get("inputs")
        reader.mapping(given, f"{place}.inputs")
        if isinstance(given, MappingNode):
            more["inputs"] = reader.json(given, f"{place}.inputs", None)
            check_given(reader, reader.report.file, inputs, given, item, f"{place}.inputs")
        timezone = _timezone(reader, entries, place)
        found.append(Schedule(cron=cron, timezone=timezone, **more))
    return tuple(found)


def _policies(reader: Reader, entries: Mapping[str, Tree], what: str) -> dict[str, Any]:
    """Return what becomes of times that pass, of runs that overlap, and of chance."""
    found: dict[str, Any] = {}
    for key, name, options in (
        ("catch-up", "catch_up", CATCH_UP),
        ("overlap", "overlap", OVERLAP),
    ):
        choice = reader.choice(entries.get(key), f"{what}.{key}", options)
        if choice:
            found[name] = choice
    for key, name in (("catch-up-window", "window_ms"), ("jitter", "jitter_ms")):
        period_ms = _period(reader, entries.get(key), f"{what}.{key}")
        if period_ms:
            found[name] = period_ms
    return found


def _timezone(reader: Reader, entries: Mapping[str, Tree], what: str) -> str:
    name = reader.text(entries.get("timezone"), f"{what}.timezone")
    if name and name != "UTC":
        known = available_timezones()
        # A machine without the database cannot tell; whoever fires the schedule will.
        if known and name not in known:
            hint = did_you_mean(name, known) or "write a name such as Europe/Berlin"
            reader.report.add(f"unknown time zone '{name}'", entries["timezone"], hint)
    return name or "UTC"


def _events(
    reader: Reader, node: Tree, what: str, inputs: Mapping[str, InputSpec]
) -> tuple[EventTrigger, ...]:
    items = node.items if isinstance(node, Sequence) else [node]
    if len(items) > _EVENTS_MAX:
        reader.report.add(f"{what} has over {_EVENTS_MAX} entries", node)
        return ()
    scope = Scope(EVENT, {})
    found: list[EventTrigger] = []
    for index, item in enumerate(items):
        place = f"{what}[{index}]" if isinstance(node, Sequence) else what
        condition = ""
        given: dict[str, Any] = {}
        subject_node: Tree | None = item
        given_node: Tree | None = None
        debounce: Debounce | None = None
        if not isinstance(item, Scalar):
            entries = reader.mapping(item, place, EVENT_KEYS)
            condition = reader.condition(entries.get("filter"), f"{place}.filter", scope)
            subject_node, given_node = entries.get("subject"), entries.get("inputs")
            reader.mapping(given_node, f"{place}.inputs")
            if isinstance(given_node, MappingNode):
                given = reader.json(given_node, f"{place}.inputs", scope)
            debounce = _debounce(reader, entries.get("debounce"), f"{place}.debounce", scope)
        check_given(reader, reader.report.file, inputs, given_node, item, f"{place}.inputs")
        subject = reader.text(subject_node, f"{place}.subject")
        if not subject:
            reader.report.add(f"{place} needs a 'subject'", item, "write 'subject: orders.created'")
        elif len(subject) > _SUBJECT_LENGTH_MAX or not _SUBJECT.match(subject):
            hint = (
                "tokens of letters, digits, '_' and '-' between dots; '*' for one, '>' at the end"
            )
            reader.report.add(f"{place}: {shape(subject_node)} is no subject", subject_node, hint)
        found.append(
            EventTrigger(subject=subject, filter=condition, inputs=given, debounce=debounce)
        )
    return tuple(found)


def _debounce(reader: Reader, node: Tree | None, what: str, scope: Scope) -> Debounce | None:
    if node is None or isinstance(node, Scalar):
        period_ms = _period(reader, node, what)
        return Debounce(period_ms=period_ms) if period_ms else None
    entries = reader.mapping(node, what, DEBOUNCE_KEYS)
    if "period" not in entries and isinstance(node, MappingNode):
        reader.report.add(f"{what} needs a 'period'", node, "write 'period: 5s'")
    period_ms = _period(reader, entries.get("period"), f"{what}.period")
    max_ms = _period(reader, entries.get("max"), f"{what}.max")
    if max_ms and period_ms and max_ms < period_ms:
        reader.report.add(f"{what}.max is shorter than its period", entries["max"])
    key = reader.text(entries.get("key"), f"{what}.key", scope)
    return Debounce(period_ms=period_ms, key=key, max_ms=max_ms) if period_ms else None


def _period(reader: Reader, node: Tree | None, what: str) -> int:
    period_ms = reader.duration(node, what) or 0
    if period_ms > _PERIOD_MS_MAX:
        reader.report.add(f"{what} is over 366 days", node)
        return 0
    return period_ms
