"""Runs whose views, histories or tasks do not fit into a message of the broker."""

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

MANY = """\
name: many
jobs:
  main:
    runs-on: linux
    steps:
      - id: each
        loop:
          for-each: ${{ fromJSON('[PLACES]') }}
          steps:
            - id: say
              uses: script
              with:
                code: print("x" * 15_000)
"""
JOINED = """\
      - id: all
        uses: script
        with:
          input: ${{ steps.each.outputs }}
          code: |
            import json
            print(len(json.loads(input_data)["results"]))
"""


async def test_a_run_with_more_outputs_than_a_message_holds(cluster, tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text(MANY.replace("PLACES", ",".join(map(str, range(100)))))
    ran = await cluster.flowctl("submit", str(path), "--id", "many", "--wait", "-o", "json")
    assert ran.code == 0, ran.err
    assert len(ran.json["steps"]) >= 100
    history = await cluster.flowctl("history", "many", "-o", "json")
    assert history.code == 0, history.err
    assert sum(entry["type"] == "StepCompleted" for entry in history.json) == 100


async def test_a_step_with_more_input_than_a_message_holds(cluster, tmp_path):
    path = tmp_path / "joined.yaml"
    path.write_text(MANY.replace("PLACES", ",".join(map(str, range(100)))) + JOINED)
    ran = await cluster.flowctl("submit", str(path), "--id", "joined", "--wait", "-o", "json")
    assert ran.code == 0, ran.err
    (last,) = [step for step in ran.json["steps"] if step["name"] == "all"]
    assert last["outputs"]["result"] == 100
