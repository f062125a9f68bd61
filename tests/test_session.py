"""One printer between a scripted Moonraker and a real broker: both links, their losses, and the end."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import backoff, schemas
from printago_moonraker import session as session_module
from printago_moonraker.clock import Clock
from printago_moonraker.cloud import Cloud
from printago_moonraker.config import MqttSection, StatusSection
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.printago.login import Login
from printago_moonraker.printago.store import Store
from printago_moonraker.session import Session
from tests.fakes.broker import Proxy, proxy
from tests.fakes.klipper import METADATA, PATH, Bench, Recorder, make_config, printing, snapshot
from tests.fakes.moonraker import SILENT, FakeMoonraker, Refusal
from tests.fakes.mosquitto import mosquitto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from printago_moonraker.printago.store import Letter, Write


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("printago_moonraker.supervise.Backoff", partial(backoff.Backoff, base=0.02, floor=0.01))
    monkeypatch.setattr("printago_moonraker.printer.klippy.POLL", 0.02)


class Farm:
    """A session at work, its Moonraker, its broker, and the cloud."""

    def __init__(self, moonraker: FakeMoonraker, wire: Proxy, cloud: Cloud, session: Session) -> None:
        self.moonraker, self.wire, self.cloud, self.session = moonraker, wire, cloud, session
        self.script = Bench(moonraker, Recorder().printer, [])  # for its answers only
        self.script.script()
        moonraker.answers |= {
            "server.connection.identify": {"connection_id": 1},
            "server.webcams.list": {"webcams": [{"name": "front"}]},
            "machine.proc_stats": {"cpu_temp": 45.5, "system_cpu_usage": {"cpu": 7.5}},
            "connection.register_remote_method": "ok",
        }
        self.task = asyncio.create_task(session.run())

    async def push(self, **delta: dict[str, Any]) -> None:
        await self.moonraker.notify("notify_status_update", delta, 1.0)

    async def told(self, name: str, **payload: Any) -> dict[str, Any]:
        """The first event of that name with that payload."""
        found = await self.cloud.wait_for(
            lambda each: (
                each["type"] == "event" and each["data"]["event"] == name and payload.items() <= each["data"].items()
            )
        )
        data: dict[str, Any] = found["data"]
        return data

    async def status(self, state: str) -> dict[str, Any]:
        found = await self.cloud.wait_for(
            lambda each: each["type"] == "status" and each["data"]["printer_state_id"] == state
        )
        data: dict[str, Any] = found["data"]
        return data

    async def status_since(self, start: int, state: str) -> None:
        await self.cloud.wait_for(
            lambda each: each["type"] == "status" and each["data"]["printer_state_id"] == state, start=start
        )

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled(), self.task


@asynccontextmanager
async def farm(
    folder: Path, *, moonraker_up: bool = True, dialect: str = "klipper", **answers: Any
) -> AsyncIterator[Farm]:
    clock = Clock()
    store = Store(folder / "data", trusted_time=clock.trusted_time)
    async with mosquitto(folder) as broker, proxy(broker.port) as wire, FakeMoonraker() as moonraker, store:
        printer, config = make_config(moonraker.url, folder)
        mqtt = MqttSection(host="127.0.0.1", port=wire.port, tls=False)
        config = replace(config, mqtt=mqtt, status=StatusSection(printing_interval=0.1))
        config = replace(config, printago=replace(config.printago, dialect=dialect))
        moonraker.refuse = 0 if moonraker_up else 502
        endpoint = replace(endpoint_for(mqtt, printer.printer_id), port=broker.port)
        async with Cloud(endpoint, topics_for(config, printer)) as cloud:
            it = Farm(moonraker, wire, cloud, Session(config, printer, store, clock))
            moonraker.answers |= answers
            try:
                yield it
            finally:
                await it.stop()
        assert [
            task for task in asyncio.all_tasks() if "link" in task.get_name() or "reporter" in task.get_name()
        ] == []


async def test_it_comes_up(tmp_path: Path) -> None:
    """Startup, who is there, how it stands; every envelope valid; and available."""
    async with farm(tmp_path) as it:
        await it.cloud.wait_available("connected")
        await it.told("Startup")
        await it.told("Connected")
        status = await it.status("OPERATIONAL")
        assert status["klipper"]["host"]["cpu_temperature"] == 45.5
        pairing = await it.cloud.wait_for(
            lambda each: each["type"] == "pairing" and each["data"]["printer"]["kinematics"] == "corexy"
        )
        assert pairing["printer_id"] == "voron"
        for envelope in it.cloud.envelopes:
            errors = schemas.compiled(f"envelopes/{envelope['type']}").iter_errors(envelope)
            assert [error.message for error in errors] == []
            assert "command" not in envelope


async def test_webcams_come_and_go(tmp_path: Path) -> None:
    """The list is told, and told anew when it changes."""

    def listed(each: dict[str, Any], *names: str) -> bool:
        if each["type"] != "pairing" or not each["data"]["printer"]["kinematics"]:
            return False
        return [webcam["name"] for webcam in each["data"]["printer"]["webcams"]] == list(names)

    async with farm(tmp_path) as it:
        await it.cloud.wait_for(lambda each: listed(each, "front"))
        webcams = [{"name": "front"}, {"name": "back", "snapshot_url": "/webcam2/?action=snapshot"}]
        await it.moonraker.notify("notify_webcams_changed", {"webcams": webcams})
        await it.cloud.wait_for(lambda each: listed(each, "front", "back"))
        await it.told("SettingsUpdated")


async def test_an_old_moonraker_without_webcams(tmp_path: Path) -> None:
    """It is served all the same."""
    answers: dict[str, Any] = {"server.webcams.list": Refusal(-32601, "Method not found")}
    async with farm(tmp_path, **answers) as it:
        await it.status("OPERATIONAL")


async def test_it_ends(tmp_path: Path) -> None:
    """A command under way is answered, the end is told, and the availability says so."""
    async with farm(tmp_path) as it:
        await it.status("OPERATIONAL")
        command = {"type": "movement_control", "action": "home", "parameters": {}, "id": "c-1"}
        await it.cloud.send_raw(json.dumps(command).encode())
        await it.script.called("printer.gcode.script")
        it.task.cancel()
        answer = await it.cloud.wait_for(lambda each: each.get("command", {}).get("id") == "c-1")
        assert (answer["type"], answer["data"]["code"]) == ("error", "cancelled")
        await it.told("Shutdown")
        await it.cloud.wait_available("disconnected")


async def test_a_print_is_followed(tmp_path: Path) -> None:
    """Started by Printago, with its name for it; status at once, the file's data, and the events in order."""
    async with farm(tmp_path) as it:
        await it.status("OPERATIONAL")
        asking = asyncio.create_task(
            it.cloud.command("printer_control", "start_print", {"file_name": "cube.gcode", "job_id": "job-7"})
        )
        await it.status("STARTING")
        await it.script.called("printer.print.start")
        await it.push(**printing())
        assert (await asking)["type"] == "success"
        status = await it.cloud.wait_for(
            lambda each: each["type"] == "status" and each["data"]["klipper"]["slicer"] == METADATA["slicer"]
        )
        assert status["data"]["klipper"]["job"] == {"job_id": "job-7", "source": "printago"}
        await it.push(**printing("complete"))
        await it.told("PrintDone", job_id="job-7")
        names = [event["event"] for event in it.cloud.events() if event["event"].startswith("Print")]
        assert [name for name in names if name != "PrinterStateChanged"] == ["PrintStarted", "PrintDone"]


