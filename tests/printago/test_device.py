"""Pairing by a code, against a server after RFC 8628."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from printago_moonraker import web
from printago_moonraker.config import PrintagoSection
from printago_moonraker.credentials import Credentials
from printago_moonraker.printago import device
from printago_moonraker.printago.device import CodeExpired, DeviceFlow, PairingFailed
from tests.fakes.device_server import DeviceServer, device_server

SUCCESS = {"access_token": "key-1234", "store_id": "store-1"}


def flow(server: DeviceServer, username: str | None = None, **options: Any) -> DeviceFlow:
    section = PrintagoSection(
        device_authorization_url=f"{server.url}/device", token_url=f"{server.url}/token", **options
    )
    return DeviceFlow(section, username)


async def obtain(server: DeviceServer, username: str | None = None) -> Credentials:
    asking = flow(server, username)
    return await asking.wait(await asking.request_code())


async def test_a_code_is_asked_for() -> None:
    """The code comes with where to enter it, for the client and scope of the configuration."""
    async with device_server() as server:
        code = await flow(server, client_id="farm", scope="printers").request_code()
        assert (code.user_code, code.verification_uri) == ("WDJB-MJHT", "https://pair.example.com/device")
        assert server.requests == [{"client_id": "farm", "scope": "printers"}]
        assert "secret" not in repr(code)


async def test_the_owner_takes_his_time() -> None:
    """While authorization is pending it goes on asking, until there are credentials."""
    async with device_server(answers=["authorization_pending", "authorization_pending", SUCCESS]) as server:
        assert await obtain(server) == Credentials("store-1", "key-1234")
        assert len(server.questions) == 3


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long is waited before each question, in s; nothing is really waited."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(device, "asyncio", SimpleNamespace(sleep=sleep, timeout=asyncio.timeout))
    return waited


async def test_it_slows_down(waits: list[float]) -> None:
    """After slow_down every further question waits longer, not the next one only."""
    answers = ["authorization_pending", "slow_down", "authorization_pending", SUCCESS]
    async with device_server(answers=answers) as server:
        await obtain(server)
        assert len(server.questions) == 4
    assert waits == pytest.approx([0.02, 0.02, 0.02 + device.SLOWER, 0.02 + device.SLOWER])


async def test_the_interval_is_kept(waits: list[float]) -> None:
    """Without an interval of the server's, the standard's 5 s are kept, also before the first question."""
    async with device_server(answers=["authorization_pending", SUCCESS], interval=None) as server:
        await obtain(server)
    assert waits == [5.0, 5.0]


async def test_the_owner_says_no() -> None:
    """access_denied ends it, with a sentence."""
    async with device_server(answers=["access_denied"]) as server:
        with pytest.raises(PairingFailed, match="refused in the browser") as caught:
            await obtain(server)
        assert not isinstance(caught.value, CodeExpired)


@pytest.mark.parametrize("expires_in", [900.0, 0.1])
async def test_a_code_expires(expires_in: float) -> None:
    """Whether the server says it or the clock: another code can be asked for."""
    answers = ["expired_token"] if expires_in > 1 else ["authorization_pending"]
    async with device_server(answers=list(answers), expires_in=expires_in) as server:
        with pytest.raises(CodeExpired):
            await obtain(server)


async def test_a_code_is_shown_for_fifteen_minutes_at_most() -> None:
    """A server that would wait for a day, or forever, is asked for a new code all the same."""
    async with device_server(expires_in=86400) as server:
        assert (await flow(server).request_code()).expires_in == 900


async def test_a_broken_connection_is_no_end(waits: list[float]) -> None:
    """A question that is not answered is asked again, each time twice as late."""
    async with device_server(answers=[SUCCESS], drop=2) as server:
        assert await obtain(server) == Credentials("store-1", "key-1234")
        assert len(server.questions) == 3
    assert waits == pytest.approx([0.02, 0.04, 0.08])


async def test_other_errors_end_it() -> None:
    """An error that the standard does not wait for is passed on, cleaned."""
    async with device_server(answers=["invalid_client\x1b[31m"]) as server:
        with pytest.raises(PairingFailed, match="ends the pairing: 400 invalid_client") as caught:
            await obtain(server)
        assert str(caught.value).isprintable()


async def test_a_server_that_gives_no_code() -> None:
    """A refusal instead of a code is one sentence."""
    async with device_server(authorization_status=401) as server:
        with pytest.raises(PairingFailed, match="gives no code: 401 invalid_client"):
            await flow(server).request_code()


async def test_a_server_that_is_not_there() -> None:
    """That is no refusal: trying again may help."""
    async with device_server() as server:
        asking = flow(server)
    with pytest.raises(web.Broken, match="cannot be reached"):
        await asking.request_code()


@pytest.mark.parametrize(
    "change",
    [
        {"user_code": 'A" B\nG28'},
        {"user_code": "abc"},
        {"user_code": "A" * 17},
        {"verification_uri": 'https://evil.example/"\nM112'},
        {"verification_uri": "javascript:alert(1)"},
        {"verification_uri": "https://a.example/;G28"},
        {"verification_uri": "https://a.example/\n"},
    ],
)
async def test_only_harmless_text_is_shown(change: dict[str, str]) -> None:
    """A code or an address that could mean something in G-code is refused."""
    async with device_server(**change) as server:
        with pytest.raises(PairingFailed, match="not one that can be shown"):
            await flow(server).request_code()


async def test_the_store_may_be_known_already() -> None:
    """A server that gives a key only goes with the username of the configuration; without one, that is an error."""
    async with device_server(answers=[{"access_token": "key-1234"}]) as server:
        assert await obtain(server, "store-9") == Credentials("store-9", "key-1234")
        with pytest.raises(PairingFailed, match="store ID must be one word"):
            await obtain(server)
