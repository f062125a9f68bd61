"""Keeps one printer's MQTT session up, and sends what the printer has to say: in order, and at least once.

What must not be lost is in the store before it is sent, and leaves it when the broker has acknowledged it. Only a
window of it is in memory: a farm's outage may be long.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from printago_moonraker.errors import ConfigError, ConnectionLost, LinkError, LoginRefused, NotPaired
from printago_moonraker.printago.mqtt import Endpoint, Message, MqttSession, Will, connect
from printago_moonraker.printago.pairing import advice
from printago_moonraker.printago.writer import STORED, Writer
from printago_moonraker.supervise import supervise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from printago_moonraker.backoff import Backoff
    from printago_moonraker.printago.envelope import EnvelopeCodec, Topics
    from printago_moonraker.printago.login import Login
    from printago_moonraker.printago.store import Destinations, Letter, PrinterStore, Write

logger = logging.getLogger(__name__)

WINDOW_ROWS, WINDOW_BYTES = 64, 256 * 1024  # of the outbox in memory; the rest waits in the store
VOLATILE = 100  # answers that are not stored, while they wait for the session's window
PROVED = 5.0  # seconds; an acknowledgement proves nothing where two agents share a client ID and throw each other out
BACKLOG = 5.0  # seconds at the beginning of a session in which what the broker has kept for us arrives
GOODBYE = 2.0  # seconds that stopping may take

CONNECTED, DISCONNECTED = b"connected", b"disconnected"


@dataclass(eq=False)
class _Outgoing:
    """An envelope in memory. `number` is the store's, None for what is not kept; `answers`: somebody waits for it."""

    destinations: Destinations
    payload: bytes
    number: int | None
    answers: bool = True


