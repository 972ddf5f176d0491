import json

import pytest
import yaml

from headrace.language import compile_workflow, graph, render_graph

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
    assert set(found) == {"name", "nodes", "levels", "edges"}
    assert [n["state"] for n in found["nodes"] if n["path"] == "deploy/step-1"] == ["RUNNING"]


def test_mermaid():
    text = render_graph(PLAN, "mermaid", {"deploy/step-1": "RUNNING"})
    assert text.startswith("flowchart TD\n")
    assert "Say &quot;hi&quot; &amp; &lt;go&gt;" in text
    assert text.count("subgraph") == text.count("  end\n") == 5
    assert "step-1<br/>RUNNING" in text


def test_dot():
    text = render_graph(PLAN, "dot")
    assert text.startswith('digraph "w" {\n')
    assert text.count("{") == text.count("}")
    assert '\\"hi\\"' in text
    assert 'ltail="cluster_build", lhead="cluster_deploy"' in text
