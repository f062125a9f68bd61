"""What the broker had kept is never taken for what has just been sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.cloud import Cloud
from printago_moonraker.printago import backlog
from printago_moonraker.printago.mqtt import Endpoint, connect
from tests.fakes.broker import PINGREQ, PUBLISH, SUBSCRIBE, FakeBroker, Peer, fake_broker
from tests.printago.agent import TOPICS, Agent, running

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("quick_retries", "short_times")

SESSION_PRESENT = bytes([0x20, 3, 1, 0, 0])
PINGRESP = b"\xd0\x00"


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LEAST", 0.3), ("QUIET", 0.15), ("MOST", 1.0)):
        monkeypatch.setattr(backlog, name, seconds)


def command(number: int) -> bytes:
    """A publication as the broker sends it."""
    body = len(TOPICS.commands).to_bytes(2, "big") + TOPICS.commands.encode() + number.to_bytes(2, "big") + b"\0"
    payload = b'{"id":"c-%d"}' % number
    return bytes([0x32, len(body + payload)]) + body + payload


async def until(agent: Agent, count: int) -> list[bool]:
    """Whether each of the first `count` commands was live."""
    async with asyncio.timeout(5):
        while len(agent.commands) < count:  # noqa: ASYNC110 - the agent tells nobody
            await asyncio.sleep(0.01)
    return [message.live for message in agent.commands]


async def test_what_was_kept_is_not_live(endpoint: Callable[..., Endpoint]) -> None:
    """In a session that is taken up again nobody can tell how long a command lay there; after a silence it is new."""
    async with connect(endpoint("v"), subscriptions=[TOPICS.commands], on_message=lambda message: None):
        pass
    async with Cloud(endpoint("v"), TOPICS) as cloud:
        asking = asyncio.create_task(cloud.command("printer_control", "pause_print", timeout=5))
        await asyncio.sleep(0.05)
        async with running(endpoint("v")) as agent:
            await asking
            await cloud.command("printer_control", "pause_print", timeout=5)
            await asyncio.sleep(0.7)  # it is the time that is tested
            await cloud.command("printer_control", "pause_print", timeout=5)
            assert [message.live for message in agent.commands] == [False, False, True]


async def test_a_session_of_nobodys_has_kept_nothing(endpoint: Callable[..., Endpoint]) -> None:
    """Where the broker says that it had no session of ours, every command has just been sent."""
    async with Cloud(endpoint("v"), TOPICS) as cloud, running(endpoint("v")) as agent:
        await agent.up()
        await cloud.command("printer_control", "pause_print", timeout=5)
        assert [message.live for message in agent.commands] == [True]


async def taken_up(peer: Peer) -> None:
    """CONNECT and SUBSCRIBE, of a session that was there."""
    await peer.read()
    peer.write(SESSION_PRESENT)
    subscribe = await peer.read()
    assert subscribe.kind == SUBSCRIBE
    peer.write(bytes([0x90, 4]) + subscribe.body[:2] + bytes([0, 1]))


async def serve(peer: Peer, answering: asyncio.Event) -> None:
    """Acknowledge everything; pings are answered once `answering` is set."""

    async def pong() -> None:
        await answering.wait()
        peer.write(PINGRESP)

    async with asyncio.TaskGroup() as pongs:
        while True:
            packet = await peer.read()
            if packet.kind == PUBLISH:
                length = 2 + int.from_bytes(packet.body[:2], "big")
                peer.write(bytes([0x40, 2]) + packet.body[length : length + 2])
            elif packet.kind == PINGREQ:
                pongs.create_task(pong())


async def test_a_backlog_that_takes_long() -> None:
    """As long as one command follows the other they are not live, however long that takes, up to a limit."""
    answering = asyncio.Event()
    answering.set()

    async def script(_: FakeBroker, peer: Peer) -> None:
        await taken_up(peer)

        async def trickle() -> None:
            for number in range(1, 31):
                peer.write(command(number))
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(trickle())
            tasks.create_task(serve(peer, answering))

    async with fake_broker(script) as fake, running(Endpoint("127.0.0.1", fake.port, "v", tls=False)) as agent:
        live = await until(agent, 30)
    assert live == sorted(live)
    assert 15 < live.count(False) < 28


async def test_a_backlog_that_is_stalled_on_the_wire() -> None:
    """A silence in which the broker answers no ping is none of its own: what comes after it is not live."""
    answering = asyncio.Event()

    async def script(_: FakeBroker, peer: Peer) -> None:
        await taken_up(peer)

        async def late() -> None:
            await asyncio.sleep(1.2)
            peer.write(command(1))
            answering.set()
            await asyncio.sleep(0.8)
            peer.write(command(2))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(late())
            tasks.create_task(serve(peer, answering))

    async with fake_broker(script) as fake, running(Endpoint("127.0.0.1", fake.port, "v", tls=False)) as agent:
        assert await until(agent, 2) == [False, True]


async def test_a_broker_that_waits_for_us() -> None:
    """A silence in which the broker may be waiting for our acknowledgement is none of its own either."""
    answering = asyncio.Event()
    answering.set()
    loop = asyncio.get_running_loop()

    async def script(_: FakeBroker, peer: Peer) -> None:
        await taken_up(peer)
        peer.write(command(1))
        loop.call_later(0.8, peer.write, command(2))
        await serve(peer, answering)

    async with fake_broker(script) as fake:
        tracker = backlog.Backlog()
        seen: list[bool] = []
        arrived = asyncio.Event()

        def take(message: object) -> None:
            seen.append(tracker.judge(message).live)  # type: ignore[arg-type]
            if len(seen) == 2:
                arrived.set()

        endpoint = Endpoint("127.0.0.1", fake.port, "v", tls=False)
        async with connect(endpoint, subscriptions=["t"], on_message=take) as session, asyncio.timeout(5):
            outlasting = asyncio.create_task(tracker.outlast(session))
            await arrived.wait()
            outlasting.cancel()
    assert seen == [False, False]
