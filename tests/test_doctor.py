"""The doctor: what it sees with each thing broken, and that it always comes to an end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import config, credentials, doctor, findings, program
from printago_moonraker.clock import Clock
from printago_moonraker.credentials import Credentials
from printago_moonraker.findings import Check, Outcome, as_json, as_text, exit_code, plain
from printago_moonraker.printago import pairing
from printago_moonraker.printago.endpoint import Message, endpoint_for
from printago_moonraker.printago.mqtt import connect
from printago_moonraker.virtual.webcam import make_picture
from tests.e2e.farm import until
from tests.fakes.account import KEY, OTHER_KEY, STORE, account_broker
from tests.fakes.moonraker import FakeMoonraker, Refusal
from tests.fakes.mosquitto import free_port
from tests.fakes.source import FakeSource, Reply
from tests.fakes.tls import Authority, make_authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHECKS = ["config", "disk", "clock", "Moonraker", "Klipper", "webcams"]
CHECKS += ["name resolution", "broker", "login", "topic rights"]
READY = {"state": "ready", "state_message": "Printer is ready", "software_version": "v0.13.0", "hostname": "h"}
SERVER = {"klippy_connected": True, "klippy_state": "ready", "moonraker_version": "v0.11.0"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def moonraker() -> AsyncIterator[FakeMoonraker]:
    async with FakeMoonraker() as fake:
        fake.answers |= {"server.info": SERVER, "printer.info": READY, "server.webcams.list": {"webcams": []}}
        yield fake


def write(folder: Path, url: str, port: int, *, key: str = KEY, mqtt: str = "tls: off", extra: str = "") -> Path:
    """A configuration, and the credentials of a pairing."""
    file = folder / "printago.cfg"
    file.write_text(
        f"[printago]\ndata_path: {folder}/data\n[mqtt]\nhost: 127.0.0.1\nport: {port}\n{mqtt}\n"
        f"[printer voron]\nmoonraker_url: {url}\n{extra}\n"
    )
    credentials.write(folder / "data", Credentials(STORE, key))
    return file


def outcomes(checks: list[Check]) -> dict[str, Outcome]:
    """In order; each check is there once."""
    names = [check.name for check in checks]
    assert sorted(names, key=CHECKS.index) == names == CHECKS, names
    return {check.name: check.outcome for check in checks}


def failed(checks: list[Check], *without: str) -> Check:
    """The one that failed; those named `without` were not checked for it, and all others are well."""
    found = outcomes(checks)
    broken = [check for check in checks if check.outcome is Outcome.FAILED]
    assert len(broken) == 1, broken
    assert {name for name, outcome in found.items() if outcome is Outcome.NOT_CHECKED} == set(without)
    assert exit_code(checks) == 1
    assert broken[0].saw.isprintable()
    return broken[0]


async def test_all_is_well(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """With everything there, every check is well, and says what it saw."""
    async with account_broker(tmp_path) as broker:
        checks = await doctor.examine(write(tmp_path, moonraker.url, broker.port))
    assert set(outcomes(checks).values()) == {Outcome.OK}, as_text(checks)
    assert exit_code(checks) == 0
    assert all(check.saw for check in checks)
    assert KEY[:24] not in as_json(checks)


async def test_a_broken_configuration(tmp_path: Path) -> None:
    """Nothing else can be checked, and the line of the file is named."""
    file = tmp_path / "printago.cfg"
    file.write_text("[mqtt]\nprot: 1")
    check = failed(await doctor.examine(file), *CHECKS[1:])
    assert check.name == "config"
    assert "port is meant" in check.saw


async def test_everything_is_down(tmp_path: Path) -> None:
    """Without Moonraker and without the broker, both are said, each with what to do."""
    checks = await doctor.examine(write(tmp_path, f"http://127.0.0.1:{free_port()}", free_port()))
    found = outcomes(checks)
    assert [name for name, outcome in found.items() if outcome is Outcome.FAILED] == ["Moonraker", "broker"]
    assert all(check.todo for check in checks if check.outcome is Outcome.FAILED)


async def test_moonraker_refuses(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """A Moonraker that does not trust this host: what hangs on it is not checked, the broker is."""
    moonraker.answers["server.info"] = Refusal(-32602, "Unauthorized")
    async with account_broker(tmp_path) as broker:
        check = failed(await doctor.examine(write(tmp_path, moonraker.url, broker.port)), "Klipper", "webcams")
    assert check.name == "Moonraker"
    assert "moonraker_api_key_file" in check.saw


@pytest.mark.parametrize(
    ("answers", "saw"),
    [
        ({"server.info": SERVER | {"klippy_connected": False}}, "does not reach Klipper"),
        (
            {"printer.info": READY | {"state": "shutdown", "state_message": "Shut down\nby a person"}},
            "shutdown: Shut down",
        ),
        ({"printer.info": READY | {"state": "startup", "state_message": "Printer is starting"}}, "startup: Printer"),
        ({"printer.info": READY | {"state": "strange", "state_message": ""}}, "unknown"),
        ({"printer.info": Refusal(503, "Klippy Host not connected")}, "Klippy Host not connected"),
    ],
)
async def test_klipper_is_not_ready(
    tmp_path: Path, moonraker: FakeMoonraker, answers: dict[str, Any], saw: str
) -> None:
    """Klipper's own words, one line of them; the webcams are checked all the same."""
    moonraker.answers |= answers
    async with account_broker(tmp_path) as broker:
        check = failed(await doctor.examine(write(tmp_path, moonraker.url, broker.port)))
    assert check.name == "Klipper"
    assert saw in check.saw
    assert "by a person" not in check.saw


