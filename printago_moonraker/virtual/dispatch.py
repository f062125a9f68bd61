"""Who runs which G-code, one script at a time: Klipper's G-code mutex and its replies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from printago_moonraker.virtual.gcode import Command, KlipperError, parse

if TYPE_CHECKING:
    from printago_moonraker.virtual.klippy import Printer

Handler = Callable[[Command], Awaitable[None]]

ALWAYS = frozenset(
    {  # also when Klippy is not ready
        "M110",
        "M112",
        "M114",
        "M115",
        "M118",
        "GET_POSITION",
        "RESTART",
        "FIRMWARE_RESTART",
        "STATUS",
        "HELP",
        "RESPOND",
        "ECHO",
    }
)
SILENT = frozenset(
    {  # accepted, and nothing that could be seen happens
        "G21",
        "M110",
        "M204",
        "SET_VELOCITY_LIMIT",
        "SET_PRESSURE_ADVANCE",
        "SET_IDLE_TIMEOUT",
        "SET_GCODE_VARIABLE",
        "QUERY_ENDSTOPS",
        "HELP",
        "ECHO",
        "BED_MESH_CLEAR",
        "SET_STEPPER_ENABLE",
        "SAVE_CONFIG",
        "CLEAR_ERROR",
    }
)


class Gcode:
    """The queue of commands: a lock that serves in order, held for a script and all that a macro in it does."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self.mutex = asyncio.Lock()
        self._queued = 0
        self.listeners: list[Callable[[str], None]] = []
        printer.commands |= dict.fromkeys(SILENT, self._nothing) | {
            "M105": self._m105,
            "M112": self._m112,
            "M115": self._m115,
            "STATUS": self._status_command,
            "RESTART": self._restart,
            "FIRMWARE_RESTART": self._restart,
        }

    def busy(self) -> bool:
        """A script runs, or waits: between its release and the next in line, the lock itself is free for a moment."""
        return self.mutex.locked() or self._queued > 0

    async def run(self, script: str) -> None:
        """Run a script after all that wait before it. Stops at the first error: tells all listeners, and raises it."""
        self._queued += 1
        try:
            await self.mutex.acquire()
        finally:
            self._queued -= 1
        try:
            await self.run_inside(script)
        finally:
            self.mutex.release()

    async def run_inside(self, script: str) -> None:
        """Run a script as part of the one that holds the mutex."""
        for line in script.split("\n"):
            try:
                await self._run_line(line)
            except KlipperError as error:
                self._tell_error(str(error))
                self.printer.moves.resync()
                raise

    def respond(self, text: str) -> None:
        """Say something to every listener, as it is."""
        for listener in self.listeners:
            listener(text)

    def info(self, text: str) -> None:
        """Say it with `// ` before each line."""
        self.respond("\n".join(f"// {line.strip()}" for line in text.strip().split("\n")))

    def _tell_error(self, text: str) -> None:
        lines = text.strip().split("\n")
        if len(lines) > 1:
            self.info(text)
        self.respond(f"!! {lines[0].strip()}")

    async def _run_line(self, line: str) -> None:
        if line:
            self.printer.world.received.append(line)
            self.printer.world.faults.motion.reach(line)
        command = parse(line)
        if command is None:
            return
        if not self.printer.ready and command.name not in ALWAYS:
            if command.name == "M105":
                self.respond("T:0")
                return
            raise KlipperError(self.printer.state_message)
        handler = self.printer.commands.get(command.name)
        if handler is None:
            self.info(f'Unknown command:"{command.name}"')
            return
        await handler(command)

    async def _nothing(self, _: Command) -> None:
        pass

    async def _m105(self, _: Command) -> None:
        self.respond(self.printer.heaters.report())

    async def _m112(self, _: Command) -> None:
        self.printer.world.counters["emergency_stops"] += 1
        self.printer.shut_down("Shutdown due to M112 command")

    async def _m115(self, _: Command) -> None:
        self.respond("FIRMWARE_NAME:Klipper FIRMWARE_VERSION:v0.13.0-730-g84104bbbd")

    async def _status_command(self, _: Command) -> None:
        if not self.printer.ready:
            raise KlipperError(f"{self.printer.state_message.rstrip()}\nKlipper state: Not ready")
        self.info("Klipper state: Ready")

    async def _restart(self, command: Command) -> None:
        if self.printer.ready:
            await self.printer.toolhead.dwell(0.5)  # which ends when all motion has
        self.printer.request_restart(command.name)
