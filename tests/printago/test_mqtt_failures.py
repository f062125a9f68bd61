"""Brokers that refuse, fall silent, talk nonsense or are not there: each is one clear error."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.errors import ConnectionLost, ConnectionRefused
from printago_moonraker.printago import mqtt
from printago_moonraker.printago.mqtt import Endpoint, Message, connect
from tests.fakes.broker import (
    CONNACK_5,
    CONNACK_311,
    PINGREQ,
    PUBLISH,
    FakeBroker,
    Peer,
    fake_broker,
)
from tests.fakes.mosquitto import Mosquitto, free_port, mosquitto
from tests.printago.sessions import attempt, refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def test_a_lost_session_fails_everyone_with_the_first_error(
    broker: Mosquitto, endpoint: Callable[..., Endpoint]
) -> None:
    """Publications in flight, later ones and wait_closed raise ConnectionLost with one reason."""

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        assert (await peer.read()).kind == PUBLISH

    async with fake_broker(script) as fake, attempt(replace(endpoint("me"), port=fake.port), "t") as session:
        with pytest.raises(ConnectionLost, match="broke") as in_flight:
            await session.publish("t", b"x")
        with pytest.raises(ConnectionLost) as later:
            await session.publish("t", b"y")
        with pytest.raises(ConnectionLost) as waiting:
            await session.wait_closed()
    assert str(in_flight.value) == str(later.value) == str(waiting.value)


async def test_the_head_of_a_giant_packet_ends_the_session(endpoint: Callable[..., Endpoint]) -> None:
    """Its body would never come, and every later byte would be taken for a part of it."""

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        peer.write(b"\x30\xff\xff\xff\x7frubbish")
        await peer.closed()

    async with fake_broker(script) as fake, attempt(replace(endpoint("me"), port=fake.port), "t") as session:
        with pytest.raises(ConnectionLost, match="a packet of more than"):
            await session.wait_closed()


@pytest.mark.parametrize("protocol", ["auto", "5", "3.1.1"])
async def test_a_refused_login_says_so(tmp_path: Path, protocol: str) -> None:
    """Wrong credentials are ConnectionRefused, with the broker's reason, and are not tried again with 3.1.1."""
    async with mosquitto(tmp_path, ["allow_anonymous false"]) as broker:
        me = Endpoint("127.0.0.1", broker.port, "me", tls=False, protocol=protocol, username="u", password="hunter2")
        error = await refused(me)
    assert isinstance(error, ConnectionRefused)
    assert "refuses the connection: Not authorized" in str(error) or "Bad user name or password" in str(error)
    assert "hunter2" not in f"{error} {me!r}"


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_topic_without_the_right_is_named(protocol: str) -> None:
    """A refused subscription is ConnectionRefused with the topic."""

    async def script(_: FakeBroker, peer: Peer) -> None:
        connect = await peer.read()
        peer.write(CONNACK_5 if connect.version == 5 else CONNACK_311)
        mid = (await peer.read()).body[:2]
        peer.write(bytes([0x90, 4]) + mid + b"\x00\x87" if connect.version == 5 else bytes([0x90, 3]) + mid + b"\x80")
        await peer.closed()

    async with fake_broker(script) as fake:
        error = await refused(Endpoint("127.0.0.1", fake.port, "me", tls=False, protocol=protocol), "yours/a")
    assert isinstance(error, ConnectionRefused)
    assert "refuses the subscription to yours/a: " in str(error)


async def test_a_publication_without_the_right_is_refused_alone(tmp_path: Path) -> None:
    """On MQTT 5 the broker says so: ConnectionRefused for that one, and the session goes on."""
    (tmp_path / "acl").write_text("topic readwrite mine/#\n")
    async with (
        mosquitto(tmp_path, ["allow_anonymous true", f"acl_file {tmp_path / 'acl'}"]) as broker,
        attempt(Endpoint("127.0.0.1", broker.port, "me", tls=False)) as session,
    ):
        with pytest.raises(ConnectionRefused, match="publication to yours/a: Not authorized"):
            await session.publish("yours/a", b"x")
        await session.publish("mine/a", b"x")


async def test_what_the_broker_or_mqtt_cannot_take_is_refused_alone(tmp_path: Path) -> None:
    """A message above the broker's packet size, or to a wildcard, fails by itself; the session goes on."""
    async with (
        mosquitto(tmp_path, ["allow_anonymous true", "max_packet_size 2000"]) as broker,
        attempt(Endpoint("127.0.0.1", broker.port, "me", tls=False)) as session,
    ):
        with pytest.raises(ConnectionRefused, match="3000 bytes"):
            await session.publish("t", b"x" * 3000)
        with pytest.raises(ConnectionRefused, match="not a topic"):
            await session.publish("a/#", b"x")
        await session.publish("t", b"x", qos=0)
        await session.publish("t", b"x")


