"""A pre-signed storage on a loopback port: it keeps what is put there, and misbehaves as told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self


@dataclass(frozen=True)
class Put:
    """One request with its body; headers by lower-case name."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """`cut` closes the connection instead of answering."""

    status: int = 200
    location: str = ""
    cut: bool = False


class Storage:
    """Answers request n with `script[n]`, and goes on with the last one (200). While `gate` is clear, it only reads."""

    def __init__(self, *script: Answer) -> None:
        self.script = script or (Answer(),)
        self.puts: list[Put] = []
        self.begun = 0
        self.at_once = self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/pictures/1.jpg?signature=s3cr3t"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def until(self, count: int, timeout: float = 10.0) -> None:
        """Wait until so many requests have come in whole."""
        async with asyncio.timeout(timeout):
            while len(self.puts) < count:
                self._news.clear()
                await self._news.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in headers.items()}
            answer = self.script[min(self.begun, len(self.script) - 1)]
            self.begun += 1
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, path, _ = head[0].split()
            self.puts.append(Put(method, path, headers, body))
            self._news.set()
            await self.gate.wait()
            if not answer.cut:
                writer.write(_encoded(answer))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.at_once -= 1
            self._tasks.discard(task)
            writer.close()


def _encoded(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", "Content-Length: 0", "Connection: close"]
    lines += [f"Location: {answer.location}"] if answer.location else []
    return "\r\n".join([*lines, "", ""]).encode()
