"""Each command's success, as the cloud sees it and as Klipper felt it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from typing import Any

import pytest

from tests.e2e.farm import FOLDER, Farm, Options, moves, source
from tests.fakes.source import Reply, ranged

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

FARM = Options(extras=("heater_generic chamber", "extruder1"))
LONG = moves(400)


async def printing(farm: Farm, name: str = "long.gcode") -> str:
    path = await farm.store(name, LONG)
    await farm.done("printer_control.start_print", file_name=name)
    return path


def archive(**plates: str) -> bytes:
    """A sliced 3MF."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("3D/3dmodel.model", "<model/>")
        for name, gcode in plates.items():
            file.writestr(f"Metadata/{name}.gcode", gcode)
    return content.getvalue()


# ------------------------------------------------------------------------------------------------------ printer_control


@pytest.mark.shows("printer_control.get_status")
async def test_get_status_answers_with_a_status(farm: Farm) -> None:
    """A status that was asked for says so by the echo of its command, and is about now."""
    answer = await farm.cloud.command("printer_control", "get_status", id="c-1")
    assert answer["type"] == "status"
    assert answer["command"] == {"id": "c-1", "type": "printer_control", "action": "get_status"}
    assert (answer["printer_id"], answer["client_type"]) == ("virtual-1", "klipper")
    assert answer["data"]["printer_state_id"] == "OPERATIONAL"


@pytest.mark.shows("printer_control.download_gcode")
async def test_download_gcode(farm: Farm) -> None:
    """A file that was downloaded lies on the printer byte for byte, and its way there was told."""
    content = moves(10).encode()
    digest = hashlib.sha256(content).hexdigest()
    async with source(Reply(body=content), name="ca%20lf.gcode") as (_, url):
        data = await farm.done(
            "printer_control.download_gcode", url=url, size=str(len(content)), sha256=digest.upper(), job_id="j-1"
        )
    assert (data["file_name"], data["size"], data["sha256"]) == ("ca lf.gcode", len(content), digest)
    assert data["duration"] >= 0.0
    assert (farm.printer.gcodes / FOLDER / "ca lf.gcode").read_bytes() == content
    await farm.event("FileAdded")
    names = ("TransferStarted", "TransferDone", "TransferFailed", "MetadataAnalysisFinished")
    told = farm.events(*names)
    assert [each["event"] for each in told] == ["TransferStarted", "TransferDone", "MetadataAnalysisFinished"]
    assert {each["path"] for each in told} == {"Printago/ca lf.gcode"}
    assert (told[1]["job_id"], told[1]["size"]) == ("j-1", len(content))
    assert await farm.received() == []


@pytest.mark.shows("printer_control.download_gcode")
async def test_download_resumes_where_it_broke(farm: Farm) -> None:
    """A transfer that breaks off goes on by range requests inside the same command."""
    content = moves(2000).encode()
    async with source(ranged(content, cut=30_000)) as (server, url):
        data = await farm.done("printer_control.download_gcode", url=url, file_name="resumed.gcode")
    assert data["sha256"] == hashlib.sha256(content).hexdigest()
    assert any("range" in seen.headers for seen in server.seen)
    assert (farm.printer.gcodes / FOLDER / "resumed.gcode").read_bytes() == content


@pytest.mark.shows("printer_control.download_gcode")
async def test_download_of_a_sliced_3mf(farm: Farm) -> None:
    """Of a `.gcode.3mf` it is the plate's G-code that is stored."""
    content = archive(plate_1="G28\n", plate_2="G28 X\n")
    async with source(Reply(body=content), name="part.gcode.3mf") as (_, url):
        data = await farm.done("printer_control.download_gcode", url=url, plate="2")
    stored = farm.printer.gcodes / FOLDER / data["file_name"]
    assert (stored.suffix, stored.read_text()) == (".gcode", "G28 X\n")


@pytest.mark.shows("printer_control.start_print")
@pytest.mark.parametrize("prefix", ["", "Printago/"])
async def test_start_print(farm: Farm, prefix: str) -> None:
    """A start is a success once that file is seen printing, with or without the folder in its name."""
    await farm.store("start.gcode", LONG)
    await farm.done("printer_control.start_print", file_name=f"{prefix}start.gcode", printago_job="j-2")
    assert (await farm.query("print_stats"))["state"] == "printing"
    status = await farm.status()
    assert status["printer_state_id"] == "PRINTING"
    assert status["current_job"]["file"]["path"] == "Printago/start.gcode"
    assert status["klipper"]["job"] == {"job_id": "j-2", "source": "printago"}


