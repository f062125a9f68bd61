"""Which change is which event, with OctoPrint's names and members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from printago_moonraker.config import StatusSection
from printago_moonraker.events import ERROR_BURST, EventSource, GcodeErrors, file_events, trouble
from printago_moonraker.moonraker.api import KlippyState
from tests.fakes.klipper import METADATA, PATH, Recorder, printing, snapshot


class Told:
    """A ready printer, and what is told of it from now on."""

    def __init__(self, **status: Any) -> None:
        """`status` are options of the section [status]."""
        self.printer = Recorder().printer
        self.printer.settings = replace(self.printer.settings, status=StatusSection(**status))
        source = EventSource(self.printer)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.printer.on_change = lambda transitions: self.events.extend(source.events(transitions))
        Recorder.ready(self._recorder())
        self.first, self.events = [name for name, _ in self.events], []

    def _recorder(self) -> Recorder:
        recorder = Recorder.__new__(Recorder)
        recorder.printer = self.printer
        return recorder

    def change(self, **delta: dict[str, Any]) -> list[str]:
        """The names of the events of one change."""
        count = len(self.events)
        self.printer.apply(delta)
        return [name for name, _ in self.events[count:]]

    def payload(self, name: str) -> dict[str, Any]:
        return next(payload for each, payload in reversed(self.events) if each == name)


def test_the_first_look_is_no_news() -> None:
    """After a connect everything is new, and so only the connection and the state are told."""
    assert Told().first == ["Connected", "PrinterStateChanged"]


def test_a_print() -> None:
    """State and print event come together, in the order in which a person would tell them."""
    told = Told()
    assert told.change(**printing()) == ["PrinterStateChanged", "PrintStarted"]
    assert told.change(**printing("paused")) == ["PrinterStateChanged", "PrintPaused"]
    assert told.change(**printing()) == ["PrinterStateChanged", "PrintResumed"]
    assert told.change(extruder={"temperature": 99.0}) == []
    assert told.change(**printing("complete", total_duration=61.2345)) == ["PrinterStateChanged", "PrintDone"]
    assert told.payload("PrintDone") == {
        "name": "cube.gcode",
        "path": PATH,
        "origin": "local",
        "size": None,
        "job_id": None,
        "source": "local",
        "time": 61.234,
    }
    assert told.payload("PrinterStateChanged") == {"state_id": "OPERATIONAL", "state_string": "Operational"}


def test_how_far_a_print_came() -> None:
    """The end of a print leaves nothing to measure: what counts is how far it was while it was on."""
    told = Told()
    told.printer.metadata = dict(METADATA)
    told.change(**printing())
    told.change(virtual_sdcard={"progress": 0.56, "file_position": 14587})
    told.change(**printing("cancelled"), virtual_sdcard={"progress": 0.0, "file_position": 0})
    assert told.payload("PrintCancelled")["progress"] == 50
    assert told.payload("PrintCancelled")["reason"] == "cancelled"
    told.change(**printing(total_duration=1.0))
    told.change(virtual_sdcard={"progress": 0.56, "file_position": 14587})
    told.printer.klippy_is(KlippyState.DISCONNECTED)
    assert told.payload("PrintFailed")["progress"] == 50


@pytest.mark.parametrize(
    ("message", "stopped"),
    [
        ("Shutdown due to webhooks request\nOnce", True),
        ("Shutdown due to M112 command\nOnce", True),
        ("Lost communication with MCU 'mcu'\nOnce", False),
    ],
)
def test_a_shutdown(message: str, stopped: bool) -> None:
    """An error with Klipper's reason, an emergency stop when it was one, and the end of the print; once."""
    told = Told()
    told.change(**printing())
    names = told.change(webhooks={"state": "shutdown", "state_message": message})
    stop = ["EStop"] if stopped else []
    assert names == ["PrinterStateChanged", "Error", *stop, "PrintFailed", "Disconnected"]
    assert told.payload("Error") == {"error": message.partition("\n")[0], "reason": "shutdown"}
    assert told.change(webhooks={"state": "shutdown", "state_message": message}) == []


def test_a_shutdown_of_a_creality_k1() -> None:
    """The JSON that it puts around Klipper's words is not told."""
    told = Told()
    told.change(webhooks={"state": "shutdown", "state_message": '{"code":"key1","msg":"ADC out of range"}\nOnce'})
    assert told.payload("Error") == {"error": "ADC out of range", "reason": "shutdown"}


def test_the_reason_may_come_later_than_the_shutdown() -> None:
    """The error is told when it is known what it is, not before, and not twice."""
    told = Told()
    told.printer.klippy_is(KlippyState.SHUTDOWN)
    assert [name for name, _ in told.events] == ["PrinterStateChanged", "Disconnected"]
    assert told.change(webhooks={"state": "shutdown", "state_message": "ADC out of range\nmore"}) == ["Error"]


