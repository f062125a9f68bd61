"""What the printer has to say arrives, in order, whatever the wire does."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker.backoff import Backoff
from printago_moonraker.cloud import Cloud
from printago_moonraker.errors import ConnectionLost
from printago_moonraker.printago import link as link_module
from printago_moonraker.printago import outbox as outbox_module
from printago_moonraker.printago import store as store_module
from printago_moonraker.printago.limits import PICTURE, Limits
from printago_moonraker.printago.login import Login
from printago_moonraker.printago.mqtt import Endpoint, Message
from printago_moonraker.printago.store import Record, Store
from tests.fakes.broker import PUBLISH, FakeBroker, Peer, fake_broker, proxy
from tests.fakes.mosquitto import free_port
from tests.printago.agent import TOPICS, Agent, numbers, running, served, stored
from tests.printago.sessions import attempt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.fakes.mosquitto import Mosquitto

pytestmark = pytest.mark.usefixtures("quick_retries")


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


async def test_pictures_go_first_when_there_is_no_more_room(endpoint: Callable[..., Endpoint]) -> None:
    """They can be asked for again; the events that they would push out cannot."""
    async with Store(None, Limits(outbox_bytes=500_000), trusted_time=lambda: None) as store:
        agent = Agent(endpoint("v"), store)
        for number in range(10):
            agent.number(number)
        for _ in range(8):
            agent.link.send("response", {"image": "x" * 100_000}, command={"id": "p"})
        for number in range(10, 130):
            agent.number(number)
        rows, _ = await agent.store.load(0, 1000, 10**9)
    kept = [json.loads(letter.payload) for _, letter in rows]
    assert [each["data"]["number"] for each in kept if each["type"] == "event"] == list(range(130))
    assert len([each for each in kept if each["type"] == "response"]) < 5


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
            assert len(agent.link._outbox) == outbox_module.WINDOW_ROWS


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


def refusing(
    code: int, published: list[str], *, kind: str = "event", times: int = 1, only: int | None = None
) -> Callable[[FakeBroker, Peer], Awaitable[None]]:
    """A broker that refuses the first envelope of `kind` (`only` that number), so many times, with an MQTT 5 reason
    code; it takes all others.
    """
    left = [code] * times

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        while True:
            packet = await peer.read()
            if packet.kind != PUBLISH:
                continue
            length = 2 + int.from_bytes(packet.body[:2], "big")
            mid, envelope = packet.body[length : length + 2], packet.body[packet.body.find(b"{") :]
            of_kind = packet.body[2:length] in (TOPICS.message(kind).encode(), kind.encode())
            if left and of_kind and only in (None, json.loads(envelope)["data"].get("number")):
                peer.write(bytes([0x40, 3]) + mid + bytes([left.pop()]))
            else:
                peer.write(bytes([0x40, 2]) + mid)
                published.append(str(json.loads(envelope)["data"]["number"]) if b"number" in envelope else "")

    return script


async def empty(store: Store) -> None:
    """Until nothing is left in the outbox."""
    async with asyncio.timeout(5):
        while (await store.of("v").load(0, 1, 1))[0]:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("code", [0x80, 0x83, 0x97])
async def test_a_refusal_that_may_pass_loses_nothing(code: int) -> None:
    """An envelope that a quota or some trouble of the broker's keeps out is sent again, in another session."""
    published: list[str] = []
    async with stored() as store, fake_broker(refusing(code, published)) as fake:
        async with running(Endpoint("127.0.0.1", fake.port, "v", tls=False), store) as agent:
            await agent.up()
            agent.number(1)
            await empty(store)
        assert "1" in published
        assert fake.connections == 2


@pytest.mark.parametrize("code", [0x87, 0x90, 0x99])
async def test_a_refusal_for_ever_is_told_once(code: int, caplog: pytest.LogCaptureFixture) -> None:
    """What the broker will never take is dropped, as it would hold up all that follows; once for each reason loudly."""
    published: list[str] = []
    async with stored() as store, fake_broker(refusing(code, published)) as fake:
        async with running(Endpoint("127.0.0.1", fake.port, "v", tls=False), store) as agent:
            await agent.up()
            agent.number(1)
            agent.number(2)
            await empty(store)
            agent.link._complain("the same")
            agent.link._complain("the same")
        assert [number for number in published if number] == ["2"]
        assert fake.connections == 1
    told = [
        each.getMessage() for each in caplog.records if "is dropped" in each.getMessage() and each.levelname == "ERROR"
    ]
    assert len(told) == 2
    assert "refuses the publication to printago/v/event" in told[0]


