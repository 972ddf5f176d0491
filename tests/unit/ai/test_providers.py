"""Providers against servers that speak their wire formats."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headrace.ai import (
    Anthropic,
    ChatReply,
    ChatRequest,
    HashEmbeddings,
    Message,
    OpenAI,
    ProviderError,
    Scripted,
    ToolCall,
    ToolSpec,
    Usage,
)


class Server:
    """Answers what a test says, and keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        kept = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                kept.asked.append((self.path, headers, json.loads(body)))
                status, more, data = kept.answers.pop(0)
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def says(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, told, data))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


CALL = ToolCall("c1", "look_up", {"number": 7})
TALK = [
    Message("user", "Where is order 7?"),
    Message("assistant", "I look.", calls=[CALL, ToolCall("c2", "weather", {})]),
    Message("tool", "lost", call_id="c1"),
    Message("tool", "rain", call_id="c2"),
]
REQUEST = ChatRequest(
    model="m",
    messages=TALK,
    system="Be brief.",
    tools=[ToolSpec("look_up", "Looks.", {"type": "object", "properties": {}})],
    temperature=0.5,
    max_tokens=100,
    extra={"seed": 7},
)


async def test_openai_speaks_chat_completions(server: Server) -> None:
    function = {"name": "look_up", "arguments": '{"number": 8}'}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c9", "type": "function", "function": function}],
    }
    server.says(
        {
            "id": "x1",
            "model": "m-2026",
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        }
    )
    reply = await OpenAI(base_url=server.url + "/v1", api_key="k").chat(REQUEST)
    assert reply == ChatReply(
        "", [ToolCall("c9", "look_up", {"number": 8})], "m-2026", "tool_calls", Usage(11, 3), "x1"
    )
    ((path, headers, body),) = server.asked
    assert (path, headers["authorization"]) == ("/v1/chat/completions", "Bearer k")
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["messages"][2]["tool_calls"][0]["function"] == {
        "name": "look_up",
        "arguments": '{"number":7}',
    }
    assert body["messages"][3] == {"role": "tool", "tool_call_id": "c1", "content": "lost"}
    assert body["tools"][0]["function"]["name"] == "look_up"
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.5, 100, 7)


async def test_anthropic_speaks_messages(server: Server) -> None:
    server.says(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m-1",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"number": 8}},
            ],
            "stop_reason": "tool_use",
            "usage": {"input_tokens": 20, "output_tokens": 5},
        }
    )
    reply = await Anthropic(base_url=server.url, api_key="k").chat(REQUEST)
    assert reply == ChatReply(
        "Let me see.",
        [ToolCall("t1", "look_up", {"number": 8})],
        "m-1",
        "tool_use",
        Usage(20, 5),
        "msg_1",
    )
    ((path, headers, body),) = server.asked
    assert (path, headers["x-api-key"]) == ("/v1/messages", "k")
    assert headers["anthropic-version"] == "2023-06-01"
    assert body["system"] == "Be brief."
    assert body["tools"][0]["input_schema"] == {"type": "object", "properties": {}}
    # Results that follow each other are one turn: roles must take turns.
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert [block["tool_use_id"] for block in body["messages"][2]["content"]] == ["c1", "c2"]


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"),
    [
        (429, {"error": {"message": "slow down"}}, "rate-limited", True),
        (429, {"error": {"message": "x", "code": "insufficient_quota"}}, "quota-exceeded", False),
        (529, {"type": "error", "error": {"message": "overloaded"}}, "overloaded", True),
        (500, b"oops", "overloaded", True),
        (408, b"", "overloaded", True),
        (401, {"error": {"message": "bad key"}}, "refused", False),
        (400, {"error": {"message": "no such model"}}, "refused", False),
        (200, b"<html>", "invalid-answer", True),
        (200, {"choices": []}, "invalid-answer", True),
        (200, [1], "invalid-answer", True),
    ],
)
@pytest.mark.parametrize("kind_of", [OpenAI, Anthropic])
async def test_errors_say_whether_another_attempt_may_help(
    server: Server, kind_of: Any, status: int, body: Any, kind: str, retryable: bool
) -> None:
    server.says(body, status, retry_after="7")
    with pytest.raises(ProviderError) as caught:
        await kind_of(base_url=server.url, api_key="sk-hidden").chat(REQUEST)
    error = caught.value
    assert (error.type, error.retryable) == (kind, retryable)
    assert "sk-hidden" not in error.message
    if kind == "rate-limited":
        assert error.retry_after_s == 7.0


async def test_nobody_there() -> None:
    with pytest.raises(ProviderError) as caught:
        await OpenAI(base_url="http://127.0.0.1:9", timeout_s=2).chat(REQUEST)
    assert (caught.value.type, caught.value.retryable) == ("unreachable", True)
    with pytest.raises(ProviderError) as caught:
        await OpenAI(base_url="ftp://x").chat(REQUEST)
    assert not caught.value.retryable


async def test_embeddings_come_in_the_order_of_the_texts(server: Server) -> None:
    rows = [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}]
    server.says({"data": rows})
    vectors = await OpenAI(base_url=server.url).embed(["a", "b"], model="e")
    assert vectors == [[1.0, 0.0], [0.0, 1.0]]
    server.says({"data": rows[:1]})
    with pytest.raises(ProviderError, match="1 vectors for 2 texts"):
        await OpenAI(base_url=server.url).embed(["a", "b"], model="e")


