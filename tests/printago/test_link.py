"""The link stays up, and takes commands, whatever the wire does."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker.backoff import Backoff
from printago_moonraker.cloud import Cloud
from printago_moonraker.printago import link as link_module
from printago_moonraker.printago.mqtt import Endpoint, connect
from tests.fakes.broker import CONNACK_5, CONNECT, PUBLISH, FakeBroker, Peer, fake_broker, proxy
from tests.printago.agent import TOPICS, Agent, numbers, running, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.fakes.mosquitto import Mosquitto

pytestmark = pytest.mark.usefixtures("quick_retries")


async def test_it_announces_itself_and_takes_its_leave(endpoint: Callable[..., Endpoint]) -> None:
    """`connected` when it is up, `disconnected` when it is stopped, both retained."""
    async with Cloud(endpoint("v"), TOPICS) as cloud:
        async with running(endpoint("v")) as agent:
            await agent.up()
            assert agent.link.up
            await cloud.wait_available("connected")
            async with Cloud(endpoint("v"), TOPICS) as late:
                await late.wait_available("connected")
        await cloud.wait_available("disconnected")


async def test_a_command_is_answered(endpoint: Callable[..., Endpoint]) -> None:
    """The answer echoes the command, and comes once."""
    async with Cloud(endpoint("v"), TOPICS) as cloud, running(endpoint("v")) as agent:
        await agent.up()
        answer = await cloud.command("printer_control", "pause_print", id="c-1", timeout=5)
        assert (answer["type"], answer["data"], answer["command"]) == ("success", {"message": "Done."}, {"id": "c-1"})
        await cloud.command("printer_control", "pause_print", timeout=5)
        assert len(cloud.envelopes) == len(agent.commands) == 2


async def test_an_answer_goes_to_the_response_topic_too() -> None:
    """With the command's correlation data, and to the ordinary topic as ever."""
    properties = bytes([8, 0, 4]) + b"back" + bytes([9, 0, 1]) + b"c"
    command = b'{"id":"c-1"}'
    body = len(TOPICS.commands).to_bytes(2, "big") + TOPICS.commands.encode() + bytes([len(properties)]) + properties
    published: list[bytes] = []
    answered = asyncio.Event()

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        peer.write(bytes([0x30, len(body + command)]) + body + command)
        while True:
            packet = await peer.read()
            if packet.kind == PUBLISH:
                length = 2 + int.from_bytes(packet.body[:2], "big")
                peer.write(bytes([0x40, 2]) + packet.body[length : length + 2])
                published.append(packet.body)
                if len(published) == 3:
                    answered.set()

    async with fake_broker(script) as fake, running(Endpoint("127.0.0.1", fake.port, "v", tls=False)):
        async with asyncio.timeout(5):
            await answered.wait()
    topics = {body[2 : 2 + int.from_bytes(body[:2], "big")].decode(): body for body in published}
    assert {TOPICS.message("success"), "back"} < topics.keys()
    assert b"\x09\x00\x01c" in topics["back"]
    assert topics["back"][-50:] == topics[TOPICS.message("success")][-50:]


