"""Code that is changed between a crash and the restart: live runs go on, or say what is wrong."""

import msgspec
import pytest

from headrace.messages import TurnOutcome
from headrace.sdk import App, Context
from support.journal_owner import JournalOwner
from support.turns import Worker


def make(body, **options):
    """Return a workflow with the steps a, b, c, and *body*."""
    app = App("changed")
    ran = []

    def step_named(name):
        async def step(n: int) -> str:
            ran.append(name)
            return f"{name}{n}"

        return app.step(name=name)(step)

    steps = {name: step_named(name) for name in "abcx"}

    async def flow(ctx: Context) -> list[str]:
        return await body(ctx, **steps)

    workflow = app.workflow(name="flow")(flow)
    return workflow, ran


async def before(ctx, a, b, c, x):
    told = [await ctx.step(a, 1), await ctx.step(b, 2)]
    await ctx.sleep(10)
    return [*told, await ctx.step(c, 3)]


async def changed(after):
    """Run `before` up to its sleep, then go on with *after*."""
    owner = JournalOwner()
    old, _ = make(before)
    await Worker(old, owner).turn()
    assert list(owner.journal) == ["a#1", "b#1", "sleep#1"]
    new, ran = make(after)
    worker = Worker(new, owner)
    for _ in range(20):
        if owner.end is not None or owner.blocked is not None:
            break
        if owner.due:
            await worker.turn()
        else:
            owner.advance(owner.next_due() - owner.now_ms)
    return owner, ran


async def inserted(ctx, a, b, c, x):
    told = [await ctx.step(a, 1), await ctx.step(x, 9), await ctx.step(b, 2)]
    await ctx.sleep(10)
    return [*told, await ctx.step(c, 3)]


async def removed(ctx, a, b, c, x):
    told = [await ctx.step(b, 2)]
    await ctx.sleep(10)
    return [*told, await ctx.step(c, 3)]


async def reordered(ctx, a, b, c, x):
    told = [await ctx.step(b, 2), await ctx.step(a, 1)]
    await ctx.sleep(10)
    return [*told, await ctx.step(c, 3)]


async def joined(ctx, a, b, c, x):
    told = await ctx.parallel([ctx.step(a, 1), ctx.step(b, 2), ctx.step(x, 8)])
    await ctx.sleep(10)
    return [*told, await ctx.step(c, 3)]


async def slept_longer(ctx, a, b, c, x):
    told = [await ctx.step(a, 1), await ctx.step(b, 2)]
    await ctx.sleep(10_000)
    return [*told, await ctx.step(c, 3)]


async def no_sleep(ctx, a, b, c, x):
    return [await ctx.step(a, 1), await ctx.step(b, 2), await ctx.step(c, 3)]


async def appended(ctx, a, b, c, x):
    return [*await before(ctx, a, b, c, x), await ctx.step(x, 5), await ctx.step(a, 6)]


async def gone_behind_a_patch(ctx, a, b, c, x):
    first = await ctx.step(x, 7) if ctx.patched("x-first") else await ctx.step(a, 1)
    told = [first, await ctx.step(b, 2)]
    await ctx.sleep(10)
    return [*told, await ctx.step(c, 3)]


@pytest.mark.parametrize(
    ("after", "result", "ran"),
    [
        (inserted, ["a1", "x9", "b2", "c3"], ["x", "c"]),
        (removed, ["b2", "c3"], ["c"]),
        (reordered, ["b2", "a1", "c3"], ["c"]),
        (joined, ["a1", "b2", "x8", "c3"], ["x", "c"]),
        (slept_longer, ["a1", "b2", "c3"], ["c"]),
        (no_sleep, ["a1", "b2", "c3"], ["c"]),
        (appended, ["a1", "b2", "c3", "x5", "a6"], ["c", "x", "a"]),
        (gone_behind_a_patch, ["a1", "b2", "c3"], ["c"]),
    ],
)
async def test_what_keys_absorb_goes_on(after, result, ran):
    owner, did = await changed(after)
    assert owner.blocked is None, owner.blocked.error.message
    assert owner.end.outcome == TurnOutcome.COMPLETED, owner.end
    assert msgspec.msgpack.decode(owner.end.value) == result
    assert did == ran


async def other_inputs(ctx, a, b, c, x):
    told = [await ctx.step(a, 1), await ctx.step(b, 22)]
    await ctx.sleep(10)
    return [*told, await ctx.step(c, 3)]


async def other_kind(ctx, a, b, c, x):
    told = [await ctx.step(a, 1), await ctx.signal("go", key="b#1")]
    await ctx.sleep(10)
    return told


async def another_step_first(ctx, a, b, c, x):
    """The ordinal of `a` moves: its first call is a new one."""
    told = [await ctx.step(a, 0), await ctx.step(a, 1), await ctx.step(b, 2)]
    await ctx.sleep(10)
    return told


@pytest.mark.parametrize(
    ("after", "key", "says"),
    [
        (other_inputs, "b#1", ["its inputs differ", "journal: step b", "called with (22)"]),
        (other_kind, "b#1", ["different kinds", "journal: step b", "code:    signal go"]),
        (another_step_first, "a#1", ["its inputs differ", "called with (0)"]),
    ],
)
async def test_a_contradiction_blocks_with_a_diff(after, key, says):
    owner, ran = await changed(after)
    assert owner.end is None
    assert owner.blocked.outcome == TurnOutcome.BLOCKED
    assert owner.blocked.key == key
    message = owner.blocked.error.message
    for text in [*says, f"{after.__name__}" if after is None else __file__, "flowctl unblock"]:
        assert text in message, message
    assert ran == []


async def test_changed_inputs_can_be_accepted():
    owner, _ = await changed(other_inputs)
    owner.skip, owner.blocked, owner.due = ["b#1"], None, True
    new, ran = make(other_inputs)
    worker = Worker(new, owner)
    while owner.end is None:
        if owner.due:
            await worker.turn()
        else:
            owner.advance(owner.next_due() - owner.now_ms)
    assert msgspec.msgpack.decode(owner.end.value) == ["a1", "b2", "c3"]
    assert ran == ["c"]
    owner.end, owner.due, owner.skip = None, True, []
    await Worker(new, owner).turn()
    assert owner.end is not None, "the accepted digest is in the journal"


async def test_a_recorded_result_that_does_not_fit_its_type_any_more_blocks():
    owner, _ = await changed(before)
    app = App("changed")

    @app.step
    async def a(n: int) -> int:
        return n

    @app.workflow
    async def flow(ctx: Context) -> int:
        return await ctx.step(a, 1)

    owner.end, owner.due = None, True
    await Worker(flow, owner).turn()
    assert "its recorded result does not fit int" in owner.blocked.error.message
