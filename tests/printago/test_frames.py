"""Camera frames go out raw, at once or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.errors import ConnectionLost
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec, make_topics
from printago_moonraker.printago.link import Link
from printago_moonraker.printago.mqtt import Endpoint, Message, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from printago_moonraker.printago.store import Store

JPEG = b"\xff\xd8\x00{not an envelope}\xff\xd9"


def make_link(endpoint: Endpoint, dialect: Dialect, store: Store, up: asyncio.Event) -> Link:
    codec = EnvelopeCodec("v", "klipper", dialect)
    topics = make_topics("v", dialect)
    return Link(endpoint, topics, codec, store.of("v"), on_command=lambda _: None, on_up=up.set, name="printago v")


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
