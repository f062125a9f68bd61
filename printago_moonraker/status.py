"""What is in a status: OctoPrint's members with OctoPrint's meaning, and `klipper` for what OctoPrint has no word for.

Pure functions over a `Printer`; the member list is `schemas/envelopes/status.json`.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from printago_moonraker.log import printable
from printago_moonraker.moonraker.thumbnails import choose
from printago_moonraker.printer.facts import LED_MODULES, is_light, labels, module
from printago_moonraker.printer.gcode import first_line, plain
from printago_moonraker.printer.phase import Phase
from printago_moonraker.printer.state import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from printago_moonraker.printer.printer import Printer
    from printago_moonraker.printer.prints import Print

Data = dict[str, Any]

_TEXTS = {
    Phase.OPERATIONAL: "Operational",
    Phase.STARTING: "Starting",
    Phase.PRINTING: "Printing",
    Phase.PAUSING: "Pausing",
    Phase.PAUSED: "Paused",
    Phase.RESUMING: "Resuming",
    Phase.CANCELLING: "Cancelling",
    Phase.FINISHING: "Finishing",
    Phase.CONNECTING: "Connecting",
    Phase.ERROR: "Error",
    Phase.OFFLINE: "Offline",
    Phase.CLOSED_WITH_ERROR: "Offline after error",
}
_METADATA = ("slicer_version", "layer_height", "first_layer_height", "object_height", "filament_type", "filament_name",
             "filament_weight_total", "nozzle_diameter", "printer_model")  # fmt: skip


class Progress(NamedTuple):
    """`completion` in %, `left` in s."""

    completion: float | None
    left: float | None
    origin: str | None


def build(printer: Printer, *, with_image: bool = False) -> Data:
    """The `data` of a status envelope, as things are now; `with_image`: the thumbnail's picture with it."""
    phase = printer.phase
    job = _job(printer)
    return {
        "printer_state_id": phase.value,
        "printer_state_string": state_string(printer),
        "current_state_data": {
            "state": {"text": state_string(printer), "flags": _flags(phase), "error": _error(printer)},
            "job": job,
            "progress": _progress_data(printer),
            "currentZ": current_z(printer),
            "offsets": {},
            "resends": {"count": 0, "transmitted": 0, "ratio": 0},
        },
        "temperatures": _temperatures(printer),
        "current_job": job,
        "klipper": _klipper(printer, phase) | {"thumbnail": _thumbnail(printer, with_image=with_image)},
    }


def state_string(printer: Printer) -> str:
    """The phase for a person, with Klipper's message when there is one, and what a cancel or a pause waits for."""
    phase = printer.phase
    text = _TEXTS[phase]
    if phase in (Phase.CANCELLING, Phase.PAUSING) and _heating(printer):
        return f"{text} (waiting for the heater)"
    error = _error(printer)
    return f"{text}: {error}" if error else text


def _error(printer: Printer) -> str:
    """Klipper's trouble in one line, empty when all is well."""
    state = printer.state
    if not printer.phase.operational and state.klippy_message:
        return headline(state.klippy_message)
    if printer.phase is Phase.OFFLINE:
        return "Klipper is not running" if state.moonraker else "Moonraker is not reachable"
    failed = state.job is JobState.ERROR and printer.phase is not Phase.STARTING  # of that it is the job before
    return printable(plain(state.get("print_stats", "message", ""))) if failed else ""


def headline(message: str) -> str:
    """The first line of what Klipper says: the lines after it are what to do about it."""
    return printable(first_line(message))


def _flags(phase: Phase) -> Data:
    broken = phase in (Phase.ERROR, Phase.CLOSED_WITH_ERROR)
    return {
        "operational": phase.operational,
        "printing": phase
        in (Phase.STARTING, Phase.PRINTING, Phase.PAUSING, Phase.RESUMING, Phase.CANCELLING, Phase.FINISHING),
        "cancelling": phase is Phase.CANCELLING,
        "pausing": phase is Phase.PAUSING,
        "resuming": phase is Phase.RESUMING,
        "finishing": phase is Phase.FINISHING,
        "closedOrError": broken or phase is Phase.OFFLINE,
        "error": broken,
        "paused": phase is Phase.PAUSED,
        "ready": phase is Phase.OPERATIONAL,
        "sdReady": phase.operational,
    }


def _heating(printer: Printer) -> bool:
    heaters = [tool.object_name for tool in printer.facts.tools] + ["heater_bed"]
    pairs = [(printer.state.number(name, "temperature"), printer.state.number(name, "target")) for name in heaters]
    return any(actual is not None and target and actual < target - 3 for actual, target in pairs)


# ------------------------------------------------------------------------------------------------------------ the job


def file_of(printer: Printer) -> str:
    """The file of the print that is on or about to start, or was on last, below gcodes; empty when there is none."""
    starting = _starting(printer)
    return starting.filename if starting else printer.state.filename


def identity_of(printer: Printer) -> Data | None:
    """Whose the print is that is on or about to start, None when there is none."""
    starting = _starting(printer)
    if starting:
        return {"job_id": starting.job_id, "source": starting.source}
    return printer.prints.identity() or None


