import pytest

from headrace.config import Broker, Config, Coordinator, Dispatch, load
from headrace.errors import InvalidConfig


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "headrace.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_are_valid_and_as_documented(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(None, {}, {})
    assert config == Config()
    assert config.dispatch.lease_ms == 3_000
    assert config.limits.payload_inline_bytes == 32 * 1024
    assert config.limits.payload_bytes_max == 128 * 1024 * 1024
    assert config.coordinator.retention_days == 30


def test_file_in_the_current_folder_is_found(file, monkeypatch):
    monkeypatch.chdir(file("[worker]\nslots = 3\n").parent)
    assert load(None, {}, {}).worker.slots == 3


def test_flag_wins_over_variable_over_file(file):
    path = file('[worker]\nslots = 1\nid = "a"\nnamespace = "x"\n')
    environ = {"HEADRACE_CFG_WORKER__SLOTS": "2", "HEADRACE_CFG_WORKER__ID": "b"}
    worker = load(path, environ, {"worker.slots": 3, "worker.id": None}).worker
    assert (worker.slots, worker.id, worker.namespace) == (3, "b", "x")


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("WORKER__CAPABILITIES", "linux, gpu", ("worker", "capabilities"), ("linux", "gpu")),
        ("WORKER__CAPABILITIES", '["a,b", "c"]', ("worker", "capabilities"), ("a,b", "c")),
        ("WORKER__APPS", "", ("worker", "apps"), ()),
        ("METRICS__PORT", "9100", ("metrics", "port"), 9100),
        ("COORDINATOR__RETENTION_DAYS", "0.5", ("coordinator", "retention_days"), 0.5),
        ("COORDINATOR__REPLICAS", "3", ("coordinator", "replicas"), 3),
        ("LOG__FORMAT", "json", ("log", "format"), "json"),
        ("WORKER__ID", "12", ("worker", "id"), "12"),
    ],
)
def test_variables_are_text(name, text, path, value):
    config = load(None, {f"HEADRACE_CFG_{name}": text}, {})
    assert getattr(getattr(config, path[0]), path[1]) == value


def test_other_headrace_variables_are_left_alone():
    environ = {"HEADRACE_PORT": "tcp://10.0.0.1:1", "HEADRACE_RUN_ID": "x", "HEADRACE_CFGX": "1"}
    assert load(None, environ, {}) == Config()


@pytest.mark.parametrize(
    ("environ", "key", "words"),
    [
        ({"HEADRACE_CFG_WORKER__SLOT": "1"}, "worker.slot", "did you mean 'worker.slots'"),
        ({"HEADRACE_CFG_WORKERS__SLOTS": "1"}, "workers", "did you mean 'worker'"),
        ({"HEADRACE_CFG_WORKER_SLOTS": "1"}, "HEADRACE_CFG_WORKER_SLOTS", "<SECTION>__<KEY>"),
        ({"HEADRACE_CFG_WORKER__SLOTS": "many"}, "worker.slots", "variable HEADRACE_CFG_WORKER__"),
        ({"HEADRACE_CFG_WORKER__SLOTS": "0"}, "worker.slots", ">= 1"),
        ({"HEADRACE_CFG_METRICS__PORT": "70000"}, "metrics.port", "<= 65535"),
        ({"HEADRACE_CFG_WORKER__APPS": "[1"}, "worker.apps", "JSON list"),
        ({"HEADRACE_CFG_WORKER__NAMESPACE": "a.b"}, "worker.namespace", "regex"),
        ({"HEADRACE_CFG_COORDINATOR__RETENTION_DAYS": "nan"}, "coordinator.retention_days", ">= 0"),
        ({"HEADRACE_CFG_COORDINATOR__RETENTION_DAYS": "inf"}, "coordinator.retention_days", "<="),
    ],
)
def test_bad_variables_name_key_and_source(environ, key, words):
    with pytest.raises(InvalidConfig) as caught:
        load(None, environ, {})
    assert caught.value.key == key
    assert words in caught.value.reason
    assert "from" in caught.value.reason


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("[dispatch]\nlease = 1\n", "dispatch.lease", "did you mean 'dispatch.lease_ms'"),
        ("[worker]\nlease_ms = 1\n", "worker.lease_ms", "did you mean 'dispatch.lease_ms'"),
        ("[nonsense]\n", "nonsense", "unknown section"),
        ("slots = 3\n", "slots", "[section]"),
        ('[worker]\nslots = "3"\n', "worker.slots", "Expected `int`, got `str`"),
        ("[worker]\nslots = true\n", "worker.slots", "got `bool`"),
        ("[worker\n", "file", "not TOML"),
    ],
)
def test_bad_files_name_key_and_file(file, text, key, words):
    path = file(text)
    with pytest.raises(InvalidConfig) as caught:
        load(path, {}, {})
    assert caught.value.key == key
    assert words in caught.value.reason
    assert str(path) in caught.value.reason