async def test_the_thumbnail_is_shown_once_a_job(tmp_path: Path) -> None:
    """Its picture is fetched once, and is in one status of each print and in every answer; its place is in all."""
    async with farm(tmp_path) as it:
        it.moonraker.files["Printago/.thumbs/cube-300x300.png"] = b"\x89PNG\r\n\x1a\n and the rest"
        await it.status("OPERATIONAL")
        for progress in (1.0, 2.0):  # the second is a print of the same file
            start = len(it.cloud.envelopes)
            await it.push(**printing(total_duration=progress))
            await it.cloud.wait_for(_shows_image, start=start)
            await it.push(virtual_sdcard={"file_position": 14587 + int(progress)})
            await it.push(**printing("complete"))
            await it.status_since(start, "OPERATIONAL")
            told = [each for each in it.cloud.envelopes[start:] if each["type"] == "status"]
            assert [_shows_image(each) for each in told].count(True) == 1
            assert told[-1]["data"]["klipper"]["thumbnail"]["path"] == "Printago/.thumbs/cube-300x300.png"
        assert _shows_image(await it.cloud.command("printer_control", "get_status"))
        assert len(it.moonraker.downloads) == 1


def _shows_image(envelope: dict[str, Any]) -> bool:
    return envelope["type"] == "status" and "image" in (envelope["data"]["klipper"]["thumbnail"] or {})


