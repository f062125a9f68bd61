"""A status has every member of the protocol, in every phase, and tells what is so."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from printago_moonraker import schemas, status
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.moonraker.thumbnails import Image
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec
from printago_moonraker.printer.facts import read_facts
from printago_moonraker.printer.phase import Phase
from printago_moonraker.printer.printer import Printer
from tests.fakes.klipper import METADATA, PATH, Recorder, make_config, printing

KLIPPER_MEMBERS = {
    "state", "state_message", "can", "homed_axes", "position", "speed_factor", "extrude_factor", "layer",
    "fans", "lights", "filament_sensors", "heaters", "thumbnail", "slicer", "metadata", "filament_used",
    "display_message", "objects", "job", "host",
}  # fmt: skip
FLAGS = {
    "operational", "printing", "paused", "pausing", "resuming", "cancelling", "finishing", "ready", "error",
    "closedOrError", "sdReady",
}  # fmt: skip
OWN = {"STARTING": "standby", "PAUSING": "printing", "RESUMING": "paused", "CANCELLING": "printing"}
KLIPPY = {
    "ERROR": KlippyState.SHUTDOWN,
    "CLOSED_WITH_ERROR": KlippyState.ERROR,
    "CONNECTING": KlippyState.STARTUP,
    "OFFLINE": KlippyState.DISCONNECTED,
}


def in_phase(phase: str, **commands: Any) -> Printer:
    printer = Recorder(Printer(*make_config(**commands), emit=lambda *_: None)).ready()
    printer.metadata = dict(METADATA)
    if phase in KLIPPY:
        printer.klippy_is(KLIPPY[phase], "mcu 'mcu': Unable to connect\nOnce the underlying")
    elif phase != "OPERATIONAL":
        printer.apply(printing(OWN.get(phase, "paused" if phase == "PAUSED" else "printing"), total_duration=20.0))
        printer.apply({"virtual_sdcard": {"progress": 1.0 if phase == "FINISHING" else 0.5, "file_position": 14587}})
        if phase in OWN:
            printer._operations.append(Phase(phase))
    assert printer.phase == phase
    return printer


def envelope(printer: Printer) -> Any:
    codec = EnvelopeCodec("voron", "klipper", Dialect.KLIPPER)
    return json.loads(codec.encode("status", status.build(printer), at=datetime(2026, 11, 23, tzinfo=UTC)))


def valid(printer: Printer) -> Any:
    data = envelope(printer)
    errors = [f"{error.json_path}: {error.message}" for error in schemas.compiled("envelopes/status").iter_errors(data)]
    assert errors == []
    return data["data"]


@pytest.mark.parametrize("phase", Phase)
def test_every_member_in_every_phase(phase: Phase) -> None:
    """Valid by the schema, with all members that the protocol lists, whatever the printer does."""
    data = valid(in_phase(phase))
    assert data["printer_state_id"] == phase
    current = data["current_state_data"]
    assert current.keys() >= {"state", "job", "progress", "currentZ", "offsets", "resends"}
    assert set(current["state"]["flags"]) == FLAGS
    assert current["progress"].keys() == {"completion", "filepos", "printTime", "printTimeLeft", "printTimeLeftOrigin"}
    assert data["current_job"].keys() >= {
        "file", "estimatedPrintTime", "averagePrintTime", "lastPrintTime", "filament", "user",
    }  # fmt: skip
    assert data["klipper"].keys() >= KLIPPER_MEMBERS
    assert data["klipper"]["can"].keys() == {"print", "pause", "resume", "stop", "move", "extrude", "home"}


@pytest.mark.parametrize(
    ("phase", "flags"),
    [
        ("OPERATIONAL", "operational ready sdReady"),
        ("STARTING", "operational printing sdReady"),
        ("PRINTING", "operational printing sdReady"),
        ("PAUSING", "operational printing pausing sdReady"),
        ("PAUSED", "operational paused sdReady"),
        ("RESUMING", "operational printing resuming sdReady"),
        ("CANCELLING", "operational printing cancelling sdReady"),
        ("FINISHING", "operational printing finishing sdReady"),
        ("CONNECTING", ""),
        ("ERROR", "closedOrError error"),
        ("CLOSED_WITH_ERROR", "closedOrError error"),
        ("OFFLINE", "closedOrError"),
    ],
)
def test_flags(phase: str, flags: str) -> None:
    """As OctoPrint sets them."""
    found = status.build(in_phase(phase))["current_state_data"]["state"]["flags"]
    assert {name for name, value in found.items() if value} == set(flags.split())


@pytest.mark.parametrize(
    ("phase", "can"),
    [
        ("OPERATIONAL", "print home move"),
        ("PRINTING", "pause stop"),
        ("PAUSED", "resume stop move"),
        ("STARTING", "stop"),
        ("CANCELLING", ""),
        ("ERROR", ""),
        ("OFFLINE", ""),
    ],
)
def test_what_it_can(phase: str, can: str) -> None:
    """A button that is shown is a command that is taken."""
    found = status.build(in_phase(phase))["klipper"]["can"]
    assert {name for name, value in found.items() if value} == set(can.split())


def test_what_depends_on_heat_homing_and_owner() -> None:
    """Extruding needs a hot tool, moving a homed axis, both the owner's leave."""
    printer = in_phase("OPERATIONAL")
    printer.apply({"extruder": {"can_extrude": True}, "toolhead": {"homed_axes": ""}})
    can = status.build(printer)["klipper"]["can"]
    assert (can["extrude"], can["move"], can["home"]) == (True, False, True)
    forbidden = in_phase("OPERATIONAL", allow_motion=False)
    forbidden.apply({"extruder": {"can_extrude": True}})
    can = status.build(forbidden)["klipper"]["can"]
    assert (can["extrude"], can["move"], can["home"]) == (False, False, False)


