"""Parts that both dialects spell alike: retry, join, concurrency, inputs, handlers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, get_args

from headrace.language._handlers import INPUT_ALIASES, HandlerSpec, InputField
from headrace.language._reader import Reader, shape
from headrace.language._report import Place, did_you_mean
from headrace.language._scope import Scope
from headrace.language._values import duration_ms, is_identifier
from headrace.language._yaml import Mapping as MappingNode
from headrace.language._yaml import Scalar, Sequence, Tree, to_json
from headrace.plan import Concurrency, InputSpec, Join, TriggerRule
from headrace.plan._inputs import coerce_input
from headrace.retry import RetryPolicy

RETRY_KEYS = (
    "max-attempts", "backoff", "initial", "factor", "max", "jitter", "max-elapsed", "on", "not-on",
)  # fmt: skip
CONCURRENCY_KEYS = ("group", "cancel-in-progress", "queue", "limit")
INPUT_KEYS = ("description", "type", "required", "default", "options", "deprecationMessage")
_INPUT_TYPES = ("string", "number", "boolean", "choice", "json")
_ATTEMPTS_MAX = 1_000_000


def read_retry(reader: Reader, node: Tree | None, what: str) -> RetryPolicy | None:
    """Return a retry policy: a mapping, or the number of attempts alone; None if absent."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return None
    if isinstance(node, Scalar):
        attempts = reader.integer(node, what, 1, _ATTEMPTS_MAX)
        return None if attempts is None else RetryPolicy(max_attempts=attempts)
    entries = reader.mapping(node, what, RETRY_KEYS)
    found: dict[str, Any] = {
        "max_attempts": reader.integer(
            entries.get("max-attempts"), f"{what}.max-attempts", 1, _ATTEMPTS_MAX
        ),
        "backoff": reader.choice(
            entries.get("backoff"), f"{what}.backoff", ("fixed", "exponential", "random")
        ),
        "initial_ms": reader.duration(entries.get("initial"), f"{what}.initial"),
        "factor": reader.number(entries.get("factor"), f"{what}.factor", 1, 1_000),
        "max_ms": reader.duration(entries.get("max"), f"{what}.max"),
        "jitter": reader.number(entries.get("jitter"), f"{what}.jitter", 0, 1),
        "max_elapsed_ms": reader.duration(entries.get("max-elapsed"), f"{what}.max-elapsed"),
        "retry_on": tuple(reader.texts(entries.get("on"), f"{what}.on")) or None,
        "not_on": tuple(reader.texts(entries.get("not-on"), f"{what}.not-on")) or None,
    }
    return RetryPolicy(**{key: value for key, value in found.items() if value is not None})


def read_join(reader: Reader, join: Tree | None, losers: Tree | None, what: str) -> Join:
    """Return `all`, `any`, a number or ``"60%"``, and what becomes of the losers."""
    fields: dict[str, Any] = {}
    found = reader.choice(losers, f"{what}.losers", ("cancel", "detach", "await"))
    if found is not None:
        fields["losers"] = found
    if join is None:
        return Join(**fields)
    text = join.text.strip() if isinstance(join, Scalar) else ""
    digits = text.removesuffix("%").strip()
    if text in ("all", "any"):
        return Join(kind="all" if text == "all" else "any", **fields)
    if digits.isascii() and digits.isdigit() and len(digits) <= 6 and int(digits) >= 1:
        if not text.endswith("%"):
            return Join(kind="count", value=int(digits), **fields)
        if int(digits) <= 100:
            return Join(kind="percent", value=int(digits), **fields)
    reader.report.add(
        f"{what}.join must be all, any, a number or a percentage, not {shape(join)}",
        join,
        'write all, any, 2 or "60%"',
    )
    return Join(**fields)


_SHELLS = ("bash", "sh", "python", "pwsh")


def read_shell(reader: Reader, node: Tree | None, what: str, scope: Scope) -> str:
    """Return the name of a shell, or a command with ``{0}``; '' if absent."""
    text = reader.text(node, what, scope)
    if text and text not in _SHELLS and "{0}" not in text and "${{" not in text:
        hint = did_you_mean(text, _SHELLS) or "write one of them, or a command with {0}"
        text = f"{what} must be one of {', '.join(_SHELLS)}, not {shape(node)}"
        reader.report.add(text, node, hint)
        return ""
    return text