def _starting(printer: Printer) -> Print | None:
    """While one starts, Klipper still shows the job before."""
    return printer.prints.coming if printer.phase is Phase.STARTING else None


def _metadata(printer: Printer) -> Data:
    """The shown file's; of one that is not loaded yet nothing is known."""
    return printer.metadata if file_of(printer) == printer.state.filename else {}


def _job(printer: Printer) -> Data:
    state, metadata, path = printer.state, _metadata(printer), file_of(printer)
    name, loaded = path.rpartition("/")[2] or None, path == state.filename
    times = printer.print_times if loaded else ()
    size = metadata.get("size") or (state.number("virtual_sdcard", "file_size") if loaded else None)
    return {
        "file": {
            "name": name,
            "path": path or None,
            "display": name,
            "origin": "local" if path else None,
            "size": _whole(size or None) if path else None,
            "date": _whole(metadata.get("modified")),
        },
        "estimatedPrintTime": metadata.get("estimated_time"),
        "averagePrintTime": sum(times) / len(times) if times else None,
        "lastPrintTime": times[0] if times else None,
        "filament": _filament(printer) if path else {"length": None, "volume": None},
        "user": None,
    }


def _filament(printer: Printer) -> Data:
    total = _metadata(printer).get("filament_total")
    if not isinstance(total, int | float):
        return {}
    area = math.pi * (printer.facts.filament_diameter / 2) ** 2
    return {"tool0": {"length": total, "volume": round(total * area / 1000, 4)}}


def _progress_data(printer: Printer) -> Data:
    state = printer.state
    phase = printer.phase
    shown = phase is not Phase.STARTING and (phase.has_job or state.job is JobState.COMPLETE)
    progress = measure(printer)
    return {
        "completion": progress.completion if shown else None,
        "filepos": _whole(state.number("virtual_sdcard", "file_position")) if shown else None,
        "printTime": _whole(state.number("print_stats", "total_duration")) if shown else None,
        "printTimeLeft": _whole(progress.left) if shown else None,
        "printTimeLeftOrigin": progress.origin if shown else None,
    }


def measure(printer: Printer) -> Progress:
    """How far the print is, and how long it takes yet.

    The slicer's own word (M73) comes first; `display_status` falls back to the file position when the file never sets
    it. The file position counts between the first and the last byte of the G-code proper: thumbnails are bytes too.
    """
    state = printer.state
    if state.job is JobState.COMPLETE:
        return Progress(100.0, 0.0, None)
    done = printer.slicer_progress if printer.slicer_progress is not None else _position(printer)
    done = min(1.0, max(0.0, done))
    elapsed = state.number("print_stats", "print_duration") or 0.0
    estimate = printer.metadata.get("estimated_time")
    if isinstance(estimate, int | float) and estimate > 0:
        return Progress(done * 100, _left_of_estimate(float(estimate), done, elapsed), "estimate")
    if done > 0.005 and elapsed > 0:
        return Progress(done * 100, elapsed / done - elapsed, "linear")
    return Progress(done * 100, None, None)


def _position(printer: Printer) -> float:
    state, metadata = printer.state, printer.metadata
    start, end = metadata.get("gcode_start_byte"), metadata.get("gcode_end_byte")
    at = state.number("virtual_sdcard", "file_position")
    if isinstance(start, int) and isinstance(end, int) and end > start and at is not None:
        return (at - start) / (end - start)
    if not state.number("print_stats", "print_duration"):
        return 0.0  # nothing extruded yet: what was read so far is the file's head
    return state.number("virtual_sdcard", "progress") or 0.0


def _left_of_estimate(estimate: float, done: float, elapsed: float) -> float:
    """The slicer's estimate, scaled by how this print really goes; early on there is too little of it to tell."""
    pace = elapsed / (estimate * done) if done > 0.05 else 1.0
    return max(0.0, estimate * (1.0 - done) * min(max(pace, 0.25), 4.0))


def current_z(printer: Printer) -> float | None:
    """The nozzle's height in mm, as the G-code has it; None while it is not known."""
    position = printer.state.items("gcode_move", "gcode_position")
    return position[2] if "z" in printer.state.homed_axes and len(position) > 2 else None


# -------------------------------------------------------------------------------------------------------- temperatures


def _temperatures(printer: Printer) -> Data:
    if not printer.phase.operational:
        return {}
    facts = printer.facts
    temperatures = {f"tool{number}": _temperature(printer, tool.object_name) for number, tool in enumerate(facts.tools)}
    temperatures["bed"] = _temperature(printer, facts.bed.object_name if facts.bed else None)
    temperatures["chamber"] = _temperature(printer, facts.chamber_sensor)
    return temperatures


def _temperature(printer: Printer, name: str | None) -> Data:
    actual, target = (
        (printer.state.number(name, field) for field in ("temperature", "target")) if name else (None, None)
    )
    return {"actual": round(actual, 2) if actual is not None else None, "target": target, "offset": 0}


# ------------------------------------------------------------------------------------------------------------- klipper


