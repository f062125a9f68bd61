"""The recorded traffic of a real Klipper, replayed: states, prints and events come out as they were."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from printago_moonraker.events import EventSource
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.facts import read_facts
from printago_moonraker.printer.state import subscription
from printago_moonraker.status import measure
from tests.fakes.klipper import Recorder

RECORDING = Path(__file__).parent.parent / "recordings" / "klipper-session.jsonl"


class Replay:
    """Does with each message what a session does. `told`: event names with the seconds at which they came."""

    def __init__(self) -> None:
        recorder = Recorder()
        self.printer = recorder.printer
        self.events = EventSource(self.printer)
        self.told: list[tuple[float, str, dict[str, Any]]] = []
        self.phases: list[str] = [self.printer.phase.value]
        self.progress: list[tuple[float, float, float | None]] = []  # time, completion in %, time left in s
        self.time = 0.0
        self.objects: list[str] = []
        self._asked: dict[int, str] = {}
        self.printer.on_change = self._changed
        self.printer.state.moonraker = True

    def run(self) -> Replay:
        for line in RECORDING.read_text("utf-8").splitlines():
            entry = json.loads(line)
            self.time = entry["t"]
            if entry["dir"] == "out":
                self._asked[entry["msg"]["id"]] = entry["msg"]["method"]
            elif "id" in entry["msg"]:
                self._answer(self._asked[entry["msg"]["id"]], entry["msg"].get("result"))
            else:
                self._notified(entry["msg"]["method"], entry["msg"].get("params"))
        return self

    def _answer(self, method: str, result: Any) -> None:
        if method == "printer.objects.list":
            self.objects = result["objects"]
        elif method == "server.files.metadata":
            self.printer.metadata = result
        elif method == "printer.objects.subscribe":
            wanted = subscription([*self.objects, *result["status"]])
            self.printer.facts = read_facts(self.objects, result["status"])
            # It had subscribed to everything; the agent takes less.
            self.printer.snapshot(
                {
                    name: {field: value for field, value in fields.items() if field in wanted[name]}
                    for name, fields in result["status"].items()
                    if name in wanted
                }
            )

    def _notified(self, method: str, params: Any) -> None:
        if method == "notify_status_update":
            self.printer.apply(params[0])
        elif method == "notify_klippy_disconnected":
            self.printer.klippy_is(KlippyState.DISCONNECTED)

    def _changed(self, transitions: Any) -> None:
        self.told += [(self.time, name, payload) for name, payload in self.events.events(transitions)]
        if self.printer.phase.value != self.phases[-1]:
            self.phases.append(self.printer.phase.value)
        if self.printer.phase.has_job:
            progress = measure(self.printer)
            assert progress.completion is not None
            self.progress.append((self.time, progress.completion, progress.left))

    def names(self, *leave_out: str) -> list[str]:
        return [name for _, name, _ in self.told if name not in leave_out]


@pytest.fixture(scope="module")
def replay() -> Replay:
    return Replay().run()


def test_the_phases(replay: Replay) -> None:
    """Two prints, one paused and resumed and one cancelled, an emergency stop, its recovery, a killed Klipper."""
    first = ["PRINTING", "PAUSED", "PRINTING", "OPERATIONAL"]
    second = ["PRINTING", "OPERATIONAL"]
    stopped = ["ERROR", "OFFLINE", "OPERATIONAL"]
    killed = ["OFFLINE", "OPERATIONAL"]
    assert replay.phases == ["CONNECTING", "OPERATIONAL", *first, *second, *stopped, *killed]


def test_the_events(replay: Replay) -> None:
    """Every print has its start and its one end, every stop its error, in the order in which it happened."""
    assert replay.names("PrinterStateChanged", "LayerChange", "Home") == [
        "Connected",
        "PrintStarted",
        "PrintPaused",
        "PrintResumed",
        "PrintDone",
        "PrintStarted",
        "PrintCancelled",
        "Error",
        "EStop",
        "Disconnected",
        "Connected",
        "Disconnected",
        "Connected",
    ]


def test_when_they_came(replay: Replay) -> None:
    """Each with the very message that showed it, and with what belongs to it."""
    prints = [
        (time, name, payload) for time, name, payload in replay.told if name.startswith("Print") and "path" in payload
    ]
    assert [round(time, 1) for time, *_ in prints] == [52.3, 90.6, 97.1, 156.8, 160.1, 181.6]
    assert {payload["path"] for *_, payload in prints} == {"calibration_cubes_PLA_3m.gcode"}
    assert {payload["source"] for *_, payload in prints} == {"local"}
    assert {payload["size"] for *_, payload in prints} == {25947}
    assert prints[3][2]["time"] == pytest.approx(104.5, abs=0.3)
    assert prints[5][2]["time"] == pytest.approx(21.6, abs=0.1)
    assert prints[5][2]["progress"] == 12


def test_layers_and_homing(replay: Replay) -> None:
    """The slicer's layers one by one, and each homing when its last axis is homed."""
    layers = [payload["current"] for _, name, payload in replay.told if name == "LayerChange"]
    assert layers == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]
    homed = [payload["axes"] for _, name, payload in replay.told if name == "Home"]
    assert homed == ["xyz", "xyz", "xyz"]


def test_the_emergency_stop_says_why(replay: Replay) -> None:
    """With Klipper's first line."""
    stop = next(payload for _, name, payload in replay.told if name == "EStop")
    assert stop == {"reason": "Shutdown due to M112 command"}


def test_progress_goes_forward(replay: Replay) -> None:
    """From 0 to 100; only the slicer's first word may correct the file position a little."""
    first = [completion for time, completion, _ in replay.progress if time < 158]
    second = [completion for time, completion, _ in replay.progress if time > 158]
    assert first[0] == second[0] < 2.0
    assert first[-1] == pytest.approx(100.0, abs=0.5)
    assert all(0.0 <= completion <= 100.0 for completion in first + second)
    backwards = [before - after for before, after in pairwise(first) if after < before]
    assert len(backwards) == 1
    assert max(backwards) < 2.0
    assert max(before - after for before, after in pairwise(second)) < 2.0
    assert second[-1] == pytest.approx(12.0)


def test_the_time_left_ends_at_nothing(replay: Replay) -> None:
    """It begins near the slicer's estimate of 178 s, and is never negative."""
    left = [left for time, _, left in replay.progress if time < 158]
    assert left[0] == pytest.approx(178.0, abs=3.0)
    assert all(each is not None and 0.0 <= each <= 4 * 178.0 for each in left)
    assert left[-1] == pytest.approx(0.0, abs=2.0)


def test_the_facts(replay: Replay) -> None:
    """Out of the real object list."""
    facts = replay.printer.facts
    assert [tool.name for tool in facts.tools] == ["extruder"]
    assert facts.chamber_sensor == "temperature_sensor chamber"
    assert facts.lights == ("output_pin caselight",)
    assert facts.build_volume() == {"width": 235.0, "depth": 235.0, "height": 252.0}
