"""A connection as section `broker` says: login, TLS on both sides, waits."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.bus import dial, find_server, free_port
from headrace.config import Broker
from headrace.errors import InvalidConfig, Unreachable
from support import tls

pytestmark = pytest.mark.integration

TLS = Path(tls.__path__[0])
"""Made for tests: an authority, a server named broker.test, a client."""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """The address of a server that wants a certificate, a user and a password."""
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                find_server(),
                *("-a", "127.0.0.1", "-p", str(port), "--user", "ada", "--pass", "s3cret"),
                *("--tlsverify", "--tlscacert", str(TLS / "ca.pem")),
                *("--tlscert", str(TLS / "server.pem"), "--tlskey", str(TLS / "server.key")),
            ],
            stdout=log,
            stderr=log,
        )
    yield f"tls://127.0.0.1:{port}"
    process.kill()
    process.wait()


def section(address: str, folder: Path, **more: object) -> Broker:
    (folder / "password").write_text("s3cret\nnot this\n")
    fields: dict[str, object] = {
        "servers": (address,),
        "user": "ada",
        "password_file": str(folder / "password"),
        "tls_ca_file": str(TLS / "ca.pem"),
        "tls_cert_file": str(TLS / "client.pem"),
        "tls_key_file": str(TLS / "client.key"),
        "tls_hostname": "broker.test",
    }
    return Broker(**{**fields, **more})  # type: ignore[arg-type]


async def test_login_with_a_certificate_and_a_password_from_a_file(guarded: str, tmp_path: Path):
    async with await dial(section(guarded, tmp_path), name="t", wait_s=10) as bus:
        bus.subscribe("t.echo", lambda message: bus.respond(message, message.data))
        assert (await bus.request("t.echo", b"x", timeout_s=2)).data == b"x"


@pytest.mark.parametrize(
    "change",
    [
        {"tls_cert_file": "", "tls_key_file": ""},
        {"tls_hostname": "other.test"},
        {"tls_ca_file": ""},
        {"password_file": "", "password": "wrong"},
    ],
    ids=["certificate", "hostname", "authority", "password"],
)
async def test_what_does_not_fit_is_refused(guarded: str, tmp_path: Path, change):
    async with await dial(section(guarded, tmp_path), name="t", wait_s=10):
        pass  # It is up.
    with pytest.raises(Unreachable):
        await dial(section(guarded, tmp_path, **change), name="t", wait_s=1)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"password_file": "/no/such/file"}, "broker.password_file"),
        ({"tls_ca_file": "/no/such/file"}, "broker.tls_ca_file"),
        ({"tls_cert_file": "/no", "tls_key_file": "/no"}, "broker.tls_cert_file"),
    ],
)
async def test_files_that_cannot_be_read_are_named(tmp_path: Path, change, key):
    with pytest.raises(InvalidConfig, match=key):
        await dial(section("tls://127.0.0.1:1", tmp_path, **change), name="t", wait_s=1)


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