async def test_what_is_never_taken_holds_up_nothing_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that says "not now" to one envelope again and again, and takes others, gets the ones behind it."""
    monkeypatch.setattr(Backoff, "next", lambda *_: 0.01)
    published: list[str] = []
    script = refusing(0x80, published, times=100, only=1)
    async with stored() as store, fake_broker(script) as fake:
        async with running(Endpoint("127.0.0.1", fake.port, "v", tls=False), store) as agent:
            await agent.up()
            monkeypatch.setattr(agent.link, "_on_up", lambda: agent.link.send("pairing", {}) and None)
            agent.number(1)
            agent.number(2)
            await empty(store)
        assert [number for number in published if number] == ["2"]
        assert fake.connections in (link_module.FAILURES + 1, link_module.FAILURES + 2)
    assert f"took it in none of {link_module.FAILURES} sessions" in caplog.text


async def test_a_status_that_is_refused_costs_no_session(caplog: pytest.LogCaptureFixture) -> None:
    """A newer one comes anyway."""
    published: list[str] = []
    async with fake_broker(refusing(0x97, published, kind="status")) as fake:
        async with running(Endpoint("127.0.0.1", fake.port, "v", tls=False)) as agent:
            await agent.up()
            agent.link.send_status(lambda: {"number": 1})
            agent.link.send_status(lambda: {"number": 2})
            async with asyncio.timeout(5):
                while "2" not in published:  # noqa: ASYNC110 - the fake tells nobody
                    await asyncio.sleep(0.02)
        assert fake.connections == 1
    assert "Quota exceeded" in caplog.text


async def test_a_response_topic_that_is_refused_costs_no_session() -> None:
    """Whoever names one that the broker does not take gets the answer on the ordinary topic, and harms nobody else."""
    published: list[str] = []
    async with stored() as store, fake_broker(refusing(0x80, published, kind="theirs")) as fake:
        async with running(Endpoint("127.0.0.1", fake.port, "v", tls=False), store) as agent:
            await agent.up()
            agent.link.send("success", {"number": 1}, command={"id": "c"}, reply_to=(("theirs", b"c"),))
            agent.number(2)
            await empty(store)
        assert [number for number in published if number] == ["1", "2"]
        assert fake.connections == 1


async def test_no_answer_is_dropped_for_want_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are not stored as a rule are, when more of them wait than memory is meant to hold."""
    monkeypatch.setattr(link_module, "VOLATILE", 3)
    published: list[str] = []
    async with stored() as store:
        agent = Agent(Endpoint("127.0.0.1", free_port(), "v", tls=False), store)
        for number in range(10):
            agent.link.send("status", {"number": number}, command={"id": str(number)})
        rows, _ = await store.of("v").load(0, 100, 10**9)
        assert [letter.rank for _, letter in rows] == [
            PICTURE
        ] * 7  # they can be asked for again: no event goes for them
        async with fake_broker(refusing(0, published, kind="nothing")) as fake:
            agent.link._login = Login(lambda: Endpoint("127.0.0.1", fake.port, "v", tls=False))
            async with served(agent):
                await empty(store)
        assert [number for number in published if number] == [str(number) for number in range(10)]


async def test_a_pairing_comes_before_what_the_last_session_left() -> None:
    """Coming up, the agent says who it is before anything else, also when more answers wait than may be in flight."""
    published: list[str] = []
    async with stored() as store, fake_broker(refusing(0, published, kind="nothing")) as fake:
        agent = Agent(Endpoint("127.0.0.1", fake.port, "v", tls=False), store)
        for number in range(30):
            agent.link.send("status", {"number": number}, command={"id": str(number)})

        def come_up() -> None:
            agent.link.send("pairing", {"number": 99})
            agent.link.send_status(dict)

        agent.link._on_up = come_up
        async with served(agent), asyncio.timeout(5):
            while "29" not in published:  # noqa: ASYNC110 - the fake tells nobody
                await asyncio.sleep(0.02)
    assert published[:2] == ["", "99"]  # what comes first is the availability


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
    monkeypatch.setattr(outbox_module, "WINDOW_ROWS", 1)
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