def test_all_names_that_nobody_knows_are_told_at_once(file):
    path = file("[worker]\nslot = 1\nlabel = 2\n[brokr]\nuser = 1\nport = 2\n[limit]\n")
    with pytest.raises(InvalidConfig) as caught:
        load(path, {"HEADRACE_CFG_LOG__LEVLE": "debug"}, {"worker.nothing": 1})
    assert caught.value.key == "worker.slot"
    for name in ("worker.label", "brokr", "limit", "log.levle", "worker.nothing"):
        assert str(caught.value).count(f" {name}: unknown") == 1
    assert "(from variable HEADRACE_CFG_LOG__LEVLE)" in str(caught.value)


def test_what_nobody_knows_is_told_before_a_wrong_value(file):
    with pytest.raises(InvalidConfig, match=r"worker\.slot: unknown key"):
        load(file('[worker]\nslots = "many"\nslot = 1\n'), {}, {})


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(InvalidConfig, match="does not exist"):
        load(tmp_path / "none.toml", {}, {})


def test_unknown_flag_is_refused():
    with pytest.raises(InvalidConfig, match=r"worker\.slot: unknown key.*from a flag"):
        load(None, {}, {"worker.slot": 1})


def test_rule_between_keys_names_the_source(file):
    with pytest.raises(InvalidConfig, match=r"dispatch\.heartbeat_ms: .*two heartbeats.*toml"):
        load(file("[dispatch]\nlease_ms = 2999\nheartbeat_ms = 1000\n"), {}, {})


def test_heartbeat_may_be_exactly_a_third():
    assert Dispatch(lease_ms=900, heartbeat_ms=300).lease_ms == 900
    with pytest.raises(InvalidConfig):
        Dispatch(lease_ms=899, heartbeat_ms=300)


def test_sqlite_archive_is_for_one_coordinator():
    assert Coordinator(id="a", peers=("a",), archive="sqlite").archive == "sqlite"
    with pytest.raises(InvalidConfig, match='use archive = "jetstream"') as caught:
        Coordinator(id="a", peers=("a", "b"), archive="sqlite")
    assert caught.value.key == "coordinator.archive"


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"id": "a", "peers": ("b",)}, "coordinator.peers"),
        ({"id": "a", "peers": ("a", "a")}, "coordinator.peers"),
        ({"archive_path": "x.db"}, "coordinator.archive_path"),
    ],
)
def test_coordinator_rules(fields, key):
    with pytest.raises(InvalidConfig) as caught:
        Coordinator(**fields)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "fields",
    [
        {"servers": ()},
        {"servers": ("localhost:4222",)},
        {"user": "u", "password": "x", "password_file": "f"},
        {"password": "x"},
        {"user": "u", "creds_file": "f"},
        {"tls_cert_file": "f"},
    ],
)
def test_broker_rules(fields):
    with pytest.raises(InvalidConfig, match=r"broker\."):
        Broker(**fields)


def test_no_secret_in_texts(file):
    secret = "hunter2"
    config = load(
        file(f'[broker]\nservers = ["nats://u:{secret}@h:1"]\nuser = "u"\n'),
        {"HEADRACE_CFG_BROKER__PASSWORD": secret},
        {},
    )
    assert config.broker.password == secret
    assert secret not in repr(config)
    with pytest.raises(InvalidConfig) as caught:
        load(file(f'[broker]\nservers = ["//{secret}"]\n'), {}, {})
    assert secret not in str(caught.value)
    with pytest.raises(InvalidConfig) as caught:
        load(file(f'[broker]\npassword = ["{secret}"]\n'), {}, {})
    assert secret not in str(caught.value)
