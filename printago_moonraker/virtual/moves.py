"""`gcode_move`: the coordinates of the G-code, their modes, offsets and saved states, and the commands that move."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from printago_moonraker.virtual.gcode import Command, KlipperError
from printago_moonraker.virtual.motion import AXES

if TYPE_CHECKING:
    from printago_moonraker.virtual.klippy import Printer

LETTERS = "XYZE"


@dataclass
class Modes:
    """What SAVE_GCODE_STATE keeps. Speeds in mm/s, positions in mm."""

    absolute: bool = True
    absolute_extrude: bool = True
    speed: float = 25.0
    speed_factor: float = 1.0
    extrude_factor: float = 1.0
    base: list[float] = field(default_factory=lambda: [0.0] * 4)
    homing_origin: list[float] = field(default_factory=lambda: [0.0] * 4)
    last: list[float] = field(default_factory=lambda: [0.0] * 4)

    def copy(self) -> Modes:
        """A copy that shares nothing."""
        return replace(self, base=list(self.base), homing_origin=list(self.homing_origin), last=list(self.last))


class GcodeMove:
    """The coordinate system of the G-code on top of the toolhead's."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self.modes = Modes()
        self._saved: dict[str, Modes] = {}
        printer.objects["gcode_move"] = self.status
        printer.commands |= {
            "G0": self._g1,
            "G1": self._g1,
            "G4": self._g4,
            "G28": self._g28,
            "G90": self._mode(absolute=True),
            "G91": self._mode(absolute=False),
            "M82": self._mode(absolute_extrude=True),
            "M83": self._mode(absolute_extrude=False),
            "G92": self._g92,
            "M220": self._m220,
            "M221": self._m221,
            "M400": self._m400,
            "M84": self._m84,
            "M18": self._m84,
            "M114": self._m114,
            "GET_POSITION": self._m114,
            "SET_GCODE_OFFSET": self._offset,
            "SAVE_GCODE_STATE": self._save,
            "RESTORE_GCODE_STATE": self._restore,
            "ACTIVATE_EXTRUDER": self._activate,
        }

    def resync(self) -> None:
        """After an error or a homing: believe the toolhead."""
        self.modes.last = list(self.printer.toolhead.position)

    def gcode_position(self) -> list[float]:
        """mm, in the G-code's own coordinates."""
        modes = self.modes
        x, y, z, e = (last - base for last, base in zip(modes.last, modes.base, strict=True))
        return [x, y, z, e / modes.extrude_factor]

    def status(self) -> dict[str, Any]:
        """The object's fields; speed in mm/min."""
        modes = self.modes
        return {
            "speed_factor": modes.speed_factor,
            "speed": modes.speed * 60.0,
            "extrude_factor": modes.extrude_factor,
            "absolute_coordinates": modes.absolute,
            "absolute_extrude": modes.absolute_extrude,
            "homing_origin": list(modes.homing_origin),
            "position": list(modes.last),
            "gcode_position": self.gcode_position(),
            "axis_map": {"X": 0, "Y": 1, "Z": 2, "E": 3},
        }

    async def _g1(self, command: Command) -> None:
        modes, params = self.modes, command.params
        try:
            for index, letter in enumerate(LETTERS):
                if letter in params:
                    self._set_axis(index, float(params[letter]))
            if "F" in params:
                speed = float(params["F"]) / 60.0
                if speed <= 0:
                    raise KlipperError(f"Invalid speed in '{command.line}'")
                modes.speed = speed
        except ValueError:
            self.resync()
            raise KlipperError(f"Unable to parse move '{command.line}'") from None
        await self._move_to_last()

    def _set_axis(self, index: int, value: float) -> None:
        modes = self.modes
        relative = not modes.absolute or (index == 3 and not modes.absolute_extrude)
        if index == 3:
            value *= modes.extrude_factor
        modes.last[index] = value + (modes.last[index] if relative else modes.base[index])

    async def _move_to_last(self, speed: float | None = None) -> None:
        modes = self.modes
        if self.printer.exclude.skipping():
            # The head stays where it is, and the filament of the skipped move is never owed.
            skipped = modes.last[3] - self.printer.toolhead.position[3]
            modes.last[3] -= skipped
            modes.base[3] -= skipped
            return
        x, y, z, e = modes.last
        await self.printer.toolhead.move((x, y, z, e), speed or self.modes.speed * self.modes.speed_factor)

    async def _g4(self, command: Command) -> None:
        await self.printer.toolhead.dwell(command.get_float("P", 0.0, minimum=0.0) / 1000.0)

    async def _g28(self, command: Command) -> None:
        axes = "".join(axis for axis in AXES if axis.upper() in command.params) or AXES
        toolhead = self.printer.toolhead
        await toolhead.wait_moves()
        for axis in axes:
            await toolhead.home(axis)
            index = AXES.index(axis)
            self.modes.base[index] = self.modes.homing_origin[index]
            self.resync()

    async def _g92(self, command: Command) -> None:
        for index, letter in enumerate(LETTERS):
            if letter in command.params or not command.params:
                value = command.get_float(letter, 0.0) * (self.modes.extrude_factor if letter == "E" else 1.0)
                self.modes.base[index] = self.modes.last[index] - value

    async def _m220(self, command: Command) -> None:
        self.modes.speed_factor = command.get_float("S", 100.0, minimum=0.01) / 100.0

    async def _m221(self, command: Command) -> None:
        factor = command.get_float("S", 100.0, minimum=0.01) / 100.0
        position = self.gcode_position()[3]
        self.modes.base[3] = self.modes.last[3] - position * factor
        self.modes.extrude_factor = factor

    async def _m400(self, _: Command) -> None:
        await self.printer.toolhead.wait_moves()

    async def _m84(self, _: Command) -> None:
        await self.printer.toolhead.wait_moves()
        self.printer.toolhead.motors_off()

    async def _m114(self, _: Command) -> None:
        x, y, z, e = self.gcode_position()
        self.printer.gcode.respond(f"X:{x:.3f} Y:{y:.3f} Z:{z:.3f} E:{e:.3f}")

    async def _offset(self, command: Command) -> None:
        modes = self.modes
        for index, letter in enumerate(LETTERS):
            if letter in command.params:
                offset = command.get_float(letter)
            elif f"{letter}_ADJUST" in command.params:
                offset = modes.homing_origin[index] + command.get_float(f"{letter}_ADJUST")
            else:
                continue
            modes.base[index] += offset - modes.homing_origin[index]
            modes.homing_origin[index] = offset

    async def _save(self, command: Command) -> None:
        self._saved[command.get("NAME", "default")] = self.modes.copy()

    async def _restore(self, command: Command) -> None:
        name = command.get("NAME", "default")
        saved = self._saved.get(name)
        if saved is None:
            raise KlipperError(f"Unknown g-code state: {name}")
        extruded = self.modes.last[3] - saved.last[3]
        now = list(self.modes.last)
        self.modes = saved.copy()
        self.modes.base[3] += extruded
        if command.get_int("MOVE", 0):
            self.modes.last = [*saved.last[:3], now[3]]
            await self._move_to_last(command.get_float("MOVE_SPEED", self.modes.speed))
        else:
            self.modes.last = now

    async def _activate(self, command: Command) -> None:
        name = command.get("EXTRUDER")
        heater = self.printer.heaters.all.get(name)
        if heater is None or not name.startswith("extruder"):
            raise KlipperError(f"'{name}' is not a valid extruder.")
        toolhead = self.printer.toolhead
        if toolhead.extruder is heater:
            self.printer.gcode.info(f"Extruder {name} already active")
            return
        self.printer.gcode.info(f"Activating extruder {name}")
        await toolhead.wait_moves()
        toolhead.extruder = heater
        x, y, z, _ = toolhead.position
        toolhead.set_position((x, y, z, 0.0))
        self.resync()

    def _mode(self, *, absolute: bool | None = None, absolute_extrude: bool | None = None) -> Any:
        async def run(_: Command) -> None:
            if absolute is not None:
                self.modes.absolute = absolute
            if absolute_extrude is not None:
                self.modes.absolute_extrude = absolute_extrude

        return run
