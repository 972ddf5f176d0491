"""The Compose files, read as Compose reads them, and the images' recipe."""

import importlib.util
import re
from pathlib import Path

import compose_spec
import pytest
import yaml

from headrace.config import load
from support.deploykit import DEPLOY, ROOT

COMPOSE = DEPLOY / "compose"
FILES = sorted(COMPOSE.glob("compose*.yaml"))
OURS = ("coordinator", "worker", "flowctl")


class Plain(yaml.SafeDumper):
    """Writes no anchors."""

    def ignore_aliases(self, data):
        return True


def project(path):
    """Return a file with the defaults of its variables filled in."""
    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", path.read_text())
    assert "${" not in text, "a variable without a default"
    return yaml.safe_load(text)


def check(document):
    compose_spec.PyCompose.from_yaml(yaml.dump(document, Dumper=Plain)).validate()
    # What it does not know it ignores.
    fields = compose_spec.Service.model_fields
    known = {field.alias or name for name, field in fields.items()} | set(fields)
    for name, service in document["services"].items():
        if unknown := service.keys() - known:
            raise ValueError(f"{name}: {unknown}")
    used = {
        volume.split(":")[0]
        for service in document["services"].values()
        for volume in service.get("volumes", ())
        if volume[0] not in "./"
    }
    if used != set(document["volumes"]):
        raise ValueError(f"volumes: {used ^ set(document['volumes'])}")


def names(entries):
    return [entry.split(":")[0] if isinstance(entry, str) else entry["source"] for entry in entries]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_what_compose_reads(path):
    document = project(path)
    check(document)
    service = next(iter(document["services"].values()))
    for wrong in ({"imagez": "x"}, {"restart": "sometimes"}, {"volumes": ["nowhere:/x"]}):
        kept = dict(service)
        service.update(wrong)
        with pytest.raises(ValueError, match=r".+"):
            check(document)
        service.clear()
        service.update(kept)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_is_hardened_and_starts_again(path):
    for name, service in project(path)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        once = name in ("prepare", "flowctl")
        assert service["restart"] == ("no" if once else "unless-stopped"), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_secret_stands_in_a_file_and_no_port_is_open_to_the_world(path):
    for name, service in project(path)["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SEED|KEY|SECRET", key) and not key.endswith("_FILE"):
                pytest.fail(f"{name}: {key}={value}")
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_processes_accept_their_settings_and_see_their_own_keys_only(path):
    for name, service in project(path)["services"].items():
        env = {key: str(value) for key, value in service.get("environment", {}).items()}
        role = next((role for role in OURS if f"/{role}:" in service["image"]), "")
        if role in ("coordinator", "worker"):
            config = load(None, env)
            assert all(server.startswith("tls://") for server in config.broker.servers), name
            assert config.broker.tls_ca_file, name
        if role and name != "prepare":
            secrets = [v for v in names(service["volumes"]) if v.endswith("-secrets")]
            own = {"flowctl": "client", "coordinator": "coordinator"}.get(role, name)
            assert secrets == [f"{own}-secrets"], name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_workers_scale_and_drain(path):
    services = project(path)["services"]
    workers = {name: s for name, s in services.items() if name.startswith("worker")}
    assert workers
    for service in workers.values():
        assert not {"container_name", "ports", "hostname"} & service.keys()
        assert "HEADRACE_CFG_WORKER__ID" not in service["environment"]
        grace_ms = int(service["environment"]["HEADRACE_CFG_WORKER__GRACE_MS"])
        assert int(service["stop_grace_period"].removesuffix("s")) * 1000 >= grace_ms + 5_000


@pytest.mark.parametrize("path", sorted((COMPOSE / "nats").glob("*.conf")), ids=lambda p: p.stem)
def test_nats_syncs_before_it_acknowledges(path):
    text = path.read_text()
    assert re.search(r"^\s*sync_interval: always$", text, re.MULTILINE)
    assert re.search(r"^tls \{", text, re.MULTILINE)
    assert "password" not in text


