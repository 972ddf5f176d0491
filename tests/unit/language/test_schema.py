"""The JSON Schema and the compiler say the same, each asked by itself.

What the compiler takes, it is asked for by planting a key that it does not know: its hint lists
those that it does.
"""

import os
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from headrace.errors import InvalidDefinition
from headrace.language import BUILTIN_HANDLERS, NODE_TYPES, compile_workflow, workflow_schema
from headrace.language._report import Report
from headrace.language._schema import SHAPES, job_shape, root_shape, step_shapes, task_shapes
from headrace.language._yaml import load, to_json

_REPOSITORY = Path(__file__).parents[3]
_OURS = sorted((_REPOSITORY / "examples").glob("*.yaml"))
_SHARED = Path(os.environ.get("HEADRACE_EXAMPLES", _REPOSITORY.parent / "shared" / "examples"))
_FILES = [*_OURS, *sorted(_SHARED.glob("*.yaml"))]

BOTH = Draft202012Validator(workflow_schema())
JOBS = Draft202012Validator(workflow_schema("jobs"))
TASKS = Draft202012Validator(workflow_schema("tasks"))


def read(text):
    return to_json(load(text, Report(text, "w.yaml")))


def fits(text, validator=BOTH):
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(read(text))]


def problems(text):
    try:
        compile_workflow(text, file="w.yaml", allow_unknown=True)
    except InvalidDefinition as error:
        return list(error.problems)
    return []


def keys_of_compiler(text):
    """Return the keys that the compiler names when it meets `qqzzqq`."""
    found = [p.hint for p in problems(text) if p.message.startswith("unknown key 'qqzzqq'")]
    assert len(found) == 1, problems(text)
    return set(found[0].removeprefix("keys: ").split(", "))


JOB = "jobs: {a: {steps: [{run: x}]}}"
STEP = "jobs: {a: {steps: [%s]}}"
PLANTED = {
    "dispatch": "on: {workflow_dispatch: {qqzzqq: 1}}\n" + JOB,
    "call": "on: {workflow_call: {qqzzqq: 1}}\n" + JOB,
    "call-secret": "on: {workflow_call: {secrets: {s: {qqzzqq: 1}}}}\n" + JOB,
    "call-output": "on: {workflow_call: {outputs: {o: {value: x, qqzzqq: 1}}}}\n" + JOB,
    "schedule": "on: {schedule: [{cron: '* * * * *', qqzzqq: 1}]}\n" + JOB,
    "event": "on: {event: {subject: a, qqzzqq: 1}}\n" + JOB,
    "debounce": "on: {event: {subject: a, debounce: {period: 1s, qqzzqq: 1}}}\n" + JOB,
    "input": "on: {workflow_dispatch: {inputs: {i: {qqzzqq: 1}}}}\n" + JOB,
    "concurrency": "concurrency: {group: g, qqzzqq: 1}\n" + JOB,
    "cache": STEP % "{run: x, cache: {key: a, qqzzqq: 1}}",
    "lock": STEP % "{run: x, lock: {name: db, qqzzqq: 1}}",
    "rate-limit": STEP % "{run: x, rate-limit: {key: x, limit: 1, per: 1s, qqzzqq: 1}}",
    "on-failure": STEP % "{run: x, on-failure: {action: skip, qqzzqq: 1}}",
    "retry": STEP % "{run: x, retry: {qqzzqq: 1}}",
    "defaults": "defaults: {qqzzqq: 1}\n" + JOB,
    "defaults-run": "defaults: {run: {qqzzqq: 1}}\n" + JOB,
    "strategy": "jobs: {a: {strategy: {matrix: {x: [1]}, qqzzqq: 1}, steps: [{run: x}]}}",
    "loop": STEP % "{loop: {for-each: [1], qqzzqq: 1, steps: [{run: x}]}}",
    "runs-on": "jobs: {a: {runs-on: {group: g, qqzzqq: 1}, steps: [{run: x}]}}",
    "branch": STEP % "{choose: [{if: true, qqzzqq: 1, steps: [{run: x}]}]}",
    "branch-of-tasks": "tasks: [{name: a, type: choose, branches: "
    "[{if: true, qqzzqq: 1, tasks: [{name: b, type: noop}]}]}]",
    "elif": STEP % "{if: true, then: [{run: x}], elif: [{if: true, then: [{run: x}], qqzzqq: 1}]}",
    "elif-of-tasks": "tasks: [{name: a, type: if, if: true, then: [{name: b, type: noop}], "
    "elif: [{if: true, then: [{name: b, type: noop}], qqzzqq: 1}]}]",
    "wait": STEP % "{wait-for: {signal: s, qqzzqq: 1}}",
    "approval": STEP % "{approval: {qqzzqq: 1}}",
    "sleep": STEP % "{sleep: {for: 1s, qqzzqq: 1}}",
    "subworkflow": STEP % "{subworkflow: {uses: ./b.yaml, qqzzqq: 1}}",
}


