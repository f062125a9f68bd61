"""A sliced 3MF archive (`.gcode.3mf`): one G-code file for each plate, in a ZIP.

A ZIP's table of contents is at its end, so, unlike plain G-code, the archive has to lie on the disk for a moment: in an
unnamed temporary file that goes with its last reader, also after a crash.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, cast

from printago_moonraker.errors import DownloadFailed, DownloadTooLarge, FileNotFound, NoSpace
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

MAGIC = b"PK\x03\x04"
_PLATE = re.compile(r"Metadata/plate_(\d+)\.gcode")
# What zipfile lets out, depending on which byte is wrong; RuntimeError is a password.
_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, OSError,
)  # fmt: skip
_CHUNK = 256 * 1024
_SPARE = 0.05  # of the disk stays free
_MAX_CONTENTS = 1024 * 1024  # bytes: the table of contents is read as a whole; a sliced project has some dozens of rows
# What zipfile unpacks piece by piece; of bzip2 and LZMA it takes whatever a piece expands to, which has no bound.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@asynccontextmanager
async def spooled(chunks: AsyncIterator[bytes], folder: Path) -> AsyncIterator[IO[bytes]]:
    """The bytes of `chunks` in a temporary file below `folder`, for the length of the block. Raises NoSpace."""
    await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        spare = int(shutil.disk_usage(folder).total * _SPARE)
        async for chunk in chunks:
            if shutil.disk_usage(folder).free - len(chunk) < spare:
                raise NoSpace("The disk is too full to open the archive: less than 5 % would stay free.")
            await asyncio.to_thread(file.write, chunk)
        yield file


async def plate_gcode(file: IO[bytes], plate: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The G-code of one plate, in pieces. Raises FileNotFound, DownloadFailed, DownloadTooLarge (an archive may unpack
    to anything).
    """
    try:
        with await asyncio.to_thread(zipfile.ZipFile, cast("IO[bytes]", _Pieces(file))) as archive:
            member = _find(archive, plate)
            if member.compress_type not in _METHODS:
                raise DownloadFailed("The 3MF archive is not packed in the way of 3MF: stored or deflated.")
            if member.file_size > max_bytes:
                raise DownloadTooLarge(f"The plate's G-code has {member.file_size} bytes; {max_bytes} are allowed.")
            with archive.open(member) as gcode:
                while piece := await asyncio.to_thread(gcode.read, _CHUNK):
                    yield piece
    except _UNREADABLE as error:
        raise DownloadFailed(f"The 3MF archive cannot be read: {printable(str(error))}.") from None


class _Pieces:
    """A file for zipfile, of which nobody gets more at once than is good for the memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_CONTENTS:
            raise zipfile.BadZipFile("its table of contents is too long")
        return self._file.read(_MAX_CONTENTS if size < 0 else size)


def _find(archive: zipfile.ZipFile, plate: int) -> zipfile.ZipInfo:
    plates = {int(match[1]): member for member in archive.infolist() if (match := _PLATE.fullmatch(member.filename))}
    if plate in plates:
        return plates[plate]
    there = f"plates {', '.join(map(str, sorted(plates)))}" if plates else "no sliced plate at all"
    raise FileNotFound(f"The 3MF archive holds no G-code for plate {plate}; it holds {there}.")
