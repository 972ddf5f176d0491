"""`flowctl patch` and `flowctl diff` at a running cluster."""

import pytest

from support.cluster import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

OLD = """\
name: order
jobs:
  build:
    runs-on: linux
    steps:
      - id: compile
        run: |
          touch {folder}/begun
          until [ -e {folder}/gate ]; do sleep 0.05; done
          echo version=7 >> "$GITHUB_OUTPUT"
      - id: pack
        run: echo packed > {folder}/packed
    outputs:
      version: ${{{{ steps.compile.outputs.version }}}}
  publish:
    runs-on: linux
    needs: build
    steps:
      - id: push
        run: touch {folder}/wrong
"""


VERSION = "${{{{ needs.build.outputs.version }}}}"


def patched(text):
    """The definition with a job in front, a step more in the running job, another last job."""
    return (
        text.replace(
            "jobs:\n",
            "jobs:\n  notify:\n    runs-on: linux\n    steps:\n      - {{id: say, run: 'true'}}\n",
        )
        .replace("    outputs:\n", "      - {{id: sign, run: 'true'}}\n    outputs:\n")
        .replace("touch {folder}/wrong", f"echo {VERSION} > {{folder}}/right")
        .replace("    needs: build\n", "    needs: [build, notify]\n")
    )


async def test_a_run_is_patched_while_its_step_runs(user, tmp_path):
    run = await user.start(user.file(OLD.format(folder=tmp_path)))
    await until((tmp_path / "begun").exists, within_s=15)
    new = user.file(patched(OLD).format(folder=tmp_path))
    dry = await user.json("patch", run, new, "--dry-run")
    assert dry["added"] == ["notify", "notify/say", "build/sign"]
    assert dry["changed"] == ["publish", "publish/push"]
    assert (dry["removed"], dry["event"]) == ([], 0)

    wrong = user.file(patched(OLD).replace("begun", "other").format(folder=tmp_path))
    refused = await user("patch", run, wrong, code=3)
    assert "workflow-3.yaml:10:9: build/compile has begun" in refused.err
    assert "cannot change: inputs" in refused.err

    done = await user.json("patch", run, new)
    # The step that runs keeps its worker; the new job begins at once.
    await user.step(run, "notify/say", "COMPLETED")
    (running,) = [
        step for step in (await user.json("get", run))["steps"] if step["path"] == "build/compile"
    ]
    assert (running["state"], running["attempt"]) == ("RUNNING", 1)
    (tmp_path / "gate").touch()
    view = await user.end(run)
    assert (tmp_path / "right").read_text() == "7\n"
    assert not (tmp_path / "wrong").exists()
    attempts = {step["path"]: step["attempt"] for step in view["steps"] if step["uses"]}
    assert attempts == dict.fromkeys(
        ("notify/say", "build/compile", "build/pack", "build/sign", "publish/push"), 1
    )
    assert view["patched"] == [done["event"]]

    before = await user.json("get", run, "--at", str(done["event"] - 1))
    assert "notify" not in {step["path"] for step in before["steps"]}
    history = await user.json("history", run)
    (entry,) = [entry for entry in history if entry["type"] == "PlanPatched"]
    assert entry["data"]["added"] == dry["added"]
    assert "notify" in (await user("graph", run)).out

    other = await user.start(user.file(OLD.format(folder=tmp_path)))
    await user.end(other)
    assert (await user("diff", run, run)).code == 0
    differs = await user.json("diff", run, other, code=1)
    removed = {d["path"] for d in differs["differences"] if d["change"] == "removed"}
    assert {"notify", "build/sign"} <= removed
