"""`script`, `file/*`, `sleep`, `docker/*`, and that all take what the language says they take."""

from __future__ import annotations

import datetime
import importlib
from pathlib import Path

import msgspec
import pytest

from headrace.messages import ResultStatus
from headrace.worker.builtin import builtin_registry
from headrace.worker.builtin.basic import parse_duration_s
from headrace.worker.handlers import HandlerError
from support.worker_owner import make_task, output_of

language = pytest.importorskip("headrace.language._handlers")


@pytest.mark.parametrize("name", sorted(language.BUILTIN_HANDLERS))
def test_the_language_says_what_the_worker_takes_and_gives(name: str) -> None:
    handler = builtin_registry().lookup(name)
    assert handler is not None
    spec = language.BUILTIN_HANDLERS[name]
    if handler.input_type is msgspec.Raw:
        assert (spec.open, spec.open_outputs) == (True, True)
        return
    aliases = language.INPUT_ALIASES.get(name, {})
    fields = {field.encode_name: field for field in msgspec.structs.fields(handler.input_type)}
    assert set(spec.inputs) == set(fields) - set(aliases)
    for key, given in spec.inputs.items():
        field = fields[key]
        # Of inputs with two names the worker cannot say that it needs one.
        needed = field.required or key in aliases.values()
        assert (key, given.required) == (key, needed)
        if given.default is not None and not needed:
            default = field.default
            if default is msgspec.NODEFAULT:
                default = field.default_factory()
            assert (key, default) == (key, given.default)
    made = {field.encode_name: field for field in msgspec.structs.fields(handler.output_type)}
    assert set(spec.outputs) == set(made)
    for key, told in spec.outputs.items():
        assert (key, told.always) == (key, made[key].required)


def test_every_handler_of_the_worker_is_described() -> None:
    names = {name for name in language.BUILTIN_HANDLERS if name in builtin_registry()}
    assert names == set(language.BUILTIN_HANDLERS)
    assert len(builtin_registry()) == len(names)


@pytest.mark.parametrize("name", sorted(language.BUILTIN_HANDLERS))
def test_types_agree(name: str) -> None:
    """The schema of the worker's struct allows what the language's type allows."""
    handler = builtin_registry().lookup(name)
    spec = language.BUILTIN_HANDLERS[name]
    if handler is None or handler.input_type is msgspec.Raw:
        return
    samples: dict[str, list[object]] = {
        "string": ["x"],
        "integer": [3],
        "number": [1.5],
        "boolean": [True],
        "list": [[]],
        "object": [{}],
        "any": ["x", 1, [], {}],
        "duration": [5, "90s"],
        "texts": ["x", ["x"]],
    }
    types = {field.encode_name: field.type for field in msgspec.structs.fields(handler.input_type)}
    for key, given in spec.inputs.items():
        if key == "expect-status":
            continue  # numbers, texts and lists of them
        for sample in given.options or samples[given.type]:
            msgspec.convert(sample, types[key])


async def run(bench, uses: str, run_id: str = "default/r1", **inputs):
    return await bench.run_one(make_task(run_id, uses=uses, inputs=inputs))


# -- script ------------------------------------------------------------------------------------


async def test_script_of_the_first_users(bench) -> None:
    code = (
        "import json\ndata = json.loads(input_data)\n"
        'result = {"count": len(data)}\nprint(json.dumps(result))\n'
    )
    result = await run(bench, "script", language="python", code=code, input_data=[1, 2, 3])
    assert output_of(result)["result"] == {"count": 3}


@pytest.mark.parametrize(
    ("language_name", "code"),
    [
        ("python", "import sys\nprint(input_data + sys.stdin.read() + sys.argv[1])"),
        ("sh", 'printf "$INPUT_DATA"; cat; printf "$1"'),
        ("bash", 'cat "$HEADRACE_INPUT_FILE" -; printf "$1"'),
    ],
)
async def test_script_data_and_arguments(bench, language_name: str, code: str) -> None:
    result = await run(bench, "script", language=language_name, code=code, input="x", args=["y"])
    assert output_of(result)["result"] == "xxy"


async def test_a_long_result_of_a_script_is_whole(make_bench) -> None:
    bench = make_bench(inline_bytes=1_000_000)
    code = 'import json; print(json.dumps(["x" * 1_000] * 200))'
    outputs = output_of(await run(bench, "script", code=code))
    assert outputs["result"] == ["x" * 1_000] * 200
    assert outputs["stdout-truncated"]
    assert len(outputs["stdout"]) == 32 * 1024


