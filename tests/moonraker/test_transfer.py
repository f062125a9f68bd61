"""What a download believes."""

from __future__ import annotations

import hashlib

import pytest

from printago_moonraker import errors
from printago_moonraker.moonraker.transfer import Transfer
from printago_moonraker.web import Broken

CONTENT = b"0123456789"
HEADERS = {"Content-Length": "10", "ETag": '"v1"'}


def halfway(headers: dict[str, str] | None = None) -> Transfer:
    """A transfer that broke after four bytes of ten."""
    transfer = Transfer(100)
    transfer.begin(200, HEADERS if headers is None else headers)
    assert transfer.take(CONTENT[:4]) == CONTENT[:4]
    with pytest.raises(Broken):
        transfer.end()
    return transfer


def test_whole() -> None:
    """A body of the promised length is the file, with its size and sum."""
    transfer = Transfer(100, 10, hashlib.sha256(CONTENT).hexdigest().upper())
    transfer.begin(200, HEADERS)
    assert transfer.total == 10
    transfer.take(CONTENT)
    transfer.end()
    assert transfer.whole
    assert (transfer.received, transfer.sha256) == (10, hashlib.sha256(CONTENT).hexdigest())


def test_unknown_length() -> None:
    """Without a length, the end of the body is the end of the file."""
    transfer = Transfer(100)
    transfer.begin(200, {})
    assert transfer.total is None
    transfer.take(CONTENT)
    transfer.end()
    assert transfer.whole


@pytest.mark.parametrize(
    ("headers", "if_range"),
    [
        (HEADERS, '"v1"'),
        ({"Content-Length": "10", "Last-Modified": "Mon, 23 Nov 2026 09:00:00 GMT"}, "Mon, 23 Nov 2026 09:00:00 GMT"),
        ({"Content-Length": "10", "ETag": 'W/"v1"', "Last-Modified": "x"}, "x"),
    ],
)
def test_resume_is_conditional(headers: dict[str, str], if_range: str) -> None:
    """The rest is asked for on the condition that the file is still the same; a weak ETag is no such condition."""
    assert halfway(headers).request_headers() == {
        "Accept-Encoding": "identity", "Range": "bytes=4-", "If-Range": if_range
    }  # fmt: skip


@pytest.mark.parametrize("headers", [{"Content-Length": "10"}, {"Content-Length": "10", "ETag": 'W/"v1"'}])
def test_no_blind_splice(headers: dict[str, str]) -> None:
    """Where nothing tells two versions apart, the whole file is asked for again, and compared."""
    assert halfway(headers).request_headers() == {"Accept-Encoding": "identity"}


def test_first_request_asks_for_everything() -> None:
    """Before anything has come there is no range."""
    assert Transfer(100).request_headers() == {"Accept-Encoding": "identity"}


def test_resumed() -> None:
    """A 206 that starts where the first body broke gives the rest."""
    transfer = halfway()
    transfer.begin(206, {"Content-Range": "bytes 4-9/10"})
    assert transfer.take(CONTENT[4:]) == CONTENT[4:]
    transfer.end()
    assert transfer.sha256 == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("size", [1, 3, 4, 7, 10])
def test_begun_anew(size: int) -> None:
    """A 200 instead of a 206 is read from its start, in pieces of any size, and only what is new is passed on."""
    transfer = halfway()
    transfer.begin(200, HEADERS)
    pieces = [transfer.take(CONTENT[n : n + size]) for n in range(0, 10, size)]
    transfer.end()
    assert b"".join(pieces) == CONTENT[4:]
    assert transfer.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_begun_anew_and_different() -> None:
    """A 200 whose first bytes are others is another file."""
    transfer = halfway()
    transfer.begin(200, HEADERS)
    with pytest.raises(errors.DownloadFailed, match="changed during the download"):
        transfer.take(b"01x3456789")


def test_broken_while_repeating() -> None:
    """A repetition that breaks off counts nothing twice."""
    transfer = halfway()
    transfer.begin(200, HEADERS)
    assert transfer.take(CONTENT[:2]) == b""
    with pytest.raises(Broken):
        transfer.end()
    transfer.begin(206, {"Content-Range": "bytes 4-9/10"})
    assert transfer.take(CONTENT[4:]) == CONTENT[4:]
    transfer.end()


def without_length() -> Transfer:
    """A transfer that broke after four bytes of nobody knows how many."""
    transfer = Transfer(100)
    transfer.begin(200, {"ETag": '"v1"'})
    transfer.take(CONTENT[:4])
    return transfer


def test_begun_anew_and_shorter() -> None:
    """A body begun anew that ends before the place where the last one broke is not the end."""
    transfer = without_length()
    transfer.begin(200, {})
    transfer.take(CONTENT[:2])
    with pytest.raises(Broken):
        transfer.end()


