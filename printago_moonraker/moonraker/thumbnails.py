"""The pictures that slicers put into G-code files: Moonraker takes them out and lays them beside the file.

Source: Moonraker's documentation, "Get gcode metadata" (thumbnails) and "File download".
"""

from __future__ import annotations

import asyncio
import base64
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from printago_moonraker import web
from printago_moonraker.errors import AgentError
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 48 * 1024  # a third more as base64; with the rest of a status it stays below a broker's 128 KiB
TIMEOUT: Final = 5.0  # s
_MOONRAKER: Final = web.Peer("thumbnail", AgentError)
_KINDS: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Thumbnail:
    """`path` is below the gcodes root; `width` and `height` in pixels, `size` in bytes, None where nobody says."""

    path: str
    width: int
    height: int | None
    size: int | None


@dataclass(frozen=True)
class Image:
    """What a thumbnail looks like: the picture as base64."""

    content_type: str
    image: str


def choose(metadata: Mapping[str, Any], filename: str) -> Thumbnail | None:
    """The largest thumbnail that may be sent, else the smallest there is, None when the file has none.

    `metadata` is Moonraker's of the file `filename`, which is below the gcodes root.
    """
    folder = filename.rpartition("/")[0]
    found = [
        Thumbnail(
            path=f"{folder}/{each['relative_path']}" if folder else each["relative_path"],
            width=each["width"],
            height=_whole(each.get("height")),
            size=_whole(each.get("size")),
        )
        for each in metadata.get("thumbnails") or []
        if isinstance(each.get("width"), int) and isinstance(each.get("relative_path"), str)
    ]
    fitting = [each for each in found if (each.size or 0) <= MAX_BYTES]
    if fitting:
        return max(fitting, key=lambda each: each.width)
    return min(found, key=lambda each: each.width, default=None)


async def fetch(
    moonraker_url: str, thumbnail: Thumbnail, *, api_key: str | None, ca_file: Path | None = None
) -> Image | None:
    """The picture, None when it cannot be had or is larger than 48 KiB: a status does without. Cancelling is safe."""
    try:
        async with asyncio.timeout(TIMEOUT), web.session(read_timeout=TIMEOUT, ca_file=ca_file) as session:
            content = await _get(session, moonraker_url, thumbnail.path, {"X-Api-Key": api_key} if api_key else {})
    except (TimeoutError, web.Broken, AgentError) as error:
        logger.debug("no thumbnail %s: %s", printable(thumbnail.path), str(error) or "no answer in time")
        return None
    kind = next((kind for magic, kind in _KINDS.items() if content.startswith(magic)), None)
    if kind is None or len(content) > MAX_BYTES:
        logger.debug("the thumbnail %s is no small PNG or JPEG", printable(thumbnail.path))
        return None
    return Image(kind, base64.b64encode(content).decode("ascii"))


async def _get(session: web.Session, moonraker_url: str, path: str, headers: Mapping[str, str]) -> bytes:
    """The file below gcodes, at most one byte more than is allowed."""
    url = _MOONRAKER.parse(f"{moonraker_url.rstrip('/')}/server/files/gcodes/{quote(path)}")
    with _MOONRAKER.mapped():
        response = await session.get(url, headers=headers, allow_redirects=False)
        try:
            if response.status != HTTPStatus.OK:
                raise web.Broken(f"Moonraker answers {response.status}")
            content = b""
            while len(content) <= MAX_BYTES and (chunk := await response.content.read(MAX_BYTES + 1 - len(content))):
                content += chunk
            return content
        finally:
            response.close()


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None