def test_for_a_person() -> None:
    """Klipper's trouble in one line, what a cancel waits for, and that nothing is there."""
    assert status.state_string(in_phase("ERROR")) == "Error: mcu 'mcu': Unable to connect"
    assert status.state_string(in_phase("OPERATIONAL")) == "Operational"
    printer = in_phase("CANCELLING")
    printer.apply({"extruder": {"temperature": 100.0, "target": 200.0}})
    assert status.state_string(printer) == "Cancelling (waiting for the heater)"
    printer.detach()
    assert status.state_string(printer) == "Offline: Moonraker is not reachable"
    failed = in_phase("OPERATIONAL")
    failed.apply(printing("error", message="Move out of range"))
    assert status.state_string(failed) == "Operational: Move out of range"


def test_what_a_creality_k1_says_is_for_a_person_too() -> None:
    """Its JSON is opened wherever the status has Klipper's words."""
    wrapped = '{"code":"key1","msg":"Lost communication with MCU","values":[]}'
    printer = in_phase("ERROR")
    printer.klippy_is(KlippyState.SHUTDOWN, f"{wrapped}\nOnce the underlying")
    assert status.state_string(printer) == "Error: Lost communication with MCU"
    assert status.build(printer)["klipper"]["state_message"] == "Lost communication with MCU Once the underlying"
    failed = in_phase("OPERATIONAL")
    failed.apply(printing("error", message=wrapped))
    assert status.state_string(failed) == "Operational: Lost communication with MCU"


def test_temperatures() -> None:
    """OctoPrint's heaters by OctoPrint's names, all others below `klipper`; none while nothing is known."""
    data = status.build(in_phase("OPERATIONAL"))
    assert data["temperatures"] == {
        "tool0": {"actual": 25.04, "target": 0.0, "offset": 0},
        "tool1": {"actual": 25.0, "target": 0.0, "offset": 0},
        "bed": {"actual": 24.0, "target": 0.0, "offset": 0},
        "chamber": {"actual": 23.0, "target": 0.0, "offset": 0},
    }
    assert data["klipper"]["heaters"] == {
        "dryer box": {"actual": 22.0, "target": 0.0, "offset": 0},
        "host": {"actual": 40.0, "target": 60.0, "offset": 0},
    }
    assert status.build(in_phase("OFFLINE"))["temperatures"] == {}


