"""The documentation is true: generated pages, links, examples that parse, the list of decisions."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from headrace.flowctl._app import cli, run

ROOT = Path(__file__).parents[2]
SKIPPED_FOLDERS = {".git", ".venv", ".nox", "node_modules", ".headrace"}
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts[:-1])
    and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")


def page_id(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path, *languages):
    return [code for language, code in FENCE.findall(path.read_text()) if language in languages]


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(generator().PAGES))
def test_a_generated_page_is_what_the_code_says(name):
    # Mend with: python docs/generate.py
    assert (ROOT / "docs" / name).read_text() == generator().PAGES[name]()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_within_the_repository_lead_somewhere(page):
    text = FENCE.sub("", page.read_text())
    for target, _ in LINK.findall(text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_workflows_in_the_documentation_are_valid(page, tmp_path, capsys):
    for number, code in enumerate(blocks(page, "yaml")):
        if re.search(r"^(jobs|tasks):", code, re.MULTILINE):
            path = tmp_path / f"{number}.yaml"
            path.write_text(code)
            assert run(["validate", str(path)]) == 0, capsys.readouterr().err


def commands_in(page):
    """Yield the arguments of every `flowctl …` of the page's shell blocks."""
    for code in blocks(page, "sh", "bash", "console"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            found = None
            for word in words:
                if set(word) <= set("();<>|&"):
                    found = None
                elif found is not None:
                    found.append(word)
                elif word == "flowctl" or word.endswith("/flowctl"):
                    found = []
                    yield found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_in_the_documentation_exist_with_their_options(page):
    for words in list(commands_in(page)):
        command, path = cli, "flowctl"
        context = click.Context(cli, info_name="flowctl")
        rest = list(words)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            found = command.get_command(context, rest[0])
            assert found is not None, f"{path} {rest[0]}"
            command, path = found, f"{path} {rest.pop(0)}"
        known = {
            name
            for option in [*cli.params, *command.params]
            for name in [*option.opts, *option.secondary_opts]
        } | {"-h", "--help"}
        for word in rest:
            if word == "--":
                # What follows is another program's.
                break
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in known, f"{path} {word}"


def test_every_decision_is_in_the_index_and_has_its_parts():
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text()
    records = sorted(folder.glob("[0-9]*.md"))
    assert records
    numbers = [int(path.name[:4]) for path in records]
    assert sorted(set(numbers)) == numbers
    for path in records:
        text = path.read_text()
        assert f"({path.name})" in index, path.name
        assert text.startswith(f"# {int(path.name[:4])}. "), path.name
        for part in ("Status: ", "\n## Context", "\n## Decision", "\n## Consequences"):
            assert part in text, f"{path.name}: {part.strip()}"


def test_every_folder_of_the_layout_says_what_it_holds():
    for name in ("deploy/k8s", "deploy/compose"):
        assert (ROOT / name / "README.md").is_file(), name


def test_ci_installs_and_tests_as_the_readme_says():
    readme = " && ".join(blocks(ROOT / "README.md", "sh"))
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -e '.[test]'" in readme
    assert "install --quiet -e '.[test]'" in ci
    (command,) = re.findall(r"\.venv/bin/(pytest [^&\n]*\S)", readme)
    assert f"\n{command} --strict-skips" in ci
