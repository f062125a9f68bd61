"""Pairing and unpairing a host, against the real mosquitto with accounts."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import credentials, pair
from printago_moonraker.backoff import Backoff
from printago_moonraker.config import Config, MqttSection, PrintagoSection, PrinterConfig, load
from printago_moonraker.credentials import Credentials
from printago_moonraker.errors import AgentError, ConfigError, ConnectionLost
from printago_moonraker.printago import mqtt, pairing
from printago_moonraker.printago.device import PairingFailed
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.mqtt import connect
from tests.e2e.farm import until
from tests.fakes.account import KEY, OTHER_KEY, STORE, AccountBroker, account_broker
from tests.fakes.broker import FakeBroker, Peer, fake_broker
from tests.fakes.device_server import DeviceServer, device_server
from tests.fakes.moonraker import FakeMoonraker, Refusal
from tests.fakes.mosquitto import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from printago_moonraker.printago.mqtt import Message

FOUND = Credentials(STORE, KEY)
CODE_ANSWER = {"access_token": KEY, "store_id": STORE}


class Heard:
    """What the cloud hears on all topics below printago/."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any]] = []
        self._news = asyncio.Event()

    def receive(self, message: Message) -> None:
        message.ack()
        text = message.payload.decode()
        self.messages.append((message.topic, json.loads(text) if text.startswith("{") else text))
        self._news.set()

    async def outcomes(self, count: int) -> list[tuple[str, str]]:
        """The first pairings: printer and outcome."""
        async with asyncio.timeout(5):
            while True:
                found = [
                    (body["printer_id"], body["data"]["outcome"])
                    for topic, body in self.messages
                    if topic.endswith("/pairing")
                ]
                if len(found) >= count:
                    return found
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def cloud(broker: AccountBroker) -> AsyncIterator[Heard]:
    heard = Heard()
    mqtt = MqttSection(host="127.0.0.1", port=broker.port, tls=False, username=STORE, password=KEY, client_id="cloud")
    async with connect(endpoint_for(mqtt, "x"), subscriptions=["printago/#"], on_message=heard.receive):
        yield heard


def settings(folder: Path, port: int, *names: str, url: str = "http://127.0.0.1:9", **printago: Any) -> Config:
    return Config(
        path=folder / "printago.cfg",
        printago=PrintagoSection(data_path=folder / "data", **printago),
        mqtt=MqttSection(host="127.0.0.1", port=port, tls=False),
        printers=tuple(
            PrinterConfig(name=name, moonraker_url=url + "/x" * number)
            for number, name in enumerate(names or ("voron",))
        ),
    )


def code_settings(folder: Path, broker: AccountBroker, server: DeviceServer, url: str) -> Config:
    return settings(
        folder,
        broker.port,
        url=url,
        device_authorization_url=f"{server.url}/device",
        token_url=f"{server.url}/token",
    )


async def test_pairing_checks_stores_and_says_so(tmp_path: Path) -> None:
    """Each printer is let in, the credentials are stored, Printago hears of each, and no key is written out."""
    said: list[str] = []
    async with account_broker(tmp_path) as broker, cloud(broker) as heard:
        config = settings(tmp_path, broker.port, "voron", "ender")
        assert await pair.pair(config, FOUND, said.append) == 0
        assert await heard.outcomes(2) == [("voron", "paired"), ("ender", "paired")]
    assert credentials.read(config.printago.data_path) == FOUND
    assert config.login().client_id_for("voron") == f"apiclient_{KEY[:24]}_voron"
    assert KEY[:24] not in "\n".join(said)


