"""Camera frames go out raw, at once or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.errors import ConnectionLost
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec, make_topics
from printago_moonraker.printago.link import Link
from printago_moonraker.printago.login import Login
from printago_moonraker.printago.mqtt import Endpoint, Message, connect
from printago_moonraker.printago.store import Store
from tests.fakes.broker import PUBLISH, FakeBroker, Peer, fake_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

JPEG = b"\xff\xd8\x00{not an envelope}\xff\xd9"


def make_link(endpoint: Endpoint, dialect: Dialect, store: Store, up: asyncio.Event) -> Link:
    codec = EnvelopeCodec("v", "klipper", dialect)
    topics = make_topics("v", dialect)
    return Link(
        Login(lambda: endpoint),
        topics,
        codec,
        store.of("v"),
        on_command=lambda _: None,
        on_up=up.set,
        name="printago v",
    )


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with Store(None, trusted_time=lambda: None) as running:
        yield running


@pytest.mark.parametrize(
    ("dialect", "topic"),
    [(Dialect.KLIPPER, "printago/v/camera/front _1"), (Dialect.OCTOPRINT, "octoprint/camera/front _1")],
)
async def test_a_frame(dialect: Dialect, topic: str, store: Store, endpoint: Callable[..., Endpoint]) -> None:
    """The bytes as they are, on the camera's topic, QoS 0, not retained; nothing of it waits while the link is down."""
    frames: asyncio.Queue[Message] = asyncio.Queue()
    up = asyncio.Event()
    link = make_link(endpoint("v"), dialect, store, up)
    with pytest.raises(ConnectionLost, match="no connection"):
        await link.publish_frame("front /1", b"too early")
    async with connect(endpoint("watcher"), subscriptions=["+/v/camera/+", "+/camera/+"], on_message=frames.put_nowait):
        running = asyncio.create_task(link.run())
        try:
            async with asyncio.timeout(5):
                await up.wait()
                await link.publish_frame("front /1", JPEG)
                frame = await frames.get()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert (frame.topic, frame.payload, frame.qos, frame.retain) == (topic, JPEG, 0, False)
    with pytest.raises(ConnectionLost):
        await link.publish_frame("front /1", b"too late")


async def sent_within(link: Link, seconds: float) -> int:
    """How many frames of 1 MB go out one after the other in that time."""
    sent = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                await link.publish_frame("front", bytes(1024 * 1024))
                sent += 1
    except TimeoutError:
        return sent


async def test_a_slow_uplink_is_felt(store: Store) -> None:
    """A broker that takes nothing holds up who publishes, so that frames do not pile up in memory."""

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        packet = await peer.read()  # `connected`
        assert packet.kind == PUBLISH
        start = 2 + int.from_bytes(packet.body[:2], "big")
        peer.write(bytes([0x40, 2]) + packet.body[start : start + 2])
        await asyncio.Event().wait()

    up = asyncio.Event()
    async with fake_broker(script) as broker:
        link = make_link(Endpoint("127.0.0.1", broker.port, "v", tls=False), Dialect.KLIPPER, store, up)
        running = asyncio.create_task(link.run())
        try:
            async with asyncio.timeout(5):
                await up.wait()
            assert await sent_within(link, 1.0) < 20  # until the sockets' buffers are full
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
