"""Prints from their start to their one end: what is told of them, in which order, and under whose name."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.farm import ENDS, PRINT_EVENTS, Farm, moves, source, until
from tests.fakes.source import Reply

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

LAYERS = 3
WHOLE = "PRINT_START BED_TEMP=50 EXTRUDER_TEMP=200\n" + f"SET_PRINT_STATS_INFO TOTAL_LAYER={LAYERS}\n"
for layer in range(1, LAYERS + 1):
    WHOLE += f"SET_PRINT_STATS_INFO CURRENT_LAYER={layer}\nG1 Z{layer * 0.2 + 5:.1f} F900\n"
    WHOLE += "".join(f"G1 X{n % 2 * 150 + 40} Y{40 + n * 3} E2 F6000\n" for n in range(20))
WHOLE += "PRINT_END\n"


def identities(events: Iterable[dict[str, Any]]) -> set[tuple[Any, ...]]:
    return {(each["path"], each["job_id"], each["source"]) for each in events}


async def end(farm: Farm, timeout: float = 30.0) -> dict[str, Any]:
    """The print's end, and the proof that it is the only one."""
    data = await farm.event(*ENDS, timeout=timeout)
    await farm.settled()
    assert [name for name in farm.prints() if name in ENDS] == [data["event"]]
    return data


@pytest.mark.shows(
    "printer_control.download_gcode",
    "printer_control.start_print",
    "printer_control.pause_print",
    "printer_control.resume_print",
)
async def test_a_whole_print_with_pause_and_resume(farm: Farm) -> None:
    """From the download to the end: each step told once, in order, under the cloud's own name; progress only grows."""
    async with source(Reply(body=WHOLE.encode()), name="whole.gcode") as (_, url):
        await farm.done("printer_control.download_gcode", url=url, job_id="job-7")
    await farm.hold("file", "SET_PRINT_STATS_INFO CURRENT_LAYER=1")
    await farm.done("printer_control.start_print", file_name="whole.gcode")
    await farm.event("LayerChange")
    assert (await farm.status())["current_state_data"]["progress"]["completion"] < 30.0
    await farm.hold("file", f"SET_PRINT_STATS_INFO CURRENT_LAYER={LAYERS}")
    await farm.completion(30)
    await farm.done("printer_control.pause_print")
    paused = await farm.status()
    assert (paused["printer_state_id"], paused["klipper"]["can"]["resume"]) == ("PAUSED", True)
    await farm.done("printer_control.resume_print")
    await farm.status()
    await farm.release()
    done = await end(farm)

    assert farm.prints() == ["PrintStarted", "PrintPaused", "PrintResumed", "PrintDone"]
    assert identities(farm.events(*PRINT_EVENTS)) == {("Printago/whole.gcode", "job-7", "printago")}
    assert done["time"] > 0.0
    assert farm.events("PrintStarted")[0]["size"] == len(WHOLE)
    assert [each["current"] for each in farm.events("LayerChange")] == list(range(1, LAYERS + 1))
    assert {each["total"] for each in farm.events("LayerChange")} == {LAYERS}

    shown = await farm.status()
    assert shown["current_state_data"]["progress"]["completion"] == 100.0
    assert shown["printer_state_id"] == "OPERATIONAL"
    statuses = [envelope["data"] for envelope in farm.envelopes if envelope["type"] == "status"]
    during = [each for each in statuses if each["klipper"]["job"]]
    assert {(each["klipper"]["job"]["job_id"], each["klipper"]["job"]["source"]) for each in during} == {
        ("job-7", "printago")
    }
    completions = [each["current_state_data"]["progress"]["completion"] for each in during]
    known = [each for each in completions if each is not None]
    assert len(known) >= 4
    assert all(earlier <= later for earlier, later in pairwise(known)), known
    assert 0.0 <= known[0] < 30.0 <= known[-1] <= 100.0
    states = [each["state_id"] for each in farm.events("PrinterStateChanged")]
    assert [state for state in states if state in ("STARTING", "PRINTING", "PAUSED", "OPERATIONAL")] == [
        "STARTING", "PRINTING", "PAUSED", "PRINTING", "OPERATIONAL"
    ]  # fmt: skip


@pytest.mark.shows("printer_control.start_print", "printer_control.stop_print")
async def test_a_print_that_the_cloud_cancels(farm: Farm) -> None:
    """A cancel is its end: not a failure, with how far it was."""
    await farm.store("cancel.gcode", moves(400))
    await farm.done("printer_control.start_print", file_name="cancel.gcode", job_id="job-8")
    await farm.completion(3)
    await farm.done("printer_control.stop_print")
    data = await end(farm)
    assert data["event"] == "PrintCancelled"
    assert (data["job_id"], data["source"], data["reason"]) == ("job-8", "printago", "cancelled")
    assert 2 <= data["progress"] < 90
    assert farm.prints() == ["PrintStarted", "PrintCancelled"]