@pytest.mark.timeout(30)
async def test_moonraker_is_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Printago hears of the printer before Moonraker is there, and again when it is."""
    monkeypatch.setattr(session_module, "MOONRAKER_BACKOFF", 1.0)
    async with farm(tmp_path, moonraker_up=False) as it:
        await it.status("OFFLINE")
        assert (await it.cloud.command("movement_control", "home"))["data"]["code"] == "printer_offline"
        it.moonraker.refuse = 0
        await it.status("OPERATIONAL")


async def test_moonraker_lost_and_back(tmp_path: Path) -> None:
    """The print goes on meanwhile: it is offline for a moment, and told neither ended nor begun anew."""
    async with farm(tmp_path) as it:
        await it.status("OPERATIONAL")
        await it.push(**printing())
        await it.told("PrintStarted", source="local")
        it.script.status = snapshot(print_stats={"state": "printing", "filename": PATH, "total_duration": 9.0})
        it.moonraker.drop()
        await it.told("PrinterStateChanged", state_id="OFFLINE")
        await it.cloud.wait_for(lambda each: it.session.printer.phase == "PRINTING" and each["type"] == "status")
        await it.push(**printing("complete"))
        await it.told("PrintDone")
        assert [event["event"] for event in it.cloud.events()].count("PrintStarted") == 1


async def test_the_end_of_one_print_and_the_next_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the memory of the new one: a kill between two commits would tell the end of the old one twice."""
    async with farm(tmp_path) as it:
        await it.status("OPERATIONAL")
        await it.push(**printing())
        await it.told("PrintStarted")
        kept: list[tuple[list[str], bool]] = []
        real = it.session._store.put_all

        def put_all(letters: Sequence[Letter], also: Write | None = None) -> asyncio.Future[list[int]]:
            data = [json.loads(each.payload)["data"] for each in letters]
            kept.append(([each.get("event") for each in data], also is not None))
            return real(letters, also)

        monkeypatch.setattr(it.session._store, "put_all", put_all)
        await it.push(print_stats={"state": "printing", "filename": "other.gcode", "total_duration": 0.5})
        await it.told("PrintStarted", path="other.gcode")
        (batch,) = [(names, also) for names, also in kept if "PrintStarted" in names]
        assert batch == (["PrintCancelled", "PrintStarted"], True)


async def test_printago_lost_and_back(tmp_path: Path) -> None:
    """Moonraker is watched while Printago is away, and what happened comes later, in order; no old status comes."""
    async with farm(tmp_path) as it:
        await it.status("OPERATIONAL")
        link = it.session._link
        here, elsewhere = link._login, replace(link._login.endpoint(), port=1)  # nobody is there
        link._login = Login(lambda: elsewhere)
        it.wire.cut()
        count = len(it.cloud.envelopes)
        for state in ("printing", "paused", "cancelled"):
            await it.push(**printing(state))
            assert await it.session.printer.until(lambda: it.session.printer.state.job == state, 5.0)  # noqa: B023
        link._login = here
        await it.told("PrintCancelled")
        await it.cloud.wait_for(lambda each: each["type"] == "status", start=count)
        later = it.cloud.envelopes[count:]
        names = [each["data"]["event"] for each in later if each["type"] == "event" and "path" in each["data"]]
        assert names == ["PrintStarted", "PrintPaused", "PrintCancelled"]
        states = [each["data"]["printer_state_id"] for each in later if each["type"] == "status"]
        assert set(states) == {"OPERATIONAL"}


