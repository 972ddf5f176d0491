"""YAML 1.2 text (core schema) to a tree that remembers where everything stands.

Built from libyaml's events, not with PyYAML's constructors: those read YAML 1.1 (`on` is true
there), forget positions and expand aliases without a bound. No recursion here.
"""

from __future__ import annotations

import math
import re
from typing import Any, NoReturn, TypeAlias

import yaml

from headrace.language._limits import FILE_BYTES_MAX, YAML_DEPTH_MAX, YAML_NODES_MAX
from headrace.language._report import Report

_CORE: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NUMBER_START = frozenset("0123456789+-.")
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_TAG_PREFIX = "tag:yaml.org,2002:"
_INT_DIGITS_MAX = 300
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


class Scalar:
    """A scalar: `text` as written (quotes and folds undone), `value` by the core schema."""

    __slots__ = ("block", "column", "folded", "line", "text", "value")

    def __init__(self, text: str, value: Any, line: int, column: int, style: str = "") -> None:
        self.text, self.value, self.line, self.column = text, value, line, column
        self.block = style == "|"
        """Written as a ``|`` block: the text begins on the line behind, its lines are its own."""
        self.folded = style == ">"


class Sequence:
    """A list."""

    __slots__ = ("column", "depth", "items", "line", "weight")

    def __init__(self, line: int, column: int) -> None:
        self.items: list[Tree] = []
        self.line, self.column = line, column
        self.weight = self.depth = 1


class Mapping:
    """A mapping: `entries` by key, in order; keys are the texts of scalars."""

    __slots__ = ("column", "depth", "entries", "keys", "line", "pending", "weight")

    def __init__(self, line: int, column: int) -> None:
        self.entries: dict[str, Tree] = {}
        self.keys: dict[str, Scalar] = {}
        self.line, self.column = line, column
        self.weight = self.depth = 1
        self.pending: Scalar | None = None


Tree: TypeAlias = Scalar | Sequence | Mapping


