"""One websocket, over a real socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker.errors import ConnectionLost, ConnectionRefused, LinkError
from printago_moonraker.moonraker import connection as connection_module
from printago_moonraker.moonraker.connection import Connection, connect, websocket_url
from printago_moonraker.moonraker.rpc import RpcError, RpcTimeout
from tests.fakes.moonraker import SILENT, FakeMoonraker, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class News(list[tuple[str, Any]]):
    """What a connection notified; `arrived` waits for the next."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()

    def __call__(self, method: str, params: Any) -> None:
        self.append((method, params))
        self.event.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self) < count:
                self.event.clear()
                await self.event.wait()


@pytest.fixture
async def fake() -> AsyncIterator[FakeMoonraker]:
    async with FakeMoonraker() as fake:
        yield fake


@pytest.fixture
def news() -> News:
    return News()


@pytest.fixture
async def connection(fake: FakeMoonraker, news: News) -> AsyncIterator[Connection]:
    async with connect(fake.url, api_key=None, on_notification=news) as connection:
        yield connection


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No task of a connection outlives its block."""
    yield
    names = [task.get_name() for task in asyncio.all_tasks() if not task.done()]
    assert not [name for name in names if "moonraker" in name], names


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:7125", "ws://127.0.0.1:7125/websocket"),
        ("https://host/printer1/", "wss://host/printer1/websocket"),
        ("http://[::1]:7125", "ws://[::1]:7125/websocket"),
    ],
)
def test_websocket_url(url: str, expected: str) -> None:
    """The websocket is at /websocket behind the prefix, encrypted when the URL is."""
    assert websocket_url(url) == expected


async def test_call(connection: Connection, fake: FakeMoonraker) -> None:
    """A call returns the result of its own request."""
    fake.answers["echo"] = lambda params: params
    results = await asyncio.gather(*(connection.call("echo", {"n": n}) for n in range(50)))
    assert results == [{"n": n} for n in range(50)]


async def test_answers_out_of_order(connection: Connection, fake: FakeMoonraker) -> None:
    """A slow answer holds up nobody, and finds its caller when it comes."""
    fake.answers["slow"] = SILENT
    slow = asyncio.create_task(connection.call("slow"))
    await fake.until(lambda: bool(fake.requests))
    assert (await connection.call("server.info"))["klippy_state"] == "ready"
    await fake.send({"jsonrpc": "2.0", "result": "late", "id": fake.requests[0]["id"]})
    assert await slow == "late"


async def test_error(connection: Connection, fake: FakeMoonraker) -> None:
    """The peer's refusal is an RpcError with its code and words."""
    fake.answers["printer.print.start"] = Refusal(400, "Unable to open file")
    with pytest.raises(RpcError, match="Unable to open file") as error:
        await connection.call("printer.print.start", {"filename": "x"})
    assert error.value.status == 400


async def test_timeout(connection: Connection, fake: FakeMoonraker) -> None:
    """No answer in time is RpcTimeout; the late answer is dropped and the link goes on."""
    fake.answers["slow"] = SILENT
    with pytest.raises(RpcTimeout, match=r"did not answer slow in 0\.05 s"):
        await connection.call("slow", timeout=0.05)
    await fake.send({"jsonrpc": "2.0", "result": "late", "id": fake.requests[0]["id"]})
    assert await connection.call("server.info")


async def test_cancelled_call(connection: Connection, fake: FakeMoonraker) -> None:
    """Cancelling a call leaves the link as it was."""
    fake.answers["slow"] = SILENT
    call = asyncio.create_task(connection.call("slow", timeout=None))
    await fake.until(lambda: bool(fake.requests))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await fake.send({"jsonrpc": "2.0", "result": "late", "id": fake.requests[0]["id"]})
    assert await connection.call("server.info")


async def test_notifications_in_order(connection: Connection, fake: FakeMoonraker, news: News) -> None:
    """News come in the order sent, remote method calls among them, more of them than any buffer holds."""
    for n in range(200):
        await fake.notify("notify_gcode_response", n)
    await fake.send({"jsonrpc": "2.0", "method": "printago_event", "params": {"event": "bed_cleared"}})
    await news.until(201)
    assert news[:200] == [("notify_gcode_response", [n]) for n in range(200)]
    assert news[200] == ("printago_event", {"event": "bed_cleared"})


