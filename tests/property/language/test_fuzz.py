"""Nothing but our own errors comes out of the loader, the parser and the compiler."""

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidDefinition
from headrace.expressions import ExpressionError, evaluate_template, parse, resolve
from headrace.language import compile_workflow, render_graph
from headrace.plan import decode_plan, encode_plan, plan_digest, validate_plan

FRAGMENTS = [
    "a", "github", "steps.x", "(", ")", "[", "]", ".", "*", ",", "!", "==", "!=", "<", ">=", "&&",
    "||", "'s'", "'", "1", "-1", "0x1f", "1e9", "NaN", "Infinity", "null", "true", "join(",
    "contains(", "format(", "'{0}{1}'", "fromJSON(", "toJSON(", "case(", "'[1,{}]'", " ", "\n",
    "always()", "${{", "}}", "é", "\U0001f600", "\x00", "list", "obj",
]  # fmt: skip
expressions = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(FRAGMENTS)).map("".join))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=10,
)


@given(expressions, json_values, json_values)
@settings(max_examples=400, deadline=None)
def test_expressions(source, some, other):
    contexts = {"a": some, "list": [some, other], "obj": {"x": other}, "github": {}, "steps": {}}
    functions = {"always": lambda: True}
    for evaluate in (
        lambda: parse(source).evaluate(contexts, functions),
        lambda: evaluate_template("${{" + source + "}}", contexts, functions),
        lambda: evaluate_template(source, contexts, functions),
        lambda: resolve({"k": [source]}, contexts, functions),
    ):
        try:
            evaluate()
        except ExpressionError:
            continue


@given(st.sampled_from(["<=", "<", ">=", ">", "==", "!="]), json_values, json_values)
@settings(max_examples=200, deadline=None)
def test_comparisons_are_booleans_and_consistent(operator, left, right):
    contexts = {"l": left, "r": right}
    assert parse(f"l {operator} r").evaluate(contexts) in (True, False)
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(operator, operator)
    there = parse(f"l {operator} r").evaluate(contexts)
    back = parse(f"r {flipped} l").evaluate(contexts)
    assert there == back


def compiles(text, called=None):
    load = None if called is None else lambda name: called
    try:
        plan = compile_workflow(text, file="w.yaml", load=load)
    except InvalidDefinition:
        return
    # What compiles is sound, survives the wire and can be drawn.
    validate_plan(plan)
    encoded = encode_plan(plan)
    assert plan_digest(decode_plan(encoded)) == plan_digest(plan)
    render_graph(plan, "mermaid")


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text(text):
    compiles(text)


@given(st.text(alphabet=string.printable, max_size=120).map(lambda t: "jobs:\n" + t))
@settings(max_examples=200, deadline=None)
def test_any_body(text):
    compiles(text)


WORDS = [
    "jobs", "tasks", "name", "on", "env", "inputs", "needs", "depends_on", "depends-on", "if",
    "steps", "run", "uses", "with", "config", "type", "shell", "noop", "parallel", "pipeline",
    "loop", "for-each", "for_each", "as", "join", "losers", "choose", "branches", "else",
    "wait-for", "wait", "approval", "sleep", "until", "signal", "timeout", "default", "retry",
    "max-attempts", "strategy", "matrix", "include", "exclude", "fail-fast", "max-parallel",
    "runs-on", "runs_on", "outputs", "concurrency", "group", "timeout-minutes", "id", "a", "b",
    "continue-on-error", "continue_on-error", "workflow_dispatch", "options", "choice", "title",
    "schedule", "cron", "timezone", "catch-up", "overlap", "jitter", "event", "subject", "filter",
    "debounce", "period", "max", "workflow_call", "secrets",
    "uses", "./c.yaml", "cancel-timeout-minutes", "cancel-in-progress", "queue", "value",
    "defaults", "labels", "vars", "http", "script", "command", "code", "script", "priority",
]  # fmt: skip
words = st.sampled_from(WORDS)
scalars = st.one_of(
    words,
    st.sampled_from(["", "null", "true", "3", "1.5", "10s", "60%", "all", "a b", "0", "-1"]),
    expressions.map(lambda source: "'${{ " + source.replace("'", "''") + " }}'"),
    st.sampled_from(["&x a", "*x", "!t a", "'a'", "|", ".nan", "1e999", "9" * 400]),
)
flow = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(st.tuples(words, inner), max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=20,
)


@given(st.lists(st.tuples(words, flow), max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_workflow_of_known_words(pairs):
    compiles("\n".join(f"{key}: {value}" for key, value in pairs))


@given(st.lists(st.lists(st.tuples(words, flow), max_size=5), min_size=1, max_size=3))
@settings(max_examples=500, deadline=None)
def test_any_steps_and_tasks_of_known_words(items):
    body = ["{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}" for pairs in items]
    compiles("jobs: {j: {steps: [" + ", ".join(body) + "]}}")
    compiles("tasks: [" + ", ".join(body) + "]")
    compiles("jobs: {j: " + body[0] + "}")


@given(st.lists(st.tuples(words, flow), max_size=5), st.lists(st.tuples(words, flow), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_called_workflow_of_known_words(pairs, job):
    body = ", ".join(f"{key}: {value}" for key, value in job)
    called = "\n".join(
        ["jobs: {x: {steps: [{run: y}]}}", *(f"{key}: {value}" for key, value in pairs)]
    )
    compiles(f"jobs: {{j: {{uses: ./c.yaml, {body}}}}}", called)
    compiles("jobs: {j: {uses: ./c.yaml}}", f"on: workflow_call\n{called}")


@st.composite
def sound_steps(draw, depth=0):
    kinds = ["run", "noop"] + (["parallel", "pipeline", "loop", "choose"] if depth < 3 else [])
    kind = draw(st.sampled_from([*kinds, "sleep", "wait-for"]))
    if kind in ("parallel", "pipeline"):
        inner = draw(st.lists(sound_steps(depth=depth + 1), min_size=1, max_size=3))
        return f"{{{kind}: [{', '.join(inner)}]}}"
    inner = draw(sound_steps(depth=depth + 1)) if depth < 3 else "{run: x}"
    return {
        "run": "{run: echo}",
        "noop": "{uses: noop, with: {x: [1, '${{ inputs }}']}}",
        "loop": f"{{loop: {{for-each: [1, 2], steps: [{inner}]}}}}",
        "choose": f"{{choose: [{{if: inputs.x, steps: [{inner}]}}]}}",
        "sleep": "{sleep: 3s}",
        "wait-for": "{wait-for: go}",
    }[kind]


@given(st.lists(sound_steps(), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_sound_workflows_compile(steps):
    plan = compile_workflow("jobs: {j: {steps: [" + ", ".join(steps) + "]}}")
    validate_plan(plan)
    paths = [node.name for node in plan.nodes]
    assert all(paths)
    render_graph(plan, "dot")
