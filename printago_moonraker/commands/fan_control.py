"""Fans that take commands. Those that Klipper itself runs are no business of anybody else."""

from __future__ import annotations

from printago_moonraker import errors
from printago_moonraker.commands.registry import Answer, Context, Parameters, command, success
from printago_moonraker.printer import gcode, outputs

_PATIENCE = 120.0  # s; G-code of the print or of a person can hold Klipper up
_PART_FAN = "fan"
_K1_PART_FAN = "output_pin fan0"  # a Creality K1 has no [fan]: its M106 is a macro that sets this pin


@command("fan_control.set_fan", needs=lambda facts: any(fan.can_set for fan in outputs.fans(facts)))
async def set_fan(context: Context, parameters: Parameters) -> Answer:
    printer, speed = context.printer, float(parameters["speed"])
    fan = _find(context, parameters.get("fan"))
    if not fan.graded and speed not in (0.0, 1.0):
        raise errors.NotSupported(f"The fan {fan.name} only knows on (1) and off (0).")
    if fan.is_pin:
        script = gcode.set_pin(fan.name, speed * fan.scale)
    elif fan.object_name == _PART_FAN:
        script = gcode.set_part_fan(speed)
    else:
        script = gcode.set_fan(fan.name, speed)
    await context.script("The fan's speed", script, lambda: fan.shows(printer.state, speed), timeout=_PATIENCE)
    return success("Fan command issued successfully.", fan=fan.name, speed=speed)


def _find(context: Context, name: str | None) -> outputs.Output:
    """The fan of that name; without one the part fan, else the only one that can be set."""
    fans = outputs.fans(context.printer.facts)
    if name is not None:
        return outputs.find(fans, name, "fan")
    able = {fan.object_name.lower(): fan for fan in fans if fan.can_set}
    return able.get(_PART_FAN) or able.get(_K1_PART_FAN) or outputs.only(fans, "fan")
