"""set_light: the G-code that reaches Klipper, and what counts as done."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.equipment import equipped, script_of


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
