from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from headrace.messages import ResultStatus
from headrace.worker.builtin.process import Capture, Lines, group_lives
from support.worker_bench import ORIGIN
from support.worker_owner import make_task, output_of


def shell(run: str, **inputs):
    options = inputs.pop("options", {})
    return make_task(uses="shell", inputs={"run": run, **inputs}, **options)


async def test_outputs_env_path_summary_and_annotations(bench) -> None:
    script = """
    echo "one=1" >> "$GITHUB_OUTPUT"
    printf 'many<<EOF\\na\\nb\\nEOF\\n' >> "$HEADRACE_OUTPUT"
    echo "FOO=bar" >> "$GITHUB_ENV"
    echo "/opt/tool" >> "$GITHUB_PATH"
    echo "# Done" >> "$GITHUB_STEP_SUMMARY"
    echo "::warning file=x.py,line=2::careful"
    """
    result = await bench.run_one(shell(script))
    output = output_of(result)
    assert (output["one"], output["many"], output["exit-code"]) == ("1", "a\nb", 0)
    extra = result.extra
    assert (extra.env, extra.path, extra.exit_code) == ({"FOO": "bar"}, ["/opt/tool"], 0)
    assert extra.summary == "# Done\n"
    assert extra.annotations == [
        {"level": "warning", "message": "careful", "file": "x.py", "line": 2}
    ]


async def test_exit_code_keeps_the_outputs(bench) -> None:
    result = await bench.run_one(shell("echo a=1 >> $GITHUB_OUTPUT; echo no >&2; exit 7"))
    assert (result.status, result.error.type) == (ResultStatus.FAILED, "exit-code")
    assert result.error.message == "exit code 7: no"
    assert result.extra.exit_code == 7
    assert output_of(result) == {"a": "1", "exit-code": 7, "stdout": ""}


@pytest.mark.parametrize("chosen", ["bash", "sh", ""])
async def test_first_failing_line_ends_it(bench, chosen: str) -> None:
    result = await bench.run_one(shell("false\necho on", shell=chosen))
    assert result.error.type == "exit-code"
    assert bench.text() == []


async def test_pipes_fail_in_bash_alone(bench) -> None:
    assert (await bench.run_one(shell("false | true", shell="bash"))).error
    assert not (
        await bench.run_one(make_task("d/2", uses="shell", inputs={"run": "false | true"}))
    ).error


async def test_python_and_templates(bench) -> None:
    result = await bench.run_one(shell("print(6 * 7)", shell="python"))
    assert output_of(result)["stdout"] == "42\n"
    task = make_task("d/2", uses="shell", inputs={"run": "any text", "shell": "cat {0}"})
    assert output_of(await bench.run_one(task))["stdout"] == "any text"


@pytest.mark.parametrize("chosen", ["zebra", "cat '{0}"])
async def test_strange_shells_are_refused(bench, chosen: str) -> None:
    result = await bench.run_one(shell("x", shell=chosen))
    assert (result.error.type, result.error.retryable) == ("invalid-input", False)


async def test_missing_program_and_folder(bench) -> None:
    first = await bench.run_one(shell("x", shell="nonesuch-program {0}"))
    inputs = {"run": "x", "working-directory": "nowhere"}
    second = await bench.run_one(make_task("d/2", uses="shell", inputs=inputs))
    assert [r.error.type for r in (first, second)] == ["not-found", "not-found"]


