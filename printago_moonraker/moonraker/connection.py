"""One websocket to Moonraker, used once: to connect again, make another. The only module that knows `websockets`.

    LinkError              no connection could be made
    ├── ConnectionRefused  something answered, and it was no open door: a proxy, not Moonraker
    │   └── KeyRefused     Moonraker does not let us in
    └── ConnectionLost     it was there, and broke: the first cause is the one everybody hears

Source: Moonraker's documentation, "Websocket setup"; https://websockets.readthedocs.io.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from websockets import exceptions as websocket_errors
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect

from printago_moonraker.errors import ConnectionLost, ConnectionRefused, LinkError
from printago_moonraker.log import printable
from printago_moonraker.moonraker import rpc

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

NotificationHandler = Callable[[str, rpc.Params], None]

# A list of 50,000 files with their metadata is about 25 MB, the largest thing that Moonraker can be asked for; beyond
# that it is an error.
MAX_MESSAGE: Final = 32 * 1024 * 1024
# A dead peer must not hold up a shutdown or a reconnect: the closing handshake is a courtesy.
CLOSE_TIMEOUT: Final = 2.0


class KeyRefused(ConnectionRefused):
    """Moonraker takes neither the API key nor this host. Nothing tells when its owner has set that right."""

    patience = 60.0


class Connection:
    """Calls out, notifications in. Made by `connect`; the methods are for one event loop.

    Notifications are handed to the callback in the order of arrival, by the reader itself, which waits for nobody.
    They include calls of remote methods by Klipper (with an object as params).
    """

    def __init__(self, websocket: ClientConnection, on_notification: NotificationHandler) -> None:
        self._websocket = websocket
        self._on_notification = on_notification
        self._ids = itertools.count(1)
        self._pending: dict[int | str, asyncio.Future[rpc.Response | ConnectionLost]] = {}
        self._lost: ConnectionLost | None = None
        self._closed = asyncio.Event()
        self._complained: set[str] = set()  # what has been logged in this spell

    async def call(self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = 10.0) -> Any:
        """Ask Moonraker, and return the `result`. Calls run side by side; answers come in any order.

        `timeout` in seconds; None waits until the link ends. Raises RpcError (the peer's refusal), RpcTimeout,
        ConnectionLost (also for a call on a connection that has ended). Cancelling is safe here, but takes nothing
        back: the request stays queued in Klipper and is carried out, and the late answer is dropped.
        """
        request_id = next(self._ids)
        request = rpc.encode_request(request_id, method, params)
        answer: asyncio.Future[rpc.Response | ConnectionLost] = asyncio.get_running_loop().create_future()
        if self._lost is not None:
            raise _again(self._lost)
        self._pending[request_id] = answer
        try:
            async with asyncio.timeout(timeout):
                await self._send(request)
                response = await answer
        except TimeoutError:
            raise rpc.RpcTimeout(f"Moonraker did not answer {method} in {timeout:g} s.") from None
        finally:
            del self._pending[request_id]
        if isinstance(response, ConnectionLost):
            raise _again(response)
        if response.error is not None:
            raise response.error
        return response.result

    async def wait_closed(self) -> None:
        """Wait for the end of the link, then raise ConnectionLost with the first cause. Cancelling is safe."""
        await self._closed.wait()
        assert self._lost is not None
        raise _again(self._lost)

    async def _send(self, text: str) -> None:
        try:
            await self._websocket.send(text)
        except websocket_errors.ConnectionClosed as error:
            self._end(_lost(error))

    async def _read(self) -> None:
        """The reader task: until the link ends."""
        try:
            while True:
                frame = await self._websocket.recv(decode=False)
                if self._lost is None:  # else the owner has left the block, and this only drains the closing handshake
                    for message in rpc.decode(frame):
                        await self._dispatch(message)
        except websocket_errors.ConnectionClosed as error:
            self._end(_lost(error))
        finally:
            self._end(ConnectionLost("The reader of the connection to Moonraker stopped."))  # nobody may wait for ever

    async def _dispatch(self, message: rpc.Message) -> None:
        match message:
            case rpc.Response(id=request_id):
                waiting = self._pending.get(request_id)
                if waiting is None or waiting.done():
                    logger.debug("dropped the answer to request %s: nobody waits", printable(str(request_id)))
                else:
                    waiting.set_result(message)
            case rpc.Notification():
                self._notify(message)
            case rpc.Request(id=request_id, method=method):
                logger.debug("refused a request of Moonraker's: %s", printable(method))
                await self._send(rpc.encode_error(request_id, rpc.METHOD_NOT_FOUND, "Method not found"))
            case rpc.Garbage(reason=reason):
                self._complain("garbage", "Moonraker sent something unexpected: %s", printable(reason))

    def _notify(self, message: rpc.Notification) -> None:
        try:
            self._on_notification(message.method, message.params)
        except Exception:
            # A defect in what consumes one kind of news must not cost the link and all other news.
            self._complain(message.method, "a defect in handling %s", printable(message.method), exc_info=True)
        else:
            self._complained.discard(message.method)

    def _complain(self, about: str, text: str, *args: object, exc_info: bool = False) -> None:
        """One line a spell, debug for the rest: a defect at four notifications a second must not fill the log."""
        level = logging.DEBUG if about in self._complained else logging.ERROR if exc_info else logging.WARNING
        self._complained.add(about)
        logger.log(level, text, *args, exc_info=exc_info)

    def _end(self, cause: ConnectionLost) -> None:
        """The link is over. Only the first cause counts; everyone who waits gets it."""
        if self._lost is not None:
            return
        self._lost = cause
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_result(cause)
        self._closed.set()


@asynccontextmanager
async def connect(
    url: str,
    *,
    api_key: str | None,
    on_notification: NotificationHandler,
    ca_file: Path | None = None,
    open_timeout: float = 10.0,
    ping_interval: float = 10.0,
    ping_timeout: float = 10.0,
) -> AsyncIterator[Connection]:
    """A connection for the length of the block; no task and no socket outlives it.

    `url` is Moonraker's base URL (http or https, with or without a path prefix), times are seconds. A peer that
    answers no ping for `ping_timeout` is lost: a cut cable gives no other sign. Raises ConnectionRefused, LinkError.
    Cancelling is safe.
    """
    websocket = await _open(url, api_key, ca_file, open_timeout, ping_interval, ping_timeout)
    connection = Connection(websocket, on_notification)
    reader = asyncio.create_task(connection._read(), name=f"moonraker reader {url}")
    try:
        yield connection
    finally:
        connection._end(ConnectionLost("The connection to Moonraker was closed by the agent."))
        try:
            # The reader goes on meanwhile: a full receive buffer would hide the peer's closing frame.
            await websocket.close()
        finally:
            websocket.transport.abort()  # cancelled while closing: the socket goes now
            reader.cancel()
            await asyncio.wait([reader])


def websocket_url(url: str) -> str:
    """`http://host:7125/prefix` -> `ws://host:7125/prefix/websocket`."""
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/websocket", "", ""))


async def _open(
    url: str, api_key: str | None, ca_file: Path | None, open_timeout: float, ping_interval: float, ping_timeout: float
) -> ClientConnection:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    try:
        return await websocket_connect(
            websocket_url(url),
            # Naming host and port forbids redirects to elsewhere, and with them the API key's way there.
            host=parts.hostname,
            port=parts.port or (443 if secure else 80),
            ssl=ssl.create_default_context(cafile=ca_file) if secure else None,
            additional_headers={"X-Api-Key": api_key} if api_key else None,
            compression=None,  # on loopback it only costs a Raspberry Pi's processor
            proxy=None,  # a proxy from the environment is for the internet, not for the printer
            open_timeout=open_timeout,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            close_timeout=CLOSE_TIMEOUT,
            max_size=MAX_MESSAGE,
        )
    except websocket_errors.InvalidStatus as error:
        raise _refusal(url, error.response.status_code) from error
    except TimeoutError as error:
        raise LinkError(f"Moonraker at {url} did not answer in {open_timeout:g} s.") from error
    except ssl.SSLCertVerificationError as error:
        raise LinkError(f"The certificate of Moonraker at {url} is not trusted: {error.verify_message}.") from error
    except OSError as error:
        raise LinkError(f"Moonraker at {url} cannot be reached: {_reason(error)}.") from error
    except (websocket_errors.WebSocketException, ValueError, EOFError) as error:
        what = printable(str(error))
        raise ConnectionRefused(f"What answers at {url} does not speak Moonraker's websocket: {what}.") from error


def _reason(error: OSError) -> str:
    """The system's own words; asyncio puts its own over them, and getaddrinfo has numbers of its own."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        return printable(error.strerror or str(error))
    return os.strerror(error.errno)


def _refusal(url: str, status: int) -> ConnectionRefused:
    if status in {401, 403}:
        remedy = "check moonraker_api_key_file, or add this host to its trusted_clients"
        return KeyRefused(f"Moonraker at {url} refused the login ({status}): {remedy}.")
    if status in {502, 503, 504}:
        return ConnectionRefused(f"The web server at {url} is there, but Moonraker behind it is not ({status}).")
    return ConnectionRefused(f"What answers at {url} is not Moonraker (HTTP status {status}): check moonraker_url.")


def _lost(error: websocket_errors.ConnectionClosed) -> ConnectionLost:
    """One clear sentence for the end of a websocket."""
    sent, received = error.sent, error.rcvd
    if received is not None and (sent is None or error.rcvd_then_sent):
        reason = printable(f"{received.code} {received.reason}")
        sentence = f"Moonraker closed the connection ({reason})."
    elif sent is not None and sent.reason == "keepalive ping timeout":
        sentence = "Moonraker stopped answering pings."
    elif sent is not None and sent.code != 1000:
        sentence = f"Moonraker broke the websocket protocol ({printable(f'{sent.code} {sent.reason}')})."
    else:
        sentence = "The connection to Moonraker broke."
    lost = ConnectionLost(sentence)
    lost.__cause__ = error
    return lost


def _again(lost: ConnectionLost) -> ConnectionLost:
    """The same cause for one more listener: one exception object raised in two tasks would mix up their tracebacks."""
    again = ConnectionLost(str(lost))
    again.__cause__ = lost
    return again