async def test_a_wrong_key_is_not_stored(tmp_path: Path) -> None:
    """What the broker refuses leaves the earlier credentials as they were, and one line says what to do."""
    said: list[str] = []
    async with account_broker(tmp_path) as broker:
        config = settings(tmp_path, broker.port)
        credentials.write(config.printago.data_path, FOUND)
        assert await pair.pair(config, Credentials(STORE, OTHER_KEY), said.append) == 1
    assert credentials.read(config.printago.data_path) == FOUND
    assert len(said) == 2
    assert said[0] == f"Checking the login at 127.0.0.1:{broker.port} ..."
    assert said[1].startswith("Not paired: 127.0.0.1")
    assert "copy both anew from Printago" in said[1]
    assert OTHER_KEY[:24] not in said[1]


async def test_a_failure_is_told_where_it_can_be(tmp_path: Path) -> None:
    """A key without rights to the second printer: nothing is stored, and the first one's topic says that it failed."""
    said: list[str] = []
    rights = ("read printago/#", "write printago/voron/#")
    async with account_broker(tmp_path, rights=rights) as broker, cloud(broker) as heard:
        config = settings(tmp_path, broker.port, "voron", "ender")
        assert await pair.pair(config, FOUND, said.append) == 1
        assert await heard.outcomes(2) == [("voron", "paired"), ("voron", "failed")]
    assert credentials.read(config.printago.data_path) is None
    assert "printago/ender/pairing" in said[-1]


async def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    """Without the broker nothing is stored unchecked."""
    said: list[str] = []
    config = settings(tmp_path, free_port())
    assert await pair.pair(config, FOUND, said.append) == 1
    assert "not reachable" in said[-1]
    assert credentials.read(config.printago.data_path) is None


async def test_what_cannot_be_stored_was_no_pairing(tmp_path: Path) -> None:
    """Where there is no room for the credentials, Printago hears `failed` with the reason, and never `paired`."""
    (tmp_path / "data").write_text("no folder")
    async with account_broker(tmp_path) as broker, cloud(broker) as heard:
        config = settings(tmp_path, broker.port)
        with pytest.raises(ConfigError, match=r"data_path: .* cannot be written .*; give the folder to this user"):
            await pair.pair(config, FOUND, lambda _: None)
        assert await heard.outcomes(1) == [("voron", "failed")]
    assert "cannot be written" in heard.messages[0][1]["data"]["reason"]


