"""Uploads to a Moonraker that refuses, falls silent or is not there."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from printago_moonraker import errors
from printago_moonraker.backoff import Backoff
from printago_moonraker.moonraker import http, place
from printago_moonraker.moonraker.http import Download, Uploaded, upload
from printago_moonraker.urlpolicy import UrlPolicy
from tests.fakes.moonraker import FakeMoonraker, Upload, stored
from tests.fakes.source import FakeSource, ranged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.usefixtures("no_task_left")


@pytest.fixture(autouse=True)
def no_spacing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' uploads go to servers that have nothing in common."""
    monkeypatch.setattr(http, "UPLOAD_SPACING", 0.0)
    monkeypatch.setattr(http, "_next_upload", {})


async def test_uploads_are_spaced(fake: FakeMoonraker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two uploads to one host never begin in the same second, however many are asked for at once."""
    monkeypatch.setattr(http, "UPLOAD_SPACING", 0.1)
    loop = asyncio.get_running_loop()
    begun: list[float] = []

    async def source() -> AsyncIterator[bytes]:
        begun.append(loop.time())
        yield b"G28\n"

    await asyncio.gather(*(send(fake, source()) for _ in range(4)))
    assert all(later - earlier > 0.08 for earlier, later in itertools.pairwise(begun))


@pytest.fixture
async def fake() -> AsyncIterator[FakeMoonraker]:
    async with FakeMoonraker(prefix="/printer1") as fake:
        yield fake


async def stream(
    *chunks: bytes, then: Exception | None = None, wait: asyncio.Event | None = None
) -> AsyncIterator[bytes]:
    """Bytes, and then perhaps an error or a wait."""
    for chunk in chunks:
        yield chunk
    if wait is not None:
        await wait.wait()
    if then is not None:
        raise then


async def send(fake: FakeMoonraker, chunks: AsyncIterator[bytes], **options: Any) -> Uploaded:
    """An upload of Printago/a.gcode."""
    return await upload(fake.url + "/", chunks, folder="Printago", name="a.gcode", **options)


async def test_upload(fake: FakeMoonraker) -> None:
    """The form arrives with folder, name, bytes and their sum, and it is said where the file lies."""
    uploaded = await send(fake, stream(b"G28\n", b"M104 S0\n"), api_key="k3y")
    assert uploaded == Uploaded("Printago/a.gcode", 12, hashlib.sha256(b"G28\nM104 S0\n").hexdigest())
    [arrived] = fake.uploads
    assert b'filename="a.gcode"\r\nContent-Type: application/octet-stream\r\n\r\nG28\nM104 S0\n\r\n--' in arrived.head
    assert (arrived.field("root"), arrived.field("path")) == ("gcodes", "Printago")
    assert arrived.field("checksum") == hashlib.sha256(b"G28\nM104 S0\n").hexdigest()
    assert arrived.headers["X-Api-Key"] == "k3y"


async def test_upload_in_constant_memory(fake: FakeMoonraker) -> None:
    """64 MB go through in less than 8 MB."""
    piece = b"G1 X1\n" * 43690
    await send(fake, stream(piece))  # what the first one imports does not count
    tracemalloc.start()
    try:
        await send(fake, stream(*([piece] * 256)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fake.uploads[-1].size > 64_000_000
    assert peak < 8 * 2**20


async def test_download_into_upload(fake: FakeMoonraker) -> None:
    """A download that breaks and resumes feeds one upload with the right bytes."""
    content = random.Random(7).randbytes(1_000_000)
    here = UrlPolicy(allow_http=True, allowed_hosts=["127.0.0.1/32"])
    backoff = Backoff(base=0.001, floor=0.0)
    async with (
        FakeSource(ranged(content, cut=300_000)) as source,
        Download(source.url, here, max_bytes=2**24, backoff=backoff) as body,
    ):
        await send(fake, body)
    assert fake.uploads[0].field("checksum") == hashlib.sha256(content).hexdigest()


async def test_source_fails(fake: FakeMoonraker) -> None:
    """An error of the source is passed on as it is, and the upload ends in a way that makes Moonraker drop its part."""
    failure = errors.DownloadFailed("The file at the source changed during the download.")
    under_way = asyncio.Event()
    task = asyncio.create_task(send(fake, stream(b"G28\n" * 1000, then=failure, wait=under_way)))
    await fake.until(lambda: bool(fake.uploads) and fake.uploads[0].size > 1000)
    under_way.set()
    with pytest.raises(errors.DownloadFailed) as error:
        await task
    assert error.value is failure
    assert fake.uploads[0].complete
    assert not fake.uploads[0].stored
    assert fake.deleted == []


async def test_source_fails_before_an_old_moonraker(fake: FakeMoonraker) -> None:
    """One that stores the part against its checksum is told to delete it."""
    fake.upload_answer = stored
    failure = errors.DownloadFailed("The server ended it too early.")
    with pytest.raises(errors.DownloadFailed):
        await send(fake, stream(b"G28\n" * 1000, then=failure))
    assert [path.rpartition("/")[2] for path in fake.deleted] == ["a.gcode"]


async def test_cancelled_upload(fake: FakeMoonraker) -> None:
    """Cancelling breaks the upload off: no complete request arrives."""
    task = asyncio.create_task(send(fake, stream(b"G28\n" * 1000, wait=asyncio.Event())))
    await fake.until(lambda: bool(fake.uploads) and fake.uploads[0].size > 1000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await fake.until(lambda: fake.uploads[0].finished)
    assert not fake.uploads[0].complete


async def test_slow_source(fake: FakeMoonraker) -> None:
    """Waiting for the source does not count as Moonraker's silence."""
    wait = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, wait.set)
    uploaded = await send(fake, stream(b"G28\n", wait=wait), answer_timeout=0.2)
    assert uploaded.size == 4


