from pathlib import Path

import msgspec

from headrace.config import Config, describe

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_every_key_stands_there_with_a_text():
    text = describe()
    for section in msgspec.structs.fields(Config):
        assert f"## `[{section.name}]`" in text
        for field in msgspec.structs.fields(section.type):
            (line,) = [
                line
                for line in text.partition(f"## `[{section.name}]`")[2]
                .partition("\n## ")[0]
                .split("\n")
                if line.startswith(f"| `{field.name}` |")
            ]
            assert len(line.split(" | ")) == 4, line
            assert line.rstrip(" |").endswith("."), line


def test_page_is_up_to_date():
    # Mend with: python -m headrace.config > docs/configuration.md
    assert PAGE.read_text() == describe()
