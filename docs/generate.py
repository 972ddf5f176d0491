"""Writes the pages of `docs/` that are drawn from the code: python docs/generate.py

`--check` writes nothing and fails when a page is not what the code says; a test does the same.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from headrace import messages
from headrace.config import describe as describe_settings
from headrace.coordinator.core import status
from headrace.flowctl._app import COMMANDS, ROLES, cli
from headrace.language import (
    BUILTIN_HANDLERS,
    NODE_TYPES,
    TASK_TYPE_ALIASES,
    HandlerSpec,
    fill_page,
    workflow_schema,
)
from headrace.messages.subjects import labels_of
from headrace.telemetry import describe as describe_metrics

DOCS = Path(__file__).parent

COMMON = frozenset({"server", "context", "namespace", "output", "help"})
"""Options of every command, described once."""


# -- docs/cli.md -----------------------------------------------------------------------------------


def cli_page() -> str:
    """Return the reference of the command line."""
    context = click.Context(cli, info_name="flowctl")
    lines = [
        "# flowctl",
        "",
        "Generated from the commands themselves by `python docs/generate.py`. `flowctl COMMAND -h`",
        "prints the same.",
        "",
        *_help(cli),
        "",
        "Options of every command, before or after its name:",
        "",
        *_table(option for option in cli.params if option.name in COMMON),
    ]
    sections = {title: [*section] for title, section in COMMANDS.items()}
    for title, names in (sections | {"Run servers": [*ROLES]}).items():
        lines += ["", f"## {title}"]
        for name in names:
            command = cli.get_command(context, name)
            assert command is not None, name
            lines += _command(command, f"flowctl {name}", depth=3)
    return "\n".join(lines) + "\n"


def _command(command: click.Command, path: str, *, depth: int) -> Iterator[str]:
    arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    own = [
        p
        for p in command.params
        if isinstance(p, click.Option)
        and not (p.name in COMMON and not p.expose_value)
        and not p.hidden
    ]
    usage = " ".join([path, *(["[OPTIONS]"] if own else []), *arguments])
    yield from ("", f"{'#' * depth} {path}", "", f"`{usage}`", "", *_help(command))
    if own:
        yield from ("", *_table(own))
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            yield from _command(found, f"{path} {name}", depth=depth + 1)


def _help(command: click.Command) -> Iterator[str]:
    """Paragraphs as Markdown; what click must not wrap (after a line with \\b) is preformatted."""
    paragraphs = inspect.cleandoc(command.help or command.short_help or "").split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ""
        lines = paragraph.replace("\f", "").split("\n")
        if lines[0] == "\b":
            yield from ("```text", *lines[1:], "```")
        else:
            yield from lines


def _argument(argument: click.Argument) -> str:
    name = (argument.metavar or str(argument.name)).upper().strip("[].")
    name += "..." if argument.nargs != 1 else ""
    return name if argument.required else f"[{name}]"


def _table(options: Iterator[click.Parameter] | list[click.Option]) -> Iterator[str]:
    yield "| option | meaning |"
    yield "|---|---|"
    for option in options:
        assert isinstance(option, click.Option)
        names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
        text = " ".join((option.help or "").split())
        if option.show_default and option.default is not None:
            text += f" Default: `{option.default}`."
        if option.multiple:
            text += " May be given several times."
        value = _value(option).replace("|", "\\|")
        yield f"| {names}{value} | {text.strip() or '-'} |"


def _value(option: click.Option) -> str:
    if option.is_flag or option.count:
        return ""
    if isinstance(option.type, click.Choice):
        return f" `{'|'.join(map(str, option.type.choices))}`"
    return f" `{option.metavar or option.type.name.upper().split()[0]}`"


# -- docs/states.md --------------------------------------------------------------------------------

MEANINGS = {
    "PENDING": "Not begun. A task whose needs have ended, in a container that runs, is shown as "
    "`READY`; that is derived and not stored.",
    "DISPATCHED": "An attempt is with a lane or a worker.",
    "WAITING": "For a retry, a timer, a signal or a concurrency key.",
    "RUNNING": "A container whose children may run; for a run: alive.",
    "COMPLETED": "Ended well; its outputs are recorded and never computed again.",
    "FAILED": "Ended with an error, after all its attempts.",
    "SKIPPED": "Its condition was false, or something that it needs did not complete.",
    "CANCELLED": "Ended by a cancel, its own or its run's.",
    "UNKNOWN": "A step with `effect: at-most-once` was claimed and its worker lost: nobody knows "
    "whether it took effect.",
    "TEMPLATE": "Not an instance: a loop's body in the plan, or what the restart of a job left.",
}


def states_page() -> str:
    """Return the page of states and legal changes."""
    numbers = range(len(status.NAMES))
    lines = [
        "# States",
        "",
        "Drawn by `python docs/generate.py` from the table in",
        "`coordinator/headrace/coordinator/core/status.py`. One byte an instance; runs use the",
        "same numbers.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> PENDING",
    ]
    for value in numbers:
        for target in sorted(status.ALLOWED[value]):
            lines.append(f"    {status.NAMES[value]} --> {status.NAMES[target]}")
    lines += [f"    {status.NAMES[value]} --> [*]" for value in sorted(status.FINAL)]
    lines += [
        "```",
        "",
        "| state | number | last | may become | meaning |",
        "|---|---|---|---|---|",
    ]
    for value in numbers:
        name = status.NAMES[value]
        targets = ", ".join(status.NAMES[t] for t in sorted(status.ALLOWED[value])) or "-"
        last = "yes" if value in status.FINAL else "no"
        lines.append(f"| `{name}` | {value} | {last} | {targets} | {MEANINGS[name]} |")
    lines += [
        "",
        "`UNKNOWN` is final: the engine never runs such a step again by itself, and it counts as a",
        "failure (which `continue-on-error` tolerates). The table leaves room for settling it by a",
        "person or a reconcile step, which does not exist yet.",
        "",
        "Outside of the table: the restart of a job (`on-worker-loss: restart-job`) puts all",
        "instances of the job back to `PENDING`, whatever they were.",
    ]
    return "\n".join(lines) + "\n"


# -- docs/handlers.md ------------------------------------------------------------------------------


def handlers_page() -> str:
    """Return the reference of the handlers that every worker has."""
    lines = [
        "# Handlers",
        "",
        "Written by `python docs/generate.py` from `common/headrace/language/_handlers`;",
        "`flowctl handlers [NAME]` prints the same. A test runs every example. How to write one:",
        "[handlers of your own](plugins.md); `secrets` and `vars`: [secrets](secrets.md).",
        "",
        "A step says `uses: NAME` and gives inputs under `with:`; a task says `type: NAME` and",
        "gives them under `config:`. Inputs without `${{ }}` are checked before anything runs, and",
        "all of them again by the worker. A failed step names the type of its error, which the",
        "policy under `retry:` can refer to.",
        "",
        "| handler | does |",
        "|---|---|",
    ]
    lines += [
        f"| [`{name}`](#{_anchor(name)}) | {_sentence(spec.description)} |"
        for name, spec in BUILTIN_HANDLERS.items()
    ]
    lines += [
        "",
        "Types of tasks that the engine carries out itself, without a worker:",
        "",
        "| `type:` | does | step of `jobs:` |",
        "|---|---|---|",
    ]
    for name, node in NODE_TYPES.items():
        step = f"`{node.step}:`" if node.step else "-"
        lines.append(f"| [`{name}`](#type-{name}) | {node.description} | {step} |")
    for spec in BUILTIN_HANDLERS.values():
        lines += _handler(spec)
    for node in NODE_TYPES.values():
        lines += ["", f"## type: {node.name}", "", node.description, ""]
        lines += ["```yaml", *node.example.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def _handler(spec: HandlerSpec) -> Iterator[str]:
    yield from ("", f"## {spec.name}", "", spec.description)
    aliases = [alias for alias, name in TASK_TYPE_ALIASES.items() if name == spec.name]
    if aliases:
        names = " or ".join(f"`type: {alias}`" for alias in aliases)
        yield from ("", f"In the `tasks:` dialect also {names}.")
    if spec.extra:
        yield from ("", f"A worker needs `headrace[{spec.extra}]` for it.")
    if spec.inputs:
        yield from ("", "| input | type | default | meaning |", "|---|---|---|---|")
    for name, given in spec.inputs.items():
        default = "required" if given.required else _default(given.default)
        options = ", ".join(f"`{option}`" for option in given.options if option)
        text = given.description + (f" One of {options}." if options else "")
        yield f"| `{name}` | {given.type} | {default} | {_cell(text)} |"
    for names in spec.exactly_one:
        yield from ("", f"Exactly one of {', '.join(f'`{name}`' for name in names)} must be given.")
    for names in spec.at_most_one:
        yield from ("", f"At most one of {', '.join(f'`{name}`' for name in names)} may be given.")
    if spec.open:
        yield from ("", "Any input is taken.")
    if spec.outputs:
        yield from ("", "| output | type | meaning |", "|---|---|---|")
    for name, made in spec.outputs.items():
        yield f"| `{name}` | {made.type} | {_cell(made.description)} |"
    if spec.open_outputs:
        yield from ("", "Other outputs are the step's own.")
    yield from ("", "```yaml", *spec.example.splitlines(), "```")


def _default(value: object) -> str:
    return "-" if value in (None, "", [], {}) else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    return _cell(text.partition(". ")[0].removesuffix(".") + ".")


def _anchor(name: str) -> str:
    return name.replace("/", "")


# -- docs/language.md ------------------------------------------------------------------------------


def language_page() -> str:
    """Return the page of the language: written by hand, its tables drawn."""
    return fill_page((DOCS / "language.md").read_text("utf-8"))


# -- docs/schema.json ------------------------------------------------------------------------------


def schema_page() -> str:
    """Return the JSON Schema of workflow files."""
    return json.dumps(workflow_schema(), indent=2, ensure_ascii=False) + "\n"


# -- docs/protocol.md ------------------------------------------------------------------------------


def protocol_page() -> str:
    """Return the page of the protocol: written by hand, its tables of fields drawn."""
    page = (DOCS / "protocol.md").read_text("utf-8")
    found = re.compile(r"(<!-- fields: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return found.sub(lambda mark: mark[1] + _fields(mark[2]) + mark[3], page)


def _fields(name: str) -> str:
    kind = getattr(messages, name)
    config, described = kind.__struct_config__, _described(kind)
    tag = config.tag if config.array_like and config.tag else None
    head = "place" if config.array_like else "key"
    lines = [f"| {head} | field | type | default | |", "|---|---|---|---|---|"]
    if tag:
        lines.append(f"| 0 | | text | | always `{tag}` |")
    for place, field in enumerate(msgspec.structs.fields(kind), start=1 if tag else 0):
        type_, text = described[field.name]
        default = "" if field.required else f"`{_preset(field)}`"
        where = str(place) if config.array_like else f"`{field.encode_name}`"
        lines.append(f"| {where} | {field.name} | {type_} | {default} | {text} |")
    return "\n".join(lines) + "\n"


def _described(kind: type) -> dict[str, tuple[str, str]]:
    """Return type and text of each field: what stands behind it, and the docstring below it."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, tuple[str, str]] = {}
    for node, below in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = _cell(inspect.cleandoc(str(below.value.value)))
            found[node.target.id] = (_spelled(ast.unparse(node.annotation)), text)
    return found


