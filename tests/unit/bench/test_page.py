"""Only what stands between its marks is written."""

import pytest
from bench.page import splice, spliced

PAGE = "# A\n<!-- b: by a command -->\nold\n<!-- /b -->\n## C\n<!-- c: by another --><!-- /c -->\n"


def test_a_part_is_put_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    splice(page, "b", "new\n")
    assert page.read_text() == PAGE.replace("old", "new")
    splice(page, "b", "new")
    assert page.read_text() == PAGE.replace("old", "new"), "again, and nothing changes"
    assert "-->\nlast\n<!-- /c -->" in spliced(PAGE, "c", "last")


@pytest.mark.parametrize("text", ["# A\n", "<!-- b: x -->", "<!-- /b -->", "<!-- b: x <!-- /b -->"])
def test_without_marks_nothing_is_guessed(text):
    with pytest.raises(ValueError, match="no marks <!-- b"):
        spliced(text, "b", "new")
