"""The cloud's file store in small: one file over HTTP on loopback, at the pace of an ordinary line."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"
REQUEST_TIMEOUT = 10.0  # s
TICK = 0.1  # s between two pieces of a file


@contextlib.asynccontextmanager
async def file_server(name: str, content: bytes, bytes_per_second: float) -> AsyncIterator[str]:
    """Serve `content` to every GET of `name`, each at `bytes_per_second`; yields its URL.

    Cancelling is safe; what is being sent is broken off.
    """
    clients: set[asyncio.Task[None]] = set()

    def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.create_task(_serve(reader, writer, name, content, bytes_per_second))
        clients.add(client)
        client.add_done_callback(clients.discard)

    server = await asyncio.start_server(on_client, HOST, 0)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/{quote(name)}"
    finally:
        server.close()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, content: bytes, bytes_per_second: float
) -> None:
    """One request, one answer; a client that leaves early is nobody's trouble."""
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, *_ = head.split(" ", 2)
        found = method == "GET" and unquote(urlsplit(target).path) == f"/{name}"
        status, body = ("200 OK", content) if found else ("404 Not Found", b"")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
        piece = max(1, int(bytes_per_second * TICK))
        for start in range(0, len(body), piece):
            writer.write(body[start : start + piece])
            await writer.drain()
            await asyncio.sleep(TICK)
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
