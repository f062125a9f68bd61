"""What the broker thinks of the credentials, and what a person is told about it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import schemas
from printago_moonraker.errors import ConnectionRefused, LinkError, LoginRefused, NotPaired
from printago_moonraker.printago import pairing
from printago_moonraker.printago.endpoint import Endpoint
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec, make_topics
from printago_moonraker.printago.mqtt import Message, connect
from tests.fakes.account import KEY, OTHER_KEY, STORE, account_broker
from tests.fakes.broker import CONNACK_5, FakeBroker, Peer, fake_broker
from tests.fakes.mosquitto import free_port
from tests.fakes.tls import Authority, make_authority

if TYPE_CHECKING:
    from pathlib import Path

TOPICS = make_topics("voron", Dialect.KLIPPER)
CODEC = EnvelopeCodec("voron", "klipper", Dialect.KLIPPER)


def endpoint(port: int, *, user: str = STORE, key: str = KEY, **options: Any) -> Endpoint:
    options = {"tls": False} | options
    return Endpoint("127.0.0.1", port, f"apiclient_{key[:24]}_voron", username=user, password=key, **options)


async def check(at: Endpoint) -> None:
    await pairing.check_topics(at, TOPICS, CODEC, "pairing", pairing.outcome("paired"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("protocol", ["auto", "5", "3.1.1"])
async def test_right_credentials(tmp_path: Path, protocol: str) -> None:
    """The right store and key are let in, and Printago hears it."""
    async with account_broker(tmp_path) as broker:
        heard: asyncio.Queue[Message] = asyncio.Queue()
        cloud = replace(endpoint(broker.port), client_id="cloud")
        async with connect(cloud, subscriptions=[TOPICS.message("pairing")], on_message=heard.put_nowait):
            await check(endpoint(broker.port, protocol=protocol))
            async with asyncio.timeout(5):
                envelope = decoded(await heard.get())
        assert envelope["data"]["outcome"] == "paired"
        assert await pairing.check_login(endpoint(broker.port, protocol=protocol)) == protocol.replace("auto", "5")


def decoded(message: Message) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(message.payload)
    assert [error.message for error in schemas.compiled("envelopes/pairing").iter_errors(envelope)] == []
    return envelope


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize(("user", "key"), [(STORE, OTHER_KEY), ("store-0000", KEY), (STORE, "")])
async def test_wrong_credentials(tmp_path: Path, protocol: str, user: str, key: str) -> None:
    """A wrong key and a wrong store are one refusal, and the advice names both: the broker does not say which."""
    async with account_broker(tmp_path) as broker:
        with pytest.raises(LoginRefused, match="refuses the connection: Not authorized") as caught:
            await check(endpoint(broker.port, user=user, key=key, protocol=protocol))
        advice = pairing.advice(caught.value)
        assert "store ID or the API key is wrong" in advice
        assert "revoked" in advice


async def test_a_revoked_key(tmp_path: Path) -> None:
    """A key that was let in is refused as soon as the broker does not have it any more."""
    async with account_broker(tmp_path) as broker:
        async with connect(endpoint(broker.port), subscriptions=(), on_message=lambda _: None) as session:
            broker.set_key(OTHER_KEY)
            broker.reload()
            async with asyncio.timeout(5):
                with pytest.raises(LinkError):
                    await session.wait_closed()
        with pytest.raises(LoginRefused):
            await check(endpoint(broker.port))


async def test_no_right_to_publish(tmp_path: Path) -> None:
    """Who may log in but not publish is told that it is the topic's right."""
    async with account_broker(tmp_path, rights=("read printago/#",)) as broker:
        await pairing.check_login(endpoint(broker.port))
        with pytest.raises(ConnectionRefused, match=r"refuses the publication to printago/voron/pairing") as caught:
            await check(endpoint(broker.port))
        assert "may not use this printer's topics" in pairing.advice(caught.value)


async def test_no_right_to_subscribe() -> None:
    """A refused subscription is told with its topic. (mosquitto's ACL lets everybody subscribe: this one is fake.)"""

    async def refuse(_broker: FakeBroker, peer: Peer) -> None:
        await peer.read()
        peer.write(CONNACK_5)
        subscribe = await peer.read()
        peer.write(bytes([0x90, 4]) + subscribe.body[:2] + bytes([0, 0x87]))
        await peer.closed()

    async with fake_broker(refuse) as broker:
        with pytest.raises(ConnectionRefused, match=r"refuses the subscription to printago/voron/commands") as caught:
            await check(endpoint(broker.port))
        assert "topics" in pairing.advice(caught.value)


