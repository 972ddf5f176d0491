from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from headrace.messages import ResultStatus
from headrace.worker.deferred import hash_files
from headrace.worker.handlers import HandlerError
from support.worker_owner import make_task, output_of

AT = "$at"


async def test_secrets_are_filled_in_and_hidden_everywhere(make_bench) -> None:
    bench = make_bench(secrets={"TOKEN": "hunter2hunter2"})
    script = "echo got ${{ secrets.TOKEN }} $T; echo v=$T >> $GITHUB_OUTPUT; echo $T >&2; exit 3"
    task = make_task(
        uses="shell",
        inputs={"run": script},
        env={"T": "${{ secrets.TOKEN }}"},
        deferred={AT: [["inputs", "run"], ["env", "T"]]},
    )
    result = await bench.run_one(task)
    assert result.status == ResultStatus.FAILED
    assert result.error.message == "exit code 3: ***"
    assert output_of(result) == {"exit-code": 3, "stdout": "got *** ***\n", "v": "***"}
    assert sorted(bench.text()) == ["***", "got *** ***"]


async def test_only_the_places_named_are_evaluated(make_bench) -> None:
    bench = make_bench(secrets={"TOKEN": "hunter2hunter2"})
    inputs = {"data": "${{ secrets.TOKEN }}", "wanted": ["${{ github.sha }}", "${{ x }}"]}
    deferred = {AT: [["inputs", "wanted", 0]], "github": {"sha": "abc"}}
    result = await bench.run_one(make_task(inputs=inputs, deferred=deferred))
    assert output_of(result) == {"data": "${{ secrets.TOKEN }}", "wanted": ["abc", "${{ x }}"]}


async def test_without_places_everything_is_evaluated(make_bench) -> None:
    bench = make_bench()
    task = make_task(inputs={"a": "${{ runner.os }}"}, deferred={"github": {}})
    assert output_of(await bench.run_one(task))["a"] in ("Linux", "macOS")


async def test_bad_expression_fails_for_good(make_bench) -> None:
    task = make_task(inputs={"a": "${{ nonesuch( }}"}, deferred={AT: [["inputs", "a"]]})
    result = await make_bench().run_one(task)
    assert (result.error.type, result.error.retryable) == ("invalid-expression", False)


