"""The toolhead: a queue of moves against a clock, homing, and the limits that Klipper checks before it moves."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from printago_moonraker.virtual.gcode import KlipperError
from printago_moonraker.virtual.settings import HOMING_SPEED, LIMITS, RETRACT, TRAVEL_MARGIN

if TYPE_CHECKING:
    from printago_moonraker.virtual.heaters import Heater
    from printago_moonraker.virtual.klippy import Printer

AXES = "xyz"
LOOK_AHEAD = 2.0  # s of queued motion after which a move has to wait
START_DELAY = 0.25  # s between a move on an idle toolhead and its first step
SETTLE = 0.5  # s without motion after which idle_timeout says Ready
HELD_LOOK = 0.2  # s between two looks at whether a test still holds the motion
HALT_NOTICE = 0.3  # s until a homing move notices that the printer is shut down

Position = tuple[float, float, float, float]


@dataclass(frozen=True)
class Segment:
    """One straight move in print time (s): from, to (mm), speed (mm/s)."""

    begin: float
    end: float
    origin: Position
    target: Position

    def at(self, time: float) -> tuple[Position, float, float]:
        """Where the head is then, its speed, and the filament's (mm/s)."""
        duration = self.end - self.begin
        share = min(1.0, max(0.0, (time - self.begin) / duration))
        x, y, z, e = (a + (b - a) * share for a, b in zip(self.origin, self.target, strict=True))
        speed = math.dist(self.origin[:3], self.target[:3]) / duration
        return (x, y, z, e), speed, (self.target[3] - self.origin[3]) / duration


