"""When a status goes out: at once for a change of state, coalesced for everything else, and now and then to show life.

The reporter holds no status. It compares what matters now with what mattered when it last reported, and has a fresh one
built when it sends: what waits while the link is down is nothing, so nothing stale is ever sent.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from printago_moonraker.printer.facts import module
from printago_moonraker.status import file_of, identity_of, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from printago_moonraker.config import StatusSection
    from printago_moonraker.printer.phase import Phase
    from printago_moonraker.printer.printer import Printer

TEMPERATURE_STEP = 0.5  # °C; sensors flicker by tenths
PROGRESS_STEP = 0.1  # %

# What changes without mattering: it rides along, but sends nothing by itself.
_SILENT = {
    "configfile",
    "webhooks",
    "gcode_move",
    "toolhead",
    "virtual_sdcard",
    "display_status",
    "print_stats",
    "pause_resume",
}

Digest = dict[str, Any]


class Reporter:
    """Decides when to send. `send` builds and sends a status of now; it is called only while `up()`."""

    def __init__(
        self, printer: Printer, cadence: StatusSection, send: Callable[[], None], up: Callable[[], bool]
    ) -> None:
        self._printer = printer
        self._cadence = cadence
        self._send = send
        self._up = up
        self._marked = asyncio.Event()
        self._reported: Digest = {}
        self._phase: Phase | None = None
        self._last = time.monotonic() - cadence.heartbeat

    def mark(self) -> None:
        """Something changed. Synchronous and cheap: it is called for every notification; a change of phase is reported
        at once.
        """
        if self._printer.phase is not self._phase:
            self.report()
        self._marked.set()

    def report(self) -> None:
        """Send a status now, if the link is up."""
        self._phase = self._printer.phase
        self._last = time.monotonic()
        if self._up():
            self._reported = digest(self._printer)
            self._send()

    async def run(self) -> None:
        """Report what matters, as often as the cadence allows; never returns. Cancelling is safe."""
        while True:
            marked = await self._mark_or_heartbeat()
            early = self._last + self._interval() - time.monotonic()
            if marked and early > 0:
                # In small steps: a heater switched on meanwhile shortens the wait.
                await asyncio.sleep(min(early, self._cadence.printing_interval))
                self._marked.set()
            elif not marked or differs(digest(self._printer), self._reported):
                self.report()

    async def _mark_or_heartbeat(self) -> bool:
        """Wait for a change, True, or until a sign of life is due, False."""
        try:
            async with asyncio.timeout(self._last + self._cadence.heartbeat - time.monotonic()):
                await self._marked.wait()
        except TimeoutError:
            return False
        self._marked.clear()
        return True

    def _interval(self) -> float:
        """Shortest time in seconds between two statuses: small while printing or heating."""
        # A temperature_fan's target is no heating: it never goes away.
        busy = self._printer.phase.has_job or any(
            fields.get("target") and module(name) != "temperature_fan"
            for name, fields in self._printer.state.objects.items()
        )
        return min(self._cadence.printing_interval if busy else self._cadence.idle_interval, self._cadence.heartbeat)


def digest(printer: Printer) -> Digest:
    """What matters of the present state, in a form that `differs` compares."""
    state = printer.state
    values: Digest = {
        "phase": printer.phase,
        "message": (
            state.klippy_message,
            state.get("display_status", "message", ""),
            state.get("print_stats", "message", ""),
        ),
        "file": file_of(printer),
        "identity": identity_of(printer),
        "metadata": id(printer.metadata),
        "thumbnail": id(printer.thumbnail),
        "homed": state.homed_axes,
        "tool": state.get("toolhead", "extruder", ""),
        "factors": (state.number("gcode_move", "speed_factor"), state.number("gcode_move", "extrude_factor")),
        "layer": state.record("print_stats", "info").get("current_layer"),
        "throttled": state.host.get("throttled"),
    }
    if printer.phase.has_job:
        values["progress"] = measure(printer).completion
    else:
        values["position"] = tuple(state.items("gcode_move", "gcode_position"))
    for name, fields in state.objects.items():
        if name not in _SILENT:
            values[name] = {key: value for key, value in fields.items() if key != "rpm"}
    return values


def differs(now: Digest, then: Digest) -> bool:
    """Whether anything changed by as much as matters. A target always does."""
    return now.keys() != then.keys() or any(_value_differs(name, value, then[name]) for name, value in now.items())


def _value_differs(name: str, now: Any, then: Any) -> bool:
    if isinstance(now, dict) and isinstance(then, dict):
        return now.keys() != then.keys() or any(_value_differs(key, value, then[key]) for key, value in now.items())
    if isinstance(now, float | int) and isinstance(then, float | int):
        step = {"temperature": TEMPERATURE_STEP, "progress": PROGRESS_STEP}.get(name, 0.0)
        return abs(now - then) >= step if step else now != then
    return bool(now != then)
