"""A print that was asked for: begun when Klipper comes to it, and not when it is not wanted any more."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.errors import Cancelled
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.starts import Starts
from tests.fakes.klipper import PATH, bench, printing
from tests.fakes.moonraker import SILENT, TURN, Refusal
from tests.fakes.source import FakeSource, Reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.klipper import Bench

EMPTY: dict[str, list[str]] = {"files": [], "dirs": []}  # a folder


def soon(seconds: float) -> str:
    """RFC 3339."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("printago_moonraker.moonraker.http.UPLOAD_SPACING", 0.0)


async def waits_for_its_turn(it: Bench) -> None:
    """A start that has come, while Klipper runs somebody else's G-code."""
    it.moonraker.answers[TURN] = SILENT
    it.send("printer_control.start_print", {"file_name": "cube.gcode"}, id="start")
    await it.called(TURN)


def codes(it: Bench) -> dict[str, str]:
    """By command: the code of its error, or the type of its answer."""
    return {echo["id"]: data.get("code", kind) for kind, data, echo in it.answers}


# -------------------------------------------------------------------------------------------------- Klipper's own queue


async def test_a_start_waits_until_klipper_has_nothing_else_to_do(tmp_path: Path) -> None:
    """What is handed over behind somebody's macro cannot be taken back, and begins whenever that ends."""
    async with bench(tmp_path) as it:
        it.moonraker.answers[TURN] = SILENT
        it.send("printer_control.start_print", {"file_name": "cube.gcode"})
        await it.called(TURN)
        await it.push(extruder={"temperature": 99.0})
        assert it.requests("printer.print.start") == []
        await it.reply(TURN)
        await it.called("printer.print.start")
        await it.push(**printing())
        assert (await it.answered())[0] == "success"


@pytest.mark.parametrize(
    ("name", "parameters", "method"),
    [
        ("printer_control.start_print", {"file_name": "cube.gcode"}, "printer.print.start"),
        ("movement_control.home", {}, "printer.gcode.script"),
        ("temperature_control.set_bed", {"temperature": 60}, "printer.gcode.script"),
        ("fan_control.set_fan", {"speed": 1}, "printer.gcode.script"),
    ],
)
async def test_what_expires_while_klipper_is_busy_is_never_done(
    tmp_path: Path, name: str, parameters: dict[str, object], method: str
) -> None:
    """Klipper's queue has no end of its own: a command that waited too long in it would move hot metal an hour late."""
    async with bench(tmp_path) as it:
        it.moonraker.answers[TURN] = SILENT
        kind, data = await it.run(name, parameters, expires_at=soon(0.3))
        assert (kind, data["code"]) == ("error", "expired")
        assert "nothing was done" in data["error"]
        await it.reply(TURN)
        await it.push(extruder={"temperature": 99.0})
        assert it.requests(method) == []


async def test_without_a_time_in_it_a_command_is_patient_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`busy`, and nothing was done, which is more than a `timeout` could say."""
    monkeypatch.setattr("printago_moonraker.commands.temperature_control._PATIENCE", 0.1)
    async with bench(tmp_path) as it:
        it.moonraker.answers[TURN] = SILENT
        kind, data = await it.run("temperature_control.set_bed", {"temperature": 60})
        assert (kind, data["code"]) == ("error", "busy")
        assert it.scripts == []


@pytest.mark.parametrize(
    ("trouble", "code"),
    [("drop", "printer_offline"), ("shutdown", "printer_not_ready"), ("refusal", "printer_not_ready")],
)
async def test_what_waits_when_klipper_or_the_link_goes_is_not_done(tmp_path: Path, trouble: str, code: str) -> None:
    """It is known that nothing happened, and so it is said."""
    async with bench(tmp_path) as it:
        it.moonraker.answers[TURN] = SILENT
        it.send("movement_control.home", {})
        await it.called(TURN)
        if trouble == "drop":
            it.moonraker.drop()
        elif trouble == "shutdown":
            await it.push(webhooks={"state": "shutdown", "state_message": "Shutdown due to M112 command\n"})
        else:
            await it.reply(TURN, Refusal(400, "\nPrinter is not ready\nThe klippy host software"))
        assert (await it.answered())[1]["code"] == code
        assert it.scripts == []


async def test_a_pause_of_the_print_before_is_cleared(tmp_path: Path) -> None:
    """A pause that came after its print's end stays in Klipper, and the next print could not be paused."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.gcode.script"] = "ok"
        await it.push(pause_resume={"is_paused": True}, **printing("complete"))
        it.send("printer_control.start_print", {"file_name": "cube.gcode"})
        await it.called("printer.print.start")
        assert it.scripts == ["CLEAR_PAUSE"]
        await it.push(**printing())
        await it.answered()
        await it.push(pause_resume={"is_paused": False}, **printing("cancelled"))
        it.send("printer_control.start_print", {"file_name": "cube.gcode"})
        await it.called("printer.print.start", 2)
        assert len(it.scripts) == 1
        await it.push(**printing())
        await it.answered(2)