class Link:
    """One printer's link to Printago. Everything but `run` is for the event loop's thread, and returns at once."""

    def __init__(
        self,
        login: Login,
        topics: Topics,
        codec: EnvelopeCodec,
        store: PrinterStore,
        *,
        on_command: Callable[[Message], None],
        on_up: Callable[[], Awaitable[None] | None],
        name: str,
    ) -> None:
        self._login = login
        self._protocol: str | None = None  # that the broker has agreed to
        self._told = ""  # what is wrong with the credentials
        self._topics = topics
        self._codec = codec
        self._writer = Writer(codec, topics)
        self._store = store
        self._on_command = on_command
        self._on_up = on_up
        self._name = name
        self._session: MqttSession | None = None
        self._up_since = 0.0  # on the loop's clock
        self._volatile: deque[_Outgoing] = deque()  # what is not stored and waits for the session's window
        self._window: deque[_Outgoing] = deque()  # what is stored and comes next
        self._unacknowledged: dict[_Outgoing, None] = {}  # what this session has been given, in order
        self._read = 0  # the number up to which the outbox is, or was, in the window
        self._newest: int | None = None  # the highest number in the outbox; unknown until it is first looked into
        self._loading = False
        self._outdated = False  # what is being loaded was for another account
        self._storing = 0
        self._in_flight = 0  # publications, to be kept within the session's window
        self._status: Callable[[], Any] | None = None  # makes the newest one, when there is one to send
        self._status_in_flight = False
        self._idle = asyncio.Event()
        store.on_found = self._look_again

    @property
    def up(self) -> bool:
        """Whether the broker has us connected, subscribed and announced as such."""
        return self._session is not None

    async def run(self) -> None:
        """For ever: connect, announce, call `on_up`, drain the outbox; again with a back-off when the session is lost.

        Cancel to stop: what is in the outbox goes out, it says `disconnected` and disconnects, within 4 s in all.
        `on_up` is to be quick.
        """
        if self._newest is None and not self._loading:
            self._load()
        await supervise(self._name, self._attempt, pause=self._login.pause)

    def send(
        self,
        kind: str,
        data: Any,
        *,
        command: dict[str, str] | None = None,
        reply_to: Message | Destinations | None = None,
        also: Write | None = None,
        at: datetime | None = None,
    ) -> asyncio.Future[list[int]] | None:
        """Put an envelope of this moment (or of `at`) into the outbox, where it stays until the broker has acknowledged
        it. Statuses and pairings are not stored: what is old of them is of no use; then the result is None. Else it is
        done when the envelope is on the disk, with what `also` writes in the same transaction.

        `command` is the echo of the command it answers, `reply_to` that command's message, or where else it shall go:
        the answer goes also to its Response Topic.
        """
        letter = self._writer.letter(kind, data, at or datetime.now(UTC), command=command, reply_to=reply_to)
        if kind in STORED:
            return self._keep([letter], also)
        self._volatile.append(_Outgoing(letter.destinations, letter.payload, None, answers=command is not None))
        while len(self._volatile) > VOLATILE:
            self._volatile.popleft()
        self._drain()
        return None

    def send_events(self, events: Iterable[tuple[str, dict[str, Any]]], also: Write | None = None) -> None:
        """Put events of this moment, by name and payload, into the outbox: with what `also` writes, all of them are on
        the disk or none is.
        """
        at = datetime.now(UTC)
        self._keep([self._writer.letter("event", {"event": name, **payload}, at) for name, payload in events], also)

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
        """One session, from its beginning to its end."""
        with self._told_once(backoff):
            await self._one_session(self._login.endpoint(), backoff)

    @contextmanager
    def _told_once(self, backoff: Backoff) -> Iterator[None]:
        """That the credentials are no good will not pass by itself: it is said also in the middle of a spell of other
        failures, of which `supervise` tells only the first.
        """
        try:
            yield
        except (NotPaired, LoginRefused, ConfigError) as error:
            complaint = type(error)(f"{str(error).rstrip('.')}. {advice(error)}".rstrip(". "))
            if backoff.failures and str(error) != self._told:
                logger.warning("%s: %s", self._name, complaint)
            self._told = str(error)
            raise complaint from error

    async def _one_session(self, endpoint: Endpoint, backoff: Backoff) -> None:
        endpoint = replace(endpoint, protocol=self._protocol or endpoint.protocol)  # 5 was refused once: not every time
        will = Will(self._topics.availability, DISCONNECTED)
        # Whom the printer belongs to is settled once the broker has let us in, and before anything passes.
        claim = cache(partial(self._claim, endpoint.username or ""))

        def receive(message: Message) -> None:
            claim()
            self._receive(message)

        async with connect(endpoint, subscriptions=[self._topics.commands], on_message=receive, will=will) as session:
            await claim()
            self._protocol = session.protocol
            proved = asyncio.get_running_loop().call_later(PROVED, self._prove, session, backoff)
            try:
                await session.publish(self._topics.availability, CONNECTED, retain=True)
                self._log_up(session, logging.INFO if backoff.failures == 0 else logging.DEBUG)
                await self._serve(session)
            except asyncio.CancelledError:
                await self._empty_the_outbox()
                raise
            finally:
                proved.cancel()
                self._end_session()
                await self._say_goodbye(session)  # no-one hears it on a broken session; the will says the same then

    def _receive(self, message: Message) -> None:
        since = asyncio.get_running_loop().time() - self._up_since
        live = self.up and since > BACKLOG and not (message.dup or message.retain)
        self._on_command(replace(message, live=live))

    async def _serve(self, session: MqttSession) -> None:
        self._told = ""
        self._session, self._up_since = session, asyncio.get_running_loop().time()
        coming_up = self._on_up()
        if coming_up is not None:
            await coming_up
        self._drain()
        await self._end_of(session)

    async def _end_of(self, session: MqttSession) -> None:
        """Returns never; raises what ended the session, or ConnectionLost when the credentials are others now."""
        while not self._login.has_changed():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._login.look):
                    await session.wait_closed()
        raise ConnectionLost("the credentials have changed.")

    async def _empty_the_outbox(self) -> None:
        """The last words shall not wait in the store for the next start."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE):
                while self._session is not None and not self._is_idle():
                    self._idle.clear()
                    await self._idle.wait()

    def _is_idle(self) -> bool:
        """Whether all that was said is with the broker."""
        waiting = self._storing or self._loading or self._volatile or self._window or self._unacknowledged
        return not waiting and self._read >= (self._newest or 0)

    def _end_session(self) -> None:
        self._session = None
        self._status, self._status_in_flight, self._in_flight = None, False, 0
        again, self._unacknowledged = list(self._unacknowledged), {}  # the next session sends them again
        self._window.extendleft(reversed([each for each in again if each.number is not None]))
        self._volatile.extendleft(reversed([each for each in again if each.number is None]))
        self._volatile = deque(each for each in self._volatile if each.answers)  # `on_up` pairs anew

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

    def _stored(self, letters: list[Letter], future: asyncio.Future[list[int]]) -> None:
        """Envelopes are on the disk. Each comes into the window when it is the next, and when there is room."""
        self._storing -= 1
        if future.cancelled() or future.exception() is not None:
            logger.error("%s: an envelope could not be stored: %s", self._name, future)
            self._wake()
            return
        for number, letter in zip(future.result(), letters, strict=True):
            caught_up, self._newest = self._newest is not None and self._read >= self._newest, number
            if caught_up and len(self._window) < WINDOW_ROWS and not self._loading:
                self._read = number
                self._window.append(_Outgoing(letter.destinations, letter.payload, number))
        self._drain()

    def _keep(self, letters: list[Letter], also: Write | None) -> asyncio.Future[list[int]]:
        self._storing += 1
        stored = self._store.put_all(letters, also)
        stored.add_done_callback(partial(self._stored, letters))
        return stored

    def _claim(self, account: str) -> asyncio.Future[bool]:
        claimed = self._store.claim(account)
        claimed.add_done_callback(partial(self._claimed, list(self._volatile)))
        return claimed

    def _claimed(self, waiting: list[_Outgoing], future: asyncio.Future[bool]) -> None:
        """When the printer is another account's now, what was in memory for the one before goes, too."""
        if future.cancelled() or future.exception() is not None or not future.result():
            return
        logger.warning("%s: paired with another account: what was kept for the one before is dropped", self._name)
        self._volatile = deque(each for each in self._volatile if each not in waiting)
        self._window.clear()
        self._read, self._newest, self._outdated = 0, None, self._loading
        if not self._loading:
            self._load()

    def _look_again(self) -> None:
        """There may be more in the outbox than was put there here."""
        self._newest = max(self._newest or 0, self._read + 1)
        self._drain()

    def _load(self) -> None:
        """Read the next of the outbox into the window."""
        self._loading = True
        rows = WINDOW_ROWS - len(self._window)
        self._store.load(self._read, rows, WINDOW_BYTES).add_done_callback(self._loaded)

    def _loaded(self, future: asyncio.Future[tuple[list[tuple[int, Letter]], int]]) -> None:
        self._loading = False
        if future.cancelled():
            return
        if self._outdated:
            self._outdated = False
            self._load()
            return
        found, highest = future.result()
        for number, letter in found:
            self._window.append(_Outgoing(letter.destinations, letter.payload, number))
            self._read = number
        self._newest = max(self._newest or 0, highest)
        if not found:  # whatever was there is gone, for want of room
            self._read = self._newest
        self._drain()

    def _drain(self) -> None:
        """Publish as much as the session's window takes; each acknowledgement calls it again."""
        session = self._session
        if session is not None:
            self._drain_status(session)
            for queue in (self._volatile, self._window):
                while queue and self._in_flight < session.window:
                    self._publish(session, queue.popleft())
        if len(self._window) <= WINDOW_ROWS // 2 and self._read < (self._newest or 0) and not self._loading:
            self._load()
        self._wake()

    def _wake(self) -> None:
        if self._is_idle():
            self._idle.set()

    def _publish(self, session: MqttSession, outgoing: _Outgoing) -> None:
        self._unacknowledged[outgoing] = None
        missing: set[asyncio.Future[None]] = set()
        for topic, correlation in outgoing.destinations:
            future = session.publish(topic, outgoing.payload, correlation_data=correlation)
            missing.add(future)
            future.add_done_callback(partial(self._acknowledged, session, outgoing, missing))
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
        self,
        session: MqttSession,
        outgoing: _Outgoing,
        missing: set[asyncio.Future[None]],
        future: asyncio.Future[None],
    ) -> None:
        if self._was_settled(session, future):
            missing.discard(future)
            if not missing:
                del self._unacknowledged[outgoing]
                if outgoing.number is not None:
                    self._store.remove([outgoing.number])
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
