"""Fans and lights: which of them can be set, to what, and when they show it.

Sources: Klipper docs, Config_Reference.md ([fan], [output_pin], [led], [neopixel], ...), Status_Reference.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from printago_moonraker import errors
from printago_moonraker.log import printable
from printago_moonraker.printer.facts import CONTROLLED_FANS, LED_MODULES, Facts, module, short_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from printago_moonraker.printer.state import PrinterState

TOLERANCE = 0.005  # Klipper and its drivers round; no eye or ear tells the difference
Color = tuple[float, float, float, float]  # red, green, blue, white, each 0 to 1
_WHITE_BY_DEFAULT = ("pca9533", "pca9632")


@dataclass(frozen=True)
class Output:
    """A fan or a light of the printer. `settings` are its section's in Klipper's configuration."""

    object_name: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return short_name(self.object_name)

    @property
    def is_pin(self) -> bool:
        return module(self.object_name) == "output_pin"

    @property
    def is_strip(self) -> bool:
        return module(self.object_name) in LED_MODULES

    @property
    def can_set(self) -> bool:
        """Whether it takes commands. Klipper itself runs a heater's fan; a static pin never changes."""
        if self.is_pin:
            return self.settings.get("static_value") is None
        return self.is_strip or module(self.object_name) in CONTROLLED_FANS

    @property
    def graded(self) -> bool:
        """Whether it knows more than on and off."""
        return not self.is_pin or self.settings.get("pwm") is True

    @property
    def scale(self) -> float:
        """What `SET_PIN` calls full power."""
        return _positive(self.settings.get("scale"))

    @property
    def white(self) -> bool:
        """Whether a strip has white LEDs beside the coloured ones."""
        order = self.settings.get("color_order")
        if order is None and module(self.object_name) in _WHITE_BY_DEFAULT:
            return True
        return "W" in str(order or "").upper() or "white_pin" in self.settings

    def describe_fan(self) -> dict[str, Any]:
        return {"name": self.name, "can_set": self.can_set, "speed": self.can_set and self.graded}

    def describe_light(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "can_set": self.can_set,
            "brightness": self.can_set and self.graded,
            "color": self.is_strip,
            "white": self.is_strip and self.white,
        }

    def shows(self, state: PrinterState, value: float) -> bool:
        """Whether this fan or pin is seen at `value` (0 to 1), as its own limits let it be."""
        shown = state.number(self.object_name, "value" if self.is_pin else "speed")
        if shown is None:
            return False
        # Older Klippers show a fan's power, which these two options make out of what was asked for.
        power = value * _positive(self.settings.get("max_power"))
        wanted = (value, power, 0.0) if 0.0 < value < (self.settings.get("off_below") or 0.0) else (value, power)
        return any(abs(shown - each) < TOLERANCE for each in wanted)

    def color(self, state: PrinterState) -> Color:
        """A strip's present colour, by its first LED."""
        colors = state.items(self.object_name, "color_data")
        return _color(colors[0]) if colors else (0.0, 0.0, 0.0, 0.0)

    def shows_color(self, state: PrinterState, color: Color) -> bool:
        """Whether every LED of the strip is seen in that colour."""
        colors = state.items(self.object_name, "color_data")
        return bool(colors) and all(
            abs(here - there) < TOLERANCE for each in colors for here, there in zip(_color(each), color, strict=True)
        )


def fans(facts: Facts) -> tuple[Output, ...]:
    return tuple(Output(name, facts.settings.get(name, {})) for name in facts.fans)


def lights(facts: Facts) -> tuple[Output, ...]:
    return tuple(Output(name, facts.settings.get(name, {})) for name in facts.lights)


def find(outputs: Iterable[Output], name: str, kind: str) -> Output:
    """The output of that name, full (`fan_generic filter`) or short (`filter`), whatever its case; `kind` is "fan" or
    "light". Raises NotSupported, InvalidParameters for a short name that two have.
    """
    outputs, wanted = tuple(outputs), name.strip().lower()
    found = [each for each in outputs if each.object_name.lower() == wanted]
    found = found or [each for each in outputs if each.name.lower() == wanted]
    if not found:
        raise errors.NotSupported(f"This printer has no {kind} {printable(name, 60)}; it has {_listed(outputs)}.")
    if len(found) > 1:
        full = ", ".join(printable(each.object_name, 60) for each in found)
        raise errors.InvalidParameters(f"{kind}: {printable(name, 60)} is the name of several; say one of {full}.")
    if not found[0].can_set:
        raise errors.NotSupported(f"Klipper itself runs {printable(found[0].object_name, 60)}; it cannot be set.")
    return found[0]


def only(outputs: Iterable[Output], kind: str) -> Output:
    """The one that can be set, for a command that names none. Raises NotSupported, InvalidParameters."""
    able = [each for each in outputs if each.can_set]
    if not able:
        raise errors.NotSupported(f"This printer has no {kind} that can be set.")
    if len(able) > 1:
        raise errors.InvalidParameters(f"{kind}: say which; this printer has {_listed(able)}.")
    return able[0]


def parse_color(text: str) -> Color:
    """`#rrggbb` or `#rrggbbww`, in hexadecimal, which its schema has checked."""
    parts = [int(pair, 16) / 255 for pair in re.findall("..", text.removeprefix("#"))]
    red, green, blue, white = (*parts, 0.0)[:4]
    return red, green, blue, white


def scaled(color: Color, brightness: float) -> Color:
    """The same hue with `brightness` (0 to 1) as its strongest part; black stays black."""
    peak = max(color)
    if peak == 0.0:
        return color
    red, green, blue, white = (part * brightness / peak for part in color)
    return red, green, blue, white


def _listed(outputs: Iterable[Output]) -> str:
    return ", ".join(printable(each.name, 60) for each in outputs if each.can_set) or "none that can be set"


def _positive(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 1.0


def _color(parts: Any) -> Color:
    numbers = [float(part) for part in parts if isinstance(part, int | float)] if isinstance(parts, list) else []
    red, green, blue, white = (*numbers, 0.0, 0.0, 0.0, 0.0)[:4]
    return red, green, blue, white
