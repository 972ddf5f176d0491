"""Examples of the documentation: run on the embedded engine, compared with what they promise."""

import asyncio
import json
import re
from typing import Any, NamedTuple

from headrace.local import LocalEngine

_DIRECTIVE = re.compile(r"(run|compile|refused|file)(?:: (.*))?")
_FENCE = re.compile(r"(?:<!-- ([^\n]*?) -->\n)?```ya?ml\n(.*?)```", re.DOTALL)
WITHIN_S = 60.0


class Example(NamedTuple):
    """A workflow, and what is said of it."""

    line: int
    kind: str
    """`run`, `compile`, `refused`, or `file`: the others find it under the name that is said."""
    said: Any
    """Of `run`: inputs, signals, state, steps (path to state)."""
    text: str


def read_examples(page: str) -> list[Example]:
    """Return the workflows of a page; each has a comment before it that says what comes of it."""
    found = []
    for match in _FENCE.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        said = _DIRECTIVE.fullmatch(match[1] or "")
        assert said, f"line {line}: say what comes of the example: <!-- run: {{}} -->"
        value = json.loads(said[2] or "{}") if said[1] == "run" else said[2]
        found.append(Example(line, said[1], value, match[2]))
    return found


async def check_run(file: str, said: dict[str, Any]) -> None:
    """Run a workflow as *said* and compare its state and the states of its steps."""
    unknown = said.keys() - {"inputs", "signals", "cancel", "state", "steps", "absent"}
    assert not unknown, unknown
    async with LocalEngine() as engine:
        run = await engine.submit(file, said.get("inputs"))
        for name, payload in said.get("signals", {}).items():
            await engine.signal(run, name, payload)
        if said.get("cancel"):
            await engine.cancel(run)
        async with asyncio.timeout(WITHIN_S):
            view = await engine.wait(run)
    states = {step.path: step.state for step in view.steps}
    errors = {step.path: step.error for step in view.steps if step.error}
    assert view.state == said.get("state", "COMPLETED"), (view.reason, errors, states)
    wanted = said.get("steps", {})
    assert {path: states.get(path) for path in wanted} == wanted, (states, errors)
    assert not states.keys() & set(said.get("absent", ())), states
