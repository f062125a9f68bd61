"""The job's account and its files, where Moonraker is not needed to see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from printago_moonraker.virtual.gcode import KlipperError
from tests.virtual.conftest import klippy, until

if TYPE_CHECKING:
    from pathlib import Path

    from printago_moonraker.virtual.klippy import Printer


async def finish(printer: Printer, text: str, *states: str) -> None:
    """Print this text until one of these states."""
    (printer.sdcard.folder / "job.gcode").write_text(text)
    await printer.gcode.run("SDCARD_PRINT_FILE FILENAME=job.gcode")
    await until(lambda: printer.objects["print_stats"]()["state"] in states)  # read all the time, as by a subscriber


async def test_on_error_gcode(tmp_path: Path) -> None:
    """With on_error_gcode CANCEL_PRINT, an error in a file looks like a cancel, but for the `!! ` before it."""
    async with klippy(tmp_path, on_error="CANCEL_PRINT") as printer:
        heard: list[str] = []
        printer.gcode.listeners.append(heard.append)
        await finish(printer, "M117 a\nG1 X10 F600\nM117 b\n", "cancelled", "error")
        assert (printer.print_stats.state, printer.print_stats.message) == ("cancelled", "")
        assert any(text.startswith("!! Must home axis first") for text in heard)
        assert printer.objects["virtual_sdcard"]()["file_path"] is None


async def test_durations_and_filament(printer: Printer) -> None:
    """print_duration begins with the first extrusion, and filament counts retractions back."""
    printer.world.temperatures["extruder"] = 200.0
    await printer.gcode.run("M104 S200")
    await finish(printer, "G28\nM83\nG4 P10000\nG1 X50 E5 F600\nG1 E-1 F600\nM400\n", "complete")
    stats = printer.objects["print_stats"]()
    assert stats["filament_used"] == pytest.approx(4.0)
    assert stats["total_duration"] > 15.0
    assert 0.0 < stats["print_duration"] < stats["total_duration"] - 10.0


async def test_last_line_needs_its_newline(printer: Printer) -> None:
    """As in Klipper, a last line without a newline is never run."""
    await finish(printer, "M117 first\nM117 second", "complete")
    assert printer.objects["display_status"]()["message"] == "first"


async def test_excluded_object_is_not_printed(printer: Printer) -> None:
    """Inside an excluded object the head stays and no filament is owed afterwards."""
    printer.world.temperatures["extruder"] = 200.0
    await printer.gcode.run("M104 S200\nG28\nM83\nEXCLUDE_OBJECT_DEFINE NAME=a\nEXCLUDE_OBJECT NAME=a")
    await printer.gcode.run("EXCLUDE_OBJECT_START NAME=a\nG1 X50 E5 F6000\nG1 X60 E5\nEXCLUDE_OBJECT_END NAME=a")
    assert list(printer.toolhead.position[:3]) == [0.0, 0.0, 0.0]
    await printer.gcode.run("G1 X70 E1 F6000")
    assert list(printer.toolhead.position) == pytest.approx([70.0, 0.0, 0.0, 1.0])
    assert printer.objects["exclude_object"]()["excluded_objects"] == ["A"]


async def test_m23_m24_m25_m27(printer: Printer, said: list[str]) -> None:
    """The old commands choose, start, pause and report."""
    (printer.sdcard.folder / "old.gcode").write_text("G4 P5000\n" * 100)
    await printer.gcode.run("M27\nM23 old.gcode\nM24\nM21")
    assert said == ["Not SD printing.", "File opened:old.gcode Size:900", "File selected", "SD card ok"]
    await until(lambda: printer.sdcard.position > 0)
    with pytest.raises(KlipperError, match="SD busy"):
        await printer.gcode.run("M23 old.gcode")
    await printer.gcode.run("M25\nM27")
    assert said[-1] == f"SD printing byte {printer.sdcard.position}/900"
    assert printer.print_stats.state == "paused"


async def test_cancel_inside_the_file(printer: Printer) -> None:
    """A file may cancel itself; resetting itself is refused."""
    await finish(printer, "CANCEL_PRINT\nM117 never\n", "cancelled", "complete")
    assert printer.print_stats.state == "cancelled"
    await finish(printer, "SDCARD_RESET_FILE\n", "error")
    assert printer.print_stats.message == "SDCARD_RESET_FILE cannot be run from the sdcard"


async def test_m73_is_forgotten(printer: Printer) -> None:
    """Without motion, an M73 lasts five seconds; then the progress is the file's."""
    await printer.gcode.run("M73 P40")
    assert printer.objects["display_status"]()["progress"] == 0.4
    await printer.clock.sleep(10.0)
    assert printer.objects["display_status"]()["progress"] == 0.0


async def test_outputs(tmp_path: Path) -> None:
    """Fans, pins and lights show what they were set to, and refuse names they do not have."""
    async with klippy(tmp_path, extra=("neopixel case", "fan_generic filter")) as printer:
        await printer.gcode.run("M106 S127.5\nSET_FAN_SPEED FAN=filter SPEED=0.3\nSET_PIN PIN=caselight VALUE=0.5")
        await printer.gcode.run("SET_LED LED=case RED=1 WHITE=0.2")
        names = ("fan", "fan_generic filter", "output_pin caselight", "neopixel case")
        assert {name: printer.objects[name]() for name in names} == {
            "fan": {"speed": 0.5, "rpm": None},
            "fan_generic filter": {"speed": 0.3, "rpm": None},
            "output_pin caselight": {"value": 0.5},
            "neopixel case": {"color_data": [[1.0, 0.0, 0.0, 0.2]]},
        }
        with pytest.raises(KlipperError, match=r"The value 'nope' is not valid for PIN. Options: 'caselight'"):
            await printer.gcode.run("SET_PIN PIN=nope VALUE=1")
        await printer.gcode.run("M107")
        assert printer.outputs.fan == 0.0
