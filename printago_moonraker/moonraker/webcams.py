"""A printer's webcams as Moonraker lists them, and what their web servers' answers are worth. Decisions, no I/O.

Sources: Moonraker's documentation, "Webcam Management" (the members, and how a relative URL is resolved); ustreamer's
manual (`X-UStreamer-Online`); RFC 2046 section 5.1 (multipart), RFC 9110 section 8.8.2 (Last-Modified).
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_BYTES: Final = 10 * 1024 * 1024
STALE: Final = 60.0  # s; a file that a camera's program wrote, and has stopped writing
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_HEADER_BYTES: Final = 16 * 1024


class NoPicture(Exception):
    """What came is none; the text says why, and follows "The camera X"."""


@dataclass(frozen=True)
class Webcam:
    """`snapshot_url` and `stream_url` are whole http URLs as the agent reaches them, or "". A picture is first turned
    clockwise by `rotation` (0, 90, 180 or 270 degrees), then mirrored, as Mainsail and Fluidd show it.
    """

    name: str
    enabled: bool = True
    service: str = ""
    snapshot_url: str = ""
    stream_url: str = ""
    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotation: int = 0

    @property
    def picture_url(self) -> str:
        """Where a picture comes from: the snapshot URL, else a stream whose first frame is one; "" for neither."""
        # Only MJPEG has pictures in it: a WebRTC or HLS stream would have to be decoded.
        return self.snapshot_url or (self.stream_url if "mjpeg" in self.service.lower() else "")

    @property
    def can_snapshot(self) -> bool:
        return self.enabled and bool(self.picture_url)

    def describe(self) -> dict[str, Any]:
        """The members of OctoPrint's webcam, and the exact rotation. No password of a URL is in it."""
        return {
            "name": self.name,
            "can_snapshot": self.can_snapshot,
            "flipH": self.flip_horizontal,
            "flipV": self.flip_vertical,
            "rotate90": self.rotation in (90, 270),
            "rotation": self.rotation,
            "enabled": self.enabled,
            "deprecated_snapshot_url": _without_login(self.snapshot_url),
            "deprecated_stream_url": _without_login(self.stream_url),
        }


def read_webcams(entries: Iterable[Mapping[str, Any]], moonraker_url: str) -> tuple[Webcam, ...]:
    """The webcams of a `server.webcams.list` or `notify_webcams_changed`; what has no name is left out."""
    return tuple(_webcam(entry, moonraker_url) for entry in entries if entry.get("name"))


def _webcam(entry: Mapping[str, Any], moonraker_url: str) -> Webcam:
    rotation = entry.get("rotation")
    return Webcam(
        name=str(entry["name"]),
        enabled=entry.get("enabled") is not False,
        service=str(entry.get("service") or ""),
        snapshot_url=resolve(str(entry.get("snapshot_url") or ""), moonraker_url),
        stream_url=resolve(str(entry.get("stream_url") or ""), moonraker_url),
        flip_horizontal=entry.get("flip_horizontal") is True,
        flip_vertical=entry.get("flip_vertical") is True,
        rotation=rotation if rotation in (90, 180, 270) else 0,
    )


def resolve(url: str, moonraker_url: str) -> str:
    """A webcam's URL as this host reaches it; "" for what is no http.

    A relative one belongs to the web server (port 80) of Moonraker's host, not to Moonraker's own port. A loopback
    address means that host, too, wherever the agent runs.
    """
    url = url.strip()
    try:
        here, there = urlsplit(moonraker_url), urlsplit(url)
        host, port = there.hostname, there.port
    except ValueError:
        return ""
    if not url:
        return ""
    if not there.scheme and not host:
        # Without a port of its own, Moonraker is behind the web server that also has the cameras.
        scheme = here.scheme if here.port is None else "http"
        return f"{scheme}://{_bracketed(here.hostname or '')}/{url.lstrip('/')}"
    if there.scheme not in ("http", "https") or not host:
        return ""
    if host in _LOOPBACK and here.hostname not in _LOOPBACK:
        login, at, _ = there.netloc.rpartition("@")
        netloc = f"{login}{at}{_bracketed(here.hostname or '')}" + (f":{port}" if port else "")
        return urlunsplit(there._replace(netloc=netloc))
    return url


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _without_login(url: str) -> str | None:
    parts: SplitResult = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) or None


class PictureReader:
    """The first picture of one response: the whole body, or the first part of an MJPEG stream.

    `take` each chunk, b"" at the body's end, until it returns the picture. Both raise NoPicture.
    """

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        if status != HTTPStatus.OK:
            raise NoPicture(f"answered {_phrase(status)}.")
        if headers.get("X-UStreamer-Online", "").lower() == "false":
            raise NoPicture("is not plugged in: its server shows a stand-in picture.")
        age = _age(headers)
        if age is not None and age > STALE:
            raise NoPicture(f"is stale: its picture is {age:.0f} s old.")
        content_type = Message()
        content_type["Content-Type"] = headers.get("Content-Type", "")
        self._boundary: bytes | None = None
        if content_type.get_content_type() == "multipart/x-mixed-replace":
            # Some servers write the dashes of the delimiter into the parameter, some do not.
            self._boundary = b"--" + str(content_type.get_param("boundary", "")).lstrip("-").encode(
                "latin-1", "replace"
            )
        elif headers.get("Content-Length", "").isdecimal():
            _check_size(int(headers["Content-Length"]))
        self._buffer = bytearray()
        self._start = -1  # where the part's picture begins
        self._end: int | None = None  # where it ends, when its header says so

    def take(self, chunk: bytes) -> bytes | None:
        searched = len(self._buffer)
        self._buffer += chunk
        if self._boundary is None:
            _check_size(len(self._buffer))
            return None if chunk else bytes(self._buffer)
        if self._start < 0 and not self._read_part_header():
            _check_size(len(self._buffer), _HEADER_BYTES)
        elif self._end is None:
            self._find_end(max(self._start, searched - len(self._boundary)))
        if self._end is not None and len(self._buffer) >= self._end:
            return bytes(self._buffer[self._start : self._end])
        _check_size(len(self._buffer) - max(self._start, 0))
        if not chunk:
            raise NoPicture("ended its stream before the first picture was whole.")
        return None

    def _read_part_header(self) -> bool:
        assert self._boundary is not None
        begin = self._buffer.find(self._boundary)
        end = self._buffer.find(b"\r\n\r\n", begin)
        if begin < 0 or end < 0:
            return False
        self._start = end + 4
        for line in bytes(self._buffer[begin:end]).split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                _check_size(int(value))
                self._end = self._start + int(value)
        if self._end is None:
            self._find_end(self._start)
        return True

    def _find_end(self, begin: int) -> None:
        assert self._boundary is not None
        end = self._buffer.find(b"\r\n" + self._boundary, max(self._start, begin - 2))
        if end >= 0:
            self._end = end


def _age(headers: Mapping[str, str]) -> float | None:
    """Seconds between the picture's time and the answer's, both by the server's clock; None when it does not say."""
    try:
        made, now = (parsedate_to_datetime(headers[name]) for name in ("Last-Modified", "Date"))
        return (now - made).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None


def _check_size(size: int, limit: int = MAX_BYTES) -> None:
    if size > limit:
        raise NoPicture(f"sent more than {limit // 1024} KiB without a whole picture.")


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return printable(str(status))
