"""A sliced 3MF: one plate's G-code comes out, or one clear error."""

from __future__ import annotations

import asyncio
import io
import shutil
import zipfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from printago_moonraker import errors
from printago_moonraker.printer import archive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GCODE = b"G28\nG1 X10\n" * 50_000


def archived(**plates: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("3D/3dmodel.model", "<model/>")
        for name, content in plates.items():
            file.writestr(f"Metadata/{name}.gcode", content)
    return buffer.getvalue()


async def chunks(content: bytes, size: int = 4096) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def read(file: IO[bytes], plate: int = 1, limit: int = 10**9) -> bytes:
    return b"".join([piece async for piece in archive.plate_gcode(file, plate, limit)])


async def test_a_plates_gcode_comes_out_whole(tmp_path: Path) -> None:
    """The archive is spooled below the given folder without a name, and nothing is left of it."""
    folder = tmp_path / "data"
    async with archive.spooled(chunks(archived(plate_1=b"other", plate_2=GCODE)), folder) as file:
        assert list(folder.iterdir()) == []
        assert await read(file, 2) == GCODE
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_missing_plate_says_what_is_there() -> None:
    """The sentence names the plates, or that there is none."""
    with pytest.raises(errors.FileNotFound, match="plate 3; it holds plates 1, 2"):
        await read(io.BytesIO(archived(plate_2=b"b", plate_1=b"a")), 3)
    with pytest.raises(errors.FileNotFound, match="no sliced plate"):
        await read(io.BytesIO(archived()))


async def test_an_archive_that_unpacks_to_too_much_is_refused() -> None:
    """A small archive may hold a large file: the limit is that of the G-code."""
    with pytest.raises(errors.DownloadTooLarge):
        await read(io.BytesIO(archived(plate_1=GCODE)), 1, len(GCODE) - 1)
    assert await read(io.BytesIO(archived(plate_1=GCODE)), 1, len(GCODE)) == GCODE


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
async def test_what_unpacks_without_a_bound_is_refused(method: int) -> None:
    """A few hundred bytes of bzip2 or LZMA would become gigabytes in one piece; 3MF does not use them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("Metadata/plate_1.gcode", GCODE)
    with pytest.raises(errors.DownloadFailed, match="stored or deflated"):
        await read(buffer)


async def test_a_table_of_contents_has_a_bound() -> None:
    """It is read as a whole, and would otherwise be as large in memory as a download may be."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for number in range(20):
            padding = zipfile.ZipInfo(f"{number}")
            padding.comment = b" " * 60_000
            file.writestr(padding, b"")
        file.writestr("Metadata/plate_1.gcode", GCODE)
    with pytest.raises(errors.DownloadFailed, match="table of contents"):
        await read(buffer)


async def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 % of the disk stay free."""
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 949, 51))
    with pytest.raises(errors.NoSpace):
        async with archive.spooled(chunks(b"12"), tmp_path):
            pytest.fail("it is too full")


ARCHIVE = archived(plate_1=b"G28\n" * 100)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_archive_is_one_clear_error(place: int, byte: int, cut: bool) -> None:
    """Whatever byte is wrong or missing: the G-code as it was, or a CommandError, never anything else."""
    damaged = ARCHIVE[:place] if cut else ARCHIVE[:place] + bytes([byte]) + ARCHIVE[place + 1 :]

    with suppress(errors.DownloadFailed, errors.DownloadTooLarge, errors.FileNotFound):
        assert asyncio.run(read(io.BytesIO(damaged))) == b"G28\n" * 100
