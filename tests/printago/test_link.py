"""The link stays up, and what the printer has to say arrives, in order, whatever the wire does."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import supervise
from printago_moonraker.backoff import Backoff
from printago_moonraker.cloud import Cloud
from printago_moonraker.printago import link as link_module
from printago_moonraker.printago import store as store_module
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec, make_topics
from printago_moonraker.printago.link import Link
from printago_moonraker.printago.login import Login
from printago_moonraker.printago.mqtt import Endpoint, Message, connect
from printago_moonraker.printago.store import Limits, Store
from tests.fakes.broker import CONNACK_5, CONNECT, PUBLISH, FakeBroker, Peer, fake_broker, proxy
from tests.fakes.mosquitto import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.fakes.mosquitto import Mosquitto

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


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without the long waits."""
    monkeypatch.setattr(supervise, "Backoff", lambda: Backoff(base=0.05, cap=0.1, floor=0.05))


def numbers(cloud: Cloud) -> list[int]:
    return [event["number"] for event in cloud.events()]


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


async def test_what_was_said_before_the_link_is_up_comes_later_with_its_own_time(
    endpoint: Callable[..., Endpoint],
) -> None:
    """The outbox keeps order and timestamp."""
    async with stored() as store:
        agent = Agent(endpoint("v"), store)
        for number in range(300):
            agent.number(number)
        await asyncio.sleep(0.05)
        async with Cloud(endpoint("v"), TOPICS) as cloud, served(agent):
            await agent.up()
            agent.number(300)
            await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 300)
            assert numbers(cloud) == list(range(301))
            assert cloud.envelopes[0]["timestamp"] < cloud.envelopes[300]["timestamp"]


async def test_a_restart_loses_nothing_and_keeps_the_order(tmp_path: Path, endpoint: Callable[..., Endpoint]) -> None:
    """What was stored while the broker was out of reach goes out at the next start, with its time, before what is new;
    afterwards the store is empty.
    """
    async with stored(tmp_path) as store:
        agent = Agent(endpoint("v"), store)
        for number in range(200):
            agent.number(number)
    async with Cloud(endpoint("v"), TOPICS) as cloud, stored(tmp_path) as store:
        async with running(endpoint("v"), store) as agent:
            agent.number(200)
            await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 200)
        assert numbers(cloud) == list(range(201))
        times = [envelope["timestamp"] for envelope in cloud.envelopes]
        assert times == sorted(times)
        assert await store.of("v").load(0, 1, 1) == ([], 0)


async def test_only_a_window_is_in_memory() -> None:
    """A long outage costs the disk, not the memory."""
    async with stored() as store:
        agent = Agent(Endpoint("127.0.0.1", free_port(), "v", tls=False), store)
        async with served(agent):
            for number in range(1000):
                agent.number(number)
            await asyncio.sleep(0)  # the link looks into the store
            found, highest = await store.of("v").load(0, 2000, 10**9)
            assert len(found) == highest == 1000
            assert len(agent.link._window) == link_module.WINDOW_ROWS


async def test_what_is_stored_together_is_stored_before_it_is_sent(endpoint: Callable[..., Endpoint]) -> None:
    """The answer's future is done, and the other write made, before the broker hears of it."""
    order: list[str] = []
    async with running(endpoint("v")) as agent, Cloud(endpoint("v"), TOPICS) as cloud:
        await agent.up()
        future = agent.link.send(
            "success", {"number": 1}, command={"id": "c"}, also=lambda connection: order.append("also")
        )
        assert future is not None
        future.add_done_callback(lambda _: order.append(f"stored {len(cloud.envelopes)}"))
        await cloud.wait_for(lambda envelope: envelope["data"] == {"number": 1})
    assert order == ["also", "stored 0"]


async def test_the_last_words_go_out(endpoint: Callable[..., Endpoint]) -> None:
    """What is said right before the end arrives before the goodbye does."""
    async with stored() as store, Cloud(endpoint("v"), TOPICS) as cloud:
        async with running(endpoint("v"), store) as agent:
            await agent.up()
            await cloud.wait_available("connected")
            agent.number(1)
        await cloud.wait_available("disconnected")
        assert numbers(cloud) == [1]
        assert await store.of("v").load(0, 1, 1) == ([], 0)


async def test_cut_wires_lose_nothing_and_keep_the_order(broker: Mosquitto, endpoint: Callable[..., Endpoint]) -> None:
    """Cut again and again in mid-stream: every envelope arrives, at least once, first arrivals in order."""
    async with (
        asyncio.timeout(9),
        Cloud(endpoint("v"), TOPICS) as cloud,
        proxy(broker.port) as wire,
        running(replace(endpoint("v"), port=wire.port)) as agent,
    ):
        for start in range(0, 300, 60):
            await agent.up()
            for number in range(start, start + 60):
                agent.number(number)
            await asyncio.sleep(0)  # some of them are under way
            wire.cut()
        await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 299)
        assert list(dict.fromkeys(numbers(cloud))) == list(range(300))


