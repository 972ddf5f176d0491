"""No key may be there for show."""

import re
from pathlib import Path

import msgspec
import pytest

from headrace.config import Config

ROOT = Path(__file__).parents[3]
SOURCE = "\n".join(
    path.read_text()
    for folder in ("common", "coordinator", "worker")
    for path in (ROOT / folder).rglob("*.py")
    if path.parent.name != "config"
)
KEYS = [
    (section.name, field.name)
    for section in msgspec.structs.fields(Config)
    for field in msgspec.structs.fields(section.type)
]


@pytest.mark.parametrize(("section", "key"), KEYS, ids=".".join)
def test_a_key_is_read_by_somebody(section, key):
    owners = rf"(?:{section}|settings|config|limits|dispatch|broker)"
    assert re.search(rf"\b{owners}\.{key}\b", SOURCE), f"{section}.{key} is read by nobody"
