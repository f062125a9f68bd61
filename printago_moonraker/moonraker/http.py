"""Files over HTTP: a download from the cloud, and an upload to Moonraker. The only module that knows aiohttp.

A `Download` is an async iterator of bytes, and `upload` takes one: the file streams through in constant memory, and is
never on a disk on the way. aiohttp is imported when the first transfer begins, because it costs 9 MB of memory.

Source: Moonraker's documentation, "File upload"; RFC 9110 sections 13 and 14 (conditions, ranges); RFC 7578 (forms).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Self, cast
from urllib.parse import urlsplit

from printago_moonraker.backoff import Backoff
from printago_moonraker.errors import AgentError, DownloadFailed, UploadFailed
from printago_moonraker.moonraker.form import closing, failure, opening, stored_path
from printago_moonraker.moonraker.transfer import Broken, Transfer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from aiohttp import ClientResponse, ClientSession
    from aiohttp.abc import AbstractResolver, ResolveResult
    from yarl import URL

    from printago_moonraker.urlpolicy import UrlPolicy

CHUNK: Final = 256 * 1024
MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Failures with not one new byte between them. A new byte starts the count again: a bad line, but a line.
MAX_ATTEMPTS: Final = 5
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
        self._session: ClientSession | None = None
        self._response: ClientResponse | None = None

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
        self._session = _download_session(self._policy, *self._timeouts)
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

    async def _connected(self) -> ClientResponse:
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

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    async def _read(self, response: ClientResponse) -> bytes:
        """New bytes; b"" at the end of the file."""
        while not self._transfer.whole:
            with _mapped():
                chunk = await response.content.read(CHUNK)
            if not chunk:
                self._transfer.end()
            elif new := self._transfer.take(chunk):
                return new
        return b""

    async def _open(self) -> ClientResponse:
        """A response with the rest of the file, from the first URL on: what that redirects to may live for a minute."""
        response = await self._follow(_parse(self._url), self._transfer.request_headers())
        try:
            self._transfer.begin(response.status, response.headers)
        except BaseException:
            response.close()
            raise
        return response

    async def _follow(self, url: URL, headers: dict[str, str]) -> ClientResponse:
        """The first response that is no redirection; every hop is judged before it is made."""
        assert self._session is not None
        for _ in range(MAX_REDIRECTS + 1):
            self._policy.check_url(str(url))
            self._policy.check_host(url.host or "")  # as the one that connects reads it
            with _mapped():
                response = await self._session.get(url, headers=headers, allow_redirects=False)
            if response.status not in REDIRECTS or "Location" not in response.headers:
                return response
            response.close()
            url = url.join(_parse(response.headers["Location"]))
        raise DownloadFailed(f"The download URL redirects more than {MAX_REDIRECTS} times.")


class _Resolver:
    """The system's resolver, of whose answers only those go on that the policy lets through: the address that was
    checked is the address that is connected to, so a name cannot change its mind in between."""

    def __init__(self, policy: UrlPolicy) -> None:
        self._policy = policy

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        for _, _, _, _, address in found:
            self._policy.check_address(host, str(address[0]))
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            {"hostname": host, "host": str(address[0]), "port": port, "family": kind, "proto": proto, "flags": flags}
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        pass


def _download_session(policy: UrlPolicy, connect_timeout: float, read_timeout: float) -> ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=cast("AbstractResolver", _Resolver(policy)), use_dns_cache=False, force_close=True
        ),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout, sock_read=read_timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # sizes and sums are those of the bytes sent
        trust_env=False,  # a proxy would resolve names by itself, unchecked
        read_bufsize=CHUNK,
    )


@contextmanager
def _mapped() -> Iterator[None]:
    """aiohttp's exceptions as ours. Their texts are not passed on: they may hold the URL, and with it a signature."""
    import aiohttp

    try:
        yield
    except aiohttp.InvalidURL:
        raise DownloadFailed("The download URL cannot be read.") from None
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        raise DownloadFailed("The download server's certificate is not valid.") from error
    except TimeoutError as error:
        raise Broken("the server stopped sending") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise Broken("the server's name was not found") from error
    except aiohttp.ClientConnectorError as error:
        raise Broken("the server cannot be reached") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Broken("the connection broke") from error


