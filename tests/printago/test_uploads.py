"""A picture reaches its pre-signed URL, or one sentence says why not."""

from __future__ import annotations

import asyncio
import time

import pytest

from printago_moonraker import errors
from printago_moonraker.backoff import Backoff
from printago_moonraker.printago.uploads import Refused, upload
from printago_moonraker.urlpolicy import UrlPolicy
from tests.fakes.storage import Answer, Storage

LOCAL = UrlPolicy(allow_http=True, allowed_hosts=["127.0.0.1"])
CONTENT = b"\xff\xd8" + bytes(range(256)) * 8000 + b"\xff\xd9"  # 2 MB


async def send(storage: Storage, policy: UrlPolicy = LOCAL, *, method: str = "PUT", timeout: float = 30.0) -> None:
    backoff = Backoff(base=0.001, floor=0.0)
    await upload(
        storage.url, CONTENT, policy, content_type="image/jpeg", method=method, timeout=timeout, backoff=backoff
    )


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("status", [200, 201, 204])
async def test_upload(method: str, status: int) -> None:
    """The whole body arrives under the signed path as it stands, with its type and length."""
    async with Storage(Answer(status)) as storage:
        await send(storage, method=method)
        assert len(storage.puts) == 1
        put = storage.puts[0]
    assert (put.method, put.path, put.body) == (method, "/pictures/1.jpg?signature=s3cr3t", CONTENT)
    assert put.headers["content-type"] == "image/jpeg"
    assert put.headers["content-length"] == str(len(CONTENT))
    assert "transfer-encoding" not in put.headers


@pytest.mark.parametrize("first", [Answer(500), Answer(503), Answer(cut=True)])
async def test_trouble_that_passes(first: Answer) -> None:
    """A 5xx and a broken connection are tried again, with the whole body."""
    async with Storage(first, first, Answer()) as storage:
        await send(storage)
        assert [put.body for put in storage.puts] == [CONTENT] * 3


async def test_trouble_that_stays() -> None:
    """After four attempts it is given up, in words without the signature."""
    async with Storage(Answer(502)) as storage:
        with pytest.raises(errors.DestinationFailed, match=r"to 127\.0\.0\.1: the server answered 502\.$") as error:
            await send(storage)
        assert len(storage.puts) == 4
    assert "s3cr3t" not in str(error.value)
    assert not isinstance(error.value, Refused)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 429, 304, 301, 303])
async def test_a_refusal_is_final(status: int) -> None:
    """A 4xx, or an answer that is no success, is never tried again."""
    location = "/elsewhere" if 300 < status < 304 else ""
    async with Storage(Answer(status, location)) as storage:
        with pytest.raises(Refused, match=f"answered {status}"):
            await send(storage)
        assert len(storage.puts) == 1


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirection_keeps_method_and_body(status: int) -> None:
    """Storage that moves an upload on to another of its hosts gets the picture there."""
    async with Storage() as second, Storage(Answer(status, second.url)) as first:
        await send(first)
        assert [put.method for put in second.puts] == ["PUT"]
        assert second.puts[0].body == CONTENT


@pytest.mark.parametrize("target", ["http://10.0.0.1/x?s3cr3t", "http://[::1]/x", "ftp://example.com/", "file:///etc"])
async def test_no_redirection_into_the_network(target: str) -> None:
    """Every hop is judged before it is made."""
    async with Storage(Answer(307, target)) as storage:
        with pytest.raises(errors.ForbiddenUrl) as error:
            await send(storage)
        assert len(storage.puts) == 1
    assert "s3cr3t" not in str(error.value)


async def test_redirections_end() -> None:
    """A circle of redirections is refused."""
    async with Storage(Answer(307, "/again")) as storage:
        with pytest.raises(Refused, match="redirects more than 5 times"):
            await send(storage)


async def test_a_private_address_gets_nothing() -> None:
    """Neither an address nor a name that leads to one is connected to."""
    async with Storage() as storage:
        with pytest.raises(errors.ForbiddenUrl):
            await send(storage, UrlPolicy(allow_http=True))
        storage.url = storage.url.replace("127.0.0.1", "localhost")
        with pytest.raises(errors.ForbiddenUrl):
            await send(storage, UrlPolicy(allow_http=True))
        assert storage.begun == 0


async def test_http_is_a_choice() -> None:
    """Without allow_http only https is taken."""
    async with Storage() as storage:
        with pytest.raises(errors.ForbiddenUrl, match="https"):
            await send(storage, UrlPolicy(allowed_hosts=["127.0.0.1"]))


@pytest.mark.parametrize("url", ["", "nonsense", "http://[::1", "http://127.0.0.1:x/", "https://exa mple/"])
async def test_what_is_no_url(url: str) -> None:
    """It is an error in words."""
    with pytest.raises((errors.ForbiddenUrl, errors.DestinationFailed)):
        await upload(url, b"", LOCAL, content_type="image/jpeg", backoff=Backoff(base=0.001, floor=0.0))


async def test_bounded_time() -> None:
    """A storage that never answers is given up after the time for all attempts."""
    async with Storage() as storage:
        storage.gate.clear()
        begun = time.monotonic()
        with pytest.raises(errors.DestinationFailed, match=r"within 0\.3 s"):
            await send(storage, timeout=0.3)
        assert time.monotonic() - begun < 3


async def test_unreachable() -> None:
    """Nobody there: tried again, then said."""
    with pytest.raises(errors.DestinationFailed, match="cannot be reached"):
        await upload(
            "http://127.0.0.1:1/x", b"", LOCAL, content_type="image/jpeg", backoff=Backoff(base=0.001, floor=0.0)
        )


async def test_cancelled() -> None:
    """Cancelling ends it at once."""
    async with Storage() as storage:
        storage.gate.clear()
        task = asyncio.create_task(send(storage))
        await storage.until(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