async def test_a_script_that_prints_too_much_has_no_result(bench, monkeypatch) -> None:
    script_module = importlib.import_module("headrace.worker.builtin.script")
    monkeypatch.setattr(script_module, "RESULT_BYTES_MAX", 100_000)
    result = await run(bench, "script", code='print("x" * 200_000)')
    assert result.error is not None
    assert (result.error.type, result.error.retryable) == ("result-too-large", False)


async def test_script_from_a_file_with_the_users_lines_in_tracebacks(bench) -> None:
    (bench.folder / "workspaces/d/r/j").mkdir(parents=True)
    (bench.folder / "workspaces/d/r/j/main.py").write_text("\n\nraise KeyError('x')\n")
    inputs = {"file": "main.py"}
    result = await bench.run_one(make_task(uses="script", inputs=inputs, workspace="d/r/j"))
    assert result.error.message == "exit code 1: KeyError: 'x'"
    assert any("main.py" in line and "line 3" in line for line in bench.text("stderr"))


@pytest.mark.parametrize("inputs", [{}, {"code": "x", "file": "y"}, {"code": "x", "language": "c"}])
async def test_script_refuses(bench, inputs: dict) -> None:
    result = await bench.run_one(make_task(uses="script", inputs=inputs))
    assert (result.error.type, result.error.retryable) == ("invalid-input", False)


# -- files -------------------------------------------------------------------------------------


