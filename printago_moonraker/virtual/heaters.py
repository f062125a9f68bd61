"""Heaters with inertia, their G-code, and the sensors that only read."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from printago_moonraker.virtual.gcode import Command, KlipperError
from printago_moonraker.virtual.world import AMBIENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from printago_moonraker.virtual.klippy import Printer

Thing = TypeVar("Thing")

STEP = 0.2  # s, integration step
SETTLED = 1.0  # °C around the target: M109 is content
FIRST_READING = 0.8  # s after the start, before which every sensor reads 0.0, as a real one does


@dataclass(frozen=True)
class Physics:
    """First-order: `rate` °C/s at full power, `loss` of the difference to the room each second.

    Full power until `band` °C below the target, then less and less.
    """

    rate: float
    loss: float
    band: float


HOTEND, BED, CHAMBER = Physics(11.5, 0.030, 10.0), Physics(3.7, 0.020, 8.0), Physics(2.0, 0.010, 5.0)


class Heater:
    """One heater; its true temperature lives in the world and outlasts Klippy."""

    def __init__(self, printer: Printer, name: str, physics: Physics, letter: str, limits: dict[str, Any]) -> None:
        self.printer, self.name, self.physics, self.letter = printer, name, physics, letter
        self.short = name.split()[-1]
        self.low, self.high = float(limits["min_temp"]), float(limits["max_temp"])
        self.min_extrude_temp = float(limits.get("min_extrude_temp", 0.0))
        self.target = self.power = 0.0
        self._at = printer.clock.now()
        printer.world.temperatures.setdefault(name, AMBIENT)
        printer.objects[name] = self.status

    @property
    def temperature(self) -> float:
        """°C as the sensor reads it."""
        self._advance()
        if not self.printer.sensors_live():
            return 0.0
        return round(self.printer.world.temperatures[self.name] + random.uniform(-0.012, 0.012), 2)

    @property
    def can_extrude(self) -> bool:
        """Warm enough for its own min_extrude_temp."""
        return self.temperature >= self.min_extrude_temp

    def set_target(self, degrees: float) -> None:
        """Raises Klipper's out-of-range error."""
        if degrees and not self.low <= degrees <= self.high:
            raise KlipperError(f"Requested temperature ({degrees:.1f}) out of range ({self.low:.1f}:{self.high:.1f})")
        self._advance()
        self.target = degrees

    def busy(self) -> bool:
        """Still on its way to the target."""
        return abs(self.temperature - self.target) > SETTLED

    def status(self) -> dict[str, Any]:
        """The object's fields."""
        state: dict[str, Any] = {
            "temperature": self.temperature,
            "target": self.target,
            "power": round(self.power, 4),
        }
        if self.name.startswith("extruder"):
            state |= {"can_extrude": self.can_extrude, "pressure_advance": 0.04, "smooth_time": 0.04}
            state["motion_queue"] = None
        return state

    def _advance(self) -> None:
        now, physics = self.printer.clock.now(), self.physics
        degrees = self.printer.world.temperatures[self.name]
        target = 0.0 if self.printer.halted.is_set() else self.target
        while self._at < now:
            step = min(STEP, now - self._at)
            hold = physics.loss * (target - AMBIENT) / physics.rate
            self.power = min(1.0, max(0.0, hold + (target - degrees) / physics.band)) if target else 0.0
            degrees += step * (physics.rate * self.power - physics.loss * (degrees - AMBIENT))
            self._at += step
        self.printer.world.temperatures[self.name] = degrees


