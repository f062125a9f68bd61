"""A print outlives the agent: whose it is, that it has begun, and that it ends once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.prints import Print, PrintTracker
from printago_moonraker.printer.state import PrinterState
from tests.fakes.klipper import PATH, printing, snapshot


class Life:
    """A tracker, what Klipper shows, and what Moonraker's history has."""

    def __init__(self, memory: Any = None) -> None:
        self.tracker = PrintTracker()
        self.state = PrinterState()
        self.told: list[tuple[str, str | None]] = []
        self.history: list[dict[str, Any]] = []
        if memory is not None:
            self.tracker.recall(memory)

    def sees(self, klippy: KlippyState = KlippyState.READY, **changes: Any) -> None:
        self.state.moonraker = True
        self.state.snapshot(snapshot(**changes))
        self.state.klippy_is(klippy)
        self.look()

    def job(self, state: str, filename: str = PATH, **fields: Any) -> None:
        self.state.apply(printing(state, filename, **fields))
        self.look()

    def look(self) -> None:
        """As the printer and its watch do."""
        self._tell(self.tracker.observe(self.state, 100.0))
        if self.tracker.unsettled:
            self._tell(self.tracker.settle_by(self.history, self.state))
            self._tell(self.tracker.observe(self.state, 100.0))

    def _tell(self, transitions: list[Any]) -> None:
        self.told += [(each.change.name, each.job.job_id) for each in transitions]

    def restart(self) -> Life:
        """The agent is killed; another one begins with what was stored, as JSON."""
        other = Life(json.loads(json.dumps(self.tracker.memory())))
        other.history = self.history
        return other


def expecting(name: str = "job-1") -> Life:
    life = Life()
    life.sees()
    life.tracker.expect(PATH, name, life.state)
    return life


def begun() -> Life:
    life = expecting()
    life.job("printing", total_duration=5.0)
    assert life.told == [("STARTED", "job-1")]
    return life


def shown(state: str, **fields: Any) -> dict[str, Any]:
    return printing(state, **fields)


def test_it_goes_on() -> None:
    """No second start; its end comes once, with its name."""
    life = begun().restart()
    life.sees(**shown("printing", total_duration=60.0))
    assert life.told == []
    life.job("complete", total_duration=90.0)
    assert life.told == [("DONE", "job-1")]
    after = life.restart()
    after.sees(**shown("complete", total_duration=90.0))
    assert after.told == []


@pytest.mark.parametrize("end", ["complete", "cancelled", "error"])
def test_it_ended_meanwhile(end: str) -> None:
    """Klipper still shows how."""
    life = begun().restart()
    life.sees(**shown(end, total_duration=60.0))
    assert life.told == [({"complete": "DONE", "cancelled": "CANCELLED", "error": "FAILED"}[end], "job-1")]


@pytest.mark.parametrize(
    ("status", "end"),
    [("completed", "DONE"), ("cancelled", "CANCELLED"), ("klippy_shutdown", "FAILED"), (None, "FAILED")],
)
def test_klipper_has_forgotten_it(status: str | None, end: str) -> None:
    """Moonraker's history knows."""
    life = begun().restart()
    life.history = [{"filename": PATH, "status": status}] if status else []
    life.sees()
    assert life.told == [(end, "job-1")]


def test_it_was_paused_meanwhile() -> None:
    """A change that nobody saw is told when it is seen."""
    life = begun().restart()
    life.sees(**shown("paused", total_duration=60.0))
    assert life.told == [("PAUSED", "job-1")]
    life = life.restart()
    life.sees(**shown("paused", total_duration=60.0))
    assert life.told == []


def test_the_expected_start_is_seen_later() -> None:
    """The agent died between asking for the start and seeing it."""
    life = expecting().restart()
    life.sees(**shown("printing", total_duration=1.0))
    assert life.told == [("STARTED", "job-1")]
    life = life.restart()
    life.sees(**shown("printing", total_duration=1.5))
    assert life.told == []


