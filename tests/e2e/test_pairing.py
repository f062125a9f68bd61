"""A host's way into an account and out of it, as its owner goes it: the program itself, a real Moonraker, and a real
broker with TLS, passwords and rights.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import tarfile
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from printago_moonraker import config
from printago_moonraker.cloud import Cloud
from printago_moonraker.credentials import NAME
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.virtual.rig import VirtualPrinter
from tests.e2e.client import connected
from tests.e2e.farm import ROOT, is_event, until
from tests.fakes.account import CLOUD, CLOUD_PASSWORD, KEY, OTHER_KEY, STORE, AccountBroker, account_broker
from tests.fakes.device_server import device_server
from tests.fakes.processes import ending_with_us
from tests.fakes.tls import make_authority

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

CONFIG = """\
[printago]
data_path: {folder}/data
log_path: {folder}/printago.log
{extra}
[mqtt]
host: 127.0.0.1
port: {port}
ca_file: {ca}
[printer voron-24]
moonraker_url: {url}
"""


class Place:
    """One host, its printer, and the broker with its account."""

    def __init__(self, folder: Path, printer: VirtualPrinter, broker: AccountBroker, ca: Path) -> None:
        self.folder, self.printer, self.broker, self.ca = folder, printer, broker, ca
        self.file = folder / "printago.cfg"
        self.log = folder / "printago.log"
        self.configure()

    def configure(self, extra: str = "") -> config.Config:
        text = CONFIG.format(folder=self.folder, port=self.broker.port, ca=self.ca, url=self.printer.url, extra=extra)
        self.file.write_text(text)
        return config.load(self.file)

    def words(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    async def start(self, *arguments: str, **options: Any) -> Process:
        ours = (sys.executable, "-m", "printago_moonraker", arguments[0], "-c", str(self.file), *arguments[1:])
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *ending_with_us(*ours), cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, **options
        )

    async def run(self, *arguments: str, given: str = "") -> tuple[int, str]:
        """One command, `given` on its standard input: the exit code and all that it writes."""
        process = await self.start(*arguments)
        async with asyncio.timeout(30):
            out, err = await process.communicate(given.encode())
        assert process.returncode is not None
        return process.returncode, (out + err).decode()

    async def pair(self, key: str, store: str = STORE) -> tuple[int, str]:
        return await self.run("pair", "--store-id", store, given=f"{key}\n")

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Process]:
        process = await self.start("run", limit=2**20)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(15):
                _, err = await process.communicate()
        assert b"Traceback" not in err, err

    @asynccontextmanager
    async def cloud(self) -> AsyncIterator[Cloud]:
        """Printago itself, with a login of its own."""
        settings = config.load(self.file)
        mqtt = replace(settings.mqtt, username=CLOUD, password=CLOUD_PASSWORD, client_id="cloud-{printer_id}")
        printer = settings.printers[0]
        async with Cloud(endpoint_for(mqtt, printer.printer_id), topics_for(settings, printer)) as cloud:
            yield cloud


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("pairing")
    (folder / "tls").mkdir()
    authority = make_authority(folder / "tls")
    async with (
        account_broker(folder, authority=authority) as broker,
        VirtualPrinter(folder / "p", time_factor=20) as printer,
    ):
        yield Place(folder, printer, broker, authority.ca)


@pytest_asyncio.fixture(loop_scope="module")
async def place(whole_place: Place) -> Place:
    """Not paired, the account as at first."""
    (whole_place.folder / "data" / NAME).unlink(missing_ok=True)
    whole_place.log.unlink(missing_ok=True)
    whole_place.broker.set_key(KEY)
    whole_place.broker.reload()
    whole_place.configure()
    return whole_place


def paired(envelope: dict[str, Any]) -> bool:
    """The agent's own, which knows the printer."""
    return envelope["type"] == "pairing" and bool(envelope["data"].get("printer", {}).get("kinematics"))


async def test_from_unpaired_to_paired_to_revoked_and_back(place: Place) -> None:
    """An agent that runs waits, watching the printer; is paired; loses its key, says so once and watches on; is paired
    anew; and tells then what the printer did meanwhile. It is the same process all the time."""
    async with place.cloud() as cloud, place.agent() as agent:
        await until(lambda: "connected to Moonraker" in place.words())
        await until(lambda: "refuses the connection" in place.words())

        code, text = await place.pair(KEY)
        assert (code, "Paired with 127.0.0.1" in text) == (0, True), text
        assert stat.S_IMODE((place.folder / "data" / NAME).stat().st_mode) == 0o600
        await cloud.wait_for(lambda envelope: envelope["type"] == "pairing")
        await cloud.wait_for(paired)
        assert (await cloud.command("printer_control", "get_status"))["type"] == "status"

        place.broker.set_key(OTHER_KEY)
        place.broker.reload()
        await until(lambda: "Not authorized. Run " in place.words().partition("connected to 127")[2])
        start = len(cloud.envelopes)
        await place.printer.moonraker("printer.emergency_stop")
        assert (await place.pair(KEY))[0] == 1  # the old one is not taken again
        code, text = await place.pair(OTHER_KEY)
        assert code == 0, text
        await cloud.wait_for(paired, start=start)
        assert await cloud.wait_for(lambda envelope: is_event(envelope, "Error"), start=start)
        assert agent.returncode is None

    for secret in (KEY[:24], OTHER_KEY[:24]):
        assert secret not in place.words()
    told = place.words().count("WARNING printago.link")
    assert told == 1, place.words()
    await place.printer.moonraker("printer.firmware_restart")
    await place.printer.wait_ready()


