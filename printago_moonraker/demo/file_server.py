"""The cloud's file store in small, over HTTP on loopback: one file, at the pace of an ordinary line, and pictures."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"
REQUEST_TIMEOUT = 10.0  # s
TICK = 0.1  # s between two pieces of a file
MAX_PICTURE = 16 * 1024 * 1024  # bytes
PICTURES = "/pictures/"


@dataclass
class FileServer:
    """`url` is the file's; `pictures` are those that came, by name."""

    url: str
    pictures: dict[str, bytes] = field(default_factory=dict)

    def picture_url(self, name: str) -> str:
        """Where a picture of that name may be PUT."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{PICTURES}{quote(name)}"


@contextlib.asynccontextmanager
async def file_server(name: str, content: bytes, bytes_per_second: float) -> AsyncIterator[FileServer]:
    """Serve `content` to every GET of `name`, each at `bytes_per_second`, and take pictures.

    Cancelling is safe; what is being sent is broken off.
    """
    files = FileServer("")
    clients: set[asyncio.Task[None]] = set()

    def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.create_task(_serve(reader, writer, files, content, bytes_per_second))
        clients.add(client)
        client.add_done_callback(clients.discard)

    server = await asyncio.start_server(on_client, HOST, 0)
    files.url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}/{quote(name)}"
    try:
        yield files
    finally:
        server.close()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    files: FileServer,
    content: bytes,
    bytes_per_second: float,
) -> None:
    """One request, one answer; a client that leaves early is nobody's trouble."""
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            status, body = await _answer(reader, files, content)
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


async def _answer(reader: asyncio.StreamReader, files: FileServer, content: bytes) -> tuple[str, bytes]:
    """Status and body for the request that comes; a picture's bytes are kept."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, target, *_ = head.split(" ", 2)
    path = urlsplit(target).path
    if method == "GET" and path == urlsplit(files.url).path:
        return "200 OK", content
    if method == "PUT" and path.startswith(PICTURES):
        length = next((line for line in head.lower().splitlines() if line.startswith("content-length:")), "")
        size = int(length.partition(":")[2] or 0)
        if size > MAX_PICTURE:
            return "413 Content Too Large", b""
        files.pictures[unquote(path.removeprefix(PICTURES))] = await reader.readexactly(size)
        return "200 OK", b""
    return "404 Not Found", b""
