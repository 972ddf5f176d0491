"""Large values go around the messages: in, between steps, out, and never over the limit."""

import hashlib
import json

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

MEASURE = """\
name: measure
on:
  workflow_dispatch:
    inputs:
      text: {type: string}
      size: {type: number, default: 0}
jobs:
  main:
    runs-on: linux
    outputs:
      got: ${{ steps.measure.outputs.result }}
      back: ${{ steps.make.outputs.result }}
    steps:
      - id: measure
        uses: script
        with:
          input: ${{ inputs.text }}
          code: |
            import hashlib, json
            found = hashlib.sha256(input_data.encode()).hexdigest()
            print(json.dumps([len(input_data), found]))
      - id: make
        uses: script
        with:
          args: ["${{ inputs.size }}"]
          code: |
            import json, sys
            print(json.dumps(["x" * 1_000] * (int(sys.argv[1]) // 1_000)))
      - id: next
        uses: script
        with:
          input: ${{ steps.make.outputs.result }}
          code: |
            import json
            print(sum(map(len, json.loads(input_data))))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "measure.yaml"
    path.write_text(MEASURE)
    return str(path)


def given(tmp_path, **values):
    path = tmp_path / "input.json"
    path.write_text(json.dumps(values))
    return str(path)


async def test_a_large_input_and_a_large_result_reach_the_steps_whole(cluster, file, tmp_path):
    # 64 KB in, and 2 MB from step to step: over the broker's limit for a message.
    values = given(tmp_path, text="ä" * 32_000, size=2_000_000)
    ran = await cluster.flowctl(
        "submit", file, "--input-file", values, "--wait", "-o", "json", "--id", "large"
    )
    assert ran.code == 0, ran.err
    run = ran.json
    assert list(run["input"]["text"]) == ["$blob"]
    steps = {step["name"]: step["outputs"] for step in run["steps"]}
    expected = [32_000, hashlib.sha256(("ä" * 32_000).encode()).hexdigest()]
    assert run["output"]["main"]["got"] == expected
    assert steps["next"]["result"] == 2_000_000
    assert list(steps["make"]["result"]) == ["$blob"]
    whole = (await cluster.flowctl("get", "large", "--full", "-o", "json")).json
    assert whole["input"]["text"] == "ä" * 32_000
    assert whole["output"]["main"]["back"] == ["x" * 1_000] * 2_000
    # The same submit again is the same run; another input is not.
    again = await cluster.flowctl("submit", file, "--input-file", values, "--id", "large")
    assert again.code == 0, again.err
    other = given(tmp_path, text="o" * 64_000)
    refused = await cluster.flowctl("submit", file, "--input-file", other, "--id", "large")
    assert refused.code == 3
    assert "choose another id" in refused.err


async def test_over_the_hard_limit_no_run_starts(cluster, file, tmp_path):
    values = given(tmp_path, text="x" * 4_000_000)
    ran = await cluster.flowctl("submit", file, "--input-file", values, "--id", "over")
    assert ran.code == 3
    assert "limits.payload_bytes_max" in ran.err
    assert "Traceback" not in ran.err
    assert (await cluster.flowctl("get", "over")).code == 4


async def test_a_result_over_the_hard_limit_fails_its_step_by_name(cluster, file, tmp_path):
    values = given(tmp_path, text="x", size=5_000_000)
    ran = await cluster.flowctl("submit", file, "--input-file", values, "--wait", "-o", "json")
    assert ran.code == 1
    failed = next(step for step in ran.json["steps"] if step["name"] == "make")
    assert "result-too-large" in failed["error"]


async def test_a_large_signal(cluster, tmp_path):
    path = tmp_path / "signal.yaml"
    path.write_text("""\
name: signal
jobs:
  main:
    runs-on: linux
    outputs:
      size: ${{ steps.size.outputs.result }}
    steps:
      - id: go
        approval:
          signal: go
      - id: size
        uses: script
        with:
          input: ${{ steps.go.outputs.text }}
          code: print(len(input_data))
""")
    run = (await cluster.flowctl("submit", str(path), "-o", "name")).out.strip()
    payload = tmp_path / "payload.json"
    payload.write_text(json.dumps({"text": "x" * 100_000}))
    sent = await cluster.flowctl("signal", run, "go", "--payload", f"@{payload}")
    assert sent.code == 0, sent.err
    ended = await cluster.flowctl("get", run, "--watch", "-o", "json")
    assert ended.json["output"] == {"main": {"size": 100_000}}


async def test_large_values_in_scripts_environments_and_conditions(cluster, tmp_path):
    path = tmp_path / "seen.yaml"
    path.write_text("""\
name: seen
on:
  workflow_dispatch:
    inputs:
      text: {type: string}
jobs:
  main:
    runs-on: linux
    env:
      TEXT: ${{ inputs.text }}
    outputs:
      job-env: ${{ steps.env.outputs.result }}
      own-env: ${{ steps.env.outputs.own }}
      inline: ${{ steps.inline.outputs.result }}
    steps:
      - id: env
        env:
          OWN: ${{ inputs.text }}
        run: |
          echo "result=${#TEXT}" >> "$GITHUB_OUTPUT"
          echo "own=${#OWN}" >> "$GITHUB_OUTPUT"
      - id: inline
        uses: script
        with:
          code: print(len("${{ inputs.text }}"))
""")
    values = given(tmp_path, text="x" * 70_000)
    ran = await cluster.flowctl("submit", str(path), "--input-file", values, "--wait", "-o", "json")
    assert ran.code == 0, ran.out
    assert ran.json["output"]["main"] == {"job-env": "70000", "own-env": "70000", "inline": 70000}


async def test_what_the_coordinator_cannot_see_is_an_error_by_name(cluster, tmp_path):
    path = tmp_path / "unseen.yaml"
    path.write_text("""\
name: unseen
jobs:
  main:
    runs-on: linux
    steps:
      - id: make
        uses: script
        with:
          code: print(list(range(20_000)))
      - id: each
        loop:
          for-each: ${{ steps.make.outputs.result }}
          steps:
            - uses: noop
""")
    ran = await cluster.flowctl("submit", str(path), "--wait", "-o", "json")
    assert ran.code == 1
    assert "too large for this place" in ran.json["reason"]
