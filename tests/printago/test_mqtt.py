"""What one MQTT session carries, with a real mosquitto, a real amqtt, and a peer of 3.1.1."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.errors import ConnectionLost
from printago_moonraker.printago import mqtt
from printago_moonraker.printago.mqtt import Endpoint, Message, Will, connect
from tests.fakes.broker import (
    CONNACK_5,
    DISCONNECT,
    PUBLISH,
    FakeBroker,
    Peer,
    fake_broker,
    proxy,
)
from tests.fakes.mosquitto import Mosquitto, free_port, mosquitto
from tests.fakes.processes import ending_with_us
from tests.printago.sessions import Inbox, attempt, nowhere, refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_what_is_published_arrives_in_order(endpoint: Callable[..., Endpoint], protocol: str) -> None:
    """A hundred publications, more than the window, come in the order of the calls."""
    inbox = Inbox()
    async with (
        connect(endpoint("in", protocol=protocol), subscriptions=["t/1"], on_message=inbox) as receiver,
        attempt(endpoint("out", protocol=protocol)) as sender,
    ):
        assert receiver.protocol == protocol
        await asyncio.gather(*(sender.publish("t/1", f"{number}".encode()) for number in range(100)))
        messages = await inbox.wait(100)
    assert [int(message.payload) for message in messages] == list(range(100))
    assert {(message.topic, message.qos, message.retain) for message in messages} == {("t/1", 1, False)}


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_message_is_kept_by_the_broker_until_it_is_acknowledged(
    endpoint: Callable[..., Endpoint], protocol: str
) -> None:
    """Unacknowledged, it comes again with DUP, and the same packet identifier, to the next session of the same client;
    acknowledged, it does not.
    """
    me = endpoint("me", protocol=protocol)
    first, second = Inbox(acknowledge=False), Inbox(acknowledge=False)
    async with connect(me, subscriptions=["t"], on_message=first) as session, attempt(endpoint("other")) as other:
        assert not session.session_present
        await other.publish("t", b"one")
        await other.publish("t", b"two")
        messages = await first.wait(2)
        messages[0].ack()
        messages[0].ack()
    messages[1].ack()  # too late: nothing happens
    async with connect(me, subscriptions=["t"], on_message=second) as session:
        assert session.session_present
        again = await second.wait(1)
    assert [(message.payload, message.dup, message.mid) for message in again] == [(b"two", True, messages[1].mid)]
    assert 0 < messages[0].mid != messages[1].mid > 0


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_commands_sent_meanwhile_are_delivered(endpoint: Callable[..., Endpoint], protocol: str) -> None:
    """The session is persistent: what comes while we are away is there when we are back."""
    me, inbox = endpoint("me", protocol=protocol), Inbox()
    async with attempt(me, "t"):
        pass
    async with attempt(endpoint("other")) as other:
        await other.publish("t", b"while away")
    async with connect(me, subscriptions=["t"], on_message=inbox):
        assert (await inbox.wait(1))[0].payload == b"while away"


async def test_a_clean_session_forgets(endpoint: Callable[..., Endpoint]) -> None:
    """session_expiry 0 leaves nothing at the broker."""
    me = endpoint("me", session_expiry=0)
    async with attempt(me, "t"):
        pass
    async with attempt(me, "t") as session:
        assert not session.session_present


async def test_the_will_speaks_for_a_cut_connection_only(broker: Mosquitto, endpoint: Callable[..., Endpoint]) -> None:
    """A block that ends says goodbye without the will; a wire that is cut has it published, retained."""
    inbox, will = Inbox(), Will("will", b"disconnected")
    async with connect(endpoint("watch"), subscriptions=["will"], on_message=inbox), proxy(broker.port) as wire:
        me = replace(endpoint("me", protocol="3.1.1"), port=wire.port)
        async with connect(me, subscriptions=[], on_message=nowhere, will=will) as session:
            await session.publish("will", b"1")
        async with connect(me, subscriptions=[], on_message=nowhere, will=will) as session:
            await session.publish("will", b"2")
            wire.cut()
            with pytest.raises(ConnectionLost):
                await session.wait_closed()
        assert [message.payload for message in await inbox.wait(3)] == [b"1", b"2", b"disconnected"]


@pytest.mark.parametrize("refusal", [bytes([0x20, 2, 0, 1]), bytes([0x20, 3, 0, 0x84, 0]), b""])
async def test_auto_falls_back_to_3_1_1(endpoint: Callable[..., Endpoint], refusal: bytes) -> None:
    """However a broker of 3.1.1 refuses MQTT 5 (an answer of its own version, of 5, or a closed connection)."""

    async def script(fake: FakeBroker, peer: Peer) -> None:
        fake.versions.append((await peer.read()).version)
        if fake.versions[-1] == 5:
            peer.write(refusal)
            return
        peer.write(bytes([0x20, 2, 0, 0]))
        await peer.closed()

    async with fake_broker(script) as fake:
        async with attempt(replace(endpoint("me"), port=fake.port)) as session:
            assert session.protocol == "3.1.1"
        assert fake.versions == [5, 4]
        await refused(replace(endpoint("me"), port=fake.port, protocol="5"))
        assert fake.versions == [5, 4, 5]


AMQTT = """
import asyncio, sys
from amqtt.broker import Broker

