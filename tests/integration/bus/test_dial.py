"""A connection as section `broker` says: login, TLS on both sides, waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.bus import dial
from headrace.config import Broker
from headrace.errors import InvalidConfig, Unreachable
from support.guarded import (
    SERVER_NAME,
    Certificates,
    certificates,
    guarded,
    new_key,
    tls,
    with_credentials,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(made: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that wants a certificate, a user and a password."""
    login = "authorization { user: ada, password: s3cret }\n"
    with guarded(tmp_path_factory.mktemp("guarded"), tls(made, verify=True) + login) as address:
        yield f"tls://{address}"


def section(address: str, made: Certificates, folder: Path, **more: object) -> Broker:
    (folder / "password").write_text("s3cret\nnot this\n")
    fields: dict[str, object] = {
        "servers": (address,),
        "user": "ada",
        "password_file": str(folder / "password"),
        "tls_ca_file": str(made.ca),
        "tls_cert_file": str(made.client),
        "tls_key_file": str(made.client),
        "tls_hostname": SERVER_NAME,
    }
    return Broker(**{**fields, **more})  # type: ignore[arg-type]


async def echoes(broker: Broker) -> None:
    async with await dial(broker, name="t", wait_s=10) as bus:
        bus.subscribe("t.echo", lambda message: bus.respond(message, message.data))
        assert (await bus.request("t.echo", b"x", timeout_s=2)).data == b"x"


async def test_login_with_a_certificate_and_a_password_from_a_file(server, made, tmp_path):
    await echoes(section(server, made, tmp_path))


async def test_what_does_not_fit_is_refused(server, made, tmp_path):
    async with await dial(section(server, made, tmp_path), name="t", wait_s=10):
        pass  # It is up.
    for change, says in (
        ({"tls_hostname": "other.test"}, "not to be trusted: Hostname mismatch"),
        ({"tls_ca_file": ""}, "not to be trusted: unable to get local issuer certificate"),
        ({"tls_ca_file": str(made.other_ca)}, "which authority signs it is a setting"),
        ({"password_file": "", "password": "wrong"}, "no way in .* refuses the login"),
    ):
        with pytest.raises(Unreachable, match=says):
            await dial(section(server, made, tmp_path, **change), name="t", wait_s=20)


async def test_a_client_without_a_certificate_is_refused(server, made, tmp_path):
    """The server just hangs up, so that it is tried on."""
    async with await dial(section(server, made, tmp_path), name="t", wait_s=10):
        pass  # It is up.
    bare = section(server, made, tmp_path, tls_cert_file="", tls_key_file="")
    with pytest.raises(Unreachable):
        await dial(bare, name="t", wait_s=1)


async def test_login_with_a_token(tmp_path):
    (tmp_path / "token").write_text("t0ken\n")
    with guarded(tmp_path, "authorization { token: t0ken }\n") as address:
        servers = (f"nats://{address}",)
        await echoes(Broker(servers=servers, token_file=str(tmp_path / "token")))
        await echoes(Broker(servers=servers, token="t0ken"))
        with pytest.raises(Unreachable, match="refuses the login"):
            await dial(Broker(servers=servers, token="other"), name="t", wait_s=20)


async def test_login_with_an_nkey(tmp_path):
    key, other = new_key(), new_key()
    for name, one in (("key", key), ("other", other)):
        (tmp_path / name).write_text(f"{one.seed}\n")
    config = f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}\n"
    with guarded(tmp_path, config) as address:
        servers = (f"nats://{address}",)
        await echoes(Broker(servers=servers, nkey_file=str(tmp_path / "key")))
        wrong = Broker(servers=servers, nkey_file=str(tmp_path / "other"))
        with pytest.raises(Unreachable, match="refuses the login"):
            await dial(wrong, name="t", wait_s=20)


async def test_login_with_credentials(tmp_path):
    config = with_credentials(tmp_path / "user.creds")
    with_credentials(tmp_path / "other.creds")
    with guarded(tmp_path, config) as address:
        servers = (f"nats://{address}",)
        await echoes(Broker(servers=servers, creds_file=str(tmp_path / "user.creds")))
        wrong = Broker(servers=servers, creds_file=str(tmp_path / "other.creds"))
        with pytest.raises(Unreachable, match="refuses the login"):
            await dial(wrong, name="t", wait_s=20)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"user": "ada", "password_file": "/no/such/file"}, "broker.password_file"),
        ({"token_file": "/no/such/file"}, "broker.token_file"),
        ({"creds_file": "/no/such/file"}, "broker.creds_file"),
        ({"creds_file": "SEED"}, "broker.creds_file.*no seed of a user"),
        ({"nkey_file": "EMPTY"}, "broker.nkey_file.*no seed of a user"),
        ({"nkey_file": "TORN"}, "broker.nkey_file.*the seed in it is none"),
        ({"tls_ca_file": "/no/such/file"}, "broker.tls_ca_file"),
        ({"tls_cert_file": "/no", "tls_key_file": "/no"}, "broker.tls_cert_file"),
    ],
)
async def test_files_that_cannot_be_used_are_named(tmp_path: Path, change, key):
    seed = new_key().seed
    for name, text in (("SEED", seed), ("EMPTY", ""), ("TORN", seed[:-3])):
        (tmp_path / name).write_text(text)
    change = {k: str(tmp_path / v) if v.isupper() else v for k, v in change.items()}
    with pytest.raises(InvalidConfig, match=key) as caught:
        await dial(Broker(servers=("tls://127.0.0.1:1",), **change), name="t", wait_s=1)
    assert seed[:-3] not in str(caught.value)


async def test_the_waits_are_those_of_the_configuration():
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    broker = Broker(servers=(f"nats://127.0.0.1:{port}",), connect_timeout_ms=100)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(Unreachable):
        await dial(broker, name="t", wait_s=1)
    assert loop.time() - begun < 1.5
    server.close()
    await server.wait_closed()


async def test_the_brokers_api_is_waited_for_as_configured(shared_broker):
    broker = Broker(servers=(shared_broker.url,), request_timeout_ms=150, ping_interval_ms=700)
    async with await dial(broker, name="t", wait_s=5) as bus:
        assert bus.api_timeout_s == 0.15
        assert bus._client.options["ping_interval"] == 0.7
        assert bus._client.options["reconnect_time_wait"] == 0.05
