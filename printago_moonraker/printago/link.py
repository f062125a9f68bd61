"""Keeps one printer's MQTT session up, and sends what the printer has to say: in order, and at least once.

What must not be lost is in the outbox before it is sent, and leaves it when the broker has acknowledged it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from printago_moonraker.errors import ConfigError, ConnectionLost, LinkError, LoginRefused, NotPaired
from printago_moonraker.printago.answers import NotNow
from printago_moonraker.printago.backlog import Backlog
from printago_moonraker.printago.limits import PICTURE
from printago_moonraker.printago.mqtt import Endpoint, Message, MqttSession, Will, connect
from printago_moonraker.printago.outbox import Outbox, Outgoing
from printago_moonraker.printago.pairing import advice
from printago_moonraker.printago.writer import STORED, Writer
from printago_moonraker.supervise import supervise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from printago_moonraker.backoff import Backoff
    from printago_moonraker.printago.envelope import EnvelopeCodec, Topics
    from printago_moonraker.printago.login import Login
    from printago_moonraker.printago.store import Destinations, PrinterStore, Write

logger = logging.getLogger(__name__)

VOLATILE = 100  # answers that wait in memory for the session's window; what comes on top waits in the store
PROVED = 5.0  # seconds; an acknowledgement proves nothing where two agents share a client ID and throw each other out
COMPLAINTS = 50  # that are remembered
# Sessions that one envelope may end, by a refusal or, being bulky (bytes), by a broker that hangs up on it, while the
# broker takes others. What is behind it must not wait for ever.
FAILURES, BULKY = 5, 16 * 1024
GOODBYE = 2.0  # seconds that stopping may take

CONNECTED, DISCONNECTED = b"connected", b"disconnected"


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
        self._backlog = Backlog()
        self._complaints: set[str] = set()  # what has been said of envelopes that nobody takes
        self._volatile: deque[Outgoing] = deque()  # what is not stored and waits for the session's window
        self._outbox = Outbox(store, name, self._drain)
        self._unacknowledged: dict[Outgoing, None] = {}  # what this session has been given, in order
        self._in_flight = 0  # publications, to be kept within the session's window
        self._taken = False  # whether the broker has taken anything in this session
        self._status: Callable[[], Any] | None = None  # makes the newest one, when there is one to send
        self._status_in_flight = False
        self._idle = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether the broker has us connected, subscribed and announced as such."""
        return self._session is not None

    async def run(self) -> None:
        """For ever: connect, announce, call `on_up`, drain the outbox; again with a back-off when the session is lost.

        Cancel to stop: what is in the outbox goes out, it says `disconnected` and disconnects, within 4 s in all.
        `on_up` is to be quick.
        """
        self._outbox.open()
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
        it. Statuses and pairings are not stored: what is old of them is of no use; then the result is None. (But for
        answers of which there are more than may wait in memory: somebody waits for each.) Else it is done when the
        envelope is on the disk, with what `also` writes in the same transaction.

        `command` is the echo of the command it answers, `reply_to` that command's message, or where else it shall go:
        the answer goes also to its Response Topic.
        """
        letter = self._writer.letter(kind, data, at or datetime.now(UTC), command=command, reply_to=reply_to)
        answers = command is not None
        if kind in STORED:
            return self._outbox.put([letter], also)
        if answers and len(self._volatile) >= VOLATILE:
            return self._outbox.put([replace(letter, rank=PICTURE)], also)  # it can be asked for again
        outgoing = Outgoing(letter.destinations, letter.payload, None, answers)
        if answers:
            self._volatile.append(outgoing)
        else:  # a pairing: who speaks is told first, and as it is now
            self._volatile = deque([outgoing, *(each for each in self._volatile if each.answers)])
        self._drain()
        return None

    def send_events(self, events: Iterable[tuple[str, dict[str, Any]]], also: Write | None = None) -> None:
        """Put events of this moment, by name and payload, into the outbox: with what `also` writes, all of them are on
        the disk or none is.
        """
        at = datetime.now(UTC)
        letters = [self._writer.letter("event", {"event": name, **payload}, at) for name, payload in events]
        self._outbox.put(letters, also)

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
        self._backlog = Backlog()
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
                await session.publish(self._topics.availability, CONNECTED, retain=True, content_type=None)
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
        self._on_command(self._backlog.judge(message))

    async def _serve(self, session: MqttSession) -> None:
        self._told = ""
        self._session = session
        backlog = asyncio.create_task(self._backlog.outlast(session))
        try:
            coming_up = self._on_up()
            if coming_up is not None:
                await coming_up
            self._drain()
            await self._end_of(session)
        finally:
            backlog.cancel()
            await asyncio.wait([backlog])

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
        return self._outbox.is_empty and not (self._volatile or self._unacknowledged)

    def _end_session(self) -> None:
        self._session = None
        oldest = next(iter(self._unacknowledged), None)
        if self._taken and oldest is not None and len(oldest.payload) > BULKY:
            oldest.failures += 1
        self._status, self._status_in_flight, self._in_flight, self._taken = None, False, 0, False
        again, self._unacknowledged = list(self._unacknowledged), {}  # the next session sends them again
        self._outbox.give_back(each for each in again if each.number is not None)
        self._volatile.extendleft(reversed([each for each in again if each.number is None]))
        self._volatile = deque(each for each in self._volatile if each.answers)  # `on_up` pairs anew

    async def _say_goodbye(self, session: MqttSession) -> None:
        try:
            async with asyncio.timeout(GOODBYE):
                await session.publish(self._topics.availability, DISCONNECTED, retain=True, content_type=None)
        except (LinkError, TimeoutError) as error:
            logger.debug("%s: no goodbye: %s", self._name, error)

    def _prove(self, session: MqttSession, backoff: Backoff) -> None:
        if backoff.failures:
            self._log_up(session, logging.INFO)
            backoff.reset()

    def _log_up(self, session: MqttSession, level: int) -> None:
        logger.log(level, "%s: connected to %s with MQTT %s", self._name, session.endpoint, session.protocol)

    # ------------------------------------------------------------------------------------------------------ the outbox

    def _claim(self, account: str) -> asyncio.Future[bool]:
        claimed = self._store.claim(account)
        claimed.add_done_callback(partial(self._claimed, list(self._volatile)))
        return claimed

    def _claimed(self, waiting: list[Outgoing], future: asyncio.Future[bool]) -> None:
        """When the printer is another account's now, what was in memory for the one before goes, too."""
        if future.cancelled() or future.exception() is not None or not future.result():
            return
        logger.warning("%s: paired with another account: what was kept for the one before is dropped", self._name)
        self._volatile = deque(each for each in self._volatile if each not in waiting)
        self._outbox.begin_anew()

    def _drain(self) -> None:
        """Publish as much as the session's window takes; each acknowledgement calls it again."""
        session = self._session
        if session is not None:
            self._drain_status(session)
            while self._volatile and self._in_flight < session.window:
                self._publish(session, self._volatile.popleft())
            while self._outbox and self._in_flight < session.window:
                self._publish(session, self._outbox.take())
        self._outbox.refill()
        if self._is_idle():
            self._idle.set()

    def _publish(self, session: MqttSession, outgoing: Outgoing) -> None:
        if outgoing.failures >= FAILURES:
            self._complain(f"the broker took it in none of {FAILURES} sessions ({len(outgoing.payload)} bytes)")
            self._outbox.done(outgoing)
            return
        self._unacknowledged[outgoing] = None
        missing: set[asyncio.Future[None]] = set()
        for number, (topic, correlation) in enumerate(outgoing.destinations):
            future = session.publish(topic, outgoing.payload, correlation_data=correlation)
            missing.add(future)
            # The first topic is ours, the other a peer's: what that one cannot take must not hold up all others.
            future.add_done_callback(partial(self._acknowledged, session, outgoing, missing, passing=number > 0))
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
        outgoing: Outgoing,
        missing: set[asyncio.Future[None]],
        future: asyncio.Future[None],
        *,
        passing: bool,
    ) -> None:
        if isinstance(future.exception(), NotNow) and self._taken and len(outgoing.payload) <= BULKY:
            outgoing.failures += 1  # of a bulky one it is counted when the session has ended
        if self._was_settled(session, future, passing=passing):
            missing.discard(future)
            if not missing:
                del self._unacknowledged[outgoing]
                self._outbox.done(outgoing)
            self._drain()

    def _status_acknowledged(self, session: MqttSession, future: asyncio.Future[None]) -> None:
        if self._was_settled(session, future, passing=True):
            self._status_in_flight = False
            self._drain()

    def _was_settled(self, session: MqttSession, future: asyncio.Future[None], *, passing: bool) -> bool:
        """Whether the broker has decided on it; if the session is gone, the next one sends it again. That is so too
        when the broker takes it later only (a quota, for example), unless little is lost with it (`passing`).
        """
        error = future.exception()
        if session is not self._session or isinstance(error, ConnectionLost):
            return False
        if isinstance(error, NotNow) and not passing:
            session.give_up(str(error))
            return False
        self._in_flight -= 1
        self._taken |= error is None
        if error is not None:  # sending it again would be refused again, and hold up what is behind it
            self._complain(str(error))
        return True

    def _complain(self, reason: str) -> None:
        """Loudly, and once for each reason: a right to a topic may be missing for days."""
        if len(self._complaints) > COMPLAINTS:  # a peer can ask for answers to ever new topics
            self._complaints.clear()
        level = logging.DEBUG if reason in self._complaints else logging.ERROR
        self._complaints.add(reason)
        logger.log(level, "%s: an envelope is dropped: %s", self._name, reason)
