"""Files over HTTP: a download from the cloud, and an upload to Moonraker.

A `Download` is an async iterator of bytes, and `upload` takes one: the file streams through in constant memory, and is
never on a disk on the way.

Source: Moonraker's documentation, "File upload"; RFC 9110 sections 13 and 14 (conditions, ranges); RFC 7578 (forms).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from printago_moonraker import web
from printago_moonraker.backoff import Backoff
from printago_moonraker.errors import AgentError, CommandError, DownloadFailed, UploadFailed
from printago_moonraker.moonraker.form import closing, failure, opening, stored_path
from printago_moonraker.moonraker.place import Place
from printago_moonraker.moonraker.transfer import Transfer
from printago_moonraker.web import CHUNK, Broken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from printago_moonraker.urlpolicy import UrlPolicy

_SOURCE: Final = web.Peer("download", DownloadFailed)
_MOONRAKER: Final = web.Peer("Moonraker", UploadFailed)
_NO_SUM: Final = "0" * 64  # the SHA-256 of nothing that anybody knows
# Failures with not one new byte between them. A new byte starts the count again: a bad line, but a line.
MAX_ATTEMPTS: Final = 5
# Bytes that must come while the source is waited for so long (s): one that drips would hold up all later downloads.
SLOWEST: Final = (64 * 1024, 120.0)
# Moonraker reads the metadata of the whole file before it answers: 22 MB take 0.2 s, an SD card may be a hundred
# times slower.
ANSWER_TIMEOUT: Final = 120.0
# Moonraker 0.11 receives into a file that is named by the second of the system's clock, in a folder that all Moonrakers
# of a host share: two uploads begun in one second are mixed into one file, and both may be called good.
UPLOAD_SPACING: Final = 1.1
_next_upload: dict[str, float] = {}  # by host


class Download:
    """One file from a URL of the cloud, resumed where it breaks off.

        async with Download(url, policy, max_bytes=2**31) as download:
            async for chunk in download: ...

    Entering the block connects: from then on `total` (bytes, None when the server does not say) is known, and what is
    refused was refused. `received` counts bytes, `sha256` (hex) is theirs. Entering and iterating raise ForbiddenUrl,
    DownloadFailed, DownloadTooLarge, ChecksumMismatch (the last at the end, instead of ending). Timeouts are in
    seconds, `read_timeout` is the longest silence. Cancelling is safe; iterating can go on afterwards.
    """

    def __init__(
        self,
        url: str,
        policy: UrlPolicy,
        *,
        max_bytes: int,
        expected_size: int | None = None,
        expected_sha256: str | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._url = url
        self._policy = policy
        self._timeouts = (connect_timeout, read_timeout)
        self._backoff = backoff or Backoff(base=0.5)
        self._transfer = Transfer(max_bytes, expected_size, expected_sha256)
        self._session: web.Session | None = None
        self._response: web.Response | None = None
        self._came, self._waited = 0, 0.0  # bytes, s

    @property
    def total(self) -> int | None:
        return self._transfer.total

    @property
    def received(self) -> int:
        return self._transfer.received

    @property
    def sha256(self) -> str:
        return self._transfer.sha256

    async def __aenter__(self) -> Self:
        connect, read = self._timeouts
        self._session = web.session(self._policy, connect_timeout=connect, read_timeout=read)
        try:
            await self._connected()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._disconnect()
        assert self._session is not None
        await self._session.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes, at most 256 KiB."""
        while True:
            response = await self._connected()
            try:
                chunk = await self._read(response)
            except Broken as broken:
                await self._wait(broken)
                continue
            if not chunk:
                raise StopAsyncIteration
            self._backoff.reset()
            return chunk

    async def _connected(self) -> web.Response:
        """The response that is being read, or one that goes on where the last one broke."""
        while self._response is None:
            try:
                self._response = await self._open()
            except Broken as broken:
                await self._wait(broken)
        return self._response

    async def _wait(self, broken: Broken) -> None:
        """After a failure that may pass; raises DownloadFailed when there were enough of them."""
        self._disconnect()
        wait = self._backoff.next()
        if self._backoff.failures >= MAX_ATTEMPTS:
            raise DownloadFailed(f"The download failed after {self.received} bytes: {broken}.") from broken
        await asyncio.sleep(wait)
        self._waited += wait
        self._pace(0)

    def _pace(self, came: int) -> None:
        """Count bytes; raises DownloadFailed when the source is too slow. The consumer's own time does not count."""
        self._came += came
        least, span = SLOWEST
        if self._waited >= span:
            if self._came < least:
                raise DownloadFailed(f"The download was given up: {self._came} bytes came in {self._waited:.0f} s.")
            self._came, self._waited = 0, 0.0

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    async def _read(self, response: web.Response) -> bytes:
        """New bytes; b"" at the end of the file."""
        while not self._transfer.whole:
            begun = asyncio.get_running_loop().time()
            try:
                with _SOURCE.mapped():
                    chunk = await response.content.read(CHUNK)
            finally:
                self._waited += asyncio.get_running_loop().time() - begun
            if not chunk:
                self._transfer.end()
                continue
            self._pace(len(chunk))
            if new := self._transfer.take(chunk):
                return new
        return b""

    async def _open(self) -> web.Response:
        """A response with the rest of the file, from the first URL on: what that redirects to may live for a minute."""
        assert self._session is not None
        response = await _SOURCE.request(
            self._session, "GET", self._url, self._policy, headers=self._transfer.request_headers()
        )
        try:
            self._transfer.begin(response.status, response.headers)
        except BaseException:
            response.close()
            raise
        return response


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file that lies on the printer: its path below gcodes, its size in bytes, its SHA-256."""

    path: str
    size: int
    sha256: str


async def upload(
    moonraker_url: str,
    chunks: AsyncIterator[bytes],
    *,
    folder: str,
    name: str,
    api_key: str | None = None,
    ca_file: Path | None = None,
    answer_timeout: float = ANSWER_TIMEOUT,
) -> Uploaded:
    """Stream a file into Moonraker's gcodes folder.

    `folder` is relative to gcodes, and made when it is not there. The name appears when the file is whole, its SHA-256
    checked by Moonraker, its metadata read; it replaces a file of that name. `answer_timeout` (seconds) is how long
    Moonraker may be silent when it is its turn; the source of `chunks` has its own patience. Raises what `chunks`
    raises, ForbiddenPath, Busy, NoSpace, ChecksumMismatch, UploadFailed: in every case Moonraker discards what it has.
    Cancelling is safe and discards too, unless the last byte was already sent. A part that it left under the file's
    name is deleted, which may have to wait until it is there again; where that cannot be done, the error says so.

    When the source fails, the form is brought to its end with a sum that cannot be right: of a connection that is cut
    instead, Moonraker would keep the part that it has in its temporary folder for ever.
    """
    place = Place(moonraker_url, f"{folder}/{name}", api_key, ca_file)
    form = _Form(chunks, folder, name, answer_timeout, place.remember)
    try:
        status, answer = await _send(moonraker_url, form, api_key, ca_file)
        if form.error is not None:
            if status == HTTPStatus.CREATED:  # stored against its checksum, by a Moonraker too old to check it
                await place.delete()
            raise form.error
        if status != HTTPStatus.CREATED:
            raise failure(status, answer)
        return Uploaded(stored_path(answer, form.size), form.size, form.sha256)
    except CommandError as error:
        doubt = await place.clear(form.size) if form.closed and form.error is None else ""
        if doubt:
            raise type(error)(f"{error} {doubt}") from error
        raise


async def _send(moonraker_url: str, form: _Form, api_key: str | None, ca_file: Path | None) -> tuple[int, bytes]:
    """Moonraker's answer to the form: status and body."""
    url = moonraker_url.rstrip("/") + "/server/files/upload"
    headers = {"Content-Type": f"multipart/form-data; boundary={form.boundary}"}
    if api_key:
        headers["X-Api-Key"] = api_key
    try:
        async with form.deadline, web.session(ca_file=ca_file) as session:
            await _take_turn(moonraker_url)
            form.moonrakers_turn()
            with _MOONRAKER.mapped():
                response = await session.post(url, data=form, headers=headers, allow_redirects=False)
                try:
                    return response.status, await response.read()
                finally:
                    response.close()
    except TimeoutError as error:
        raise UploadFailed(f"Moonraker did not take the upload: no sign of life for {form.patience:g} s.") from error
    except web.Unreachable as error:
        raise UploadFailed("Moonraker cannot be reached for the upload.") from error
    except Broken as error:
        if form.error is not None:  # the source failed; that Moonraker was left in the middle is only the consequence
            raise form.error from None
        # What it does, without a word, when its temporary folder is full or the file too large.
        raise UploadFailed(
            "Moonraker broke off the upload: its disk may be full, or the file larger than max_upload_size allows."
        ) from error