def test_it_is_a_schema_of_its_draft():
    for dialect in (None, "jobs", "tasks"):
        found = workflow_schema(dialect)
        assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        Draft202012Validator.check_schema(found)
    assert "task" not in workflow_schema("jobs")["$defs"]


@pytest.mark.parametrize("name", SHAPES)
def test_keys_are_those_of_the_compiler(name):
    assert set(PLANTED) == set(SHAPES), "a new shape needs a file here"
    # In a body of steps the compiler lists `tasks` with the others, and asks for `steps` then.
    expected = keys_of_compiler(PLANTED[name])
    if name in ("loop", "branch"):
        expected -= {"tasks"}
    assert set(workflow_schema()["$defs"][name]["properties"]) == expected
    assert any("qqzzqq" in text for text in fits(PLANTED[name]))


@pytest.mark.parametrize("dialect", ["jobs", "tasks"])
def test_keys_of_the_root_are_those_of_the_compiler(dialect):
    text = JOB if dialect == "jobs" else "tasks: [{name: a, type: noop}]"
    expected = keys_of_compiler(f"qqzzqq: 1\n{text}")
    assert set(workflow_schema(dialect)["properties"]) == expected
    both = workflow_schema()
    assert set(both["then" if dialect == "jobs" else "else"]["propertyNames"]["enum"]) == expected


def accepted(text, key):
    """Tell whether the compiler knows *key* where it stands, whatever it says of its value."""
    wrong = (f"unknown key '{key}' in", f"'{key}' does not go with", f"'{key}' is not supported")
    return not any(
        problem.message.startswith(wrong)
        for problem in problems(text)
        # That is about the settings of a loop, not about what stands beside a type.
        if not problem.message.endswith("with 'for-each'")
    )


def allowed_keys(validator, document, keys):
    """Return those of *keys* that the schema lets stand in the innermost mapping."""
    found = set()
    for key in keys:
        errors = [
            error
            for error in validator.iter_errors(document(key))
            if f"'{key}'" in error.message or error.validator == "oneOf"
        ]
        if not errors:
            found.add(key)
    return found


VALUES = {
    "uses": "noop", "run": "x", "parallel": [{"run": "x"}], "pipeline": [{"run": "x"}],
    "loop": {"for-each": [1], "steps": [{"run": "x"}]},
    "choose": [{"if": "true", "steps": [{"run": "x"}]}], "wait-for": "s", "approval": None,
    "sleep": "1s", "subworkflow": "./b.yaml",
    "wait": "b", "cancel": "b", "wait-all": True, "then": [{"run": "x"}], "id": "i", "name": "n",
}  # fmt: skip


@pytest.mark.parametrize("action", step_shapes())
def test_what_goes_with_an_action_is_what_the_compiler_says(action):
    every = {key for shape in step_shapes().values() for key in shape.keys} | {"background", "zz"}
    others = every - (step_shapes().keys() - {action})

    def document(key):
        step = {action: VALUES[action], key: VALUES.get(key)}
        return {"jobs": {"a": {"steps": [step]}}}

    expected = {key for key in others if accepted(yaml.safe_dump(document(key)), key)}
    assert allowed_keys(JOBS, document, others) == expected
    assert expected >= {"id", "if", action}


@pytest.mark.parametrize("kind", task_shapes())
def test_what_goes_with_a_type_is_what_the_compiler_says(kind):
    every = {key for shape in task_shapes().values() for key in shape.keys} | {"run", "zz"}

    def document(key):
        return {"tasks": [{"name": "a", "type": kind or "noop", key: "x"} | {"name": "a"}]}

    keys = every - {"name", "type"}
    expected = {key for key in keys if accepted(yaml.safe_dump(document(key)), key)}

    def names(key):
        errors = TASKS.iter_errors(document(key))
        return [e for e in leaves(errors) if e.validator in ("enum", "additionalProperties")
                and e.instance in (key, document(key)["tasks"][0])]  # fmt: skip

    assert {key for key in keys if not names(key)} == expected
    assert expected >= {"if", "needs", "depends-on"}