@pytest.mark.parametrize(("status", "headers"), [(200, {"Content-Length": "3"}), (416, {"Content-Range": "bytes */3"})])
def test_shrunk(status: int, headers: dict[str, str]) -> None:
    """A length that is shorter than what has come belongs to another file."""
    with pytest.raises(errors.DownloadFailed, match="changed during the download"):
        without_length().begin(status, headers)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {"Content-Range": "bytes 3-9/10"}),
        (206, {"Content-Range": "bytes 4-10/11"}),
        (416, {"Content-Range": "bytes */3"}),
        (416, {"Content-Range": "bytes */11"}),
        (200, {"Content-Length": "11"}),
    ],
)
def test_another_file(status: int, headers: dict[str, str]) -> None:
    """A resumption at another place, or of another size, is another file."""
    with pytest.raises(errors.DownloadFailed, match="changed during the download"):
        halfway().begin(status, headers)


@pytest.mark.parametrize("said", ["", "bytes */10", "bytes 4-9/*", "bytes x-9/10", "4-9/10"])
def test_unverifiable_range(said: str) -> None:
    """A 206 that does not say what it holds is not believed."""
    with pytest.raises(errors.DownloadFailed, match="cannot be checked"):
        halfway().begin(206, {"Content-Range": said})


def test_nothing_left() -> None:
    """A 416 that says the file ends where we are is the end of a file without a length; its own body is none of it."""
    transfer = Transfer(100)
    transfer.begin(200, {"ETag": '"v1"'})
    transfer.take(CONTENT)
    transfer.begin(416, {"Content-Range": "bytes */10"})
    assert transfer.whole


def test_nothing_left_is_no_proof() -> None:
    """A 416 that calls a broken body the whole file is held to the announced size and sum like any other end."""
    for announced, sentence in (((None, "00" * 32), "SHA-256"), ((11, None), "11 were announced")):
        transfer = Transfer(100, *announced)
        transfer.begin(200, {"ETag": '"v1"'})
        transfer.take(CONTENT)
        with pytest.raises(errors.ChecksumMismatch, match=sentence):
            transfer.begin(416, {"Content-Range": "bytes */10"})
        assert not transfer.whole


@pytest.mark.parametrize(("status", "headers"), [(206, {"Content-Range": "bytes 4-9/10"}), (200, {})])
def test_more_than_the_file_has(status: int, headers: dict[str, str]) -> None:
    """A body without a length that goes on beyond the file's own end is refused, not taken."""
    transfer = halfway()
    transfer.begin(status, headers)
    with pytest.raises(errors.DownloadFailed, match="more than the 10 bytes"):
        transfer.take((CONTENT[4:] if status == 206 else CONTENT) + b"x")


@pytest.mark.parametrize("status", [206, 416, 204, 304, 400, 403, 404, 410, 429, 302, 199])
def test_final_refusals(status: int) -> None:
    """Any other answer is final, and said with its number."""
    with pytest.raises(errors.DownloadFailed, match=f"The download URL answered {status}"):
        Transfer(100).begin(status, {})


def test_not_found() -> None:
    """A file that is not there is said so."""
    with pytest.raises(errors.DownloadFailed) as error:
        Transfer(100).begin(404, {})
    assert str(error.value) == "The download URL answered 404 Not Found."


@pytest.mark.parametrize("status", [500, 502, 503, 599])
def test_passing_trouble(status: int) -> None:
    """The server's own trouble may pass."""
    with pytest.raises(Broken):
        Transfer(100).begin(status, {})


def test_compressed() -> None:
    """A compressed body, against our wish, is refused: its sizes would be others."""
    with pytest.raises(errors.DownloadFailed, match="compressed"):
        Transfer(100).begin(200, {"Content-Encoding": "gzip"})


def test_too_large() -> None:
    """A file over the limit is refused by its header, and without one by its bytes; one of just the limit is not."""
    with pytest.raises(errors.DownloadTooLarge, match="of 10 bytes is larger than the limit of 9 bytes"):
        Transfer(9).begin(200, HEADERS)
    transfer = Transfer(10)
    transfer.begin(200, {})
    transfer.take(CONTENT)
    with pytest.raises(errors.DownloadTooLarge):
        transfer.take(b"x")


def test_announced_size() -> None:
    """A size other than the announced one is refused by the header, else at the end."""
    with pytest.raises(errors.ChecksumMismatch, match="has 10 bytes, but 11 were announced"):
        Transfer(100, 11).begin(200, HEADERS)
    transfer = Transfer(100, 11)
    transfer.begin(200, {})
    transfer.take(CONTENT)
    with pytest.raises(errors.ChecksumMismatch, match="has 10 bytes, but 11 were announced"):
        transfer.end()


def test_announced_sum() -> None:
    """Bytes with another sum than the announced one are refused at the end."""
    transfer = Transfer(100, None, "00" * 32)
    transfer.begin(200, HEADERS)
    transfer.take(CONTENT)
    with pytest.raises(errors.ChecksumMismatch, match="SHA-256"):
        transfer.end()
