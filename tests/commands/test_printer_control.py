"""Prints and Klipper itself: done when it is seen, and said as it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker.commands import printer_control
from printago_moonraker.moonraker.api import KlippyState
from tests.fakes.klipper import bench, printing, snapshot
from tests.fakes.moonraker import SILENT, Refusal

if TYPE_CHECKING:
    from pathlib import Path

METHODS = {"pause_print": "pause", "resume_print": "resume", "stop_print": "cancel"}
STEER = [
    ("pause_print", "printing", "paused", "PAUSING"),
    ("resume_print", "paused", "printing", "RESUMING"),
    ("stop_print", "printing", "cancelled", "CANCELLING"),
    ("stop_print", "paused", "cancelled", "CANCELLING"),
]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("printago_moonraker.printer.klippy.POLL", 0.02)
    monkeypatch.setattr("printago_moonraker.printer.printer.TICK", 0.02)


@pytest.mark.parametrize(("action", "before", "after", "phase"), STEER)
async def test_pause_resume_and_stop(tmp_path: Path, action: str, before: str, after: str, phase: str) -> None:
    """While it is under way the phase says so; a success when the printer shows the new state, not at the "ok"."""
    async with bench(tmp_path) as it:
        await it.push(**printing(before))
        it.send(f"printer_control.{action}")
        await it.called(f"printer.print.{METHODS[action]}")
        assert it.printer.phase == phase
        await it.reply(f"printer.print.{METHODS[action]}")
        await it.push(extruder={"temperature": 99.0})
        assert it.answers == []
        await it.push(**printing(after))
        kind, data = await it.answered()
        assert (kind, data.get("already")) == ("success", None)
        assert it.printer.phase in ("PAUSED", "PRINTING", "OPERATIONAL")


@pytest.mark.parametrize(
    ("action", "job", "expected"),
    [
        ("pause_print", "paused", "already"),
        ("resume_print", "printing", "already"),
        ("stop_print", "cancelled", "already"),
        ("pause_print", "standby", "not_printing"),
        ("pause_print", "complete", "not_printing"),
        ("resume_print", "standby", "not_paused"),
        ("resume_print", "cancelled", "not_paused"),
        ("stop_print", "standby", "not_printing"),
        ("stop_print", "complete", "not_printing"),
    ],
)
async def test_what_needs_no_doing(tmp_path: Path, action: str, job: str, expected: str) -> None:
    """What is already so is a success; what cannot be is said; Klipper, which would say "ok" to both, is not asked."""
    async with bench(tmp_path) as it:
        await it.push(**printing(job))
        kind, data = await it.run(f"printer_control.{action}")
        if expected == "already":
            assert (kind, data["already"]) == ("success", True)
        else:
            assert (kind, data["code"]) == ("error", expected)
        assert it.requests(f"printer.print.{METHODS[action]}") == []


async def test_a_pause_that_comes_too_late(tmp_path: Path) -> None:
    """The print ended first: that is no pause."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.send("printer_control.pause_print")
        await it.called("printer.print.pause")
        await it.push(**printing("complete"))
        kind, data = await it.answered()
        assert (kind, data["code"]) == ("error", "not_printing")
        assert "complete" in data["error"]


@pytest.mark.parametrize("action", ["pause_print", "resume_print"])
async def test_what_is_being_cancelled_is_neither_paused_nor_resumed(tmp_path: Path, action: str) -> None:
    """Klipper still shows the print, for as long as its cancel waits for a heater."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.send("printer_control.stop_print", id="stop")
        await it.called("printer.print.cancel")
        assert (await it.run(f"printer_control.{action}"))[1]["code"] == "busy"
        assert it.printer.phase == "CANCELLING"
        assert it.requests(f"printer.print.{METHODS[action]}") == []
        await it.push(**printing("cancelled"))
        assert (await it.answered(2))[0] == "success"


async def test_a_stop_overtakes_a_pause(tmp_path: Path) -> None:
    """Both wait for a heater; when all is over the printer is idle, and takes the next print."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.send("printer_control.pause_print", id="pause")
        await it.called("printer.print.pause")
        it.send("printer_control.stop_print", id="stop")
        await it.called("printer.print.cancel")
        await it.push(**printing("paused"))
        await it.answered()
        await it.push(**printing("cancelled"))
        await it.answered(2)
        assert [(kind, echo["id"]) for kind, _, echo in it.answers] == [("success", "pause"), ("success", "stop")]
        await it.push(**printing())
        assert it.printer.phase == "PRINTING"


