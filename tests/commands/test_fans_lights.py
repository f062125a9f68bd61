"""set_fan and set_light: the G-code that reaches Klipper, and what counts as done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from printago_moonraker.printer.facts import read_facts
from tests.fakes.klipper import Bench, bench
from tests.fakes.moonraker import Refusal

NOWHERE = Path("/nonexistent")  # no test here writes anything

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


@pytest.mark.parametrize(
    ("parameters", "script", "seen"),
    [
        ({"speed": 0.5}, "M106 S127.5", {"fan": {"speed": 0.5}}),
        ({"speed": "1"}, "M106 S255", {"fan": {"speed": 1.0}}),
        ({"fan": "fan", "speed": 0.0001}, "M106 S0.0255", {"fan": {"speed": 0.0001}}),
        (
            {"fan": "filter", "speed": 0.25},
            "SET_FAN_SPEED FAN=filter SPEED=0.25",
            {"fan_generic filter": {"speed": 0.25}},
        ),
        (
            {"fan": "Two Words", "speed": 1},
            'SET_FAN_SPEED FAN="two words" SPEED=1',
            {"fan_generic two words": {"speed": 1.0}},
        ),
        ({"fan": "fan0", "speed": 0.5}, "SET_PIN PIN=fan0 VALUE=127.5", {"output_pin fan0": {"value": 0.5}}),
    ],
)
async def test_set_fan(parameters: dict[str, Any], script: str, seen: dict[str, dict[str, Any]]) -> None:
    """Each kind of fan has its own command; done is when the fan shows the speed."""
    async with equipped() as it:
        assert await script_of(it, "fan_control.set_fan", parameters, seen) == script


async def test_the_default_fan() -> None:
    """The part fan, else the only one that can be set."""
    async with equipped("fan_generic filter", "heater_fan hotend_fan") as it:
        script = await script_of(it, "fan_control.set_fan", {"speed": 1}, {"fan_generic filter": {"speed": 1.0}})
    assert script == "SET_FAN_SPEED FAN=filter SPEED=1"


@pytest.mark.parametrize(
    ("parameters", "script", "seen"),
    [
        ({"light": "case", "on": True}, "RED=0 GREEN=0 BLUE=0 WHITE=1", [0, 0, 0, 1]),
        ({"light": "front", "on": True}, "RED=0.4 GREEN=0.2 BLUE=0 WHITE=0", [0.4, 0.2, 0, 0]),
        ({"light": "front", "on": False, "color": "#ffffff"}, "RED=0 GREEN=0 BLUE=0 WHITE=0", [0, 0, 0, 0]),
        ({"light": "front", "brightness": 1}, "RED=1 GREEN=0.5 BLUE=0 WHITE=0", [1, 0.5, 0, 0]),
        ({"light": "case", "brightness": "0.5"}, "RED=0 GREEN=0 BLUE=0 WHITE=0.5", [0, 0, 0, 0.5]),
        ({"light": "case", "brightness": 0}, "RED=0 GREEN=0 BLUE=0 WHITE=0", [0, 0, 0, 0]),
        ({"light": "case", "color": "#ff8000"}, "RED=1 GREEN=0.502 BLUE=0 WHITE=0", [1, 0.502, 0, 0]),
        ({"light": "case", "color": "#0000ff", "brightness": 0.2}, "RED=0 GREEN=0 BLUE=0.2 WHITE=0", [0, 0, 0.2, 0]),
    ],
)
async def test_set_strip(parameters: dict[str, Any], script: str, seen: list[float]) -> None:
    """Colours and brightness of a strip; on is as it was, or white."""
    name = {"case": "neopixel case", "front": "dotstar front"}[parameters["light"]]
    async with equipped() as it:
        sent = await script_of(it, "light_control.set_light", parameters, {name: {"color_data": [seen]}})
    assert sent == f"SET_LED LED={parameters['light']} {script} SYNC=0 TRANSMIT=1"


@pytest.mark.parametrize(
    ("parameters", "script", "value"),
    [
        ({"light": "caselight", "on": True}, "SET_PIN PIN=caselight VALUE=1", 1.0),
        ({"light": "caselight", "brightness": 0.3}, "SET_PIN PIN=caselight VALUE=0.3", 0.3),
        ({"light": "relay_light", "on": True}, "SET_PIN PIN=relay_light VALUE=1", 1.0),
        ({"light": "relay_light", "brightness": 1}, "SET_PIN PIN=relay_light VALUE=1", 1.0),
    ],
)
async def test_set_pin(parameters: dict[str, Any], script: str, value: float) -> None:
    """A light on a pin has a brightness, or is on or off."""
    async with equipped() as it:
        name = f"output_pin {parameters['light']}"
        assert await script_of(it, "light_control.set_light", parameters, {name: {"value": value}}) == script


@pytest.mark.parametrize(
    ("name", "parameters", "code", "words"),
    [
        ("fan_control.set_fan", {"fan": "hotend_fan", "speed": 1}, "not_supported", "Klipper itself runs"),
        ("fan_control.set_fan", {"fan": "nope", "speed": 1}, "not_supported", "has no fan nope; it has fan, filter"),
        ("fan_control.set_fan", {"fan": "fan\nM112", "speed": 1}, "not_supported", "has no fan"),
        ("fan_control.set_fan", {"fan": "fan"}, "invalid_parameters", "speed is missing"),
        ("fan_control.set_fan", {"speed": 1.5}, "invalid_parameters", "speed: 1.5 is above 1"),
        ("fan_control.set_fan", {"speed": -0.1}, "invalid_parameters", "below 0"),
        ("light_control.set_light", {"on": True}, "invalid_parameters", "say which; this printer has caselight"),
        ("light_control.set_light", {"light": "case"}, "invalid_parameters", ""),
        (
            "light_control.set_light",
            {"light": "case", "color": "red"},
            "invalid_parameters",
            "'red' is not a colour like",
        ),
        ("light_control.set_light", {"light": "caselight", "color": "#ffffff"}, "not_supported", "has no colours"),
        (
            "light_control.set_light",
            {"light": "relay_light", "brightness": 0.5},
            "not_supported",
            "only knows on and off",
        ),
        ("light_control.set_light", {"light": "nope", "on": True}, "not_supported", "it has caselight"),
    ],
)
async def test_refused(name: str, parameters: dict[str, Any], code: str, words: str) -> None:
    """What the printer cannot do is said in a sentence, and no G-code is sent."""
    async with equipped() as it:
        kind, data = await it.run(name, parameters)
        assert (kind, data["code"]) == ("error", code)
        assert words in data["error"]
        assert it.scripts == []


async def test_a_printer_without_lights() -> None:
    """It says so."""
    async with equipped("fan") as it:
        kind, data = await it.run("light_control.set_light", {"on": True})
        assert (kind, data["code"]) == ("error", "not_supported")


async def test_klippers_refusal() -> None:
    """Klipper's own words come back."""
    async with equipped() as it:
        it.send("fan_control.set_fan", {"speed": 1})
        await it.reply("printer.gcode.script", Refusal(400, "The fan is on strike"))
        assert await it.answered() == ("error", {"error": "The fan is on strike", "code": "gcode_error"})