class Heaters:
    """All heaters of the printer, and the commands that set them or wait for them."""

    def __init__(self, printer: Printer, settings: dict[str, dict[str, Any]]) -> None:
        self.printer = printer
        kinds: list[tuple[str, Physics, str]] = [
            ("heater_bed", BED, "B"),
            ("heater_generic chamber", CHAMBER, "C"),
            ("extruder", HOTEND, "T0"),
            ("extruder1", HOTEND, "T1"),
        ]
        present = [(name, physics, letter) for name, physics, letter in kinds if name in settings]
        self.all = {name: Heater(printer, name, physics, letter, settings[name]) for name, physics, letter in present}
        self._measured = (AMBIENT, AMBIENT)  # the chamber's least and most so far
        printer.objects["heaters"] = self._status
        printer.objects["temperature_sensor chamber"] = self._chamber
        printer.commands |= {
            "M104": self._for_tool(wait=False),
            "M109": self._for_tool(wait=True),
            "M140": self._for_bed(wait=False),
            "M190": self._for_bed(wait=True),
            "SET_HEATER_TEMPERATURE": self._set,
            "TEMPERATURE_WAIT": self._wait_for_sensor,
            "TURN_OFF_HEATERS": self._turn_off,
        }

    def extruder(self, index: int) -> Heater | None:
        """The extruder with that number, if there is one."""
        return self.all.get("extruder" if index == 0 else f"extruder{index}")

    def report(self) -> str:
        """M105's line."""
        if not self.printer.sensors_live():
            return "T:0"
        return " ".join(f"{h.letter}:{h.temperature:.1f} /{h.target:.1f}" for h in self.all.values())

    def turn_off(self) -> None:
        """Every target to zero."""
        for heater in self.all.values():
            heater.set_target(0.0)

    async def set(self, heater: Heater, degrees: float, *, wait: bool) -> None:
        """Set a target in °C; with `wait`, report once a second until it is reached or the printer is shut down."""
        self.printer.toolhead.note_activity()
        heater.set_target(degrees)
        if wait and degrees:
            await self._wait(heater.busy)

    async def _wait(self, busy: Callable[[], bool]) -> None:
        # Once a second, as Klipper looks: a wait that a shutdown ends still answers "ok", up to a second late.
        while not self.printer.halted.is_set() and busy():
            self.printer.toolhead.note_activity()
            self.printer.gcode.respond(self.report())
            await self.printer.clock.sleep(1.0)

    def _for_tool(self, *, wait: bool) -> Callable[[Command], Any]:
        async def run(command: Command) -> None:
            heater = self.extruder(command.get_int("T")) if "T" in command.params else self.printer.toolhead.extruder
            degrees = command.get_float("S", 0.0)
            if heater is None:
                if degrees <= 0.0:
                    return
                raise KlipperError("Extruder not configured")
            await self.set(heater, degrees, wait=wait)

        return run

    def _for_bed(self, *, wait: bool) -> Callable[[Command], Any]:
        async def run(command: Command) -> None:
            await self.set(self.all["heater_bed"], command.get_float("S", 0.0), wait=wait)

        return run

    async def _set(self, command: Command) -> None:
        heater = chosen(command, "HEATER", {heater.short: heater for heater in self.all.values()})
        await self.set(heater, command.get_float("TARGET", 0.0), wait=False)

    async def _wait_for_sensor(self, command: Command) -> None:
        heater = self.all.get(command.get("SENSOR"))
        if heater is None:
            raise KlipperError(f"Error on '{command.line}': Unknown sensor {command.get('SENSOR')}")
        low, high = command.get_float("MINIMUM", float("-inf")), command.get_float("MAXIMUM", float("inf"))
        if (low, high) == (float("-inf"), float("inf")):
            raise KlipperError("Error on 'TEMPERATURE_WAIT': missing MINIMUM or MAXIMUM.")
        await self._wait(lambda: not low <= heater.temperature <= high)

    async def _turn_off(self, _: Command) -> None:
        self.turn_off()

    def _status(self) -> dict[str, Any]:
        names = list(self.all)
        sensors = [*names, "temperature_sensor chamber"]
        return {"available_heaters": names, "available_sensors": sensors, "available_monitors": []}

    def _chamber(self) -> dict[str, Any]:
        bed = self.printer.world.temperatures["heater_bed"]
        own = self.printer.world.temperatures.get("heater_generic chamber", AMBIENT)
        degrees = round(max(AMBIENT + (bed - AMBIENT) / 8, own), 1) if self.printer.sensors_live() else 0.0
        low, high = min(self._measured[0], degrees), max(self._measured[1], degrees)
        self._measured = (low, high)
        return {"temperature": degrees, "measured_min_temp": low, "measured_max_temp": high}


def chosen(command: Command, parameter: str, options: dict[str, Thing]) -> Thing:
    """The thing that a parameter names, else Klipper's error with the list of what there is."""
    name = command.get(parameter)
    if name not in options:
        raise KlipperError(f"The value '{name}' is not valid for {parameter}. Options: {_quoted(options)}")
    return options[name]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
