"""Where the head is, where it may go, and how long that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from printago_moonraker.virtual.gcode import KlipperError
from printago_moonraker.virtual.motion import HALT_NOTICE, LOOK_AHEAD, START_DELAY
from tests.virtual.conftest import klippy

if TYPE_CHECKING:
    from pathlib import Path

    from printago_moonraker.virtual.klippy import Printer


async def test_homing_times(tmp_path: Path) -> None:
    """G28 takes about 8.3 s from somewhere and 5.6 s from the corner, as measured."""
    async with klippy(tmp_path) as printer:
        for measured in (8.3, 5.6):
            began = printer.clock.now()
            await printer.gcode.run("G28")
            assert printer.clock.now() - began == pytest.approx(measured, abs=1.2)


async def test_homing_looks_far_away(tmp_path: Path) -> None:
    """While an axis is homed it already counts as homed, and is seen beyond the bed."""
    async with klippy(tmp_path) as printer:
        homing = printer.spawn(printer.gcode.run("G28"))
        await printer.clock.sleep(0.6)
        assert printer.objects["toolhead"]()["homed_axes"] == "x"
        assert printer.objects["motion_report"]()["live_position"][0] > 235.0
        assert printer.objects["motion_report"]()["live_velocity"] == pytest.approx(50.0)
        await homing
        assert printer.objects["toolhead"]()["homed_axes"] == "xyz"
        assert printer.objects["toolhead"]()["position"] == [0.0, 0.0, 0.0, 0.0]


async def test_look_ahead(tmp_path: Path) -> None:
    """Moves are accepted until two seconds are queued, then they wait; M400 waits for all."""
    async with klippy(tmp_path) as printer:
        await printer.gcode.run("G28")
        moves = "\n".join(f"G1 X{10 + 50 * (i % 2)} F3000" for i in range(1, 9))  # one second each
        began = printer.clock.now()
        await printer.gcode.run(moves)
        queued = printer.clock.now() - began
        await printer.gcode.run("M400")
        moved = printer.clock.now() - began
    assert moved == pytest.approx(8.2 + START_DELAY, abs=0.01)  # the first one begins in the corner
    assert moved - LOOK_AHEAD - 1.0 <= queued <= moved - LOOK_AHEAD


async def test_modes_offsets_and_states(printer: Printer) -> None:
    """Relative moves, G92, factors, offsets; a saved state comes back."""
    await printer.gcode.run("G28\nG1 X50 F6000\nSAVE_GCODE_STATE NAME=a\nG91\nG1 X5 Y5\nM220 S50\nG92 X0")
    status = printer.objects["gcode_move"]()
    assert (status["absolute_coordinates"], status["speed_factor"], status["gcode_position"][0]) == (False, 0.5, 0.0)
    assert status["position"][:2] == [55.0, 5.0]
    await printer.gcode.run("RESTORE_GCODE_STATE NAME=a MOVE=1")
    status = printer.objects["gcode_move"]()
    assert (status["absolute_coordinates"], status["speed_factor"]) == (True, 1.0)
    assert status["position"][:2] == [50.0, 0.0]
    await printer.gcode.run("SET_GCODE_OFFSET Z=0.2\nG1 Z10")
    assert printer.objects["toolhead"]()["position"][2] == pytest.approx(10.2)
    with pytest.raises(KlipperError, match="Unknown g-code state: b"):
        await printer.gcode.run("RESTORE_GCODE_STATE NAME=b")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("G1 E200 F300", r"Extrude only move too long \(200.000mm vs 100.000mm\)"),
        ("G1 X1 E20 F300", "Move exceeds maximum extrusion"),
        ("G1 X F300", "Unable to parse move 'G1 X F300'"),
        ("G1 X5 F0", "Invalid speed in 'G1 X5 F0'"),
        ("G1 Z-3", "Move out of range: 0.000 0.000 -3.000"),
        ("ACTIVATE_EXTRUDER EXTRUDER=extruder7", "'extruder7' is not a valid extruder."),
    ],
)
async def test_refused(printer: Printer, script: str, text: str) -> None:
    """What Klipper refuses is refused in its words, and the position stays the head's."""
    printer.world.temperatures["extruder"] = 200.0
    await printer.gcode.run("M104 S200\nG28\nM83")
    with pytest.raises(KlipperError, match=text):
        await printer.gcode.run(script)
    assert printer.objects["gcode_move"]()["position"] == list(printer.toolhead.position)


async def test_idle_timeout(printer: Printer) -> None:
    """Idle, Printing while anything moves, Ready; after ten minutes Idle again, with cold heaters and free motors."""
    idle = printer.objects["idle_timeout"]
    assert idle()["state"] == "Idle"
    await printer.gcode.run("G28\nM104 S100\nG1 X100 F600")
    assert idle()["state"] == "Printing"
    await printer.gcode.run("M400")
    await printer.clock.sleep(2.0)
    assert idle()["state"] == "Ready"
    await printer.clock.sleep(605.0)
    assert idle()["state"] == "Idle"
    assert (printer.objects["extruder"]()["target"], printer.toolhead.homed) == (0.0, "")


async def test_m84_forgets_the_position(printer: Printer) -> None:
    """After M84 the printer has to be homed again."""
    await printer.gcode.run("G28\nM84")
    with pytest.raises(KlipperError, match="Must home axis first"):
        await printer.gcode.run("G1 X10")


async def test_shutdown_cuts_homing(tmp_path: Path) -> None:
    """A G28 cut by a shutdown raises a moment later."""
    async with klippy(tmp_path) as printer:
        homing = printer.spawn(printer.gcode.run("G28"))
        await printer.clock.sleep(1.0)
        printer.shut_down("test")
        began = printer.clock.now()
        with pytest.raises(KlipperError, match="Homing failed due to printer shutdown"):
            await homing
        assert printer.clock.now() - began == pytest.approx(HALT_NOTICE, abs=0.01)
