"""Moves by hand. The user's G-code state (absolute or relative, speed) is as before, also when they fail."""

from __future__ import annotations

import re
from contextlib import suppress

from printago_moonraker import errors
from printago_moonraker.commands.registry import (
    IDLE_ONLY,
    NOT_WHILE_PRINTING,
    Answer,
    Context,
    Parameters,
    command,
    success,
)
from printago_moonraker.printer import gcode

_JOG_SPEED = 3000.0  # mm/min; Klipper itself slows an axis down to its own limit
_EXTRUDE_SPEED = 300.0  # mm/min, what every hotend can melt
_HOME_TIMEOUT = 300.0  # s; a large printer with probing takes minutes


@command("movement_control.jog", busy=NOT_WHILE_PRINTING)
async def jog(context: Context, parameters: Parameters) -> Answer:
    distances = {axis: float(parameters["axes"][axis]) for axis in "xyz" if parameters["axes"].get(axis) is not None}
    speed = float(parameters.get("speed") or _JOG_SPEED)
    await _move(context, "The move", gcode.jog(distances, relative=parameters.get("relative", True), speed=speed))
    return success("Jogging axes command issued successfully.")


@command("movement_control.extrude", busy=NOT_WHILE_PRINTING, needs=lambda facts: bool(facts.tools))
async def extrude(context: Context, parameters: Parameters) -> Answer:
    tools, tool = context.printer.facts.tools, None
    active = context.printer.state.get("toolhead", "extruder", "extruder")
    if parameters.get("tool") is not None:
        number = int(parameters["tool"])
        if number >= len(tools):
            raise errors.NotSupported(f"Tool {number} does not exist on this printer.")
        tool = tools[number].object_name
    speed = float(parameters.get("speed") or _EXTRUDE_SPEED)
    script = gcode.extrude(
        float(parameters["amount"]), speed=speed, tool=tool if tool != active else None, active=active
    )
    await _move(context, "The extrusion", script)
    return success("Extrude command issued successfully.")


@command("movement_control.home", busy=IDLE_ONLY)
async def home(context: Context, parameters: Parameters) -> Answer:
    axes = re.findall("[xyz]", "".join(parameters.get("axes") or "").lower())
    printer = context.printer
    await context.script("Homing", gcode.home(dict.fromkeys(axes)), timeout=_HOME_TIMEOUT)
    # While it homes, Klipper lists an axis already: only both together, the answer and the axes, are homed.
    wanted = set(axes or "xyz")
    if not await printer.until(lambda: wanted <= set(printer.state.homed_axes), 5.0):
        raise errors.NotHomed(
            f"Klipper accepted the homing, but shows only {printer.state.homed_axes or 'no axis'} homed."
        )
    return success("Homing axes command issued successfully.")


async def _move(context: Context, what: str, script: str) -> None:
    """Run a move inside its saved state. A script stops at its first error, so then the state is restored by a second
    one.
    """
    try:
        await context.script(what, script, timeout=_HOME_TIMEOUT)
    except (errors.NotHomed, errors.OutOfRange, errors.TooCold, errors.GcodeError):
        with suppress(errors.CommandError):  # it is the first refusal that says what is wrong
            await context.printer.script("Restoring the G-code state", script.partition("M400\n")[2])
        raise
