"""The shape of the tree: one namespace in three roots, typed packages, sizes, words."""

import ast
import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOTS = ("common", "coordinator", "worker")
SOURCES = sorted(path for root in ROOTS for path in (ROOT / root).rglob("*.py"))
EVERYTHING = sorted(
    [*SOURCES, *(p for root in ("tests", "bench", "examples") for p in (ROOT / root).rglob("*.py"))]
)

FILE_LINES_MAX = 500
FUNCTION_STATEMENTS_MAX = 40
FUNCTION_LINES_MAX = 70


def short(path):
    return path.relative_to(ROOT).as_posix()


def ratchets(name):
    return tomllib.loads((Path(__file__).parent / "ratchets.toml").read_text())[name]


def over(sizes, limit, allowed):
    """Return what is larger than *limit* and than its entry, and entries that are not needed."""
    grown = [f"{k}: {v}" for k, v in sizes.items() if v > max(limit, allowed.get(k, 0))]
    needless = [f"{k}: no longer needed" for k in allowed if sizes.get(k, 0) <= limit]
    return grown + needless


# -- one namespace ---------------------------------------------------------------------------------


def test_headrace_is_a_namespace():
    # With a stray headrace/__init__.py the other two roots vanish, and mypy says nothing.
    assert importlib.util.find_spec("headrace").origin is None
    assert [short(p) for r in ROOTS for p in (ROOT / r).rglob("headrace/__init__.py")] == []


def test_nothing_but_packages_stands_in_the_namespace():
    for root in ROOTS:
        for path in (ROOT / root / "headrace").iterdir():
            if path.name != "__pycache__":
                assert path.is_dir(), short(path)
                assert (path / "__init__.py").is_file(), short(path)


def test_every_package_is_typed():
    for root in ROOTS:
        for path in (ROOT / root / "headrace").iterdir():
            if path.name != "__pycache__":
                assert (path / "py.typed").is_file(), short(path)


def test_modules_in_common_are_private_or_vocabularies():
    public = [p for p in SOURCES if p.is_relative_to(ROOT / "common") and p.name[0] != "_"]
    # Subjects are used by their module's name: `subjects.command(…)`.
    assert [short(path) for path in public] == ["common/headrace/messages/subjects.py"]


def test_tests_are_no_packages():
    # Below `support`, which is imported by name, packages are fine.
    found = [short(path) for path in (ROOT / "tests").rglob("__init__.py")]
    assert [name for name in found if not name.startswith("tests/support/")] == []


# -- sizes -----------------------------------------------------------------------------------------


def test_modules_are_short():
    sizes = {short(path): path.read_text().count("\n") for path in EVERYTHING}
    assert over(sizes, FILE_LINES_MAX, ratchets("file_lines")) == []


def functions(tree, prefix=""):
    """Yield (qualified name, node) of every function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def test_functions_are_short():
    statements, lines = {}, {}
    for path in SOURCES:
        for name, node in functions(ast.parse(path.read_text())):
            name = f"{short(path)}::{name}"
            statements[name] = sum(isinstance(n, ast.stmt) for n in ast.walk(node)) - 1
            lines[name] = node.end_lineno - node.lineno + 1
    allowed = ratchets("function_statements")
    assert over(statements, FUNCTION_STATEMENTS_MAX, allowed) == []
    assert over(lines, FUNCTION_LINES_MAX, {}) == []


# -- words -----------------------------------------------------------------------------------------


def test_no_module_is_named_after_nothing():
    vague = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)")
    assert [short(path) for path in EVERYTHING if vague.search(path.stem)] == []


def test_every_module_says_what_it_is():
    assert [short(p) for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text()))] == []


def tracked():
    """Return every text file that belongs to the repository; without git, those of the tree."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, timeout=30, check=False
    )
    if listed.returncode:
        return [*EVERYTHING, *ROOT.glob("*.toml"), *(ROOT / "docs").rglob("*.md")]
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_nothing_of_one_machine_is_in_the_repository():
    # Spelled in parts, so that this file does not find itself.
    foreign = re.compile(
        "|".join(
            [
                *("/home/" + r"[a-z]+/", "/" + "root/", "/" + "work/", "/" + r"Users/\w"),
                *("py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.(org|com)"),
            ]
        )
    )
    found = []
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{short(path)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(text.splitlines(), 1)
            if foreign.search(line)
        ]
    assert found == []
