"""Targets of heaters. Limits are the printer's own (`configfile.settings`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from printago_moonraker import errors
from printago_moonraker.commands.registry import Answer, Context, Parameters, command, success
from printago_moonraker.printer import gcode

if TYPE_CHECKING:
    from printago_moonraker.printer.facts import Heater

# A heater's target is set at once, unless G-code of the print or of a person holds Klipper up.
_PATIENCE = 120.0


@command("temperature_control.set_hotend", needs=lambda facts: bool(facts.tools))
async def set_hotend(context: Context, parameters: Parameters) -> Answer:
    tools, number = context.printer.facts.tools, int(parameters.get("tool") or 0)
    await _set(context, tools[number] if number < len(tools) else None, parameters, f"Tool {number}")
    return success("Hotend temperature command issued successfully.")


@command("temperature_control.set_bed", needs=lambda facts: facts.bed is not None)
async def set_bed(context: Context, parameters: Parameters) -> Answer:
    await _set(context, context.printer.facts.bed, parameters, "The bed")
    return success("Bed temperature command issued successfully.")


@command("temperature_control.set_chamber", needs=lambda facts: facts.chamber is not None)
async def set_chamber(context: Context, parameters: Parameters) -> Answer:
    await _set(context, context.printer.facts.chamber, parameters, "The chamber heater")
    return success("Chamber temperature command issued successfully.")


async def _set(context: Context, heater: Heater | None, parameters: Parameters, what: str) -> None:
    """Set the target, and wait until the heater shows it."""
    if heater is None:
        raise errors.NotSupported(f"{what} does not exist on this printer.")
    target, name = float(parameters["temperature"]), heater.object_name
    if not heater.accepts(target):
        low, high = max(heater.min_temp or 0.0, 0.0), heater.max_temp
        limits = f"{low:g} °C and above" if high is None else f"{low:g} to {high:g} °C"
        raise errors.OutOfRange(f"{what} takes {limits} (or 0 for off), not {target:g} °C.")
    # As Klipper will read it, so that 0.00004 °C is seen as what it becomes.
    wanted = float(gcode.number(target))
    state = context.printer.state
    await context.script(
        f"{what}'s target",
        gcode.set_heater(heater.name, target),
        lambda: state.number(name, "target") == wanted,
        timeout=_PATIENCE,
    )
