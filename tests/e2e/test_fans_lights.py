"""Fans and lights, as the cloud asks for them and as Klipper then shows them."""

from __future__ import annotations

import pytest

from tests.e2e.farm import Farm, Options, moves

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

FARM = Options(extras=("heater_generic chamber", "neopixel case", "fan_generic filter"))


async def test_pairing_says_what_each_can_do(farm: Farm) -> None:
    """Before it asks, the cloud knows what there is."""
    printer = [each for each in farm.cloud.envelopes if each["type"] == "pairing"][-1]["data"]["printer"]
    assert printer["fans"] == [
        {"name": "fan", "can_set": True, "speed": True},
        {"name": "hotend_fan", "can_set": False, "speed": False},
        {"name": "filter", "can_set": True, "speed": True},
    ]
    lights = sorted(printer["lights"], key=lambda light: str(light["name"]))
    assert lights == [
        {"name": "case", "can_set": True, "brightness": True, "color": True, "white": True},
        {"name": "caselight", "can_set": True, "brightness": True, "color": False, "white": False},
    ]
    wanted = {"fan_control.set_fan", "light_control.set_light", "temperature_control.set_chamber"}
    assert wanted <= set(printer["commands"])


@pytest.mark.shows("fan_control.set_fan")
@pytest.mark.parametrize(
    ("fan", "name", "script"),
    [
        ({}, "fan", "M106 S127.5"),
        ({"fan": "fan"}, "fan", "M106 S127.5"),
        ({"fan": "filter"}, "fan_generic filter", "SET_FAN_SPEED FAN=filter SPEED=0.5"),
        ({"fan": "FAN_GENERIC Filter"}, "fan_generic filter", "SET_FAN_SPEED FAN=filter SPEED=0.5"),
    ],
)
async def test_set_fan(farm: Farm, fan: dict[str, str], name: str, script: str) -> None:
    """It turns by the time of the answer, and the status says so; 0 stops it."""
    data = await farm.done("fan_control.set_fan", **fan, speed=0.5)
    assert data["message"] == "Fan command issued successfully."
    assert (await farm.query(name))["speed"] == pytest.approx(0.5)
    assert script in await farm.received()
    short = name.rpartition(" ")[2]
    await farm.status_until(lambda s: s["klipper"]["fans"][short]["speed"] == pytest.approx(0.5))
    await farm.done("fan_control.set_fan", **fan, speed="0")
    assert (await farm.query(name))["speed"] == 0.0


async def test_a_fan_that_klipper_runs(farm: Farm) -> None:
    """It is not_supported, and so is one that is not there; Klipper hears nothing."""
    await farm.refused("not_supported", "fan_control.set_fan", fan="hotend_fan", speed=1)
    await farm.refused("not_supported", "fan_control.set_fan", fan="nope", speed=1)
    await farm.refused("invalid_parameters", "fan_control.set_fan", speed=2)
    assert await farm.received() == []


@pytest.mark.shows("light_control.set_light")
async def test_set_strip(farm: Farm) -> None:
    """Colour, brightness of the same hue, off, and on again as white, because it was dark."""
    for parameters, color in (
        ({"color": "#ff0080"}, [1.0, 0.0, 0.502, 0.0]),
        ({"brightness": 0.5}, [0.5, 0.0, 0.251, 0.0]),
        ({"on": False}, [0.0, 0.0, 0.0, 0.0]),
        ({"on": True}, [0.0, 0.0, 0.0, 1.0]),
        ({"color": "#00000033"}, [0.0, 0.0, 0.0, 0.2]),
    ):
        await farm.done("light_control.set_light", light="case", **parameters)
        assert (await farm.query("neopixel case"))["color_data"][0] == pytest.approx(color, abs=0.001)
    await farm.status_until(lambda s: s["klipper"]["lights"]["case"]["brightness"] == pytest.approx(0.2))


@pytest.mark.shows("light_control.set_light")
async def test_set_pin(farm: Farm) -> None:
    """A light on a pin is dimmed, and has no colour."""
    await farm.done("light_control.set_light", light="caselight", brightness="0.3")
    assert (await farm.query("output_pin caselight"))["value"] == pytest.approx(0.3)
    await farm.done("light_control.set_light", light="output_pin caselight", on=False)
    assert (await farm.query("output_pin caselight"))["value"] == 0.0
    await farm.refused("not_supported", "light_control.set_light", light="caselight", color="#ffffff")
    assert "caselight" in await farm.refused("invalid_parameters", "light_control.set_light", on=True)


@pytest.mark.shows("temperature_control.set_chamber")
async def test_set_chamber(farm: Farm) -> None:
    """The chamber heater takes its target, up to its own limit."""
    await farm.done("temperature_control.set_chamber", temperature=45)
    assert (await farm.query("heater_generic chamber"))["target"] == 45.0
    await farm.refused("out_of_range", "temperature_control.set_chamber", temperature=200)


async def test_while_printing(farm: Farm) -> None:
    """Fans and lights are always allowed, also in the middle of a print, which goes on."""
    farm.put("long.gcode", moves(300))
    await farm.done("printer_control.start_print", file_name="long.gcode")
    await farm.done("fan_control.set_fan", speed=0.7)
    await farm.done("light_control.set_light", light="case", on=True)
    assert (await farm.status())["printer_state_id"] == "PRINTING"
    await farm.done("printer_control.stop_print")


async def test_klipper_must_be_there(farm: Farm) -> None:
    """After an emergency stop nothing can be set."""
    await farm.done("printer_control.emergency_stop")
    await farm.refused("printer_not_ready", "fan_control.set_fan", speed=1)
    await farm.refused("printer_not_ready", "light_control.set_light", light="case", on=True)