def read_trigger_rule(
    reader: Reader, node: Tree | None, what: str, needs: Collection[object]
) -> dict[str, Any]:
    """Return the field `trigger_rule` of a node with *needs*; nothing if absent."""
    if node is None:
        return {}
    spelled = node
    if isinstance(node, Scalar):
        text = node.text.replace("-", "_")
        spelled = Scalar(text, text, node.line, node.column)
    rule = reader.choice(spelled, what, get_args(TriggerRule))
    if not needs:
        reader.report.add(f"{what}: there are no needs that it could look at", node)
        return {}
    return {} if rule is None else {"trigger_rule": rule}


def read_concurrency(
    reader: Reader, node: Tree | None, what: str, scope: Scope
) -> Concurrency | None:
    """Return a concurrency group: its name alone, or a mapping; None if absent."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return None
    if isinstance(node, Scalar):
        return Concurrency(group=reader.text(node, what, scope), queue="single")
    entries = reader.mapping(node, what, CONCURRENCY_KEYS)
    group = reader.text(entries.get("group"), f"{what}.group", scope)
    if not group:
        reader.report.add(f"{what} needs a 'group'", node)
    cancel = reader.flag(entries.get("cancel-in-progress"), f"{what}.cancel-in-progress", scope)
    queue = reader.choice(entries.get("queue"), f"{what}.queue", ("single", "max"))
    if queue == "max" and cancel is True:
        hint = "what is cancelled never waits; remove one of the two"
        text = f"{what}: 'queue: max' does not go with 'cancel-in-progress: true'"
        reader.report.add(text, entries["queue"], hint)
    limit = reader.integer(entries.get("limit"), f"{what}.limit", 1, 1_000_000)
    return Concurrency(
        group=group,
        cancel_in_progress=cancel,
        # Without a word, one waits and a newer one takes its place, as on GitHub.
        queue="max" if queue == "max" else "single",
        limit=limit or 1,
    )


def read_inputs(reader: Reader, node: Tree | None, what: str) -> dict[str, InputSpec]:
    """Return the declared inputs, defaults converted to their types."""
    declared: dict[str, InputSpec] = {}
    keys = node.keys if isinstance(node, MappingNode) else {}
    for name, body in reader.mapping(node, what).items():
        place = f"{what}.{name}"
        if not is_identifier(name):
            reader.report.add(f"'{name}' cannot be the name of an input", keys[name])
        entries = reader.mapping(body, place, INPUT_KEYS)
        kind = _input_type(reader, entries.get("type"), f"{place}.type")
        options = tuple(reader.texts(entries.get("options"), f"{place}.options"))
        if kind == "choice" and not options:
            reader.report.add(f"{place} needs 'options'", keys[name])
        spec = InputSpec(
            type=kind,
            description=reader.text(entries.get("description"), f"{place}.description"),
            required=reader.boolean(entries.get("required"), f"{place}.required"),
            options=options,
        )
        declared[name] = _with_default(reader, spec, entries.get("default"), place)
    return declared


def _input_type(reader: Reader, node: Tree | None, what: str) -> Any:
    if isinstance(node, Scalar) and node.text == "environment":
        hint = "there are no environments of GitHub; write 'type: choice' with 'options:'"
        reader.report.add(f"{what}: 'environment' is not supported", node, hint)
        return "string"
    return reader.choice(node, what, _INPUT_TYPES) or "string"


def _with_default(reader: Reader, spec: InputSpec, node: Tree | None, what: str) -> InputSpec:
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return spec
    as_written = isinstance(node, Scalar) and spec.type in ("string", "choice")
    value = node.text if as_written and isinstance(node, Scalar) else to_json(node)
    try:
        # JSON stands for itself here: only a run's input has to be read from text.
        value = value if spec.type == "json" else coerce_input(spec, value)
    except ValueError as unfit:
        reader.report.add(f"{what}.default must be {unfit}, not {shape(node)}", node)
        return spec
    return InputSpec(
        type=spec.type,
        description=spec.description,
        required=spec.required,
        options=spec.options,
        default=value,
    )


class Handlers:
    """The handlers that steps may use."""

    def __init__(self, specs: Mapping[str, HandlerSpec], *, allow_unknown: bool) -> None:
        self._specs = specs
        self._allow_unknown = allow_unknown

    def __contains__(self, name: str) -> bool:
        return name in self._specs

    def check(
        self,
        reader: Reader,
        name: str,
        node: Tree | None,
        at: Place,
        *,
        short: Collection[str] = (),
    ) -> None:
        """Check the name of a handler and the inputs in *node*; *short*: other names for some."""
        aliases = INPUT_ALIASES.get(name, {})
        spec = self._specs.get(name)
        if spec is None:
            if not self._allow_unknown:
                hint = _handler_hint(name, [*self._specs, *short])
                reader.report.add(f"unknown handler '{name}'", at, hint)
            return
        entries = node.entries if isinstance(node, MappingNode) else {}
        names = {aliases.get(key, key) for key in entries}
        for key, value in entries.items():
            field = spec.inputs.get(aliases.get(key, key))
            if field is not None:
                _check_type(reader, f"input '{key}' of '{name}'", field, value)
            elif not spec.open:
                assert isinstance(node, MappingNode)
                hint = did_you_mean(key, spec.inputs) or "inputs: " + ", ".join(spec.inputs)
                reader.report.add(f"unknown input '{key}' of '{name}'", node.keys[key], hint)
        for key, field in spec.inputs.items():
            if field.required and key not in names:
                hint = f"{key}: {field.description}" if field.description else ""
                reader.report.add(f"'{name}' needs the input '{key}'", at, hint)
        _check_groups(reader, name, spec, names, at)


def _check_groups(
    reader: Reader, name: str, spec: HandlerSpec, given: Collection[str], at: Place
) -> None:
    """Check which inputs go together."""
    for group in spec.exactly_one:
        if not any(key in given for key in group):
            reader.report.add(f"'{name}' needs one of the inputs {_listed(group)}", at)
    for group in (*spec.exactly_one, *spec.at_most_one):
        both = [key for key in group if key in given]
        if len(both) > 1:
            reader.report.add(f"'{name}' takes only one of the inputs {_listed(both)}", at)


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


ACTIONS = {
    "actions/checkout": "write 'run: git clone …'",
    "actions/upload-artifact": "use 'uses: artifact/upload'",
    "actions/download-artifact": "use 'uses: artifact/download'",
    "actions/cache": "keep files in shared storage with 'uses: file/transfer'",
    "actions/github-script": "use 'uses: script'",
}
"""By action of GitHub's, what to use instead."""


