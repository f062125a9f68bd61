"""HTTP for everybody: what aiohttp raises comes out as ours, and says nothing of a URL's secrets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from printago_moonraker import web
from printago_moonraker.errors import DestinationFailed, ForbiddenUrl
from printago_moonraker.urlpolicy import UrlPolicy
from tests.fakes.source import FakeSource, Reply

LOCAL = UrlPolicy(allow_http=True, allowed_hosts=["127.0.0.1"])
PEER = web.Peer("destination", DestinationFailed)


async def get(url: str, *, policy: UrlPolicy = LOCAL, read_timeout: float = 5.0) -> tuple[int, bytes]:
    async with web.session(policy, connect_timeout=5.0, read_timeout=read_timeout) as session:
        response = await PEER.request(session, "GET", url, policy, headers={})
        try:
            with PEER.mapped():
                return response.status, await response.read()
        finally:
            response.close()


async def test_an_answer() -> None:
    """Whatever its status, it is an answer."""
    async with FakeSource(Reply(404, b"gone")) as source:
        assert await get(source.url) == (404, b"gone")
        assert source.seen[0].path == "/files/a.gcode?signature=secret"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirection(status: int) -> None:
    """It is followed, relative ones too."""
    async with FakeSource(Reply(status, headers={"Location": "../b?x=1"}), Reply(body=b"there")) as source:
        assert await get(source.url) == (200, b"there")
        assert source.seen[1].path == "/b?x=1"


@pytest.mark.parametrize(
    "url",
    [
        f"https://{'a' * 64}.com/?secret",
        "https://a..b/?secret",
        "https://xn--/?secret",
        "https://.../?secret",
        "http://127.0.0.1:99999/?secret",
    ],
)
async def test_urls_that_cannot_be(url: str) -> None:
    """A host or port that no network knows is the peer's error, not a defect."""
    with pytest.raises((DestinationFailed, ForbiddenUrl), match=r"cannot be read|no usable|has no host") as error:
        await get(url)
    assert "secret" not in str(error.value)


async def test_what_may_pass() -> None:
    """A peer that is not there, that falls silent, or that breaks off, may be tried again."""
    with pytest.raises(web.Unreachable, match="cannot be reached"):
        await get("http://127.0.0.1:1/?secret")
    async with FakeSource(Reply(body=b"x" * 100, stall=50)) as source:
        with pytest.raises(web.Broken, match="stopped sending"):
            await get(source.url, read_timeout=0.1)
    async with FakeSource(Reply(body=b"x" * 100, cut=50)) as source:
        with pytest.raises(web.Broken, match="connection broke"):
            await get(source.url)


async def test_a_circle() -> None:
    """Redirections come to an end."""
    async with FakeSource(Reply(302, headers={"Location": "/again"})) as source:
        with pytest.raises(DestinationFailed, match="redirects more than 5 times"):
            await get(source.url)
        assert len(source.seen) == web.MAX_REDIRECTS + 1


async def test_a_body_is_whole_each_time() -> None:
    """A request that aiohttp sends again by itself has the same body as the first."""
    content = bytes(range(256)) * 4096
    body = web._Body(content)
    for _ in range(2):
        assert b"".join([piece async for piece in body]) == content


async def test_the_socket_is_judged() -> None:
    """No address is connected to that the policy forbids, also where nobody has asked before."""
    async with FakeSource(Reply()) as source, web.session(UrlPolicy(allow_http=True)) as session:
        with pytest.raises(ForbiddenUrl, match=r"127\.0\.0\.1 is in a private network"), PEER.mapped():
            await session.get(source.url)
        assert source.seen == []


async def test_a_host_allowed_by_name() -> None:
    """It may have a private address, that very name."""
    async with FakeSource(Reply(body=b"x")) as source:
        url = source.url.replace("127.0.0.1", "localhost")
        assert await get(url, policy=UrlPolicy(allow_http=True, allowed_hosts=["localhost"])) == (200, b"x")
        with pytest.raises(ForbiddenUrl, match=r"localhost \("):
            await get(url, policy=UrlPolicy(allow_http=True))


def test_aiohttp_is_imported_late() -> None:
    """Naming it costs nothing before the first session."""
    code = "import sys, printago_moonraker.web; sys.exit('aiohttp' in sys.modules or 'yarl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
