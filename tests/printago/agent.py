"""What a session does with its link, as little as possible, for the tests of the link."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec, make_topics
from printago_moonraker.printago.link import Link
from printago_moonraker.printago.login import Login
from printago_moonraker.printago.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from printago_moonraker.cloud import Cloud
    from printago_moonraker.printago.mqtt import Endpoint, Message

TOPICS = make_topics("v", Dialect.KLIPPER)


class Agent:
    """What a session does with its link, as little as possible."""

    def __init__(self, endpoint: Endpoint, store: Store) -> None:
        self.store = store.of("v")
        self.ups = 0
        self.came_up = asyncio.Event()
        self.commands: list[Message] = []
        self.link = Link(
            Login(lambda: endpoint),
            TOPICS,
            EnvelopeCodec("v", "klipper", Dialect.KLIPPER),
            self.store,
            on_command=self.on_command,
            on_up=self.on_up,
            name="printago v",
        )

    def on_up(self) -> None:
        self.ups += 1
        self.came_up.set()

    def on_command(self, message: Message) -> None:
        message.ack()
        self.commands.append(message)
        echo = {"id": json.loads(message.payload)["id"]}
        self.link.send("success", {"message": "Done."}, command=echo, reply_to=message)

    async def up(self) -> None:
        async with asyncio.timeout(5):
            await self.came_up.wait()
            self.came_up.clear()

    def number(self, number: int) -> None:
        self.link.send("event", {"event": "Message", "number": number})


@asynccontextmanager
async def stored(folder: Path | None = None) -> AsyncIterator[Store]:
    async with Store(folder, trusted_time=lambda: None) as store:
        yield store


@asynccontextmanager
async def running(endpoint: Endpoint, store: Store | None = None) -> AsyncIterator[Agent]:
    """An agent with a store of its own, unless one is given."""
    async with stored() as own, served(Agent(endpoint, store or own)) as agent:
        yield agent


@asynccontextmanager
async def served(agent: Agent) -> AsyncIterator[Agent]:
    task = asyncio.create_task(agent.link.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not agent.link.up


def numbers(cloud: Cloud) -> list[int]:
    return [event["number"] for event in cloud.events()]