@pytest.mark.parametrize(
    ("certificate", "saw", "todo"),
    [
        ("expired", "certificate has expired", "clock says"),
        ("future", "certificate is not yet valid", "clock says"),
        ("other-name", "IP address mismatch", "host in [mqtt]"),
    ],
)
async def test_a_bad_certificate(tmp_path: Path, authority: Authority, certificate: str, saw: str, todo: str) -> None:
    """An expired certificate, one of the future (or a clock that is off), and one for another name are told apart."""
    async with account_broker(tmp_path, authority=authority, certificate=certificate) as broker:
        at = endpoint(broker.port, tls=True, ca_file=authority.ca)
        with pytest.raises(LinkError) as caught:
            await check(at)
        assert saw in str(caught.value)
        assert todo in pairing.advice(caught.value, at)


async def test_tls_and_the_right_certificate(tmp_path: Path, authority: Authority) -> None:
    """With the right certificate the same credentials are let in."""
    async with account_broker(tmp_path, authority=authority) as broker:
        await check(endpoint(broker.port, tls=True, ca_file=authority.ca))


async def test_an_unknown_authority(tmp_path: Path, authority: Authority) -> None:
    """A certificate that nobody known has signed: a broker of one's own, or somebody in between."""
    async with account_broker(tmp_path, authority=authority) as broker:
        with pytest.raises(LinkError, match="certificate is not accepted") as caught:
            await check(endpoint(broker.port, tls=True))
        assert "ca_file" in pairing.advice(caught.value)


async def test_tls_at_a_port_without(tmp_path: Path) -> None:
    """TLS is spoken to a port that does not."""
    async with account_broker(tmp_path) as broker:
        at = endpoint(broker.port, tls=True)
        with pytest.raises(LinkError) as caught:
            await check(at)
        assert any(word in pairing.advice(caught.value, at) for word in ("tls", "port"))


async def test_nobody_listens() -> None:
    """A closed port is told as that."""
    at = endpoint(free_port())
    with pytest.raises(LinkError, match="not reachable") as caught:
        await check(at)
    assert "host and port" in pairing.advice(caught.value, at)


async def test_a_silent_port_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that never answers is what a firewall looks like: the advice names the port."""
    monkeypatch.setattr("printago_moonraker.printago.mqtt.CONNECT_TIMEOUT", 0.3)

    async def silent(_broker: FakeBroker, peer: Peer) -> None:
        await peer.closed()

    async with fake_broker(silent) as broker:
        at = endpoint(broker.port)
        with pytest.raises(LinkError, match="no answer") as caught:
            await check(at)
        assert f"TCP port {broker.port}" in pairing.advice(caught.value, at)


async def test_a_name_that_does_not_exist() -> None:
    """A name that cannot be resolved sends to the network and its name server."""
    at = replace(endpoint(1), host="broker.invalid")
    with pytest.raises(LinkError, match="cannot be resolved") as caught:
        await check(at)
    assert "name server" in pairing.advice(caught.value, at)


async def test_not_paired() -> None:
    """Without credentials there is one thing to do."""
    assert pairing.advice(NotPaired("...")) == "Run printago-moonraker pair."


async def test_a_command_that_comes_meanwhile_is_the_agents(tmp_path: Path) -> None:
    """The check takes nothing away: what came during it is delivered to the agent afterwards."""
    async with account_broker(tmp_path) as broker:
        me = endpoint(broker.port)
        async with connect(me, subscriptions=[TOPICS.commands], on_message=lambda _: None):
            pass  # the agent was here, and its session stays
        async with connect(replace(me, client_id="cloud"), subscriptions=(), on_message=lambda _: None) as cloud:
            await cloud.publish(TOPICS.commands, b"{}")
        await check(me)
        arrived: asyncio.Queue[Message] = asyncio.Queue()
        async with connect(me, subscriptions=[TOPICS.commands], on_message=arrived.put_nowait), asyncio.timeout(5):
            assert (await arrived.get()).payload == b"{}"


def test_outcomes_are_as_their_schema_says() -> None:
    """paired, failed and unpaired envelopes are valid."""
    for data in (pairing.outcome("paired"), pairing.outcome("failed", "No."), pairing.outcome("unpaired")):
        envelope = json.loads(CODEC.encode("pairing", data, at=datetime.now(UTC)))
        assert [error.message for error in schemas.compiled("envelopes/pairing").iter_errors(envelope)] == []