@pytest.mark.parametrize("action", ["pause_print", "stop_print"])
@pytest.mark.parametrize(("goes", "code"), [("shutdown", "printer_not_ready"), ("disconnected", "printer_offline")])
async def test_klipper_stops_meanwhile(tmp_path: Path, action: str, goes: str, code: str) -> None:
    """A shutdown or a death of Klipper is neither a pause nor a stop, although nothing prints any more."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.send(f"printer_control.{action}")
        await it.called(f"printer.print.{METHODS[action]}")
        if goes == "shutdown":
            await it.push(webhooks={"state": "shutdown", "state_message": "Lost communication"}, **printing("paused"))
        else:
            await it.klippy_goes("disconnected")
        kind, data = await it.answered()
        assert (kind, data["code"]) == ("error", code)


async def test_a_resume_waits_for_the_pause_before_it(tmp_path: Path) -> None:
    """Both come at once: in the order received, not refused for what the other has not done yet."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.send("printer_control.pause_print", id="pause")
        it.send("printer_control.resume_print", id="resume")
        await it.called("printer.print.pause")
        await it.push(**printing("paused"))
        await it.called("printer.print.resume")
        await it.push(**printing())
        await it.answered(2)
        assert [(kind, echo["id"]) for kind, _, echo in it.answers] == [("success", "pause"), ("success", "resume")]


@pytest.mark.parametrize(("action", "after"), [("pause_print", "paused"), ("stop_print", "cancelled")])
async def test_a_print_that_is_about_to_begin_is_steered(tmp_path: Path, action: str, after: str) -> None:
    """Klipper has been given the start and still shows the job before, which was cancelled: that answers nothing."""
    async with bench(tmp_path) as it:
        await it.push(**printing("cancelled"))
        it.send("printer_control.start_print", {"file_name": "cube.gcode"}, id="start")
        await it.called("printer.print.start")
        it.send(f"printer_control.{action}", id="steer")
        await it.push(extruder={"temperature": 99.0})
        assert it.answers == []
        await it.push(**printing())
        await it.called(f"printer.print.{METHODS[action]}")
        await it.push(**printing(after))
        await it.answered(2)
        assert [(kind, echo["id"]) for kind, _, echo in it.answers] == [("success", "start"), ("success", "steer")]
        assert "already" not in it.answers[1][1]


@pytest.mark.parametrize("stop", ["stop_print", "emergency_stop"])
async def test_a_start_that_waits_when_a_stop_comes_is_not_begun(tmp_path: Path, stop: str) -> None:
    """A stop would be no stop if a start from before it came after it; one from after it is begun."""
    async with bench(tmp_path) as it:
        await it.push(**printing("cancelled"))
        it.send("movement_control.home", id="home")
        await it.called("printer.gcode.script")
        it.send("printer_control.start_print", {"file_name": "cube.gcode"}, id="before")
        it.moonraker.answers["printer.emergency_stop"] = Refusal(400, "No")  # or nothing could be begun afterwards
        it.send(f"printer_control.{stop}", id="stop")
        await it.answered()
        await it.reply("printer.gcode.script")
        await it.answered(3)
        it.send("printer_control.start_print", {"file_name": "cube.gcode"}, id="after")
        await it.called("printer.print.start")
        assert len(it.requests("printer.print.start")) == 1
        codes = {echo["id"]: data.get("code") for _, data, echo in it.answers}
        assert codes == {"stop": None if stop == "stop_print" else "gcode_error", "home": None, "before": "cancelled"}
        await it.push(**printing())
        await it.answered(4)


async def test_a_refused_resume(tmp_path: Path) -> None:
    """Klipper's words; nothing stays of the attempt."""
    async with bench(tmp_path) as it:
        await it.push(**printing("paused"))
        it.moonraker.answers["printer.print.resume"] = Refusal(400, "Error evaluating 'gcode_macro RESUME:gcode'")
        assert (await it.run("printer_control.resume_print"))[1]["code"] == "gcode_error"
        assert it.printer.phase == "PAUSED"


async def test_get_status(tmp_path: Path) -> None:
    """A status is its answer, in every state, also without Moonraker."""
    for connected in (True, False):
        async with bench(tmp_path, connected=connected) as it:
            kind, data = await it.run("printer_control.get_status")
            assert (kind, data["printer_state_id"]) == ("status", "OPERATIONAL" if connected else "CONNECTING")


# ------------------------------------------------------------------------------------------------------- Klipper itself


async def test_the_emergency_stop_is_seen(tmp_path: Path) -> None:
    """Past every queue; a success when Klipper is seen to be shut down; once more is `already`."""
    async with bench(tmp_path) as it:
        it.send("movement_control.home", id="home")
        await it.called("printer.gcode.script")
        it.send("printer_control.emergency_stop", id="stop")
        await it.called("printer.emergency_stop")
        await it.push(extruder={"temperature": 99.0})
        assert it.answers == []
        await it.push(webhooks={"state": "shutdown", "state_message": "Shutdown due to webhooks request"})
        await it.answered(2)
        assert {echo["id"]: kind for kind, _, echo in it.answers} == {"home": "error", "stop": "success"}
        assert (await it.run("printer_control.emergency_stop"))[1]["already"] is True


