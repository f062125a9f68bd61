"""Keeps one printer's MQTT session up, and sends what the printer has to say: in order, and at least once."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from printago_moonraker.errors import ConnectionLost, LinkError
from printago_moonraker.printago.mqtt import Endpoint, Message, MqttSession, Will, connect
from printago_moonraker.supervise import supervise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from printago_moonraker.backoff import Backoff
    from printago_moonraker.printago.envelope import EnvelopeCodec, Topics

logger = logging.getLogger(__name__)

OUTBOX_SIZE = 1000  # envelopes of about 0.5 kB: hours of events for a printer whose uplink is down
PROVED = 5.0  # seconds; an acknowledgement proves nothing where two agents share a client ID and throw each other out
GOODBYE = 2.0  # seconds that stopping may take

CONNECTED, DISCONNECTED = b"connected", b"disconnected"


@dataclass(frozen=True)
class _Letter:
    """An envelope on its way out. `terminal`: the answer to a command, which somebody waits for."""

    destinations: tuple[tuple[str, bytes | None], ...]  # topic, correlation data
    payload: bytes
    terminal: bool


class Link:
    """One printer's link to Printago. Everything but `run` is for the event loop's thread, and returns at once."""

    def __init__(
        self,
        endpoint: Endpoint,
        topics: Topics,
        codec: EnvelopeCodec,
        *,
        on_command: Callable[[Message], None],
        on_up: Callable[[], Awaitable[None] | None],
        name: str,
    ) -> None:
        self._endpoint = endpoint
        self._topics = topics
        self._codec = codec
        self._on_command = on_command
        self._on_up = on_up
        self._name = name
        self._session: MqttSession | None = None
        self._outbox: deque[_Letter] = deque()  # what this session has not been given yet
        self._unacknowledged: dict[int, _Letter] = {}  # what it has been given, in order, by serial number
        self._serial = count()
        self._in_flight = 0  # publications, to be kept within the session's window
        self._status: Callable[[], Any] | None = None  # makes the newest one, when there is one to send
        self._status_in_flight = False
        self._overflowing = False

    @property
    def up(self) -> bool:
        """Whether the broker has us connected, subscribed and announced as such."""
        return self._session is not None

    async def run(self) -> None:
        """For ever: connect, announce, call `on_up`, drain the outbox; again with a back-off when the session is lost.

        Cancel to stop: it says `disconnected` and disconnects, within 2 s. `on_up` is to be quick.
        """
        await supervise(self._name, self._attempt)

    def send(
        self,
        kind: str,
        data: Any,
        *,
        command: dict[str, str] | None = None,
        reply_to: Message | None = None,
    ) -> None:
        """Put an envelope of this moment into the outbox, where it stays until the broker has acknowledged it.

        `command` is the echo of the command it answers, `reply_to` that command's message: the answer goes also to its
        Response Topic. When the outbox is full, the oldest envelope that answers nobody goes.
        """
        payload = self._codec.encode(kind, data, at=datetime.now(UTC), command=command)
        destinations: list[tuple[str, bytes | None]] = [(self._topics.message(kind), None)]
        if reply_to is not None and reply_to.response_topic:
            destinations.append((reply_to.response_topic, reply_to.correlation_data))
        self._make_room()
        self._outbox.append(_Letter(tuple(destinations), payload, terminal=command is not None))
        self._drain()

    def send_status(self, build: Callable[[], Any]) -> None:
        """Publish a retained status, `build` being called when its turn comes; only the newest waits, none if down."""
        if self._session is not None:
            self._status = build
            self._drain()

    async def publish_frame(self, camera_name: str, jpeg: bytes) -> None:
        """Publish one frame with QoS 0, unless the link is down: nothing waits for the next session. Returns when it is
        sent, so that who waits for that never has two on the way.

        Raises ConnectionLost, ConnectionRefused for a frame that the broker does not take. Cancelling is safe.
        """
        if self._session is None:
            raise ConnectionLost("there is no connection to the broker.")
        await self._session.publish(self._topics.frames(camera_name), jpeg, qos=0, content_type="image/jpeg")

    # ----------------------------------------------------------------------------------------------------- one session

    async def _attempt(self, backoff: Backoff) -> None:
        will = Will(self._topics.availability, DISCONNECTED)
        async with connect(
            self._endpoint, subscriptions=[self._topics.commands], on_message=self._on_command, will=will
        ) as session:
            self._endpoint = replace(self._endpoint, protocol=session.protocol)  # 5 was refused once: not every time
            proved = asyncio.get_running_loop().call_later(PROVED, self._prove, session, backoff)
            try:
                await session.publish(self._topics.availability, CONNECTED, retain=True)
                self._log_up(session, logging.INFO if backoff.failures == 0 else logging.DEBUG)
                await self._serve(session)
            finally:
                proved.cancel()
                self._session = None
                self._status, self._status_in_flight, self._in_flight = None, False, 0
                self._outbox.extendleft(reversed(self._unacknowledged.values()))  # the next session sends them again
                self._unacknowledged.clear()
                await self._say_goodbye(session)  # no-one hears it on a broken session; the will says the same then

    async def _serve(self, session: MqttSession) -> None:
        self._session = session
        coming_up = self._on_up()
        if coming_up is not None:
            await coming_up
        self._drain()
        await session.wait_closed()

    async def _say_goodbye(self, session: MqttSession) -> None:
        try:
            async with asyncio.timeout(GOODBYE):
                await session.publish(self._topics.availability, DISCONNECTED, retain=True)
        except (LinkError, TimeoutError) as error:
            logger.debug("%s: no goodbye: %s", self._name, error)

    def _prove(self, session: MqttSession, backoff: Backoff) -> None:
        if backoff.failures:
            self._log_up(session, logging.INFO)
            backoff.reset()

    def _log_up(self, session: MqttSession, level: int) -> None:
        logger.log(level, "%s: connected to %s with MQTT %s", self._name, session.endpoint, session.protocol)

    # ------------------------------------------------------------------------------------------------------ the outbox

    def _make_room(self) -> None:
        if len(self._outbox) + len(self._unacknowledged) < OUTBOX_SIZE or not self._outbox:
            return
        if not self._overflowing:
            self._overflowing = True
            logger.warning("%s: %d envelopes wait for the broker; the oldest are dropped", self._name, OUTBOX_SIZE)
        oldest = next((index for index, letter in enumerate(self._outbox) if not letter.terminal), 0)
        del self._outbox[oldest]

    def _drain(self) -> None:
        """Publish as much as the session's window takes; each acknowledgement calls it again."""
        session = self._session
        if session is None:
            return
        self._drain_status(session)
        while self._outbox and self._in_flight < session.window:
            letter = self._outbox.popleft()
            serial = next(self._serial)
            self._unacknowledged[serial] = letter
            missing: set[asyncio.Future[None]] = set()
            for topic, correlation in letter.destinations:
                future = session.publish(topic, letter.payload, correlation_data=correlation)
                missing.add(future)
                future.add_done_callback(partial(self._acknowledged, session, serial, missing))
            self._in_flight += len(missing)

    def _drain_status(self, session: MqttSession) -> None:
        if self._status is None or self._status_in_flight or self._in_flight >= session.window:
            return
        build, self._status = self._status, None
        payload = self._codec.encode("status", build(), at=datetime.now(UTC))
        self._status_in_flight = True
        self._in_flight += 1
        session.publish(self._topics.message("status"), payload, retain=True).add_done_callback(
            partial(self._status_acknowledged, session)
        )

    def _acknowledged(
        self, session: MqttSession, serial: int, missing: set[asyncio.Future[None]], future: asyncio.Future[None]
    ) -> None:
        if self._was_settled(session, future):
            missing.discard(future)
            if not missing:
                del self._unacknowledged[serial]
                self._overflowing = self._overflowing and len(self._outbox) > OUTBOX_SIZE // 2
            self._drain()

    def _status_acknowledged(self, session: MqttSession, future: asyncio.Future[None]) -> None:
        if self._was_settled(session, future):
            self._status_in_flight = False
            self._drain()

    def _was_settled(self, session: MqttSession, future: asyncio.Future[None]) -> bool:
        """Whether the broker has decided on it; if the session is gone, the next one sends it again."""
        error = future.exception()
        if session is not self._session or isinstance(error, ConnectionLost):
            return False
        self._in_flight -= 1
        if error is not None:  # sending it again would be refused again, and hold up what is behind it
            logger.warning("%s: an envelope is dropped: %s", self._name, error)
        return True
