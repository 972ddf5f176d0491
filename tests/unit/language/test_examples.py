"""What the first users wrote compiles as it stands; the files stand outside the repository."""

import os
from pathlib import Path

import pytest

from headrace.language import compile_workflow
from headrace.plan import validate_plan

_REPOSITORY = Path(__file__).parents[3]
_FOLDER = Path(os.environ.get("HEADRACE_EXAMPLES", _REPOSITORY.parent / "shared" / "examples"))
_FILES = sorted(_FOLDER.glob("*.yaml"))


@pytest.mark.skipif(not _FILES, reason=f"no examples in {_FOLDER}")
@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_example_compiles(path):
    plan = compile_workflow(path.read_text("utf-8"), file=path.name)
    validate_plan(plan)
    assert plan.name == path.stem