def _klipper(printer: Printer, phase: Phase) -> Data:
    state, metadata = printer.state, _metadata(printer)
    ready = phase.operational
    return {
        "state": state.klippy.value,
        "state_message": printable(plain(state.klippy_message), 500),
        "can": _can(printer, phase),
        "homed_axes": state.homed_axes,
        "position": _named_position(printer),
        "speed_factor": state.number("gcode_move", "speed_factor"),
        "extrude_factor": state.number("gcode_move", "extrude_factor"),
        "layer": _layer(printer),
        **_equipment(printer, ready=ready),
        "slicer": metadata.get("slicer"),
        "metadata": {name: metadata[name] for name in _METADATA if metadata.get(name) is not None},
        "filament_used": _filament_used(printer),
        "display_message": printable(state.get("display_status", "message", "")) or None,
        "objects": _objects(printer),
        "job": identity_of(printer),
        "host": dict(state.host),
    }


def _can(printer: Printer, phase: Phase) -> Data:
    held = phase in (Phase.OPERATIONAL, Phase.PAUSED)
    tool = printer.state.get("toolhead", "extruder", "extruder")
    return {
        "print": phase is Phase.OPERATIONAL,
        "pause": phase is Phase.PRINTING,
        "resume": phase is Phase.PAUSED,
        "stop": phase.has_job and phase is not Phase.CANCELLING,
        "move": held and printer.settings.commands.allow_motion and bool(printer.state.homed_axes),
        "extrude": held and printer.settings.commands.allow_motion and printer.state.get(tool, "can_extrude", False),
        "home": phase is Phase.OPERATIONAL and printer.settings.commands.allow_motion,
    }


def _named_position(printer: Printer) -> Data | None:
    position = printer.state.items("gcode_move", "gcode_position")
    return dict(zip(("x", "y", "z", "e"), position, strict=False)) if position else None


def _layer(printer: Printer) -> Data:
    """SET_PRINT_STATS_INFO's word when the file gives it, else what the slicer's layer heights say of the present Z."""
    metadata, info = _metadata(printer), printer.state.record("print_stats", "info")
    if printer.phase is Phase.STARTING:
        return {"current": None, "total": metadata.get("layer_count")}
    current, total = info.get("current_layer"), info.get("total_layer") or metadata.get("layer_count")
    height, first = metadata.get("layer_height"), metadata.get("first_layer_height")
    z = current_z(printer)
    if current is None and printer.phase.has_job and isinstance(height, int | float) and height > 0 and z:
        base = first if isinstance(first, int | float) else height
        # A lifted nozzle is above the layer that it prints: the estimate is bounded by the file's own count.
        current = max(0, min(round((z - base) / height) + 1, total if isinstance(total, int) else 1_000_000))
    return {"current": current, "total": total}


def _equipment(printer: Printer, *, ready: bool) -> Data:
    """What each of these shows, by its name; nothing is known of them unless Klipper is ready."""
    facts = printer.facts
    heaters = (*(heater.object_name for heater in facts.heaters), *facts.sensors)
    members: tuple[tuple[str, tuple[str, ...], Callable[[Printer, str], Data]], ...] = (
        ("fans", facts.fans, _fan),
        ("lights", facts.lights, _light),
        ("filament_sensors", facts.filament_sensors, _filament_sensor),
        ("heaters", heaters, _temperature),
    )
    return {
        member: {label: show(printer, name) for name, label in labels(names).items()} if ready else {}
        for member, names, show in members
    }


def _fan(printer: Printer, name: str) -> Data:
    speed = printer.state.number(name, "value" if module(name) == "output_pin" else "speed")
    return {"speed": speed, "rpm": printer.state.number(name, "rpm")}


def _light(printer: Printer, name: str) -> Data:
    if module(name) in LED_MODULES:
        colors = printer.state.items(name, "color_data")
        return {
            "brightness": max((max(color) for color in colors if color), default=None),
            "color": colors[0] if colors else None,
        }
    return {"brightness": printer.state.number(name, "value") if is_light(name) else None, "color": None}


def _filament_sensor(printer: Printer, name: str) -> Data:
    values = printer.state.objects.get(name, {})
    return {"enabled": values.get("enabled"), "filament_detected": values.get("filament_detected")}


def _thumbnail(printer: Printer, *, with_image: bool) -> Data | None:
    chosen = choose(_metadata(printer), printer.state.filename)
    if chosen is None:
        return None
    image = asdict(printer.thumbnail) if with_image and printer.thumbnail else {}
    return asdict(chosen) | image


def _filament_used(printer: Printer) -> float | None:
    used = printer.state.number("print_stats", "filament_used") if printer.phase is not Phase.STARTING else None
    return None if used is None else round(max(0.0, used), 2)  # a macro's retraction makes it negative at the start


def _objects(printer: Printer) -> Data:
    state = printer.state
    return {
        "names": [str(each.get("name")) for each in state.items("exclude_object", "objects")],
        "excluded": [str(each) for each in state.items("exclude_object", "excluded_objects")],
        "current": state.get("exclude_object", "current_object", "") or None,
    }


def _whole(value: float | None) -> int | None:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else None
