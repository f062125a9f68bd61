"""The small objects: fans, pins, lights, the filament sensor, the display, excluded objects, and what only reports."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from printago_moonraker.virtual.gcode import Command, KlipperError
from printago_moonraker.virtual.heaters import chosen

if TYPE_CHECKING:
    from collections.abc import Callable

    from printago_moonraker.virtual.klippy import Printer

M73_LIFETIME = 5.0  # s after which an M73 is forgotten once nothing moves
PAUSE_DELAY = 0.5  # s between a runout and its PAUSE


class Outputs:
    """fan, heater_fan, fan_generic, output_pin, neopixel."""

    def __init__(self, printer: Printer, settings: dict[str, dict[str, Any]]) -> None:
        self.printer = printer
        self.fan = 0.0
        self._fans = {n.split()[-1]: 0.0 for n in settings if n.startswith("fan_generic ")}
        self._pins = {n.split()[-1]: 0.0 for n in settings if n.startswith("output_pin ")}
        self._leds = {n.split()[-1]: [0.0] * 4 for n in settings if n.startswith("neopixel ")}
        printer.objects["fan"] = lambda: {"speed": self.fan, "rpm": None}
        printer.objects["heater_fan hotend_fan"] = self._hotend_fan
        for name in self._fans:
            read_fan = self._reading(lambda n: {"speed": self._fans[n], "rpm": None}, name)
            printer.objects[f"fan_generic {name}"] = read_fan
        for name in self._pins:
            printer.objects[f"output_pin {name}"] = self._reading(lambda n: {"value": self._pins[n]}, name)
        for name in self._leds:
            printer.objects[f"neopixel {name}"] = self._reading(lambda n: {"color_data": [list(self._leds[n])]}, name)
        printer.commands |= {
            "M106": self._m106,
            "M107": self._m107,
            "SET_FAN_SPEED": self._set_fan,
            "SET_PIN": self._set_pin,
            "SET_LED": self._set_led,
        }

    @staticmethod
    def _reading(read: Callable[[str], dict[str, Any]], name: str) -> Callable[[], dict[str, Any]]:
        return lambda: read(name)

    def _hotend_fan(self) -> dict[str, Any]:
        return {"speed": 1.0 if self.printer.world.temperatures["extruder"] > 50.0 else 0.0, "rpm": None}

    async def _m106(self, command: Command) -> None:
        self.fan = min(1.0, command.get_float("S", 255.0, minimum=0.0) / 255.0)

    async def _m107(self, _: Command) -> None:
        self.fan = 0.0

    async def _set_fan(self, command: Command) -> None:
        chosen(command, "FAN", self._fans)
        self._fans[command.get("FAN")] = min(1.0, command.get_float("SPEED", 0.0))

    async def _set_pin(self, command: Command) -> None:
        chosen(command, "PIN", self._pins)
        self._pins[command.get("PIN")] = command.get_float("VALUE", minimum=0.0, maximum=1.0)

    async def _set_led(self, command: Command) -> None:
        led = chosen(command, "LED", self._leds)
        led[:] = [command.get_float(c, 0.0, minimum=0.0, maximum=1.0) for c in ("RED", "GREEN", "BLUE", "WHITE")]


class FilamentSensor:
    """`filament_switch_sensor runout`, with pause_on_runout."""

    name = "filament_switch_sensor runout"

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self._enabled = True
        printer.objects[self.name] = self.status
        printer.commands |= {"SET_FILAMENT_SENSOR": self._set, "QUERY_FILAMENT_SENSOR": self._query}

    def status(self) -> dict[str, Any]:
        """The object's fields; false until the first reading."""
        detected = self.printer.world.filament_present and self.printer.sensors_live()
        return {"filament_detected": detected, "enabled": self._enabled}

    async def run_out(self) -> None:
        """What Klipper does when the filament ends during a print: stop the file, then run the PAUSE macro."""
        if self._enabled and self.printer.sdcard.active:
            await self.printer.pause_resume.stop_job()
            await self.printer.clock.sleep(PAUSE_DELAY)
            await self.printer.gcode.run("PAUSE\nM400")

    async def _set(self, command: Command) -> None:
        chosen(command, "SENSOR", {"runout": self})
        self._enabled = bool(command.get_int("ENABLE", 1))

    async def _query(self, command: Command) -> None:
        chosen(command, "SENSOR", {"runout": self})
        seen = "" if self.printer.world.filament_present else "not "
        self.printer.gcode.info(f"Filament Sensor runout: filament {seen}detected")