async def test_pairing_again_with_the_same_key(place: Place) -> None:
    """The agent that runs with that key has the same client ID: it gives way for the check, and is back."""
    await place.pair(KEY)
    async with place.cloud() as cloud, place.agent():
        await cloud.wait_for(paired)
        start = len(cloud.envelopes)
        code, text = await place.pair(KEY)
        assert code == 0, text
        await cloud.wait_for(paired, start=start)
        assert (await cloud.command("printer_control", "get_status"))["type"] == "status"


@pytest.mark.parametrize(("store", "key"), [(STORE, OTHER_KEY), ("store-0000", KEY)])
async def test_wrong_credentials_are_told_in_plain_words(place: Place, store: str, key: str) -> None:
    """A wrong store or key is one line after the check was announced, exit code 1, nothing stored."""
    code, text = await place.pair(key, store)
    assert code == 1
    checking, told = text.splitlines()
    assert checking.startswith("Checking the login at ")
    assert "store ID or the API key is wrong" in told
    assert key[:24] not in text
    assert not (place.folder / "data" / NAME).exists()


async def test_on_a_terminal_the_key_stays_hidden(place: Place) -> None:
    """On a terminal it asks for both, and what is typed as the key is not shown."""
    ours, theirs = os.openpty()
    try:
        command = ending_with_us(sys.executable, "-m", "printago_moonraker", "pair", "-c", str(place.file))
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        shown = b""
        for prompt, answer in ((b"Store ID: ", STORE), (b"API key (stays hidden): ", KEY)):
            while prompt not in shown:
                shown += await asyncio.to_thread(os.read, ours, 4096)
            os.write(ours, f"{answer}\n".encode())
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        shown += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert STORE.encode() in shown
    assert KEY[:8].encode() not in shown
    assert b"Paired with 127.0.0.1" in shown


async def test_wrong_usage_is_two(place: Place) -> None:
    """Without a terminal and without --store-id, or with an empty key, it is wrong usage, told in one line."""
    for arguments, given in ((("pair",), ""), (("pair", "--store-id", STORE), "\n")):
        code, text = await place.run(*arguments, given=given)
        assert (code, len(text.splitlines())) == (2, 1), text


async def test_unpaired_while_it_runs(place: Place) -> None:
    """`unpair` deletes the key, Printago hears it, and the agent that runs is gone from the broker."""
    await place.pair(KEY)
    async with place.cloud() as cloud, place.agent():
        await cloud.wait_for(paired)
        start = len(cloud.envelopes)
        code, text = await place.run("unpair")
        assert (code, "Unpaired" in text) == (0, True)
        await cloud.wait_for(
            lambda each: each["type"] == "pairing" and each["data"]["outcome"] == "unpaired", start=start
        )
        await until(lambda: "refuses the connection" in place.words())
        await cloud.wait_available("disconnected")
        assert not any(paired(each) for each in cloud.envelopes[start:])
    assert not (place.folder / "data" / NAME).exists()


async def test_a_code_on_the_printers_screen(place: Place) -> None:
    """An agent that is not paired shows a code in its log and as a prompt at the real printer, and is paired when it
    was entered."""
    found = {"access_token": KEY, "store_id": STORE}
    async with device_server(answers=["authorization_pending"], interval=0.2) as server:
        place.configure(f"device_authorization_url: {server.url}/device\ntoken_url: {server.url}/token")
        async with connected(place.printer.url) as client, place.cloud() as cloud, place.agent():
            await until(lambda: any("prompt_show" in str(each) for each in client.log))
            assert "enter WDJB-MJHT within 15 min" in place.words()
            shown = [str(each) for each in client.log if "action:prompt" in str(each)]
            assert any("and enter WDJB-MJHT" in each for each in shown), shown
            server.answers.append(found)
            await cloud.wait_for(paired)
            await until(lambda: "prompt_end" in str(client.log[-5:]))
    assert KEY[:24] not in place.words()


async def test_doctor_when_all_is_well(place: Place) -> None:
    """Every check is ok, the exit code 0, and the agent that runs is not thrown out by it."""
    await place.pair(KEY)
    async with place.cloud() as cloud, place.agent():
        await cloud.wait_for(paired)
        code, text = await place.run("doctor", "--json")
        report = json.loads(text)
        bad = [check for check in report["checks"] if check["outcome"] != "ok"]
        assert (code, report["ok"], bad) == (0, True, [])
        assert cloud.availability == "connected"
        assert (await cloud.command("printer_control", "get_status"))["type"] == "status"
    assert "the connection broke" not in place.words()


async def test_support_holds_no_secret(place: Place) -> None:
    """The archive has what a bug report needs, is for its owner only, and no key is in any of its files."""
    await place.pair(KEY)
    async with place.agent():
        await until(lambda: "connected to 127" in place.words())
    with place.log.open("a") as log:
        log.write(
            f"an old line: password={OTHER_KEY} apiclient_{OTHER_KEY[:24]}_x https://a.example/f?signature=s3cr3t\n"
        )
    target = place.folder / "report.tar.gz"
    code, text = await place.run("support", "--output", str(target))
    assert code == 0, text
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as archive:
        parts = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive.getmembers()}
        contents = {name: part.read().decode() for name, part in parts.items() if part is not None}
    target.unlink()
    assert {"versions.json", "printago.cfg", "doctor.json", "state.json", "logs/printago.log"} <= set(contents)
    assert json.loads(contents["doctor.json"])["ok"] is True
    assert "credentials.json" in json.loads(contents["state.json"])["files"]
    everything = "\n".join(contents.values())
    for secret in (KEY, KEY[:24], OTHER_KEY[:24], "s3cr3t", CLOUD_PASSWORD):
        assert secret not in everything