async def test_an_emergency_stop_that_cannot_be(tmp_path: Path) -> None:
    """A Klipper that is gone has nothing to stop, and says so."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.emergency_stop"] = Refusal(503, "Klippy Host not connected")
        assert (await it.run("printer_control.emergency_stop"))[1]["code"] == "printer_offline"


async def test_an_emergency_stop_without_an_answer(tmp_path: Path) -> None:
    """The link broke while it was under way: nobody knows, and that is what is said."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.emergency_stop"] = SILENT
        it.send("printer_control.emergency_stop")
        await it.called("printer.emergency_stop")
        it.moonraker.drop()
        kind, data = await it.answered()
        assert (kind, data["code"]) == ("error", "timeout")
        assert "unknown" in data["error"]


@pytest.mark.parametrize("answer_first", [True, False])
async def test_a_restart_is_gone_and_back(tmp_path: Path, answer_first: bool) -> None:
    """Right after the "ok" Klipper still shows its old state: it has to go, and to come back ready."""
    async with bench(tmp_path) as it:
        await it.push(webhooks={"state": "shutdown", "state_message": "Shutdown due to M112 command"})
        it.send("printer_control.firmware_restart")
        await it.called("printer.firmware_restart")
        if answer_first:
            await it.reply("printer.firmware_restart")
            await it.push(extruder={"temperature": 99.0})
            assert it.answers == []
        await it.klippy_goes("disconnected")
        await it.until(lambda: it.printer.state.klippy is KlippyState.DISCONNECTED)
        assert it.answers == []
        await it.klippy_goes("ready")
        assert (await it.answered())[0] == "success"


async def test_a_restart_that_ends_in_an_error(tmp_path: Path) -> None:
    """The answer is Klipper's reason."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.restart"] = "ok"
        it.send("printer_control.restart")
        await it.called("printer.restart")
        await it.klippy_goes("disconnected")
        await it.until(lambda: it.printer.state.klippy is KlippyState.DISCONNECTED)
        await it.klippy_goes("error", "Can not update MCU 'mcu' config as it is shutdown\nOnce")
        kind, data = await it.answered()
        assert (kind, data["code"]) == ("error", "printer_not_ready")
        assert "Can not update MCU" in data["error"]


@pytest.mark.parametrize(
    ("answer", "code"), [(SILENT, "timeout"), ("ok", "timeout"), (Refusal(400, "x"), "gcode_error")]
)
async def test_a_restart_that_never_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, code: str
) -> None:
    """Klipper can be deadlocked after an emergency stop: the agent's own time limit ends the waiting."""
    monkeypatch.setattr(printer_control, "_RESTART_ACCEPTED", 0.05)
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.firmware_restart"] = answer
        assert (await it.run("printer_control.firmware_restart"))[1]["code"] == code


async def test_a_restart_that_takes_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone, and not back in time: the sentence says that it has restarted."""
    monkeypatch.setattr(printer_control, "_RESTARTED", 0.05)
    async with bench(tmp_path) as it:
        it.send("printer_control.restart")
        await it.called("printer.restart")
        await it.klippy_goes("disconnected")
        kind, data = await it.answered()
        assert (kind, data["code"]) == ("error", "timeout")
        assert "restarted" in data["error"]


async def test_a_restart_cuts_its_own_call(tmp_path: Path) -> None:
    """ "Klippy Disconnected" is what was asked for."""
    async with bench(tmp_path) as it:
        it.send("printer_control.restart")
        await it.called("printer.restart")
        await it.reply("printer.restart", Refusal(503, "Klippy Disconnected"))
        await it.klippy_goes("disconnected")
        await it.until(lambda: it.printer.state.klippy is KlippyState.DISCONNECTED)
        await it.klippy_goes("ready")
        assert (await it.answered())[0] == "success"


async def test_commands_while_klipper_is_down(tmp_path: Path) -> None:
    """Each is refused with the reason; what needs no Klipper is answered."""
    async with bench(tmp_path) as it:
        await it.klippy_goes("disconnected")
        await it.until(lambda: it.printer.state.klippy is KlippyState.DISCONNECTED)
        for name, parameters in (
            ("printer_control.pause_print", {}),
            ("printer_control.start_print", {"file_name": "cube.gcode"}),
            ("temperature_control.set_bed", {"temperature": 0}),
            ("movement_control.home", {}),
            ("printer_control.restart", {}),
        ):
            assert (await it.run(name, parameters))[1]["code"] == "printer_offline", name
        it.status = snapshot()
        async with asyncio.timeout(2):
            assert (await it.run("printer_control.get_status"))[1]["printer_state_id"] == "OFFLINE"
