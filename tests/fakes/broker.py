"""An MQTT peer that misbehaves, at the level of bytes: what no real broker can be told to do."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 12, 14
CONNACK_5 = bytes([0x20, 3, 0, 0, 0])
CONNACK_311 = bytes([0x20, 2, 0, 0])


@dataclass(frozen=True)
class Packet:
    kind: int
    body: bytes

    @property
    def version(self) -> int:
        """The protocol level of a CONNECT: 5, or 4 for 3.1.1."""
        return self.body[6]


@dataclass
class Peer:
    """One client's connection, as the fake broker has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self) -> Packet:
        """The next packet; raises asyncio.IncompleteReadError at the end of the connection."""
        first = (await self.reader.readexactly(1))[0]
        length, shift = 0, 0
        while True:
            byte = (await self.reader.readexactly(1))[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return Packet(first >> 4, await self.reader.readexactly(length))

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def accept(self) -> None:
        """CONNECT and SUBSCRIBE, both granted."""
        connect = await self.read()
        five = connect.version == 5
        self.write(CONNACK_5 if five else CONNACK_311)
        subscribe = await self.read()
        assert subscribe.kind == SUBSCRIBE
        mid = subscribe.body[:2]
        self.write(bytes([0x90, 4]) + mid + bytes([0, 1]) if five else bytes([0x90, 3]) + mid + bytes([1]))

    async def closed(self) -> None:
        """Until the client has gone; answers nothing."""
        while await self.reader.read(4096):
            pass


@dataclass
class FakeBroker:
    port: int = 0
    versions: list[int] = field(default_factory=list)  # of the CONNECTs that a script has noted
    connections: int = 0


@asynccontextmanager
async def fake_broker(
    script: Callable[[FakeBroker, Peer], Awaitable[None]], *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeBroker]:
    """Runs `script` for each connection, and closes the connection when it returns."""
    broker = FakeBroker()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        broker.connections += 1
        try:
            await script(broker, Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    broker.port = server.sockets[0].getsockname()[1]
    try:
        yield broker
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@dataclass
class Proxy:
    """A wire between client and broker that can be cut, as a network does: no DISCONNECT."""

    port: int
    connections: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def proxy(broker_port: int) -> AsyncIterator[Proxy]:
    """A TCP proxy on the loopback to the broker at `broker_port`."""
    wire = Proxy(0)
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.connections += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", broker_port)
        except OSError:
            writer.close()
            return
        wire._writers += [writer, back]
        tasks.update({asyncio.create_task(copy(reader, back)), asyncio.create_task(copy(there, writer))})

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
