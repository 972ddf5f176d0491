"""Workflows that the cluster keeps: registered, submitted by name, kept across a restart."""

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


async def test_a_registered_workflow_runs_by_its_name(user):
    one = user.shell('echo word=first >> "$GITHUB_OUTPUT"', name="kept")
    two = user.shell('echo word=second >> "$GITHUB_OUTPUT"', name="kept")
    assert (await user("register", one, "-o", "name")).out == "kept@1\n"
    assert (await user("register", one, "-o", "name")).out == "kept@1\n"
    assert (await user("register", two, "--version", "2.0", "-o", "name")).out == "kept@2.0\n"
    newest = await user.json("submit", "kept", "--wait")
    oldest = await user.json("submit", "kept@1", "--wait")
    words = [
        next(s["outputs"]["word"] for s in run["steps"] if s["path"] == "main/step")
        for run in (newest, oldest)
    ]
    assert words == ["second", "first"]
    clash = await user("register", one, "--version", "2.0", code=3)
    assert "another content" in clash.err
    await user("definitions", "delete", "kept@2.0")
    listed = await user.json("definitions", "list", "kept")
    assert [(view["version"], view["latest"]) for view in listed] == [("1", True)]
    await user("definitions", "delete", "kept")
    gone = await user("submit", "kept", code=4)
    assert "no file kept, and no definition kept" in gone.err


async def test_a_registered_workflow_is_called_by_its_name(user):
    called = (
        "name: called\nrun-name: says ${{ inputs.word }}\n"
        "on:\n  workflow_call:\n    inputs: {word: {required: true}}\n"
        "    outputs: {said: {value: '${{ jobs.say.outputs.text }}'}}\n"
        "jobs:\n  say:\n    outputs: {text: '${{ steps.a.outputs.text }}'}\n"
        "    steps:\n"
        "      - {id: a, run: 'echo \"text=%s ${{ inputs.word }}\" >> $GITHUB_OUTPUT'}\n"
    )
    caller = (
        "name: caller\njobs:\n  ask: {uses: called, with: {word: hello}}\n"
        "  told:\n    needs: ask\n    steps:\n"
        "      - {id: sub, subworkflow: {uses: called@1, with: {word: again}}}\n"
        "      - run: test \"${{ needs.ask.outputs.said }}\" = 'one hello'\n"
        "      - run: test \"${{ steps.sub.outputs.said }}\" = 'one again'\n"
    )
    await user("register", user.file(called % "one"))
    await user("register", user.file(caller))
    # What was registered before never sees what comes later.
    await user("register", user.file(called % "two"))
    run = await user.json("submit", "caller", "--wait")
    steps = {step["path"]: step for step in run["steps"]}
    assert run["state"] == "COMPLETED"
    child = await user.json("get", steps["ask/run"]["child"])
    assert (child["name"], child["state"]) == ("says hello", "COMPLETED")
    refused = await user("submit", user.file(caller.replace("called@1", "caled")), code=3)
    assert "cannot use 'caled': no definition caled" in refused.err
