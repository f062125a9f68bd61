"""What the tests of MQTT sessions need: an inbox, a session to try, and the error where there is none."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.errors import LinkError
from printago_moonraker.printago.mqtt import Endpoint, Message, MqttSession, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Inbox:
    """Collects messages, and waits for them."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.messages: list[Message] = []
        self._acknowledge = acknowledge
        self._news = asyncio.Event()

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        if self._acknowledge:
            message.ack()
        self._news.set()

    async def wait(self, count: int) -> list[Message]:
        async with asyncio.timeout(5):
            while len(self.messages) < count:
                self._news.clear()
                await self._news.wait()
        return self.messages


def nowhere(message: Message) -> None:
    raise AssertionError(f"nothing was expected, but {message} came")


@asynccontextmanager
async def attempt(endpoint: Endpoint, *topics: str) -> AsyncIterator[MqttSession]:
    async with connect(endpoint, subscriptions=topics, on_message=nowhere) as session:
        yield session


async def refused(endpoint: Endpoint, *topics: str) -> LinkError:
    """The error with which connecting fails."""
    with pytest.raises(LinkError) as caught:
        async with attempt(endpoint, *topics):
            pass
    return caught.value
