"""Heat takes its time, and every limit is Klipper's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from printago_moonraker.virtual.gcode import KlipperError
from tests.virtual.conftest import klippy

if TYPE_CHECKING:
    from pathlib import Path

    from printago_moonraker.virtual.klippy import Printer


async def test_heating_takes_as_long_as_measured(tmp_path: Path) -> None:
    """25 to 200 °C in about 19.5 s, the bed to 60 °C in about 13 s: M109 and M190 wait and say so each second."""
    async with klippy(tmp_path) as printer:
        heard: list[str] = []
        printer.gcode.listeners.append(heard.append)
        for script, measured in (("M109 S200", 19.5), ("M190 S60", 13.5)):
            heard.clear()
            began = printer.clock.now()
            await printer.gcode.run(script)
            took = printer.clock.now() - began
            assert took == pytest.approx(measured, abs=3.0)
            assert len(heard) == round(took)


async def test_cooling_is_slow(tmp_path: Path) -> None:
    """A hot end that is switched off loses about half of its heat in 23 s."""
    async with klippy(tmp_path) as printer:
        printer.world.temperatures["extruder"] = 150.0
        await printer.clock.sleep(23.0)
        assert 75.0 < printer.heaters.all["extruder"].temperature < 100.0


async def test_a_shutdown_switches_off(printer: Printer) -> None:
    """After a shutdown nothing heats, whatever the target says."""
    await printer.gcode.run("M104 S200")
    printer.world.temperatures["extruder"] = 200.0
    printer.shut_down("test")
    await printer.clock.sleep(20.0)
    assert printer.heaters.all["extruder"].temperature < 150.0


async def test_temperatures_outlive_a_restart(printer: Printer) -> None:
    """The heat is the machine's: it is in the world, and a new sensor reads it."""
    printer.world.temperatures["heater_bed"] = 80.0
    assert printer.heaters.all["heater_bed"].status()["temperature"] > 60.0


async def test_wait_ends_with_a_shutdown_and_is_ok(printer: Printer) -> None:
    """An M109 cut by a shutdown returns without an error."""
    waiting = printer.spawn(printer.gcode.run("M109 S200"))
    await printer.clock.sleep(2.0)
    printer.shut_down("test")
    await waiting


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("M104 S500", r"Requested temperature \(500.0\) out of range \(0.0:300.0\)"),
        ("M140 S-1", r"Requested temperature \(-1.0\) out of range \(0.0:130.0\)"),
        ("M104 T3 S200", "Extruder not configured"),
        ("TEMPERATURE_WAIT SENSOR=nope MINIMUM=1", "Unknown sensor nope"),
        ("TEMPERATURE_WAIT SENSOR=extruder", "missing MINIMUM or MAXIMUM"),
    ],
)
async def test_refused(printer: Printer, script: str, text: str) -> None:
    """What Klipper refuses is refused in its words."""
    with pytest.raises(KlipperError, match=text):
        await printer.gcode.run(script)


async def test_second_extruder_and_chamber(tmp_path: Path) -> None:
    """The optional heaters have their own names, limits and commands."""
    async with klippy(tmp_path, extra=("extruder1", "heater_generic chamber")) as printer:
        await printer.gcode.run("M104 T1 S220\nSET_HEATER_TEMPERATURE HEATER=chamber TARGET=45\nT1")
        assert printer.objects["extruder1"]()["target"] == 220.0
        assert printer.objects["heater_generic chamber"]()["target"] == 45.0
        assert printer.objects["toolhead"]()["extruder"] == "extruder1"
        with pytest.raises(KlipperError, match=r"out of range \(0.0:280.0\)"):
            await printer.gcode.run("M104 S290")
