"""Errors: retries, what is not worth one, a way around, and undoing what was done."""

import asyncio

from headrace.local import LocalEngine
from headrace.sdk import App, Context, NonRetryable, Retry, RunFailed, StepFailed, step_info

app = App("errors")


class SoldOut(NonRetryable):
    """No attempt will mend this."""


@app.step(retry=Retry(4, initial=0.01))
async def reserve(hotel: str) -> str:
    """Reserve a room: the first two calls fail, as networks do."""
    if hotel == "grand":
        raise SoldOut("no room in the grand")
    if step_info().attempt < 3:
        raise OSError("connection reset")
    return f"room in the {hotel}"


@app.step
async def cancel_room(room: str) -> None:
    """Undo a reservation."""


@app.step
async def book_flight(full: bool) -> str:
    """Book a flight."""
    if full:
        raise SoldOut("no seat")
    return "seat 7A"


@app.workflow
async def trip(ctx: Context, full: bool) -> list[str]:
    """A room in one of two hotels, and a flight; without a flight no room."""
    try:
        room = await ctx.step(reserve, "grand")
    except StepFailed as error:
        ctx.log.info("no grand hotel: %s", error.message)
        room = await ctx.step(reserve, "station")
    ctx.compensate(cancel_room, room)
    return [room, await ctx.step(book_flight, full)]


async def main() -> list[str]:
    """Book two trips; the second fails, and its room is cancelled."""
    told = await trip.start_and_wait(full=False)
    handle = await trip.start(full=True)
    try:
        await handle.result()
    except RunFailed:
        told.append("no trip")
    undone = [e for e in await handle.history() if e.data.get("name") == "cancel_room"]
    return [*told, f"{len(undone)} undone"]


async def embedded() -> None:
    """Run it in this process."""
    async with LocalEngine():
        print(await main())


if __name__ == "__main__":
    asyncio.run(embedded())