def test_the_job() -> None:
    """The file, what is known of it, and whose print it is."""
    printer = Recorder().ready()
    printer.prints.expect(PATH, "job-7", printer.state)
    printer.apply(printing(info={"total_layer": 8, "current_layer": 3}, filament_used=-1.0))
    printer.metadata, printer.print_times = dict(METADATA), (100.0, 200.0)
    data = valid(printer)
    assert data["current_job"]["file"] == {
        "name": "cube.gcode",
        "path": PATH,
        "display": "cube.gcode",
        "origin": "local",
        "size": 25947,
        "date": 1795426085,
    }
    assert data["current_job"]["averagePrintTime"] == 150.0
    assert data["current_job"]["lastPrintTime"] == 100.0
    assert data["current_job"]["filament"]["tool0"] == {"length": 188.81, "volume": pytest.approx(0.4541, abs=1e-4)}
    klipper = data["klipper"]
    assert klipper["job"] == {"job_id": "job-7", "source": "printago"}
    assert klipper["layer"] == {"current": 3, "total": 8}
    assert klipper["thumbnail"] == {
        "path": "Printago/.thumbs/cube-300x300.png",
        "width": 300,
        "height": 300,
        "size": 2720,
    }
    assert klipper["filament_used"] == 0.0
    printer.apply(printing("complete"))
    assert status.build(printer)["klipper"]["job"] is None


def test_a_print_that_starts_is_the_one_to_come() -> None:
    """While Klipper still shows the job before, the status has the file and the identity of the one that starts, and
    nothing of the one before.
    """
    printer = in_phase("OPERATIONAL")
    printer.apply(printing("complete", info={"total_layer": 8, "current_layer": 8}, filament_used=99.0))
    printer.print_times = (100.0,)
    printer.prints.expect("Printago/next.gcode", "job-8", printer.state)
    assert valid(printer)["current_job"]["file"]["path"] == PATH
    with printer.operation(Phase.STARTING):
        data = valid(printer)
        printer.apply(printing("error", message="Move out of range"))
        assert status.state_string(printer) == "Starting"
    file = {"name": "next.gcode", "path": "Printago/next.gcode", "display": "next.gcode", "origin": "local"}
    assert data["current_job"]["file"] == file | {"size": None, "date": None}
    assert (data["current_job"]["estimatedPrintTime"], data["current_job"]["lastPrintTime"]) == (None, None)
    klipper = data["klipper"]
    assert klipper["job"] == {"job_id": "job-8", "source": "printago"}
    assert klipper["layer"] == {"current": None, "total": None}
    assert (klipper["thumbnail"], klipper["slicer"], klipper["metadata"], klipper["filament_used"]) == (
        None,
        None,
        {},
        None,
    )


def test_a_file_that_starts_again_is_known() -> None:
    """What Moonraker said of the file holds for its next print, too."""
    printer = in_phase("OPERATIONAL")
    printer.apply(printing("complete", info={"total_layer": 8, "current_layer": 8}))
    printer.prints.expect(PATH, None, printer.state)
    with printer.operation(Phase.STARTING):
        data = valid(printer)
    assert data["current_job"]["file"]["size"] == METADATA["size"]
    assert data["klipper"]["layer"] == {"current": None, "total": 8}
    assert data["klipper"]["job"] == {"job_id": None, "source": "printago"}


def test_the_thumbnails_picture_is_there_when_it_is_asked_for() -> None:
    """It is many times as large as all the rest, so that every other status does without."""
    printer = in_phase("PRINTING")
    assert "image" not in status.build(printer, with_image=True)["klipper"]["thumbnail"]  # it has not come yet
    printer.thumbnail = Image("image/png", "iVBORw0K")
    with_image = status.build(printer, with_image=True)["klipper"]["thumbnail"]
    assert (with_image["content_type"], with_image["image"]) == ("image/png", "iVBORw0K")
    assert status.build(printer)["klipper"]["thumbnail"].keys() == {"path", "width", "height", "size"}


def test_progress_is_the_slicers_else_that_of_the_g_code_proper() -> None:
    """Thumbnails are bytes too, and M73's value of the file before is not this one's."""
    printer = in_phase("OPERATIONAL")
    printer.apply({"display_status": {"progress": 1.0}})
    printer.apply(printing(print_duration=0.0))
    printer.apply({"virtual_sdcard": {"progress": 0.16, "file_position": 4076}})
    assert status.measure(printer) == (0.0, 178.0, "estimate")
    printer.apply({"virtual_sdcard": {"progress": 0.56, "file_position": 14587}})
    assert status.measure(printer).completion == pytest.approx(50.0)
    printer.apply({"display_status": {"progress": 0.42}})
    assert status.measure(printer).completion == pytest.approx(42.0)
    printer.apply(printing("complete"))
    assert status.measure(printer) == (100.0, 0.0, None)