async def test_broken_arguments_of_a_tool_are_asked_for_again(server: Server) -> None:
    function = {"name": "look_up", "arguments": "{broken"}
    message = {"content": "", "tool_calls": [{"id": "1", "function": function}]}
    server.says({"choices": [{"message": message}]})
    with pytest.raises(ProviderError) as caught:
        await OpenAI(base_url=server.url).chat(REQUEST)
    assert (caught.value.type, caught.value.retryable) == ("invalid-answer", True)


async def test_a_script_ends() -> None:
    scripted = Scripted(["one", ProviderError("overloaded", "later", retryable=True)])
    assert (await scripted.chat(REQUEST)).text == "one"
    for kind in ("overloaded", "refused"):
        with pytest.raises(ProviderError) as caught:
            await scripted.chat(REQUEST)
        assert caught.value.type == kind


async def test_hashed_texts_with_the_same_words_are_near() -> None:
    near, same, far = await HashEmbeddings().embed(["red apple pie", "Apple pie, red", "log fsync"])
    assert sum(x * y for x, y in zip(near, same, strict=True)) == pytest.approx(1.0)
    assert abs(sum(x * y for x, y in zip(near, far, strict=True))) < 0.5


# -- word by word ----------------------------------------------------------------------------------


def openai_events(*choices: dict[str, Any]) -> bytes:
    head = {"id": "x1", "model": "m-2026"}
    chunks = [head | {"choices": [choice]} for choice in choices]
    chunks.append(head | {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3}})
    return b"".join(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks) + DONE


DONE = b"data: [DONE]\n\n"


def delta(finish: str = "", **fields: Any) -> dict[str, Any]:
    return {"index": 0, "delta": fields, "finish_reason": finish or None}


async def test_openai_streams_words_and_gives_the_whole(server: Server) -> None:
    def call(**function: str) -> dict[str, Any]:
        return {"index": 0, "function": function}

    server.says(
        openai_events(
            delta(role="assistant", content=""),
            delta(content="Hel"),
            delta(content="lo \u2028you"),
            delta(tool_calls=[{"id": "c9"} | call(name="look_up", arguments="")]),
            delta(tool_calls=[call(arguments='{"num')]),
            delta(tool_calls=[call(arguments='ber": 8}')]),
            delta("tool_calls"),
        )
    )
    told: list[str] = []
    provider = OpenAI(base_url=server.url + "/v1", api_key="k")
    reply = await provider.stream(REQUEST, told.append)
    assert told == ["Hel", "lo \u2028you"]
    calls = [ToolCall("c9", "look_up", {"number": 8})]
    assert reply == ChatReply("Hello \u2028you", calls, "m-2026", "tool_calls", Usage(11, 3), "x1")
    body = server.asked[0][2]
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


ANTHROPIC: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "y1",
            "model": "n-2026",
            "usage": {"input_tokens": 7, "output_tokens": 1},
        },
    },
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "look."}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "c9", "name": "look_up", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": '{"number"'},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": ": 8}"},
    },
    {"type": "content_block_stop", "index": 1},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 9},
    },
    {"type": "message_stop"},
]


def anthropic_events(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


async def test_anthropic_streams_words_and_gives_the_whole(server: Server) -> None:
    server.says(anthropic_events(ANTHROPIC))
    told: list[str] = []
    reply = await Anthropic(base_url=server.url, api_key="k").stream(REQUEST, told.append)
    assert told == ["I ", "look."]
    calls = [ToolCall("c9", "look_up", {"number": 8})]
    assert reply == ChatReply("I look.", calls, "n-2026", "tool_use", Usage(7, 9), "y1")
    assert server.asked[0][2]["stream"] is True


@pytest.mark.parametrize(
    ("body", "status", "type", "retryable"),
    [
        (anthropic_events(ANTHROPIC[:5]), 200, "invalid-answer", True),
        (
            anthropic_events([{"type": "error", "error": {"message": "busy"}}]),
            200,
            "overloaded",
            True,
        ),
        (b"data: {\n\n", 200, "invalid-answer", True),
        (b"data: 7\n\n", 200, "invalid-answer", True),
        (b'{"error": {"message": "no key"}}', 401, "refused", False),
    ],
)
async def test_what_goes_wrong_in_a_stream_is_sorted(
    server: Server, body: bytes, status: int, type: str, retryable: bool
) -> None:
    server.says(body, status)
    with pytest.raises(ProviderError) as raised:
        await Anthropic(base_url=server.url).stream(REQUEST, [].append)
    assert (raised.value.type, raised.value.retryable) == (type, retryable)


async def test_openai_notices_an_answer_that_is_cut_off(server: Server) -> None:
    server.says(openai_events(delta(content="Hel")).removesuffix(DONE))
    with pytest.raises(ProviderError, match="ended in the middle"):
        await OpenAI(base_url=server.url).stream(REQUEST, [].append)


async def test_a_script_is_told_word_by_word() -> None:
    told: list[str] = []
    reply = await Scripted(["  two  words "]).stream(REQUEST, told.append)
    assert ("".join(told), len(told)) == (reply.text, 2)
