"""Apps and workflow functions that the command line names: ``package.module:name``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.errors import InvalidRequest
from headrace.flowctl._inputs import given_inputs

if TYPE_CHECKING:
    from headrace.sdk import App, Workflow

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(/[\w-]+)?")


def is_code(target: str) -> bool:
    """Tell whether *target* names a workflow function, and not a file that is there."""
    return _REFERENCE.fullmatch(target) is not None and not Path(target).exists()


def source_of(name: str) -> Path:
    """Return the file or folder *name*, or that of the module or package *name*; imports nothing.

    Where there is neither, it is the path *name*, which does not exist.
    """
    path = Path(name)
    if path.exists() or not _MODULE.fullmatch(name):
        return path
    top, *rest = name.split(".")
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        return path
    if not rest and spec.origin and not spec.submodule_search_locations:
        return Path(spec.origin)
    for place in spec.submodule_search_locations or ():
        folder = Path(place, *rest)
        for found in (folder, folder.with_suffix(".py")) if rest else (folder,):
            if found.exists():
                return found
    return path


def load_app(reference: str) -> App:
    """Return the app ``package.module:app``. Raises `InvalidRequest`."""
    from headrace.sdk import App

    found = _load(reference)
    if not isinstance(found, App):
        raise InvalidRequest(f"{reference!r} is no App of headrace.sdk")
    return found


def load_workflow(reference: str) -> Workflow[..., Any]:
    """Return the workflow ``package.module:app/name`` or ``package.module:function``.

    Raises `InvalidRequest`, which names those that there are.
    """
    from headrace.sdk import App, Workflow

    place, slash, name = reference.partition("/")
    if slash:
        app = load_app(place)
        if name not in app.workflows:
            known = ", ".join(sorted(app.workflows)) or "none"
            raise InvalidRequest(f"{place} has no workflow {name!r} (there are: {known})")
        return app.workflows[name]
    found = _load(reference)
    if isinstance(found, App):
        known = ", ".join(sorted(found.workflows)) or "none"
        raise InvalidRequest(f"{reference!r} is an app: say {reference}/NAME (there are: {known})")
    if not isinstance(found, Workflow):
        raise InvalidRequest(f"{reference!r} is no workflow: mark the function with @app.workflow")
    return found


def collect_arguments(
    workflow: Workflow[..., Any], inputs: Iterable[str], input_file: str | None
) -> dict[str, Any]:
    """Return the checked input of a run of *workflow*, typed by its signature.

    Raises `InvalidDefinition` with every problem, `InvalidRequest` for what cannot be read.
    """
    from headrace.sdk import typed_inputs

    values, texts = given_inputs(inputs, input_file)
    return typed_inputs(workflow, values, texts)


def _load(reference: str) -> Any:
    from headrace.sdk import resolved

    # Modules of applications lie where the command was started.
    sys.path.insert(0, os.getcwd())
    return resolved(reference)