# -- keys and certificates ------------------------------------------------------------------------


@pytest.fixture
def prepare(monkeypatch):
    spec = importlib.util.spec_from_file_location("compose_prepare", COMPOSE / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.os, "chown", lambda *_: None)
    return module


ARGUMENTS = ["--host=nats-1", "--pool=linux=default,linux", "--pool=batch=batch"]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_logins_are_made_once_and_each_role_has_its_own(prepare, tmp_path):
    prepare.main([str(tmp_path), *ARGUMENTS])
    files = contents(tmp_path)
    roles = {"coordinator", "worker-linux", "worker-batch", "client"}
    seeds = {role: files[tmp_path / role / "user.nk"] for role in roles}
    assert len(set(seeds.values())) == 4
    for role in roles:
        assert {path.name for path in (tmp_path / role).iterdir()} - {"operator.nk"} == {
            "ca.crt",
            "user.nk",
        }
    broker = b"".join(data for path, data in files.items() if path.parent.name == "nats")
    assert b'"nkey": "U' in broker
    assert not any(seed.strip() in broker for seed in seeds.values())
    assert {(path.stat().st_mode & 0o777) for path in files} == {0o600}
    assert not [path for path in files if path.name == "ca.key"]
    prepare.main([str(tmp_path), *ARGUMENTS])
    assert contents(tmp_path) == files


def test_what_is_stored_is_left_alone(prepare, tmp_path):
    store = tmp_path / "jetstream-1" / "deep"
    store.mkdir(parents=True)
    (store / "block").write_text("data")
    (store / "block").chmod(0o640)
    prepare.main([str(tmp_path), *ARGUMENTS])
    assert (store / "block").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_pool_has_a_login_for_its_labels(path):
    services = project(path)["services"]
    words = services["prepare"]["entrypoint"]
    logins = dict(word.removeprefix("--pool=").split("=") for word in words if "--pool" in word)
    mounts = services["prepare"]["volumes"]
    offered = {}
    for name, service in services.items():
        if name.startswith("worker"):
            (volume,) = (v for v in names(service["volumes"]) if v.endswith("-secrets"))
            (place,) = (m.split(":")[1] for m in mounts if m.startswith(f"{volume}:"))
            pool = place.removeprefix("/secrets/worker-")
            offered[pool] = service["environment"]["HEADRACE_CFG_WORKER__CAPABILITIES"]
    assert offered == logins


# -- the recipe -----------------------------------------------------------------------------------


def stages():
    text = (DEPLOY / "images" / "Dockerfile").read_text().replace("\\\n", " ")
    found, name = {}, ""
    for line in text.splitlines():
        if begun := re.match(r"FROM (\S+) AS (\S+)$", line):
            name = begun[2]
            found[name] = [f"FROM {begun[1]}"]
        elif name:
            found[name].append(line)
    return found


def lineage(found, name):
    lines = found[name]
    parent = lines[0].removeprefix("FROM ")
    return (lineage(found, parent) if parent in found else []) + lines[1:]


@pytest.mark.parametrize("target", OURS)
def test_an_image_is_small_and_unprivileged(target):
    found = stages()
    lines = lineage(found, target)
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert any("org.opencontainers.image.revision" in line for line in lines)
    copied = [line for line in lines if line.startswith("COPY")]
    assert len(copied) == 1
    assert copied[0].endswith("/opt/headrace /opt/headrace"), "neither sources nor pip"


def test_the_base_is_pinned_by_an_argument():
    text = (DEPLOY / "images" / "Dockerfile").read_text()
    assert "FROM ${PYTHON_IMAGE}${PYTHON_DIGEST:+@${PYTHON_DIGEST}} AS base" in text
    foreign = {line for line in re.findall(r"^FROM (\S+)", text, re.M) if line[0] == "$"}
    assert len(foreign) == 1


def test_the_context_is_what_is_copied():
    """What a stage copies from the sources passes .dockerignore."""
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    text = (DEPLOY / "images" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert source in kept, source
            assert Path(ROOT / source).exists(), source