def _handler_hint(name: str, known: Collection[str]) -> str:
    instead = ACTIONS.get(name.partition("@")[0])
    if instead is not None:
        return f"actions of GitHub do not run here: {instead}"
    if name.startswith("docker://"):
        return f"use 'uses: docker/run' with 'image: {name.removeprefix('docker://')}'"
    if name.startswith(("./", "../")) and name.endswith((".yaml", ".yml")):
        return f"a workflow is called by a job: 'jobs: {{name: {{uses: {name}}}}}'"
    if "@" in name or name.startswith(("./", "../")):
        return "actions of GitHub do not run here: use 'run:', or a handler"
    return did_you_mean(name, known) or "handlers: " + ", ".join(sorted(known))


_SHAPES: dict[str, str] = {
    "list": "a list",
    "object": "a mapping",
    "boolean": "true or false",
    "integer": "a whole number",
    "texts": "a text or a list of them",
}


def _check_type(reader: Reader, what: str, field: InputField, node: Tree) -> None:
    if isinstance(node, Scalar):
        if node.value is None or "${{" in node.text:
            return
        fits = _scalar_fits(field, node)
    elif isinstance(node, Sequence):
        fits = field.type in ("list", "texts", "any")
    else:
        fits = field.type in ("object", "any")
    if not fits:
        wanted = _SHAPES.get(field.type, f"a {field.type}" if field.type != "string" else "text")
        if field.options:
            wanted = "one of " + ", ".join(field.options)
        reader.report.add(f"{what} must be {wanted}, not {shape(node)}", node)


def _scalar_fits(field: InputField, node: Scalar) -> bool:
    value = node.value
    if field.options and node.text not in field.options:
        return False
    if field.type in ("string", "texts", "any"):
        return True
    if field.type == "boolean":
        return isinstance(value, bool)
    if field.type == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if field.type == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if field.type == "duration":
        return not isinstance(value, bool) and duration_ms(node.text) is not None
    # A list of one may be written without its brackets.
    return field.type == "list" and isinstance(value, str)
