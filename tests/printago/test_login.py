"""Who the agent is to the broker follows the file of the pairing, without a restart."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from printago_moonraker import credentials
from printago_moonraker.backoff import Backoff
from printago_moonraker.config import PRINTAGO_BROKER, Config, MqttSection, PrintagoSection, PrinterConfig
from printago_moonraker.credentials import Credentials
from printago_moonraker.errors import NotPaired
from printago_moonraker.printago import login as module
from printago_moonraker.printago.endpoint import Endpoint
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec, make_topics
from printago_moonraker.printago.link import Link
from printago_moonraker.printago.login import Login, login_for
from printago_moonraker.printago.store import Store
from tests.e2e.farm import until
from tests.fakes.account import KEY, OTHER_KEY, STORE, account_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.02)


def settings(folder: Path, port: int, host: str = "127.0.0.1") -> Config:
    return Config(
        path=folder / "printago.cfg",
        printago=PrintagoSection(data_path=folder / "data"),
        mqtt=MqttSection(host=host, port=port, tls=False),
        printers=(PrinterConfig(name="voron"),),
    )


def store_key(config: Config, key: str) -> None:
    credentials.write(config.printago.data_path, Credentials(STORE, key))


@asynccontextmanager
async def linked(config: Config) -> AsyncIterator[Link]:
    """A link as the session makes it."""
    topics, codec = make_topics("voron", Dialect.KLIPPER), EnvelopeCodec("voron", "klipper", Dialect.KLIPPER)
    async with Store(None, trusted_time=lambda: None) as store:
        link = Link(
            login_for(config, "voron"),
            topics,
            codec,
            store.of("voron"),
            on_command=lambda _: None,
            on_up=lambda: None,
            name="voron: Printago",
        )
        task = asyncio.create_task(link.run())
        try:
            yield link
        finally:
            task.cancel()
            await asyncio.wait([task])


def test_the_pairing_is_the_default(tmp_path: Path) -> None:
    """Username, password and client ID come from the pairing, as they are now."""
    config = settings(tmp_path, 1)
    login = login_for(config, "voron")
    assert login.endpoint().username is None
    store_key(config, KEY)
    endpoint = login.endpoint()
    assert (endpoint.username, endpoint.password) == (STORE, KEY)
    assert endpoint.client_id == f"apiclient_{KEY[:24]}_voron"


def test_printagos_broker_is_not_asked_as_nobody(tmp_path: Path) -> None:
    """Without credentials there is no attempt at Printago's broker: the remedy is named instead."""
    with pytest.raises(NotPaired):
        login_for(settings(tmp_path, 8883, PRINTAGO_BROKER), "voron").endpoint()


async def test_a_change_is_noticed(tmp_path: Path) -> None:
    """Written, written anew, deleted: each is a change, once."""
    config = settings(tmp_path, 1)
    login = login_for(config, "voron")
    login.endpoint()
    assert not await login.pause(0.05)
    for change in (
        lambda: store_key(config, KEY),
        lambda: store_key(config, OTHER_KEY),
        lambda: credentials.forget(config.printago.data_path),
    ):
        change()
        assert await login.pause(5)
        login.endpoint()
        assert not await login.pause(0.05)


async def test_without_a_file_nothing_changes() -> None:
    """A login of the configuration is the same for ever."""
    assert not await Login(lambda: Endpoint("h", 1, "c")).pause(0.05)


async def test_an_unpaired_agent_waits_and_comes_when_paired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused as nobody, it says so once; paired, it comes at once, whatever the back-off; unpaired, it goes."""
    monkeypatch.setattr("printago_moonraker.supervise.Backoff", lambda: Backoff(base=1000.0, cap=1000.0, floor=1000.0))
    async with account_broker(tmp_path) as broker:
        config = settings(tmp_path, broker.port)
        async with linked(config) as link:
            await until(lambda: "trying again" in caplog.text)
            assert not link.up
            store_key(config, KEY)
            await until(lambda: link.up)
            credentials.forget(config.printago.data_path)
            await until(lambda: not link.up)
            store_key(config, KEY)
            await until(lambda: link.up)


async def test_a_revoked_key_is_told_once_and_a_new_one_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thrown out, it tries on, with one warning that names the remedy; with a new key it is back, without a restart."""
    monkeypatch.setattr("printago_moonraker.supervise.Backoff", lambda: Backoff(base=0.02, cap=0.02, floor=0.01))
    async with account_broker(tmp_path) as broker:
        config = settings(tmp_path, broker.port)
        store_key(config, KEY)
        async with linked(config) as link:
            await until(lambda: link.up)
            caplog.set_level(logging.DEBUG)
            broker.set_key(OTHER_KEY)
            broker.reload()
            refusals = "refuses the connection: Not authorized"
            await until(lambda: caplog.text.count(refusals) >= 5)
            warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
            assert len([each for each in warnings if "printago-moonraker pair" in each.getMessage()]) == 1
            store_key(config, OTHER_KEY)
            await until(lambda: link.up)
