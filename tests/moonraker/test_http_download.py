"""Downloads, over real sockets that break."""

from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from printago_moonraker import errors
from printago_moonraker.backoff import Backoff
from printago_moonraker.moonraker import http
from printago_moonraker.moonraker.http import MAX_ATTEMPTS, Download
from printago_moonraker.urlpolicy import UrlPolicy
from tests.fakes.source import FakeSource, Reply, Script, Seen, ranged

pytestmark = pytest.mark.usefixtures("no_task_left")

CONTENT = random.Random(7).randbytes(1_000_000)
LOCAL = UrlPolicy(allow_http=True, allowed_hosts=["127.0.0.1/32"])


def download(source: FakeSource, policy: UrlPolicy = LOCAL, url: str | None = None, **options: Any) -> Download:
    """A download that does not wait long."""
    patience: dict[str, Any] = {"max_bytes": 2**24, "read_timeout": 5.0, "backoff": Backoff(base=0.001, floor=0.0)}
    return Download(url or source.url, policy, **(patience | options))


async def content(stream: Download) -> bytes:
    """The whole of it."""
    async with stream:
        return b"".join([chunk async for chunk in stream])


async def test_download() -> None:
    """A file arrives whole, in pieces of at most 256 KiB, with its size known before the first and its sum after the
    last.
    """
    async with FakeSource(ranged(CONTENT)) as source:
        async with download(source, expected_size=len(CONTENT)) as stream:
            assert (stream.total, stream.received) == (len(CONTENT), 0)
            pieces = [chunk async for chunk in stream]
            assert stream.received == len(CONTENT)
            assert stream.sha256 == hashlib.sha256(CONTENT).hexdigest()
            assert [chunk async for chunk in stream] == []
        assert b"".join(pieces) == CONTENT
        assert max(map(len, pieces)) <= 256 * 1024
        assert source.seen[0].headers["accept-encoding"] == "identity"
        assert source.seen[0].path == "/files/a.gcode?signature=secret"


async def test_signed_url_is_not_rewritten() -> None:
    """The path and query of a URL go out as they came in: a signature covers them."""
    async with FakeSource(Reply(body=b"x")) as source:
        path = "/a%2Fb%7Ec+d;e/f.gcode?X-Amz-Signature=%2b%3D&x=%7e&y=a+b&z="
        assert await content(download(source, url=f"http://127.0.0.1:{source.port}{path}")) == b"x"
        assert source.seen[0].path == path


async def test_a_broken_body_called_whole() -> None:
    """A source that breaks off, and then says that there is no more, does not get past the announced sum."""
    part = Reply(body=CONTENT[:6], chunked=True, headers={"ETag": '"v1"'}, cut=6)
    done = Reply(416, headers={"Content-Range": "bytes */6"})
    async with FakeSource(part, done) as source:
        with pytest.raises(errors.ChecksumMismatch):
            await content(download(source, expected_sha256=hashlib.sha256(CONTENT).hexdigest()))
        assert len(source.seen) == 2


async def test_empty_file() -> None:
    """A file of no bytes is a file."""
    async with FakeSource(Reply()) as source:
        assert await content(download(source)) == b""


async def test_chunked() -> None:
    """A body without a length is read to its end; one that breaks off is noticed and resumed."""
    whole = Reply(body=CONTENT, chunked=True, headers={"ETag": '"v1"'})
    broken = Reply(body=CONTENT, chunked=True, headers={"ETag": '"v1"'}, cut=300_000)
    async with FakeSource(whole, broken, ranged(CONTENT)) as source:
        assert await content(download(source)) == CONTENT
        assert await content(download(source)) == CONTENT
        assert len(source.seen) == 3


async def test_resume() -> None:
    """A body that breaks off again and again is resumed where it broke, as often as it brings something."""
    async with FakeSource(ranged(CONTENT, cut=120_000)) as source:
        assert await content(download(source, expected_sha256=hashlib.sha256(CONTENT).hexdigest())) == CONTENT
        assert len(source.seen) > MAX_ATTEMPTS
        assert all(seen.headers["if-range"] == '"v1"' for seen in source.seen[1:])


async def test_resume_without_ranges() -> None:
    """A server that begins anew is compared with what came before, and goes on where it broke."""
    first = Reply(body=CONTENT, headers={"ETag": '"v1"'}, cut=300_000)
    async with FakeSource(first, Reply(body=CONTENT)) as source:
        assert await content(download(source)) == CONTENT


