"""`flowctl variable`: what it sets and prints."""

import io
import json
import sys


def test_set_get_list_and_delete(flowctl, cluster, monkeypatch):
    assert flowctl("variable", "set", "REGION", "eu").code == 0
    assert flowctl("var", "set", "motd", "--body", "hello").err == "variable motd is set\n"
    assert flowctl("variable", "get", "region").out == "eu\n"
    shown = json.loads(flowctl("variable", "list", "-o", "json").out)
    assert shown == [{"name": "REGION", "value": "eu"}, {"name": "motd", "value": "hello"}]
    assert flowctl("var", "list").out.split() == ["NAME", "VALUE", "REGION", "eu", "motd", "hello"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines\n"))
    assert flowctl("variable", "set", "motd").code == 0
    assert flowctl("variable", "get", "MOTD").out == "two\nlines\n"
    assert flowctl("variable", "delete", "motd").code == 0
    assert flowctl("variable", "list", "-o", "name").out == "REGION\n"


def test_what_goes_wrong(flowctl, cluster):
    missing = flowctl("variable", "get", "nothing")
    assert (missing.code, "no variable nothing in namespace default" in missing.err) == (4, True)
    assert flowctl("variable", "delete", "nothing").code == 4
    assert flowctl("variable", "set", "a-b", "x").code == 3
    assert flowctl("variable", "set", "a", "x", "--body", "y").code == 3
    assert flowctl("variable", "list").err == "no variables\n"
    assert "flowctl var list" in flowctl("var", "--help").out