async def test_it_survives_the_brokers_restart(
    broker: Mosquitto,
    endpoint: Callable[..., Endpoint],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A killed broker is one warning; when it is back, so is the link, and what was said meanwhile arrives."""
    may, waits = asyncio.Event(), asyncio.Event()
    may.set()

    @asynccontextmanager
    async def connect_when_it_may(*given: Any, **options: Any) -> AsyncIterator[Any]:
        if not may.is_set():
            waits.set()
        await may.wait()
        async with connect(*given, **options) as session:
            yield session

    monkeypatch.setattr(link_module, "connect", connect_when_it_may)
    async with running(endpoint("v")) as agent:
        await agent.up()
        may.clear()
        await broker.stop(kill=True)
        agent.number(1)
        async with asyncio.timeout(5):
            await waits.wait()
        await broker.start()
        async with Cloud(endpoint("v"), TOPICS) as cloud:  # it hears all that comes after the broker's restart
            may.set()
            await agent.up()
            agent.number(2)
            await cloud.wait_for(lambda envelope: envelope["data"].get("number") == 2)
            assert agent.link.up
            assert numbers(cloud) == [1, 2]
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings


async def test_a_broker_that_accepts_and_drops_is_not_hammered(caplog: pytest.LogCaptureFixture) -> None:
    """The back-off grows although each connection opens, and one warning stands for the spell."""
    caplog.set_level(logging.DEBUG)
    enough = asyncio.Event()
    tries: list[float] = []

    async def script(fake: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        tries.append(asyncio.get_running_loop().time())
        if len(tries) == 6:
            enough.set()

    async with fake_broker(script) as fake, running(Endpoint("127.0.0.1", fake.port, "v", tls=False)):
        async with asyncio.timeout(8):
            await enough.wait()
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(tries))
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "trying again in" in warnings[0]


async def test_a_session_that_lasts_resets_the_back_off(
    broker: Mosquitto, endpoint: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proved is what has stayed up for a while: the next loss starts a new spell with a short wait."""
    monkeypatch.setattr(link_module, "PROVED", 0.1)
    backoff = Backoff(failures=4)
    async with stored() as store:
        agent = Agent(endpoint("v"), store)
        task = asyncio.create_task(agent.link._attempt(backoff))
        await agent.up()
        assert backoff.failures == 4
        async with asyncio.timeout(5):
            while backoff.failures:  # noqa: ASYNC110 - the reset tells nobody
                await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_fall_back_to_3_1_1_is_remembered() -> None:
    """MQTT 5 is tried once, not at every reconnect."""
    enough = asyncio.Event()

    async def script(fake: FakeBroker, peer: Peer) -> None:
        packet = await peer.read()
        assert packet.kind == CONNECT
        fake.versions.append(packet.version)
        if len(fake.versions) == 4:
            enough.set()
        if packet.version == 4:
            peer.write(bytes([0x20, 2, 0, 0]))
            mid = (await peer.read()).body[:2]
            peer.write(bytes([0x90, 3]) + mid + b"\x01")

    async with fake_broker(script) as fake, running(Endpoint("127.0.0.1", fake.port, "v", tls=False)):
        async with asyncio.timeout(5):
            await enough.wait()
    assert fake.versions[:4] == [5, 4, 4, 4]


async def test_stopping_is_bounded_when_the_broker_is_mute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that no longer acknowledges delays the end by the goodbye's time at most."""
    monkeypatch.setattr(link_module, "GOODBYE", 0.2)

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.read()
        peer.write(CONNACK_5)
        mid = (await peer.read()).body[:2]
        peer.write(bytes([0x90, 4]) + mid + b"\x00\x01")
        connected = await peer.read()
        length = 2 + int.from_bytes(connected.body[:2], "big")
        peer.write(bytes([0x40, 2]) + connected.body[length : length + 2])
        await peer.closed()

    async with fake_broker(script) as fake:
        async with running(Endpoint("127.0.0.1", fake.port, "v", tls=False)) as agent:
            await agent.up()
            start = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - start > 0.1  # and the end has come: nothing else would bring it


async def test_the_will_is_set(broker: Mosquitto, endpoint: Callable[..., Endpoint]) -> None:
    """A wire that is cut for good is an outage that the broker announces."""
    async with (
        Cloud(endpoint("v"), TOPICS) as cloud,
        proxy(broker.port) as wire,
        running(replace(endpoint("v"), port=wire.port, protocol="3.1.1")),
    ):
        await cloud.wait_available("connected")
        wire.cut()
        await cloud.wait_available("disconnected")
        await cloud.wait_available("connected")


async def test_commands_sent_while_the_link_was_down_are_delivered(
    broker: Mosquitto, endpoint: Callable[..., Endpoint]
) -> None:
    """The session is persistent: a command of a short drop-out is delivered, and answered, after it."""
    async with connect(endpoint("v"), subscriptions=[TOPICS.commands], on_message=lambda message: None):
        pass
    async with Cloud(endpoint("v"), TOPICS) as cloud:
        asking = asyncio.create_task(cloud.command("printer_control", "pause_print", timeout=5))
        await asyncio.sleep(0)
        async with running(endpoint("v")):
            assert (await asking)["type"] == "success"