def test_the_expected_print_came_and_went() -> None:
    """Start and end are told, by what Klipper shows or by the history; an older print of the file is another."""
    life = expecting().restart()
    life.sees(**shown("complete", total_duration=3.0))
    assert life.told == [("STARTED", "job-1"), ("DONE", "job-1")]

    life = expecting()
    since = life.tracker.memory()["expected"]["since"]
    life = life.restart()
    life.history = [{"filename": PATH, "status": "completed", "start_time": since + 1}]
    life.sees()
    assert life.told == [("STARTED", "job-1"), ("DONE", "job-1")]

    life = expecting().restart()
    life.history = [{"filename": PATH, "status": "completed", "start_time": since - 100}]
    life.sees()
    assert life.told == []
    life.job("printing", total_duration=0.1)
    assert life.told == [("STARTED", "job-1")], "what Klipper has accepted it does, however late"


def test_the_same_file_is_printed_anew() -> None:
    """Moonraker's entry tells two prints of one file apart, also when the clock of the second has run for longer."""
    life = begun()
    life.tracker.enter(PATH, "000001")
    life = life.restart()
    life.history = [
        {"filename": PATH, "status": "in_progress", "job_id": "000002"},
        {"filename": PATH, "status": "completed", "job_id": "000001"},
    ]
    life.sees(**shown("printing", total_duration=60.0))
    assert life.told == [("DONE", "job-1"), ("STARTED", None)]


@pytest.mark.parametrize("status", ["in_progress", "server_exit"])
def test_the_entry_is_the_same(status: str) -> None:
    """Moonraker's restart closes the entry of a print that goes on."""
    life = begun()
    life.tracker.enter(PATH, "000001")
    life = life.restart()
    life.history = [{"filename": PATH, "status": status, "job_id": "000001"}]
    life.sees(**shown("printing", total_duration=60.0))
    life.job("complete")
    assert life.told == [("DONE", "job-1")]


def test_the_same_file_was_printed_anew_and_is_done() -> None:
    """The end that Klipper shows is that of the second print; Moonraker's entry has the first one's."""
    life = begun()
    life.tracker.enter(PATH, "000001")
    life = life.restart()
    life.history = [
        {"filename": PATH, "status": "completed", "job_id": "000002"},
        {"filename": PATH, "status": "cancelled", "job_id": "000001"},
    ]
    life.sees(**shown("complete", total_duration=60.0))
    assert life.told == [("CANCELLED", "job-1")]


def test_klippers_word_counts_for_an_end_that_moonraker_missed() -> None:
    """Moonraker's restart closed the entry; the print went on, and Klipper shows how it ended."""
    life = begun()
    life.tracker.enter(PATH, "000001")
    life = life.restart()
    life.history = [{"filename": PATH, "status": "interrupted", "job_id": "000001"}]
    life.sees(**shown("complete", total_duration=60.0))
    assert life.told == [("DONE", "job-1")]


def test_a_download_names_the_print_after_a_restart() -> None:
    """The cloud's name came with the file; the start does not repeat it."""
    life = Life()
    life.tracker.name_file(PATH, "job-7")
    life = life.restart()
    life.sees()
    life.tracker.expect(PATH, None, life.state)
    life.job("printing")
    assert life.told == [("STARTED", "job-7")]


def test_the_memory_changes_seldom() -> None:
    """Its time is coarse, lest the disk is written to at each tick."""
    life = begun()
    memories = []
    for second in range(5, 65):
        life.job("printing", total_duration=float(second))
        memories.append(json.dumps(life.tracker.memory()))
    assert len(set(memories)) == 3
    assert life.tracker.current == replace(Print(PATH, "printago", "job-1"), time=64.0)


@pytest.mark.parametrize("memory", [{}, {"current": {"x": 1}, "expected": None, "job_ids": {}}, 7, {"current": 1}])
def test_what_is_no_memory_is_refused(memory: Any) -> None:
    """With an exception that says so."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        PrintTracker().recall(memory)
