"""The cloud's side: publishes commands and remembers every envelope, with a persistent session of its own that goes
through no fault. A client of paho's own, so that the judge shares no code with the judged.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import TYPE_CHECKING, Any, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

if TYPE_CHECKING:
    from collections.abc import Callable

Envelope = dict[str, Any]
TERMINAL = frozenset({"success", "error", "response", "status"})


@dataclass(frozen=True)
class Received:
    """One envelope that is unlike all before it: `at` is the wall clock's time of its arrival."""

    at: float
    envelope: Envelope

    @property
    def said(self) -> str:
        """Its own time, RFC 3339."""
        return str(self.envelope["timestamp"])

    @property
    def event(self) -> str | None:
        return str(self.envelope["data"]["event"]) if self.envelope["type"] == "event" else None

    @property
    def job_id(self) -> str | None:
        return self.envelope["data"].get("job_id") if self.envelope["type"] == "event" else None

    @property
    def answers(self) -> str | None:
        """The ID of the command that it answers."""
        terminal = self.envelope["type"] in TERMINAL and "command" in self.envelope
        return self.envelope["command"].get("id") if terminal else None


class Recorder:
    """A context manager. `received` holds each distinct envelope once but for statuses that answer nobody, `doubles`
    counts how often one came again (at least once is what MQTT promises), `answered` all terminal answers; `rubbish` is
    what was no envelope.
    """

    def __init__(self, port: int, printer_id: str) -> None:
        self.received: list[Received] = []
        self.doubles = 0
        self.answered = 0
        self.rubbish: list[bytes] = []
        self.availability = ""
        self.last_status: Envelope = {}
        self.subscribed = False
        self._printer_id = printer_id
        self._port = port
        self._seen: set[bytes] = set()
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._client = Client(
            CallbackAPIVersion.VERSION2, "recorder", clean_session=False, protocol=MQTTProtocolVersion.MQTTv311
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.max_queued_messages_set(0)
        self._client.on_socket_open = _on_socket_open
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._call(self._note_subscribed)
        self._client.on_disconnect = lambda *_: self._call(self._note_lost)
        self._client.on_message = self._on_message

    async def __aenter__(self) -> Self:
        self._client.connect_async("127.0.0.1", self._port, keepalive=5)
        self._client.loop_start()
        await self.until(lambda: self.subscribed)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def publish(self, command: Envelope) -> None:
        """QoS 1, when the broker is there: paho keeps it until then."""
        self.publish_raw(json.dumps(command).encode())

    def publish_raw(self, payload: bytes) -> None:
        """Any bytes on the command topic."""
        self._client.publish(f"printago/{self._printer_id}/commands", payload, qos=1)

    async def until(self, condition: Callable[[], object], timeout: float = 20.0) -> bool:
        """Wait until what came fulfils `condition`, which is looked at after each envelope and every 50 ms; False
        after `timeout` s.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._news.clear()
            try:
                async with asyncio.timeout(0.05):
                    await self._news.wait()
            except TimeoutError:
                pass
        return True

    def answers(self, id: str) -> list[Received]:  # noqa: A002 - the member's name
        return [each for each in self.received if each.answers == id]

    def events(self, job_id: str) -> list[Received]:
        return [each for each in self.received if each.job_id == job_id]

    # paho's thread

    def _on_connect(self, client: Client, *_: object) -> None:
        client.subscribe(f"printago/{self._printer_id}/+", qos=1)

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        self._call(self._take, message.topic.rpartition("/")[2], bytes(message.payload), time.time())

    def _call(self, function: Callable[..., None], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    # the loop's thread

    def _note_subscribed(self) -> None:
        self.subscribed = True

    def _note_lost(self) -> None:
        self.subscribed = False

    def _take(self, topic: str, payload: bytes, at: float) -> None:
        self._news.set()
        if topic == "commands":
            return
        if topic == "availability":
            self.availability = payload.decode()
            return
        try:
            envelope = json.loads(payload)
            kind = envelope["type"]
        except (ValueError, LookupError, TypeError):
            self.rubbish.append(payload[:200])
            return
        self.answered += kind in TERMINAL and "command" in envelope
        if kind == "status" and "command" not in envelope:
            self.last_status = envelope
        elif payload in self._seen:
            self.doubles += 1
        else:
            self._seen.add(payload)
            self.received.append(Received(at, envelope))


def _on_socket_open(_client: Client, _userdata: object, sock: Any) -> None:
    """paho leaves Nagle's algorithm on, which would add 40 ms to each command."""
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
