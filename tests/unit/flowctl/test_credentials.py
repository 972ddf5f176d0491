"""`cluster credentials`: files, and what is in them."""

import json
import stat

import pytest

from headrace.flowctl._accounts import CORE, User, accounts
from headrace.messages import client_rights, subjects, worker_rights


@pytest.fixture
def make(flowctl, tmp_path):
    def call(*arguments, code=0):
        result = flowctl("cluster", "credentials", "--dir", tmp_path / "made", *arguments)
        assert result.code == code, result.err
        return result

    return call


def files(folder):
    return {path.name: path.read_text() for path in (folder / "made").iterdir()}


def test_one_file_a_login_readable_by_its_owner_only(make, tmp_path):
    make(
        "--coordinator", "c0", "--worker", "w1", "--pool", "p", "--client", "ci", "--operator", "o"
    )
    found = files(tmp_path)
    seeds = {name for name in found if name.endswith(".nk")}
    assert seeds == {f"{name}.nk" for name in (
        "coordinator-c0", "worker-w1", "pool-p", "client-ci", "operator-o")}  # fmt: skip
    for path in (tmp_path / "made").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for name in seeds:
        assert found[name].startswith("SU")
        # Servers and the list of users know public keys only.
        assert found[name].strip() not in found["accounts.conf"] + found["credentials.json"]


def test_again_changes_nothing_and_one_more_is_added(make, tmp_path):
    make("--coordinator", "c0", "--worker", "w1", "-c", "linux")
    before = files(tmp_path)
    make("--coordinator", "c0", "--worker", "w1", "-c", "LINUX")
    assert files(tmp_path) == before
    make("--worker", "w2", "-c", "gpu")
    after = files(tmp_path)
    assert {name: after[name] for name in before if name.endswith(".nk")} == {
        name: text for name, text in before.items() if name.endswith(".nk")
    }
    assert f"{CORE}_worker_w2" in after["accounts.conf"]


def test_other_settings_want_force_and_get_a_new_key(make, tmp_path):
    make("--worker", "w1", "--client", "ci")
    before = files(tmp_path)
    refused = make("--worker", "w1", "-c", "gpu", code=3)
    assert "worker w1 is there with namespace default, label default" in refused.err
    assert "--force" in refused.err
    assert files(tmp_path) == before
    make("--worker", "w1", "-c", "gpu", "--force")
    after = files(tmp_path)
    assert after["worker-w1.nk"] != before["worker-w1.nk"]
    assert after["client-ci.nk"] == before["client-ci.nk"]
    assert subjects.labels_of(["gpu"]) in after["accounts.conf"]


def test_a_lost_seed_is_not_made_up_silently(make, tmp_path):
    make("--worker", "w1")
    (tmp_path / "made" / "worker-w1.nk").unlink()
    assert "put it back" in make("--worker", "w1", code=3).err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--worker", "a.b"), "no name"),
        (("--client", "x", "-n", "*"), "no name"),
        (("--worker", "w", "-n", "a", "-n", "b"), "one namespace"),
    ],
)
def test_names_that_would_reach_further(make, tmp_path, arguments, said):
    assert said in make(*arguments, code=3).err
    assert not (tmp_path / "made").exists()


def test_a_broken_list_of_users(make, tmp_path):
    make("--worker", "w1")
    (tmp_path / "made" / "credentials.json").write_text("{")
    assert "credentials.json" in make("--worker", "w2", code=3).err


def test_each_import_is_exported_to_that_account_alone():
    users = [
        User(role="coordinator", name="c0", public_key="UC"),
        User(role="worker", name="w", namespaces=("a",), capabilities=("x",), public_key="UW"),
        User(role="pool", name="p", namespaces=("a",), capabilities=("*",), public_key="UP"),
        User(role="client", name="l", namespaces=("a", "b"), public_key="UL"),
    ]
    made = accounts(users)
    core = made.pop(CORE)
    assert core["users"] == [{"nkey": "UC"}]
    granted = {
        (name, *next(iter(entry.items())))
        for entry in core["exports"]
        for name in entry["accounts"]
    }
    wanted = set()
    for name, account in made.items():
        assert "jetstream" not in account
        assert len(account["users"]) == 1
        for entry in account["imports"]:
            ((kind, what),) = entry.items()
            assert what["account"] == CORE
            wanted.add((name, kind, what["subject"]))
    assert wanted == granted
    assert "headrace.cmd.b.*" in {subject for _, _, subject in wanted}
    pool = {subject for name, _, subject in wanted if name == f"{CORE}_pool_p"}
    assert "headrace.hb.worker.a.*.*" in pool


@pytest.mark.parametrize(
    "granted",
    [worker_rights("a", "w", ("x",)), worker_rights("a", "*", ("*",)), client_rights("a")],
)
def test_no_role_but_coordinators_reaches_log_or_streams(granted):
    for right in granted:
        tokens = right.subject.split(".")
        assert tokens[0] in ("headrace", "$JS")
        if tokens[0] == "$JS":
            assert right.subject in (
                "$JS.API.CONSUMER.MSG.NEXT.HEADRACE_TASKS.*",
                "$JS.ACK.HEADRACE_TASKS.>",
            )
        else:
            assert tokens[1] not in ("log", "raft", "task", "peer", "backup", "events", "check")
            assert "a" in tokens or tokens[1] in ("info", "parts")


def test_json_lists_everybody(make):
    make("--worker", "w1", "-o", "json")
    found = json.loads(make("--client", "ci", "-n", "b", "-n", "a", "-o", "json").out)
    users = {user["name"]: user for user in found["users"]}
    assert (users["w1"]["new"], users["ci"]["new"]) == (False, True)
    assert users["ci"]["namespaces"] == ["a", "b"]
