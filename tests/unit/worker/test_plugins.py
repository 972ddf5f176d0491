"""Plug-ins: loaded, replaced, removed; broken ones change nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.messages import ResultStatus
from headrace.worker.builtin import builtin_registry
from headrace.worker.handlers import Registry
from headrace.worker.plugins import Plugins
from support.worker_owner import make_task, output_of

HELLO = """
from __future__ import annotations
import dataclasses
import msgspec
from headrace.worker.handlers import Context, handler, HandlerError

class Inputs(msgspec.Struct):
    name: str = "you"

@dataclasses.dataclass
class Said:
    text: str

@handler("demo/hello"{version})
async def hello(ctx: Context, inputs: Inputs) -> Said:
    return Said("{word} " + inputs.name)
"""


def hello(word: str, version: str = "") -> str:
    return HELLO.replace("{word}", word).replace(
        "{version}", f', version="{version}"' if version else ""
    )


class Folder:
    """A folder of plug-ins, its files always new to who looks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._time_s = 1_000

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        self._time_s += 10
        os.utime(self.path / name, (self._time_s, self._time_s))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "plugins").mkdir()
    return Folder(tmp_path / "plugins")


@pytest.fixture
def registry() -> Registry:
    return builtin_registry()


@pytest.fixture
def changes() -> list[int]:
    return []


@pytest.fixture
def plugins(folder: Folder, registry: Registry, changes: list[int]) -> Plugins:
    return Plugins(folder.path, registry, on_change=lambda: changes.append(len(registry)))


async def say(registry: Registry, **inputs: Any) -> str:
    found = registry.lookup("demo/hello")
    assert found is not None
    text: str = (await found.function(None, found.convert(inputs))).text
    return text


async def test_loaded_replaced_removed(
    folder: Folder, plugins: Plugins, registry: Registry, changes: list[int]
) -> None:
    assert await plugins.scan() is False
    folder.write("demo.py", hello("hello"))
    assert await plugins.scan() is True
    assert await say(registry, name="Ada") == "hello Ada"
    first = registry.lookup("demo/hello")
    assert first is not None
    assert first.version.startswith("sha256:")
    assert registry.describe()["demo/hello"]["version"] == first.version
    assert await plugins.scan() is False
    folder.write("demo.py", hello("ciao", "2.0"))
    assert await plugins.scan() is True
    assert await say(registry) == "ciao you"
    second = registry.lookup("demo/hello")
    assert second is not None
    assert second.version == "2.0"
    # Who began with the first version goes on with it.
    assert (await first.function(None, first.convert({}))).text == "hello you"
    (folder.path / "demo.py").unlink()
    assert await plugins.scan() is True
    assert registry.lookup("demo/hello") is None
    assert registry.was_removed("demo/hello")
    assert len(changes) == 3
    assert not [name for name in sys.modules if name.startswith("headrace_plugin_demo")]


async def test_touched_but_the_same(folder: Folder, plugins: Plugins, registry: Registry) -> None:
    folder.write("demo.py", hello("hello"))
    await plugins.scan()
    found = registry.lookup("demo/hello")
    folder.write("demo.py", hello("hello"))
    assert await plugins.scan() is False
    assert registry.lookup("demo/hello") is found


