from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from printago_moonraker.demo.file_server import MAX_PICTURE, file_server


async def get(url: str, path: str | None = None, method: str = "GET") -> tuple[str, bytes]:
    """Status line and body."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"{method} {path or parts.path}?sig=1 HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert f"Content-Length: {len(body)}\r\n" in head
    return head.partition("\r\n")[0], body


async def test_it_serves_its_file_and_nothing_else() -> None:
    """Its one file comes whole under its percent-encoded name; everything else is 404."""
    content = bytes(range(256)) * 100
    async with file_server("a b.gcode", content, 1e9) as files:
        url = files.url
        assert url.endswith("/a%20b.gcode")
        assert await get(url) == ("HTTP/1.1 200 OK", content)
        for path, method in (("/other", "GET"), ("/../a%20b.gcode", "GET"), ("/a%20b.gcode", "POST")):
            assert await get(url, path, method) == ("HTTP/1.1 404 Not Found", b"")


async def test_it_takes_pictures() -> None:
    """What is PUT at a picture's URL is there under its name; what is far too large, or cut off, is not."""
    async with file_server("f", b"", 1e9) as files:
        url = files.picture_url("a b.jpg")
        assert (await put(url, b"\xff\xd8picture", 9))[:12] == b"HTTP/1.1 200"
        assert (await put(files.picture_url("large"), b"", MAX_PICTURE + 1))[:12] == b"HTTP/1.1 413"
        assert await put(files.picture_url("cut"), b"12", 3) == b""
        assert files.pictures == {"a b.jpg": b"\xff\xd8picture"}


async def put(url: str, body: bytes, length: int) -> bytes:
    """What is answered to a PUT that says that it has so many bytes, and ends after its own."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"PUT {parts.path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode() + body)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_it_takes_its_time() -> None:
    """A file comes at the given pace, not at loopback's."""
    async with file_server("f", b"x" * 3000, 10_000) as files:
        begun = time.monotonic()
        await get(files.url)
        assert time.monotonic() - begun > 0.25


async def test_leaving_ends_what_is_being_sent() -> None:
    """A client that is still being served does not hold up the end, and a client that left is no trouble."""
    async with file_server("f", b"x" * 1_000_000, 10_000) as files:
        parts = urlsplit(files.url)
        _, early = await asyncio.open_connection(parts.hostname, parts.port)
        early.close()
        await early.wait_closed()
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(b"GET /f HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    assert len(await reader.read()) < 1_000_000
    writer.close()
    await writer.wait_closed()