def _parse(url: str) -> URL:
    """A URL as it stands: a signed one must not be rewritten, unless it holds what no request line may."""
    import yarl

    try:
        parsed = yarl.URL(url, encoded=url.isascii() and url.isprintable() and " " not in url)
        str(parsed)  # host and port are read only now
    except ValueError:
        raise DownloadFailed("The download URL cannot be read.") from None
    return parsed


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
    Cancelling is safe and discards too, unless the last byte was already sent.
    """
    import aiohttp

    url = moonraker_url.rstrip("/") + "/server/files/upload"
    deadline = asyncio.timeout(None)
    form = _Form(chunks, folder, name, deadline, answer_timeout)
    headers = {"Content-Type": f"multipart/form-data; boundary={form.boundary}"}
    if api_key:
        headers["X-Api-Key"] = api_key
    try:
        async with deadline, _upload_session(moonraker_url, ca_file) as session:
            await _take_turn(moonraker_url)
            form.moonrakers_turn()
            response = await session.post(url, data=form, headers=headers, allow_redirects=False)
            try:
                answer = await response.read()
            finally:
                response.close()
    except TimeoutError as error:
        raise UploadFailed(f"Moonraker did not take the upload: no sign of life for {answer_timeout:g} s.") from error
    except (aiohttp.ClientError, OSError) as error:
        if form.error is not None:  # the source failed; that Moonraker was left in the middle is only the consequence
            raise form.error from None
        raise UploadFailed(_upload_broke(error)) from error
    if response.status != HTTPStatus.CREATED:
        raise failure(response.status, answer)
    return Uploaded(stored_path(answer, form.size), form.size, form.sha256)


async def _take_turn(moonraker_url: str) -> None:
    """Wait until no other upload of this process to that host began in the last second."""
    host = urlsplit(moonraker_url).hostname or ""
    now = asyncio.get_running_loop().time()
    start = max(now, _next_upload.get(host, now))
    _next_upload[host] = start + UPLOAD_SPACING
    await asyncio.sleep(start - now)


def _upload_broke(error: Exception) -> str:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "Moonraker's certificate is not trusted."
    if isinstance(error, aiohttp.ClientConnectorError):
        return "Moonraker cannot be reached for the upload."
    # What it does, without a word, when its temporary folder is full or the file too large.
    return "Moonraker broke off the upload: its disk may be full, or the file larger than max_upload_size allows."


class _Form:
    """The form as aiohttp pulls it. No generator, because nobody would close that one after a failure."""

    def __init__(
        self, chunks: AsyncIterator[bytes], folder: str, name: str, deadline: asyncio.Timeout, answer_timeout: float
    ) -> None:
        self.boundary = secrets.token_hex(16)
        self.error: AgentError | None = None
        self._opening: bytes | None = opening(self.boundary, folder, name)
        self._chunks = chunks
        self._hash = hashlib.sha256()
        self.size = 0
        self._closed = False
        self._deadline = deadline
        self._answer_timeout = answer_timeout

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._deadline.reschedule(None)
        try:
            return await self._next()
        finally:
            self.moonrakers_turn()

    def moonrakers_turn(self) -> None:
        """From now on it is Moonraker that is waited for: to connect, to take bytes, to answer."""
        self._deadline.reschedule(asyncio.get_running_loop().time() + self._answer_timeout)

    async def _next(self) -> bytes:
        if self._opening is not None:
            first, self._opening = self._opening, None
            return first
        if self._closed:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._closed = True
            return closing(self.boundary, self.sha256)
        except AgentError as error:
            self.error = error  # aiohttp would wrap it
            raise
        self._hash.update(chunk)
        self.size += len(chunk)
        return chunk


def _upload_session(moonraker_url: str, ca_file: Path | None) -> ClientSession:
    import aiohttp

    context = ssl.create_default_context(cafile=ca_file) if moonraker_url.startswith("https:") else True
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # a proxy from the environment is for the internet, not for the printer
    )