async def test_webcams_are_looked_through(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """A picture is taken from each; the one that gives none is named."""
    pages = Reply(body=make_picture(1)), Reply(body=make_picture(2)), Reply(body=b"<html>a login page</html>")
    async with FakeSource(*pages) as source, account_broker(tmp_path) as broker:
        good = {"name": "front", "enabled": True, "snapshot_url": source.url}
        bad = {"name": "back", "enabled": True, "snapshot_url": f"http://127.0.0.1:{free_port()}/"}
        off = {"name": "old", "enabled": False, "snapshot_url": "http://127.0.0.1:1/"}
        file = write(tmp_path, moonraker.url, broker.port)
        moonraker.answers["server.webcams.list"] = {"webcams": [good, off]}
        checks = await doctor.examine(file)
        assert exit_code(checks) == 0, as_text(checks)
        moonraker.answers["server.webcams.list"] = {"webcams": [good, bad]}
        check = failed(await doctor.examine(file))
        assert check.name == "webcams"
        assert "The camera back cannot be read" in check.saw
        assert "front" not in check.saw
        moonraker.answers["server.webcams.list"] = {"webcams": [good]}
        assert "The camera front sent what is of no use" in failed(await doctor.examine(file)).saw


async def test_a_full_disk(tmp_path: Path, moonraker: FakeMoonraker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is nearly full is told with how much is left."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**10, 10**10 - 10**7, 10**7))
    async with account_broker(tmp_path) as broker:
        check = failed(await doctor.examine(write(tmp_path, moonraker.url, broker.port)))
    assert (check.name, check.saw.partition(" free")[0]) == ("disk", "0.0 GB of 10.0 GB")


async def test_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder below one that this user may not look into is a finding, not a traceback."""

    def access(path: Path, mode: int) -> bool:
        return mode == os.F_OK and path == tmp_path

    def denied(self: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    settings = config.load(write(tmp_path, "http://127.0.0.1:1", 1))
    monkeypatch.setattr(os, "access", access)
    monkeypatch.setattr(type(tmp_path), "exists", denied)
    with pytest.raises(findings.Failed, match=f"{tmp_path} cannot be written to"):
        await doctor._disk(settings)


async def test_a_wrong_clock(tmp_path: Path, moonraker: FakeMoonraker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that shows a time which has passed is told with that time."""
    monkeypatch.setattr(doctor, "Clock", lambda: Clock(wall=lambda: 0.0))
    async with account_broker(tmp_path) as broker:
        check = failed(await doctor.examine(write(tmp_path, moonraker.url, broker.port)))
    assert check.name == "clock"
    assert "1970-01-01" in check.saw


async def test_a_name_that_does_not_exist(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """Without the broker's address nothing of it is checked."""
    file = write(tmp_path, moonraker.url, 1)
    file.write_text(file.read_text().replace("host: 127.0.0.1", "host: broker.invalid"))
    check = failed(await doctor.examine(file), "broker", "login", "topic rights")
    assert check.name == "name resolution"


@pytest.mark.parametrize(("certificate", "saw"), [("expired", "has expired"), ("other-name", "IP address mismatch")])
async def test_a_bad_certificate(
    tmp_path: Path, moonraker: FakeMoonraker, authority: Authority, certificate: str, saw: str
) -> None:
    """TLS's own reason, before any login."""
    async with account_broker(tmp_path, authority=authority, certificate=certificate) as broker:
        file = write(tmp_path, moonraker.url, broker.port, mqtt=f"ca_file: {authority.ca}")
        check = failed(await doctor.examine(file), "login", "topic rights")
    assert check.name == "broker"
    assert saw in check.saw


async def test_a_wrong_key(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """The broker is there and refuses: the login is what is wrong."""
    async with account_broker(tmp_path) as broker:
        check = failed(await doctor.examine(write(tmp_path, moonraker.url, broker.port, key=OTHER_KEY)), "topic rights")
    assert check.name == "login"
    assert "printago-moonraker pair" in check.todo


async def test_credentials_that_cannot_be_read(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """A broken credentials file is the login's failure; the broker is checked all the same."""
    async with account_broker(tmp_path) as broker:
        file = write(tmp_path, moonraker.url, broker.port)
        (tmp_path / "data" / credentials.NAME).write_text("{")
        check = failed(await doctor.examine(file), "topic rights")
    assert check.name == "login"
    assert "printago-moonraker pair" in check.saw


async def test_no_right_to_publish(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """A login without the right to the printer's topics is told with the topic."""
    async with account_broker(tmp_path, rights=("read printago/#",)) as broker:
        check = failed(await doctor.examine(write(tmp_path, moonraker.url, broker.port)))
    assert check.name == "topic rights"
    assert "printago/voron/pairing" in check.saw


async def test_a_right_that_the_agent_does_not_need(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """The agent writes its availability, and never reads it: a broker that lets nobody read it is all right."""
    rights = ("readwrite printago/voron/commands", "write printago/voron/#")
    async with account_broker(tmp_path, rights=rights) as broker:
        checks = await doctor.examine(write(tmp_path, moonraker.url, broker.port))
    assert next(check for check in checks if check.name == "topic rights").outcome == "ok"


async def test_nobody_hears_anything_new(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """The right to publish is tried by saying again what the availability topic says: no event, no other state."""
    heard: list[Message] = []
    async with account_broker(tmp_path) as broker:
        file = write(tmp_path, moonraker.url, broker.port)
        me = endpoint_for(config.load(file).login(), "voron")
        async with connect(
            replace(me, client_id="cloud"), subscriptions=["printago/#"], on_message=heard.append
        ) as cloud:
            await cloud.publish("printago/voron/availability", b"connected", retain=True)
            checks = await doctor.examine(file)
            await cloud.publish("printago/end", b"")
        assert exit_code(checks) == 0, as_text(checks)
        assert [(each.topic, each.payload) for each in heard] == [("printago/voron/availability", b"connected")]
        assert "may write printago/voron/availability" in as_text(checks)
        kept: list[Message] = []
        async with connect(me, subscriptions=["printago/voron/availability"], on_message=kept.append):
            await until(lambda: bool(kept))
        assert [(each.payload, each.retain) for each in kept] == [(b"connected", True)]


async def test_what_a_new_host_says(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """Before the agent's first start there is no availability to repeat: Printago hears `paired`, which is true."""
    heard: list[Message] = []
    async with account_broker(tmp_path) as broker:
        file = write(tmp_path, moonraker.url, broker.port)
        cloud = replace(endpoint_for(config.load(file).login(), "voron"), client_id="cloud")
        async with connect(cloud, subscriptions=["printago/#"], on_message=heard.append):
            await doctor.examine(file)
    (message,) = heard
    assert message.topic == "printago/voron/pairing"
    assert json.loads(message.payload)["data"]["outcome"] == "paired"


async def test_a_farm_at_the_end_of_a_slow_line(
    tmp_path: Path, moonraker: FakeMoonraker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many printers' topics are tried side by side, each with its own time; one that has no answer is named."""
    monkeypatch.setattr(findings, "STEP", 0.5)
    at_once = most = 0
    silent = "p7"

    async def slow(endpoint: Any, *_: Any) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            await asyncio.sleep(9 if f"_{silent}-" in endpoint.client_id else 0.2)
        finally:
            at_once -= 1
        return "x"

    monkeypatch.setattr(pairing, "check_rights", slow)
    extra = "\n".join(f"[printer p{number}]\nmoonraker_url: {moonraker.url}/{number}" for number in range(29))
    async with account_broker(tmp_path) as broker:
        file = write(tmp_path, moonraker.url, broker.port, extra=extra)
        settings = config.load(file)
        with pytest.raises(findings.Failed, match=f"{silent}: no answer within"):
            await doctor._topics(settings, settings.login())
        silent = "nobody"
        _, saw = await doctor._topics(settings, settings.login())
    assert saw.endswith("and the same for 29 more")
    assert most == doctor.AT_ONCE


@pytest.mark.parametrize("answer", [None, [], "text", 5])
@pytest.mark.parametrize("method", ["server.info", "printer.info", "server.webcams.list"])
async def test_an_answer_that_nobody_expects(
    tmp_path: Path, moonraker: FakeMoonraker, method: str, answer: object
) -> None:
    """Whatever Moonraker answers, all that went well is shown, and what hangs on the answer is not checked."""
    moonraker.answers[method] = answer
    async with account_broker(tmp_path) as broker:
        checks = await doctor.examine(write(tmp_path, moonraker.url, broker.port))
    name, without = {
        "server.info": ("Moonraker", ["Klipper", "webcams"]),
        "printer.info": ("Klipper", []),
        "server.webcams.list": ("webcams", []),
    }[method]
    check = failed(checks, *without)
    assert check.name == name
    assert "an answer that cannot be understood (" in check.saw
    assert check.todo


async def test_webcams_that_are_null(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """A list that is null where webcams should be is a finding like any other."""
    moonraker.answers["server.webcams.list"] = {"webcams": None}
    async with account_broker(tmp_path) as broker:
        check = failed(await doctor.examine(write(tmp_path, moonraker.url, broker.port)))
    assert (check.name, "TypeError" in check.saw) == ("webcams", True)


async def test_a_data_folder_that_others_may_read(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """A folder of secrets that other users may enter, or that Moonraker serves, is a warning, not a failure."""
    async with account_broker(tmp_path) as broker:
        file = write(tmp_path, moonraker.url, broker.port)
        (tmp_path / "data").chmod(0o750)
        served = tmp_path / "printer_2_data/config/secret"
        for folder, saw in (
            (tmp_path / "data", "open to other users of this host (0750)"),
            (served, "Moonraker shows"),
        ):
            file.write_text(file.read_text().replace(f"{tmp_path}/data", str(folder)))
            credentials.write(folder, Credentials(STORE, KEY))
            checks = await doctor.examine(file)
            assert exit_code(checks) == 0, as_text(checks)
            (warning,) = (check for check in checks if check.outcome is Outcome.WARNING)
            assert warning.name == "data folder"
            assert saw in warning.saw
            assert str(folder) in warning.saw
            assert warning.todo
            assert as_text(checks).endswith("All works; 1 thing should be mended.")


async def test_each_printer_is_checked(tmp_path: Path, moonraker: FakeMoonraker) -> None:
    """One printer's trouble is its own."""
    async with account_broker(tmp_path) as broker:
        down = f"[printer ender]\nmoonraker_url: http://127.0.0.1:{free_port()}"
        checks = await doctor.examine(write(tmp_path, moonraker.url, broker.port, extra=down))
    found = {(check.printer, check.name): check.outcome for check in checks}
    assert found["voron", "Klipper"] is Outcome.OK
    assert found["ender", "Moonraker"] is Outcome.FAILED
    assert found["ender", "Klipper"] is Outcome.NOT_CHECKED
    rights = next(check for check in checks if check.name == "topic rights")
    assert rights.saw.endswith("and the same for 1 more")


async def test_it_never_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers that accept and fall silent cost each check its time, and no more."""
    monkeypatch.setattr(findings, "STEP", 0.4)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        while await reader.read(4096):
            pass
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        start = time.monotonic()
        checks = await doctor.examine(write(tmp_path, f"http://127.0.0.1:{port}", port))
        assert time.monotonic() - start < 3
    found = outcomes(checks)
    assert [name for name, outcome in found.items() if outcome is Outcome.FAILED] == ["Moonraker", "login"]


async def test_the_whole_is_bounded(tmp_path: Path, moonraker: FakeMoonraker, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all the time is used up, what is known is told, and that it is not all."""
    monkeypatch.setattr(doctor, "OVERALL", 0.2)

    async def endless(_config: Any) -> tuple[bool, str]:
        await asyncio.Event().wait()
        return True, ""

    monkeypatch.setattr(doctor, "_resolve", endless)
    checks = await doctor.examine(write(tmp_path, moonraker.url, 1))
    late = next(check for check in checks if check.name == "time")
    assert late.outcome is Outcome.FAILED
    assert "Moonraker" in [check.name for check in checks]


SOME = [
    Check("config", Outcome.OK, "/etc/printago.cfg"),
    Check("Moonraker", Outcome.FAILED, "word " * 40, "Do this. " * 20, "voron"),
    Check("Klipper", Outcome.NOT_CHECKED, "needs Moonraker", printer="voron"),
]


@pytest.mark.parametrize("width", [60, 100, 200])
def test_a_person_reads_it(width: int) -> None:
    """A sign, a name, what was seen; what to do under it; wrapped to the terminal."""
    lines = as_text(SOME, width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == "✓ config     /etc/printago.cfg"
    assert lines[1] == "voron"
    assert lines[2].startswith("  ✗ Moonraker  word")
    assert "  – Klipper    not checked: needs Moonraker" in lines
    assert any(line.strip().startswith("→ Do this.") for line in lines)
    assert lines[-1] == "1 of 3 checks failed."


def test_what_can_be_pasted_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line or a path is not cut in two, however narrow the terminal."""
    monkeypatch.setattr(sys, "argv", ["/home/pi/printago-moonraker-env/bin/printago-moonraker"])
    monkeypatch.setattr(program, "_named", Path("/home/pi/a/very/long/way/to/printago.cfg"))
    command = program.command("pair")
    lines = as_text(
        [Check("login", Outcome.FAILED, f"/x{'/long' * 20}", f"Copy them, and run {command} (or not).")], 60
    )
    assert command in lines
    assert f"/x{'/long' * 20}" in lines


def test_a_program_reads_it() -> None:
    """The same as JSON, with one member that says whether all is well."""
    report = json.loads(as_json(SOME))
    assert report["ok"] is False
    assert report["checks"][2] == {
        "name": "Klipper",
        "outcome": "not checked",
        "saw": "needs Moonraker",
        "todo": "",
        "printer": "voron",
    }
    assert json.loads(as_json(SOME[:1]))["ok"] is True


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", None])
def test_an_old_terminal_shows_it_too(encoding: str | None) -> None:
    """Where there is no ✓, something else tells well, failed and not checked apart; elsewhere nothing changes."""
    lines = plain(as_text([*SOME, Check("Ж", Outcome.OK, "ü")]), encoding).splitlines()
    assert [line.strip()[0] for line in lines[:3]] == ["+", "v", "x"]
    "\n".join(lines).encode(encoding or "ascii")
    assert plain(as_text(SOME), "utf-8") == as_text(SOME)