_WORDS = {"str": "text", "msgspec.Raw": "any", "Any": "any", "None": "nil", "dict": "map"}


def _spelled(annotation: str) -> str:
    words = re.compile(r"msgspec\.Raw|\b(?:str|Any|None|dict)\b")
    return words.sub(lambda word: _WORDS[word[0]], annotation).replace("|", "\\|")


def _preset(field: msgspec.structs.FieldInfo) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Raw):
        value = msgspec.msgpack.decode(value)
    return json.dumps(value).replace("null", "nil")


# -- docs/security.md ------------------------------------------------------------------------------


def security_page() -> str:
    """Return the page with the table of rights as the code has it."""
    text = (DOCS / "security.md").read_text("utf-8")
    begin, end = "<!-- rights -->", "<!-- end -->"
    lines = [begin]
    for title, found in (
        ("Workers", messages.worker_rights("NAMESPACE", "ID", ("LABELS",))),
        ("Clients", messages.client_rights("NAMESPACE")),
    ):
        lines += ["", f"### {title}", "", "| | subject | what for |", "|---|---|---|"]
        for right in found:
            subject = right.subject.replace(labels_of(["LABELS"]), "LABELS")
            lines.append(f"| {right.kind} | `{subject}` | {right.why} |")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    return "\n".join([before + lines[0], *lines[1:], "", end]) + after


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "configuration.md": describe_settings,
    "handlers.md": handlers_page,
    "language.md": language_page,
    "metrics.md": describe_metrics,
    "protocol.md": protocol_page,
    "schema.json": schema_page,
    "security.md": security_page,
    "states.md": states_page,
}


def stale() -> list[str]:
    """Return the names of the pages that are not what the code says."""
    return [
        name
        for name, page in PAGES.items()
        if not (DOCS / name).is_file() or (DOCS / name).read_text("utf-8") != page()
    ]


def main() -> None:
    """Write the pages, or check them."""
    wrong = stale()
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale: {', '.join(wrong)}; run python docs/generate.py" if wrong else 0)
    for name in wrong:
        (DOCS / name).write_text(PAGES[name](), "utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
