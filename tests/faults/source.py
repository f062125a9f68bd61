"""Where the cloud keeps its files: HTTP with ranges, at a pace that leaves time to break something in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Self

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 16 * 1024  # bytes
PAUSE = 0.02  # s after each


class Source:
    """A context manager. `files` by name; `on_half` is called when half of a file has been sent."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._digests: dict[str, list[str]] = {}
        self.on_half: Callable[[], None] = lambda: None
        self._runner = web.AppRunner(self._make_app(), access_log=None, shutdown_timeout=0.1)

    def serve(self, name: str, content: bytes) -> list[str]:
        """From now on this is the file of that name; the SHA-256 of all that was ever served under it, newest last."""
        self.files[name] = content
        self._digests.setdefault(name, []).append(hashlib.sha256(content).hexdigest())
        return self._digests[name]

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/{name}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def _make_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{name}", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        content = self.files[request.match_info["name"]]
        start = request.http_range.start or 0
        headers = {"ETag": f'"{len(content)}-{hash(content)}"', "Content-Length": str(len(content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # who asked has been killed
            await self._send(response, content, start)
        return response

    async def _send(self, response: web.StreamResponse, content: bytes, start: int) -> None:
        for offset in range(start, len(content), PIECE):
            await response.write(content[offset : offset + PIECE])
            if offset <= len(content) // 2 < offset + PIECE:
                self.on_half()
            await asyncio.sleep(PAUSE)
        await response.write_eof()