def test_back_again() -> None:
    """A restarted Klipper is connected anew, and its homing is none."""
    told = Told()
    told.printer.klippy_is(KlippyState.DISCONNECTED)
    count = len(told.events)
    told.printer.snapshot({"webhooks": {"state": "ready"}, "toolhead": {"homed_axes": "xyz"}})
    assert [name for name, _ in told.events[count:]] == ["Connected", "PrinterStateChanged"]


def test_a_sensor_that_is_empty_after_a_restart_is_no_runout() -> None:
    """A runout is filament that was there and is gone in one life of Klipper: after a restart there is none to compare
    with, and later ones are told.
    """
    told, sensor = Told(), "filament_switch_sensor runout"
    told.printer.klippy_is(KlippyState.DISCONNECTED)
    count = len(told.events)
    told.printer.snapshot({"webhooks": {"state": "ready"}, sensor: {"filament_detected": False, "enabled": True}})
    assert [name for name, _ in told.events[count:]] == ["Connected", "PrinterStateChanged"]
    assert told.change(**{sensor: {"filament_detected": True}}) == []
    assert told.change(**{sensor: {"filament_detected": False}}) == ["FilamentRunout"]


def test_a_runout_says_of_which_sensor() -> None:
    """By the name that the status has it under, when two have the same short one."""
    told, names = Told(), ("filament_switch_sensor a", "filament_motion_sensor a")
    told.printer.facts = replace(told.printer.facts, filament_sensors=names)
    told.change(**{name: {"filament_detected": True, "enabled": True} for name in names})
    assert told.change(**{names[1]: {"filament_detected": False}}) == ["FilamentRunout"]
    assert told.payload("FilamentRunout") == {"sensor": "filament_motion_sensor a"}


def test_a_sensor_that_is_new_after_a_restart_is_no_runout() -> None:
    """What was known of a sensor in the life before does not outlast it, though the sensor comes late in this one."""
    told, sensor = Told(), "filament_switch_sensor runout"
    told.printer.klippy_is(KlippyState.DISCONNECTED)
    facts, told.printer.facts = told.printer.facts, replace(told.printer.facts, filament_sensors=())
    told.printer.snapshot({"webhooks": {"state": "ready"}})
    told.printer.facts = facts
    assert told.change(**{sensor: {"filament_detected": False, "enabled": True}}) == []


def test_small_things() -> None:
    """Homing, tool changes, layers, runouts: each when it happens, and only then; in a print they say in whose."""
    told = Told()
    assert told.change(toolhead={"homed_axes": ""}) == []
    assert told.change(toolhead={"homed_axes": "x"}) == []
    assert told.change(toolhead={"homed_axes": "xyz"}) == ["Home"]
    assert told.change(toolhead={"extruder": "extruder1"}) == ["ToolChange"]
    assert told.payload("ToolChange") == {"old": 0, "new": 1}
    assert told.change(print_stats={"info": {"total_layer": 8, "current_layer": 1}}) == []
    assert told.change(**printing(info={"total_layer": 8, "current_layer": 2})) == [
        "PrinterStateChanged",
        "PrintStarted",
        "LayerChange",
    ]
    assert told.payload("LayerChange") == {"current": 2, "total": 8, "job_id": None, "source": "local"}
    sensor = "filament_switch_sensor runout"
    assert told.change(**{sensor: {"filament_detected": False}}) == ["FilamentRunout"]
    assert told.payload("FilamentRunout") == {"sensor": "runout", "job_id": None, "source": "local"}
    assert told.change(**{sensor: {"filament_detected": False}}) == []
    assert told.change(**{sensor: {"filament_detected": True}}) == []
    assert told.change(**{sensor: {"filament_detected": False, "enabled": False}}) == []


def height(z: float, **more: Any) -> dict[str, Any]:
    return {"gcode_move": {"gcode_position": [1.0, 2.0, z, 4.0], **more}}


def test_heights_are_told_where_they_are_wanted() -> None:
    """In a print, with its identity and the height before; once a tick, and only what has changed."""
    told = Told(z_changes=True)
    assert told.change(**height(7.0)) == []
    told.printer.prints.expect(PATH, "job-7", told.printer.state)
    assert told.change(**printing(), **height(0.2)) == ["PrinterStateChanged", "PrintStarted", "ZChange"]
    assert told.payload("ZChange") == {"new": 0.2, "old": 7.0, "job_id": "job-7", "source": "printago"}
    assert told.change(**height(0.2, speed_factor=1.5)) == []
    assert told.change(**height(0.4)) == ["ZChange"]
    assert told.change(toolhead={"homed_axes": "xy"}) == []
    assert told.change(**printing("complete")) == ["PrinterStateChanged", "PrintDone"]
    assert told.change(**height(9.0)) == []


