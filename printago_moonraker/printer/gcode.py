"""Every form of G-code that the agent may write, and what Klipper's refusals mean.

Nothing from a command reaches G-code except numbers formatted here and names looked up in the printer's own object
list. Sources: Klipper docs, G-Codes.md; the texts of refusals are measured (docs/klipper.md).
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

from printago_moonraker import errors
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from printago_moonraker.moonraker.rpc import RpcError

_PLAIN_NAME = re.compile(r"[\w.-]+", re.ASCII)
_STATE = "printago"
RESTORE = f"RESTORE_GCODE_STATE NAME={_STATE}"
PROMPT_END = 'RESPOND TYPE=command MSG="action:prompt_end"'
_PROMPT_TEXT = re.compile(r"[\w .,:/~|=-]+", re.ASCII)
CLEAR_PAUSE = "CLEAR_PAUSE"
_SAVE = f"SAVE_GCODE_STATE NAME={_STATE}"

_REFUSALS: tuple[tuple[str, type[errors.CommandError]], ...] = (
    ("Must home axis first", errors.NotHomed),
    ("Move out of range", errors.OutOfRange),
    ("Move exceeds maximum extrusion", errors.OutOfRange),
    ("Extrude only move too long", errors.OutOfRange),
    ("Requested temperature", errors.OutOfRange),
    ("Extrude below minimum temp", errors.TooCold),
    ("SD busy", errors.Busy),
    ("Unable to open file", errors.FileNotFound),
    ("Klippy Host not connected", errors.PrinterOffline),
    ("Klippy Disconnected", errors.PrinterOffline),
)
# A Creality K1 wraps Klipper's words in JSON, and makes that by hand: with quotes missing, or too many.
_JSON = json.JSONDecoder(strict=False)
_BROKEN_JSON = re.compile(r'\{\s*"code"\s*:\s*"\w+"?\s*,\s*"msg"\s*:\s*"(.*?)"\s*(?:,\s*"values"|\})', re.DOTALL)
_NOT_READY = ("Printer is not ready", "Printer is shutdown", "Printer is halted", "due to printer shutdown")


def number(value: float) -> str:
    """A number as Klipper reads it: plain decimal, at most four places. Raises ValueError for what is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number for G-code")
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def quoted(name: str) -> str:
    """A name from the object list as a parameter's value: Klipper splits parameters as a shell does."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    if not name.isprintable() or '"' in name or "\\" in name:
        raise errors.NotSupported(
            f"The name {printable(name, 60)!r} in the printer's configuration cannot be written in G-code."
        )
    return f'"{name}"'


def set_heater(name: str, target: float) -> str:
    """`name` is a heater's short name from the object list, `target` in °C."""
    return f"SET_HEATER_TEMPERATURE HEATER={quoted(name)} TARGET={number(target)}"


def set_part_fan(speed: float) -> str:
    """The fan of the section [fan]; `speed` 0 to 1."""
    return f"M106 S{number(speed * 255)}"


def set_fan(name: str, speed: float) -> str:
    """`name` is a `fan_generic`'s short name from the object list, `speed` 0 to 1."""
    return f"SET_FAN_SPEED FAN={quoted(name)} SPEED={number(speed)}"


def set_pin(name: str, value: float) -> str:
    """`name` is an `output_pin`'s short name from the object list, `value` 0 to its scale."""
    return f"SET_PIN PIN={quoted(name)} VALUE={number(value)}"


def set_led(name: str, color: tuple[float, float, float, float]) -> str:
    """All LEDs of a strip, `name` being its short name from the object list; red, green, blue, white 0 to 1."""
    parts = " ".join(
        f"{part}={number(value)}" for part, value in zip(("RED", "GREEN", "BLUE", "WHITE"), color, strict=True)
    )
    return f"SET_LED LED={quoted(name)} {parts} SYNC=0 TRANSMIT=1"  # SYNC=0: now, not after the moves that wait


def home(axes: Iterable[str]) -> str:
    """`axes` out of x, y, z; none means all."""
    return " ".join(["G28", *(axis.upper() for axis in axes)])


def jog(distances: Mapping[str, float], *, relative: bool, speed: float) -> str:
    """One linear move of x, y, z in mm at `speed` mm/min, inside a saved G-code state."""
    words = " ".join(f"{axis.upper()}{number(value)}" for axis, value in distances.items())
    return "\n".join([_SAVE, "G91" if relative else "G90", f"G1 {words} F{number(speed)}", "M400", RESTORE])


def extrude(amount: float, *, speed: float, tool: str | None, active: str | None) -> str:
    """Relative extrusion of `amount` mm at `speed` mm/min. `tool`: an extruder's object name when it is not the active
    one, which is activated again.
    """
    move = ["M83", f"G1 E{number(amount)} F{number(speed)}", "M400"]
    if tool is not None and active is not None:
        # Inside the saved state, because an activation sets the extrude factor back to 1.
        move = [f"ACTIVATE_EXTRUDER EXTRUDER={tool}", *move, f"ACTIVATE_EXTRUDER EXTRUDER={active}"]
    return "\n".join([_SAVE, *move, RESTORE])


def prompt(title: str, lines: Iterable[str]) -> str:
    """A dialog in Mainsail, Fluidd and KlipperScreen (their "macro prompts"; needs Klipper's [respond]), in place of
    the one before. Raises ValueError for text that a parameter cannot hold.
    """
    actions = [
        f"prompt_begin {title}",
        *(f"prompt_text {line}" for line in lines),
        "prompt_footer_button Close|RESPOND TYPE=command MSG=action:prompt_end",
        "prompt_show",
    ]
    return "\n".join([PROMPT_END, *(_respond(action) for action in actions)])


def _respond(action: str) -> str:
    if not _PROMPT_TEXT.fullmatch(action):
        raise ValueError(f"{printable(action, 60)!r} cannot be shown in a prompt")
    return f'RESPOND TYPE=command MSG="action:{action}"'


def plain(text: str) -> str:
    """Klipper's own words, also where a Creality K1 says `{"code": "key95", "msg": "Must home axis first: ..."}`; any
    other text as it is.
    """
    wrapped = text.strip()
    if not wrapped.startswith("{"):
        return text
    try:
        value, end = _JSON.raw_decode(wrapped)
    except (ValueError, RecursionError):
        broken = _BROKEN_JSON.match(wrapped)
        return broken[1] + wrapped.rpartition("}")[2] if broken else text
    if isinstance(value, dict) and "code" in value and isinstance(value.get("msg"), str):
        return f"{value['msg']}{wrapped[end:]}"  # in a shutdown, what to do comes after it
    return text


def first_line(text: str) -> str:
    """The first of Klipper's words: what is wrong; the lines after it say what could be done at the printer."""
    return plain(text).strip().partition("\n")[0]


def refusal(error: RpcError) -> errors.CommandError:
    """Klipper's own words as the command error that they mean."""
    text = plain(error.message).strip()
    sentence = printable(text.replace("\n", " "), 300)
    for start, kind in _REFUSALS:
        if text.startswith(start):
            return kind(sentence)
    if any(words in text for words in _NOT_READY):
        return errors.PrinterNotReady(f"The printer is not ready: {sentence}")
    return errors.GcodeError(sentence)
