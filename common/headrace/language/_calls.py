"""Called workflows: which file or registered workflow a call means, how deep and how often."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import NamedTuple

from headrace.errors import HeadraceError, InvalidDefinition
from headrace.language import _yaml
from headrace.language._draft import Draft
from headrace.language._limits import CALL_DEPTH_MAX, CALLS_MAX, FILES_MAX
from headrace.language._reader import shape
from headrace.language._report import Place, Report
from headrace.language._yaml import Mapping as MappingNode
from headrace.plan import Plan
from headrace.plan._validate import NODES_MAX

FindRegistered = Callable[[str], tuple[Plan, str]]
"""Returns the plan that ``NAME`` or ``NAME@VERSION`` means, and its name with its version; raises
an error of ours if there is none."""
Load = Callable[[str], str]
"""Returns the text of a workflow by its path, relative to the working folder; raises an error of
ours if there is none."""

_REGISTERED = re.compile(r"[A-Za-z0-9_-]{1,100}(?:@[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63})?")
_REMOTE = re.compile(r"[\w.-]+/[\w.-]+/.*@.+")


class FoundPlan(NamedTuple):
    """Another workflow, compiled; without a plan it is looked up when this one is sent."""

    plan: Plan | None
    source: str
    """What it is: a file, or a name with its version."""


def is_registered(uses: str) -> bool:
    """Tell whether `uses` means a registered workflow, ``NAME`` or ``NAME@VERSION``, not a file."""
    return _REGISTERED.fullmatch(uses) is not None


class Source(NamedTuple):
    """A file that is read."""

    file: str
    root: MappingNode
    report: Report


class Sources:
    """The files of one plan, each loaded once."""

    def __init__(self, main: Source, load: Load | None, find: FindRegistered | None = None) -> None:
        self._main = main
        self._load, self._find = load, find
        self._found: dict[str, Source | None] = {_normal(main.file): main}
        self._calls = 0
        self._nodes = 0

    def called(self, uses: str, at: Place, caller: Source, chain: tuple[str, ...]) -> Source | None:
        """Return the workflow that `uses` in *caller* means; None: what is wrong is noted.

        *chain*: the files around the call, the outermost first, *caller* last.
        """
        report = caller.report
        name = self._name(uses, at, caller)
        if name is None:
            return None
        if _normal(name) in map(_normal, chain):
            start = list(map(_normal, chain)).index(_normal(name))
            ring = " → ".join((*chain[start:], name))
            report.add(f"the workflows call each other in a cycle: {ring}", at)
            return None
        if len(chain) >= CALL_DEPTH_MAX:
            report.add(f"calls are nested too deeply: CALL_DEPTH_MAX = {CALL_DEPTH_MAX}", at)
            return None
        self._calls += 1
        if self._calls > CALLS_MAX:
            report.fatal(f"too many calls: CALLS_MAX = {CALLS_MAX}", at.line, at.column)
        if _normal(name) not in self._found:
            if len(self._found) >= FILES_MAX:
                report.add(f"too many files: FILES_MAX = {FILES_MAX}", at)
                return None
            self._found[_normal(name)] = self._read(name, uses, at, report)
        return self._found[_normal(name)]

    def registered(self, uses: str, at: Place, report: Report) -> FoundPlan | None:
        """Return the registered workflow that `uses` names; None: what is wrong is noted."""
        if self._find is None:
            return FoundPlan(None, uses)
        try:
            return FoundPlan(*self._find(uses))
        except HeadraceError as error:
            report.add(f"cannot use '{uses}': {error}", at)
            return None

    def grew(self, draft: Draft, at: Place, report: Report) -> None:
        """Count the nodes of a call; raises `InvalidDefinition` past `NODES_MAX`."""
        waiting = [draft]
        while waiting:
            self._nodes += 1
            waiting.extend(waiting.pop().children)
        # Calls inside calls count more than once: the bound is on work, the plan has its own.
        if self._nodes > NODES_MAX * CALL_DEPTH_MAX:
            report.fatal(f"too many nodes: NODES_MAX = {NODES_MAX}", at.line, at.column)

    def _name(self, uses: str, at: Place, caller: Source) -> str | None:
        report = caller.report
        if _REMOTE.match(uses):
            hint = "copy the file and write 'uses: ./file.yaml', or register it and use its name"
            report.add(f"workflows of GitHub's repositories are not fetched: '{uses}'", at, hint)
            return None
        if uses.startswith(("./", "../")):
            return posixpath.normpath(posixpath.join(posixpath.dirname(caller.file), uses))
        if uses.startswith("/") or uses.endswith((".yaml", ".yml")):
            hint = f"write 'uses: ./{uses.lstrip('/')}', relative to this file"
            report.add(f"a called file begins with './', not '{uses}'", at, hint)
            return None
        return uses

    def _read(self, name: str, uses: str, at: Place, report: Report) -> Source | None:
        if self._load is None:
            report.add(f"'{uses}' cannot be called here: there are no files to look at", at)
            return None
        try:
            text = self._load(name)
        except HeadraceError as error:
            report.add(f"cannot call '{uses}': {error}", at)
            return None
        inner = report.of(text, name)
        try:
            root = _yaml.load(text, inner)
        except InvalidDefinition:
            # Noted; what is wrong elsewhere is to be found, too.
            return None
        if not isinstance(root, MappingNode):
            inner.add(f"a workflow must be a mapping, not {shape(root)}", root)
            return None
        return Source(name, root, inner)


def _normal(name: str) -> str:
    return posixpath.normpath(name)
