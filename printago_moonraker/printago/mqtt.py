"""One MQTT session, used once: to reconnect, make another. The only module that names paho.

paho runs without a thread, as its documentation describes for external event loops: the loop watches its socket, a
timer calls `loop_misc`. The first error wins; everyone who waits gets it. Raised here:

    LinkError              the broker could not be reached: name, TCP, TLS
    ConnectionRefused      it answered, and said no: version, topic; LoginRefused: who we are; NotNow: try again later
    ConnectionLost         the session broke; what was not acknowledged has no known outcome
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from paho.mqtt import MQTTException
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from printago_moonraker.errors import ConnectionLost, ConnectionRefused, LinkError
from printago_moonraker.log import printable
from printago_moonraker.printago import answers
from printago_moonraker.printago.answers import CONNACK, PINGRESP, Waiting, explain
from printago_moonraker.printago.endpoint import STEP_TIMEOUT, Endpoint, Message, PromptSocket, Will, in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from paho.mqtt.reasoncodes import ReasonCode

__all__ = ["Endpoint", "Message", "MqttSession", "Will", "connect"]

CONNECT_TIMEOUT = 20.0  # seconds for the whole of it, so that a mute broker is one failed attempt among others
SILENCE = 1.5  # keepalives without a byte from the broker, the answer to our ping included; brokers judge us likewise
ANSWER_TIMEOUT = 5.0  # seconds, MQTT 5: a broker of 3.1.1 may misread CONNECT, and wait for ever for more of it
MAX_INFLIGHT = 20  # mosquitto's own default
MAX_UNACKNOWLEDGED = 100  # commands that the broker may send ahead of our acknowledgements
MEMORY_FOR_A_PACKET = 16 * 1024 * 1024  # bytes; a broker of 3.1.1 cannot be told what it shall not send
MAX_PACKET_BYTES = 512 * 1024  # twice the largest command: it can then still be refused with a sentence
WILL_DELAY = 10  # seconds, MQTT 5: a blip is not an outage

_VERSIONS: dict[str, MQTTProtocolVersion] = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}
_UNANSWERED = "{} closed the connection before it answered: is `tls` right for this port, is the certificate?"


@asynccontextmanager
async def connect(
    endpoint: Endpoint,
    *,
    subscriptions: Sequence[str],
    on_message: Callable[[Message], None],
    will: Will | None = None,
) -> AsyncIterator[MqttSession]:
    """A session that is connected, and subscribed with QoS 1; the block's end disconnects, without the will.

    `on_message` is called on the event loop, in order; a persistent session's backlog may come before the block.
    Raises LinkError, ConnectionRefused, ConnectionLost or ConfigError. Cancelling is safe.
    """
    session = await _establish(endpoint, subscriptions, on_message, will)
    try:
        yield session
    finally:
        session._close()


async def _establish(
    endpoint: Endpoint, subscriptions: Sequence[str], on_message: Callable[[Message], None], will: Will | None
) -> MqttSession:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            for protocol in ("5", "3.1.1") if endpoint.protocol == "auto" else (endpoint.protocol,):
                session = MqttSession(endpoint, protocol, on_message, will)
                try:
                    await session._open(subscriptions)
                except BaseException as error:
                    session._close()
                    fall_back = isinstance(error, LinkError) and session._version_refused and protocol == "5"
                    if not (fall_back and endpoint.protocol == "auto"):
                        raise
                else:
                    return session
    except TimeoutError:
        raise ConnectionLost(f"{endpoint}: no answer within {CONNECT_TIMEOUT:.0f} s.") from None
    raise AssertionError("the last protocol's error was raised")


class MqttSession:
    """One connection to one broker. `protocol` is "5" or "3.1.1"; `session_present`: the broker remembered us.

    `window`: how many publications may be without their acknowledgement (MQTT 5 section 4.9); `unacknowledged`: how
    many messages still are without ours.
    """

    def __init__(
        self, endpoint: Endpoint, protocol: str, on_message: Callable[[Message], None], will: Will | None
    ) -> None:
        self.endpoint = endpoint
        self.protocol = protocol
        self.session_present = False
        self.window = MAX_INFLIGHT
        self.unacknowledged = 0
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._waiting = Waiting(str(endpoint))
        self._fd = -1  # watched by the loop, unless -1
        self._wire: PromptSocket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._loop.time()
        self._max_packet = 0  # what the broker takes; 0: it did not say
        self._version_refused = self._ended = False
        self._client = self._make_client(will)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        content_type: str | None = "application/json",
        correlation_data: bytes | None = None,
    ) -> asyncio.Future[None]:
        """Send now, in the order of the calls; await the result to know that the broker has it (QoS 0: it is sent).

        The future raises ConnectionLost when the session breaks first, ConnectionRefused when the broker, or MQTT
        itself, does not take this message, NotNow when it may be taken later. Cancelling is safe: the message goes out
        all the same.
        """
        future = self._loop.create_future()
        if self._closed.done():
            future.set_exception(self._error())
            return future
        if self._max_packet and len(payload) + len(topic.encode()) + 256 > self._max_packet:
            future.set_exception(ConnectionRefused(f"{topic}: {len(payload)} bytes are more than the broker takes."))
            return future
        properties = self._properties(PacketTypes.PUBLISH, ContentType=content_type, CorrelationData=correlation_data)
        try:
            info = self._client.publish(topic, payload, qos, retain, properties)
        except ValueError as error:  # a response topic comes from a peer: wildcards, for example
            future.set_exception(ConnectionRefused(f"{printable(topic)}: not a topic to publish to: {error}"))
            return future
        if info.rc is MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._waiting.expect(info.mid, f"publication to {printable(topic)}", future)
        else:
            self._fail(ConnectionLost(f"{self.endpoint}: paho does not send: {info.rc.name}"))
            future.set_exception(self._error())
        return future

    def ping(self) -> asyncio.Future[None]:
        """Done when the broker has answered: what it sent before that has been delivered by then. One at a time."""
        self._client._send_pingreq()
        return self._waiting.expect(PINGRESP, "ping")

    def give_up(self, reason: str) -> None:
        """End the session as if it had been lost, for a reason that only its user can see."""
        self._fail(ConnectionLost(reason))

    async def wait_closed(self) -> None:
        """Returns never; raises ConnectionLost or ConnectionRefused once the session is gone. Cancelling is safe."""
        await asyncio.wait([self._closed])
        raise self._error()

    def _make_client(self, will: Will | None) -> Client:
        endpoint, v5 = self.endpoint, self.protocol == "5"
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=endpoint.client_id,
            protocol=_VERSIONS[self.protocol],
            clean_session=None if v5 else endpoint.session_expiry == 0,
            transport=endpoint.transport,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = STEP_TIMEOUT
        client.max_inflight_messages = MAX_INFLIGHT
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_paho_message
        if endpoint.username is not None:
            client.username_pw_set(endpoint.username, endpoint.password)
        if endpoint.transport == "websockets":
            client.ws_set_options(endpoint.path)
        if endpoint.tls:
            client.tls_set_context(endpoint.tls_context())
        if will is not None:
            delay = self._properties(PacketTypes.WILLMESSAGE, WillDelayInterval=WILL_DELAY)
            client.will_set(will.topic, will.payload, qos=1, retain=True, properties=delay)
        return client

    def _properties(self, packet_type: int, **values: Any) -> Properties | None:
        """MQTT 5 properties, those that are None left out; None where the protocol has none."""
        if self.protocol != "5":
            return None
        properties = Properties(packet_type)  # type: ignore[no-untyped-call]
        for name, value in values.items():
            if value is not None:
                setattr(properties, name, value)
        return properties

    async def _open(self, subscriptions: Sequence[str]) -> None:
        await self._connect_socket()
        answer = self._waiting.expect(CONNACK, "connection")
        self._attach()
        patience = ANSWER_TIMEOUT if self.endpoint.protocol == "auto" and self.protocol == "5" else None
        try:
            async with asyncio.timeout(patience):
                await answer
        except TimeoutError:
            self._version_refused = True
            raise ConnectionLost(f"{self.endpoint} does not answer.") from None
        options = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        for topic in subscriptions:
            how: dict[str, Any] = {"options": options} if self.protocol == "5" else {"qos": 1}
            result, mid = self._client.subscribe(topic, **how)
            if result is not MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
                raise ConnectionLost(f"{self.endpoint}: paho does not subscribe: {result.name}")
            await self._waiting.expect(mid, f"subscription to {topic}")

    async def _connect_socket(self) -> None:
        endpoint = self.endpoint
        properties = self._properties(
            PacketTypes.CONNECT,
            SessionExpiryInterval=endpoint.session_expiry,
            ReceiveMaximum=MAX_UNACKNOWLEDGED,
            MaximumPacketSize=MAX_PACKET_BYTES,
        )
        clean: dict[str, Any] = {"clean_start": endpoint.session_expiry == 0} if properties else {}
        client, peer = self._client, (endpoint.host, endpoint.port, endpoint.keepalive)
        # Name resolution, TCP, TLS and CONNECT: paho does them blocking.
        await in_thread(
            endpoint, lambda: client.connect(*peer, properties=properties, **clean), lambda: _close_socket(client)
        )

    def _attach(self) -> None:
        client = self._client
        sock = client.socket()
        if sock is None:
            self._version_refused = True
            raise ConnectionLost(_UNANSWERED.format(self.endpoint))
        self._fd = sock.fileno()
        self._wire = PromptSocket(self._fd)
        client.on_socket_close = self._detach
        client.on_socket_register_write = self._watch_writable
        client.on_socket_unregister_write = self._unwatch_writable
        self._heard = self._loop.time()
        self._loop.add_reader(self._fd, self._readable)
        if client.want_write():
            self._watch_writable()
        self._tick()

    def _readable(self) -> None:
        self._heard = self._loop.time()
        try:
            self._client.loop_read()
            if self._wire is not None:
                self._wire.acknowledge()
        except (ValueError, LookupError, AssertionError, struct.error, MQTTException) as error:
            self._fail(ConnectionLost(f"{self.endpoint}: a packet that cannot be read: {printable(repr(error))}"))
        if self._client._in_packet["remaining_length"] > MEMORY_FOR_A_PACKET:  # or rubbish, whose end paho would await
            self._fail(ConnectionLost(f"{self.endpoint}: a packet of more than {MEMORY_FOR_A_PACKET} bytes."))
        if PINGRESP in self._waiting and not self._client._ping_t:
            self._waiting.settle(PINGRESP)
        sock: Any = self._client.socket()
        if self._fd >= 0 and hasattr(sock, "pending") and sock.pending():
            self._loop.call_soon(self._readable)  # bytes that TLS has taken from the socket already wake nobody

    def _tick(self) -> None:
        self._client.loop_misc()
        keepalive = self._client.keepalive  # an MQTT 5 broker may have set another
        if keepalive and self._loop.time() - self._heard > SILENCE * keepalive:
            self._fail(ConnectionLost(f"{self.endpoint}: silent for {SILENCE * keepalive:.0f} s."))
        if not self._closed.done():
            self._timer = self._loop.call_later(max(keepalive, 10) / 10 if keepalive > 2 else 0.1, self._tick)

    def _watch_writable(self, *_: object) -> None:
        self._loop.add_writer(self._fd, self._client.loop_write)

    def _unwatch_writable(self, *_: object) -> None:
        self._loop.remove_writer(self._fd)

    def _detach(self, *_: object) -> None:
        """Before the descriptor is closed: its number may be another session's a moment later."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _on_connect(
        self, _c: object, _u: object, flags: ConnectFlags, reason: ReasonCode, info: Properties | None
    ) -> None:
        if reason.is_failure:
            self._version_refused = reason.value == answers.UNSUPPORTED_VERSION
            kind = answers.of_connection(reason.value)
            self._fail(kind(f"{self.endpoint} refuses the connection: {explain(reason, info)}"))
            return
        self.session_present = flags.session_present
        self._max_packet = getattr(info, "MaximumPacketSize", 0)
        self.window = min(MAX_INFLIGHT, getattr(info, "ReceiveMaximum", MAX_INFLIGHT))
        self._waiting.settle(CONNACK)

    def _on_disconnect(
        self, _c: object, _u: object, flags: DisconnectFlags, reason: ReasonCode, info: Properties | None
    ) -> None:
        if CONNACK in self._waiting and not self._closed.done():
            self._version_refused = True  # how brokers of 3.1.1 often answer a CONNECT of MQTT 5
            self._fail(ConnectionLost(_UNANSWERED.format(self.endpoint)))
        elif flags.is_disconnect_packet_from_server:
            twin = f" (another client uses the client ID {self.endpoint.client_id})"
            hint = twin if reason.value == answers.SESSION_TAKEN_OVER else ""
            self._fail(ConnectionLost(f"{self.endpoint} ended the session: {explain(reason, info)}{hint}"))
        else:
            self._fail(ConnectionLost(f"{self.endpoint}: the connection broke."))

    def _on_subscribe(
        self, _c: object, _u: object, mid: int, reasons: list[ReasonCode], info: Properties | None
    ) -> None:
        self._waiting.settle(mid, next((explain(reason, info) for reason in reasons if reason.is_failure), ""))

    def _on_publish(self, _c: object, _u: object, mid: int, reason: ReasonCode, info: Properties | None) -> None:
        refusal = explain(reason, info) if reason.is_failure else ""
        self._waiting.settle(mid, refusal, answers.of_publication(reason.value))

    def _on_paho_message(self, client: Client, _userdata: object, message: MQTTMessage) -> None:
        acknowledged = message.qos == 0
        self.unacknowledged += not acknowledged

        def ack() -> None:
            nonlocal acknowledged
            if not (acknowledged or self._closed.done()):
                acknowledged = True
                self.unacknowledged -= 1
                client.ack(message.mid, message.qos)

        properties = message.properties
        arrived = Message(
            topic=message.topic,
            payload=bytes(message.payload),
            qos=message.qos,
            retain=message.retain,
            dup=message.dup,
            response_topic=getattr(properties, "ResponseTopic", None),
            correlation_data=getattr(properties, "CorrelationData", None),
            expiry=getattr(properties, "MessageExpiryInterval", None),
            ack=ack,
            mid=message.mid,
        )
        # Not from within paho: what the consumer raises must not leave its packet reader half-way.
        self._loop.call_soon(self._deliver, arrived)

    def _deliver(self, message: Message) -> None:
        if not self._ended:
            self._on_message(message)

    def _error(self) -> LinkError:
        """What ended the session, as a new exception: one that is raised in many places grows a wild traceback."""
        cause = self._closed.exception()
        assert isinstance(cause, LinkError)
        error = type(cause)(str(cause))
        error.__cause__ = cause
        return error

    def _fail(self, error: LinkError) -> None:
        """Every end goes through here; only the first counts."""
        if self._closed.done():
            return
        self._closed.set_exception(error)
        self._closed.exception()  # seen: nobody has to wait for it
        self._waiting.fail(self._error)
        if self._timer is not None:
            self._timer.cancel()
        self._detach()
        _close_socket(self._client)

    def _close(self) -> None:
        """Say goodbye without waiting: behind a full socket buffer, the will speaks instead."""
        self._ended = True
        if self._fd >= 0 and not self._closed.done():
            self._client.on_disconnect = None
            self._client.disconnect()
            if self._fd >= 0:
                self._client.loop_write()
        self._fail(ConnectionLost(f"{self.endpoint}: the session was closed here."))


def _close_socket(client: Client) -> None:
    if (sock := client.socket()) is not None:
        sock.close()
