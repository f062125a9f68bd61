"""What lies under the name that an upload is to have, and what is to be done about it when the upload failed.

Moonraker receives into its temporary folder. Where that is on another filesystem, the file comes to its name by a copy
over what was there before (`shutil.move`): a full disk or a kill in the middle leaves a part of it under the good name.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from printago_moonraker import web
from printago_moonraker.errors import UploadFailed
from printago_moonraker.log import printable
from printago_moonraker.web import Broken

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

PATIENCE: Final = 45.0  # s; systemd starts a Moonraker that died after 10 s, and a slow host needs a while for that
RETRY: Final = 1.0  # s
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 10.0  # s

_MOONRAKER: Final = web.Peer("Moonraker", UploadFailed)
_ABSENT: Final = (-1, "")
_DOUBT: Final = "The file on the printer may be incomplete: download it again before it is printed."


class Place:
    """One file, by its path below gcodes. No method raises anything; cancelling is safe."""

    def __init__(self, moonraker_url: str, path: str, api_key: str | None, ca_file: Path | None) -> None:
        self._path = path
        self._url = f"{moonraker_url.rstrip('/')}/server/files/gcodes/{quote(path)}"
        self._headers = {"Accept-Encoding": "identity"} | ({"X-Api-Key": api_key} if api_key else {})
        self._ca_file = ca_file
        self._before: tuple[int, str] | None = None  # None: nobody has seen it

    async def remember(self) -> None:
        """Take note of what lies there, right before an upload may change it."""
        with suppress(Broken, UploadFailed):
            async with self._session() as session:
                self._before = await self._look(session)

    async def clear(self, size: int) -> str:
        """After an upload of `size` bytes that failed: delete what is neither whole nor what was there before.

        Moonraker may be starting again; after `PATIENCE` the result is a sentence about what is in doubt, else it is
        empty.
        """
        with suppress(TimeoutError, UploadFailed):
            async with asyncio.timeout(PATIENCE), self._session() as session:
                while True:
                    try:
                        return await self._clear(session, size)
                    except Broken as broken:
                        logger.debug("%s: %s", printable(self._path), broken)
                    await asyncio.sleep(RETRY)
        return _DOUBT

    async def delete(self) -> None:
        """Whatever lies there, if that can be done."""
        with suppress(Broken, UploadFailed):
            async with self._session() as session:
                await self._delete(session)

    def _session(self) -> web.Session:
        return web.session(ca_file=self._ca_file, connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT)

    async def _clear(self, session: web.Session, size: int) -> str:
        now = await self._look(session)
        if now in (_ABSENT, self._before) or now[0] == size:
            return ""
        if self._before is None:
            return _DOUBT
        await self._delete(session)
        logger.warning("%s was incomplete (%d of %d bytes), and is deleted", printable(self._path), now[0], size)
        return ""

    async def _look(self, session: web.Session) -> tuple[int, str]:
        """The file's size in bytes and when it was changed."""
        with _MOONRAKER.mapped():
            response = await session.head(self._url, headers=self._headers, allow_redirects=False)
        response.close()
        if response.status == HTTPStatus.NOT_FOUND:
            return _ABSENT
        length = response.headers.get("Content-Length", "")
        if response.status != HTTPStatus.OK or not length.isdecimal():
            raise Broken(f"Moonraker does not tell its size ({response.status})")
        return int(length), response.headers.get("Last-Modified", "")

    async def _delete(self, session: web.Session) -> None:
        with _MOONRAKER.mapped():
            response = await session.delete(self._url, headers=self._headers, allow_redirects=False)
        response.close()
        if response.status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
            raise Broken(f"Moonraker does not delete it ({response.status})")
