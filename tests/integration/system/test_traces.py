"""A trace goes from who submits to the steps' processes, their requests, and a collector."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.cluster import Cluster, running

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Collector:
    """What an OTLP collector and a web server are told."""

    def __init__(self):
        self.spans, self.headers = [], []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = ExportTraceServiceRequest.FromString(
                    self.rfile.read(int(self.headers["Content-Length"]))
                )
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.answer()

            def do_GET(self):
                collector.headers.append(self.headers.get("traceparent", ""))
                self.answer()

            def answer(self):
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def attributes(span):
    return {pair.key: pair.value.string_value for pair in span.attributes}


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


async def test_from_submit_to_step_request_and_collector(tmp_path, collector):
    file = tmp_path / "traced.yaml"
    file.write_text(
        f"""
jobs:
  one:
    runs-on: linux
    outputs: {{trace: "${{{{ steps.say.outputs.trace }}}}"}}
    steps:
      - id: say
        run: echo "trace=$TRACEPARENT" >> "$GITHUB_OUTPUT"
      - uses: http/request
        with: {{url: "{collector.url}/"}}
      - id: call
        subworkflow: {{uses: ./inner.yaml}}
"""
    )
    (tmp_path / "inner.yaml").write_text(
        "jobs: {only: {runs-on: linux, steps: [{id: it, run: exit 0}]}}"
    )
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    async with running(Cluster(tmp_path / "cluster", env=env)) as cluster:
        submit = ("submit", str(file), "--wait", "-o", "json")
        ran = await cluster.flowctl(*submit, env={"TRACEPARENT": PARENT})
        assert ran.code == 0, ran
        unsampled = await cluster.flowctl(*submit, env={"TRACEPARENT": PARENT[:-1] + "0"})
        assert unsampled.code == 0, unsampled
        begun = await cluster.flowctl(*submit)
        assert begun.code == 0, begun
    # Worker and coordinator have ended: they have sent what waited.
    every = sorted(collector.spans, key=lambda span: span.start_time_unix_nano)
    _, own, _, _ = json.loads(begun.out)["output"]["one"]["trace"].split("-")
    assert {span.trace_id.hex() for span in every} == {TRACE, own}
    # Who comes in no trace begins one, at the run; all else is below.
    (root,) = [span for span in every if not span.parent_span_id]
    assert (root.name, root.trace_id.hex()) == ("run traced", own)
    spans = [span for span in every if span.trace_id.hex() == TRACE]
    others = [span for span in every if span.trace_id.hex() == own and span.name != "append"]
    assert {span.name for span in others} == {span.name for span in spans if span.name != "append"}
    assert len({span.span_id for span in spans}) == len(spans)
    named = {span.name: span for span in spans if span.name != "append"}
    run, inner = named["run traced"], named["run inner"]
    say, request, call, only = (
        named[f"step {path}"] for path in ("one/say", "one/http-request", "one/call", "only/it")
    )
    assert run.parent_span_id.hex() == "00f067aa0ba902b7"
    assert {span.parent_span_id for span in (say, request, call)} == {run.span_id}
    # The run of a subworkflow is below the step that waits for it.
    assert (inner.parent_span_id, only.parent_span_id) == (call.span_id, inner.span_id)
    attempts = [span for span in spans if span.name.startswith("attempt ")]
    sends = [span for span in spans if span.name.startswith("send ")]
    for found in (attempts, sends):
        assert [span.parent_span_id for span in found] == [
            step.span_id for step in (say, request, only)
        ]
    for step, attempt in zip((say, request, only), attempts, strict=True):
        assert step.start_time_unix_nano <= attempt.start_time_unix_nano
    appends = [span for span in spans if span.name == "append"]
    assert {span.parent_span_id for span in appends} <= {run.span_id, inner.span_id}
    # Several facts may be in one: at least the run and a step, its end with the next one, the end.
    assert len(appends) >= 3
    told = json.loads(ran.out)["output"]["one"]["trace"]
    assert told == f"00-{TRACE}-{attempts[0].span_id.hex()}-01"
    assert collector.headers[0] == f"00-{TRACE}-{attempts[1].span_id.hex()}-01"
    told = json.loads(unsampled.out)["output"]["one"]["trace"]
    assert (told[: len("00-") + 32], told[-3:]) == (f"00-{TRACE}", "-00")
