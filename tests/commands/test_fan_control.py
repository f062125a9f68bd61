"""set_fan: the G-code that reaches Klipper, and what counts as done."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.equipment import equipped, script_of
from tests.fakes.moonraker import Refusal


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


async def test_the_default_fan_of_a_creality_k1() -> None:
    """Of its fans on pins, fan0 is the part fan."""
    async with equipped("output_pin fan0", "output_pin fan1", "output_pin fan2") as it:
        seen = {"output_pin fan0": {"value": 0.5}}
        assert await script_of(it, "fan_control.set_fan", {"speed": 0.5}, seen) == "SET_PIN PIN=fan0 VALUE=127.5"


async def test_a_part_fan_comes_before_a_pin() -> None:
    """Where there is a [fan], a pin named fan0 is not meant."""
    async with equipped("output_pin fan0", "fan") as it:
        script = await script_of(it, "fan_control.set_fan", {"speed": 1}, {"fan": {"speed": 1.0}})
    assert script == "M106 S255"


@pytest.mark.parametrize(
    ("name", "parameters", "code", "words"),
    [
        ("fan_control.set_fan", {"fan": "hotend_fan", "speed": 1}, "not_supported", "Klipper itself runs"),
        ("fan_control.set_fan", {"fan": "nope", "speed": 1}, "not_supported", "has no fan nope; it has fan, filter"),
        ("fan_control.set_fan", {"fan": "fan\nM112", "speed": 1}, "not_supported", "has no fan"),
        ("fan_control.set_fan", {"fan": "fan"}, "invalid_parameters", "speed is missing"),
        ("fan_control.set_fan", {"speed": 1.5}, "invalid_parameters", "speed: 1.5 is above 1"),
        ("fan_control.set_fan", {"speed": -0.1}, "invalid_parameters", "below 0"),
    ],
)
async def test_refused(name: str, parameters: dict[str, Any], code: str, words: str) -> None:
    """What the printer cannot do is said in a sentence, and no G-code is sent."""
    async with equipped() as it:
        kind, data = await it.run(name, parameters)
        assert (kind, data["code"]) == ("error", code)
        assert words in data["error"]
        assert it.scripts == []


async def test_klippers_refusal() -> None:
    """Klipper's own words come back."""
    async with equipped() as it:
        it.send("fan_control.set_fan", {"speed": 1})
        await it.reply("printer.gcode.script", Refusal(400, "The fan is on strike"))
        assert await it.answered() == ("error", {"error": "The fan is on strike", "code": "gcode_error"})
