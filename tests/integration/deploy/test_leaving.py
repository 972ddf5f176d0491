"""A worker with the chart's login leaves a lane that another server leads: no task is lost."""

import asyncio
import contextlib
import json

import pytest

from headrace.bus import ConsumerConfig, Credentials, Pull, StreamConfig, connect, free_port
from headrace.messages import subjects
from support.deploykit import chart_accounts
from support.guarded import guarded

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SERVERS = 3
SUBJECT = "headrace.task.default.lane.0"


@contextlib.contextmanager
def servers(folder):
    """Run a cluster with the chart's accounts; yield the servers' addresses by name."""
    ports = [free_port() for _ in range(SERVERS)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    with contextlib.ExitStack() as stack:
        found = {}
        for number, port in enumerate(ports):
            name = f"n{number}"
            config = f"""{chart_accounts()}
                system_account: SYS
                server_name: {name}
                jetstream {{ store_dir: "{folder / name / "js"}" }}
                cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}
            """
            found[name] = f"nats://{stack.enter_context(guarded(folder / name, config))}"
        yield found


def login(role):
    return Credentials(user=role, password=f"{role}-secret")


async def made(owner):
    """Make the task stream and a consumer on one server; return its name."""
    config = StreamConfig(name=subjects.TASK_STREAM, subjects=("headrace.task.>",))
    async with asyncio.timeout(60):
        while True:
            # Before the servers have elected theirs, nobody answers.
            with contextlib.suppress(Exception):
                await owner.js.ensure_stream(config)
                await owner.js.ensure_consumer(
                    subjects.TASK_STREAM, ConsumerConfig(durable_name="c", ack_wait_ms=60_000)
                )
                break
            await asyncio.sleep(0.2)
    asked = f"$JS.API.STREAM.INFO.{subjects.TASK_STREAM}"
    answer = await owner.request(asked, b"", timeout_s=10)
    return json.loads(answer.data)["cluster"]["leader"]


async def test_what_another_server_sends_meanwhile_still_comes(tmp_path):
    with servers(tmp_path) as found:
        async with await connect(
            list(found.values()), name="owner", credentials=login("coordinator")
        ) as owner:
            leader = await made(owner)
            near = next(url for name, url in found.items() if name != leader)
            async with await connect([near], name="worker", credentials=login("worker")) as bus:
                assert bus.clustered
                got = []

                def take(message):
                    got.append(message.data)
                    pull.ack(message)

                pull = Pull(bus, subjects.TASK_STREAM, "c", take, demand=3)
                pull.start()

                async def waiting():
                    return (await owner.js.consumer_info(subjects.TASK_STREAM, "c")).num_waiting

                async with asyncio.timeout(30):
                    while await waiting() != 1:
                        await asyncio.sleep(0.05)
                leaving = asyncio.create_task(pull.leave())
                await asyncio.sleep(0)
                await bus.flush()
                # The request stands: the leader cannot see whether anybody listens.
                for number in range(3):
                    await owner.js.publish(SUBJECT, str(number).encode(), timeout_s=10)
                async with asyncio.timeout(60):
                    await leaving
                assert got == [b"0", b"1", b"2"]
                await owner.js.publish(SUBJECT, b"later", timeout_s=10)
                info = await owner.js.consumer_info(subjects.TASK_STREAM, "c")
                assert (info.num_pending, info.num_ack_pending) == (1, 0)