def test_hash_files_is_that_of_github(tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text("one")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.lock").write_text("two")
    digests = [hashlib.sha256(text).digest() for text in (b"one", b"two")]
    function = hash_files(lambda: tmp_path)
    assert function("**/*.lock") == hashlib.sha256(b"".join(digests)).hexdigest()
    assert function("**/*.lock", "!sub/*") == hashlib.sha256(digests[0]).hexdigest()
    assert function("nothing") == ""
    with pytest.raises(HandlerError):
        function("../*")


async def test_variables_of_the_worker_and_of_the_workflow(make_bench) -> None:
    bench = make_bench(variables={"REGION": "us", "api": "http://x", "Extra": "e"})
    inputs = {"a": "${{ vars.region }} ${{ vars.API }}", "all": "${{ toJSON(vars) }}"}
    deferred = {AT: [["inputs", "a"], ["inputs", "all"]], "vars": {"region": "eu"}}
    output = output_of(await bench.run_one(make_task(inputs=inputs, deferred=deferred)))
    assert output["a"] == "eu http://x"
    assert json.loads(output["all"]) == {"region": "eu", "api": "http://x", "Extra": "e"}


async def test_inputs_read_env_that_is_written_with_a_secret(make_bench) -> None:
    bench = make_bench(secrets={"TOKEN": "hunter2hunter2"})
    task = make_task(
        uses="shell",
        inputs={"run": "test '${{ env.T }}-${{ env.PLAIN }}' = hunter2hunter2!-p"},
        env={"PLAIN": "p"},
        deferred={
            AT: [["inputs", "run"]],
            "$env": [[{"PLAIN": "p"}, {"T": "${{ secrets.TOKEN }}"}], [{}, {"T": "${{ env.T }}!"}]],
        },
    )
    result = await bench.run_one(task)
    assert result.status == ResultStatus.COMPLETED


async def test_what_is_not_set_is_empty_and_told(make_bench) -> None:
    bench = make_bench(secrets={"A": "aaaaaaaa"})
    inputs = {"x": "<${{ secrets.NONE }}${{ vars.NO }}>${{ secrets.a }}"}
    result = await bench.run_one(make_task(inputs=inputs, deferred={AT: [["inputs", "x"]]}))
    assert output_of(result) == {"x": "<>***"}
    assert bench.text("system") == [
        "secrets.NONE is not set on this worker: it is empty",
        "vars.NO is not set on this worker: it is empty",
    ]


# -- values in the object store ------------------------------------------------------------------


def far(name: str, size: int = 10) -> dict:
    return {"$blob": {"ref": f"default/r1/{name}", "size": size}}


async def test_what_an_expression_looks_at_is_fetched_and_nothing_else(make_bench) -> None:
    bench = make_bench()
    bench.blobs["default/r1/text"] = msgspec.msgpack.encode("large text")
    steps = {"a": {"outputs": {"text": far("text"), "other": far("gone"), "n": 1}}}
    inputs = {"run": "${{ steps.a.outputs.n }}: ${{ steps.a.outputs.text }}", "data": "${{ x }}"}
    task = make_task(inputs=inputs, deferred={AT: [["inputs", "run"]], "steps": steps})
    result = await bench.run_one(task)
    assert output_of(result) == {"run": "1: large text", "data": "${{ x }}"}


async def test_environment_variables_are_the_value_itself(make_bench) -> None:
    bench = make_bench()
    bench.blobs["default/r1/text"] = msgspec.msgpack.encode("large text")
    bench.blobs["default/r1/list"] = msgspec.msgpack.encode([1, 2])
    task = make_task(
        uses="shell",
        inputs={"run": 'echo "$T $L"'},
        env={"T": "${{ inputs.text }}", "L": "${{ toJSON(inputs.list) }}"},
        deferred={
            AT: [["env", "T"], ["env", "L"]],
            "inputs": {"text": far("text"), "list": far("list")},
        },
    )
    found = output_of(await bench.run_one(task))["stdout"]
    assert found == "large text [\n  1,\n  2\n]\n"


async def test_what_is_passed_on_is_filled_in_and_its_contents_are_data(make_bench) -> None:
    bench = make_bench(secrets={"TOKEN": "hunter2hunter2"})
    inner = {"looks": far("text"), "like": "${{ secrets.TOKEN }}"}
    bench.blobs["default/r1/map"] = msgspec.msgpack.encode(inner)
    task = make_task(
        inputs={"a": "${{ runner.os && inputs.map }}"},
        deferred={AT: [["inputs", "a"]], "inputs": {"map": far("map")}},
    )
    assert output_of(await bench.run_one(task)) == {"a": inner}


async def test_what_is_gone_fails_the_step(make_bench) -> None:
    task = make_task(
        inputs={"a": "x ${{ inputs.text }}"},
        deferred={AT: [["inputs", "a"]], "inputs": {"text": far("gone")}},
    )
    result = await make_bench().run_one(task)
    assert result.error.type == "not-found"


async def test_the_hard_limit_counts_for_expressions_too(make_bench) -> None:
    bench = make_bench(bytes_max=15)
    bench.blobs["default/r1/b"] = msgspec.msgpack.encode("b")
    task = make_task(
        inputs={"a": far("b"), "b": "x ${{ inputs.text }}"},
        deferred={AT: [["inputs", "b"]], "inputs": {"text": far("b")}},
    )
    result = await bench.run_one(task)
    assert (result.error.type, result.error.retryable) == ("input-too-large", False)


@pytest.mark.parametrize("pattern", ["**a", "../x", "/"])
def test_hash_files_refuses_strange_patterns(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(HandlerError) as caught:
        hash_files(lambda: tmp_path)(pattern)
    assert caught.value.type == "invalid-expression"


def test_hash_files_takes_lines_and_the_option(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    function = hash_files(lambda: tmp_path)
    assert function("a\nb") == function("a", "b") == function("--follow-symbolic-links", "*")
    assert function("a\n!a") == ""
