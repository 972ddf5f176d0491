"""The examples of the SDK give the same in this process and on a server."""

import asyncio
import importlib.util
import sys

import pytest

from headrace.local import LocalEngine
from headrace.sdk import Client
from support.cluster import EXAMPLES

WITHIN_S = 60.0
FOLDERS = (EXAMPLES / "sdk", EXAMPLES / "ai")
EXPECTED = {
    "agent": "Done: refunded 4200 cents of order 7.",
    "approval": ["paid 50", "paid 500"],
    "batch": sum(n * n for n in range(10) if n != 3),
    "children": ["ann-1", "ann-2", "ann-3", "welcome ann"],
    "conditional": ["answered who?", "sold buy it", "other"],
    "error_handling": ["room in the station", "seat 7A", "no trip", "1 undone"],
    "heartbeat": [6, 7, 8, 9],
    "order_processing": ["receipt for 42 (charge#1)", "label o-7"],
}


def load(name):
    (file,) = (folder / f"{name}.py" for folder in FOLDERS if (folder / f"{name}.py").exists())
    spec = importlib.util.spec_from_file_location(f"sdk_{name}", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_examples_are_here():
    assert {file.stem for folder in FOLDERS for file in folder.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
async def test_embedded(name):
    async with LocalEngine(), asyncio.timeout(WITHIN_S):
        assert await load(name).main() == EXPECTED[name]


@pytest.mark.integration
@pytest.mark.parametrize("name", EXPECTED)
async def test_on_a_server(name, shared_dev):
    async with await Client.connect(shared_dev.url), asyncio.timeout(WITHIN_S):
        assert await load(name).main() == EXPECTED[name]