async def test_changed_during_the_download() -> None:
    """A server that begins anew with another file is an error, never a file of two halves."""
    other = Reply(body=b"x" + CONTENT[1:], headers={"ETag": '"v2"'})
    async with FakeSource(Reply(body=CONTENT, headers={"ETag": '"v1"'}, cut=300_000), other) as source:
        with pytest.raises(errors.DownloadFailed, match="changed during the download"):
            await content(download(source))


async def test_stall() -> None:
    """A server that falls silent is left, and the rest fetched anew."""
    async with FakeSource(Reply(body=CONTENT, headers={"ETag": '"v1"'}, stall=300_000), ranged(CONTENT)) as source:
        assert await content(download(source, read_timeout=0.2)) == CONTENT
        assert source.seen[1].headers["range"] == "bytes=300000-"


async def test_a_drip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of which a few bytes come now and then is given up: no other download could begin meanwhile."""
    monkeypatch.setattr(http, "SLOWEST", (64 * 1024, 0.3))

    def drip(seen: Seen) -> Reply:
        return replace(ranged(CONTENT)(seen), stall=100)

    async with FakeSource(drip) as source:
        with pytest.raises(errors.DownloadFailed, match=r"given up: \d+ bytes came in 0 s"):
            await content(download(source, read_timeout=0.05))
        assert len(source.seen) > MAX_ATTEMPTS


async def test_no_answer() -> None:
    """A server that never answers is tried a few times, then given up."""

    def silent(_: Seen) -> Reply:
        return Reply(body=b"x" * 10, stall=0)

    async with FakeSource(silent) as source:
        with pytest.raises(errors.DownloadFailed, match="failed after 0 bytes: the server stopped sending"):
            await content(download(source, read_timeout=0.05))
        assert len(source.seen) == MAX_ATTEMPTS


async def test_no_progress() -> None:
    """A server that always breaks at the same place is given up after five failures."""
    async with FakeSource(Reply(body=CONTENT, cut=1000)) as source:
        with pytest.raises(errors.DownloadFailed, match="failed after 1000 bytes"):
            await content(download(source))
        assert len(source.seen) == MAX_ATTEMPTS


async def test_server_trouble_passes() -> None:
    """5xx is tried again."""
    async with FakeSource(Reply(503), Reply(500), Reply(body=b"G28\n")) as source:
        assert await content(download(source)) == b"G28\n"


async def test_server_trouble_stays() -> None:
    """5xx for ever is an error that names it."""
    async with FakeSource(Reply(503)) as source:
        with pytest.raises(errors.DownloadFailed, match="the server answered 503 Service Unavailable"):
            await content(download(source))
        assert len(source.seen) == MAX_ATTEMPTS


async def test_not_found() -> None:
    """4xx is final, at once, and before anything else is begun."""
    async with FakeSource(Reply(404, b"<Error/>")) as source:
        with pytest.raises(errors.DownloadFailed) as error:
            await download(source).__aenter__()
        assert str(error.value) == "The download URL answered 404 Not Found."
        assert len(source.seen) == 1


async def test_nobody_there() -> None:
    """A server that is not there is an error, without the URL's secrets."""
    async with FakeSource() as source:
        pass
    with pytest.raises(errors.DownloadFailed, match="cannot be reached") as error:
        await content(download(source))
    assert "secret" not in str(error.value)


async def test_unknown_name() -> None:
    """A name that does not resolve is an error in words."""
    async with FakeSource() as source:
        with pytest.raises(errors.DownloadFailed, match="name was not found"):
            await content(download(source, url="http://no-such-host.invalid/a.gcode"))


async def test_too_large_by_header() -> None:
    """A length over the limit is refused before a byte of it is read."""
    async with FakeSource(Reply(body=CONTENT)) as source:
        with pytest.raises(errors.DownloadTooLarge):
            await download(source, max_bytes=len(CONTENT) - 1).__aenter__()


async def test_too_large_by_body() -> None:
    """Without a length the limit holds for the bytes."""
    async with FakeSource(Reply(body=CONTENT, chunked=True)) as source:
        with pytest.raises(errors.DownloadTooLarge):
            await content(download(source, max_bytes=len(CONTENT) - 1))
        assert await content(download(source, max_bytes=len(CONTENT))) == CONTENT


async def test_wrong_sum() -> None:
    """Bytes that are not the announced ones are an error in place of the end."""
    async with FakeSource(Reply(body=CONTENT)) as source:
        with pytest.raises(errors.ChecksumMismatch):
            await content(download(source, expected_sha256="ab" * 32))


