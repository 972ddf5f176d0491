"""Bodies of workflow functions, run on an owner in memory, and steps for them to call."""

from __future__ import annotations

import msgspec

from headrace.messages import TurnOutcome
from headrace.sdk import App, NonRetryable, Retry, step_info
from support.journal_owner import JournalOwner
from support.turns import run_to_end

app = App("context")
ran: list[object] = []


def value(owner):
    assert owner.blocked is None, owner.blocked.error.message
    assert owner.end is not None, owner.journal
    assert owner.end.outcome == TurnOutcome.COMPLETED, owner.end.error
    return msgspec.msgpack.decode(owner.end.value)


async def result(body, inputs=None, owner=None, **options):
    """Run *body* as a workflow to its end and return its result."""
    workflow = App("context").workflow(name="flow")(body)
    return value(await run_to_end(workflow, owner or JournalOwner(inputs), **options))


async def ended(body, owner=None):
    workflow = App("context").workflow(name="flow")(body)
    return await run_to_end(workflow, owner or JournalOwner())


@app.step
async def echo(x: object) -> object:
    ran.append(x)
    return x


@app.step(retry=Retry(3, initial=10, jitter=0))
async def fails(text: str) -> None:
    ran.append((text, step_info().attempt, step_info().last_details()))
    step_info().heartbeat({"at": step_info().attempt})
    raise OSError(text)


@app.step(retry=Retry(5, not_on=(LookupError,)))
async def no_key() -> None:
    ran.append("no_key")
    raise KeyError("k")


class Fatal(NonRetryable):
    pass


@app.step(retry=Retry(5))
def fatal() -> None:
    ran.append("fatal")
    raise Fatal("gone")
