"""A webcam without a camera: real JPEG test pictures over HTTP on loopback, and every trouble that real ones make.

The picture has a marker in each corner (top left red, top right green, bottom left blue, bottom right yellow) and a
white square that moves on with each picture, all of them in 16 pixel blocks, so that JPEG keeps their colours exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from email.utils import formatdate
from enum import StrEnum
from itertools import count
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST: Final = "127.0.0.1"
SIZE: Final = (320, 240)
BLOCK: Final = 16
CORNERS: Final = {
    (0, 0): (230, 30, 30),
    (1, 0): (30, 200, 30),
    (0, 1): (30, 30, 230),
    (1, 1): (230, 220, 30),
}
BACKGROUND: Final = (110, 110, 110)
FRAME_INTERVAL: Final = 0.05  # s between two frames of the stream
HUGE: Final = 64 * 1024 * 1024  # bytes, more than anybody should take for a picture
STALE_FOR: Final = 3600.0  # s
_PIECE: Final = 64 * 1024
_BOUNDARY: Final = "frame"


class Mode(StrEnum):
    """How the webcam behaves."""

    GOOD = "good"
    DEAD = "dead"  # closes the connection without a word
    SILENT = "silent"  # takes the request, and says nothing
    SLOW = "slow"  # a byte at a time
    ENDLESS = "endless"  # a picture that never ends
    HUGE = "huge"  # a picture that is announced as far too large
    CUT = "cut"  # ends in the middle of the picture
    TEXT = "text"  # a page instead of a picture
    GONE = "gone"  # 404
    STALE = "stale"  # a picture that was made an hour ago
    UNPLUGGED = "unplugged"  # a stand-in picture, as ustreamer serves one


def make_picture(number: int = 0, size: tuple[int, int] = SIZE) -> bytes:
    """One JPEG of `size` (width, height in pixels); `number` says where the white square is."""
    from PIL import Image

    width, height = size
    image = Image.new("RGB", size, BACKGROUND)
    for (right, low), color in CORNERS.items():
        place = (right * (width - 2 * BLOCK), low * (height - 2 * BLOCK))
        image.paste(color, (*place, place[0] + 2 * BLOCK, place[1] + 2 * BLOCK))
    left, top = number % (width // BLOCK) * BLOCK, height // BLOCK // 2 * BLOCK
    image.paste((255, 255, 255), (left, top, left + BLOCK, top + BLOCK))
    output = io.BytesIO()
    image.save(output, "JPEG", quality=95)
    return output.getvalue()


class VirtualWebcam:
    """A web server with `snapshot_url` and `stream_url` (MJPEG); an async context manager.

    `mode` may be changed at any time; `lengths` says whether the stream's parts have a Content-Length. `requests`
    counts both URLs.
    """

    def __init__(self, mode: Mode = Mode.GOOD, *, size: tuple[int, int] = SIZE, lengths: bool = True) -> None:
        self.mode = mode
        self.lengths = lengths
        self.requests = 0
        self._size = size
        self._request = asyncio.Event()
        self._numbers = count()
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_client, HOST, 0)
        port = self._server.sockets[0].getsockname()[1]
        self.snapshot_url = f"http://{HOST}:{port}/?action=snapshot"
        self.stream_url = f"http://{HOST}:{port}/?action=stream"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()

    async def asked(self, requests: int) -> None:
        """Wait until there were so many requests. Cancelling is safe."""
        while self.requests < requests:
            self._request.clear()
            await self._request.wait()

    def entry(self, name: str, *, stream_only: bool = False) -> dict[str, str]:
        """The options of a `[webcam NAME]` section in moonraker.conf, and the name."""
        snapshot = {} if stream_only else {"snapshot_url": self.snapshot_url}
        return {"name": name, "service": "mjpegstreamer", "stream_url": self.stream_url, **snapshot}

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.create_task(self._serve(reader, writer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            self._request.set()
            if b"action=stream" in head.partition(b"\r\n")[0]:
                await self._stream(writer)
            else:
                await self._snapshot(writer)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # a client that leaves is nobody's trouble
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _snapshot(self, writer: asyncio.StreamWriter) -> None:
        picture, length = self._picture(), True
        headers = {"Content-Type": "image/jpeg"}
        match self.mode:
            case Mode.DEAD:
                return
            case Mode.SILENT:
                await asyncio.Event().wait()
            case Mode.GONE:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                return
            case Mode.TEXT:
                picture, headers = b"<html>No camera here.</html>", {"Content-Type": "text/html"}
            case Mode.STALE:
                headers |= {"Last-Modified": _ago(STALE_FOR), "Date": _ago(0.0)}
            case Mode.UNPLUGGED:
                headers["X-UStreamer-Online"] = "false"
            case Mode.HUGE:
                headers["Content-Length"] = str(HUGE)
            case Mode.ENDLESS:
                length = False
            case _:
                pass
        if length:
            headers = {"Content-Length": str(len(picture))} | headers
        writer.write(_head(headers))
        await self._body(writer, picture)

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        if self.mode is Mode.DEAD:
            return
        if self.mode is Mode.SILENT:
            await asyncio.Event().wait()
        writer.write(_head({"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}"}))
        while True:
            picture = self._picture()
            length = f"Content-Length: {len(picture)}\r\n" if self.lengths and self.mode is not Mode.ENDLESS else ""
            writer.write(f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode())
            await self._body(writer, picture)
            if self.mode is Mode.CUT:
                return
            writer.write(b"\r\n")
            await asyncio.sleep(FRAME_INTERVAL)

    async def _body(self, writer: asyncio.StreamWriter, picture: bytes) -> None:
        """The picture, in the way that the mode has."""
        for piece in self._pieces(picture):
            writer.write(piece)
            await writer.drain()
            if self.mode is Mode.SLOW:
                await asyncio.sleep(0.1)

    def _pieces(self, picture: bytes) -> Iterator[bytes]:
        match self.mode:
            case Mode.SLOW:
                yield from (picture[start : start + 1] for start in range(len(picture)))
            case Mode.CUT:
                yield picture[: len(picture) // 2]
            case Mode.ENDLESS:
                yield picture[:-2]  # without its end marker
                while True:
                    yield bytes(_PIECE)
            case Mode.HUGE:
                yield picture
                for _ in range(HUGE // _PIECE):
                    yield bytes(_PIECE)
            case _:
                yield picture

    def _picture(self) -> bytes:
        return make_picture(next(self._numbers), self._size)


def _head(headers: dict[str, str]) -> bytes:
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close", "", ""]
    return "\r\n".join(lines).encode()


def _ago(seconds: float) -> str:
    return formatdate(time.time() - seconds, usegmt=True)
