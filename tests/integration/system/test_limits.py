"""Limits of the configuration, as users meet them."""

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

ONE = "name: one\njobs:\n  main:\n    runs-on: linux\n    steps:\n      - run: echo one\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(ONE)
    return str(path)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([f"l{n}=x" for n in range(5)], "5 labels; the limit is 4"),
        (["a=" + "x" * 33], "value of label 'a' has 33 bytes; the limit is 32"),
        (["a" * 33 + "=x"], "has 33 bytes; the limit is 32"),
    ],
    ids=["count", "value", "name"],
)
async def test_labels(cluster, file, labels, said):
    marks = [part for label in labels for part in ("--label", label)]
    ran = await cluster.flowctl("submit", file, *marks, "--id", "labels")
    assert ran.code == 3
    assert said in ran.err
    assert (await cluster.flowctl("get", "labels")).code == 4


async def test_a_listing_is_complete_although_its_pages_are_short(cluster, file):
    for number in range(7):
        ran = await cluster.flowctl(
            "submit", file, "--id", f"page-{number}", "-l", "page=yes", "--wait"
        )
        assert ran.code == 0, ran.err
    listed = await cluster.flowctl("list", "-l", "page=yes", "-o", "name")
    assert listed.out.split() == [f"page-{number}" for number in reversed(range(7))]


async def test_too_many_steps(cluster, tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(
        """\
name: loop
jobs:
  main:
    runs-on: linux
    steps:
      - id: each
        loop:
          for-each: ${{ fromJSON('[ITEMS]') }}
          steps:
            - uses: noop
            - uses: noop
            - uses: noop
            - uses: noop
            - uses: noop
            - uses: noop
""".replace("ITEMS", ",".join("1" * 40))
    )
    ran = await cluster.flowctl("submit", str(path), "--wait", "-o", "json")
    assert ran.code == 1
    assert "a run has at most 250" in ran.json["reason"]
