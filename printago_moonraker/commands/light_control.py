"""Lights: strips of LEDs, which have colours, and output pins, which have at most a brightness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from printago_moonraker import errors
from printago_moonraker.commands.registry import Answer, Context, Parameters, command, success
from printago_moonraker.printer import gcode, outputs

if TYPE_CHECKING:
    from printago_moonraker.printer.outputs import Color, Output
    from printago_moonraker.printer.state import PrinterState

_PATIENCE = 120.0  # s; G-code of the print or of a person can hold Klipper up
_DARK: Color = (0.0, 0.0, 0.0, 0.0)


@command("light_control.set_light", needs=lambda facts: any(light.can_set for light in outputs.lights(facts)))
async def set_light(context: Context, parameters: Parameters) -> Answer:
    """`on`: false is dark, true as it was, or white and full when it was dark; `brightness` and `color` say more."""
    printer, name = context.printer, parameters.get("light")
    lights = outputs.lights(printer.facts)
    light = outputs.find(lights, name, "light") if name is not None else outputs.only(lights, "light")
    if light.is_strip:
        color = _color(light, printer.state, parameters)
        script = gcode.set_led(light.name, color)
        await context.script("The light", script, lambda: light.shows_color(printer.state, color), timeout=_PATIENCE)
    else:
        value = _value(light, printer.state, parameters)
        script = gcode.set_pin(light.name, value * light.scale)
        await context.script("The light", script, lambda: light.shows(printer.state, value), timeout=_PATIENCE)
    return success("Light command issued successfully.", light=light.name)


def _color(light: Output, state: PrinterState, parameters: Parameters) -> Color:
    if parameters.get("on") is False:
        return _DARK
    color = light.color(state)
    if parameters.get("color") is not None:
        color = outputs.parse_color(parameters["color"])
    elif max(color) == 0.0:
        color = (0.0, 0.0, 0.0, 1.0) if light.white else (1.0, 1.0, 1.0, 0.0)
    brightness = parameters.get("brightness")
    return color if brightness is None else outputs.scaled(color, float(brightness))


def _value(light: Output, state: PrinterState, parameters: Parameters) -> float:
    if parameters.get("color") is not None:
        raise errors.NotSupported(f"The light {light.name} has no colours.")
    value = 0.0
    if parameters.get("on") is not False:
        brightness = parameters.get("brightness")
        value = float(brightness) if brightness is not None else state.number(light.object_name, "value") or 1.0
    if not light.graded and value not in (0.0, 1.0):
        raise errors.NotSupported(f"The light {light.name} only knows on and off.")
    return value
