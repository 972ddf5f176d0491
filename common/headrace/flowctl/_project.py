"""The project that `flowctl init` writes."""

from __future__ import annotations

import re
from pathlib import Path

from headrace.errors import Conflict, InvalidRequest

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

_WORKFLOW = """\
name: {name}
description: Greets somebody, then shouts it.

on:
  workflow_dispatch:
    inputs:
      who:
        description: Whom to greet
        type: string
        default: world

jobs:
  greet:
    runs-on: linux
    outputs:
      text: ${{{{ steps.compose.outputs.text }}}}
    steps:
      - id: compose
        name: Compose the greeting
        env:
          WHO: ${{{{ inputs.who }}}}
        run: echo "text=Hello, $WHO!" >> "$GITHUB_OUTPUT"

      - name: Say it
        run: echo "${{{{ steps.compose.outputs.text }}}}"

  shout:
    runs-on: linux
    needs: greet
    steps:
      - name: Shout it
        env:
          TEXT: ${{{{ needs.greet.outputs.text }}}}
        run: echo "$TEXT" | tr '[:lower:]' '[:upper:]'
        retry:
          max-attempts: 3
"""

_CUSTOM = """\
name: {name}-custom
description: Uses the handler in handlers.py.

jobs:
  count:
    runs-on: {name}
    steps:
      - name: Count the words
        uses: text/count
        with:
          text: the quick brown fox
"""

_HANDLERS = '''\
"""Handlers of this project: functions that workflows call with `uses:`.

A worker serves them with `flowctl worker --app handlers:app`.
"""

from __future__ import annotations

from types import SimpleNamespace

import msgspec

from headrace.worker.handlers import Context, HandlerError, handler


class CountInputs(msgspec.Struct, forbid_unknown_fields=True):
    """What stands under `with:`; a workflow with anything else is refused."""

    text: str


@handler("text/count")
def count(ctx: Context, inputs: CountInputs) -> dict[str, int]:
    """Count words. What is returned becomes `steps.<id>.outputs`.

    The step may run again after a crash: `ctx.idempotency_key` is the same each time.
    """
    if not inputs.text:
        # Retrying does not help, so do not.
        raise HandlerError("empty-text", "there is nothing to count", retryable=False)
    ctx.log(f"counting, attempt {ctx.attempt}")
    return {"words": len(inputs.text.split())}


app = SimpleNamespace(handlers={"text/count": count})
'''

_README = """\
# {name}

A project for Headrace, durable workflows in Python.

    pip install 'headrace[dev]'

Run the workflow in this process, without a server:

    flowctl run workflow.yaml --input who=Ada

Or on a server of your own: in one terminal

    flowctl dev

and in another

    flowctl submit workflow.yaml --input who=Ada --watch
    flowctl list

Your own steps are functions in `handlers.py`. Serve them with a worker that offers the capability
`{name}`, and submit the workflow that uses them:

    PYTHONPATH=. flowctl worker --app handlers:app --capability {name}
    flowctl submit custom.yaml --watch

Check what you write before it runs:

    flowctl validate *.yaml --handler text/count
    flowctl graph workflow.yaml
"""


def write_project(folder: Path) -> list[Path]:
    """Write a new project into *folder* and return its files.

    Raises `InvalidRequest` for a name that is no name, and `Conflict`, having written nothing,
    if one of the files exists.
    """
    name = folder.name
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"not a project name: {name!r} (a letter, then letters, digits, - _)")
    files = {
        folder / "workflow.yaml": _WORKFLOW.format(name=name),
        folder / "custom.yaml": _CUSTOM.format(name=name),
        folder / "handlers.py": _HANDLERS,
        folder / "README.md": _README.format(name=name),
    }
    taken = [path for path in files if path.exists() or path.is_symlink()]
    if taken:
        raise Conflict(f"{taken[0]} exists; nothing was written")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise InvalidRequest(f"cannot write {error.filename}: {error.strerror}") from error
    return list(files)