def test_the_time_left() -> None:
    """The slicer's estimate at the pace of this print, bounded; without an estimate what the elapsed time says."""
    printer = in_phase("PRINTING")
    printer.apply(printing(print_duration=178.0))
    assert status.measure(printer).left == pytest.approx(178.0), "half in the time of the whole: twice as slow"
    printer.apply(printing(print_duration=17800.0))
    assert status.measure(printer).left == pytest.approx(4 * 89.0)
    printer.metadata = {}
    printer.apply(printing(print_duration=60.0))
    assert status.measure(printer) == (50.0, 60.0, "linear")
    printer.apply({"virtual_sdcard": {"progress": 0.001}})
    assert status.measure(printer).left is None


def test_layers_by_height() -> None:
    """Where the file does not say its layer, the height does, within the file's own count."""
    printer = in_phase("PRINTING")
    for z, layer in ((0.2, 1), (0.4, 2), (1.6, 8), (30.0, 8)):
        printer.apply({"gcode_move": {"gcode_position": [1.0, 2.0, z, 0.0]}})
        assert status.build(printer)["klipper"]["layer"] == {"current": layer, "total": 8}


def test_equipment() -> None:
    """Fans, lights and sensors by their short names."""
    klipper = status.build(in_phase("OPERATIONAL"))["klipper"]
    assert klipper["fans"] == {"host": {"speed": 0.2, "rpm": None}, "fan": {"speed": 0.0, "rpm": None}}
    assert klipper["lights"]["strip"] == {"brightness": 1.0, "color": [1.0, 0.5, 0.0, 0.0]}
    assert klipper["lights"]["caselight"]["brightness"] == 0.5
    assert klipper["filament_sensors"] == {"runout": {"enabled": True, "filament_detected": True}}
    assert klipper["objects"] == {"names": ["CUBE"], "excluded": [], "current": None}


def test_equal_short_names() -> None:
    """None hides another: the one that comes later goes by its full name, a sensor later than a heater."""
    names = [
        "temperature_sensor box", "heater_generic box", "temperature_fan box", "fan_generic box",
        "output_pin box_light", "led box_light", "filament_switch_sensor box", "filament_motion_sensor box",
        "temperature_sensor chamber_temp",
    ]  # fmt: skip
    printer = in_phase("OPERATIONAL")
    printer.facts = read_facts(names, {})
    printer.apply({"temperature_sensor box": {"temperature": 41.0}, "filament_motion_sensor box": {"enabled": True}})
    klipper = valid(printer)["klipper"]
    assert list(klipper["heaters"]) == ["box", "temperature_sensor box", "temperature_fan box"]
    assert klipper["heaters"]["temperature_sensor box"] == {"actual": 41.0, "target": None, "offset": 0}
    assert list(klipper["fans"]) == ["box", "fan_generic box"]
    assert list(klipper["lights"]) == ["box_light", "led box_light"]
    assert list(klipper["filament_sensors"]) == ["box", "filament_motion_sensor box"]
    assert klipper["filament_sensors"]["filament_motion_sensor box"]["enabled"] is True


WEIRD = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=4))
FIELDS = {
    "print_stats": ["filename", "total_duration", "print_duration", "filament_used", "state", "message"],
    "virtual_sdcard": ["progress", "file_position", "file_size"],
    "display_status": ["progress", "message"],
    "toolhead": ["homed_axes", "extruder"],
    "gcode_move": ["speed_factor", "extrude_factor"],
    "extruder": ["temperature", "target", "can_extrude"],
    "webhooks": ["state", "state_message"],
    "exclude_object": ["current_object"],
}
DELTA = st.fixed_dictionaries(
    {}, optional={name: st.dictionaries(st.sampled_from(fields), WEIRD) for name, fields in FIELDS.items()}
)


@given(st.lists(DELTA, max_size=4))
def test_no_value_of_a_peer_breaks_a_status(deltas: list[dict[str, dict[str, Any]]]) -> None:
    """Whatever types come, a valid status goes out: NaN and the like become null."""
    printer = in_phase("PRINTING")
    for delta in deltas:
        printer.apply(delta)
    valid(printer)
