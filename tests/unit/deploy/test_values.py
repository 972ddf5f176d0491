"""What `values.schema.json` says is what `values.yaml` has: both charts, without helm."""

import copy
import json
import re

import jsonschema
import pytest
import yaml

from support.deploykit import CHART, ROOT

CHARTS = {"headrace": CHART, "nats": CHART / "charts" / "nats"}
HELMS = {"headrace": {"global"}, "nats": {"global", "enabled"}}
"""Keys that helm itself gives."""
POOL = "workerDefaults"


def values_of(name):
    return yaml.safe_load((CHARTS[name] / "values.yaml").read_text())


def schema_of(name):
    return json.loads((CHARTS[name] / "values.schema.json").read_text())


def validator(schema):
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def problems(name, values):
    found = validator(schema_of(name)).iter_errors(values)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def resolved(schema, node):
    while "$ref" in node:
        target = schema
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def walk(schema, node, values, at=""):
    """Yield (path, schema, value) of what either has; None where one lacks it."""
    node = resolved(schema, node)
    for key in sorted({*node.get("properties", {}), *values}):
        inner = node.get("properties", {}).get(key)
        path = f"{at}.{key}" if at else key
        yield path, inner, values.get(key), key in values
        below = resolved(schema, inner) if inner is not None else {}
        if isinstance(values.get(key), dict) and "properties" in below:
            yield from walk(schema, inner, values[key], path)


def with_all(values, defaults):
    """Return *values* with all that *defaults* have, as helm puts them together."""
    found = copy.deepcopy(defaults)
    for key, value in values.items():
        nested = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = with_all(value, found[key]) if nested else value
    return found


@pytest.mark.parametrize("name", CHARTS)
def test_keys_of_the_values_and_of_the_schema_are_the_same(name):
    schema, values = schema_of(name), values_of(name)
    differ = {
        path
        for path, known, _, given in walk(schema, schema, values)
        if (known is None or not given) and path not in HELMS[name]
    }
    # A pool's name has no default.
    assert differ == ({f"{POOL}.name"} if name == "headrace" else set())


@pytest.mark.parametrize("name", CHARTS)
def test_every_key_of_the_schema_has_a_type_and_says_what_it_is(name):
    schema, values = schema_of(name), values_of(name)
    for path, known, _, _ in walk(schema, schema, values):
        node = resolved(schema, known)
        assert node.keys() & {"type", "enum", "anyOf"}, path
        closed = "properties" not in node or node.get("additionalProperties") is False
        assert closed, f"{path}: takes keys that nobody knows"


@pytest.mark.parametrize("name", CHARTS)
def test_the_defaults_are_valid_and_a_value_of_another_type_is_not(name):
    schema, values = schema_of(name), values_of(name)
    assert problems(name, values) == []
    for path, _, value, given in list(walk(schema, schema, values)):
        if not given:
            continue
        changed = copy.deepcopy(values)
        *above, last = path.split(".")
        node = changed
        for part in above:
            node = node[part]
        node[last] = 7 if isinstance(value, str | bool | list | dict) else "no number"
        assert problems(name, changed), f"{path}: takes {node[last]!r} for {value!r}"


@pytest.mark.parametrize("name", CHARTS)
def test_a_key_that_nobody_knows_is_refused_at_every_depth(name):
    schema, values = schema_of(name), values_of(name)
    places = [
        path
        for path, known, value, _ in walk(schema, schema, values)
        if isinstance(value, dict) and "properties" in resolved(schema, known)
    ]
    assert len(places) >= 5
    for path in ["", *places]:
        changed = copy.deepcopy(values)
        node = changed
        for part in path.split(".") if path else ():
            node = node[part]
        node["unheardOf"] = 1
        assert any("unheardOf" in problem for problem in problems(name, changed)), path


def test_the_parents_values_for_nats_are_valid_there():
    defaults = values_of("nats")
    given = {key: value for key, value in values_of("headrace")["nats"].items() if key != "enabled"}
    assert problems("nats", with_all(given, defaults)) == []
    unknown = [
        path
        for path, _, _, _ in walk(schema_of("nats"), schema_of("nats"), given)
        if path.split(".")[0] not in defaults | {"enabled": 0, "global": 0}
    ]
    assert unknown == []


def documented():
    """Yield (name, values) of every example: files of the chart, and those in its documents."""
    for path in sorted((CHART / "ci").glob("*.yaml")):
        yield path.name, yaml.safe_load(path.read_text())
    base = ROOT / "deploy" / "k8s" / "base" / "values.yaml"
    yield "base", yaml.safe_load(base.read_text())
    known = schema_of("headrace")["properties"]
    for path in (CHART / "README.md", ROOT / "docs" / "deploy.md", ROOT / "docs" / "operations.md"):
        for number, text in enumerate(
            re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL)
        ):
            found = yaml.safe_load(text)
            if isinstance(found, dict) and found.keys() & known.keys():
                yield f"{path.name}-{number}", found


def test_documented_examples_are_valid():
    found = list(documented())
    assert len(found) >= 5
    for name, values in found:
        merged = with_all(values, values_of("headrace"))
        assert problems("headrace", merged) == [], name
        assert problems("nats", with_all(merged["nats"], values_of("nats"))) == [], name


def test_options_in_the_documents_are_values_that_there_are():
    known = {path for path, _, _, _ in walk(*(schema_of("headrace"),) * 2, values_of("headrace"))}
    known |= {f"nats.{p}" for p, _, _, _ in walk(*(schema_of("nats"),) * 2, values_of("nats"))}
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md"), ROOT / "README.md"]
    named = [
        (path.name, option)
        for path in pages
        for option in re.findall(r"--set(?:-string)? ([A-Za-z][\w.]*)=", path.read_text())
    ]
    assert named
    assert [(page, option) for page, option in named if option not in known] == []
