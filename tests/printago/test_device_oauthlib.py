"""Pairing by a code, against a server of other authors: oauthlib's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from oauthlib.oauth2.rfc8628.grant_types import DeviceCodeGrant

from printago_moonraker.config import PrintagoSection
from printago_moonraker.credentials import Credentials
from printago_moonraker.printago import device
from printago_moonraker.printago.device import CodeExpired, DeviceFlow, PairingFailed
from tests.e2e.farm import until
from tests.fakes.oauth_server import Accounts, oauth_server

OWNER = Credentials("store-1", "key-1234")


def accounts(**options: Any) -> Accounts:
    return Accounts(OWNER.api_key, OWNER.store_id, **options)


def flow(url: str, **options: Any) -> DeviceFlow:
    return DeviceFlow(
        PrintagoSection(
            data_path=Path("/"), device_authorization_url=f"{url}/device", token_url=f"{url}/token", **options
        )
    )


async def test_a_pairing_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes both requests as they are; the owner has time; then there are his key and his store."""
    monkeypatch.setattr(device, "SLOWER", 0.1)
    known = accounts()
    async with oauth_server(known) as url:
        asking = flow(url)
        code = await asking.request_code()
        assert (code.user_code, code.verification_uri) == ("WDJB-MJHT", "https://pair.example.com/device")
        assert (code.expires_in, code.interval) == (900, 0.05)
        waiting = asyncio.create_task(asking.wait(code))
        await until(lambda: len(known.said) >= 2)
        known.decide(DeviceCodeGrant.DEVICE_CODE_AUTHORIZED)
        assert await waiting == OWNER
    assert set(known.said) == {DeviceCodeGrant.DEVICE_CODE_PENDING, DeviceCodeGrant.DEVICE_CODE_AUTHORIZED}


async def test_it_is_told_to_slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks too early is told so, slows down, and gets there all the same."""
    monkeypatch.setattr(device, "SLOWER", 0.3)
    known = accounts()
    async with oauth_server(known) as url:
        asking = flow(url)
        code = await asking.request_code()
        for each in known.codes.values():
            each.interval = 0.2
            each.decision = DeviceCodeGrant.DEVICE_CODE_AUTHORIZED
        assert await asking.wait(code) == OWNER
    assert known.said == [DeviceCodeGrant.DEVICE_CODE_SLOW_DOWN, DeviceCodeGrant.DEVICE_CODE_AUTHORIZED]


async def test_the_owner_says_no() -> None:
    """The server's refusal is the end."""
    known = accounts()
    async with oauth_server(known) as url:
        asking = flow(url)
        code = await asking.request_code()
        known.decide(DeviceCodeGrant.DEVICE_CODE_DENIED)
        with pytest.raises(PairingFailed, match="refused in the browser"):
            await asking.wait(code)


async def test_the_server_lets_a_code_expire() -> None:
    """A code that the server does not take any more can be replaced by another."""
    known = accounts()
    async with oauth_server(known) as url:
        asking = flow(url)
        code = await asking.request_code()
        for each in known.codes.values():
            each.expires = 0.0
        with pytest.raises(CodeExpired):
            await asking.wait(code)
        assert (await asking.request_code()).device_code != code.device_code


@pytest.mark.parametrize("options", [{"client_id": "somebody-else"}, {"scope": "everything"}])
async def test_a_client_that_the_server_does_not_know(options: dict[str, str]) -> None:
    """What the server refuses before there is a code is one sentence with its error."""
    async with oauth_server(accounts()) as url:
        with pytest.raises(PairingFailed, match=r"gives no code: 40[01] invalid_(request|client|scope)"):
            await flow(url, **options).request_code()
