"""What an MQTT session is made with: the broker and how it is verified, the will, a connect that does not block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import socket
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast
from weakref import WeakValueDictionary

from printago_moonraker.errors import ConfigError, LinkError
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from printago_moonraker.config import MqttSection

STEP_TIMEOUT = 8.0  # seconds for TCP, and again for TLS or the websocket's handshake


@dataclass(frozen=True)
class Endpoint:
    """The broker, and who we are to it. `keepalive` and `session_expiry` in s; an expiry of 0 is a clean session."""

    host: str
    port: int
    client_id: str
    tls: bool = True
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    transport: Literal["tcp", "websockets"] = "tcp"
    path: str = "/mqtt"
    protocol: str = "auto"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    keepalive: int = 30
    session_expiry: int = 3600

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext:
        """Verifies the broker, always; raises ConfigError.

        Shared while in use, because the system's CA store costs 0.8 MB and 26 ms each time it is read.
        """
        files = (self.ca_file, self.cert_file, self.key_file)
        context = _contexts.get(files)
        if context is None:
            context = _contexts[files] = _make_context(*files)
        return context


def endpoint_for(mqtt: MqttSection, printer_id: str) -> Endpoint:
    """One printer's endpoint, as the configuration says."""
    return Endpoint(
        host=mqtt.host,
        port=mqtt.port,
        client_id=mqtt.client_id_for(printer_id),
        tls=mqtt.tls,
        ca_file=mqtt.ca_file,
        cert_file=mqtt.cert_file,
        key_file=mqtt.key_file,
        transport=cast("Literal['tcp', 'websockets']", mqtt.transport),
        path=mqtt.path,
        protocol=mqtt.protocol,
        username=mqtt.username,
        password=mqtt.password,
        keepalive=mqtt.keepalive,
    )


@dataclass(frozen=True)
class Will:
    """What the broker says in our place when we are gone without a goodbye; retained, QoS 1."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Message:
    """An incoming publication. `expiry` is in seconds from its arrival; `live`: it was not kept for us by the broker.
    `mid` is the packet identifier, which is the same when the broker sends it again (MQTT 5 section 4.4), or 0.

    The broker keeps a QoS 1 message, and sends it again, until `ack` is called. Calling it twice, or when the session
    is gone, does nothing. MQTT wants acknowledgements in the order of the messages (section 4.6).
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    response_topic: str | None
    correlation_data: bytes | None
    expiry: int | None
    ack: Callable[[], None] = field(repr=False, compare=False)
    live: bool = False
    mid: int = 0


_contexts: WeakValueDictionary[tuple[Path | None, ...], ssl.SSLContext] = WeakValueDictionary()


def _make_context(ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if cert_file is not None:
            context.load_cert_chain(cert_file, key_file, password=lambda: "")  # never ask on the terminal
    except (OSError, ValueError) as error:
        names = ", ".join(str(name) for name in (ca_file, cert_file, key_file) if name)
        raise ConfigError(f"[mqtt] ca_file, cert_file, key_file ({names}): cannot be used: {error}") from error
    context.sslsocket_class = _ClosingSSLSocket
    return context


class _ClosingSSLSocket(ssl.SSLSocket):
    """paho forgets to close the socket when the handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class PromptSocket:
    """Another descriptor of a TCP connection, for its options: no delay in what is sent, nor in acknowledging.

    With QoS 1, Nagle's algorithm on either side waits for the other's delayed acknowledgement. mosquitto leaves it on:
    a command's round trip took 44 ms with its default configuration, and takes 0.6 ms when we acknowledge at once.
    """

    _QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def acknowledge(self) -> None:
        """After each read, because the kernel takes the option back."""
        if self._QUICKACK is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, self._QUICKACK, 1)

    def close(self) -> None:
        self._socket.close()


async def in_thread(endpoint: Endpoint, connect: Callable[[], object], abandon: Callable[[], None]) -> None:
    """Run a blocking `connect`; raises LinkError. Cancelling is safe: `abandon` is called once `connect` has ended.

    A thread of its own, not one of the loop's executor: a resolver can block for half a minute, and neither the other
    printers' work nor the end of the process shall wait for it.
    """
    done: concurrent.futures.Future[None] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            connect()
        except BaseException as error:  # carried into the loop
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="mqtt-connect", daemon=True).start()
    try:
        with _unreachable(endpoint):
            await asyncio.wrap_future(done)
    except asyncio.CancelledError:
        done.add_done_callback(lambda _: abandon())
        raise


@contextmanager
def _unreachable(endpoint: Endpoint) -> Iterator[None]:
    """Turns what connecting may raise into a LinkError with a sentence for a person."""
    try:
        yield
    except socket.gaierror as error:
        raise LinkError(f"{endpoint}: the name cannot be resolved: {error.strerror}") from error
    except ssl.SSLCertVerificationError as error:
        raise LinkError(f"{endpoint}: the broker's certificate is not accepted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise LinkError(f"{endpoint}: TLS failed: {error.reason or error}; does this port speak TLS?") from error
    except TimeoutError as error:
        raise LinkError(f"{endpoint}: not reachable: no answer within {STEP_TIMEOUT:.0f} s") from error
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        raise LinkError(f"{endpoint}: not reachable: {printable(str(error))}") from error