async def test_lie_about_the_length() -> None:
    """A body shorter than its length is broken off, however orderly it ends."""
    short = Reply(body=CONTENT[:1000], headers={"Content-Length": "2000"})
    async with FakeSource(short) as source:
        with pytest.raises(errors.DownloadFailed, match="failed after 1000 bytes"):
            await content(download(source))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect(status: int) -> None:
    """A redirection is followed, relative or absolute, and a resumption goes through it again."""
    script: list[Reply | Script] = [
        Reply(status, headers={"Location": "../b.gcode?x=%7E"}),
        Reply(body=CONTENT, headers={"ETag": '"v1"'}, cut=5000),
        Reply(status, headers={"Location": "/b.gcode"}),
        ranged(CONTENT),
    ]
    async with FakeSource(*script) as source:
        assert await content(download(source)) == CONTENT
        assert [seen.path.partition("?")[0] for seen in source.seen] == ["/files/a.gcode", "/b.gcode"] * 2
        assert source.seen[3].headers["range"] == "bytes=5000-"


async def test_redirect_loop() -> None:
    """A redirection to itself ends after five hops."""
    async with FakeSource(Reply(302, headers={"Location": "/files/a.gcode"})) as source:
        with pytest.raises(errors.DownloadFailed, match="more than 5 times"):
            await content(download(source))
        assert len(source.seen) == 6


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/", "http://[::1]:{port}/", "http://[::ffff:127.0.0.2]:{port}/", "http://2130706434:{port}/",
        "http://127.2:{port}/", "http://0x7f000002:{port}/", "//127.0.0.2:{port}/", "file:///etc/passwd", "http://u:p@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}@127.0.0.2:{port}/", "https://", "http://[::1",
    ],
)  # fmt: skip
async def test_redirect_to_a_forbidden_place(location: str) -> None:
    """Every hop is judged, and a forbidden one never made, however the address is written."""
    async with FakeSource() as source:
        source.script = [Reply(302, headers={"Location": location.format(port=source.port)}), Reply(body=b"secret")]
        with pytest.raises((errors.ForbiddenUrl, errors.DownloadFailed)) as error:
            await content(download(source))
        assert len(source.seen) == 1
        assert "u:p" not in str(error.value)


async def test_name_with_a_private_address() -> None:
    """A name is judged by the address that is connected to; nothing is sent to a forbidden one."""
    async with FakeSource(Reply(body=b"x")) as source:
        url = f"http://localhost:{source.port}/a.gcode"
        with pytest.raises(errors.ForbiddenUrl, match="localhost"):
            await content(download(source, UrlPolicy(allow_http=True), url))
        assert source.seen == []
        assert await content(download(source, UrlPolicy(True, ["localhost"]), url)) == b"x"


@pytest.mark.parametrize(
    "url", ["https://exa mple/a", "http://127.0.0.1:notaport/", "https://[::1", "nonsense", "", "http://\x00/"]
)
async def test_bad_url(url: str) -> None:
    """What is no URL is an error in words."""
    with pytest.raises((errors.ForbiddenUrl, errors.DownloadFailed)):
        async with Download(url, LOCAL, max_bytes=1, backoff=Backoff(base=0.001, floor=0.0)):
            pass


async def test_no_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment would resolve names unchecked: it is not used."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with FakeSource(Reply(body=b"x")) as source:
        assert await content(download(source)) == b"x"


async def test_slow_consumer() -> None:
    """A reader that takes its time (Moonraker writes to an SD card) is not mistaken for a silent server."""
    async with FakeSource(ranged(CONTENT * 8)) as source:
        async with download(source, read_timeout=0.1) as body:
            first = await anext(body)
            await asyncio.sleep(0.3)
            rest = [chunk async for chunk in body]
        assert first + b"".join(rest) == CONTENT * 8
        assert len(source.seen) == 1


async def test_cancelled_download() -> None:
    """Cancelling while the server is silent ends at once; what has come stays counted, and iterating can go on."""
    stalled = Reply(body=CONTENT, headers={"ETag": '"v1"'}, stall=1000)
    async with FakeSource(stalled) as source, download(source, read_timeout=60.0) as body:
        first = await anext(body)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(body), 0.05)
        assert body.received == len(first) == 1000


def test_aiohttp_is_imported_late() -> None:
    """An agent that never transfers anything never loads aiohttp."""
    code = "import sys, printago_moonraker.moonraker.http; sys.exit('aiohttp' in sys.modules or 'yarl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