# -------------------------------------------------------------------------------------------------------- taken back


@pytest.mark.parametrize(("stop", "answer"), [("stop_print", "success"), ("emergency_stop", "gcode_error")])
async def test_a_stop_ends_the_download_of_a_start(tmp_path: Path, stop: str, answer: str) -> None:
    """It need not come to its end: nobody wants it any more. That the start was taken back is what a stop is for."""
    endless = Reply(200, b"G28\n" * 1000, stall=100)
    async with bench(tmp_path) as it, FakeSource(endless) as source:
        it.moonraker.answers["server.files.get_directory"] = EMPTY
        it.moonraker.answers["printer.emergency_stop"] = Refusal(400, "No")
        it.send("printer_control.start_print_bbl", {"url": source.url, "file_name": "cube.gcode"}, id="start")
        await it.moonraker.until(lambda: bool(it.moonraker.uploads))
        it.send(f"printer_control.{stop}", {}, id="stop")
        await it.answered(2)
        assert codes(it) == {"start": "cancelled", "stop": answer}
        assert not any(upload.stored for upload in it.moonraker.uploads)
        assert [name for name, _ in it.emitted] == ["TransferStarted", "TransferFailed"]
        assert it.requests("printer.print.start") == []


async def test_a_stop_takes_a_start_out_of_klippers_queue(tmp_path: Path) -> None:
    """While it waits for its turn, nothing has been handed over: the stop is a success at once."""
    async with bench(tmp_path) as it:
        await waits_for_its_turn(it)
        it.send("printer_control.stop_print", {}, id="stop")
        await it.answered(2)
        await it.reply(TURN)
        await it.push(extruder={"temperature": 99.0})
        assert codes(it) == {"start": "cancelled", "stop": "success"}
        assert it.requests("printer.print.start") == []


async def test_an_emergency_stop_right_behind_a_stop_goes_out(tmp_path: Path) -> None:
    """What the stop has interrupted is still being tidied away: nothing of it stands before the emergency stop."""
    async with bench(tmp_path) as it:
        await waits_for_its_turn(it)
        for number in range(3):
            it.send("printer_control.stop_print", {}, id=f"stop-{number}")
            it.send("printer_control.emergency_stop", {}, id=f"halt-{number}")
        await it.called("printer.emergency_stop", 3)
        await it.push(webhooks={"state": "shutdown", "state_message": "Shutdown due to webhooks request\n"})
        await it.answered(7)
        assert {codes(it)[f"halt-{number}"] for number in range(3)} == {"success"}
        assert codes(it)["start"] == "cancelled"


async def test_a_second_stop_while_the_first_is_carried_out(tmp_path: Path) -> None:
    """What is interrupted may take its time to tidy up: another stop, or an emergency stop, must not fail on it."""
    async with bench(tmp_path, connected=False) as it:
        starts, ending, tidy = Starts(it.printer), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            with starts.pending(time.monotonic()) as start:
                async with start.interrupted():
                    try:
                        await asyncio.Event().wait()
                    finally:
                        ending.set()
                        await tidy.wait()

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        assert starts.stop(time.monotonic())
        await ending.wait()
        assert starts.stop(time.monotonic())
        tidy.set()
        with pytest.raises(Cancelled, match="A stop came"):
            await task
        assert not starts.stop(time.monotonic())