async def test_silent_moonraker(fake: FakeMoonraker) -> None:
    """A Moonraker that takes nothing any more is given up, although its socket is open."""
    fake.read_uploads = False
    with pytest.raises(errors.UploadFailed, match=r"no sign of life for 0\.3 s"):
        await send(fake, stream(*([b"x" * 2**18] * 64)), answer_timeout=0.3)
    fake.read_uploads = True
    fake._news()


async def test_refused_upload(fake: FakeMoonraker) -> None:
    """A refusal is the error of its meaning."""
    traceback = "Traceback ...\ntornado.web.HTTPError: HTTP 403: Forbidden (File is loaded, upload not permitted)\n"
    body = {"error": {"code": 403, "message": "Forbidden", "traceback": traceback}}
    fake.upload_answer = lambda _: web.json_response(body, status=403)
    with pytest.raises(errors.Busy):
        await send(fake, stream(b"G28\n"))


async def test_early_refusal(fake: FakeMoonraker) -> None:
    """A server that answers in the middle and closes ends the upload, while the source still has much to give."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(errors.UploadFailed, match="max_upload_size"):
            await send(fake, stream(*([b"x" * 2**18] * 64)))
        with pytest.raises(errors.UploadFailed, match="max_upload_size"):
            await send(fake, stream(b"x" * 100, wait=asyncio.Event()))


def leaving(fake: FakeMoonraker, left: bytes, status: int = 500) -> Callable[[Upload], web.Response]:
    """A Moonraker that fails when it brings the file to its name: `left` is what lies there then."""

    def answer(_: Upload) -> web.Response:
        fake.files["Printago/a.gcode"] = left
        return web.json_response({"error": {"message": "Unable to save file"}}, status=status)

    return answer


async def test_a_part_under_the_good_name_is_deleted(fake: FakeMoonraker) -> None:
    """What a failed upload has left of a file under its name is deleted, as nobody could tell it from a whole one."""
    fake.files["Printago/a.gcode"] = b"old\n"
    fake.upload_answer = leaving(fake, b"G2")
    with pytest.raises(errors.UploadFailed, match=r"Unable to save file\)\.$"):
        await send(fake, stream(b"G28\n"), api_key="k3y")
    assert fake.deleted == ["gcodes/Printago/a.gcode"]
    assert fake.files == {}


@pytest.mark.parametrize(("before", "left"), [(b"old\n" * 9, b"old\n" * 9), (None, b"G28\n"), (b"old", b"G28\n")])
async def test_what_is_whole_stays(fake: FakeMoonraker, before: bytes | None, left: bytes) -> None:
    """Neither what an upload that failed early has not touched, nor what it has written to the end, is deleted."""
    if before is not None:
        fake.files["Printago/a.gcode"] = before
    fake.upload_answer = leaving(fake, left)
    with pytest.raises(errors.UploadFailed, match=r"Unable to save file\)\.$"):
        await send(fake, stream(b"G28\n"))
    assert fake.deleted == []


async def test_a_part_is_deleted_when_moonraker_is_back(fake: FakeMoonraker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that broke off in the middle is asked again until it answers."""
    monkeypatch.setattr(place, "RETRY", 0.01)

    def die(upload: Upload) -> web.Response:
        fake.looks_fail = 3
        return leaving(fake, b"G2")(upload)

    fake.upload_answer = die
    with pytest.raises(errors.UploadFailed, match=r"Unable to save file\)\.$"):
        await send(fake, stream(b"G28\n"))
    assert fake.files == {}


async def test_what_cannot_be_seen_is_said(fake: FakeMoonraker, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody can tell what lies there, nothing is deleted, and the error says that it may be incomplete."""
    monkeypatch.setattr(place, "PATIENCE", 0.1)
    monkeypatch.setattr(place, "RETRY", 0.01)
    fake.upload_answer = leaving(fake, b"G2")
    for failing in (1, 10**9):  # before the upload only, and for ever
        fake.looks_fail = failing
        with pytest.raises(errors.UploadFailed, match=r"Unable to save file\)\. The file on the printer may be incomp"):
            await send(fake, stream(b"G28\n"))
    assert fake.deleted == []


async def test_moonraker_not_there(fake: FakeMoonraker) -> None:
    """A Moonraker that cannot be reached is an error in words."""
    fake.url = "http://127.0.0.1:1"
    with pytest.raises(errors.UploadFailed, match="cannot be reached"):
        await send(fake, stream(b"G28\n"))


async def test_bad_name(fake: FakeMoonraker) -> None:
    """A name that a header cannot hold is refused before anything is sent."""
    with pytest.raises(errors.ForbiddenPath):
        await upload(fake.url, stream(b""), folder="Printago", name="a\r\nb.gcode")
    assert fake.uploads == []