async def _take_turn(moonraker_url: str) -> None:
    """Wait until no other upload of this process to that host began in the last second."""
    host = urlsplit(moonraker_url).hostname or ""
    now = asyncio.get_running_loop().time()
    start = max(now, _next_upload.get(host, now))
    _next_upload[host] = start + UPLOAD_SPACING
    await asyncio.sleep(start - now)


class _Form:
    """The form as aiohttp pulls it. No generator, because nobody would close that one after a failure."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        folder: str,
        name: str,
        patience: float,
        before_the_end: Callable[[], Awaitable[None]],
    ) -> None:
        self.boundary = secrets.token_hex(16)
        self.error: AgentError | None = None
        self._opening: bytes | None = opening(self.boundary, folder, name)
        self._chunks = chunks
        self._hash = hashlib.sha256()
        self.size = 0
        self.closed = False  # from here on Moonraker may have the whole of it, and act on it
        self.deadline = asyncio.timeout(None)
        self.patience = patience  # s
        self._before_the_end = before_the_end

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self.deadline.reschedule(None)
        try:
            return await self._next()
        finally:
            self.moonrakers_turn()

    def moonrakers_turn(self) -> None:
        """From now on it is Moonraker that is waited for: to connect, to take bytes, to answer."""
        self.deadline.reschedule(asyncio.get_running_loop().time() + self.patience)

    async def _next(self) -> bytes:
        if self._opening is not None:
            first, self._opening = self._opening, None
            return first
        if self.closed:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            await self._before_the_end()
            self.closed = True
            return closing(self.boundary, self.sha256)
        except AgentError as error:
            self.error, self.closed = error, True
            return closing(self.boundary, _NO_SUM)
        self._hash.update(chunk)
        self.size += len(chunk)
        return chunk
