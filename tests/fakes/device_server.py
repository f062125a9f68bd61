"""An authorization server after RFC 8628, as strict as its text: it checks what the agent sends."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass
class DeviceServer:
    """`answers` are given to the questions for the token, the last one for ever: an error's name, or a dict with what
    an answer of success has. A code that has expired says so by itself.
    """

    answers: list[str | dict[str, Any]] = field(default_factory=lambda: ["authorization_pending"])
    expires_in: float = 900.0
    interval: float | None = 0.02
    user_code: str = "WDJB-MJHT"
    verification_uri: str = "https://pair.example.com/device"
    authorization_status: int = 200
    drop: int = 0  # so many questions for the token are not answered at all
    url: str = ""
    codes: dict[str, float] = field(default_factory=dict)  # device code: when it expires
    requests: list[dict[str, str]] = field(default_factory=list)
    questions: list[float] = field(default_factory=list)  # when each came
    problems: list[str] = field(default_factory=list)

    async def authorize(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.requests.append(form)
        if not form.get("client_id"):
            self.problems.append("no client_id")
        if self.authorization_status != 200:
            return web.json_response({"error": "invalid_client"}, status=self.authorization_status)
        device_code = f"device-code-{len(self.codes)}-secret"
        self.codes[device_code] = time.monotonic() + self.expires_in
        members = {
            "device_code": device_code,
            "user_code": self.user_code,
            "verification_uri": self.verification_uri,
            "verification_uri_complete": f"{self.verification_uri}?user_code={self.user_code}",
            "expires_in": self.expires_in,
        }
        if self.interval is not None:
            members["interval"] = self.interval
        return web.json_response(members, headers={"Cache-Control": "no-store"})

    async def token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.questions.append(time.monotonic())
        if form.get("grant_type") != GRANT or not form.get("client_id"):
            self.problems.append(f"a wrong question: {sorted(form)}")
        if self.drop:
            self.drop -= 1
            assert request.transport is not None
            request.transport.abort()
        if form.get("device_code") not in self.codes:
            return web.json_response({"error": "invalid_grant"}, status=400)
        if time.monotonic() > self.codes[form["device_code"]]:
            return web.json_response({"error": "expired_token"}, status=400)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            return web.json_response({"error": answer}, status=400)
        return web.Response(text=json.dumps({"token_type": "Bearer", **answer}), content_type="application/json")


@asynccontextmanager
async def device_server(**options: Any) -> AsyncIterator[DeviceServer]:
    """Listening on loopback; `url` is its base."""
    server = DeviceServer(**options)
    application = web.Application()
    application.add_routes([web.post("/device", server.authorize), web.post("/token", server.token)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
    assert server.problems == []
