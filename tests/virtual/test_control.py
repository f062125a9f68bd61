"""What a test can have stand still stands still until it is released, and nothing else does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from printago_moonraker.virtual.control import Controls
from printago_moonraker.virtual.gcode import KlipperError
from tests.virtual.conftest import until

if TYPE_CHECKING:
    from printago_moonraker.virtual.klippy import Host, Printer


@pytest.fixture
def controls(printer: Printer) -> Controls:
    return Controls(cast("Host", SimpleNamespace(printer=printer, world=printer.world)))


async def start(printer: Printer, text: str) -> None:
    (printer.sdcard.folder / "job.gcode").write_text(text)
    await printer.gcode.run("SDCARD_PRINT_FILE FILENAME=job.gcode")


def state(printer: Printer) -> str:
    return str(printer.objects["print_stats"]()["state"])


async def test_a_print_is_held_at_a_line(printer: Printer, controls: Controls) -> None:
    """It has run that line and runs no further one, while others are served; released, it goes on to its end."""
    controls.hold("file", line="M117 b")
    await start(printer, "M117 a\nM117 b\nM117 c\n")
    await until(lambda: controls._host.world.faults.file.held)
    await printer.gcode.run("M118 served\nM400\nG4 P5000")
    assert controls.received_gcode()["lines"][1:3] == ["M117 a", "M117 b"]
    assert "M117 c" not in controls.received_gcode()["lines"]
    assert (state(printer), printer.sdcard.position) == ("printing", len("M117 a\nM117 b\n"))
    controls.release()
    await until(lambda: state(printer) == "complete")
    assert controls.received_gcode()["lines"][-1] == "M117 c"


async def test_a_held_print_can_be_paused_and_cancelled(printer: Printer, controls: Controls) -> None:
    """Between two lines a print takes part in all that others do to it."""
    controls.hold("file")
    await start(printer, "M117 a\n")
    await printer.gcode.run("PAUSE")
    assert state(printer) == "paused"
    await printer.gcode.run("RESUME\nCANCEL_PRINT")
    assert state(printer) == "cancelled"
    assert "M117 a" not in controls.received_gcode()["lines"]


async def test_motion_is_held_from_a_line_on(printer: Printer, controls: Controls) -> None:
    """A homing that has begun does not end, and what waits for it waits, however long it takes."""
    controls.hold("motion", line="G28")
    homing = printer.spawn(printer.gcode.run("G28"))
    behind = printer.spawn(printer.gcode.run("M117 behind"))
    await printer.clock.sleep(60.0)
    assert (homing.done(), behind.done(), printer.toolhead.homed) == (False, False, "x")
    controls.release()
    await homing
    await behind
    assert printer.toolhead.homed == "xyz"


async def test_a_shutdown_ends_what_is_held(printer: Printer, controls: Controls) -> None:
    """As it ends all motion."""
    controls.hold("motion")
    homing = printer.spawn(printer.gcode.run("G28"))
    await until(lambda: printer.toolhead.homed == "x")
    printer.shut_down("test")
    with pytest.raises(KlipperError, match="Homing failed due to printer shutdown"):
        await homing


def test_only_what_there_is_can_be_held(controls: Controls) -> None:
    """Another name is an error, with the names that there are."""
    with pytest.raises(ValueError, match="called heat: file, motion"):
        controls.hold("heat")
