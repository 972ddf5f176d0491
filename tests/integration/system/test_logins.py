"""A login in the broker's address is used, and never shown: greps of everything that is said.

Over TLS, with an authority that only the settings know: servers and clients find it there.
"""

import pytest

from headrace.bus import free_port
from headrace.client import Client
from headrace.errors import Unreachable
from support.cluster import Machine, http_get, logs_shown, wait_for
from support.guarded import certificates, guarded, tls

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

SECRET = "hunter2-of-the-broker"


@pytest.fixture
async def machine(tmp_path):
    made = Machine(tmp_path)
    with logs_shown(made):
        try:
            yield made
        finally:
            for program in made.programs.values():
                program.kill()
            made.sweep()


@pytest.fixture
def made(tmp_path):
    return certificates(tmp_path / "certificates")


@pytest.fixture
def server(machine, made):
    """Address, with its login, of a broker that wants one and has a certificate."""
    config = tls(made) + f'jetstream {{ store_dir: "{machine.folder / "nats"}" }}\n'
    config += f'authorization {{ user: ada, password: "{SECRET}" }}\n'
    machine.env |= {
        "HEADRACE_CFG_BROKER__TLS_CA_FILE": str(made.ca),
        "FLOWCTL_TLS_CA_FILE": str(made.ca),
    }
    with guarded(machine.folder, config) as address:
        yield f"tls://ada:{SECRET}@{address}"


async def test_a_login_is_never_printed_logged_or_sent(machine, made, server):
    machine.env["FLOWCTL_SERVER"] = server
    ports = {"coordinator": free_port(), "worker": free_port()}
    common = ("--server", server, "--data-dir", str(machine.folder / "data"), "--metrics-port")
    for role, port in ports.items():
        machine.add(role, role, *common, str(port)).start()

    said = []

    async def works():
        try:
            access = {"tls_ca_file": str(made.ca)}
            async with await Client.connect(server, timeout_s=1.0, access=access) as client:
                return (await client.info(workers=True)).workers
        except Unreachable as error:
            said.append(str(error))
            return []

    await wait_for(works, within_s=30, what="the worker")
    for arguments, code in (
        (("cluster", "status"), 0),
        (("cluster", "status", "-o", "json"), 0),
        (("workers", "-o", "yaml"), 0),
        (("get", "nobody"), 4),
        (("context", "set", "prod", "--server", server), 0),
        (("context", "list"), 0),
        (("context", "list", "-o", "json"), 0),
        (("list", "--server", f"nats://ada:{SECRET}@127.0.0.1:{free_port()}"), 5),
        (("list", "--server", f"nats://ada:{SECRET}/@127.0.0.1:1"), 3),
        (("list", "--server", f"nats://ada:{SECRET},x@127.0.0.1:1"), 3),
        (("list", "--server", f"http://ada:{SECRET}@127.0.0.1:1"), 3),
        (("list", "--server", server.replace("ada:", "eve:")), 5),
    ):
        env = {"FLOWCTL_TIMEOUT": "500ms"} if code == 5 else {}
        ran = await machine.flowctl(*arguments, env=env)
        assert ran.code == code, (arguments, ran)
        said.append(ran.out + ran.err)
    assert any(f"tls://127.0.0.1:{server.rpartition(':')[2]}" in text for text in said)
    # An authority that has not signed the broker's certificate, and none but the system's.
    for ca in (str(made.other_ca), ""):
        ran = await machine.flowctl("list", env={"FLOWCTL_TLS_CA_FILE": ca})
        assert ran.code == 5, ran
        assert "its certificate is not to be trusted" in ran.err
        assert "FLOWCTL_TLS_CA_FILE" in ran.err
        said.append(ran.out + ran.err)
    ran = await machine.flowctl("list", env={"FLOWCTL_TLS_CA_FILE": "no-such-file"})
    assert (ran.code, "FLOWCTL_TLS_CA_FILE" in ran.err) == (3, True), ran
    # A context knows it, too.
    keep = ("--server", server, "--tls-ca-file", str(made.ca))
    env = {"FLOWCTL_TLS_CA_FILE": "", "FLOWCTL_SERVER": ""}
    assert (await machine.flowctl("context", "set", "prod", *keep)).code == 0
    ran = await machine.flowctl("list", "--context", "prod", env=env)
    assert ran.code == 0, ran
    ran = await machine.flowctl("list", "--server", server, env=env)
    assert ran.code == 5, "the context's authority is for its own server"
    # A server that waits for its broker says where; one with a wrong address says that it is.
    waiting = machine.add("waiting", "worker", "--server", f"nats://a:{SECRET}@127.0.0.1:1")
    waiting.start()
    await wait_for(lambda: told(waiting, "broker does not answer"), within_s=20, what="its log")
    wrong = machine.add("wrong", "worker", "--server", f"http://a:{SECRET}@127.0.0.1:1")
    wrong.start()
    assert await wrong.ended() == 3
    said += [http_get(port, "/metrics")[1] for port in ports.values()]
    said += [program.said() for program in machine.programs.values()]
    assert [text for text in said if SECRET in text] == []
    facts = [line for text in said for line in text.splitlines() if "build_info{" in line]
    assert len(facts) == 2
    assert not [line for line in facts if 'release=""' in line], facts


async def told(program, text):
    """Tell whether *program* has written *text*."""
    return text in program.said()
