"""Moonraker's webcams: whose URL is whose, and what an answer is worth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from printago_moonraker.moonraker.webcams import MAX_BYTES, NoPicture, PictureReader, Webcam, read_webcams, resolve

LOCAL = "http://127.0.0.1:7125"
REMOTE = "http://192.168.1.20:7125/voron"
JPEG = b"\xff\xd8picture\r\n\r\n--fram\xff\xd9"

ENTRY: dict[str, Any] = {
    "name": "front",
    "enabled": True,
    "service": "mjpegstreamer-adaptive",
    "stream_url": "/webcam/?action=stream",
    "snapshot_url": "/webcam/?action=snapshot",
    "flip_horizontal": True,
    "flip_vertical": False,
    "rotation": 270,
    "source": "database",
    "uid": "55d3d801",
}


@pytest.mark.parametrize(
    ("url", "moonraker", "expected"),
    [
        ("/webcam/?action=snapshot", LOCAL, "http://127.0.0.1/webcam/?action=snapshot"),
        ("webcam2/?action=snapshot", LOCAL, "http://127.0.0.1/webcam2/?action=snapshot"),
        ("/webcam/?action=snapshot", REMOTE, "http://192.168.1.20/webcam/?action=snapshot"),
        ("/webcam/", "http://[fd00::7]:7125", "http://[fd00::7]/webcam/"),
        ("/webcam/", "https://voron.local:7130", "http://voron.local/webcam/"),
        ("/webcam/", "https://voron.local", "https://voron.local/webcam/"),
        ("/webcam/", "http://voron.local/printer1", "http://voron.local/webcam/"),
        ("http://192.168.1.9:8080/snap?a=b%20c", LOCAL, "http://192.168.1.9:8080/snap?a=b%20c"),
        ("http://127.0.0.1:8080/?action=snapshot", LOCAL, "http://127.0.0.1:8080/?action=snapshot"),
        ("http://127.0.0.1:8080/?action=snapshot", REMOTE, "http://192.168.1.20:8080/?action=snapshot"),
        ("https://u:p@localhost/x", REMOTE, "https://u:p@192.168.1.20/x"),
        ("http://[::1]:81/x", "http://[fd00::7]:7125", "http://[fd00::7]:81/x"),
        ("  /webcam/ ", LOCAL, "http://127.0.0.1/webcam/"),
        ("", LOCAL, ""),
        ("rtsp://192.168.1.9/stream", LOCAL, ""),
        ("file:///etc/passwd", LOCAL, ""),
        ("http://[broken", LOCAL, ""),
        ("http://host:port/", LOCAL, ""),
    ],
)
def test_urls(url: str, moonraker: str, expected: str) -> None:
    """A relative URL belongs to port 80 of Moonraker's host, and so does a loopback address; all else is none."""
    assert resolve(url, moonraker) == expected


def test_an_entry() -> None:
    """Moonraker's members become the agent's, the URLs whole."""
    (webcam,) = read_webcams([ENTRY], REMOTE)
    assert webcam == Webcam(
        name="front",
        enabled=True,
        service="mjpegstreamer-adaptive",
        snapshot_url="http://192.168.1.20/webcam/?action=snapshot",
        stream_url="http://192.168.1.20/webcam/?action=stream",
        flip_horizontal=True,
        flip_vertical=False,
        rotation=270,
    )


def test_the_plugins_shape() -> None:
    """OctoPrint's members with OctoPrint's meaning, and no password in a URL."""
    entry = {**ENTRY, "snapshot_url": "http://admin:hunter2@10.0.0.5/snap.jpg", "stream_url": ""}
    (webcam,) = read_webcams([entry], LOCAL)
    assert webcam.describe() == {
        "name": "front",
        "can_snapshot": True,
        "flipH": True,
        "flipV": False,
        "rotate90": True,
        "rotation": 270,
        "enabled": True,
        "deprecated_snapshot_url": "http://10.0.0.5/snap.jpg",
        "deprecated_stream_url": None,
    }


@pytest.mark.parametrize(
    ("changes", "source"),
    [
        ({}, "/webcam/?action=snapshot"),
        ({"snapshot_url": ""}, "/webcam/?action=stream"),
        ({"snapshot_url": None, "service": "MJPEGstreamer"}, "/webcam/?action=stream"),
        ({"snapshot_url": "", "service": "webrtc-camerastreamer"}, ""),
        ({"service": "webrtc-camerastreamer"}, "/webcam/?action=snapshot"),
        ({"snapshot_url": "", "stream_url": ""}, ""),
    ],
)
def test_where_a_picture_comes_from(changes: dict[str, Any], source: str) -> None:
    """The snapshot URL, else a stream that is made of pictures."""
    (webcam,) = read_webcams([{**ENTRY, **changes}], LOCAL)
    assert webcam.picture_url == (f"http://127.0.0.1{source}" if source else "")
    assert webcam.can_snapshot is bool(source)


