"""MQTT over TLS and websockets: what is let in, and what is not."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from printago_moonraker.errors import ConfigError
from printago_moonraker.printago.mqtt import Endpoint, connect
from tests.fakes.broker import (
    FakeBroker,
    Peer,
    fake_broker,
)
from tests.fakes.mosquitto import Mosquitto, mosquitto
from tests.fakes.tls import Authority, make_authority
from tests.printago.sessions import Inbox, attempt, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def websocket_bridge(broker_port: int, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """MQTT over websockets before a broker's TCP port: Debian's mosquitto does not listen for it everywhere."""

    async def serve_one(peer: ServerConnection) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", broker_port)

        async def down() -> None:
            while data := await reader.read(65536):
                await peer.send(data)

        task = asyncio.create_task(down())
        try:
            async for data in peer:
                writer.write(data if isinstance(data, bytes) else data.encode())
        finally:
            writer.close()
            await asyncio.gather(task, writer.wait_closed(), return_exceptions=True)

    async with serve(serve_one, "127.0.0.1", 0, subprotocols=[Subprotocol("mqtt")], ssl=context) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def exchange(endpoint: Endpoint) -> None:
    """Small messages in a burst and one of 300 kB, to ourselves by way of the broker."""
    inbox = Inbox()
    payloads = [f"{number}".encode() for number in range(50)] + [b"x" * 300_000]
    async with (
        asyncio.timeout(8),
        connect(endpoint, subscriptions=["t"], on_message=inbox),
        attempt(replace(endpoint, client_id="other")) as other,
    ):
        await asyncio.gather(*(other.publish("t", payload) for payload in payloads))
        assert [message.payload for message in await inbox.wait(51)] == payloads


async def test_tls_carries_messages(tmp_path: Path, authority: Authority) -> None:
    """In a burst, and larger than a record."""
    async with mosquitto(tmp_path, listener=authority.listener("good")) as broker:
        await exchange(Endpoint("127.0.0.1", broker.port, "me", ca_file=authority.ca))


async def test_packets_that_share_a_tls_record_all_arrive(authority: Authority) -> None:
    """What TLS has already taken from the socket wakes nobody, and is read all the same."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "good.pem", authority.folder / "good.key")
    inbox = Inbox()

    async def script(_: FakeBroker, peer: Peer) -> None:
        await peer.accept()
        peer.write(b"\x30\x05\x00\x01t\x00x" * 5)
        await peer.closed()

    async with fake_broker(script, tls=context) as fake:
        me = Endpoint("127.0.0.1", fake.port, "me", ca_file=authority.ca)
        async with connect(me, subscriptions=["t"], on_message=inbox):
            await inbox.wait(5)


@pytest.mark.parametrize("tls", [False, True])
async def test_websockets_carry_messages(broker: Mosquitto, authority: Authority, tls: bool) -> None:
    """ws and wss."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "good.pem", authority.folder / "good.key")
    async with websocket_bridge(broker.port, context if tls else None) as port:
        await exchange(Endpoint("127.0.0.1", port, "me", tls=tls, ca_file=authority.ca, transport="websockets"))


async def test_the_broker_is_always_verified(tmp_path: Path, authority: Authority) -> None:
    """A certificate from an unknown CA, or for another name, is refused with TLS's own reason."""
    async with mosquitto(tmp_path, listener=authority.listener("good")) as broker:
        unknown = await refused(Endpoint("127.0.0.1", broker.port, "me"))
        plain = await refused(Endpoint("127.0.0.1", broker.port, "me", tls=False))
    async with mosquitto(tmp_path, listener=authority.listener("other-name")) as broker:
        other_name = await refused(Endpoint("localhost", broker.port, "me", ca_file=authority.ca))
    assert "the broker's certificate is not accepted: unable to get local issuer certificate" in str(unknown)
    assert "Hostname mismatch" in str(other_name)
    assert "closed the connection before it answered" in str(plain)


async def test_a_port_without_tls_is_told_apart(endpoint: Callable[..., Endpoint]) -> None:
    """TLS to a port that speaks none is a LinkError, with a hint or the reset."""
    error = await refused(replace(endpoint("me"), tls=True))
    assert "TLS" in str(error) or "reset" in str(error)


async def test_a_client_certificate_is_shown(tmp_path: Path, authority: Authority) -> None:
    """A broker that wants one lets us in with it, and not without."""
    files = [*authority.listener("good"), f"cafile {authority.ca}", "require_certificate true"]
    async with mosquitto(tmp_path, listener=files) as broker:
        without = Endpoint("127.0.0.1", broker.port, "me", ca_file=authority.ca)
        async with attempt(
            replace(without, cert_file=authority.folder / "good.pem", key_file=authority.folder / "good.key")
        ) as session:
            await session.publish("t", b"x")
        assert "closed the connection before it answered" in str(await refused(without))


async def test_certificates_that_cannot_be_read_are_a_config_error(tmp_path: Path) -> None:
    """The message names the options and the file."""
    with pytest.raises(ConfigError, match=r"ca_file.*nope\.pem"):
        async with attempt(Endpoint("127.0.0.1", 1, "me", ca_file=tmp_path / "nope.pem")):
            pass
