"""Pictures are measured without Pillow, and turned to the pixel."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from printago_moonraker.printer import picture
from printago_moonraker.virtual.webcam import make_picture

if TYPE_CHECKING:
    from collections.abc import Callable

Pixel = tuple[int, int, int]
WIDTH, HEIGHT = 96, 64
# Which pixel of the original is at (x, y) of a picture that was turned clockwise.
SOURCES: dict[int, Callable[[int, int], tuple[int, int]]] = {
    0: lambda x, y: (x, y),
    90: lambda x, y: (y, HEIGHT - 1 - x),
    180: lambda x, y: (WIDTH - 1 - x, HEIGHT - 1 - y),
    270: lambda x, y: (WIDTH - 1 - y, x),
}


def decoded(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def at(image: Image.Image, x: int, y: int) -> Pixel:
    found = image.getpixel((x, y))
    assert isinstance(found, tuple)
    return int(found[0]), int(found[1]), int(found[2])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("vertical", [False, True])
def test_every_pixel_is_where_it_belongs(rotation: int, horizontal: bool, vertical: bool) -> None:
    """First turned clockwise, then mirrored as seen: each pixel against the one of the original."""
    content = make_picture(2, (WIDTH, HEIGHT))
    result = picture.turned(
        picture.read(content), rotation=rotation, flip_horizontal=horizontal, flip_vertical=vertical
    )
    before, after = decoded(content), decoded(result.content)
    assert after.size == (result.width, result.height)
    assert after.size == ((HEIGHT, WIDTH) if rotation in (90, 270) else (WIDTH, HEIGHT))
    for x in range(result.width):
        for y in range(result.height):
            turned = (result.width - 1 - x if horizontal else x, result.height - 1 - y if vertical else y)
            expected = at(before, *SOURCES[rotation](*turned))
            assert all(abs(a - b) < 12 for a, b in zip(at(after, x, y), expected, strict=True)), (x, y)


def test_an_upright_picture_is_not_touched() -> None:
    """Nothing to do: the bytes are the camera's own."""
    content = make_picture()
    upright = picture.turned(picture.read(content), rotation=0, flip_horizontal=False, flip_vertical=False)
    assert upright.content is content


@pytest.mark.parametrize("size", [(16, 16), (320, 240), (1920, 1080), (17, 33)])
@pytest.mark.parametrize("progressive", [False, True])
def test_size(size: tuple[int, int], progressive: bool) -> None:
    """Width and height come from the frame header, baseline or progressive, grey or coloured, with tables or EXIF
    before it.
    """
    for mode in ("L", "RGB", "CMYK"):
        output = io.BytesIO()
        exif = Image.Exif()
        exif[0x010E] = "a description"
        Image.new(mode, size).save(output, "JPEG", progressive=progressive, exif=exif)
        found = picture.read(output.getvalue())
        assert (found.width, found.height) == size


WHOLE = make_picture()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"\xff\xd8\xff",
        b"<html>No camera here.</html>",
        b"\x89PNG\r\n\x1a\n",
        WHOLE[:100],
        WHOLE[:-2],
        WHOLE[: len(WHOLE) // 2],
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8" + b"\xff" * 100,
        b"\xff\xd8\xff\xe0\x00\x00" * 5,
    ],
)
def test_what_is_no_whole_jpeg(content: bytes) -> None:
    """It is refused, also a picture that was cut off."""
    with pytest.raises(ValueError, match="JPEG"):
        picture.read(content)


def test_fill_bytes_and_padding() -> None:
    """Markers may be filled up with 0xFF, and a buffer may go on after the end."""
    content = WHOLE[:2] + b"\xff\xff" + WHOLE[2:] + b"\0" * 500
    assert (picture.read(content).width, picture.read(content).height) == (320, 240)


def test_a_broken_one_cannot_be_turned() -> None:
    """What looks like a JPEG and is none is a ValueError, not Pillow's."""
    start = WHOLE.index(b"\xff\xc4")
    broken = picture.Picture(WHOLE[:start] + b"\xff\xc4\x00\x03\x99" + WHOLE[start + 30 :], 320, 240)
    with pytest.raises(ValueError, match="broken"):
        picture.turned(broken, rotation=90, flip_horizontal=False, flip_vertical=False)


def test_too_many_pixels() -> None:
    """A picture that would fill the memory is not decoded."""
    with pytest.raises(ValueError, match="too many"):
        picture.turned(picture.Picture(WHOLE, 60_000, 60_000), rotation=90, flip_horizontal=False, flip_vertical=False)


def test_pillow_is_imported_late() -> None:
    """Measuring needs no Pillow."""
    code = "import sys; from printago_moonraker.printer import picture, camera; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
