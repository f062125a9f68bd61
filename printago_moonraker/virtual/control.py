"""Out-of-band control of the simulated Klippy for tests: a second unix socket, a JSON object a line each way.

`{"command": "shutdown", "reason": "..."}` -> `{"result": {...}}` or `{"error": "..."}`. The commands are the methods of
`Controls`.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

    from printago_moonraker.virtual.klippy import Host


class Controls:
    """What a test may do to the printer behind Moonraker's back; each returns a JSON object."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def shutdown(self, reason: str) -> dict[str, Any]:
        """Shut down as by the MCU, with that reason."""
        self._host.printer.shut_down(reason)
        return {}

    def filament(self, present: bool) -> dict[str, Any]:
        """Put filament in, or let it run out."""
        self._host.world.filament_present = present
        if not present:
            self._host.printer.spawn(self._host.printer.filament.run_out())
        return {}

    def config_error(self, text: str | None) -> dict[str, Any]:
        """The configuration is broken from the next restart on; None mends it."""
        self._host.world.faults.config_error = text
        return {}

    def mcu_absent(self, absent: bool) -> dict[str, Any]:
        """The MCU does not answer from the next restart on, or is back."""
        self._host.world.faults.mcu_absent = absent
        return {}

    def stall(self, stalled: bool) -> dict[str, Any]:
        """The API socket stops reading and answering, or goes on; the machine itself goes on all the time."""
        flowing = self._host.world.faults.flowing
        if stalled:
            flowing.clear()
        else:
            flowing.set()
        return {}

    def hold(self, what: str, line: str = "") -> dict[str, Any]:
        """Stand still until `release`, from now on or from when a line of G-code that begins with `line` has begun.

        `file`: a print goes no further than that line; what anybody else sends is carried out, also a pause or cancel.
        `motion`: what waits for motion to end (G28, G4, M400, ...) goes on waiting, and all that waits for it.
        A shutdown ends either, as it ends a print and all motion.
        """
        holds = {"file": self._host.world.faults.file, "motion": self._host.world.faults.motion}
        if what not in holds:
            raise ValueError(f"nothing to hold is called {what}: {', '.join(holds)}")
        holds[what].held, holds[what].line = not line, line
        return {}

    def release(self) -> dict[str, Any]:
        """Whatever is held, or will be, goes on."""
        for hold in (self._host.world.faults.file, self._host.world.faults.motion):
            hold.held, hold.line = False, ""
        return {}

    def slow(self, seconds: float) -> dict[str, Any]:
        """Wait so many seconds of wall time before each answer."""
        self._host.world.faults.answer_delay = seconds
        return {}

    def set_temperature(self, heater: str, temperature: float) -> dict[str, Any]:
        """That heater (its object's name) has that temperature (°C), now."""
        if heater not in self._host.world.temperatures:
            raise ValueError(f"no heater {heater}: {', '.join(self._host.world.temperatures)}")
        self._host.world.temperatures[heater] = temperature
        return {}

    def set_homed(self) -> dict[str, Any]:
        """All axes are homed, with the head at 100, 100, 10 mm."""
        printer = self._host.printer
        printer.toolhead.homed = "xyz"
        printer.toolhead.set_position((100.0, 100.0, 10.0, 0.0))
        printer.moves.resync()
        return {}

    def received_gcode(self, clear: bool = False) -> dict[str, Any]:
        """Every line of G-code so far, oldest first, with those of files and macros."""
        lines = list(self._host.world.received)
        if clear:
            self._host.world.received.clear()
        return {"lines": lines}

    def counters(self) -> dict[str, Any]:
        """How often what happened."""
        return dict(self._host.world.counters)


class ControlServer:
    """The socket, as an async context manager."""

    def __init__(self, host: Host, path: Path) -> None:
        self._controls, self._path = Controls(host), path
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=1024 * 1024)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._carry_out(json.loads(line))).encode() + b"\n")
                await writer.drain()
        finally:
            writer.close()

    def _carry_out(self, request: dict[str, Any]) -> dict[str, Any]:
        command = str(request.pop("command", ""))
        method = getattr(self._controls, command, None) if not command.startswith("_") else None
        if method is None:
            return {"error": f"no control command {command!r}"}
        try:
            return {"result": method(**request)}
        except (TypeError, ValueError) as error:
            return {"error": str(error)}
