"""Events from outside on a real server: from `flowctl event publish` to the end of a run."""

import json

import pytest

from headrace.bus import connect
from support.cluster import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

WORKFLOW = """\
name: paid
on:
  event:
    - subject: bills.paid.*
      filter: event.data.total > 100 && event.subject != 'bills.paid.test'
      inputs: {id: "${{ event.data.id }}", by: "${{ event.headers.By }}"}
    - {subject: bills.forced, inputs: {id: "${{ event.id }}"}}
  workflow_dispatch:
    inputs: {id: {required: true}, by: {default: nobody}}
run-name: bill ${{ inputs.id }} by ${{ inputs.by }}
jobs:
  main:
    runs-on: linux
    steps:
      - run: test "$ID" != "" && test "${{ github.event_name }}" = event
        env: {ID: "${{ inputs.id }}"}
"""


async def test_an_event_begins_a_run(user):
    await user("register", user.file(WORKFLOW))

    async def publish(subject, data, *more):
        return await user.json("event", "publish", subject, "--data", json.dumps(data), *more)

    async def begun(count):
        async def look():
            found = await user.json("list", "--label", "headrace/definition=paid@1")
            runs = found["runs"] if isinstance(found, dict) else found
            return runs if len(runs) >= count else None

        return await wait_for(look, within_s=20, what=f"{count} runs by events")

    first = await publish("bills.paid.eu", {"id": "b1", "total": 200}, "--id", "e-1")
    again = await publish("bills.paid.eu", {"id": "b1", "total": 200}, "--id", "e-1")
    assert not first["duplicate"]
    assert (again["duplicate"], again["sequence"]) == (True, first["sequence"])
    await publish("bills.paid.eu", {"id": "small", "total": 1})
    await publish("bills.paid.test", {"id": "test", "total": 200})
    await publish("bills.paid.eu", {"id": {"no": "text"}, "total": 200})
    # Any client of the broker may publish: JSON or not.
    async with await connect(user.dev.url, name="somebody") as bus:
        for data in (b"{no json", b'{"id": "b2", "total": 300}'):
            stored = await bus.js.publish(
                "headrace.in.default.bills.paid.us", data, timeout_s=5, headers={"By": "ann"}
            )
            assert stored.stream == "HEADRACE_IN"
    await publish("bills.forced", None, "--id", "f-1")
    runs = await begun(3)
    titles = set()
    for run in runs:
        titles.add((await user.end(run["id"]))["name"])
    assert titles == {"bill b1 by nobody", "bill b2 by ann", "bill f-1 by nobody"}
    (shown,) = [t for t in await user.json("event", "triggers") if t["definition"] == "paid"]
    assert (shown["started"], shown["failed"]) == (3, 2)
    assert "not JSON" in shown["problem"]
    await user("definitions", "delete", "paid")
    await publish("bills.forced", None, "--id", "f-2")
    assert not [t for t in await user.json("event", "triggers") if t["definition"] == "paid"]
    assert len(await begun(3)) == 3