async def test_a_print_whose_gcode_fails(farm: Farm) -> None:
    """A line that Klipper refuses ends the print as failed, with Klipper's own words."""
    await farm.store("fails.gcode", moves(20, tail="G1 X900\nM117 never\n"))
    await farm.done("printer_control.start_print", file_name="fails.gcode", job_id="job-9")
    data = await end(farm)
    assert data["event"] == "PrintFailed"
    assert data["reason"].startswith("Move out of range: 900.000")
    assert (data["job_id"], data["source"]) == ("job-9", "printago")
    assert any("Move out of range" in each["error"] for each in farm.events("Error"))
    assert "M117 never" not in await farm.received()
    status = await farm.status()
    assert (status["printer_state_id"], status["klipper"]["can"]["print"]) == ("OPERATIONAL", True)
    assert "Move out of range" in status["printer_state_string"]


async def test_a_print_that_a_person_starts(farm: Farm) -> None:
    """A print from the printer's own screen is told too, as local, even of a file that the cloud once named."""
    async with source(Reply(body=moves(10).encode()), name="local.gcode") as (_, url):
        await farm.done("printer_control.download_gcode", url=url, job_id="job-10")
    await farm.hold()
    await farm.printer.moonraker("printer.print.start", filename="Printago/local.gcode")
    await farm.event("PrintStarted")
    assert (await farm.status())["klipper"]["job"] == {"job_id": None, "source": "local"}
    await farm.release()
    assert (await end(farm))["event"] == "PrintDone"
    assert farm.prints() == ["PrintStarted", "PrintDone"]
    assert identities(farm.events(*PRINT_EVENTS)) == {("Printago/local.gcode", None, "local")}


def _are_done(farm: Farm, number: int) -> bool:
    return len(farm.events("PrintDone")) == number


async def test_the_same_file_twice(farm: Farm) -> None:
    """Two prints of one file are two prints, each under its own name."""
    await farm.store("twice.gcode", moves(10))
    for number, job_id in enumerate(("job-11", "job-12"), 1):
        await farm.done("printer_control.start_print", file_name="twice.gcode", job_id=job_id)
        await until(partial(_are_done, farm, number), timeout=20)
    assert [(each["event"], each["job_id"]) for each in farm.events(*PRINT_EVENTS)] == [
        ("PrintStarted", "job-11"), ("PrintDone", "job-11"), ("PrintStarted", "job-12"), ("PrintDone", "job-12"),
    ]  # fmt: skip


async def test_a_print_that_lasts_less_than_a_tick(farm: Farm) -> None:
    """A print that is over before anybody could see it running is a print with its one end all the same."""
    await farm.store("blink.gcode", "M117 hello\n")
    await farm.done("printer_control.start_print", file_name="blink.gcode", job_id="job-13")
    data = await end(farm)
    assert (data["event"], data["job_id"]) == ("PrintDone", "job-13")
    assert farm.prints() == ["PrintStarted", "PrintDone"]


async def test_filament_runs_out(farm: Farm) -> None:
    """A runout is told, and the pause that the printer itself makes of it, and the print can be stopped then."""
    await farm.store("runout.gcode", moves(400))
    await farm.done("printer_control.start_print", file_name="runout.gcode")
    await farm.completion(2)
    await farm.printer.control("filament", present=False)
    await farm.event("FilamentRunout")
    await farm.event("PrintPaused")
    status = await farm.status()
    assert status["klipper"]["filament_sensors"]["runout"]["filament_detected"] is False
    await farm.done("printer_control.stop_print")
    assert (await end(farm))["event"] == "PrintCancelled"


async def test_klipper_shuts_down_in_a_print(farm: Farm) -> None:
    """An emergency stop fails the print, with the reason, although Klipper itself calls it paused."""
    await farm.store("estop.gcode", moves(400))
    await farm.done("printer_control.start_print", file_name="estop.gcode", job_id="job-14")
    await farm.completion(2)
    await farm.done("printer_control.emergency_stop")
    data = await end(farm)
    assert (data["event"], data["job_id"]) == ("PrintFailed", "job-14")
    assert data["reason"]
    assert "PrintPaused" not in farm.prints()
    status = await farm.status()
    assert (status["printer_state_id"], status["klipper"]["job"]) == ("ERROR", None)


async def test_klippy_is_killed_in_a_print(farm: Farm) -> None:
    """A Klipper that dies takes its print with it: one failure, told once, and not again when Klipper is back."""
    await farm.store("killed.gcode", moves(400))
    await farm.done("printer_control.start_print", file_name="killed.gcode", job_id="job-15")
    await farm.completion(2)
    await farm.printer.kill_klippy()
    data = await end(farm)
    assert (data["event"], data["job_id"], data["source"]) == ("PrintFailed", "job-15", "printago")
    assert data["reason"]
    assert (await farm.status())["printer_state_id"] == "OFFLINE"
    await farm.printer.restart_klippy()
    await farm.event("Connected")
    await farm.status_until(lambda s: s["printer_state_id"] == "OPERATIONAL")
    assert farm.prints() == ["PrintStarted", "PrintFailed"]
