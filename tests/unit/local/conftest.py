"""An engine whose steps a test can watch, and hold."""

import asyncio

import pytest

from headrace.local import LocalEngine
from headrace.worker.handlers import handler


class Calls:
    """A handler that notes its calls; those with `hold` wait until they may go on."""

    def __init__(self):
        self.names = []
        self.entered, self.open = asyncio.Event(), asyncio.Event()

        @handler("test/call")
        async def call(ctx, inputs: dict):
            self.names.append(inputs["name"])
            if inputs.get("hold"):
                self.entered.set()
                await self.open.wait()
            return {"n": len(self.names)}

        self.handler = call


@pytest.fixture
async def calls():
    return Calls()


@pytest.fixture
async def engine(calls):
    async with asyncio.timeout(30), LocalEngine(handlers=[calls.handler]) as made:
        yield made
