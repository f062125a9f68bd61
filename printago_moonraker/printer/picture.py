"""JPEG pictures: how large one is, and turning it. Pillow is imported only where a picture must be turned: it costs
10 MB of memory, and most cameras stand upright.

Source: ITU-T T.81, annex B (markers and the frame header).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

CONTENT_TYPE = "image/jpeg"
MAX_PIXELS = 50_000_000  # three bytes each while it is turned
QUALITY = 90

_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # SOF0 to SOF15, less the tables among them
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_SCAN, _END = 0xDA, b"\xff\xd9"


@dataclass(frozen=True)
class Picture:
    """One JPEG; width and height in pixels."""

    content: bytes
    width: int
    height: int


def read(content: bytes) -> Picture:
    """A picture as it came. Raises ValueError for what is no JPEG, or not a whole one."""
    if not content.startswith(b"\xff\xd8\xff"):
        raise ValueError("no JPEG")
    size, place = None, 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker in _BARE or marker == 0xFF:  # 0xFF: a fill byte
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES and place + 9 <= len(content):
            height, width = (int.from_bytes(content[at : at + 2], "big") for at in (place + 5, place + 7))
            size = width, height
        if marker == _SCAN:
            break
        place += 2 + length
    if not size or 0 in size or content.rfind(_END) < place:
        raise ValueError("a JPEG that is not whole")
    return Picture(content, *size)


def turned(picture: Picture, *, rotation: int, flip_horizontal: bool, flip_vertical: bool) -> Picture:
    """The picture turned clockwise by `rotation` degrees (0, 90, 180, 270), then mirrored. Blocks: for a thread.

    Raises ValueError for a picture that is broken or too large.
    """
    from PIL import Image

    ways = Image.Transpose
    steps = {90: [ways.ROTATE_270], 180: [ways.ROTATE_180], 270: [ways.ROTATE_90]}.get(rotation, [])  # PIL's turn left
    steps += [ways.FLIP_LEFT_RIGHT] * flip_horizontal + [ways.FLIP_TOP_BOTTOM] * flip_vertical
    if not steps:
        return picture
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width} x {picture.height} pixels, too many to turn")
    try:
        with Image.open(io.BytesIO(picture.content), formats=["JPEG"]) as image:
            result: Image.Image = image.convert("RGB") if image.mode not in ("L", "RGB") else image
            for step in steps:
                result = result.transpose(step)
            output = io.BytesIO()
            # Full colour resolution: halving it a second time, along the other axis, would blur.
            result.save(output, "JPEG", quality=QUALITY, subsampling="4:4:4")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken file
        raise ValueError("a broken JPEG") from error
    return Picture(output.getvalue(), result.width, result.height)
