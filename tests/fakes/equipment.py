"""A printer with fans and lights of every kind, behind a scripted Moonraker."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from printago_moonraker.printer.facts import read_facts
from tests.fakes.klipper import Bench, bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOWHERE = Path("/nonexistent")  # nothing is written
SETTINGS: dict[str, Any] = {
    "fan": {},
    "fan_generic filter": {},
    "fan_generic two words": {},
    "heater_fan hotend_fan": {},
    "output_pin fan0": {"pwm": True, "scale": 255.0},
    "output_pin caselight": {"pwm": True},
    "output_pin relay_light": {"pwm": False},
    "neopixel case": {"color_order": ["GRBW"]},
    "dotstar front": {},
}
STATE: dict[str, dict[str, Any]] = {
    "neopixel case": {"color_data": [[0.0, 0.0, 0.0, 0.0]]},
    "dotstar front": {"color_data": [[0.4, 0.2, 0.0, 0.0]]},
    "output_pin caselight": {"value": 0.0},
    "output_pin relay_light": {"value": 0.0},
}


@asynccontextmanager
async def equipped(*names: str) -> AsyncIterator[Bench]:
    """A printer with these objects of the settings above, all of them when none is named."""
    async with bench(NOWHERE) as it:
        objects = names or tuple(SETTINGS)
        it.printer.facts = read_facts(objects, {"configfile": {"settings": SETTINGS}})
        it.printer.apply({name: STATE[name] for name in objects if name in STATE})
        yield it


async def script_of(it: Bench, name: str, parameters: dict[str, Any], seen: dict[str, dict[str, Any]]) -> str:
    """Send it, let Klipper accept it and then show `seen`; the script, when that was a success."""
    it.send(name, parameters)
    await it.called("printer.gcode.script")
    await it.reply("printer.gcode.script")
    await it.moonraker.notify("notify_status_update", {"fan": {"rpm": 1}}, 1.0)
    assert it.answers == []
    await it.moonraker.notify("notify_status_update", seen, 1.0)
    kind, data = await it.answered()
    assert kind == "success", data
    return it.scripts[-1]