async def test_gcode_errors_are_told(tmp_path: Path) -> None:
    """A bad line in every layer is one event a minute, not a flood, and a person's message is none; what a K1 says in
    JSON is told in Klipper's words.
    """
    async with farm(tmp_path) as it:
        await it.status("OPERATIONAL")
        for _ in range(20):
            await it.moonraker.notify("notify_gcode_response", "!! Move out of range: 500.000")
        await it.moonraker.notify("notify_gcode_response", "// nothing")
        await it.moonraker.notify("notify_gcode_response", '!! {"code":"key1","msg":"Extrude below minimum temp"}')
        await it.told("Error", error="Extrude below minimum temp", dropped=19)
        errors = [event["error"] for event in it.cloud.events() if event["event"] == "Error"]
        assert errors == ["Move out of range: 500.000", "Extrude below minimum temp"]


async def test_trouble_is_an_error_envelope_too(tmp_path: Path) -> None:
    """Beside each `Error` event goes an `error` envelope that answers no command."""
    async with farm(tmp_path) as it:
        await it.status("OPERATIONAL")
        await it.moonraker.notify("notify_gcode_response", "!! Unknown pin")
        await it.push(webhooks={"state": "shutdown", "state_message": "ADC out of range\nOnce"})
        await it.cloud.wait_for(
            lambda each: each["data"].get("error") == "ADC out of range" and each["type"] == "error"
        )
        found = [each for each in it.cloud.envelopes if each["type"] == "error"]
        assert [each["data"] for each in found] == [
            {"error": "Unknown pin", "code": "gcode_error"},
            {"error": "ADC out of range", "code": "printer_not_ready"},
        ]
        for each in found:
            assert "command" not in each
            schemas.compiled("envelopes/error").validate(each)


async def test_in_dialect_octoprint_trouble_is_an_event_only(tmp_path: Path) -> None:
    """A cloud that knows only the plugin takes each `error` for the answer to what it asked last."""
    async with farm(tmp_path, dialect="octoprint") as it:
        await it.status("OPERATIONAL")
        await it.moonraker.notify("notify_gcode_response", "!! Unknown pin")
        await it.told("Error", error="Unknown pin")
        await it.cloud.command("printer_control", "get_status")
        assert [each for each in it.cloud.envelopes if each["type"] == "error"] == []


async def test_files_are_told(tmp_path: Path) -> None:
    """A file that a person uploads is news, its thumbnail is not."""
    async with farm(tmp_path) as it:
        await it.status("OPERATIONAL")
        for path in (".thumbs/x-32x32.png", "x.gcode"):
            item = {"root": "gcodes", "path": path, "size": 5}
            await it.moonraker.notify("notify_filelist_changed", {"action": "create_file", "item": item})
        await it.told("FileAdded", path="x.gcode", size=5)
        assert [event["event"] for event in it.cloud.events()].count("FileAdded") == 1


@pytest.mark.parametrize(("answer", "shown"), [(SILENT, "CONNECTING"), (Refusal(-32602, "Unauthorized"), "OFFLINE")])
async def test_a_moonraker_that_does_not_let_us_in(tmp_path: Path, answer: Any, shown: str) -> None:
    """The printer is offline once the first attempt has failed, and the session goes on."""
    async with farm(tmp_path, **{"server.connection.identify": answer}) as it:
        await it.cloud.wait_available("connected")
        await it.script.called("server.connection.identify")
        await it.status(shown)


async def test_news_that_cannot_be_read_costs_nothing(tmp_path: Path) -> None:
    """A malformed notification is a line in the log; the next one is taken."""
    async with farm(tmp_path) as it:
        await it.status("OPERATIONAL")
        for params in ([], [None], [{"print_stats": None}], ["x"], [{"print_stats": {"state": 5}}]):
            await it.moonraker.send({"jsonrpc": "2.0", "method": "notify_status_update", "params": params})
            await it.moonraker.send({"jsonrpc": "2.0", "method": "notify_filelist_changed", "params": params})
            await it.moonraker.send({"jsonrpc": "2.0", "method": "notify_gcode_response", "params": params})
        await it.push(**printing())
        await it.told("PrintStarted")
        assert len(it.moonraker.handshakes) == 1
