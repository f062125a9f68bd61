"""Targets: within the printer's own limits, and seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.klipper import bench
from tests.fakes.moonraker import Refusal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("action", "parameters", "script", "heater"),
    [
        ("set_hotend", {"temperature": 200}, "HEATER=extruder TARGET=200", "extruder"),
        ("set_hotend", {"temperature": "210.5", "tool": "1"}, "HEATER=extruder1 TARGET=210.5", "extruder1"),
        ("set_hotend", {"temperature": 0}, "HEATER=extruder TARGET=0", "extruder"),
        ("set_bed", {"temperature": 60}, "HEATER=heater_bed TARGET=60", "heater_bed"),
        ("set_chamber", {"temperature": 45.00004}, "HEATER=Chamber TARGET=45", "heater_generic Chamber"),
    ],
)
async def test_a_target_is_set_and_seen(
    tmp_path: Path, action: str, parameters: dict[str, Any], script: str, heater: str
) -> None:
    """One line of G-code to the right heater; success when the heater shows the target, as Klipper rounds it."""
    async with bench(tmp_path) as it:
        await it.push(**{heater: {"target": 33.0}})
        it.send(f"temperature_control.{action}", parameters)
        await it.called("printer.gcode.script")
        assert it.scripts == [f"SET_HEATER_TEMPERATURE {script}"]
        await it.reply("printer.gcode.script")
        assert it.answers == [], "an ok is no success"
        await it.push(**{heater: {"target": float(script.rpartition("=")[2])}})
        kind, data = await it.answered()
        assert kind == "success"
        assert data["message"].endswith("temperature command issued successfully.")


@pytest.mark.parametrize(
    ("action", "parameters", "code", "words"),
    [
        ("set_hotend", {"temperature": 301}, "out_of_range", "0 to 300 °C"),
        ("set_hotend", {"temperature": 261, "tool": 1}, "out_of_range", "0 to 260 °C"),
        ("set_chamber", {"temperature": 5}, "out_of_range", "10 to 70 °C"),
        ("set_hotend", {"temperature": 200, "tool": 2}, "not_supported", "Tool 2"),
    ],
)
async def test_what_the_printer_cannot(
    tmp_path: Path, action: str, parameters: dict[str, Any], code: str, words: str
) -> None:
    """The limits are those of the printer's configuration; the sentence names them; Klipper is not asked."""
    async with bench(tmp_path) as it:
        _, data = await it.run(f"temperature_control.{action}", parameters)
        assert data["code"] == code
        assert words in data["error"]
        assert it.scripts == []


async def test_unknown_limits_are_no_defect(tmp_path: Path) -> None:
    """Where Klipper has not said its limits, a sentence can be made all the same, and the rest is Klipper's to say."""
    async with bench(tmp_path) as it:
        bed = replace(it.printer.facts.bed, min_temp=50.0, max_temp=None)  # type: ignore[type-var]
        it.printer.facts = replace(it.printer.facts, bed=bed, chamber=None)
        assert (await it.run("temperature_control.set_bed", {"temperature": 40}))[1]["code"] == "out_of_range"
        assert (await it.run("temperature_control.set_chamber", {"temperature": 40}))[1]["code"] == "not_supported"


async def test_klippers_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code and its words."""
    monkeypatch.setattr("printago_moonraker.printer.printer.TICK", 0.02)
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.gcode.script"] = Refusal(400, "Requested temperature (90.0) out of range (0:80)")
        assert (await it.run("temperature_control.set_bed", {"temperature": 90}))[1]["code"] == "out_of_range"


async def test_heating_switched_off_by_the_owner(tmp_path: Path) -> None:
    """`allow_heating: off` forbids it."""
    async with bench(tmp_path, allow_heating=False) as it:
        assert (await it.run("temperature_control.set_bed", {"temperature": 0}))[1]["code"] == "forbidden"