BROKEN = {
    "syntax": ("def x(:\n", "line 1: invalid syntax"),
    "raises": ("import os\n\nraise KeyError('x')\n", "line 3: KeyError: 'x'"),
    "imports": ("import nonesuch_module\n", "line 1: ModuleNotFoundError"),
    "exits": ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    "interrupts": ("raise KeyboardInterrupt\n", "line 1: KeyboardInterrupt"),
    "empty": ("x = 1\n", "no function is marked with @handler"),
    "built in": (hello("x").replace("demo/hello", "shell"), "'shell' is taken"),
    "parameters": (
        hello("x").replace("ctx: Context, ", ""),
        "line 14: InvalidConfig",
    ),
    "bytes": ("\x00", ""),
    "large": ("#" * (1024 * 1024 + 1), "over 1048576 bytes"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
async def test_a_broken_file_changes_nothing(
    folder: Folder, plugins: Plugins, registry: Registry, name: str, changes: list[int]
) -> None:
    text, said = BROKEN[name]
    folder.write("demo.py", hello("hello"))
    folder.write("other.py", hello("other").replace("demo/hello", "demo/other"))
    await plugins.scan()
    before = len(registry)
    folder.write("demo.py", text)
    assert await plugins.scan() is True
    (problem,) = plugins.problems
    assert problem.startswith(f"demo.py: {said}")
    assert problem.endswith("; demo/hello stays as it was")
    assert await say(registry) == "hello you"
    assert len(registry) == before
    assert await plugins.scan() is False
    folder.write("demo.py", hello("mended"))
    assert await plugins.scan() is True
    assert plugins.problems == []
    assert await say(registry) == "mended you"
    assert len(changes) == 3


async def test_a_file_that_never_finishes_loading(folder: Folder, registry: Registry) -> None:
    plugins = Plugins(folder.path, registry, load_s=0.05)
    folder.write("slow.py", "import threading\nthreading.Event().wait(2)\n")
    folder.write("z.py", hello("hello"))
    await plugins.scan()
    assert plugins.problems == ["slow.py: still loading after 0.05 s"]
    assert await say(registry) == "hello you"


async def test_a_name_that_becomes_free(
    folder: Folder, plugins: Plugins, registry: Registry
) -> None:
    folder.write("a.py", hello("from a"))
    folder.write("b.py", hello("from b"))
    await plugins.scan()
    assert plugins.problems == ["b.py: 'demo/hello' is taken"]
    assert await say(registry) == "from a you"
    (folder.path / "a.py").unlink()
    await plugins.scan()
    assert plugins.problems == []
    assert await say(registry) == "from b you"


async def test_what_is_no_plug_in(folder: Folder, plugins: Plugins, registry: Registry) -> None:
    for name in ("_helper.py", ".hidden.py", "notes.txt", "data.json"):
        folder.write(name, "raise ValueError")
    (folder.path / "dir.py").mkdir()
    await plugins.scan()
    assert all(problem.startswith("dir.py") for problem in plugins.problems)
    imported = hello("hello") + "from headrace.worker.builtin.shell import shell\n"
    folder.write("imports.py", imported)
    await plugins.scan()
    assert await say(registry) == "hello you"


async def test_a_folder_that_goes_keeps_its_handlers(
    folder: Folder, plugins: Plugins, registry: Registry
) -> None:
    folder.write("demo.py", hello("hello"))
    await plugins.scan()
    folder.path.rename(folder.path.parent / "away")
    assert await plugins.scan() is True
    assert "No such file" in plugins.problems[0]
    assert await say(registry) == "hello you"
    (folder.path.parent / "away").rename(folder.path)
    await plugins.scan()
    assert plugins.problems == []


async def test_the_version_that_ran_is_told_and_a_removed_handler_hands_back(
    make_bench: Any, folder: Folder
) -> None:
    bench = make_bench()
    plugins = Plugins(folder.path, bench.registry)
    folder.write("demo.py", hello("hello", "1.0"))
    await plugins.scan()
    good = await bench.run_one(make_task("default/1", uses="demo/hello", inputs={"name": "x"}))
    assert output_of(good) == {"text": "hello x"}
    assert good.extra.handler_version == "1.0"
    bad = await bench.run_one(make_task("default/2", uses="demo/hello", inputs={"name": []}))
    assert bad.status == ResultStatus.FAILED
    assert bad.extra.handler_version == "1.0"
    (folder.path / "demo.py").unlink()
    await plugins.scan()
    gone = await bench.run_one(make_task("default/3", uses="demo/hello", inputs={}))
    assert gone.status == ResultStatus.RETURNED
    never = await bench.run_one(make_task("default/4", uses="demo/never", inputs={}))
    assert (never.status, never.error.type) == (ResultStatus.FAILED, "unknown-handler")
