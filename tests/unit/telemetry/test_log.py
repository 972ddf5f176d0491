import asyncio
import contextvars
import io
import json
import logging
import sys

import httpx
import pytest

from headrace.telemetry import JsonFormatter, TextFormatter, log_about, setup_logging
from support.logs import logging_as_it_was


def record(message="step ended", *, exc_info=None, **extra):
    made = logging.makeLogRecord(
        {
            "name": "headrace.worker.executor",
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": message,
            "created": 1_700_000_000.25,
            "exc_info": exc_info,
        }
    )
    made.__dict__.update(extra)
    return made


def test_json_line_holds_fields_and_static():
    line = json.loads(JsonFormatter({"role": "worker"}).format(record(attempt=2, path="a[1]/b")))
    assert line == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "headrace.worker.executor",
        "message": "step ended",
        "role": "worker",
        "attempt": 2,
        "path": "a[1]/b",
    }


def test_json_fields_cannot_replace_our_own():
    line = json.loads(JsonFormatter().format(record(level="fatal", time=1)))
    assert (line["level"], line["level_"], line["time_"]) == ("warning", "fatal", 1)


def test_values_of_any_kind_are_printed_and_cut():
    circular = {}
    circular["self"] = circular
    line = json.loads(
        JsonFormatter().format(
            record(a=object(), b=b"x", c={"k": {1, 2}}, d=circular, e="y" * 10_000, f=[1, None])
        )
    )
    assert line["a"].startswith("<object")
    assert line["b"] == "b'x'"
    assert line["f"] == [1, None]
    assert len(line["e"]) < 5_000
    assert "self" in line["d"]


def test_json_stays_one_line_with_an_exception():
    try:
        raise ValueError("no\nway")
    except ValueError:
        text = JsonFormatter().format(record("two\nlines", exc_info=sys.exc_info()))
    assert "\n" not in text
    assert "ValueError: no\nway" in json.loads(text)["exception"]


def test_what_a_context_is_about_stands_on_its_lines_and_on_no_others():
    formatter = JsonFormatter({"role": "worker"})

    def logged():
        log_about(lambda: {"run": "d/r", "step": "one", "attempt": 1})
        return json.loads(formatter.format(record(attempt=2)))

    line = contextvars.copy_context().run(logged)
    assert (line["run"], line["step"], line["role"]) == ("d/r", "one", "worker")
    assert line["attempt"] == 2, "what the line itself says counts"
    assert "run" not in json.loads(formatter.format(record()))


def test_text_line():
    text = TextFormatter({"id": "w1"}).format(record(attempt=2, reason="exit code 3", empty=""))
    assert text == (
        "2023-11-14T22:13:20.250Z WARNING worker.executor: step ended "
        'id=w1 attempt=2 reason="exit code 3" empty=""'
    )


def test_text_message_and_fields_cannot_forge_a_line():
    text = TextFormatter().format(record("a\nb", field="c\nd"))
    assert "\n" not in text


@pytest.fixture
def root():
    with logging_as_it_was() as logger:
        yield logger


def test_setup_twice_leaves_one_handler_and_spares_others(root):
    before = len(root.handlers)
    first, second = io.StringIO(), io.StringIO()
    setup_logging(stream=first)
    setup_logging(stream=second, level="warning", format="json", static={"role": "x"})
    assert len(root.handlers) == before + 1
    log = logging.getLogger("headrace.test")
    log.info("quiet")
    log.warning("loud", extra={"n": 1})
    assert first.getvalue() == ""
    (line,) = second.getvalue().splitlines()
    assert json.loads(line) == json.loads(line) | {"message": "loud", "n": 1, "role": "x"}


@pytest.mark.parametrize("client", ["nats", "asyncpg.pool"])
def test_a_client_that_connects_anew_prints_no_traceback(root, client):
    stream = io.StringIO()
    setup_logging(stream=stream)
    logging.getLogger(client).warning("retrying", exc_info=ConnectionRefusedError("refused"))
    assert stream.getvalue() == ""


def test_addresses_of_http_requests_are_not_logged(root):
    """They may carry a secret; the level `debug` changes nothing about it."""
    stream = io.StringIO()
    setup_logging(stream=stream, level="debug")

    async def get() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(200))
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get("http://host/?token=hunter2")

    asyncio.run(get())
    assert "hunter2" not in stream.getvalue()
