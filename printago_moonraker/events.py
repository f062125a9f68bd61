"""Which change is which event: OctoPrint's names and members, because Printago knows them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from printago_moonraker import errors
from printago_moonraker.log import printable
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.bucket import Bucket
from printago_moonraker.printer.facts import labels
from printago_moonraker.printer.names import GCODE_ENDINGS
from printago_moonraker.printer.phase import Phase
from printago_moonraker.printer.prints import Change, Print, Transition
from printago_moonraker.status import current_z, headline, measure, state_string

if TYPE_CHECKING:
    from collections.abc import Iterator

    from printago_moonraker.printer.printer import Printer

Event = tuple[str, dict[str, Any]]

# What Klipper says when somebody stopped it: by M112, or by the emergency stop of a client.
_EMERGENCY = re.compile(r"M112|emergency|webhooks request", re.IGNORECASE)
# Of G-code's errors: a file may have a bad line in every layer, and no two of them alike.
SAME_ERROR = 60.0  # s in which a text is told once
ERROR_BURST = 20  # at once
ERROR_RATE = 0.1  # errors/s in the long run


@dataclass
class EventSource:
    """Compares the printer with what was last reported of it. One per printer, called after every change, in order."""

    printer: Printer
    _phase: Phase = Phase.OFFLINE
    _connected: bool = False
    _trouble: str = ""  # Klipper's message that was told last
    _homed: str = ""
    _tool: str = ""
    _layer: int | None = None
    _z: float | None = None
    _completion: float | None = None  # of the print that is on; its end leaves nothing of it to measure
    _runout: dict[str, bool] = field(default_factory=dict)

    def events(self, transitions: list[Transition]) -> Iterator[Event]:
        """The events of one change, in the order in which a person would tell them."""
        ready = self.printer.state.klippy is KlippyState.READY and bool(self.printer.state.moonraker)
        if ready and not self._connected:
            yield "Connected", {"port": self.printer.config.moonraker_url, "baudrate": None}
        yield from self._state_changes()
        yield from self._trouble_told()
        if self.printer.phase.has_job:
            self._completion = measure(self.printer).completion
        for transition in transitions:
            yield transition.change.value, print_payload(transition, self._completion)
        if ready:
            yield from self._details(fresh=not self._connected)
        elif self._connected:
            self._runout.clear()  # a sensor that Klipper has just set up says "no filament" until it has looked
            yield "Disconnected", {}
        self._connected = ready

    def _state_changes(self) -> Iterator[Event]:
        phase = self.printer.phase
        if phase is self._phase:
            return
        self._phase = phase
        yield "PrinterStateChanged", {"state_id": phase.value, "state_string": state_string(self.printer)}

    def _trouble_told(self) -> Iterator[Event]:
        """Klipper's explanation of a shutdown or an error comes up to 250 ms after the state itself."""
        broken = self.printer.phase in (Phase.ERROR, Phase.CLOSED_WITH_ERROR)
        message = headline(self.printer.state.klippy_message) if broken else ""
        if message == self._trouble:
            return
        self._trouble = message
        if message:
            yield "Error", {"error": message, "reason": str(self.printer.state.klippy)}
        if _EMERGENCY.search(message):
            yield "EStop", {"reason": message}

    def _details(self, *, fresh: bool) -> Iterator[Event]:
        """What else the printer did. After a connect everything is news, and so nothing is."""
        state, whose = self.printer.state, self.printer.prints.identity()
        homed, tool = state.homed_axes, state.get("toolhead", "extruder", "")
        layer = state.record("print_stats", "info").get("current_layer")
        if not fresh and set(homed) == set("xyz") != set(self._homed):  # one axis after the other appears on the way
            yield "Home", {"axes": homed}
        if not fresh and tool != self._tool and tool and self._tool:
            yield "ToolChange", {"old": _tool_number(self._tool), "new": _tool_number(tool), **whose}
        if not fresh and layer != self._layer and layer is not None and self.printer.phase.has_job:
            total = state.record("print_stats", "info").get("total_layer")
            yield "LayerChange", {"current": layer, "total": total, **whose}
        self._homed, self._tool, self._layer = homed, tool, layer
        yield from self._height(whose, fresh=fresh)
        for name, label in labels(self.printer.facts.filament_sensors).items():
            runout = not state.get(name, "filament_detected", True) and state.get(name, "enabled", True)
            if not fresh and runout and not self._runout.get(name, runout):
                yield "FilamentRunout", {"sensor": label, **whose}
            self._runout[name] = runout

    def _height(self, whose: dict[str, Any], *, fresh: bool) -> Iterator[Event]:
        """Klipper's ticks set the pace: what lies between two of them, such as a short lift, is not told."""
        old, self._z = self._z, current_z(self.printer)
        wanted = self.printer.settings.status.z_changes and whose and not fresh
        if wanted and self._z is not None and self._z != old:
            yield "ZChange", {"new": self._z, "old": old, **whose}