async def test_a_pause_of_somebody_elses_print_is_not_cleared(tmp_path: Path) -> None:
    """A print that began and paused while the start waited could never be resumed."""
    async with bench(tmp_path) as it:
        it.moonraker.answers[TURN] = SILENT
        it.send("printer_control.start_print", {"file_name": "cube.gcode"})
        await it.called(TURN)
        await it.push(pause_resume={"is_paused": True}, **printing("paused", "other.gcode"))
        await it.reply(TURN)
        assert (await it.answered())[1]["code"] == "busy"
        assert it.scripts == []


async def test_a_stop_is_heard_while_klipper_is_down(tmp_path: Path) -> None:
    """The download goes on meanwhile, and its print would begin by itself once Klipper is back."""
    endless = Reply(200, b"G28\n" * 1000, stall=100)
    async with bench(tmp_path) as it, FakeSource(endless) as source:
        it.moonraker.answers["server.files.get_directory"] = EMPTY
        it.send("printer_control.start_print_bbl", {"url": source.url, "file_name": "cube.gcode"}, id="start")
        await it.moonraker.until(lambda: bool(it.moonraker.uploads))
        await it.klippy_goes("disconnected")
        await it.until(lambda: it.printer.state.klippy is KlippyState.DISCONNECTED)
        it.send("printer_control.stop_print", {}, id="stop")
        await it.answered(2)
        assert codes(it) == {"start": "cancelled", "stop": "success"}
        assert (await it.run("printer_control.stop_print", {}, id="again"))[1]["code"] == "printer_offline"


async def test_who_restarts_a_printer_does_not_expect_it_to_print(tmp_path: Path) -> None:
    """Somebody's emergency stop during the download takes the start back as the agent's own would."""
    async with bench(tmp_path) as it, FakeSource(Reply(200, b"G28\n" * 1000)) as source:
        it.moonraker.answers["server.files.get_directory"] = SILENT
        it.send("printer_control.start_print_bbl", {"url": source.url, "file_name": "cube.gcode"}, id="start")
        await it.called("server.files.get_directory")
        await it.push(webhooks={"state": "shutdown", "state_message": "Shutdown due to M112 command\n"})
        await it.push(webhooks={"state": "ready", "state_message": "Printer is ready"})
        it.moonraker.answers["server.files.get_directory"] = EMPTY
        await it.reply("server.files.get_directory", EMPTY)
        await it.answered()
        assert codes(it) == {"start": "cancelled"}
        assert it.requests("printer.print.start") == []