def leaves(errors):
    for error in errors:
        yield error
        yield from leaves(error.context or ())


@pytest.mark.parametrize("action", ["steps", "uses"])
def test_keys_of_jobs_are_those_of_the_compiler(action):
    shape = job_shape(action)
    every = {*job_shape("steps").keys, *job_shape("uses").keys, "container", "zz"}
    value = [{"run": "x"}] if action == "steps" else "./b.yaml"

    def document(key):
        return {"jobs": {"a": {key: None, action: value}}}

    keys = every - {"steps", "uses"}
    expected = {key for key in keys if accepted(yaml.safe_dump(document(key)), key)}
    assert allowed_keys(JOBS, document, keys) == expected
    assert expected == set(shape.keys) - {"steps", "uses"}


def test_every_key_has_words():
    shapes = {"jobs": root_shape("jobs"), "tasks": root_shape("tasks"), **SHAPES}
    shapes |= {f"step {name}": shape for name, shape in step_shapes().items()}
    shapes |= {f"task {name}": shape for name, shape in task_shapes().items()}
    shapes |= {"job": job_shape("steps"), "caller": job_shape("uses")}
    silent = [
        (name, key)
        for name, shape in shapes.items()
        for key, fragment in shape.properties().items()
        if not fragment.get("description")
    ]
    assert silent == []


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_examples_fit(path):
    assert fits(path.read_text("utf-8")) == []


@pytest.mark.parametrize("name", [*BUILTIN_HANDLERS, *NODE_TYPES])
def test_examples_of_the_reference_fit(name):
    spec = BUILTIN_HANDLERS.get(name)
    if spec is None:
        text = "tasks:\n" + NODE_TYPES[name].example
        assert fits(text, TASKS) == []
    else:
        document = {"jobs": {"a": {"steps": yaml.safe_load(spec.example)}}}
        assert list(JOBS.iter_errors(document)) == []


@pytest.mark.parametrize(
    "text",
    [
        "jobs: {}",
        "tasks: []",
        "jobs: {a: {steps: []}}",
        "jobs: {a: {steps: [{run: x}]}}\ntasks: [{name: a, type: noop}]",
        "jobs: {a: {steps: [{run: x, uses: noop}]}}",
        "jobs: {a: {steps: [{name: only}]}}",
        "jobs: {a: {steps: [{run: x, with: {a: 1}}]}}",
        "jobs: {a: {steps: [{run: x, timeout-minutes: 0}]}}",
        "jobs: {a: {steps: [{run: x, retry: 0}]}}",
        "jobs: {a: {steps: [{parallel: [{run: x}], join: most}]}}",
        "jobs: {a: {uses: ./b.yaml, steps: [{run: x}]}}",
        "jobs: {a: {steps: [{sleep: soon}]}}",
        "jobs: {a: {steps: [{uses: http/request, with: {url: 'http://x', retries: many}}]}}",
        "jobs: {a: {steps: [{uses: file/move, with: {sauce: a}}]}}",
        "tasks: [{name: a, type: shell, config: {comand: a}}]",
        "on: {workflow_dispatch: {inputs: {i: {type: integer}}}}\njobs: {a: {steps: [{run: x}]}}",
        "on: pushed\njobs: {a: {steps: [{run: x}]}}",
    ],
)
def test_what_does_not_fit_does_not_compile(text):
    assert fits(text) != []
    with pytest.raises(InvalidDefinition):
        compile_workflow(text, file="w.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "jobs: {a: {steps: [{uses: http/request, with: {url: x, retries: '${{ inputs.n }}'}}]}}",
        "jobs: {a: {steps: [{run: x, timeout-minutes: '${{ inputs.n }}'}]}}",
        "on:\njobs: {a: {steps: [{approval: }, {sleep: {until: '2030-01-01T00:00:00Z'}}]}}",
        "on: [push, workflow_dispatch]\njobs: {a: {runs-on: [a, b], steps: [{run: x}]}}",
        "on: {push: {branches: [main]}, workflow_dispatch: }\njobs: {a: {steps: [{run: x}]}}",
        "tasks: {a: {type: noop}, b: {type: http, depends_on: a, config: {url: 'http://x'}}}",
    ],
)
def test_what_compiles_fits(text):
    assert problems(text) == []
    assert fits(text) == []