class Toolhead:
    """Commanded position, queued motion and homing state. `status` is Klipper's `toolhead` object."""

    def __init__(self, printer: Printer, settings: dict[str, dict[str, Any]]) -> None:
        self.printer, self.settings = printer, settings
        self.position: Position = (0.0, 0.0, 0.0, 0.0)
        self.homed = ""
        self.extruder: Heater = printer.heaters.all["extruder"]
        self.max_velocity = float(settings["printer"]["max_velocity"])
        self._epoch = printer.clock.now()
        self._print_time = 0.0
        self._moving = False  # since the last time that somebody has seen all motion end
        self._queue: deque[Segment] = deque()
        self._activity = IdleTimeout(printer)
        steppers = [*(n for n in settings if n.startswith("extruder")), *(f"stepper_{axis}" for axis in AXES)]
        self._enabled = dict.fromkeys(steppers, False)
        printer.objects |= {
            "toolhead": self.status,
            "motion_report": self._report,
            "idle_timeout": self._activity.status,
            "stepper_enable": lambda: {"steppers": dict(self._enabled)},
        }

    @property
    def time(self) -> float:
        """The estimated print time in seconds: what the motors are doing now."""
        return self.printer.clock.now() - self._epoch

    def note_activity(self) -> None:
        """Something keeps the printer from being idle: idle_timeout goes to Printing."""
        self._activity.note(max(self._print_time, self.time))

    async def move(self, target: Position, speed: float) -> None:
        """Queue a move at `speed` mm/s; waits while about two seconds are queued.

        Raises Klipper's errors for what is not allowed.
        """
        if target == self.position:
            return
        self._check(target)
        await self._wait_for_room()
        if not self.printer.halted.is_set():
            self._queue_segment(target, min(speed, self.max_velocity))

    async def dwell(self, seconds: float) -> None:
        """G4: nothing moves for so long, and nothing else is done. Ends early when the printer is shut down."""
        self._print_time, self._moving = self._start() + seconds, True
        self.note_activity()
        await self.wait_moves()

    async def wait_moves(self) -> None:
        """M400. Ends early when the printer is shut down."""
        held = self.printer.world.faults.motion
        while not self.printer.halted.is_set() and (self.time < self._print_time or (held.held and self._moving)):
            await self.printer.pause(max(self._print_time - self.time, HELD_LOOK * held.held) + 0.001)
        self._moving = False

    async def home(self, axes: str) -> None:
        """G28 for some of `xyz`. Raises when the printer is shut down in the middle."""
        for axis in axes:
            await self._home_axis(axis)

    def set_position(self, position: Position) -> None:
        """Believe to be somewhere else."""
        self.position = position

    def motors_off(self) -> None:
        """M84: the position is lost."""
        self.homed = ""
        self._enabled = dict.fromkeys(self._enabled, False)

    def halt(self) -> None:
        """A shutdown: what is queued will not move any more."""
        self._queue.clear()
        self._print_time = min(self._print_time, self.time)
        self.motors_off()

    def status(self) -> dict[str, Any]:
        """The object's fields."""
        machine = self.settings["printer"]
        return {
            "homed_axes": self.homed,
            "axis_minimum": [*(LIMITS[a][0] for a in AXES), 0],
            "axis_maximum": [*(LIMITS[a][1] for a in AXES), 0],
            "print_time": self._print_time,
            "stalls": 0,
            "estimated_print_time": self.time,
            "extruder": self.extruder.name,
            "position": list(self.position),
            "max_velocity": self.max_velocity,
            "max_accel": machine["max_accel"],
            "minimum_cruise_ratio": machine["minimum_cruise_ratio"],
            "square_corner_velocity": machine["square_corner_velocity"],
            "extra_axes": {self.extruder.name: 3},
        }

    def _check(self, target: Position) -> None:
        x, y, z, e = target
        place = f"{x:.3f} {y:.3f} {z:.3f} [{e:.3f}]"
        for index, axis in enumerate(AXES):
            if target[index] == self.position[index]:
                continue
            if axis not in self.homed:
                raise KlipperError(f"Must home axis first: {place}")
            low, high = LIMITS[axis]
            if not low <= target[index] <= high:
                raise KlipperError(f"Move out of range: {place}")
        if e != self.position[3]:
            self._check_extrusion(target)

    def _check_extrusion(self, target: Position) -> None:
        if not self.extruder.can_extrude:
            raise KlipperError("Extrude below minimum temp\nSee the 'min_extrude_temp' config option for details")
        options = self.settings[self.extruder.name]
        amount, travel = target[3] - self.position[3], math.dist(target[:2], self.position[:2])
        longest = float(options["max_extrude_only_distance"])
        if not travel or amount < 0:
            if abs(amount) > longest:
                raise KlipperError(
                    f"Extrude only move too long ({amount:.3f}mm vs {longest:.3f}mm)\n"
                    "See the 'max_extrude_only_distance' config option for details"
                )
            return
        filament = math.pi * (float(options["filament_diameter"]) / 2) ** 2
        area, widest = amount / travel * filament, float(options["max_extrude_cross_section"])
        if area > widest and amount > float(options["nozzle_diameter"]) * widest / filament:
            raise KlipperError(
                f"Move exceeds maximum extrusion ({area:.3f}mm^2 vs {widest:.3f}mm^2)\n"
                "See the 'max_extrude_cross_section' config option for details"
            )

    def _start(self) -> float:
        """When the next move can begin: after what is queued, or a moment from now."""
        return max(self._print_time, self.time + START_DELAY)

    def _queue_segment(self, target: Position, speed: float) -> None:
        distance = math.dist(self.position[:3], target[:3]) or abs(target[3] - self.position[3])
        begin = self._start()
        self._print_time, self._moving = begin + max(distance / speed, 1e-4), True
        self._queue.append(Segment(begin, self._print_time, self.position, target))
        self.position = target
        self._enabled = dict.fromkeys(self._enabled, True)
        self.note_activity()

    async def _wait_for_room(self) -> None:
        # Drained a little below the mark: a file of tiny moves then costs a wake-up every few moves and not one each.
        while not self.printer.halted.is_set() and self._print_time - self.time > LOOK_AHEAD:
            await self.printer.pause(self._print_time - self.time - LOOK_AHEAD + 0.1)

    async def _home_axis(self, axis: str) -> None:
        index, speed = AXES.index(axis), HOMING_SPEED[axis]
        span = LIMITS[axis][1] - LIMITS[axis][0]
        away = span * TRAVEL_MARGIN
        # Already "homed" while it is being homed: Klipper needs to believe that, to be allowed to move.
        self.homed = "".join(a for a in AXES if a in self.homed or a == axis)
        self.position = self._with(index, away)
        distance = max(0.5, self.printer.world.head[index])
        await self._homing_move(index, away - distance, distance / speed)
        await self._homing_move(index, RETRACT, RETRACT / speed, begin_at=0.0)
        await self._homing_move(index, 0.0, RETRACT / (speed / 2))
        self.printer.world.head[index] = 0.0

    async def _homing_move(self, index: int, target: float, seconds: float, begin_at: float | None = None) -> None:
        if begin_at is not None:
            self.position = self._with(index, begin_at)
        begin = self._start()
        self._print_time, self._moving = begin + seconds, True
        self._queue.append(Segment(begin, self._print_time, self.position, self._with(index, target)))
        self.position = self._with(index, target)
        self.note_activity()
        await self.wait_moves()
        if self.printer.halted.is_set():
            await self.printer.clock.sleep(HALT_NOTICE)
            raise KlipperError("Homing failed due to printer shutdown")

    def _with(self, index: int, value: float) -> Position:
        x, y, z, e = (value if i == index else old for i, old in enumerate(self.position))
        return (x, y, z, e)

    def _report(self) -> dict[str, Any]:
        now = self.time
        while self._queue and self._queue[0].end < now:
            done = self._queue.popleft()
            self.printer.world.head[:] = [max(0.0, p) for p in done.target[:3]]
        place, speed, extruding = self.position, 0.0, 0.0
        if self._queue:
            place, speed, extruding = self._queue[0].at(now)
            if now < self._queue[0].begin:
                speed = extruding = 0.0
        return {
            "live_position": list(place),
            "live_velocity": speed,
            "live_extruder_velocity": extruding,
            "steppers": sorted(self._enabled),
            "trapq": [*(n for n in self._enabled if n.startswith("extruder")), "toolhead"],
        }


class IdleTimeout:
    """Idle, Printing (any activity, not a job!) and Ready. Looked at when it is asked for, so it needs no timer."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self._state, self._since, self._busy_until = "Idle", 0.0, 0.0
        self._timeout = 600.0

    def note(self, until: float) -> None:
        """Busy until that print time (s)."""
        if self._state != "Printing":
            self._state, self._since = "Printing", self.printer.toolhead.time
        self._busy_until = max(self._busy_until, until)

    def status(self) -> dict[str, Any]:
        """The object's fields."""
        now = self.printer.toolhead.time if self.printer.sensors_live() else 0.0
        if self._state == "Printing" and now > self._busy_until + SETTLE and not self.printer.gcode.busy():
            self._state = "Ready"
        if self._state == "Ready" and now > self._busy_until + self._timeout:
            self._state = "Idle"
            self.printer.heaters.turn_off()
            self.printer.toolhead.motors_off()
        printing = now - self._since if self._state == "Printing" else 0.0
        return {"state": self._state, "printing_time": max(0.0, printing), "idle_timeout": self._timeout}