@pytest.mark.shows("printer_control.start_print_bbl")
async def test_start_print_bbl_with_a_sliced_3mf(farm: Farm) -> None:
    """Download and start in one command, the archive's first plate being what is printed."""
    async with source(Reply(body=archive(plate_1=LONG, plate_2="G28\n")), name="two.gcode.3mf") as (_, url):
        data = await farm.done("printer_control.start_print_bbl", url=url, job_id="j-3")
    assert data["file_name"] == "two.gcode"
    assert data["size"] == len(LONG)
    started = await farm.event("PrintStarted")
    assert (started["path"], started["job_id"], started["source"]) == ("Printago/two.gcode", "j-3", "printago")


@pytest.mark.shows("printer_control.pause_print", "printer_control.resume_print", "printer_control.stop_print")
async def test_pause_resume_stop(farm: Farm) -> None:
    """Each is answered once Klipper shows it; asked for again, each is so already."""
    await printing(farm)
    for action, state, again in (
        ("pause_print", "paused", True),
        ("resume_print", "printing", True),
        ("pause_print", "paused", False),
        ("stop_print", "cancelled", True),
    ):
        data = await farm.done(f"printer_control.{action}")
        assert "already" not in data
        assert (await farm.query("print_stats"))["state"] == state
        if again:
            assert (await farm.done(f"printer_control.{action}"))["already"] is True
    lines = await farm.received()
    assert [line for line in lines if line in ("PAUSE", "RESUME", "CANCEL_PRINT")] == [
        "PAUSE", "RESUME", "PAUSE", "CANCEL_PRINT"
    ]  # fmt: skip
    assert farm.prints() == ["PrintStarted", "PrintPaused", "PrintResumed", "PrintPaused", "PrintCancelled"]


@pytest.mark.shows("printer_control.emergency_stop", "printer_control.firmware_restart")
async def test_emergency_stop_and_the_way_back(farm: Farm) -> None:
    """The emergency stop overtakes all that waits, is so already when asked for again, and a firmware restart heals."""
    await farm.gcode("M104 S210")
    await farm.hold("motion", "G28")
    slow = asyncio.create_task(farm.do("movement_control.home"))
    await farm.status_until(lambda s: s["klipper"]["homed_axes"])
    assert "already" not in await farm.done("printer_control.emergency_stop")
    assert (await farm.status())["printer_state_id"] == "ERROR"
    assert (await slow)["type"] == "error"
    assert (await farm.done("printer_control.emergency_stop"))["already"] is True
    assert (await farm.event("EStop"))["reason"]
    await farm.done("printer_control.firmware_restart")
    assert (await farm.status())["printer_state_id"] == "OPERATIONAL"


@pytest.mark.shows("printer_control.restart", "printer_control.firmware_restart")
@pytest.mark.parametrize("action", ["restart", "firmware_restart"])
async def test_restart(farm: Farm, action: str) -> None:
    """A restart is a success once Klipper has gone and is ready again."""
    before = (await farm.printer.control("counters"))["klippy_starts"]
    await farm.done(f"printer_control.{action}")
    assert (await farm.printer.control("counters"))["klippy_starts"] == before + 1
    assert (await farm.printer.moonraker("server.info"))["klippy_state"] == "ready"
    assert [data["event"] for data in farm.events("Connected", "Disconnected")] == ["Disconnected", "Connected"]
    await farm.done("temperature_control.set_bed", temperature=40)  # what is seen is seen through a new subscription


# -------------------------------------------------------------------------------------------------- temperature_control


@pytest.mark.shows("temperature_control.set_hotend", "temperature_control.set_bed", "temperature_control.set_chamber")
@pytest.mark.parametrize(
    ("name", "parameters", "heater", "target"),
    [
        ("set_hotend", {"temperature": 210}, "extruder", 210.0),
        ("set_hotend", {"temperature": "205.5", "tool": "0"}, "extruder", 205.5),
        ("set_hotend", {"temperature": 190, "tool": 1}, "extruder1", 190.0),
        ("set_bed", {"temperature": "60"}, "heater_bed", 60.0),
        ("set_chamber", {"temperature": 45.25}, "chamber", 45.25),
    ],
)
async def test_temperatures(farm: Farm, name: str, parameters: dict[str, Any], heater: str, target: float) -> None:
    """A target is set on the right heater, be it a number or a decimal string, and 0 switches it off."""
    await farm.done(f"temperature_control.{name}", **parameters)
    await farm.done(f"temperature_control.{name}", **parameters | {"temperature": 0})
    line = f"SET_HEATER_TEMPERATURE HEATER={heater} TARGET="
    assert await farm.received() == [f"{line}{target:g}", f"{line}0"]


