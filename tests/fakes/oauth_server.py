"""An authorization server by other authors: oauthlib's RFC 8628 behind two URLs of the loopback.

It decides what is an answer, an error and a refusal. Of ours are only the accounts: which codes there are, and what
their owner has said.
"""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiohttp import web
from oauthlib.oauth2 import BearerToken, OAuth2Error, RequestValidator
from oauthlib.oauth2.rfc6749.endpoints import TokenEndpoint
from oauthlib.oauth2.rfc8628.endpoints import DeviceAuthorizationEndpoint
from oauthlib.oauth2.rfc8628.grant_types import DeviceCodeGrant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
CLIENT = "printago-moonraker"


@dataclass
class Code:
    """One device code; times by the monotonic clock."""

    expires: float
    interval: float
    asked: float
    decision: str = DeviceCodeGrant.DEVICE_CODE_PENDING

    def status(self) -> str:
        """What its server says now, having been asked: sections 3.4 and 3.5."""
        now, before = time.monotonic(), self.asked
        self.asked = now
        if now > self.expires:
            return str(DeviceCodeGrant.DEVICE_CODE_EXPIRED)
        if now - before < self.interval:
            self.interval += 0.1
            return str(DeviceCodeGrant.DEVICE_CODE_SLOW_DOWN)
        return self.decision


@dataclass
class Accounts:
    """`key` and `store_id` are given once the owner has let the device in; he decides by `decide`."""

    key: str
    store_id: str
    interval: float = 0.05
    expires_in: float = 900.0
    codes: dict[str, Code] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)  # the status of each question

    def decide(self, decision: str) -> None:
        for code in self.codes.values():
            code.decision = decision


class _Validator(RequestValidator):  # type: ignore[misc]  # oauthlib's types are not followed
    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def validate_client_id(self, client_id: str, request: Any, *_: Any, **__: Any) -> bool:
        return client_id == CLIENT

    def client_authentication_required(self, request: Any, *_: Any, **__: Any) -> bool:
        return False

    def authenticate_client_id(self, client_id: str, request: Any, *_: Any, **__: Any) -> bool:
        request.client = SimpleNamespace(client_id=client_id)
        return client_id == CLIENT

    def validate_grant_type(self, client_id: str, grant_type: str, *_: Any, **__: Any) -> bool:
        return grant_type == GRANT

    def get_default_scopes(self, client_id: str, request: Any, *_: Any, **__: Any) -> list[str]:
        return ["printers"]

    def validate_scopes(self, client_id: str, scopes: list[str], *_: Any, **__: Any) -> bool:
        return scopes == ["printers"]

    def validate_device_code(self, client_id: str, device_code: str, request: Any) -> str | None:
        code = self._accounts.codes.get(device_code)
        if code is None:
            return None
        request.user, request.scopes = "the owner", ["printers"]
        request.extra_credentials = {"store_id": self._accounts.store_id}
        self._accounts.said.append(code.status())
        return self._accounts.said[-1]

    def save_token(self, token: Any, request: Any, *_: Any, **__: Any) -> None:
        pass

    def save_bearer_token(self, token: Any, request: Any, *_: Any, **__: Any) -> None:
        pass


@asynccontextmanager
async def oauth_server(accounts: Accounts) -> AsyncIterator[str]:
    """Listening on loopback; gives its base URL, below which are /device and /token."""
    validator = _Validator(accounts)
    device = DeviceAuthorizationEndpoint(
        validator,
        "https://pair.example.com/device",
        expires_in=accounts.expires_in,
        interval=accounts.interval,
        user_code_generator=lambda: "WDJB-MJHT",
    )
    bearer = BearerToken(validator, token_generator=lambda _: accounts.key, expires_in=3600)
    token = TokenEndpoint(GRANT, bearer, {GRANT: DeviceCodeGrant(validator)})

    async def authorize(request: web.Request) -> web.Response:
        try:
            answer = device.create_device_authorization_response(*await _read(request))
        except OAuth2Error as error:  # left to whoever runs the server
            return _response((error.headers, error.json, error.status_code))
        if answer[2] == 200:
            now = time.monotonic()
            code = Code(now + accounts.expires_in, accounts.interval, now)
            accounts.codes[answer[1]["device_code"]] = code
        return _response(answer)

    async def give(request: web.Request) -> web.Response:
        return _response(token.create_token_response(*await _read(request)))

    application = web.Application()
    application.add_routes([web.post("/device", authorize), web.post("/token", give)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _read(request: web.Request) -> tuple[str, str, str, dict[str, str]]:
    return str(request.url), request.method, await request.text(), dict(request.headers)


def _response(answer: tuple[dict[str, str], Any, int]) -> web.Response:
    headers, body, status = answer
    text = body if isinstance(body, str) else json.dumps(body)
    return web.Response(text=text, status=status, headers={"Content-Type": "application/json"} | headers)
