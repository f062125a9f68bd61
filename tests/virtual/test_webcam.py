"""The virtual webcam is a webcam: its pictures can be told apart, and its stream is MJPEG."""

from __future__ import annotations

import asyncio
import io
from urllib.parse import urlsplit

import pytest
from PIL import Image

from printago_moonraker.virtual.webcam import BLOCK, CORNERS, SIZE, Mode, VirtualWebcam, make_picture


async def get(url: str, size: int) -> bytes:
    """At most `size` bytes of the answer, its head among them."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        data = b""
        while len(data) < size and (chunk := await reader.read(65536)):
            data += chunk
        return data
    finally:
        writer.close()


@pytest.mark.parametrize("size", [SIZE, (96, 64), (2560, 1440)])
def test_each_corner_has_its_color(size: tuple[int, int]) -> None:
    """So that a turned picture can be told from an upright one."""
    image = Image.open(io.BytesIO(make_picture(3, size))).convert("RGB")
    assert image.size == size
    for (right, low), color in CORNERS.items():
        found = image.getpixel((right * (size[0] - 1), low * (size[1] - 1)))
        assert isinstance(found, tuple)
        assert all(abs(a - b) < 6 for a, b in zip(found, color, strict=True))
    square = image.getpixel((3 * BLOCK + BLOCK // 2, size[1] // BLOCK // 2 * BLOCK + BLOCK // 2))
    assert isinstance(square, tuple)
    assert min(square) > 240


async def test_each_picture_is_another() -> None:
    """The snapshot URL gives one picture after the other."""
    async with VirtualWebcam() as webcam:
        bodies = [(await get(webcam.snapshot_url, 10**6)).partition(b"\r\n\r\n")[2] for _ in range(2)]
        assert bodies == [make_picture(0), make_picture(1)]
        assert webcam.requests == 2


@pytest.mark.parametrize("lengths", [True, False])
async def test_the_stream_is_multipart(lengths: bool) -> None:
    """Pictures between boundaries, with their lengths or without."""
    async with VirtualWebcam(lengths=lengths) as webcam:
        data = await get(webcam.stream_url, 3 * len(make_picture(0)))
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"multipart/x-mixed-replace; boundary=frame" in head
    first, second, *_ = body.split(b"--frame\r\n")[1:]
    assert first.endswith(b"\r\n\r\n" + make_picture(0) + b"\r\n")
    assert make_picture(1) in second
    assert (b"Content-Length: %d" % len(make_picture(0)) in first) is lengths


@pytest.mark.parametrize("mode", Mode)
async def test_it_ends_in_every_mode(mode: Mode) -> None:
    """However it behaves, it goes away when it is told to, with a client in the middle of a picture."""
    async with VirtualWebcam(mode) as webcam:
        client = asyncio.create_task(get(webcam.snapshot_url, 10**5))
        async with asyncio.timeout(5):
            await webcam.asked(1)
    client.cancel()
    await asyncio.gather(client, return_exceptions=True)
