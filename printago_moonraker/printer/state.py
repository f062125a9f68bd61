"""A printer's live state: Klipper's status objects, kept true by snapshots and deltas.

The state is the buffer between the two links: a delta overwrites what it names and nothing else (absent is not null),
so a slow uplink coalesces and memory is bounded by the number of objects.
Sources: Klipper docs, Status_Reference.md; Moonraker docs, `notify_status_update`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.facts import FILAMENT_SENSORS, LED_MODULES, is_fan, is_light, module

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")

# Only the fields that are used: `toolhead.estimated_print_time` and `motion_report` change on every tick and would wake
# the agent four times a second for nothing.
_FIELDS: dict[str, tuple[str, ...]] = {
    "webhooks": ("state", "state_message"),
    "print_stats": ("filename", "total_duration", "print_duration", "filament_used", "state", "message", "info"),
    "virtual_sdcard": ("progress", "file_position", "file_size"),
    "display_status": ("progress", "message"),
    "pause_resume": ("is_paused",),
    "toolhead": ("homed_axes", "axis_minimum", "axis_maximum", "extruder"),
    "gcode_move": ("speed_factor", "extrude_factor", "gcode_position"),
    "exclude_object": ("objects", "excluded_objects", "current_object"),
    "configfile": ("settings",),
}
_MODULE_FIELDS: dict[str, tuple[str, ...]] = {
    "heater_generic": ("temperature", "target"),
    "temperature_sensor": ("temperature",),
    "temperature_fan": ("temperature", "target", "speed"),
    **dict.fromkeys(FILAMENT_SENSORS, ("filament_detected", "enabled")),
    **dict.fromkeys(LED_MODULES, ("color_data",)),
}
_HEATER_FIELDS = ("temperature", "target")
_EXTRUDER_FIELDS = (*_HEATER_FIELDS, "can_extrude")


class JobState(StrEnum):
    """`print_stats.state`."""

    STANDBY = "standby"
    PRINTING = "printing"
    PAUSED = "paused"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    ERROR = "error"
    UNKNOWN = "unknown"

    @property
    def on(self) -> bool:
        """A print is on: running, or paused."""
        return self in (JobState.PRINTING, JobState.PAUSED)

    @classmethod
    def _missing_(cls, _value: object) -> JobState:
        return cls.UNKNOWN


def subscription(objects: Iterable[str]) -> dict[str, list[str]]:
    """What to ask `printer.objects.subscribe` for, of the objects that this printer has."""
    wanted: dict[str, list[str]] = {}
    for name in objects:
        fields = _FIELDS.get(name) or _MODULE_FIELDS.get(module(name)) or ()
        if name.startswith("extruder") and module(name) == name:
            fields = _EXTRUDER_FIELDS
        elif name == "heater_bed":
            fields = _HEATER_FIELDS
        elif not fields and is_fan(name):
            fields = ("value",) if module(name) == "output_pin" else ("speed", "rpm")
        elif not fields and is_light(name):
            fields = ("value",)
        if fields:
            wanted[name] = list(fields)
    return wanted


class PrinterState:
    """The one mutable owner of what Klipper has said. Touched only from the event loop."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.moonraker: bool | None = None  # whether it is connected; None before the first attempt
        self.klippy = KlippyState.UNKNOWN
        self.klippy_message = ""
        self.host: dict[str, Any] = {}

    def snapshot(self, status: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace everything by the answer to a subscription."""
        self.objects = {name: dict(fields) for name, fields in status.items() if fields}
        self.objects.pop("configfile", None)  # large, constant, and already read into Facts
        self._read_webhooks()

    def apply(self, delta: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """Merge one `notify_status_update`; returns the names of the objects that changed."""
        for name, fields in delta.items():
            self.objects.setdefault(name, {}).update(fields)
        if "webhooks" in delta:
            self._read_webhooks()
        return set(delta)

    def klippy_is(self, state: KlippyState, message: str = "") -> None:
        """Klipper's state, learned from anything but a status push.

        A Klipper that is gone sends no last word: what it said of the job and the temperatures is dropped here, or it
        would be shown for ever.
        """
        self.klippy, self.klippy_message = state, message
        if state in (KlippyState.DISCONNECTED, KlippyState.STARTUP, KlippyState.UNKNOWN):
            self.objects = {}

    def get(self, name: str, field: str, default: T) -> T:
        """One field, or `default` when it is absent, null, or not of the default's kind. A peer's data is never trusted
        to have the right type.
        """
        value = self.objects.get(name, {}).get(field)
        if value is None:
            return default
        if isinstance(default, float) and isinstance(value, int | float):
            return value  # type: ignore[return-value]
        return value if default is None or isinstance(value, type(default)) else default

    def number(self, name: str, field: str) -> float | None:
        """One numeric field, None when it is absent or no number."""
        value = self.objects.get(name, {}).get(field)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def items(self, name: str, field: str) -> list[Any]:
        """One list, empty when it is absent or no list."""
        return self.get(name, field, [])

    def record(self, name: str, field: str) -> dict[str, Any]:
        """One object, empty when it is absent or none."""
        return self.get(name, field, {})

    @property
    def job(self) -> JobState:
        return JobState(self.get("print_stats", "state", "standby"))

    @property
    def filename(self) -> str:
        return self.get("print_stats", "filename", "")

    @property
    def homed_axes(self) -> str:
        return self.get("toolhead", "homed_axes", "")

    def _read_webhooks(self) -> None:
        self.klippy = KlippyState(self.objects.get("webhooks", {}).get("state", self.klippy))
        self.klippy_message = self.get("webhooks", "state_message", "")