class GcodeErrors:
    """One printer's `!! ` lines: which of them are told. Each event is written to the disk, so they are bounded."""

    def __init__(self) -> None:
        self._bucket = Bucket(ERROR_BURST, ERROR_RATE)
        self._told: dict[str, float] = {}  # by text, when; not more than the bucket lets through in SAME_ERROR

    def take(self, text: str, now: float) -> dict[str, Any] | None:
        """The `Error` event's payload, None for what is kept back; `now`: seconds on a monotonic clock."""
        self._told = {each: at for each, at in self._told.items() if now - at < SAME_ERROR}
        if text in self._told:
            self._bucket.dropped += 1
            return None
        if not self._bucket.take(now):
            return None
        self._told[text] = now
        return {"error": text, "reason": "gcode", **self._bucket.count()}


def trouble(payload: dict[str, Any]) -> dict[str, Any]:
    """The `error` envelope's data beside an `Error` event of that payload."""
    kind = errors.GcodeError if payload["reason"] == "gcode" else errors.PrinterNotReady
    return {"error": payload["error"], "code": kind.code}


def print_payload(transition: Transition, completion: float | None) -> dict[str, Any]:
    """The members of a print event: which file, whose job, and how long, how far (`completion`, in %) and why, where
    that applies.
    """
    payload = file_payload(transition.job)
    if transition.change in (Change.PAUSED, Change.FAILED, Change.CANCELLED):
        payload["progress"] = int(completion) if completion is not None else None
    if transition.change in (Change.DONE, Change.FAILED, Change.CANCELLED):
        payload["time"] = round(transition.job.time, 3)
    if transition.reason is not None:
        payload["reason"] = printable(transition.reason)
    return payload


def file_payload(job: Print) -> dict[str, Any]:
    """OctoPrint's members of a file, and the identity of its print."""
    name = job.filename.rpartition("/")[2]
    return {
        "name": name,
        "path": job.filename,
        "origin": "local",
        "size": job.size,
        "job_id": job.job_id,
        "source": job.source,
    }


def file_events(params: dict[str, Any]) -> Iterator[Event]:
    """The events of one `notify_filelist_changed`: of a file that was moved, where it was and where it is; none of what
    is no G-code file of the user's (thumbnails, folders, configuration).
    """
    action = str(params.get("action"))
    if action == "move_file":
        yield from _file_event("FileRemoved", params.get("source_item"))
    name = {
        "create_file": "FileAdded",
        "modify_file": "FileAdded",
        "move_file": "FileAdded",
        "delete_file": "FileRemoved",
    }.get(action)
    if name is not None:
        yield from _file_event(name, params.get("item"))


def _file_event(name: str, item: dict[str, Any] | None) -> Iterator[Event]:
    item = item or {}
    path = str(item.get("path", ""))
    hidden = any(part.startswith(".") for part in path.split("/"))
    if item.get("root") != "gcodes" or hidden or not path.lower().endswith(GCODE_ENDINGS):
        return
    yield (
        name,
        {
            "name": path.rpartition("/")[2],
            "path": path,
            "storage": "local",
            "origin": "local",
            "size": item.get("size"),
        },
    )


def _tool_number(extruder: str) -> int:
    digits = extruder.removeprefix("extruder")
    return int(digits) if digits.isdecimal() else 0