@pytest.mark.parametrize(
    "packet", [b"\x30\x02\xff\xff", b"\xf1\x00", b"\x32\x03\x00\x01t", b"\x20\xff\xff\xff\xff\xff"]
)
async def test_a_malformed_packet_ends_the_session(packet: bytes) -> None:
    """Bytes that are no MQTT are ConnectionLost, not a traceback."""

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        peer.write(packet)
        await peer.closed()

    async with (
        fake_broker(script) as fake,
        asyncio.timeout(5),
        attempt(Endpoint("127.0.0.1", fake.port, "me", tls=False), "t") as session,
    ):
        with pytest.raises(ConnectionLost):
            await session.wait_closed()


async def test_a_half_open_connection_is_found_in_one_and_a_half_keepalives() -> None:
    """A peer that takes our pings and answers none is given up soon after 1.5 keepalives, not before one."""
    pings = 0

    async def script(_: FakeBroker, peer: Peer) -> None:
        nonlocal pings
        await peer.accept()
        while True:
            pings += (await peer.read()).kind == PINGREQ

    async with (
        fake_broker(script) as fake,
        attempt(Endpoint("127.0.0.1", fake.port, "me", tls=False, keepalive=2), "t") as session,
    ):
        start = asyncio.get_running_loop().time()
        with pytest.raises(ConnectionLost, match="silent for 3 s"):
            await session.wait_closed()
        assert 2.5 < asyncio.get_running_loop().time() - start < 4.5
    assert pings == 1


async def test_another_client_with_our_id_is_named() -> None:
    """The operator learns why the session keeps ending."""

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        peer.write(bytes([0xE0, 2, 0x8E, 0]))
        await peer.closed()

    async with (
        fake_broker(script) as fake,
        attempt(Endpoint("127.0.0.1", fake.port, "twin", tls=False), "t") as session,
    ):
        with pytest.raises(ConnectionLost, match=r"taken over.*\(another client uses the client ID twin\)"):
            await session.wait_closed()


async def test_a_mute_broker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that accepts TCP and says nothing costs one bounded attempt."""
    monkeypatch.setattr(mqtt, "CONNECT_TIMEOUT", 0.2)

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.closed()

    async with fake_broker(script) as fake:
        error = await refused(Endpoint("127.0.0.1", fake.port, "me", tls=False))
    assert isinstance(error, ConnectionLost)
    assert "no answer" in str(error)


async def test_cancelling_a_connect_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither thread nor socket stays when an attempt is cancelled inside its TLS handshake."""
    there, closed = asyncio.Event(), asyncio.Event()

    async def script(_: FakeBroker, peer: Peer) -> None:
        there.set()
        await peer.closed()
        closed.set()

    monkeypatch.setattr(mqtt, "STEP_TIMEOUT", 0.5)
    async with fake_broker(script) as fake:
        me = Endpoint("127.0.0.1", fake.port, "me")
        task = asyncio.create_task(refused(me))
        async with asyncio.timeout(5):
            await there.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await closed.wait()
    for thread in threading.enumerate():
        if thread.name == "mqtt-connect":
            thread.join(1)
            assert not thread.is_alive()


async def test_where_nobody_is_there_is_one_clear_sentence() -> None:
    """Name and port are named, and what is wrong with them."""
    error = await refused(Endpoint("broker.invalid", 1883, "me", tls=False))
    assert str(error).startswith("broker.invalid:1883: the name cannot be resolved")
    port = free_port()
    assert f"127.0.0.1:{port}: not reachable" in str(await refused(Endpoint("127.0.0.1", port, "me", tls=False)))
    assert "not reachable" in str(await refused(Endpoint("a..b", 1883, "me", tls=False)))


async def test_a_consumers_error_does_not_harm_the_session(endpoint: Callable[..., Endpoint]) -> None:
    """What on_message raises goes to the loop's exception handler, and the next message arrives."""
    seen: list[bytes] = []
    raised: list[object] = []
    arrived = asyncio.Event()

    def consumer(message: Message) -> None:
        message.ack()
        seen.append(message.payload)
        if len(seen) == 1:
            raise KeyError("a bug")
        arrived.set()

    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
    async with (
        connect(endpoint("me"), subscriptions=["t"], on_message=consumer),
        attempt(endpoint("other")) as other,
        asyncio.timeout(5),
    ):
        await other.publish("t", b"1")
        await other.publish("t", b"2")
        await arrived.wait()
    assert (seen, [type(error) for error in raised]) == ([b"1", b"2"], [KeyError])
