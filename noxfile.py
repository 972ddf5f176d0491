"""Tasks: `nox -l` lists them, `nox` runs what a change needs. Each is one or two plain commands.

They run in the environment that `pip install -e '.[test]'` made (``--no-venv`` is the default), so
nothing is installed twice. `.ci/run` makes a fresh one and runs everything.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "imports", "quick"]

PARALLEL = ("-n", "auto")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, twice."""
    session.run("mypy")
    session.run("pyright")


@nox.session
def imports(session: nox.Session) -> None:
    """Check who imports whom."""
    session.run("lint-imports")


@nox.session
def quick(session: nox.Session) -> None:
    """Run the tests that start no processes."""
    session.run("pytest", "-q", *PARALLEL, "-m", "not integration and not chaos", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests."""
    session.run("pytest", "-q", *PARALLEL, *session.posargs)


@nox.session
def planted(session: nox.Session) -> None:
    """Plant bugs, one at a time, in a copy of the tree: each must turn a layer of tests red."""
    session.run("python", "tests/architecture/planted.py", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure what the tests without processes cover."""
    session.run("coverage", "run", "-m", "pytest", "-q", "-m", "not integration and not chaos")
    session.run("coverage", "report", "--skip-covered", "--sort=cover")


@nox.session
def docs(session: nox.Session) -> None:
    """Write the pages that are drawn from the code."""
    session.run("python", "docs/generate.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure W1 to W5 on real processes, level journal."""
    session.run("python", "bench/load", *session.posargs)
