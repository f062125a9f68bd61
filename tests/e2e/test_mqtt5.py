"""What MQTT 5 itself gives: Response Topic, Correlation Data, message expiry, content type, a will that waits."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.e2e.farm import PRINTER_ID, Farm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

COMMANDS = f"printago/{PRINTER_ID}/commands"
AVAILABILITY = f"printago/{PRINTER_ID}/availability"
WILL_DELAY = 10.0  # s


class Raw:
    """A plain client of the broker, which sees each message with its properties, and when it came."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._subscribed = asyncio.Event()
        self.messages: list[MQTTMessage] = []
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_message = lambda _c, _u, message: self._call(lambda: self._take(message))
        self.client.on_subscribe = lambda *_: self._call(self._subscribed.set)

    def _call(self, function: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(function)  # paho calls from a thread of its own

    def _take(self, message: MQTTMessage) -> None:
        self.messages.append(message)
        self._news.set()

    def send(self, name: str, id: str, *, expiry: int | None = None, reply: str = "", **parameters: Any) -> None:  # noqa: A002
        """A command of that ID; `expiry` in s, `reply` its Response Topic, the ID backwards its Correlation Data."""
        kind, _, action = name.partition(".")
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if expiry is not None:
            properties.MessageExpiryInterval = expiry
        if reply:
            properties.ResponseTopic, properties.CorrelationData = reply, id[::-1].encode()
        command = {"type": kind, "action": action, "parameters": parameters, "id": id}
        self.client.publish(COMMANDS, json.dumps(command), qos=1, properties=properties)

    async def until(self, holds: Callable[[list[MQTTMessage]], object], timeout: float = 15.0) -> None:
        async with asyncio.timeout(timeout):
            while not holds(self.messages):
                self._news.clear()
                await self._news.wait()

    async def on(self, topic: str) -> MQTTMessage:
        """The first message on that topic."""
        await self.until(lambda messages: any(each.topic == topic for each in messages))
        return next(each for each in self.messages if each.topic == topic)

    def availability(self) -> list[bytes]:
        return [bytes(each.payload) for each in self.messages if each.topic == AVAILABILITY]


@asynccontextmanager
async def raw_client(port: int) -> AsyncIterator[Raw]:
    raw = Raw()
    raw.client.connect("127.0.0.1", port)
    raw.client.loop_start()
    try:
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        raw.client.subscribe("#", options=options)
        async with asyncio.timeout(5):
            await raw._subscribed.wait()
        yield raw
    finally:
        raw.client.disconnect()
        raw.client.loop_stop()


@pytest_asyncio.fixture(loop_scope="module")
async def raw(farm: Farm) -> AsyncIterator[Raw]:
    async with raw_client(farm.broker.port) as client:
        yield client


def kept(message: MQTTMessage) -> dict[str, Any]:
    """The envelope in a message, which says that it is JSON."""
    assert message.properties is not None
    assert getattr(message.properties, "ContentType", None) == "application/json"
    envelope: dict[str, Any] = json.loads(message.payload)
    return envelope


@pytest.mark.parametrize(
    ("name", "parameters", "kind"),
    [
        ("temperature_control.set_bed", {"temperature": 41}, "success"),
        ("temperature_control.set_bed", {"temperature": 999}, "error"),
        ("camera_control.get_providers", {}, "response"),
        ("printer_control.get_status", {}, "status"),
    ],
)
async def test_an_answer_goes_to_the_response_topic_too(
    raw: Raw, name: str, parameters: dict[str, Any], kind: str
) -> None:
    """With the command's Correlation Data, and the same as on the printer's own topic."""
    raw.send(name, f"r-{kind}", reply="somebody/answers", **parameters)
    there = await raw.on("somebody/answers")
    envelope = kept(there)
    assert getattr(there.properties, "CorrelationData", None) == f"r-{kind}"[::-1].encode()
    assert (envelope["type"], envelope["command"]["id"]) == (kind, f"r-{kind}")
    own = f"printago/{PRINTER_ID}/{kind}"
    await raw.until(lambda messages: any(each.topic == own and each.payload == there.payload for each in messages))


async def test_without_a_response_topic_there_is_one_answer(raw: Raw) -> None:
    """The answer is on the printer's topic, once, and has no Correlation Data."""
    raw.send("temperature_control.set_bed", "r-1", temperature=42)
    answer = await raw.on(f"printago/{PRINTER_ID}/success")
    assert kept(answer)["command"]["id"] == "r-1"
    assert not hasattr(answer.properties, "CorrelationData")
    raw.send("camera_control.get_providers", "r-2")  # its answer is stored, and comes after all before it
    await raw.until(lambda messages: any(b'"r-2"' in each.payload and each.topic != COMMANDS for each in messages))
    assert len([each for each in raw.messages if b'"r-1"' in each.payload and each.topic != COMMANDS]) == 1


async def test_every_envelope_says_what_it_is(farm: Farm, raw: Raw) -> None:
    """Statuses, events, answers and pairing have the content type `application/json`, each on its type's topic."""
    await farm.store("types.gcode", "M117 x\n")
    raw.send("printer_control.start_print", "t-1", file_name="types.gcode")
    await farm.event("PrintDone")
    raw.send("temperature_control.set_bed", "t-2", temperature=999)
    raw.send("camera_control.get_providers", "t-3")
    raw.send("printer_control.get_status", "t-4")
    kinds = {"status", "event", "success", "error", "response"}
    for kind in kinds:
        await raw.on(f"printago/{PRINTER_ID}/{kind}")
    await farm.end_agent()
    await farm.start_agent()
    await raw.on(f"printago/{PRINTER_ID}/pairing")
    envelopes = [each for each in raw.messages if each.topic not in (COMMANDS, AVAILABILITY)]
    assert {each.topic.rpartition("/")[2] for each in envelopes} == kinds | {"pairing"}
    for each in envelopes:
        assert kept(each)["type"] == each.topic.rpartition("/")[2]
    texts = [each for each in raw.messages if each.topic == AVAILABILITY]
    assert {each.payload for each in texts} >= {b"connected", b"disconnected"}
    assert not any(hasattr(each.properties, "ContentType") for each in texts), "the availability is no JSON"


async def test_a_command_that_expires_at_the_broker_is_never_delivered(farm: Farm, raw: Raw) -> None:
    """Sent while the agent was away, and older than it may be: the broker itself drops it. One that may be is kept."""
    assert await farm.end_agent(signal.SIGKILL) == -signal.SIGKILL
    raw.send("temperature_control.set_bed", "x-short", expiry=1, temperature=43)
    raw.send("temperature_control.set_bed", "x-long", expiry=60, temperature=44)
    await raw.until(lambda messages: b'"x-long"' in b"".join(each.payload for each in messages))
    await asyncio.sleep(2.5)  # this is what the test is about: the broker counts whole seconds
    await farm.start_agent()
    answer = await farm.wait_for(lambda envelope: envelope.get("command", {}).get("id") == "x-long")
    # It may come before the printer is in sight: then it is refused.
    assert answer["type"] == "success" or answer["data"]["code"] in ("printer_offline", "printer_not_ready"), answer
    await farm.settled()
    assert not [each for each in farm.envelopes if each.get("command", {}).get("id") == "x-short"]
    lines = [line for line in await farm.received() if "HEATER=heater_bed" in line]
    assert [line.rpartition("=")[2] for line in lines] == ["44"] * (answer["type"] == "success")


async def test_a_command_that_expires_while_it_waits(farm: Farm, raw: Raw) -> None:
    """Behind a long one its time runs out: it is `expired`, and never reaches Klipper."""
    await farm.printer.control("stall", stalled=True)
    try:
        raw.send("movement_control.home", "w-long")
        raw.send("temperature_control.set_bed", "w-short", expiry=3, temperature=45)
        await raw.until(lambda messages: b'"w-short"' in b"".join(each.payload for each in messages))
        await asyncio.sleep(3.5)  # longer than it may take
    finally:
        await farm.printer.control("stall", stalled=False)
    answer = await farm.wait_for(lambda envelope: envelope.get("command", {}).get("id") == "w-short")
    assert (answer["type"], answer["data"].get("code")) == ("error", "expired"), answer
    homed = await farm.wait_for(lambda envelope: envelope.get("command", {}).get("id") == "w-long")
    assert homed["type"] == "success"
    assert not [line for line in await farm.received() if "TARGET=45" in line]


async def test_a_blip_is_not_an_outage(farm: Farm, raw: Raw) -> None:
    """An agent that is back before the will's delay is over was never `disconnected`."""
    begun = time.monotonic()
    assert await farm.end_agent(signal.SIGKILL) == -signal.SIGKILL
    await farm.start_agent()
    assert time.monotonic() - begun < WILL_DELAY
    await raw.until(lambda _: raw.availability())
    await asyncio.sleep(begun + WILL_DELAY + 1.0 - time.monotonic())  # past when the will would have spoken
    assert raw.availability() == [b"connected"]


async def test_the_will_speaks_after_its_delay(farm: Farm, raw: Raw) -> None:
    """Of an agent that stays away the broker says `disconnected`, ten seconds later, retained."""
    begun = time.monotonic()
    assert await farm.end_agent(signal.SIGKILL) == -signal.SIGKILL
    await raw.until(lambda _: raw.availability(), timeout=WILL_DELAY + 10.0)
    assert raw.availability() == [b"disconnected"]
    assert WILL_DELAY - 1.0 <= time.monotonic() - begun <= WILL_DELAY + 5.0
    await farm.cloud.wait_available("disconnected")
