"""kill -9 of the coordinator in the middle of each construct that waits: nothing runs twice,
nothing stands still. One run goes through all of them, beside a schedule."""

import pytest

from support.cluster import Cluster, running, until, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

CHILD = """
name: child
jobs:
  it:
    outputs: {said: "${{ steps.say.outputs.said }}"}
    steps:
      - id: say
        run: |
          HOLD child
          echo said=hello >> "$GITHUB_OUTPUT"
"""
PARENT = """
name: all
on-failure: compensate
jobs:
  book:
    steps:
      - {id: hotel, run: NOTE hotel, compensate: {run: HOLD undo-hotel}}
      - {id: flight, run: NOTE flight, compensate: {run: NOTE undo-flight}}
  pay:
    needs: book
    steps:
      - {id: pay, effect: at-most-once, on-unknown: wait, run: HOLD pay}
      - {id: paid, run: 'NOTE "paid-${{ steps.pay.outputs.id }}"'}
  go:
    needs: pay
    steps:
      - id: each
        loop:
          for-each: [1, 2, 3]
          max-parallel: 1
          steps: [{run: 'HOLD item-${{ item }}'}]
      - {id: sub, subworkflow: {uses: ./child.yaml}}
      - {id: ask, approval: {signal: release}}
      - id: charge
        run: 'NOTE "charge-${{ steps.sub.outputs.it.said }}-${{ steps.ask.outputs.by }}"; exit 1'
"""
TICK = """
name: tick
tasks:
  - {name: tick, type: shell, config: {command: 'HOLD tick-${{ run.id }}'}}
"""


class Story:
    """What steps have said, in a file, and what they wait for: files too."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "story"
        self.log.touch()

    def write(self, name, text):
        """Write a workflow whose steps note something, or hold on until they are let go."""
        note = f'note() {{ echo "$1" >> {self.log}; }}'
        hold = f"while [ ! -e {self.folder}/$1.go ]; do sleep 0.05; done"
        (self.folder / "bin").mkdir(exist_ok=True)
        for word, body in (("NOTE", 'note "$1"'), ("HOLD", f'note "$1"\n{hold}')):
            script = self.folder / "bin" / word.lower()
            script.write_text(f"{note}\n{body}\n")
            text = text.replace(f"{word} ", f"sh {script} ")
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    @property
    def lines(self):
        return self.log.read_text().split()

    def let_go(self, name):
        (self.folder / f"{name}.go").touch()

    async def reached(self, start, *, within_s):
        """Return the line that begins so, once it is there."""

        def found():
            return [line for line in self.lines if line.startswith(start)]

        await until(found, within_s=within_s, what=f"a step to say {start}")
        return found()[0]


@pytest.fixture
async def cluster(tmp_path):
    async with running(Cluster(tmp_path)) as made:
        yield made


async def test_a_coordinator_dies_in_the_middle_of_everything(cluster, tmp_path):
    story = Story(tmp_path)
    (coordinator,) = cluster.coordinators

    async def flowctl(*arguments):
        ran = await cluster.flowctl(*arguments, within_s=60)
        assert ran.code == 0, ran.err
        return ran

    async def dies_while(name):
        """Kill it while a step holds on, which goes on meanwhile and reports to the next one."""
        said = await story.reached(name, within_s=90)
        coordinator.kill()
        story.let_go(said)
        coordinator.start()

    tick = story.write("tick", TICK)
    await flowctl("schedule", "create", "tick", "--workflow", tick, "--cron", "* * * * *")
    story.write("child", CHILD)
    await flowctl("submit", story.write("all", PARENT), "--id", "all")
    await story.reached("pay", within_s=60)
    cluster.workers[0].kill()
    cluster.workers[0].start()

    async def unknown():
        view = (await flowctl("get", "all", "-o", "json")).json
        return [s for s in view["steps"] if s["path"] == "pay/pay" and s["state"] == "UNKNOWN"]

    await wait_for(unknown, within_s=60, what="the loss of the worker")
    coordinator.kill()
    coordinator.start()
    await flowctl("resolve", "all", "pay/pay", "--completed", "--outputs", '{"id": "7"}')
    story.let_go("item-1")
    await dies_while("item-2")
    story.let_go("item-3")
    await dies_while("child")

    async def asks():
        view = (await flowctl("get", "all", "-o", "json")).json
        return [s for s in view["steps"] if s["path"] == "go/ask" and s["state"] == "WAITING"]

    await wait_for(asks, within_s=60, what="the approval")
    coordinator.kill()
    coordinator.start()
    await flowctl("signal", "all", "release", "--payload", '{"by": "ada"}')
    await dies_while("undo-hotel")

    async def ended():
        view = (await flowctl("get", "all", "-o", "json")).json
        return view if view["state"] in ("COMPLETED", "FAILED", "CANCELLED") else None

    view = await wait_for(ended, within_s=60, what="the end of the run")
    assert view["state"] == "FAILED"
    assert "not compensated" not in view["reason"]
    await dies_while("tick-")
    await flowctl("schedule", "pause", "tick")

    async def ticked():
        for line in story.lines:
            story.let_go(line)
        runs = (await flowctl("list", "--workflow", "tick", "-o", "json")).json
        runs = runs["runs"] if isinstance(runs, dict) else runs
        return runs if runs and all(run["state"] == "COMPLETED" for run in runs) else None

    runs = await wait_for(ticked, within_s=90, what="the runs of the schedule")
    ticks = [line for line in story.lines if line.startswith("tick-")]
    assert sorted(ticks) == sorted(f"tick-{run['id']}" for run in runs)
    assert [line for line in story.lines if line not in ticks] == [
        *(
            "hotel",
            "flight",
            "pay",
            "paid-7",
            "item-1",
            "item-2",
            "item-3",
            "child",
            "charge-hello-ada",
        ),
        *("undo-flight", "undo-hotel"),
    ]
    check = await cluster.flowctl("cluster", "check")
    assert check.code == 0, check.out
