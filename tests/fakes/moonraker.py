"""Moonraker on a loopback port, as far as the network shows it: its websocket and its upload, answering from a
script.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from aiohttp import WSMsgType, web

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Refusal:
    """A scripted JSON-RPC error."""

    code: int
    message: str


SILENT = object()
"""A scripted answer that never comes."""

TURN = "printer.gcode.script with nothing in it"
"""The method's name, for the tests, when the agent only waits for its turn at Klipper."""


@dataclass
class Upload:
    """What arrived of one upload; `complete` once the last byte was there."""

    headers: dict[str, str]
    size: int = 0
    head: bytes = b""
    tail: bytes = b""
    sha256: str = ""
    complete: bool = False
    finished: bool = False

    @property
    def stored(self) -> bool:
        """Whether Moonraker would keep it: a sum of zeros is nobody's."""
        return self.complete and self.field("checksum") != "0" * 64

    @property
    def file_size(self) -> int:
        """Bytes of the file proper, between the two parts of the form around it."""
        opening = self.head.index(b"\r\n\r\n", self.head.index(b"filename=")) + 4
        closing = len(self.tail) - self.tail.rindex(b"\r\n--", 0, self.tail.index(b'name="checksum"'))
        return self.size - opening - closing

    def field(self, name: str) -> str:
        """A form field of the first or last kilobytes."""
        _, _, rest = (self.head + self.tail).partition(f'name="{name}"\r\n\r\n'.encode())
        return rest.partition(b"\r\n")[0].decode()


class FakeMoonraker:
    """`answers` maps a method to its result, a `Refusal`, `SILENT`, or a function of the params that returns one of
    these.

    `requests` and `handshakes` hold what arrived, `uploads` and `downloads` (path and headers) likewise. `refuse` is an
    HTTP status for the handshake. `files` are those below gcodes: their bytes, or a whole response; so many of the next
    questions for one as `looks_fail` says are refused.
    """

    def __init__(self, *, prefix: str = "", answer_pings: bool = True) -> None:
        self.answers: dict[str, Any] = {
            "server.info": {"klippy_connected": True, "klippy_state": "ready"},
            TURN: "ok",
        }
        self.requests: list[dict[str, Any]] = []
        self.handshakes: list[dict[str, str]] = []
        self.replies: list[Any] = []
        self.uploads: list[Upload] = []
        self.deleted: list[str] = []
        self.downloads: list[tuple[str, dict[str, str]]] = []
        self.files: dict[str, bytes | web.Response] = {}
        self.upload_answer: Callable[[Upload], web.Response] = _created
        self.read_uploads = True
        self.looks_fail = 0
        self.refuse = 0
        self._answer_pings = answer_pings
        self._sockets: list[web.WebSocketResponse] = []
        self._requests: list[web.Request] = []
        self._prefix = prefix
        self._changed = asyncio.Event()
        app = web.Application(client_max_size=2**40)
        app.router.add_get(f"{prefix}/websocket", self._websocket)
        app.router.add_post(f"{prefix}/server/files/upload", self._upload)
        app.router.add_delete(f"{prefix}/server/files/{{path:.*}}", self._delete)
        app.router.add_get(f"{prefix}/server/files/gcodes/{{path:.*}}", self._download)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        self.url = f"http://127.0.0.1:{self.port}{self._prefix}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drop()
        await self._runner.cleanup()

    async def until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Wait until what arrived fulfils `condition`."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def send(self, message: Any) -> None:
        """To every client, as JSON; text goes as it is."""
        for socket in self._sockets:
            await socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def notify(self, method: str, *params: Any) -> None:
        await self.send({"jsonrpc": "2.0", "method": method, "params": list(params)})

    async def close(self, code: int = 1001, reason: str = "Server Shutdown") -> None:
        for socket in list(self._sockets):
            await socket.close(code=code, message=reason.encode())

    def drop(self) -> None:
        """Cut every websocket's TCP connection without a word."""
        for request in self._requests:
            if request.transport is not None:
                request.transport.abort()

    def _news(self) -> None:
        self._changed.set()

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        self.handshakes.append(dict(request.headers))
        self._news()
        if self.refuse:
            return web.Response(status=self.refuse)
        socket = web.WebSocketResponse(autoping=self._answer_pings, max_msg_size=0)
        await socket.prepare(request)
        self._sockets.append(socket)
        self._requests.append(request)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await self._received(socket, json.loads(message.data))
        finally:
            self._sockets.remove(socket)
            self._requests.remove(request)
            self._news()
        return socket

    async def _received(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if "method" not in message:
            self.replies.append(message)
            self._news()
            return
        if message["method"] == "printer.gcode.script" and message["params"]["script"] == "":
            message["method"] = TURN
        self.requests.append(message)
        self._news()
        answer = self.answers.get(message["method"], Refusal(-32601, "Method not found"))
        if callable(answer):
            answer = answer(message.get("params"))
        if answer is SILENT:
            return
        body = (
            {"error": {"code": answer.code, "message": answer.message}}
            if isinstance(answer, Refusal)
            else {"result": answer}
        )
        await socket.send_json({"jsonrpc": "2.0", **body, "id": message["id"]})

    async def _download(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        if request.method == "GET":
            self.downloads.append((path, dict(request.headers)))
            self._news()
        if self.looks_fail > 0:
            self.looks_fail -= 1
            return web.Response(status=503)
        file = self.files.get(path)
        if isinstance(file, bytes):
            return web.Response(body=file)
        return file or web.Response(status=404)

    async def _delete(self, request: web.Request) -> web.Response:
        self.deleted.append(request.match_info["path"])
        self.files.pop(request.match_info["path"].removeprefix("gcodes/"), None)
        return web.json_response({"result": {}})

    async def _upload(self, request: web.Request) -> web.Response:
        upload = Upload(dict(request.headers))
        self.uploads.append(upload)
        self._news()
        digest = hashlib.sha256()
        while not self.read_uploads:
            self._changed.clear()
            await self._changed.wait()
        try:
            async for chunk in request.content.iter_any():
                upload.size += len(chunk)
                upload.head = (upload.head + chunk)[:65536] if len(upload.head) < 65536 else upload.head
                upload.tail = (upload.tail + chunk)[-2048:]
                digest.update(chunk)
                self._news()
            upload.complete = True
        except ConnectionError:
            pass
        finally:
            upload.finished = True
            upload.sha256 = digest.hexdigest()
            self._news()
        return self.upload_answer(upload)


def _created(upload: Upload) -> web.Response:
    return stored(upload) if upload.stored else web.json_response({"error": {"message": "Unprocessable"}}, status=422)


def stored(upload: Upload) -> web.Response:
    """The answer of a Moonraker that knows no checksums."""
    item = {
        "path": "Printago/a.gcode",
        "root": "gcodes",
        "size": upload.file_size,
        "modified": 1.0,
        "permissions": "rw",
    }
    return web.json_response({"action": "create_file", "item": item}, status=201)
