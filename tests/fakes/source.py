"""A web server on a loopback port that serves one file, and misbehaves as told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self


@dataclass
class Seen:
    """One request: its path and its headers by lower-case name."""

    path: str
    headers: dict[str, str]


@dataclass
class Reply:
    """A response, byte for byte. `cut` breaks the connection after so many bytes of the body, `stall` falls silent
    there.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: int | None = None
    chunked: bool = False

    def encoded(self) -> bytes:
        phrase = HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else "Whatever"
        headers = {"Transfer-Encoding": "chunked"} if self.chunked else {"Content-Length": str(len(self.body))}
        lines = [
            f"HTTP/1.1 {self.status} {phrase}",
            *(f"{name}: {value}" for name, value in (headers | self.headers).items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode()


Script = Callable[[Seen], Reply]


class FakeSource:
    """Answers request n with `script[n]`, and goes on with the last one. `seen` has all requests."""

    def __init__(self, *script: Reply | Script) -> None:
        self.script = list(script)
        self.seen: list[Seen] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/files/a.gcode?signature=secret"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            seen = Seen(head[0].split()[1], headers)
            self.seen.append(seen)
            step = self.script[min(len(self.seen), len(self.script)) - 1]
            await _send(writer, step if isinstance(step, Reply) else step(seen))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if not writer.is_closing() else None


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    writer.write(reply.encoded())
    end = next((n for n in (reply.cut, reply.stall) if n is not None), len(reply.body))
    for start in range(0, end, 65536):
        piece = reply.body[start : min(end, start + 65536)]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if reply.chunked else piece)
        await writer.drain()
    if reply.stall is not None:
        await asyncio.Event().wait()
    if reply.chunked and reply.cut is None:
        writer.write(b"0\r\n\r\n")
    writer.close()  # what was written goes out first
    await writer.wait_closed()


def ranged(content: bytes, *, etag: str = '"v1"', cut: int | None = None) -> Script:
    """A server that resumes. `cut` breaks each response after so many bytes of it."""

    def answer(seen: Seen) -> Reply:
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        if "range" not in seen.headers or seen.headers.get("if-range") not in (None, etag):
            return Reply(200, content, headers, cut=cut)
        start = int(seen.headers["range"].removeprefix("bytes=").partition("-")[0])
        if start >= len(content):
            return Reply(416, b"no such range", headers | {"Content-Range": f"bytes */{len(content)}"})
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Reply(206, content[start:], headers | {"Content-Range": span}, cut=cut)

    return answer
