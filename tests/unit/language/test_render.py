import json

import pytest
import yaml

from headrace.language import StepTimes, compile_workflow, graph, render_graph

PLAN = compile_workflow(
    """
jobs:
  deploy:
    needs: build
    steps: [{run: a}, {sleep: 3s}]
  build:
    strategy: {matrix: {os: [linux, mac]}}
    steps:
      - name: 'Say "hi" & <go>'
        run: x
      - {parallel: [{run: y}, {pipeline: [{run: z}, {approval: }]}]}
""",
    file="w.yaml",
)


def test_levels_and_edges():
    found = graph(PLAN)
    assert found.levels == [
        ["build[*]/say-hi-go"],
        ["build[*]/parallel/step-1", "build[*]/parallel/pipeline/step-1"],
        ["build[*]/parallel/pipeline/approval"],
        ["deploy/step-1"],
        ["deploy/sleep"],
    ]
    assert ("build", "deploy") in found.edges
    assert ("build[*]/say-hi-go", "build[*]/parallel") in found.edges
    assert {node.kind for node in found.nodes} == {
        "job", "task", "sleep", "matrix", "parallel", "pipeline", "approval",
    }  # fmt: skip


def test_states_of_iterations_are_counted():
    states = {"build[linux]/say-hi-go": "COMPLETED", "build[mac]/say-hi-go": "FAILED"}
    found = {node.path: node.state for node in graph(PLAN, states).nodes}
    assert found["build[*]/say-hi-go"] == "1 FAILED, 1 COMPLETED"
    assert found["deploy/step-1"] == ""


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_data_formats(form, read):
    found = read(render_graph(PLAN, form, {"deploy/step-1": "RUNNING"}))
    assert set(found) == {"name", "nodes", "levels", "edges", "calls"}
    assert [n["state"] for n in found["nodes"] if n["path"] == "deploy/step-1"] == ["RUNNING"]


def test_mermaid():
    text = render_graph(PLAN, "mermaid", {"deploy/step-1": "RUNNING"})
    assert text.startswith("flowchart TD\n")
    assert "Say #quot;hi#quot; #amp; #lt;go#gt;" in text
    # A loop and its body are one frame.
    assert text.count("subgraph") == text.count("  end\n") == 4
    assert "step-1<br/>RUNNING" in text


def test_dot():
    text = render_graph(PLAN, "dot")
    assert text.startswith('digraph "w" {\n')
    assert text.count("{") == text.count("}")
    assert '\\"hi\\"' in text
    assert 'ltail="cluster_build", lhead="cluster_deploy"' in text


CONTROL = compile_workflow(
    """
jobs:
  a:
    steps:
      - id: each
        loop: {for-each: ["x", "y"], steps: [{run: a}]}
      - id: count
        loop: {until: "true", steps: [{run: a}]}
      - {id: race, join: 1, losers: detach, parallel: [{run: a}, {run: b}]}
      - id: which
        choose:
          - {if: "inputs.x #1 \\"q\\"", steps: [{run: a}]}
          - {else: true, steps: [{run: b}]}
      - {id: paid, wait-for: cash}
      - {id: nap, sleep: 5s}
""".replace(' #1 \\"q\\"', " == 'p'"),
    file="w.yaml",
)


def test_pictures_say_what_control_nodes_do():
    details = {node.path: node.detail for node in graph(CONTROL).nodes}
    assert details["a/each"] == "for each of 2"
    assert details["a/count"] == "until true"
    assert details["a/race"] == "join 1, losers detach"
    assert details["a/which/case-1"] == "if inputs.x == 'p'"
    assert details["a/paid"] == "signal cash"
    assert details["a/nap"] == "5000 ms"
    mermaid, dot = render_graph(CONTROL, "mermaid"), render_graph(CONTROL, "dot")
    assert '{{"paid<br/>signal cash"}}' in mermaid
    assert '(["nap<br/>5000 ms"])' in mermaid
    assert "shape=hexagon" in dot
    assert dot.count("subgraph") == mermaid.count("subgraph") == 7


def test_durations_of_a_run_are_those_of_all_iterations():
    states = {"a/each[0]/step-1": "COMPLETED", "a/each[1]/step-1": "COMPLETED", "a": "RUNNING"}
    times = {
        "a/each[0]/step-1": StepTimes(1_000, 2_000),
        "a/each[1]/step-1": StepTimes(1_500, 63_000),
        "a": StepTimes(500, 0),
    }
    found = {node.path: node for node in graph(CONTROL, states, times).nodes}
    each = found["a/each[*]/step-1"]
    assert (each.state, each.started_ms, each.duration_ms) == ("COMPLETED", 1_000, 62_000)
    assert (found["a"].started_ms, found["a"].duration_ms) == (500, 0)
    text = render_graph(CONTROL, "mermaid", states, times)
    assert "COMPLETED 1 m 02 s" in text
    assert "fill:#b7e4c7" in text


def test_a_large_plan_is_drawn_in_linear_size():
    steps = "".join(f"  - {{name: t{n}, type: noop, needs: [{f't{n - 1}' if n else ''}]}}\n"
                    for n in range(10_000))  # fmt: skip
    plan = compile_workflow("tasks:\n" + steps, file="w.yaml")
    for form in ("mermaid", "dot"):
        assert 20_000 <= render_graph(plan, form).count("\n") <= 20_010
    assert len(graph(plan).levels) == 10_000


SAGA = compile_workflow(
    """
jobs:
  book:
    steps:
      - {id: hotel, run: x, compensate: {run: undo}}
      - {id: flight, run: y, on-failure: run mend}
      - id: pay
        run: z
        effect: at-most-once
        on-unknown: run look
handlers:
  mend: {run: m}
  look: {run: l}
""",
    file="w.yaml",
)


def test_what_is_called_for_is_drawn_with_when():
    found = graph(SAGA)
    calls = {(node, when) for node, _, when in found.calls}
    assert calls >= {("book/hotel", "compensate"), ("book/flight", "on-failure")}
    called = {path for _, path, _ in found.calls}
    assert called <= {node.path for node in found.nodes}
    mermaid, dot = render_graph(SAGA), render_graph(SAGA, "dot")
    assert "-. compensate .->" in mermaid
    assert "-. on-failure .->" in mermaid
    assert 'style=dashed, label="compensate"' in dot
    shown = json.loads(render_graph(SAGA, "json"))
    assert ["book/hotel", "book/hotel~compensate", "compensate"] in shown["calls"]
    assert json.loads(render_graph(PLAN, "json"))["calls"] == []