async def main():
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    await Broker({"listeners": {"default": {"type": "tcp", "bind": sys.argv[1]}}, "plugins": anonymous}).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_it_works_with_amqtt(monkeypatch: pytest.MonkeyPatch) -> None:
    """amqtt speaks 3.1.1 only, and never answers a CONNECT of MQTT 5: auto gets through all the same."""
    monkeypatch.setattr(mqtt, "ANSWER_TIMEOUT", 0.5)
    port, inbox = free_port(), Inbox()
    amqtt = await asyncio.create_subprocess_exec(
        *ending_with_us(sys.executable, "-c", AMQTT, f"127.0.0.1:{port}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert amqtt.stdout is not None
        assert await amqtt.stdout.readline() == b"ready\n"
        me = Endpoint("127.0.0.1", port, "me", tls=False)
        async with connect(me, subscriptions=["t"], on_message=inbox) as session:
            assert session.protocol == "3.1.1"
            await session.publish("t", b"hello")
            assert (await inbox.wait(1))[0].payload == b"hello"
    finally:
        amqtt.kill()
        await amqtt.communicate()


async def test_the_properties_of_mqtt_5_arrive() -> None:
    """Response topic, correlation data and the expiry interval are given through, and so is what we send."""
    properties = (
        bytes([8, 0, 4]) + b"back" + bytes([9, 0, 2]) + b"\x00\xff" + bytes([2, 0, 0, 0, 60])
    )  # MQTT 5, section 2.2.2.2
    body = bytes([0, 1]) + b"t" + bytes([0, 7, len(properties)]) + properties + b"{}"
    sent = asyncio.get_running_loop().create_future()

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        peer.write(bytes([0x32, len(body)]) + body)
        while (packet := await peer.read()).kind != PUBLISH:
            pass
        sent.set_result(packet.body)
        await peer.closed()

    inbox = Inbox()
    async with fake_broker(script) as fake:
        me = Endpoint("127.0.0.1", fake.port, "me", tls=False)
        async with connect(me, subscriptions=["t"], on_message=inbox) as session:
            (message,) = await inbox.wait(1)
            assert (message.response_topic, message.correlation_data, message.expiry) == ("back", b"\x00\xff", 60)
            answer = session.publish("back", b"{}", correlation_data=message.correlation_data)
            async with asyncio.timeout(5):
                raw = await sent
    assert b"application/json" in raw
    assert b"\x09\x00\x02\x00\xff" in raw
    assert isinstance(answer.exception(), ConnectionLost)


async def test_an_idle_session_stays(endpoint: Callable[..., Endpoint]) -> None:
    """Pings that are answered keep a silent session up."""
    async with attempt(endpoint("me", keepalive=1), "t") as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await session.wait_closed()
        await session.publish("u", b"still here")


async def test_the_stock_brokers_nagle_costs_nothing(tmp_path: Path) -> None:
    """We acknowledge at once: with mosquitto's default (Nagle on), a round trip does not wait 40 ms for it."""
    inbox = Inbox()
    async with mosquitto(tmp_path, nodelay=False) as broker:
        me = Endpoint("127.0.0.1", broker.port, "me", tls=False)

        def echo(message: Message) -> None:
            message.ack()
            other.publish("back", message.payload)

        async with (
            connect(me, subscriptions=["back"], on_message=inbox) as session,
            connect(replace(me, client_id="other"), subscriptions=["there"], on_message=echo) as other,
        ):
            times: list[float] = []
            for number in range(60):
                start = time.perf_counter()
                session.publish("there", b"x")
                await inbox.wait(number + 1)
                times.append(time.perf_counter() - start)
    # Whoever waits for a delayed acknowledgement waits 40 ms each time, but for the first ones. Of what a busy machine
    # takes for some of them this says nothing.
    assert sorted(times[20:])[10] < 0.04


async def test_nagle_is_off_and_the_goodbye_is_said(endpoint: Callable[..., Endpoint]) -> None:
    """TCP_NODELAY is set (with QoS 1 it saves up to 70 ms a message), and the last packet is DISCONNECT."""
    last: list[int] = []
    gone = asyncio.Event()

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.read()
        peer.write(CONNACK_5)
        last.append((await peer.read()).kind)
        gone.set()

    async with fake_broker(script) as fake:
        async with attempt(replace(endpoint("me"), port=fake.port)) as session:
            with socket.socket(fileno=os.dup(session._fd)) as twin:
                assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        async with asyncio.timeout(5):
            await gone.wait()
    assert last == [DISCONNECT]
