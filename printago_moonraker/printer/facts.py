"""What a printer is: read once from Klipper's own configuration each time Klipper comes up.

Sources: Klipper's status objects `configfile.settings` and `toolhead` (Klipper docs, Status_Reference.md) and its
object list. Nothing here changes while Klipper runs, so limits can be checked without a race.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LED_MODULES = ("led", "neopixel", "dotstar", "pca9533", "pca9632")
CONTROLLED_FANS = ("fan", "fan_generic")
FAN_MODULES = (*CONTROLLED_FANS, "heater_fan", "controller_fan", "temperature_fan")
SENSOR_MODULES = ("temperature_sensor", "temperature_fan")
FILAMENT_SENSORS = ("filament_switch_sensor", "filament_motion_sensor")
# output_pin says nothing of its purpose, so its name has to: `caselight`, `chamber_light`, `LED_pin`; a Creality K1's
# fans are `fan0`..`fan2`.
LIGHT_PIN = re.compile(r"light|lamp|(^|_)leds?(_|$)", re.IGNORECASE)
FAN_PIN = re.compile(r"^fan\d+$", re.IGNORECASE)
EXTRUDER = re.compile(r"^extruder(\d*)$")


@dataclass(frozen=True)
class Heater:
    """A heater. `object_name` is Klipper's full name, `name` the short one that `HEATER=` takes; limits in °C, None
    when unknown.
    """

    object_name: str
    name: str
    min_temp: float | None = None
    max_temp: float | None = None

    def accepts(self, target: float) -> bool:
        """Whether Klipper would take `target` °C; 0 switches off and is always taken."""
        low = self.min_temp if self.min_temp is not None else 0.0
        high = self.max_temp if self.max_temp is not None else float("inf")
        return target == 0 or max(low, 0.0) <= target <= high

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "min_temp": self.min_temp, "max_temp": self.max_temp}


@dataclass(frozen=True)
class Facts:
    """One printer's equipment. The default is a printer that has not said anything yet."""

    objects: frozenset[str] = frozenset()
    tools: tuple[Heater, ...] = ()
    bed: Heater | None = None
    chamber: Heater | None = None
    chamber_sensor: str | None = None
    heaters: tuple[Heater, ...] = ()
    sensors: tuple[str, ...] = ()  # that measure a temperature, but for the chamber's
    fans: tuple[str, ...] = ()
    lights: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # Klipper's, of the fans and lights
    filament_sensors: tuple[str, ...] = ()
    nozzle_diameters: tuple[float | None, ...] = ()
    filament_diameter: float = 1.75
    kinematics: str | None = None
    axis_minimum: tuple[float, ...] = ()
    axis_maximum: tuple[float, ...] = ()

    def build_volume(self) -> dict[str, float] | None:
        """Width, depth and height in mm that the axes can travel, None before Klipper has said."""
        if len(self.axis_minimum) < 3 or len(self.axis_maximum) < 3:
            return None
        spans = (high - low for low, high in zip(self.axis_minimum, self.axis_maximum, strict=False))
        return dict(zip(("width", "depth", "height"), (round(span, 3) for span in spans), strict=False))


def short_name(object_name: str) -> str:
    """`heater_generic chamber` -> `chamber`; a name of one word stays."""
    return object_name.partition(" ")[2] or object_name


def labels(object_names: Iterable[str]) -> dict[str, str]:
    """What each of these objects is called beside the others: its short name, or its full one when another module's
    object before it has that.
    """
    found: dict[str, str] = {}
    for name in object_names:
        short = short_name(name)
        found[name] = name if short in found.values() else short
    return found


def module(object_name: str) -> str:
    """`heater_generic chamber` -> `heater_generic`."""
    return object_name.partition(" ")[0]


def is_light(object_name: str) -> bool:
    """Whether this object is something that lights up: an LED strip, or a pin whose name says so."""
    pin = module(object_name) == "output_pin" and LIGHT_PIN.search(short_name(object_name))
    return module(object_name) in LED_MODULES or bool(pin)


def is_fan(object_name: str) -> bool:
    """Whether this object is a fan, controllable or not."""
    pin = module(object_name) == "output_pin" and FAN_PIN.match(short_name(object_name))
    return module(object_name) in FAN_MODULES or bool(pin)


def read_facts(objects: Iterable[str], status: Mapping[str, Mapping[str, Any]]) -> Facts:
    """Facts from the object list and a status that holds `configfile` and `toolhead`. Missing parts stay at their
    defaults.
    """
    names = tuple(objects)
    settings: Mapping[str, Any] = status.get("configfile", {}).get("settings") or {}
    toolhead = status.get("toolhead", {})
    tools = tuple(_heater(name, settings) for name in sorted(filter(EXTRUDER.match, names), key=_tool_number))
    generic = [name for name in names if module(name) == "heater_generic"]
    sensors = [name for name in names if module(name) in SENSOR_MODULES]
    chamber = _chamber(generic)
    shown = chamber or _chamber(sensors)
    first = settings.get("extruder", {})
    return Facts(
        objects=frozenset(names),
        tools=tools,
        bed=_heater("heater_bed", settings) if "heater_bed" in names else None,
        chamber=_heater(chamber, settings) if chamber else None,
        chamber_sensor=shown,
        heaters=tuple(_heater(name, settings) for name in generic if name != chamber),
        sensors=tuple(name for name in sensors if name != shown),
        fans=tuple(filter(is_fan, names)),
        lights=tuple(filter(is_light, names)),
        settings={name: _section(name, settings) for name in names if is_fan(name) or is_light(name)},
        filament_sensors=tuple(name for name in names if module(name) in FILAMENT_SENSORS),
        nozzle_diameters=tuple(settings.get(tool.object_name, {}).get("nozzle_diameter") for tool in tools),
        filament_diameter=first.get("filament_diameter") or 1.75,
        kinematics=settings.get("printer", {}).get("kinematics"),
        axis_minimum=tuple(toolhead.get("axis_minimum") or ())[:3],
        axis_maximum=tuple(toolhead.get("axis_maximum") or ())[:3],
    )


def _chamber(names: list[str]) -> str | None:
    """Which of these heaters or sensors is the chamber's: `chamber`, else the only one that begins so (`chamber_temp`),
    else the first that has it in its name.
    """
    short = {name: short_name(name).lower() for name in names}
    exact = [name for name in names if short[name] == "chamber"]
    begins = [name for name in names if short[name].startswith("chamber")]
    contains = [name for name in names if "chamber" in short[name]]
    return next(iter(exact or (begins if len(begins) == 1 else contains)), None)


def _heater(object_name: str, settings: Mapping[str, Any]) -> Heater:
    section = _section(object_name, settings)
    return Heater(object_name, short_name(object_name), section.get("min_temp"), section.get("max_temp"))


def _section(object_name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    # Klipper lower-cases section names in `settings`, but not in the object list.
    return settings.get(object_name) or settings.get(object_name.lower()) or {}


def _tool_number(object_name: str) -> int:
    match = EXTRUDER.match(object_name)
    return int(match[1] or 0) if match else 0
