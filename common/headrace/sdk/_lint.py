"""Finds in workflow functions what would not come out the same when they are run again.

By syntax alone: functions marked ``@….workflow``, and what is defined inside of them. Names are
followed through imports of the same file. What a helper does is not seen; a replay sees it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from headrace.errors import NotFound, Problem

INSTEAD: Final[dict[str, str]] = {
    "time.time": "ctx.now()",
    "time.time_ns": "ctx.now()",
    "time.monotonic": "ctx.now()",
    "time.perf_counter": "ctx.now()",
    "time.sleep": "await ctx.sleep(…)",
    "datetime.datetime.now": "ctx.now()",
    "datetime.datetime.utcnow": "ctx.now()",
    "datetime.datetime.today": "ctx.now()",
    "datetime.date.today": "ctx.now().date()",
    "random": "ctx.random()",
    "secrets": "ctx.random(), or a step",
    "uuid.uuid1": "ctx.uuid()",
    "uuid.uuid4": "ctx.uuid()",
    "os.urandom": "ctx.random()",
    "os.getenv": "a step, or an input of the workflow",
    "os.environ": "a step, or an input of the workflow",
    "asyncio.sleep": "await ctx.sleep(…)",
    "asyncio.gather": "await ctx.parallel([…])",
    "asyncio.wait": "await ctx.parallel([…], join=…)",
    "asyncio.wait_for": "a timeout of the step or the signal",
    "asyncio.timeout": "a timeout of the step or the signal",
    "asyncio.create_task": "ctx.parallel([…])",
    "asyncio.ensure_future": "ctx.parallel([…])",
    "asyncio.TaskGroup": "ctx.parallel([…])",
    "asyncio.to_thread": "a step: plain functions run in threads",
    "asyncio.open_connection": "a step",
    "asyncio.create_subprocess_exec": "a step",
    "asyncio.create_subprocess_shell": "a step",
    "threading": "a step: plain functions run in threads",
    "multiprocessing": 'a step with kind="process"',
    "concurrent.futures": "ctx.parallel([…])",
    "subprocess": "a step",
    "socket": "a step",
    "sqlite3": "a step",
    "requests": "a step",
    "httpx": "a step",
    "aiohttp": "a step",
    "urllib.request": "a step",
    "shutil": "a step",
    "open": "a step",
    "input": "await ctx.signal(…)",
    "print": "ctx.log.info(…): it is silent while the function is replayed",
}
"""What is called (a name, or a module) -> what to write."""


def lint_source(text: str, file: str) -> list[Problem]:
    """Return what is wrong in the workflow functions of *text*, by line. Raises `SyntaxError`."""
    tree = ast.parse(text, file)
    names = _imported(tree)
    lines = text.splitlines()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef) and _is_workflow(node):
            for place, called in _uses(node, names):
                problem = Problem(
                    f"workflow {node.name} uses {called}: it does not come out the same again",
                    place.lineno,
                    place.col_offset + 1,
                    lines[place.lineno - 1],
                    f"write {_instead(called)} instead",
                    file,
                )
                found.append(problem)
    return sorted(found, key=lambda problem: (problem.line, problem.column))


def lint_paths(paths: Sequence[Path]) -> list[Problem]:
    """Return what is wrong in files, and in all ``*.py`` below folders. Raises `NotFound`."""
    found: list[Problem] = []
    for path in paths:
        if not path.exists():
            raise NotFound(f"no file or folder {path}")
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            try:
                found += lint_source(file.read_text(encoding="utf-8"), str(file))
            except (SyntaxError, UnicodeDecodeError) as error:
                line = getattr(error, "lineno", 0) or 0
                found.append(Problem(f"cannot be read: {error}", line, file=str(file)))
    return found


def _is_workflow(node: ast.AsyncFunctionDef) -> bool:
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(called, ast.Attribute) and called.attr == "workflow":
            return True
    return False


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return local name -> what was imported under it."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                names[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _uses(function: ast.AsyncFunctionDef, names: dict[str, str]) -> Iterator[tuple[ast.expr, str]]:
    own = {arg.arg for arg in ast.walk(function.args) if isinstance(arg, ast.arg)}
    own |= {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    inside = [part for statement in function.body for part in ast.walk(statement)]
    nested = {id(node.value) for node in inside if isinstance(node, ast.Attribute)}
    for node in inside:
        if not isinstance(node, ast.Name | ast.Attribute) or id(node) in nested:
            continue
        called = _dotted(node, names, own)
        if called and _instead(called):
            yield node, called


def _dotted(node: ast.expr, names: dict[str, str], own: set[str]) -> str:
    """Return the full name that *node* stands for; empty: it is nobody's that we know."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id in own:
        return ""
    base = names.get(node.id)
    if base is None:
        # A builtin, unless the file defines it: only those are listed without a module.
        return node.id if not parts and node.id in ("open", "input", "print") else ""
    return ".".join([base, *reversed(parts)])


def _instead(called: str) -> str:
    """Return what to write instead of *called*; empty: nothing is wrong with it."""
    name = called
    while name:
        if name in INSTEAD:
            return INSTEAD[name]
        name = name.rpartition(".")[0]
    return ""
