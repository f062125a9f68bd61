"""The macros of the virtual printer's configuration: what a Mainsail user has, and a few for an agent's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from printago_moonraker.virtual.gcode import Command, KlipperError

if TYPE_CHECKING:
    from printago_moonraker.virtual.klippy import Printer

PARK_X, PARK_Y, Z_HOP, RETRACTION = 5.0, 230.0, 2.0, 1.0  # mm

Macro = Callable[["Printer", Command], str]


def add_macros(printer: Printer) -> None:
    """Register every macro as a command and as an object `gcode_macro NAME`."""
    macros = dict(MACROS)
    if "extruder1" in printer.heaters.all:
        macros["T0"] = lambda *_: "ACTIVATE_EXTRUDER EXTRUDER=extruder"
        macros["T1"] = lambda *_: "ACTIVATE_EXTRUDER EXTRUDER=extruder1"
    for name, macro in macros.items():
        printer.commands[name] = _handler(printer, macro)
        printer.objects[f"gcode_macro {name}"] = dict


def _handler(printer: Printer, macro: Macro) -> Callable[[Command], Any]:
    async def run(command: Command) -> None:
        await printer.gcode.run_inside(macro(printer, command))

    return run


def _pause(_printer: Printer, _command: Command) -> str:
    return "PAUSE_BASE\n_TOOLHEAD_PARK_PAUSE_CANCEL"


def _resume(printer: Printer, _command: Command) -> str:
    prime = printer.pause_resume.paused and printer.toolhead.extruder.can_extrude
    return (f"G91\nG1 E{RETRACTION} F2100\nG90\n" if prime else "") + "RESUME_BASE"


def _cancel(printer: Printer, _command: Command) -> str:
    park = "" if printer.pause_resume.paused else "_TOOLHEAD_PARK_PAUSE_CANCEL\n"
    return f"{park}TURN_OFF_HEATERS\nM107\nCANCEL_PRINT_BASE"


def _park(printer: Printer, _command: Command) -> str:
    if printer.toolhead.homed != "xyz":
        return ""
    height = min(printer.toolhead.position[2] + Z_HOP, 250.0) - printer.toolhead.position[2]
    retract = f"G1 E-{RETRACTION} F2100\n" if printer.toolhead.extruder.can_extrude else ""
    return f"G91\n{retract}G1 Z{height:.3f} F900\nG90\nG1 X{PARK_X} Y{PARK_Y} F9000"


def _start(_printer: Printer, command: Command) -> str:
    params = command.params
    bed = params.get("BED_TEMP", params.get("BED", "60"))
    hotend = params.get("EXTRUDER_TEMP", params.get("EXTRUDER", params.get("HOTEND", "200")))
    return f"M140 S{bed}\nM104 S{hotend}\nG28\nG90\nM83\nM190 S{bed}\nM109 S{hotend}\nG92 E0\nG1 Z5 F900"


def _end(_printer: Printer, _command: Command) -> str:
    return "_TOOLHEAD_PARK_PAUSE_CANCEL\nTURN_OFF_HEATERS\nM107\nCLEAR_PAUSE"


def _raise(_printer: Printer, _command: Command) -> str:
    raise KlipperError("Error evaluating 'gcode_macro TEST_RAISE:gcode': gcode.CommandError: bench macro error\n")


def _ping(printer: Printer, command: Command) -> str:
    printer.call_remote_method(command.get("METHOD", "my_method"), value=_literal(command.get("VALUE", "0")))
    return ""


def _event(printer: Printer, command: Command) -> str:
    params = {name.lower(): _literal(value) for name, value in command.params.items()}
    printer.call_remote_method("printago_event", **params)
    return ""


def _literal(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


MACROS: dict[str, Macro] = {
    "PAUSE": _pause,
    "RESUME": _resume,
    "CANCEL_PRINT": _cancel,
    "_TOOLHEAD_PARK_PAUSE_CANCEL": _park,
    "PRINT_START": _start,
    "PRINT_END": _end,
    "START_PRINT": _start,
    "END_PRINT": _end,
    "TEST_RAISE": _raise,
    "AGENT_PING": _ping,
    "PRINTAGO_EVENT": _event,
}