async def test_defect_in_the_callback(fake: FakeMoonraker, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is logged once a spell, and costs neither the link nor the next news."""
    news = News()
    broken = True

    def callback(method: str, params: Any) -> None:
        news(method, params)
        if broken:
            raise ZeroDivisionError

    with caplog.at_level(logging.INFO):
        async with connect(fake.url, api_key=None, on_notification=callback) as connection:
            for _ in range(3):
                await fake.notify("notify_a")
            await news.until(3)
            assert await connection.call("server.info")
            assert len(caplog.records) == 1
            broken = False
            await fake.notify("notify_a")
            await news.until(4)
            broken = True
            await fake.notify("notify_a")
            await news.until(5)
            await connection.call("server.info")
    assert [record.getMessage() for record in caplog.records] == ["a defect in handling notify_a"] * 2


async def test_garbage_is_logged_once(
    connection: Connection, fake: FakeMoonraker, caplog: pytest.LogCaptureFixture
) -> None:
    """Frames that are no messages, and answers nobody asked for, change nothing."""
    for text in (
        "garbage\x1b[31m",
        "[]",
        '{"id":99,"result":1}',
        '{"error":{"code":-32700,"message":"Parse error"},"id":null}',
    ):
        await fake.send(text)
    assert await connection.call("server.info")
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert "\x1b" not in caplog.text


async def test_request_from_the_peer(connection: Connection, fake: FakeMoonraker) -> None:
    """A request of Moonraker's is answered with "Method not found", so that its sender does not wait."""
    await fake.send({"jsonrpc": "2.0", "method": "do_it", "id": 5, "params": {}})
    await fake.until(lambda: bool(fake.replies))
    assert fake.replies[0]["id"] == 5
    assert fake.replies[0]["error"]["code"] == -32601


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_lost(fake: FakeMoonraker, how: str) -> None:
    """When the link ends, every waiting call, `wait_closed` and later calls get the first cause."""
    fake.answers["slow"] = SILENT
    async with connect(fake.url, api_key=None, on_notification=News()) as connection:
        calls = [asyncio.create_task(connection.call("slow", timeout=None)) for _ in range(3)]
        await fake.until(lambda: len(fake.requests) == 3)
        if how == "close":
            await fake.close()
        else:
            fake.drop()
        with pytest.raises(ConnectionLost) as closed:
            await asyncio.wait_for(connection.wait_closed(), 5)
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, ConnectionLost) and str(error) == str(closed.value) for error in errors)
        with pytest.raises(ConnectionLost):
            await connection.call("server.info")
    expected = (
        "Moonraker closed the connection (1001 Server Shutdown)."
        if how == "close"
        else "The connection to Moonraker broke."
    )
    assert str(closed.value) == expected


async def test_half_open() -> None:
    """A peer that answers no ping is lost, although its socket is open."""
    async with (
        FakeMoonraker(answer_pings=False) as fake,
        connect(fake.url, api_key=None, on_notification=News(), ping_interval=0.05, ping_timeout=0.05) as connection,
    ):
        with pytest.raises(ConnectionLost, match="stopped answering pings"):
            await asyncio.wait_for(connection.wait_closed(), 5)


async def test_call_after_the_block(fake: FakeMoonraker) -> None:
    """Leaving the block ends the link for those who still wait, and for those who come later."""
    fake.answers["slow"] = SILENT
    async with connect(fake.url, api_key=None, on_notification=News()) as connection:
        call = asyncio.create_task(connection.call("slow", timeout=None))
        await fake.until(lambda: bool(fake.requests))
    with pytest.raises(ConnectionLost, match="closed by the agent"):
        await call
    with pytest.raises(ConnectionLost, match="closed by the agent"):
        await connection.call("server.info")


async def test_flood_while_leaving(fake: FakeMoonraker, news: News) -> None:
    """News that still pour in while the block is left neither reach the callback nor hold up the end."""
    async with asyncio.timeout(5):
        async with connect(fake.url, api_key=None, on_notification=news):
            for n in range(500):
                await fake.notify("notify_x", n, "x" * 1000)
            count = len(news)
        assert len(news) == count < 500


async def test_api_key(fake: FakeMoonraker) -> None:
    """The API key goes along in the handshake; without one there is no such header."""
    async with connect(fake.url, api_key="k3y", on_notification=News()):
        pass
    async with connect(fake.url, api_key=None, on_notification=News()):
        pass
    assert [headers.get("X-Api-Key") for headers in fake.handshakes] == ["k3y", None]


