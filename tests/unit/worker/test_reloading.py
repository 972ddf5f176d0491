"""Hot reload: apps whose files change are imported anew; broken code changes nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from headrace.worker.handlers import Registry
from headrace.worker.reloading import Reloading

APP = """
from headrace.sdk import App, Context
from {words} import WORD

app = App("{name}")

@app.workflow
async def said(ctx: Context) -> str:
    return WORD
"""


class Code:
    """A package ``<name>`` with ``flows.py`` and ``words.py``, and a worker's view of it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder / name, name
        self.folder.mkdir()
        self.write("__init__.py", "")
        self.write("words.py", "WORD = 'one'\n")
        self.write("flows.py", APP.format(words=f"{name}.words", name=name))
        importlib.invalidate_caches()
        self.registry = Registry()
        self.registry.add_app(f"{name}.flows:app")
        self.told = 0
        self.reloading = Reloading([f"{name}.flows:app"], self.registry, on_change=self.tell)

    def tell(self) -> None:
        self.told += 1

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    @property
    def word(self) -> str:
        """What the workflow that is served would say."""
        workflow = self.registry.apps[f"app:{self.name}@1"].workflows["said"]
        return workflow.function.__globals__["WORD"]


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "reloaded"
    yield Code(tmp_path, name)
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


async def test_a_changed_module_of_the_package_is_used(code):
    handler = code.registry.lookup(f"{code.name}@1/said")
    assert not await code.reloading.scan()
    # Of the same size and within the second: Python's own cache would not see it.
    code.write("words.py", "WORD = 'two'\n")
    assert await code.reloading.scan()
    assert (code.word, code.told, code.reloading.problems) == ("two", 1, [])
    assert code.registry.lookup(f"{code.name}@1/said") is not handler
    assert not await code.reloading.scan()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("WORD = 'two'\ndef broken(:\n", "words.py:2: invalid syntax"),
        ("\n\nraise KeyError('no')\n", "words.py:3: KeyError: 'no'"),
        ("raise SystemExit(1)\n", "words.py:1: SystemExit: 1"),
        ("import no_such_thing\n", "words.py:1: ModuleNotFoundError"),
        ("", "flows.py:3: ImportError: cannot import name 'WORD'"),
    ],
    ids="abcde",
)
async def test_broken_code_changes_nothing(code, text, problem):
    old = {name: sys.modules[name] for name in (code.name, f"{code.name}.words")}
    code.write("words.py", text)
    assert await code.reloading.scan()
    (said,) = code.reloading.problems
    assert problem in said
    assert said.endswith("; the code before it goes on")
    assert code.word == "one"
    assert {name: sys.modules[name] for name in old} == old
    code.write("words.py", "WORD = 'three'\n")
    assert await code.reloading.scan()
    assert (code.word, code.reloading.problems) == ("three", [])


async def test_a_file_that_was_missing_mends_it(code):
    code.write("words.py", f"from {code.name}.more import WORD\n")
    await code.reloading.scan()
    assert "words.py:1: ModuleNotFoundError" in code.reloading.problems[0]
    code.write("more.py", "WORD = 'more'\n")
    await code.reloading.scan()
    assert (code.word, code.reloading.problems) == ("more", [])


async def test_another_version_needs_a_new_worker(code):
    text = (code.folder / "flows.py").read_text()
    code.write("flows.py", text.replace(f'App("{code.name}")', f'App("{code.name}", version="2")'))
    await code.reloading.scan()
    assert "start the worker again" in code.reloading.problems[0]
    assert code.word == "one"


async def test_a_workflow_that_is_gone_is_no_more_offered(code):
    code.write("flows.py", f"from headrace.sdk import App\napp = App('{code.name}')\n")
    await code.reloading.scan()
    assert code.registry.lookup(f"{code.name}@1/said") is None
    assert code.registry.was_removed(f"{code.name}@1/said")


async def test_code_that_does_not_end_is_given_up(code):
    reloading = Reloading([f"{code.name}.flows:app"], code.registry, load_s=0.05)
    code.write("words.py", "import threading\nthreading.Event().wait(2)\n")
    await reloading.scan()
    assert "still loading" in reloading.problems[0]
    assert code.word == "one"


async def test_a_module_beside_others(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "reload_words.py").write_text("WORD = 'one'\n")
    (tmp_path / "reload_flows.py").write_text(APP.format(words="reload_words", name="alone"))
    registry = Registry()
    registry.add_app("reload_flows:app")
    reloading = Reloading(["reload_flows:app"], registry)
    (tmp_path / "reload_words.py").write_text("WORD = 'two'\n")
    try:
        assert await reloading.scan()
        function = registry.apps["app:alone@1"].workflows["said"].function
        assert function.__globals__["WORD"] == "two"
    finally:
        for name in ("reload_words", "reload_flows"):
            del sys.modules[name]
