"""The proxy: each fault is what it says, and ends when it is healed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.faults.proxy import CHUNK, Proxy, Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A proxy before a server that says everything back, and a client that has said something already."""
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            await _says(reader, writer, b"hello")
            yield proxy, reader, writer
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def _says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), 2) == data


async def test_cut_resets_what_is_connected() -> None:
    """The client is reset, not told goodbye."""
    async with echoing() as (proxy, reader, _):
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 2)


async def test_refuse_resets_who_comes_until_healed() -> None:
    """A new connection is accepted and reset."""
    async with echoing() as (proxy, _, _writer):
        proxy.refuse()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 2)
        writer.close()
        proxy.heal()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await _says(reader, writer, b"again")
        writer.close()
        await writer.wait_closed()


async def test_stall_delays_and_loses_nothing() -> None:
    """Nothing passes until it is healed, and then everything."""
    async with echoing() as (proxy, reader, writer):
        proxy.stall()
        writer.write(b"later")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(5), 0.2)
        proxy.heal()
        assert await asyncio.wait_for(reader.readexactly(5), 2) == b"later"


async def test_a_lost_direction_is_silent_and_then_reset() -> None:
    """What went that way never arrives: after the healing the connection is of no use."""
    async with echoing() as (proxy, reader, writer):
        proxy.lose(Way.DOWN)
        writer.write(b"lost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(4), 0.2)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(4), 2)


async def test_rubbish_comes_between_two_messages() -> None:
    """The client reads what nobody has sent."""
    async with echoing() as (proxy, reader, _):
        await proxy.inject(b"rubbish")
        assert await asyncio.wait_for(reader.readexactly(7), 2) == b"rubbish"


async def test_flip_turns_one_bit_of_a_large_chunk() -> None:
    """A small one passes as it is."""
    async with echoing() as (proxy, reader, writer):
        proxy.flip()
        await _says(reader, writer, b"small")
        writer.write(bytes(CHUNK))
        assert sum(await asyncio.wait_for(reader.readexactly(CHUNK), 2)) == 4