async def test_a_mute_broker_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that accepts and stays silent is one attempt, said beforehand, without a good-bye to nobody."""
    monkeypatch.setattr(mqtt, "CONNECT_TIMEOUT", 0.3)
    monkeypatch.setattr(pair, "QUICK", 0.2)
    attempts = 0

    async def silent(_broker: FakeBroker, peer: Peer) -> None:
        nonlocal attempts
        attempts += 1
        await peer.closed()

    said: list[str] = []
    async with fake_broker(silent) as broker:
        assert await pair.pair(settings(tmp_path, broker.port), FOUND, said.append) == 1
    assert attempts == 1
    assert said[0].startswith("Checking the login at 127.0.0.1:")
    assert "no answer within" in said[1]


async def test_an_agent_that_takes_the_connection_back(tmp_path: Path) -> None:
    """A connection that an agent with the same key has taken over at once is tried again."""
    async with account_broker(tmp_path) as broker:
        config = settings(tmp_path, broker.port)
        real, attempts = pairing.check_topics, 0

        async def taken(*arguments: Any) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise ConnectionLost("taken over")
            await real(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pairing, "check_topics", taken)
            assert await pair.pair(config, FOUND, lambda _: None) == 0
    assert attempts == 2


def test_a_host_whose_configuration_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default file is missing, and the host has other instances, pairing would be in vain: they are named."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in (1, 2):
        (tmp_path / f"printer_{number}_data/config").mkdir(parents=True)
    with pytest.raises(AgentError, match=r"printer_1_data, .*printer_2_data: run install.sh first, or name .* with -c"):
        pair.check_place(load(), None)
    (tmp_path / "printer_2_data/config/printago.cfg").touch()
    pair.check_place(load(), None)


def test_root_does_not_pair_for_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sudo, the credentials would be root's, and lock the agent out: it says as whom to run it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = settings(tmp_path, 1)
    config.path.touch()
    if os.geteuid() == 0:
        pair.check_place(config, None)
        os.chown(tmp_path, 1, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(AgentError, match=r"Run it as [a-z]+, without sudo"):
        pair.check_place(config, None)


def test_root_does_not_pair_in_his_own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sudo changes the home folder, where there is no configuration: the user who called it is named."""
    config = settings(tmp_path, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(credentials, "other_owner", lambda _: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SUDO_USER", "pi")
    with pytest.raises(AgentError, match="Run it as pi, without sudo"):
        pair.check_place(config, None)
    config.path.touch()
    pair.check_place(config, None)


async def test_a_login_in_the_configuration_comes_first(tmp_path: Path) -> None:
    """Credentials that would never be used are not stored."""
    said: list[str] = []
    config = settings(tmp_path, 1)
    config = replace(config, mqtt=replace(config.mqtt, username="somebody"))
    assert await pair.pair(config, FOUND, said.append) == 1
    assert "[mqtt] username" in said[0]


async def test_unpairing_forgets_and_says_so(tmp_path: Path) -> None:
    """The file is gone, Printago hears `unpaired` and that the printer is away."""
    said: list[str] = []
    async with account_broker(tmp_path) as broker, cloud(broker) as heard:
        config = settings(tmp_path, broker.port)
        await pair.pair(config, FOUND, said.append)
        assert await pair.unpair(config, said.append) == 0
        assert await heard.outcomes(2) == [("voron", "paired"), ("voron", "unpaired")]
        await until(lambda: ("printago/voron/availability", "disconnected") in heard.messages)
    assert credentials.read(config.printago.data_path) is None


async def test_a_login_in_the_configuration_cannot_be_unpaired(tmp_path: Path) -> None:
    """Where the configuration has a login of its own, the agent stays logged in, and that is said."""
    said: list[str] = []
    config = settings(tmp_path, 1)
    credentials.write(config.printago.data_path, FOUND)
    config = replace(config, mqtt=replace(config.mqtt, username="somebody"))
    assert await pair.unpair(config, said.append) == 1
    assert "[mqtt] username" in said[0]
    assert "stays logged in" in said[0]
    assert credentials.read(config.printago.data_path) is None


async def test_unpairing_works_without_the_broker(tmp_path: Path) -> None:
    """A host can always be unpaired; what could not be told is said."""
    said: list[str] = []
    config = settings(tmp_path, free_port())
    credentials.write(config.printago.data_path, FOUND)
    assert await pair.unpair(config, said.append) == 0
    assert credentials.read(config.printago.data_path) is None
    assert said[0] == "Printago could not be told."
    assert await pair.unpair(config, said.append) == 0
    assert said[-1] == "This host is not paired."


async def test_a_broken_file_can_be_unpaired(tmp_path: Path) -> None:
    """Credentials that cannot be read can still be deleted."""
    config = settings(tmp_path, free_port())
    file = credentials.write(config.printago.data_path, FOUND)
    file.write_text("{")
    assert await pair.unpair(config, lambda _: None) == 0
    assert not file.exists()


async def test_a_code_is_shown_everywhere(tmp_path: Path) -> None:
    """The code is written out, and shown at the printer as a prompt that goes away at the end; then all is as with a
    key."""
    said: list[str] = []
    async with (
        account_broker(tmp_path) as broker,
        device_server(answers=["authorization_pending", CODE_ANSWER]) as server,
        FakeMoonraker() as moonraker,
    ):
        scripts: list[str] = []

        def run_script(params: dict[str, str]) -> str:
            scripts.append(params["script"])
            return "ok"

        moonraker.answers["printer.gcode.script"] = run_script
        config = code_settings(tmp_path, broker, server, moonraker.url)
        assert await pair.pair_by_code(config, said.append) == 0
    assert credentials.read(config.printago.data_path) == FOUND
    assert said[0] == "To pair, open https://pair.example.com/device and enter WDJB-MJHT within 15 min."
    shown, ended = scripts
    actions = [shlex.split(line)[2].removeprefix("MSG=action:") for line in shown.splitlines()]
    assert actions == [
        "prompt_end",
        "prompt_begin Pair with Printago",
        "prompt_text Open https://pair.example.com/device",
        "prompt_text and enter WDJB-MJHT",
        "prompt_footer_button Close|RESPOND TYPE=command MSG=action:prompt_end",
        "prompt_show",
    ]
    assert ended == 'RESPOND TYPE=command MSG="action:prompt_end"'


async def test_a_printer_that_starts_meanwhile_shows_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code that Klipper was not ready for is shown once it is, and only once; one that it refuses is not repeated."""
    monkeypatch.setattr(pair, "SHOW_AGAIN", 0.02)
    scripts: list[str] = []
    refusals = ["Printer is not ready", "Klippy Host not connected"]

    def run_script(params: dict[str, str]) -> str:
        scripts.append(params["script"])
        return "ok"

    async with (
        account_broker(tmp_path) as broker,
        device_server(answers=["authorization_pending"] * 20 + [CODE_ANSWER]) as server,
        FakeMoonraker() as moonraker,
    ):
        config = code_settings(tmp_path, broker, server, moonraker.url)
        asked = 0

        def answer(params: dict[str, str]) -> str | Refusal:
            nonlocal asked
            asked += 1
            return Refusal(503, refusals[asked - 1]) if asked <= len(refusals) else run_script(params)

        moonraker.answers["printer.gcode.script"] = answer
        assert await pair.pair_by_code(config, lambda _: None) == 0
        assert ["prompt_begin" in script for script in scripts] == [True, False]

        moonraker.answers["printer.gcode.script"] = Refusal(400, "Unknown command: RESPOND")
        assert await pair._run(config.printers[0], "x") is False


async def test_an_expired_code_is_renewed(tmp_path: Path) -> None:
    """When nobody has entered the code in time, another is shown."""
    said: list[str] = []
    async with (
        account_broker(tmp_path) as broker,
        device_server(answers=["expired_token", CODE_ANSWER]) as server,
    ):
        assert await pair.pair_by_code(code_settings(tmp_path, broker, server, "http://127.0.0.1:9"), said.append) == 0
        assert len(server.codes) == 2
    assert sum("enter WDJB-MJHT" in line for line in said) == 2


async def test_a_refusal_in_the_browser_ends_it(tmp_path: Path) -> None:
    """The owner's no is the end, with nothing stored."""
    async with account_broker(tmp_path) as broker, device_server(answers=["access_denied"]) as server:
        config = code_settings(tmp_path, broker, server, "http://127.0.0.1:9")
        with pytest.raises(PairingFailed, match="refused in the browser"):
            await pair.pair_by_code(config, lambda _: None)
    assert credentials.read(config.printago.data_path) is None


async def test_an_agent_without_credentials_asks_for_a_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the host is not paired the log shows a code; once it is, no more; unpaired, it begins anew."""
    monkeypatch.setattr(pair, "LOOK", 0.02)
    async with account_broker(tmp_path) as broker, device_server(answers=[CODE_ANSWER]) as server:
        config = code_settings(tmp_path, broker, server, "http://127.0.0.1:9")
        task = asyncio.create_task(pair.keep_paired(config, Backoff()))
        try:
            for count in (1, 2):
                await until(lambda: credentials.read(config.printago.data_path) is not None)
                await asyncio.sleep(5 * pair.LOOK)  # long enough to ask again, if it would
                assert len(server.codes) == count
                await pair.unpair(config, lambda _: None)
        finally:
            task.cancel()
            await asyncio.wait([task])
    assert "enter WDJB-MJHT" in caplog.text
    assert KEY[:24] not in caplog.text