async def test_a_stop_behind_a_start_of_unknown_outcome_is_given_to_klipper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was accepted and not seen: Klipper does one after the other, so the cancel ends whatever begins."""
    monkeypatch.setattr("printago_moonraker.printer.printer.SETTLE", 0.05)
    async with bench(tmp_path) as it:
        it.moonraker.answers |= {"printer.print.start": "ok", "printer.print.cancel": "ok"}
        assert (await it.run("printer_control.start_print", {"file_name": "cube.gcode"}))[1]["code"] == "timeout"
        await it.push(**printing("cancelled", "other.gcode"))  # the print before
        kind, data = await it.run("printer_control.stop_print")
        assert (kind, data.get("already")) == ("success", None)
        assert len(it.requests("printer.print.cancel")) == 1
        assert it.printer.prints.coming is None
        assert (await it.run("printer_control.stop_print"))[1]["already"] is True


# ------------------------------------------------------------------------------------------------------- begun unseen


@pytest.mark.parametrize("ends", ["shutdown", "disconnected"])
async def test_a_print_that_klipper_accepted_has_a_start_and_an_end(tmp_path: Path, ends: str) -> None:
    """Klipper stopped before a status could show the print: it was begun all the same, and has failed."""
    async with bench(tmp_path) as it:
        it.send("printer_control.start_print", {"file_name": "cube.gcode", "job_id": "job-7"})
        await it.called("printer.print.start")
        await it.reply("printer.print.start")
        if ends == "shutdown":
            await it.push(webhooks={"state": "shutdown", "state_message": "MCU 'mcu' shutdown: Timer too close\n"})
        else:
            await it.klippy_goes("disconnected")
        await it.until(lambda: len(it.transitions) == 2)
        assert [(each.change.value, each.job.job_id) for each in it.transitions] == [
            ("PrintStarted", "job-7"),
            ("PrintFailed", "job-7"),
        ]
        assert (await it.answered())[1]["code"] == ("printer_not_ready" if ends == "shutdown" else "printer_offline")


@pytest.mark.parametrize("began", [True, False])
async def test_a_start_that_klipper_took_into_its_grave(tmp_path: Path, began: bool) -> None:
    """Whether it had begun, the history knows; one that had not is nobody's claim on the file any more."""
    async with bench(tmp_path) as it:
        it.send("printer_control.start_print", {"file_name": "cube.gcode", "job_id": "job-7"})
        await it.called("printer.print.start")
        entry = {"filename": PATH, "status": "klippy_disconnect", "start_time": time.time(), "job_id": "000001"}
        it.moonraker.answers["server.history.list"] = {"jobs": [entry] if began else []}
        await it.klippy_goes("disconnected")
        await it.reply("printer.print.start", Refusal(503, "Klippy Disconnected"))
        assert (await it.answered())[1]["code"] == "printer_offline"
        asked = len(it.requests("server.history.list"))
        await it.klippy_goes("ready")
        await it.called("server.history.list", asked + 1)
        await it.until(lambda: it.printer.prints.coming is None)
        told = [(each.change.value, each.job.job_id) for each in it.transitions]
        assert told == ([("PrintStarted", "job-7"), ("PrintFailed", "job-7")] if began else [])
        await it.push(**printing(total_duration=0.1))
        assert (it.transitions[-1].job.job_id, it.transitions[-1].job.source) == (None, "local")


async def test_a_file_is_found_by_the_name_it_was_downloaded_by(tmp_path: Path) -> None:
    """A download adds `.gcode` where Klipper needs it; the cloud need not know."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["server.files.metadata"] = lambda params: (
            {} if params["filename"] == "Printago/Part.GCODE.gcode" else Refusal(-32601, "Metadata not available")
        )
        it.moonraker.answers["server.files.get_directory"] = EMPTY
        it.send("printer_control.start_print", {"file_name": "Part.GCODE"})
        await it.called("printer.print.start")
        assert it.requests("printer.print.start") == [{"filename": "Printago/Part.GCODE.gcode"}]
        await it.push(**printing(filename="Printago/Part.GCODE.gcode"))
        assert (await it.answered())[0] == "success"


async def test_a_failed_download_renames_no_print(tmp_path: Path) -> None:
    """The file that lies there is the old one, and so is the name of its next print."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["server.files.get_directory"] = EMPTY
        it.printer.prints.name_file(PATH, "job-old")
        async with FakeSource(Reply(404)) as source:
            parameters = {"url": source.url, "file_name": "cube.gcode"}
            for more in ({"job_id": "job-new"}, {}):
                assert (await it.run("printer_control.download_gcode", {**parameters, **more}))[0] == "error"
        it.send("printer_control.start_print", {"file_name": "cube.gcode"})
        await it.called("printer.print.start")
        await it.push(**printing())
        assert it.transitions[0].job.job_id == "job-old"


async def test_a_start_behind_a_restart_is_begun(tmp_path: Path) -> None:
    """A printer that was found shut down did not stop after the start came: both were wanted, in this order."""
    async with bench(tmp_path, connected=False) as it:
        it.printer.state.moonraker = True
        starts = Starts(it.printer)
        with starts.pending(time.monotonic()) as start:
            it.printer.apply({"webhooks": {"state": "shutdown", "state_message": "why"}})
            it.printer.apply({"webhooks": {"state": "ready", "state_message": ""}})
            start.hand_over()
        with starts.pending(time.monotonic()) as start:
            it.printer.apply({"webhooks": {"state": "shutdown", "state_message": "why"}})
            with pytest.raises(Cancelled, match="Klipper stopped"):
                start.hand_over()