async def test_no_proxy(fake: FakeMoonraker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not asked for the way to the printer."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    async with connect(fake.url, api_key=None, on_notification=News()) as connection:
        assert await connection.call("server.info")


async def test_no_delay(connection: Connection) -> None:
    """Small messages go out at once: Nagle's algorithm is off, compression too."""
    tcp = connection._websocket.transport.get_extra_info("socket")
    assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert connection._websocket.protocol.extensions == []


async def test_prefix() -> None:
    """A path prefix of the URL stays in front."""
    async with (
        FakeMoonraker(prefix="/printer1") as fake,
        connect(fake.url + "/", api_key=None, on_notification=News()) as connection,
    ):
        assert await connection.call("server.info")


@pytest.mark.parametrize(
    ("status", "sentence"), [(401, "refused the login"), (404, "is not Moonraker"), (502, "Moonraker behind it is not")]
)
async def test_refused(fake: FakeMoonraker, status: int, sentence: str) -> None:
    """An HTTP answer instead of a websocket is ConnectionRefused, in words."""
    fake.refuse = status
    with pytest.raises(ConnectionRefused, match=sentence):
        async with connect(fake.url, api_key=None, on_notification=News()):
            pass


@pytest.mark.parametrize(("status", "patience"), [(401, 60), (403, 60), (404, 0), (502, 0), (503, 0)])
async def test_a_refused_key_is_tried_rarely(fake: FakeMoonraker, status: int, patience: float) -> None:
    """A key that is refused is not hammered with, but a Moonraker that is only starting is not waited for longer."""
    fake.refuse = status
    with pytest.raises(ConnectionRefused) as error:
        async with connect(fake.url, api_key="k3y", on_notification=News()):
            pass
    assert error.value.patience == patience


async def test_nobody_there() -> None:
    """Where nothing listens, the error is a LinkError that names the URL."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(LinkError, match=f"{url} cannot be reached: Connection refused"):
            async with connect(url, api_key=None, on_notification=News()):
                pass


async def test_no_answer_to_the_handshake() -> None:
    """A peer that accepts and says nothing is given up after `open_timeout`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LinkError, match=r"did not answer in 0\.1 s"):
            async with connect(url, api_key=None, on_notification=News(), open_timeout=0.1):
                pass


async def test_something_else_listens() -> None:
    """A peer that speaks another protocol is ConnectionRefused."""

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ConnectionRefused, match="does not speak"):
            async with connect(url, api_key=None, on_notification=News()):
                pass


async def test_redirect_elsewhere(fake: FakeMoonraker) -> None:
    """A redirection to another server is not followed: the API key would go there."""
    answer = f"HTTP/1.1 302 Found\r\nLocation: {websocket_url(fake.url)}\r\nContent-Length: 0\r\n\r\n"

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ConnectionRefused):
            async with connect(url, api_key="k3y", on_notification=News()):
                pass
    assert fake.handshakes == []


@asynccontextmanager
async def deaf() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A peer that opens a websocket, then never answers again: its URL, and the event of our socket's end."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = head.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
        upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(upgrade + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", gone
        await asyncio.wait_for(gone.wait(), 5)


async def test_leaving_a_deaf_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not answer the closing handshake holds up the end for CLOSE_TIMEOUT, not longer."""
    monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT", 0.1)
    async with asyncio.timeout(2), deaf() as (url, gone):
        async with connect(url, api_key=None, on_notification=News()):
            pass
        await gone.wait()


async def test_cancelled_while_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled once more in the middle of the closing handshake, the socket goes at once."""
    monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT", 60.0)
    closing = asyncio.Event()

    async def block(url: str) -> None:
        async with connect(url, api_key=None, on_notification=News()):
            closing.set()

    async with asyncio.timeout(5), deaf() as (url, gone):
        task = asyncio.create_task(block(url))
        await closing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()


async def test_cancelled_block(fake: FakeMoonraker) -> None:
    """Cancelling the block's task closes the socket and leaves no task."""
    entered = asyncio.Event()

    async def block() -> None:
        async with connect(fake.url, api_key=None, on_notification=News()) as connection:
            entered.set()
            await connection.wait_closed()

    task = asyncio.create_task(block())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await fake.until(lambda: not fake._sockets)
