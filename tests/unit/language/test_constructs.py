"""Each construct of the language runs on the embedded engine: the files of `constructs/` here, the
examples of `docs/language.md` and the patterns; what the schema knows, some run has used."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.language import workflow_schema
from support.examples import check_run, read_examples

HERE = Path(__file__).parent / "constructs"
DOCS = Path(__file__).parents[3] / "docs"
FILES = sorted(HERE.glob("*.yaml"))
ELSEWHERE = {"schedule.catch-up-window"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_construct(path):
    await check_run(str(path), json.loads(path.read_text("utf-8").splitlines()[0][7:]))


def test_every_key_is_used_by_something_that_runs():
    """Inputs of handlers have tests of their own; so have calls, events and schedules."""
    examples = read_examples((DOCS / "language.md").read_text("utf-8"))
    texts = [example.text for example in examples if example.kind in ("run", "file")]
    texts += [
        path.read_text("utf-8") for path in [*HERE.iterdir(), *(DOCS / "patterns").glob("*.yaml")]
    ]
    found = Keys(workflow_schema(None))
    for text in texts:
        found.note(yaml.load(text, Loader=yaml.BaseLoader), found.schema, "workflow")
    missing = {key for key in found.known - found.used if not key.startswith(("with-", "on."))}
    assert missing == ELSEWHERE


class Keys:
    """The keys that a schema knows, as ``definition.key``, and which of them files use."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema
        self.used: set[str] = set()
        self.known: set[str] = set()
        self._know(schema, "workflow")
        for name, found in schema["$defs"].items():
            self._know(found, name)

    def _know(self, schema: Any, name: str) -> None:
        self.known.update(_named(name, key) for key in schema.get("properties", {}))
        for inner in _alternatives(schema):
            self._know(inner, name)

    def note(self, value: Any, schema: Any, name: str) -> None:
        """Note what *value* uses of *schema*, in whichever of its alternatives."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            self.note(value, self.schema["$defs"][name], name)
        for inner in _alternatives(schema):
            self.note(value, inner, name)
        if isinstance(value, list):
            for item in value:
                self.note(item, schema.get("items") or {}, name)
        if isinstance(value, dict):
            properties, others = schema.get("properties", {}), schema.get("additionalProperties")
            for key, item in value.items():
                if key in properties:
                    self.used.add(_named(name, key))
                    self.note(item, properties[key], name)
                elif isinstance(others, dict):
                    self.note(item, others, name)


def _named(name: str, key: str) -> str:
    """Keys of tasks may be written with ``_``."""
    return f"{name}.{key.replace('_', '-')}"


def _alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = [inner for word in ("oneOf", "anyOf", "allOf") for inner in schema.get(word, ())]
    found += [schema[word] for word in ("if", "then", "else") if isinstance(schema.get(word), dict)]
    return [inner for inner in found if isinstance(inner, dict)]