def test_heights_are_not_told_by_default() -> None:
    """Each is written to the disk: the owner has to want them."""
    told = Told()
    told.change(**printing())
    assert told.change(**height(0.2)) == []


def test_the_height_after_a_connect_is_no_change() -> None:
    """What was before Klipper went away is no height to compare with."""
    told = Told(z_changes=True)
    told.change(**printing(), **height(0.2))
    told.printer.detach()
    count = len(told.events)
    told.printer.state.moonraker = True
    told.printer.snapshot(snapshot(**printing(), **height(0.4)))
    assert "ZChange" not in [name for name, _ in told.events[count:]]
    assert told.change(**height(0.6)) == ["ZChange"]
    assert told.payload("ZChange")["old"] == 0.4


def test_the_same_error_is_told_once_a_minute() -> None:
    """A text that was told within the last 60 s is kept back, other texts between or not; how many, the next says."""
    errors = GcodeErrors()
    told = [errors.take(text, at / 10) for at in range(1200) for text in ("a", "b")]
    assert [each for each in told if each] == [
        {"error": "a", "reason": "gcode"},
        {"error": "b", "reason": "gcode"},
        {"error": "a", "reason": "gcode", "dropped": 1198},
        {"error": "b", "reason": "gcode"},
    ]


def test_errors_of_ever_other_texts_are_limited() -> None:
    """A burst is told, and then one in ten seconds; what is remembered of them is bounded by that."""
    errors = GcodeErrors()
    told = [errors.take(f"Move out of range: {at}", float(at)) for at in range(3600)]
    assert sum(each is not None for each in told) <= ERROR_BURST + 360 + 1
    assert sum(each is not None for each in told[:ERROR_BURST]) == ERROR_BURST
    assert sum(each.get("dropped", 0) + 1 for each in told if each) > 3580
    assert len(errors._told) <= ERROR_BURST + 7


def test_trouble_has_a_code() -> None:
    """The `error` envelope says whether a line of G-code failed or Klipper stopped."""
    assert trouble({"error": "Unknown", "reason": "gcode", "dropped": 3}) == {"error": "Unknown", "code": "gcode_error"}
    assert trouble({"error": "ADC", "reason": "shutdown"}) == {"error": "ADC", "code": "printer_not_ready"}


@pytest.mark.parametrize(
    ("action", "path", "root", "event"),
    [
        ("create_file", "Printago/a.gcode", "gcodes", "FileAdded"),
        ("modify_file", "a.GCODE", "gcodes", "FileAdded"),
        ("move_file", "a.g", "gcodes", "FileAdded"),
        ("delete_file", "a.gco", "gcodes", "FileRemoved"),
        ("create_file", ".thumbs/a-32x32.png", "gcodes", None),
        ("create_file", ".hidden/a.gcode", "gcodes", None),
        ("create_dir", "x.gcode", "gcodes", None),
        ("create_file", "printer.cfg", "config", None),
        ("create_file", "a.gcode", "config", None),
        ("new action", "a.gcode", "gcodes", None),
    ],
)
def test_files(action: str, path: str, root: str, event: str | None) -> None:
    """Only the user's G-code files are told of."""
    found = list(file_events({"action": action, "item": {"path": path, "root": root, "size": 5}}))
    assert [name for name, _ in found] == ([event] if event else [])
    for _, payload in found:
        name = path.rpartition("/")[2]
        assert payload == {"name": name, "path": path, "storage": "local", "origin": "local", "size": 5}


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        ("gcodes/a.gcode", "gcodes/b/a.gcode", [("FileRemoved", "a.gcode"), ("FileAdded", "b/a.gcode")]),
        ("gcodes/a.gcode", "config/a.gcode", [("FileRemoved", "a.gcode")]),
        ("config/a.gcode", "gcodes/a.gcode", [("FileAdded", "a.gcode")]),
        ("gcodes/a.gcode", "gcodes/a.bak", [("FileRemoved", "a.gcode")]),
        ("gcodes/.trash/a.gcode", "gcodes/a.gcode", [("FileAdded", "a.gcode")]),
    ],
)
def test_a_file_that_is_moved(source: str, target: str, told: list[tuple[str, str]]) -> None:
    """It is told as gone from where it was, and as there where it is."""
    item, source_item = ({"root": root, "path": path} for root, _, path in (x.partition("/") for x in (target, source)))
    found = list(file_events({"action": "move_file", "item": item | {"size": 5}, "source_item": source_item}))
    assert [(name, payload["path"]) for name, payload in found] == told
    assert {name: payload["size"] for name, payload in found} == {n: 5 if n == "FileAdded" else None for n, _ in told}


def test_a_file_event_without_an_item_is_none() -> None:
    """What Moonraker does not say is not guessed."""
    assert list(file_events({})) == []
    assert list(file_events({"action": "move_file", "item": None, "source_item": None})) == []
