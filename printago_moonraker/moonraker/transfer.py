"""What a download asks for and what it believes, without input or output: ranges, conditions, sizes, sums.

Source: RFC 9110 sections 13.1.5 (If-Range), 14 (ranges) and 15.5.17 (416).
"""

from __future__ import annotations

import hashlib
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from printago_moonraker.errors import ChecksumMismatch, DownloadFailed, DownloadTooLarge
from printago_moonraker.log import printable
from printago_moonraker.web import Broken

if TYPE_CHECKING:
    from collections.abc import Mapping


class Transfer:
    """One file on its way, over as many responses as it takes.

    For each: `request_headers`, `begin`, `take` until the body ends, `end`. `received` and `total` are bytes, `total`
    is None while nobody has said; `whole` says that a response has nothing more to add.
    """

    def __init__(self, max_bytes: int, expected_size: int | None = None, expected_sha256: str | None = None) -> None:
        self.received = 0
        self.total: int | None = None
        self.whole = False
        self._max_bytes = max_bytes
        self._expected_size = expected_size
        self._expected_sha256 = expected_sha256
        self._validator: str | None = None
        self._hash = hashlib.sha256()
        self._repeat = 0  # bytes that a body begun anew repeats
        self._repeat_hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of the bytes received so far, as 64 hexadecimal digits."""
        return self._hash.hexdigest()

    def request_headers(self) -> dict[str, str]:
        """The next request's. Without a validator it asks for everything: a blind splice could join two files."""
        headers = {"Accept-Encoding": "identity"}
        if self.received and self._validator:
            headers |= {"Range": f"bytes={self.received}-", "If-Range": self._validator}
        return headers

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Judge a response by its status and headers.

        Raises Broken for the server's own trouble, DownloadFailed, DownloadTooLarge, ChecksumMismatch.
        """
        if status >= 500:
            raise Broken(f"the server answered {_phrase(status)}")
        if headers.get("Content-Encoding", "identity").strip().lower() not in {"identity", ""}:
            encoding = printable(headers["Content-Encoding"], 20)
            raise DownloadFailed(f"The server sends the file compressed ({encoding}), although asked not to.")
        self._repeat = 0
        if status == HTTPStatus.OK:
            length = headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            self._repeat, self._repeat_hash = self.received, hashlib.sha256()
        elif self.received and status in {HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}:
            total = self._resumed(status, headers.get("Content-Range", ""))
        else:
            raise DownloadFailed(f"The download URL answered {_phrase(status)}.")
        self._accept_total(total)
        if not self.received:
            self._validator = _validator(headers)
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.end()  # nothing follows; that the server calls the file whole does not make it the one announced

    def take(self, chunk: bytes) -> bytes:
        """Count bytes of a body, and return those that are new. Raises DownloadFailed, DownloadTooLarge."""
        if self._repeat:
            again, chunk = chunk[: self._repeat], chunk[self._repeat :]
            self._repeat_hash.update(again)
            self._repeat -= len(again)
            if not self._repeat and self._repeat_hash.digest() != self._hash.digest():
                raise _changed()
        if self.total is not None and self.received + len(chunk) > self.total:  # a chunked body may well go on
            raise DownloadFailed(f"The server sent more than the {self.total} bytes that the file has by its own word.")
        if self.received + len(chunk) > self._max_bytes:
            raise self._too_large()
        self.received += len(chunk)
        self._hash.update(chunk)
        return chunk

    def end(self) -> None:
        """The body has ended. Raises Broken when the file has not, ChecksumMismatch when it is another one."""
        if self._repeat or self.total not in (None, self.received):
            raise Broken("the server ended it too early")
        self._check_size(self.received)
        if self._expected_sha256 is not None and self.sha256 != self._expected_sha256.lower():
            raise ChecksumMismatch("The file's SHA-256 is not the one that was announced.")
        self.whole = True

    def _resumed(self, status: int, content_range: str) -> int:
        """The file's size by a 206 or 416 that fits what has been received."""
        said = re.fullmatch(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18})", content_range)
        if said is None or (said[1] is None) == (status == HTTPStatus.PARTIAL_CONTENT):
            raise DownloadFailed("The server resumed the download in a way that cannot be checked.")
        total = int(said[2])
        if int(said[1] or total) != self.received:
            raise _changed()
        return total

    def _accept_total(self, total: int | None) -> None:
        if total is None:
            return
        if self.total not in (None, total) or total < self.received:
            raise _changed()
        self.total = total
        if total > self._max_bytes:
            raise self._too_large()
        self._check_size(total)

    def _check_size(self, size: int) -> None:
        if self._expected_size not in (None, size):
            raise ChecksumMismatch(f"The file has {size} bytes, but {self._expected_size} were announced.")

    def _too_large(self) -> DownloadTooLarge:
        size = "" if self.total is None else f" of {self.total} bytes"
        return DownloadTooLarge(f"The file{size} is larger than the limit of {self._max_bytes} bytes.")


def _validator(headers: Mapping[str, str]) -> str | None:
    """What If-Range may name: a strong ETag, else the time of the last change."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _changed() -> DownloadFailed:
    return DownloadFailed("The file at the source changed during the download.")