async def test_write_read_append_copy(bench, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    await run(bench, "file/write", "d/1", path=str(path), content="héllo", mode="0600")
    assert path.stat().st_mode & 0o777 == 0o600
    written = await run(bench, "file/write", "d/2", path=str(path), content="!", append=True)
    assert output_of(written)["size"] == 7
    read = output_of(await run(bench, "file/read", "d/3", path=str(path)))
    assert (read["content"], read["size"]) == ("héllo!", 7)
    target = tmp_path / "copies" / "file.txt"
    copied = await run(bench, "file/copy", "d/4", source=str(path), destination=f"{target.parent}/")
    assert output_of(copied)["path"] == str(target)
    refused = await run(
        bench, "file/copy", "d/5", source=str(path), destination=str(target), overwrite=False
    )
    assert refused.error.type == "exists"
    assert sorted(p.name for p in target.parent.iterdir()) == ["file.txt"]


async def test_move(bench, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "old").write_text("y")
    moved = await run(
        bench, "file/move", "d/1", source=str(tmp_path / "a"), destination=f"{tmp_path}/in/"
    )
    assert output_of(moved) == {"path": str(tmp_path / "in" / "a"), "size": 1}
    assert not (tmp_path / "a").exists()
    target = str(tmp_path / "old")
    kept = await run(
        bench,
        "file/move",
        "d/2",
        source=str(tmp_path / "in/a"),
        destination=target,
        overwrite=False,
    )
    assert (kept.error.type, Path(target).read_text()) == ("exists", "y")
    folder = await run(bench, "file/move", "d/3", source=f"{tmp_path}/in", destination=target + "2")
    assert output_of(folder) == {"path": target + "2"}
    inside = await run(
        bench, "file/move", "d/4", source=target + "2", destination=target + "2/deeper/x"
    )
    assert inside.error.type == "invalid-input"
    missing = await run(bench, "file/move", "d/5", source="none", destination="x")
    assert (missing.error.type, missing.error.retryable) == ("not-found", False)


async def test_json_and_base64(bench, tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    await run(bench, "file/write", "d/1", path=path, content={"a": [1]})
    read = await run(bench, "file/read", "d/2", path=path, format="json")
    assert output_of(read)["result"] == {"a": [1]}
    await run(bench, "file/write", "d/3", path=path, content="/wA=", encoding="base64")
    assert (tmp_path / "x").read_bytes() == b"\xff\x00"
    assert (await run(bench, "file/read", "d/4", path=path)).error.type == "invalid-input"
    read = await run(bench, "file/read", "d/5", path=path, encoding="base64")
    assert output_of(read)["content"] == "/wA="


async def test_transfer_fills_the_date_and_names_what_it_cannot(bench, tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("x")
    result = await run(
        bench,
        "file/transfer",
        "d/1",
        source=str(tmp_path / "a.sql"),
        destination=f"file://{tmp_path}/b-{{date}}-{{run}}.sql",
    )
    assert result.status == ResultStatus.COMPLETED
    name = Path(output_of(result)["path"]).name
    today = datetime.datetime.now(tz=datetime.UTC).date()
    days = {today, today - datetime.timedelta(days=1)}
    assert name in {f"b-{day}-1.sql" for day in days}
    result = await run(
        bench, "file/transfer", "d/2", source="x", destination="gs://backups/a-{date}.sql"
    )
    assert (result.error.type, result.error.retryable) == ("unsupported-scheme", False)


@pytest.mark.parametrize(
    ("uses", "inputs"),
    [
        ("file/read", {"path": "/nonesuch/file"}),
        ("file/copy", {"source": "/nonesuch", "destination": "x"}),
    ],
)
async def test_missing_files(bench, uses: str, inputs: dict) -> None:
    result = await run(bench, uses, **inputs)
    assert (result.error.type, result.error.retryable) == ("not-found", False)


# -- the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1m30s", 90), ("250ms", 0.25), ("2", 2), (1.5, 1.5), ("1h 1m", 3_660)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs", "-1", -1, "1m and more", "inf", "nan"])
def test_no_durations(text: str | float) -> None:
    with pytest.raises(HandlerError):
        parse_duration_s(text)


async def test_sleep_and_noop(bench) -> None:
    assert output_of(await run(bench, "sleep", "d/1", duration="1ms")) == {"seconds": 0.001}
    assert output_of(await run(bench, "noop", "d/2", a=[1])) == {"a": [1]}
    assert (await run(bench, "sleep", "d/3")).error.type == "invalid-input"


@pytest.mark.parametrize(
    ("uses", "inputs"),
    [
        ("docker/run", {"image": "x"}),
        ("docker/pull", {"image": "x"}),
        ("docker/exec", {"command": "docker pull myapp:latest"}),
        ("docker/compose-up", {"file": "docker-compose.yml"}),
        ("docker/compose-down", {}),
    ],
)
async def test_docker_without_an_engine(
    bench, uses: str, inputs: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = await run(bench, uses, "d/1", **inputs)
    assert (result.error.type, result.error.retryable) == ("no-engine", False)
    fake = tmp_path / "docker"
    fake.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    fake.chmod(0o755)
    result = await run(bench, uses, "d/2", **inputs)
    assert (result.error.type, result.error.retryable) == ("no-engine", True)
    assert "Cannot connect" in result.error.message


async def test_docker_command_lines(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "docker"
    fake.write_text('#!/bin/sh\n[ "$1" = version ] || for w in "$@"; do echo "$w"; done\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    async def words(uses: str, number: int, **inputs) -> list[str]:
        result = await run(bench, uses, f"d/{number}", **inputs)
        lines: list[str] = output_of(result)["stdout"].splitlines()
        return lines

    got = await words(
        "docker/run", 1, image="img", command="echo 'a b'", env={"X": 1}, volumes=["/a:/b"]
    )
    assert got[:3] == ["run", "--rm", "--init"]
    assert got[-7:] == ["--env", "X=1", "--volume", "/a:/b", "img", "echo", "a b"]
    assert await words("docker/exec", 2, container="c", command="ls | wc", user="u") == [
        *("exec", "--user", "u", "c", "sh", "-c", "ls | wc")
    ]
    pulled = await run(bench, "docker/pull", "d/9", image="busybox:1", platform="linux/arm64")
    assert bench.text("stdout")[-9:-3] == [
        "pull",
        "--platform",
        "linux/arm64",
        "busybox:1",
        "image",
        "inspect",
    ]
    assert output_of(pulled) == {"image": "busybox:1", "digest": "image"}
    assert await words("docker/exec", 3, command="docker pull myapp:latest") == [
        *("pull", "myapp:latest")
    ]
    assert await words("docker/compose-up", 4, file=["a", "b"], services=["web"]) == [
        *("compose", "--file", "a", "--file", "b", "up", "--detach", "--wait", "web")
    ]
    assert await words("docker/compose-down", 5, project="p", volumes=True) == [
        *("compose", "--project-name", "p", "down", "--volumes")
    ]