async def test_it_survives_the_brokers_restart(broker: Mosquitto, endpoint: Callable[..., Endpoint]) -> None:
    """A killed broker is one warning; when it is back, so is the link, and what was said meanwhile arrives."""
    async with running(endpoint("v")) as agent:
        await agent.up()
        await broker.stop(kill=True)
        agent.number(1)
        await broker.start()
        async with Cloud(endpoint("v"), TOPICS) as cloud:
            agent.number(2)
            await cloud.wait_for(lambda envelope: envelope["data"].get("number") == 2)
            assert agent.link.up


async def test_a_status_is_retained_and_only_the_newest_waits() -> None:
    """While one is unacknowledged, later ones replace each other, and are made when their turn comes."""
    published: list[tuple[bool, Any]] = []
    go = asyncio.Event()
    third = asyncio.Event()
    built: list[int] = []

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        while True:
            packet = await peer.read()
            if packet.kind != PUBLISH:
                continue
            length = 2 + int.from_bytes(packet.body[:2], "big")
            if packet.body[2:length] == TOPICS.message("status").encode():
                published.append((True, json.loads(packet.body[packet.body.index(b"{") :])["data"]))
                await go.wait()
            peer.write(bytes([0x40, 2]) + packet.body[length : length + 2])
            if len(published) == 2:
                third.set()

    def build(number: int) -> int:
        built.append(number)
        return number

    async with fake_broker(script) as fake, running(Endpoint("127.0.0.1", fake.port, "v", tls=False)) as agent:
        agent.link.send_status(lambda: build(0))  # not up: forgotten
        await agent.up()
        for number in range(1, 6):
            agent.link.send_status(lambda number=number: build(number))  # type: ignore[misc]
        go.set()
        async with asyncio.timeout(5):
            await third.wait()
    assert built == [1, 5]
    assert [data for _, data in published] == [1, 5]


async def test_the_retained_status_greets_a_late_cloud(endpoint: Callable[..., Endpoint]) -> None:
    """Status is retained; the answer to get_status is not, and carries the command."""
    async with running(endpoint("v")) as agent, Cloud(endpoint("v"), TOPICS) as cloud:
        await agent.up()
        agent.link.send_status(lambda: {"n": 1})
        await cloud.wait_for(lambda envelope: envelope["type"] == "status")
        agent.link.send("status", {"n": 2}, command={"id": "c"})
        await cloud.wait_for(lambda envelope: envelope["data"] == {"n": 2} and envelope["command"] == {"id": "c"})
        async with Cloud(endpoint("v"), TOPICS) as late:
            assert (await late.wait_for(lambda envelope: True))["data"] == {"n": 1}


async def test_a_full_outbox_keeps_the_answers_and_the_ends(
    endpoint: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest news go first; answers and ends of prints stay."""
    monkeypatch.setattr(store_module, "HOUSEKEEPING", 1)
    monkeypatch.setattr(link_module, "WINDOW_ROWS", 1)
    async with Store(None, Limits(outbox_rows=5), trusted_time=lambda: None) as store:
        agent = Agent(endpoint("v"), store)
        agent.link.send("event", {"event": "PrintDone", "number": -2})
        agent.link.send("success", {"number": -1}, command={"id": "c"})
        for number in range(10):
            agent.number(number)
        async with Cloud(endpoint("v"), TOPICS) as cloud, served(agent):
            await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 9)
            assert [envelope["data"]["number"] for envelope in cloud.envelopes] == [-2, -1, 7, 8, 9]


async def test_a_pairing_is_not_kept_but_an_unstored_answer_is(broker: Mosquitto) -> None:
    """A session that breaks takes the old pairing with it; somebody waits for the answer."""
    endpoint = Endpoint("127.0.0.1", broker.port, "v", tls=False)
    async with Cloud(endpoint, TOPICS) as cloud, running(endpoint) as agent:
        await agent.up()
        agent.link._session, session = None, agent.link._session  # as right after a loss, but for the news of it
        agent.link.send("pairing", {"number": 1})
        agent.link.send("status", {"number": 2}, command={"id": "c"})
        agent.link._end_session()
        agent.link._session = session
        agent.number(3)
        await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 3)
        assert [envelope["data"]["number"] for envelope in cloud.envelopes] == [2, 3]


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
        assert 0.1 < asyncio.get_running_loop().time() - start < 1


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


async def test_what_the_broker_kept_is_not_live(
    endpoint: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the beginning of a session nobody can tell how long a command lay there; later it has just been sent."""
    monkeypatch.setattr(link_module, "BACKLOG", 0.2)
    async with Cloud(endpoint("v"), TOPICS) as cloud, running(endpoint("v")) as agent:
        await agent.up()
        await cloud.command("printer_control", "pause_print", timeout=5)
        await asyncio.sleep(0.3)  # it is the time that is tested
        await cloud.command("printer_control", "pause_print", timeout=5)
        assert [message.live for message in agent.commands] == [False, True]


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