@pytest.mark.parametrize("left", [5, 300], ids=["in the window", "more than the window"])
async def test_another_account_hears_nothing_that_was_said_before(
    endpoint: Callable[..., Endpoint], caplog: pytest.LogCaptureFixture, left: int
) -> None:
    """What waited for the account before is dropped before anything is sent, and that is said once; what is said from
    then on arrives.
    """
    mine, theirs = endpoint("v", username="mine"), endpoint("v", username="theirs")
    async with Cloud(endpoint("v"), TOPICS) as cloud, stored() as store, served(Agent(mine, store)) as agent:
        await agent.up()
        agent.number(0)
        await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 0)
        session = agent.link._session
        assert session is not None
        agent.link._login = Login(lambda: replace(mine, port=free_port()))
        session._fail(ConnectionLost("cut"))
        for number in range(left):
            agent.number(1 + number)
        agent.link._login = Login(lambda: theirs)
        await agent.up()
        agent.number(1000)
        await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 1000)
        assert numbers(cloud) == [0, 1000]
        agent.link._session._fail(ConnectionLost("cut"))  # type: ignore[union-attr]
        agent.number(1001)
        await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 1001)
    assert caplog.text.count("paired with another account") == 1


async def test_what_the_first_account_finds_is_its_own(endpoint: Callable[..., Endpoint]) -> None:
    """Never paired before, the agent has kept what happened: the first account ever hears of it."""
    async with Cloud(endpoint("v"), TOPICS) as cloud, stored() as store:
        agent = Agent(endpoint("v", username="mine"), store)
        agent.number(0)
        async with served(agent):
            await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 0)


async def test_an_account_is_settled_before_its_first_command(endpoint: Callable[..., Endpoint]) -> None:
    """A command that the broker has kept for the new account comes before the session is up: it stays known."""
    mine, theirs = endpoint("v", username="mine"), endpoint("v", username="theirs")
    async with stored() as store:
        agent = Agent(theirs, store)
        await agent.store.claim("mine")
        begun: list[asyncio.Future[Any]] = []

        def begin(message: Message) -> None:
            record = Record(f"id:{len(begun)}", "movement_control.home", {}, 1.0)
            begun.append(agent.store.begin(record))
            message.ack()

        agent.link._on_command = begin
        async with attempt(mine, TOPICS.commands), attempt(endpoint("cloud")) as cloud:
            await cloud.publish(TOPICS.commands, b"one")
        async with served(agent):
            await agent.up()
            async with asyncio.timeout(5):
                while not begun:  # noqa: ASYNC110 - it is there already, as a rule
                    await asyncio.sleep(0.01)
            assert [each.key for each in await agent.store.unfinished()] == ["id:0"]


async def test_what_comes_to_light_is_sent(endpoint: Callable[..., Endpoint]) -> None:
    """Envelopes that were found on a disk that had failed go out without waiting for the next start."""
    async with Cloud(endpoint("v"), TOPICS) as cloud, stored() as store, served(Agent(endpoint("v"), store)) as agent:
        await agent.up()
        agent.number(0)
        await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 0)
        letter = agent.link._writer.letter("event", {"event": "Message", "number": 1}, datetime.now(UTC))
        await agent.store.put_all([letter] * 100)  # behind the link's back
        store._merged()
        agent.number(2)
        await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 2)
        assert numbers(cloud) == [0, *[1] * 100, 2]


async def test_events_of_one_moment_are_kept_together(tmp_path: Path, endpoint: Callable[..., Endpoint]) -> None:
    """They arrive in their order, and what belongs to them is written in the same transaction, or nothing is."""
    async with (
        Cloud(endpoint("v"), TOPICS) as cloud,
        stored(tmp_path) as store,
        served(Agent(endpoint("v"), store)) as agent,
    ):
        await agent.up()
        events = [("Message", {"number": number}) for number in range(3)]
        agent.link.send_events(events, lambda connection: connection.execute("INSERT INTO jobs VALUES (NULL, 1)"))
        agent.link.send_events(events[1:], agent.store.job("here"))
        await cloud.wait_for(lambda envelope: envelope["data"]["number"] == 2)
        assert numbers(cloud) == [1, 2]
        assert await agent.store.load_job() == "here"
