"""Which thumbnail is chosen, and what becomes of it on the way, over real sockets."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from aiohttp import web

from printago_moonraker.moonraker import thumbnails
from printago_moonraker.moonraker.thumbnails import MAX_BYTES, Image, Thumbnail, choose, fetch
from tests.fakes.moonraker import FakeMoonraker

PNG = b"\x89PNG\r\n\x1a\n"
PATH = "Printago/.thumbs/50 % #1?-300x300.png"


def listed(*sizes: tuple[int, int | None]) -> dict[str, Any]:
    """Metadata with thumbnails of these widths and bytes."""
    return {
        "thumbnails": [
            {"width": width, "height": width, "size": size, "relative_path": f".thumbs/{width}.png"}
            for width, size in sizes
        ]
    }


@pytest.mark.parametrize(
    ("metadata", "width"),
    [
        (listed((32, 300), (300, 3000)), 300),
        (listed((300, 3000), (32, 300)), 300),
        (listed((32, 300), (300, MAX_BYTES), (800, MAX_BYTES + 1)), 300),
        (listed((800, MAX_BYTES + 2), (400, MAX_BYTES + 1)), 400),
        (listed((300, None)), 300),
        (listed(), None),
        ({}, None),
        ({"thumbnails": None}, None),
        ({"thumbnails": [{"width": "300"}, {"width": 32}]}, None),
    ],
)
def test_the_largest_that_may_be_sent_is_chosen(metadata: dict[str, Any], width: int | None) -> None:
    """It has up to 48 KiB; where all are larger the smallest is at least named."""
    chosen = choose(metadata, "a.gcode")
    assert (chosen.width if chosen else None) == width


@pytest.mark.parametrize(
    ("filename", "path"), [("a.gcode", ".thumbs/32.png"), ("Printago/x/a.gcode", "Printago/x/.thumbs/32.png")]
)
def test_the_path_is_below_gcodes(filename: str, path: str) -> None:
    """Moonraker names it below the file's own folder."""
    assert choose(listed((32, 1)), filename) == Thumbnail(path, 32, 32, 1)


@pytest.mark.parametrize(("content", "kind"), [(PNG + b"x", "image/png"), (b"\xff\xd8\xff\xe0x", "image/jpeg")])
async def test_fetch(content: bytes, kind: str) -> None:
    """Any file name arrives as it is, the API key goes with it, and the bytes say what kind of picture it is."""
    async with FakeMoonraker(prefix="/printer1") as moonraker:
        moonraker.files[PATH] = content
        image = await fetch(moonraker.url, Thumbnail(PATH, 300, 300, None), api_key="k3y")
        assert image == Image(kind, base64.b64encode(content).decode())
        (path, headers), *more = moonraker.downloads
        assert (path, headers["X-Api-Key"], more) == (PATH, "k3y", [])


@pytest.mark.parametrize(
    "file",
    [
        None,
        PNG + bytes(MAX_BYTES),
        b"<html>no picture</html>",
        b"",
        web.Response(status=302, headers={"Location": "/server/files/gcodes/other"}),
        web.Response(status=401),
    ],
    ids=["missing", "too large", "no picture", "empty", "redirection", "not let in"],
)
async def test_what_cannot_be_had_is_done_without(file: bytes | web.Response | None) -> None:
    """No trouble with a thumbnail is any trouble of the printer's, and nobody is redirected."""
    async with FakeMoonraker() as moonraker:
        moonraker.files["other"] = PNG
        if file is not None:
            moonraker.files[PATH] = file
        assert await fetch(moonraker.url, Thumbnail(PATH, 300, 300, None), api_key=None) is None
        assert len(moonraker.downloads) == 1


async def test_the_largest_that_is_taken() -> None:
    """48 KiB, to the byte."""
    async with FakeMoonraker() as moonraker:
        moonraker.files[PATH] = PNG + bytes(MAX_BYTES - len(PNG))
        assert await fetch(moonraker.url, Thumbnail(PATH, 300, 300, None), api_key=None) is not None


async def test_nobody_is_there() -> None:
    """A Moonraker that cannot be reached gives no picture, and no exception."""
    assert await fetch("http://127.0.0.1:1", Thumbnail(PATH, 300, 300, None), api_key=None) is None


async def test_a_moonraker_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for no longer than the limit."""
    monkeypatch.setattr(thumbnails, "TIMEOUT", 0.05)

    async with SilentServer() as url:
        assert await fetch(url, Thumbnail(PATH, 300, 300, None), api_key=None) is None


class SilentServer:
    """Takes connections and says nothing."""

    async def __aenter__(self) -> str:
        self._gone = asyncio.Event()

        async def serve(_: object, writer: asyncio.StreamWriter) -> None:
            await self._gone.wait()
            writer.close()

        self._server = await asyncio.start_server(serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        self._server.close()
        await self._server.wait_closed()