def load(text: str, report: Report) -> Tree:
    """Return the one document in *text*.

    Raises `InvalidDefinition` on bad YAML, duplicate keys, several documents, and past the
    limits of a file.
    """
    if len(text) > FILE_BYTES_MAX or len(text.encode("utf-8", "replace")) > FILE_BYTES_MAX:
        report.fatal(f"the file is too large: FILE_BYTES_MAX = {FILE_BYTES_MAX} bytes")
    try:
        root = _Builder(report).build(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(filter(None, (error.context, error.problem)))
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        report.fatal(f"invalid YAML: {what}", line, column, _tab_hint(text, error))
    except yaml.reader.ReaderError as error:
        report.fatal(f"invalid YAML: {str(error).splitlines()[0]}", *_place_of(error, text))
    except (yaml.YAMLError, UnicodeError) as error:
        report.fatal(f"invalid YAML: {str(error).splitlines()[0]}")
    if root is None:
        report.fatal("the file is empty", hint="a workflow has 'jobs:' or 'tasks:'")
    return root


def _tab_hint(text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    if mark is None or "cannot start any token" not in str(error.problem):
        return ""
    line = text.splitlines()[mark.line : mark.line + 1]
    tab = line and line[0][mark.column : mark.column + 1] == "\t"
    return "YAML indents by spaces, not by tabs" if tab else ""


def _place_of(error: yaml.reader.ReaderError, text: str) -> tuple[int, int]:
    """Return line and column of the character that YAML does not have; (0, 0): not found."""
    code = error.character
    before = text.partition(chr(code))[0] if isinstance(code, int) and code < 0x110000 else text
    if len(before) == len(text):
        return 0, 0
    return before.count("\n") + 1, len(before) - before.rfind("\n")


class _Builder:
    """Events are `Any`: the stubs allow marks to be missing, which libyaml's never are."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._root: Tree | None = None
        self._open: list[Sequence | Mapping] = []
        self._anchors: dict[str, Tree] = {}
        self._names: list[str | None] = []
        self._count = 0

    def build(self, text: str) -> Tree | None:
        documents = 0
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._scalar(event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._begin(event, mapping=kind is yaml.MappingStartEvent)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._end()
            elif kind is yaml.AliasEvent:
                self._alias(event)
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    self._fatal("a workflow file holds one YAML document", event)
        return self._root

    def _fatal(self, message: str, event: Any, hint: str = "") -> NoReturn:
        mark = event.start_mark
        self._report.fatal(message, mark.line + 1, mark.column + 1, hint)

    def _grow(self, amount: int, event: Any) -> None:
        self._count += amount
        if self._count > YAML_NODES_MAX:
            self._fatal(f"the file is too large: YAML_NODES_MAX = {YAML_NODES_MAX}", event)

    def _scalar(self, event: Any) -> None:
        self._grow(1, event)
        text, mark = event.value, event.start_mark
        line, column = mark.line + 1, mark.column + 1
        value: Any = text
        if event.tag is not None:
            value = self._tagged(event)
        elif event.implicit[0] and (text in _CORE or text[0] in _NUMBER_START):
            value = self._plain(text, line, column)
        node = Scalar(text, value, line, column, event.style)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._place(node, event)

    def _plain(self, text: str, line: int, column: int) -> Any:
        if text in _CORE:
            return _CORE[text]
        if _INT.match(text):
            return _integer(text)
        if _FLOAT.match(text):
            number = float(text)
            if math.isfinite(number):
                return number
            self._report.add_at(f"the number {text} is too large", line, column)
        elif _NOT_FINITE.match(text):
            self._report.add_at(f"{text} is no JSON number", line, column, "quote it")
        return text

    def _tagged(self, event: Any) -> Any:
        tag = event.tag
        text = event.value
        mark = event.start_mark
        if tag in ("!", _TAG_PREFIX + "str"):
            return text
        plain = self._plain(text, mark.line + 1, mark.column + 1)
        kinds: dict[str, tuple[type, ...]] = {
            "null": (type(None),), "bool": (bool,), "int": (int,), "float": (int, float),
        }  # fmt: skip
        wanted = kinds.get(tag.removeprefix(_TAG_PREFIX))
        if wanted is None:
            hint = "a value that begins with '!' must be quoted" if tag.startswith("!") else ""
            self._report.add_at(f"unknown YAML tag '{tag}'", mark.line + 1, mark.column + 1, hint)
        elif not isinstance(plain, wanted):
            self._report.add_at(f"'{text}' does not fit its tag", mark.line + 1, mark.column + 1)
        return plain

    def _begin(self, event: Any, *, mapping: bool) -> None:
        self._grow(1, event)
        if len(self._open) >= YAML_DEPTH_MAX:
            self._fatal(f"nested too deeply: YAML_DEPTH_MAX = {YAML_DEPTH_MAX}", event)
        if event.tag is not None and event.tag not in (_TAG_PREFIX + "map", _TAG_PREFIX + "seq"):
            self._fatal(f"unknown YAML tag '{event.tag}'", event)
        mark = event.start_mark
        node: Sequence | Mapping
        node = (Mapping if mapping else Sequence)(mark.line + 1, mark.column + 1)
        if self._open and isinstance(self._open[-1], Mapping) and self._open[-1].pending is None:
            self._fatal("a key must be a single word or text", event)
        # Placed at its end: until then it has no weight, and no alias may reach into it.
        self._open.append(node)
        self._names.append(event.anchor)

    def _end(self) -> None:
        node = self._open.pop()
        anchor = self._names.pop()
        if anchor is not None:
            self._anchors[anchor] = node
        self._place(node, None)

    def _alias(self, event: Any) -> None:
        node = self._anchors.get(event.anchor)
        if node is None:
            self._fatal(f"unknown anchor '{event.anchor}'", event)
        if not isinstance(node, Scalar):
            self._grow(node.weight, event)
            if len(self._open) + node.depth > YAML_DEPTH_MAX:
                self._fatal(f"nested too deeply: YAML_DEPTH_MAX = {YAML_DEPTH_MAX}", event)
        self._place(node, event)

    def _place(self, node: Tree, event: Any) -> None:
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if not isinstance(node, Scalar):
            parent.weight += node.weight
            parent.depth = max(parent.depth, node.depth + 1)
        else:
            parent.weight += 1
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif parent.pending is None:
            self._key(parent, node, event)
        else:
            parent.entries[parent.pending.text] = node
            parent.pending = None

    def _key(self, parent: Mapping, node: Tree, event: Any) -> None:
        if not isinstance(node, Scalar):
            self._fatal("a key must be a single word or text", event)
        elif node.text in parent.keys:
            first = parent.keys[node.text].line
            self._report.add(f"duplicate key '{node.text}'", node, f"it stands in line {first} too")
        if node.text == "<<" and node.value == "<<":
            self._report.add("merge keys ('<<') are not part of YAML 1.2", node)
        parent.keys[node.text] = node
        parent.pending = node


def _integer(text: str) -> int | float:
    if text.startswith("0o"):
        number = int(text[2:], 8)
    elif text.startswith("0x"):
        number = int(text[2:], 16)
    elif len(text) > _INT_DIGITS_MAX:
        return float(text[:1] + "1e308") if text[0] in "+-" else 1e308
    else:
        number = int(text)
    # Plans are msgpack, whose integers have 64 bits; JSON readers round larger ones anyway.
    return number if _INT_MIN <= number <= _INT_MAX else float(number)


def to_json(node: Tree) -> Any:
    """Return *node* as plain JSON; recursion is bounded by `YAML_DEPTH_MAX`."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [to_json(item) for item in node.items]
    return {key: to_json(value) for key, value in node.entries.items()}