class DisplayStatus:
    """`display_status`: M73, M117, and M118 / RESPOND beside them."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self._message: str | None = None
        self._progress: float | None = None
        self._forgotten_at = 0.0
        printer.objects["display_status"] = self.status
        printer.commands |= {"M73": self._m73, "M117": self._m117, "M118": self._m118, "RESPOND": self._respond}

    def status(self) -> dict[str, Any]:
        """The object's fields; without a living M73, the progress is the file's."""
        idle = self.printer.objects["idle_timeout"]()["state"] != "Printing"
        if self._progress is not None and idle and self.printer.clock.now() > self._forgotten_at:
            self._progress = None
        progress = self.printer.sdcard.progress() if self._progress is None else self._progress
        return {"progress": progress, "message": self._message}

    async def _m73(self, command: Command) -> None:
        if "P" in command.params:
            self._progress = min(1.0, max(0.0, command.get_float("P") / 100.0))
            self._forgotten_at = self.printer.clock.now() + M73_LIFETIME

    async def _m117(self, command: Command) -> None:
        self._message = command.raw or None

    async def _m118(self, command: Command) -> None:
        self.printer.gcode.respond(f"echo: {command.raw}")

    async def _respond(self, command: Command) -> None:
        kind = command.get("TYPE", "echo").lower()
        prefixes = {"echo": "echo: ", "command": "// ", "error": "!! "}
        if kind not in prefixes:
            raise KlipperError(f"RESPOND TYPE '{kind}' is invalid. Must be one of 'echo', 'command', or 'error'")
        self.printer.gcode.respond(f"{command.get('PREFIX', prefixes[kind].strip())} {command.get('MSG', '')}")


class ExcludeObject:
    """`exclude_object`: names come back in UPPER CASE."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self.reset()
        printer.objects["exclude_object"] = self.status
        printer.commands |= {
            "EXCLUDE_OBJECT_DEFINE": self._define,
            "EXCLUDE_OBJECT_START": self._start,
            "EXCLUDE_OBJECT_END": self._end,
            "EXCLUDE_OBJECT": self._exclude,
        }

    def reset(self) -> None:
        """A new file knows no objects."""
        self._objects: list[dict[str, Any]] = []
        self._excluded: list[str] = []
        self._current: str | None = None

    def skipping(self) -> bool:
        """Inside an object that is not to be printed any more."""
        return self._current in self._excluded

    def status(self) -> dict[str, Any]:
        """The object's fields."""
        return {
            "objects": list(self._objects),
            "excluded_objects": list(self._excluded),
            "current_object": self._current,
        }

    async def _define(self, command: Command) -> None:
        if command.params.get("RESET"):
            self.reset()
        if "NAME" not in command.params:
            self.printer.gcode.info(f"Known objects: {', '.join(entry['name'] for entry in self._objects)}")
            return
        entry: dict[str, Any] = {"name": command.get("NAME").upper()}
        try:
            if "CENTER" in command.params:
                entry["center"] = [float(number) for number in command.get("CENTER").split(",")]
            if "POLYGON" in command.params:
                entry["polygon"] = json.loads(command.get("POLYGON"))
        except ValueError:
            raise KlipperError(f"Error on '{command.line}': unable to parse") from None
        others = [known for known in self._objects if known["name"] != entry["name"]]
        self._objects = sorted([*others, entry], key=lambda known: str(known["name"]))

    async def _start(self, command: Command) -> None:
        self._current = command.get("NAME").upper()
        if self._current not in [o["name"] for o in self._objects]:
            self._objects = [*self._objects, {"name": self._current}]

    async def _end(self, _: Command) -> None:
        self._current = None

    async def _exclude(self, command: Command) -> None:
        if command.params.get("RESET"):
            self._excluded = []
            return
        name = self._current if command.params.get("CURRENT") else command.get("NAME", "").upper()
        if not name:
            self.printer.gcode.info(f"Excluded objects: {', '.join(self._excluded)}")
        elif name not in self._excluded:
            self.printer.gcode.info(f"Excluding object {name}")
            self._excluded = sorted([*self._excluded, name])


def add_reports(printer: Printer) -> None:
    """The objects that only report: mcu, system_stats, query_endstops, manual_probe."""
    fixed: dict[str, dict[str, Any]] = {
        "mcu": {
            "mcu_version": "v0.13.0-730-g84104bbbd",
            "mcu_build_versions": "virtual",
            "mcu_constants": {"CLOCK_FREQ": 50000000, "MCU": "virtual"},
            "last_stats": {"mcu_awake": 0.003, "bytes_invalid": 0, "bytes_retransmit": 0, "freq": 50000000},
        },
        "query_endstops": {"last_query": {}},
        "manual_probe": {"is_active": False, "z_position": None, "z_position_lower": None, "z_position_upper": None},
    }
    for name, status in fixed.items():
        printer.objects[name] = lambda status=status: status  # type: ignore[misc]
    printer.objects["system_stats"] = lambda: {
        "sysload": os.getloadavg()[0],
        "cputime": round(sum(os.times()[:2]), 2),
        "memavail": 500_000,
    }