async def test_a_target_that_is_so_already_is_sent_all_the_same(farm: Farm) -> None:
    """What the agent sees of a target may be a tick old: Klipper gets the command in any case."""
    await farm.done("temperature_control.set_bed", temperature=0)
    assert [line for line in await farm.received() if "heater_bed" in line] == [
        "SET_HEATER_TEMPERATURE HEATER=heater_bed TARGET=0"
    ]


# ----------------------------------------------------------------------------------------------------- movement_control


@pytest.mark.shows("movement_control.jog")
async def test_jog(farm: Farm) -> None:
    """A jog moves by so much, or to there, in numbers or decimal strings, and the user's G-code state is as before."""
    await farm.warm()
    await farm.gcode("G91\nG1 F1234")
    await farm.done("movement_control.jog", axes={"x": 10, "y": "-5", "z": 2}, speed="3000", tags=["a", "b"])
    assert (await farm.query("toolhead"))["position"][:3] == [110.0, 95.0, 12.0]
    await farm.done("movement_control.jog", axes={"x": 50.5}, relative=False)
    assert (await farm.query("toolhead"))["position"][:3] == [50.5, 95.0, 12.0]
    move = await farm.query("gcode_move")
    assert (move["absolute_coordinates"], move["speed"]) == (False, 1234.0)


@pytest.mark.shows("movement_control.extrude")
async def test_extrude(farm: Farm) -> None:
    """Filament moves forth and back by the amount, also with another tool, and the tool is then as before."""
    await farm.warm()
    before = (await farm.query("toolhead"))["position"][3]
    await farm.done("movement_control.extrude", amount="5.5", speed=100)
    assert (await farm.query("toolhead"))["position"][3] == pytest.approx(before + 5.5)
    await farm.done("movement_control.extrude", amount=-2)
    assert (await farm.query("toolhead"))["position"][3] == pytest.approx(before + 3.5)
    await farm.printer.control("set_temperature", heater="extruder1", temperature=200.0)
    await farm.gcode("SET_HEATER_TEMPERATURE HEATER=extruder1 TARGET=200")
    await farm.done("movement_control.extrude", amount=1, tool=1)
    assert (await farm.query("toolhead"))["extruder"] == "extruder"
    assert "ACTIVATE_EXTRUDER EXTRUDER=extruder1" in await farm.received()


@pytest.mark.shows("movement_control.home")
@pytest.mark.parametrize(
    ("parameters", "line", "homed"),
    [
        ({"axes": "x,y"}, "G28 X Y", "xy"),
        ({"axes": ["Z"]}, "G28 Z", "z"),
        ({}, "G28", "xyz"),
    ],
)
async def test_home(farm: Farm, parameters: dict[str, Any], line: str, homed: str) -> None:
    """The axes that are named are homed, all when none is."""
    await farm.done("movement_control.home", **parameters)
    assert await farm.received() == [line]
    assert sorted((await farm.query("toolhead"))["homed_axes"]) == sorted(homed)


@pytest.mark.shows("movement_control.home", "temperature_control.set_bed")
async def test_what_moves_and_heats_keeps_its_order(farm: Farm) -> None:
    """Commands that move or heat are carried out one after the other in the order in which they were sent."""
    wanted = [f"SET_HEATER_TEMPERATURE HEATER=heater_bed TARGET={40 + n}" for n in range(5)]
    tasks = [asyncio.create_task(farm.done("movement_control.home", axes="x"))]
    tasks += [asyncio.create_task(farm.done("temperature_control.set_bed", temperature=40 + n)) for n in range(5)]
    await asyncio.gather(*tasks)
    assert await farm.received() == ["G28 X", *wanted]


@pytest.mark.shows("movement_control.jog")
async def test_jogging_while_paused(farm: Farm) -> None:
    """While a print is paused the head may be moved, and the print goes on from where it was."""
    await printing(farm)
    await farm.completion(3)
    await farm.done("printer_control.pause_print")
    await farm.done("movement_control.jog", axes={"z": 1})
    await farm.done("printer_control.resume_print")
    assert (await farm.status())["printer_state_id"] == "PRINTING"
