"""`docs/language.md`: its examples run, its tables are whole."""

from pathlib import Path

import pytest

from headrace.errors import InvalidDefinition
from headrace.flowctl import load_definition
from headrace.language import compile_workflow
from headrace.language._schema._page import blocks, tables
from support.examples import check_run, read_examples

PAGE = (Path(__file__).parents[3] / "docs" / "language.md").read_text("utf-8")
EXAMPLES = read_examples(PAGE)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"line-{example.line}")
async def test_example(example, tmp_path):
    file = tmp_path / "example.yaml"
    file.write_text(example.text)
    for other in EXAMPLES:
        if other.kind == "file":
            (tmp_path / other.said).write_text(other.text)
    if example.kind == "refused":
        with pytest.raises(InvalidDefinition, match=example.said):
            compile_workflow(example.text)
    elif example.kind in ("compile", "file"):
        load_definition(str(file))
    else:
        await check_run(str(file), example.said)


def test_what_is_drawn_exists():
    drawn = blocks(PAGE)
    assert len(drawn) == len(set(drawn)) == PAGE.count("<!-- /generated -->")
    assert set(drawn) <= set(tables())


def test_every_action_and_form_has_an_example():
    runs = "\n".join(example.text for example in EXAMPLES if example.kind == "run")
    from headrace.language._schema import step_shapes

    assert [action for action in step_shapes() if f"{action}:" not in runs] == []
    loops = ("for-each", "while", "until", "repeat")
    assert [form for form in loops if f"{form}:" not in runs] == []