def test_odd_entries() -> None:
    """A camera of a newer Moonraker, or of a broken database, is read as far as it goes."""
    odd = {"name": 5, "rotation": "90", "enabled": None, "flip_vertical": "yes", "snapshot_url": None}
    (webcam,) = read_webcams([odd, {}, {"name": ""}], LOCAL)
    assert webcam == Webcam(name="5")
    (off,) = read_webcams([{**ENTRY, "enabled": False}], LOCAL)
    assert not off.can_snapshot


# ---- answers


def feed(reader: PictureReader, data: bytes, size: int) -> bytes | None:
    for start in range(0, len(data), size):
        found = reader.take(data[start : start + size])
        if found is not None:
            return found
    return reader.take(b"")


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_whole_body(size: int) -> None:
    """A snapshot is the whole body."""
    assert (
        feed(PictureReader(200, {"Content-Type": "image/jpeg", "Content-Length": str(len(JPEG))}), JPEG, size) == JPEG
    )


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("dashes", ["", "--"])
@pytest.mark.parametrize("opening", [b"", b"\r\n", b"some preamble\r\n"])
def test_the_first_frame(size: int, length: bool, dashes: str, opening: bytes) -> None:
    """The first part of an MJPEG stream, with and without lengths, and however its boundary is written."""
    said = b"content-length: %d\r\n" % len(JPEG) if length else b""
    part = b"--frame\r\nContent-Type: image/jpeg\r\n" + said + b"\r\n" + JPEG + b"\r\n"
    reader = PictureReader(200, {"Content-Type": f'multipart/x-mixed-replace;boundary="{dashes}frame"'})
    assert feed(reader, opening + part * 2, size) == JPEG


@given(jpeg=st.binary(min_size=1, max_size=300), cuts=st.lists(st.integers(1, 60), min_size=1), length=st.booleans())
def test_any_bytes_in_any_pieces(jpeg: bytes, cuts: list[int], length: bool) -> None:
    """A frame comes out as it went in, however the network cuts it up."""
    boundary = b"1a2b3c4d5e6f-unlikely"
    said = b"Content-Length: %d\r\n" % len(jpeg) if length else b""
    rest = b"--" + boundary + b"\r\n" + said + b"\r\n" + jpeg + b"\r\n--" + boundary + b"\r\n\r\n"
    reader = PictureReader(200, {"Content-Type": "multipart/x-mixed-replace; boundary=1a2b3c4d5e6f-unlikely"})
    found, number = None, 0
    while rest and found is None:
        cut = cuts[number % len(cuts)]
        found, rest, number = reader.take(rest[:cut]), rest[cut:], number + 1
    assert found == jpeg


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [
        (404, {}, "answered 404 Not Found"),
        (401, {}, "answered 401 Unauthorized"),
        (206, {}, "answered 206"),
        (799, {}, "answered 799"),
        (200, {"X-UStreamer-Online": "false"}, "not plugged in"),
        (
            200,
            {"Last-Modified": "Mon, 23 Nov 2026 09:00:00 GMT", "Date": "Mon, 23 Nov 2026 10:00:00 GMT"},
            "3600 s old",
        ),
        (200, {"Content-Length": str(MAX_BYTES + 1)}, "more than 10240 KiB"),
    ],
)
def test_answers_that_are_none(status: int, headers: dict[str, str], why: str) -> None:
    """An answer that shows by its head that it is no picture of now is not read."""
    with pytest.raises(NoPicture, match=why):
        PictureReader(status, headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"Last-Modified": "Mon, 23 Nov 2026 09:59:30 GMT", "Date": "Mon, 23 Nov 2026 10:00:00 GMT"},
        {"Last-Modified": "Mon, 23 Nov 2026 09:00:00 GMT"},
        {"Last-Modified": "yesterday", "Date": "Mon, 23 Nov 2026 10:00:00 GMT"},
        {"Last-Modified": "Mon, 23 Nov 2026 09:00:00", "Date": "Mon, 23 Nov 2026 10:00:00 GMT"},
        {"X-UStreamer-Online": "true"},
    ],
)
def test_a_picture_of_now(headers: dict[str, str]) -> None:
    """What does not say that it is old is taken."""
    assert feed(PictureReader(200, headers), JPEG, 100) == JPEG


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("image/jpeg", b"\xff\xd8" + bytes(MAX_BYTES)),
        ("multipart/x-mixed-replace; boundary=f", b"--f\r\n\r\n" + bytes(MAX_BYTES + 1)),
        ("multipart/x-mixed-replace; boundary=f", b"--f\r\nContent-Length: 99999999\r\n\r\n"),
        ("multipart/x-mixed-replace; boundary=f", b"no part at all " * 10_000),
    ],
)
def test_without_end(content_type: str, data: bytes) -> None:
    """What does not end is given up at 10 MB, and a part that does not begin much earlier."""
    with pytest.raises(NoPicture, match="more than"):
        feed(PictureReader(200, {"Content-Type": content_type}), data, 65536)


def test_a_stream_that_ends_too_early() -> None:
    """Half a frame is none."""
    reader = PictureReader(200, {"Content-Type": "multipart/x-mixed-replace; boundary=f"})
    with pytest.raises(NoPicture, match="ended"):
        feed(reader, b"--f\r\nContent-Length: 100\r\n\r\n" + JPEG, 10)
