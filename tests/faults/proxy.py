"""A TCP proxy on loopback that does to connections what networks do: cuts them, stalls them, slows them, loses one
direction, sends rubbish.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

CHUNK = 16 * 1024  # bytes
ALIGNED = 0.03  # s of silence after which the next byte begins a message
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Way(Enum):
    """A direction of a connection."""

    UP = "up"  # from the agent to the server
    DOWN = "down"


@dataclass(eq=False)
class _Connection:
    """Two sockets and the two pumps between them."""

    ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]  # towards the agent, towards the server
    last: dict[Way, float] = field(default_factory=dict)  # when a byte went that way
    dropped: bool = False  # bytes are missing: it can never be right again

    def towards(self, way: Way) -> asyncio.StreamWriter:
        return self.ends[0] if way is Way.DOWN else self.ends[1]

    def reset(self) -> None:
        for end in self.ends:
            sock = end.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.transport.abort()


class Proxy:
    """An async context manager; `port` is where the agent connects. Faults last until `heal`."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self._server_port = server_port
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._lost: Way | None = None
        self._pace: tuple[float, float] | None = None  # bytes/s, s of latency
        self._flips = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.heal()
        self.cut()
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------------- faults

    def cut(self) -> None:
        """Reset every connection there is."""
        for connection in list(self._connections):
            connection.reset()

    def refuse(self) -> None:
        """Accept, and reset at once, whoever comes; what is connected is reset too."""
        self._refusing = True
        self.cut()

    def stall(self) -> None:
        """Accept, and pass no byte either way; what was under way is late."""
        self._flowing.clear()

    def lose(self, way: Way) -> None:
        """Half-open: what goes that way never arrives, and nobody is told."""
        self._lost = way

    def slow(self, bytes_per_second: float, latency: float) -> None:
        self._pace = bytes_per_second, latency

    async def inject(self, rubbish: bytes, way: Way = Way.DOWN) -> None:
        """Put bytes that are no message between two messages."""
        loop = asyncio.get_running_loop()
        for connection in list(self._connections):
            while (busy := connection.last.get(way, 0.0) + ALIGNED - loop.time()) > 0:  # noqa: ASYNC110 - for silence
                await asyncio.sleep(busy)
            with contextlib.suppress(OSError, RuntimeError):  # the latter: that direction has been closed
                connection.towards(way).write(rubbish)

    def flip(self, count: int = 1) -> None:
        """Turn a bit of the next `count` large chunks that go up: the body of an upload."""
        self._flips = count

    def heal(self) -> None:
        """The network is well again; a connection that lost bytes is reset."""
        self._refusing, self._lost, self._pace, self._flips = False, None, None, 0
        self._flowing.set()
        for connection in list(self._connections):
            if connection.dropped:
                connection.reset()

    # ------------------------------------------------------------------------------------------------------- the pumps

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        if self._refusing:
            _Connection((writer, writer)).reset()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            _Connection((writer, writer)).reset()
            return
        for end in (writer, server_writer):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection((writer, server_writer))
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._pump(connection, reader, Way.UP)),
            asyncio.create_task(self._pump(connection, server_reader, Way.DOWN)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # The other direction may still have something to say (half-closed), but not for ever.
            await asyncio.wait(pumps, timeout=1.0)
        finally:
            self._connections.discard(connection)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in connection.ends:
                end.close()

    async def _pump(self, connection: _Connection, reader: asyncio.StreamReader, way: Way) -> None:
        writer = connection.towards(way)
        try:
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                if self._lost is way:
                    connection.dropped = True
                    continue
                if self._flips and way is Way.UP and len(data) >= CHUNK // 2:
                    self._flips -= 1
                    data = data[:100] + bytes([data[100] ^ 4]) + data[101:]
                if self._pace is not None:
                    rate, latency = self._pace
                    await asyncio.sleep(latency + len(data) / rate)
                connection.last[way] = asyncio.get_running_loop().time()
                writer.write(data)
                await writer.drain()
            if self._lost is not way:
                writer.write_eof()
        except OSError:
            connection.reset()
