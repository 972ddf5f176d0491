"""`flowctl event`: publishing, and what waits for it."""

import json

import pytest

WAITING = """\
name: order
on:
  event:
    subject: orders.*
    filter: event.data.total > 100
    inputs: {id: "${{ event.data.id }}"}
  workflow_dispatch: {inputs: {id: {required: true}}}
jobs:
  a: {steps: [{run: "echo ${{ inputs.id }}"}]}
"""


@pytest.fixture
def waiting(tmp_path):
    path = tmp_path / "order.yaml"
    path.write_text(WAITING)
    return str(path)


def test_an_event_is_stored_once(flowctl, cluster):
    first = flowctl("event", "publish", "orders.new", "--data", '{"a": 1}', "--id", "o-1")
    assert first.out == "event 1 of orders.new is stored: o-1\n", first.err
    again = flowctl("event", "publish", "orders.new", "--id", "o-1", "-o", "json")
    assert json.loads(again.out) == {
        "subject": "orders.new", "id": "o-1", "sequence": 1, "duplicate": True
    }  # fmt: skip
    other = flowctl("-n", "team", "event", "publish", "orders.new", "--id", "o-1")
    assert other.out.startswith("event 2 ")
    ((place, data, headers), (theirs, nothing, _)) = cluster.events
    assert (place, json.loads(data)) == ("headrace.in.default.orders.new", {"a": 1})
    assert headers["ce-id"] == "o-1"
    assert (theirs, nothing) == ("headrace.in.team.orders.new", b"")


def test_an_event_goes_with_the_trace_of_who_publishes_it(flowctl, cluster, monkeypatch):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    flowctl("event", "publish", "a")
    monkeypatch.setenv("TRACEPARENT", trace)
    flowctl("event", "publish", "a")
    assert [headers.get("traceparent") for _, _, headers in cluster.events] == [None, trace]


def test_without_an_id_each_is_another(flowctl, cluster):
    names = {flowctl("event", "publish", "a", "-o", "name").out for _ in range(3)}
    assert len(names) == len(cluster.events) == 3


def test_data_from_a_file(flowctl, cluster, tmp_path):
    file = tmp_path / "event.yaml"
    file.write_text("total: 3\nlist: [a, b]\n")
    assert flowctl("event", "publish", "a.b", "--data-file", file).code == 0
    assert json.loads(cluster.events[0][1]) == {"total": 3, "list": ["a", "b"]}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("orders.*",), "not a subject of an event: 'orders.*'"),
        (("a..b",), "not a subject"),
        (("a b",), "not a subject"),
        (("a", "--data", "text"), "a text needs its quotes"),
        (("a", "--data", "1", "--data-file", "x"), "not both"),
        (("a", "--data-file", "missing.json"), "cannot read missing.json"),
        (("a", "--id", "a\nb"), "not an id of an event"),
        (("a", "--id", "x" * 300), "not an id of an event"),
    ],
)
def test_what_is_no_event_is_refused(flowctl, cluster, arguments, wanted):
    ran = flowctl("event", "publish", *arguments)
    assert ran.code == 3
    assert wanted in ran.err
    assert not cluster.events


def test_what_waits_for_events(flowctl, cluster, waiting):
    assert "no registered workflow" in flowctl("event", "triggers").err
    assert flowctl("register", waiting).code == 0
    (shown,) = json.loads(flowctl("event", "triggers", "-o", "json").out)
    assert shown["definition"] == "order"
    assert shown["events"] == [{"subject": "orders.*", "filter": "event.data.total > 100"}]
    assert (shown["started"], shown["last"], shown["problem"]) == (0, None, None)
    assert "order@1" in flowctl("event", "triggers").out
    assert "event.data.total > 100" in flowctl("event", "triggers", "-o", "wide").out
    assert flowctl("event", "triggers", "-o", "name").out == "order\n"