async def test_environment(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CFG_BROKER__PASSWORD", "hidden")
    monkeypatch.setenv("HEADRACE_SECRET_X", "hidden")
    task = make_task(
        "team/run-1",
        uses="shell",
        inputs={"run": "env", "env": {"B": 2, "C": True}},
        path="build[linux]/test",
        attempt=3,
        token=9,
        env={"A": "1", "B": "1", "HEADRACE_ADDED_PATH": "/first:/second"},
    )
    output = output_of(await bench.run_one(task))["stdout"]
    env = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    assert env["HEADRACE_RUN_ID"] == env["GITHUB_RUN_ID"] == "run-1"
    assert env["HEADRACE_STEP"] == "build[linux]/test"
    assert (env["HEADRACE_ATTEMPT"], env["HEADRACE_FENCING_TOKEN"]) == ("3", "9")
    assert env["HEADRACE_IDEMPOTENCY_KEY"] == "team/run-1/build[linux]/test"
    assert (env["CI"], env["GITHUB_ACTIONS"]) == ("true", "true")
    assert (env["A"], env["B"], env["C"]) == ("1", "2", "true")
    assert env["PATH"].startswith("/second:/first:")
    assert "hidden" not in output
    assert "HEADRACE_ADDED_PATH" not in env


@pytest.mark.parametrize(
    "line",
    [
        "nonsense >> $GITHUB_OUTPUT",
        "HEADRACE_X=1 >> $GITHUB_ENV",
        "GITHUB_X=1 >> $GITHUB_ENV",
        "RUNNER_X=1 >> $GITHUB_ENV",
        "NODE_OPTIONS=x >> $GITHUB_ENV",
        "/a:/b >> $GITHUB_PATH",
        '"$(seq 200)" >> $GITHUB_PATH',
        '"A=$(seq -s, 30000)" >> $GITHUB_ENV',
    ],
)
async def test_bad_files_fail_the_step(bench, line: str) -> None:
    result = await bench.run_one(shell(f"echo {line}"))
    assert (result.error.type, result.error.retryable) == ("invalid-output", False)


async def test_masks_added_on_the_way(bench) -> None:
    script = "echo ::add-mask::s3cret; echo v=s3cret >> $GITHUB_OUTPUT; echo my s3cret"
    result = await bench.run_one(shell(script))
    assert bench.text() == ["::add-mask::***", "my ***"]
    assert output_of(result)["v"] == "***"
    assert "s3cret" not in repr(output_of(result))


async def test_stopped_commands_are_only_text(bench) -> None:
    script = "echo ::stop-commands::tok; echo ::error::no; echo ::tok::; echo ::error::yes"
    result = await bench.run_one(shell(script))
    assert [item["message"] for item in result.extra.annotations] == ["yes"]


async def test_words_that_are_no_commands_are_only_text(bench) -> None:
    result = await bench.run_one(shell("echo ::std::string; echo ::debug::x; echo ::group::y"))
    assert bench.text() == ["::std::string", "::debug::x", "::group::y"]
    assert result.extra.annotations == []


async def test_old_commands(bench) -> None:
    script = (
        "echo ::set-output name=a::1%0A2; echo a=3 >> $GITHUB_OUTPUT; echo ::set-output name=b::4"
    )
    output = output_of(await bench.run_one(shell(script)))
    assert (output["a"], output["b"]) == ("3", "4")
    assert sum("deprecated" in line for line in bench.text()) == 2


@pytest.mark.parametrize(
    "line", ["::set-env name=A::b", "::add-path::/x", "::stop-commands::", "::stop-commands::error"]
)
async def test_commands_that_are_refused_fail_the_step(bench, line: str) -> None:
    result = await bench.run_one(shell(f"echo '{line}'; echo a=1 >> $GITHUB_OUTPUT"))
    assert (result.status, result.error.type) == (ResultStatus.FAILED, "refused-command")
    assert result.extra.annotations == [{"level": "error", "message": result.error.message}]
    assert output_of(result)["a"] == "1"
    assert not result.extra.env
    assert not result.extra.path


async def test_a_failure_of_its_own_comes_before_a_refused_command(bench) -> None:
    result = await bench.run_one(shell("echo ::add-path::/x; exit 3"))
    assert result.error.type == "exit-code"


async def test_annotations_are_bounded_and_say_so(bench) -> None:
    result = await bench.run_one(shell("for i in $(seq 60); do echo ::notice::$i; done"))
    assert len(result.extra.annotations) == 51
    assert "the rest is in the log" in result.extra.annotations[-1]["message"]


async def test_a_long_summary_is_cut_and_says_so(bench) -> None:
    result = await bench.run_one(
        shell("head -c 100000 /dev/zero | tr '\\0' x > $GITHUB_STEP_SUMMARY")
    )
    assert result.status == ResultStatus.COMPLETED
    assert len(result.extra.summary) == 64 * 1024
    assert any("$GITHUB_STEP_SUMMARY is over" in line for line in bench.text())


async def test_a_secret_in_the_environment_file_is_told(make_bench) -> None:
    bench = make_bench(secrets={"TOKEN": "hunter2hunter2"})
    result = await bench.run_one(shell("echo A=hunter2hunter2 >> $GITHUB_ENV"))
    assert result.extra.env == {"A": "***"}
    assert "later steps see ***" in result.extra.annotations[0]["message"]


async def test_variables_of_the_runner_and_the_job(bench) -> None:
    task = shell("env", options={"workspace": "d/r/deploy/put[a/b]#0"})
    env = dict(
        line.split("=", 1)
        for line in output_of(await bench.run_one(task))["stdout"].splitlines()
        if "=" in line
    )
    assert (env["GITHUB_JOB"], env["HEADRACE_JOB"]) == ("put", "put")
    assert env["RUNNER_OS"] in ("Linux", "macOS")
    assert env["RUNNER_TEMP"]
    assert env["RUNNER_ARCH"]


async def test_output_that_is_no_text_and_long(bench) -> None:
    script = r"printf '\377\n'; head -c 40000 /dev/zero | tr '\0' x; echo; seq 20000"
    output = output_of(await bench.run_one(shell(script)))
    assert "$blob" in output["stdout"]
    assert output["exit-code"] == 0
    assert bench.text()[0] == "�"
    assert bench.text()[1].startswith("xxx")
    assert "cut)" in bench.text()[1]
    assert bench.numbers == list(range(len(bench.lines)))


async def test_background_processes_die_with_the_step(bench, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {file}; ps -o pgid= -p $! >> {file}"
    result = await bench.run_one(shell(script))
    assert result.status == ResultStatus.COMPLETED
    assert not group_lives(int(file.read_text().split()[1]))


async def test_cancel_gives_time_to_clean_up(bench) -> None:
    script = "trap 'echo cleaned; exit 1' TERM; echo in; while :; do read -t 1 x < /dev/zero; done"
    bench.executor.submit(ORIGIN, [shell(script, shell="bash")])
    await bench.until(lambda: "in" in bench.text())
    bench.executor.cancel("default/r1", 1, 1, "enough")
    await asyncio.wait_for(bench.executor.wait_idle(), 30)
    assert bench.results[0].status == ResultStatus.CANCELLED
    assert "cleaned" in bench.text()


async def test_timeout_kills(bench) -> None:
    task = shell("exec sleep 600", options={"timeout_ms": 100, "cancel_grace_ms": 50})
    result = await bench.run_one(task)
    assert result.error.type == "timeout"


async def test_job_workspace_is_the_folder(bench) -> None:
    task = shell("pwd; echo $GITHUB_WORKSPACE", options={"workspace": "d/r/build#0"})
    lines = output_of(await bench.run_one(task))["stdout"].splitlines()
    assert lines == [str(bench.folder / "workspaces/d/r/build#0")] * 2
    assert os.path.isdir(lines[0])


def test_capture_keeps_all_or_the_end() -> None:
    capture = Capture()
    capture.add(b"a" * 60_000)
    assert (len(capture.text()), capture.truncated) == (60_000, False)
    capture.add(b"b" * 60_000)
    assert (capture.text(), capture.truncated) == ("b" * 32 * 1024, True)
    capture.add(b"c")
    assert capture.text() == "b" * (32 * 1024 - 1) + "c"


def test_lines_across_chunks() -> None:
    seen: list[str] = []
    lines = Lines("stdout", lambda _stream, text: seen.append(text))
    for chunk in (b"on", b"e\r\ntw", "ö".encode()[:1], "ö".encode()[1:], b"\n\nend"):
        lines.feed(chunk)
    lines.end()
    assert seen == ["one", "twö", "", "end"]
    lines.feed(b"x" * 200_000)
    lines.end()
    assert [len(text) for text in seen[4:]] == [65_536, 65_536, 65_536, 3_392]
