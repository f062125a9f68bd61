"""Which print is on, whose it is, and how it ended: once, and rightly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer import history
from printago_moonraker.printer.prints import Change, PrintTracker, Transition
from printago_moonraker.printer.state import PrinterState
from tests.fakes.klipper import PATH, printing, snapshot

ENDS = (Change.DONE, Change.FAILED, Change.CANCELLED)


class Follower:
    """A tracker and the state it looks at; the clock stands still unless told."""

    def __init__(self, **changes: dict[str, Any]) -> None:
        self.state, self.tracker, self.now = PrinterState(), PrintTracker(), 100.0
        self.transitions: list[Transition] = []
        self.appear(**changes)

    def appear(self, **changes: dict[str, Any]) -> None:
        """Moonraker is there, and Klipper ready."""
        self.state.moonraker = True
        self.state.snapshot(snapshot(**changes))
        self.look()

    def vanish(self) -> None:
        self.tracker.lost_sight()
        self.state.moonraker = False
        self.state.klippy_is(KlippyState.UNKNOWN)
        self.look()

    def klippy(self, state: KlippyState, message: str = "") -> None:
        self.state.klippy_is(state, message)
        self.look()

    def job(self, state: str, filename: str = PATH, **fields: Any) -> None:
        self.state.apply(printing(state, filename, **fields))
        self.look()

    def look(self, *, cancelling: bool = False) -> None:
        self.transitions += self.tracker.observe(self.state, self.now, cancelling=cancelling)

    def settle(self, status: str | None) -> None:
        self.transitions += self.tracker.settle(status)
        self.look()

    @property
    def told(self) -> list[tuple[str, str | None]]:
        return [(each.change.name, each.reason) for each in self.transitions]

    @property
    def names(self) -> str:
        return " ".join(each.change.name for each in self.transitions)


def test_a_whole_print() -> None:
    """Started, paused, resumed, done: each once, however often it is looked at."""
    follower = Follower()
    for state in ("printing", "printing", "paused", "paused", "printing", "complete", "complete", "standby"):
        follower.job(state)
    assert follower.names == "STARTED PAUSED RESUMED DONE"
    assert follower.tracker.current is None


@pytest.mark.parametrize(
    ("state", "fields", "end"),
    [
        ("complete", {}, ("DONE", None)),
        ("cancelled", {}, ("CANCELLED", "cancelled")),
        ("standby", {}, ("CANCELLED", "cancelled")),
        ("error", {"message": "Move out of range\nmore"}, ("FAILED", "Move out of range")),
        ("error", {"message": ""}, ("FAILED", "error")),
    ],
)
def test_each_end(state: str, fields: dict[str, str], end: tuple[str, str | None]) -> None:
    """Klipper's terminal states, and a reset of the SD card, are ends."""
    follower = Follower()
    follower.job("printing")
    follower.job(state, **fields)
    assert follower.told == [("STARTED", None), end]


def test_the_time_of_an_end_is_klippers() -> None:
    """Also when the end came long after the last look, and when the reset of the job shows 0."""
    follower = Follower()
    follower.job("printing", total_duration=10.0)
    follower.job("complete", total_duration=3600.0)
    follower.job("printing", total_duration=0.1)
    follower.job("printing", total_duration=20.0)
    follower.job("standby", "", total_duration=0.0)
    assert [each.job.time for each in follower.transitions if each.change in ENDS] == [3600.0, 20.0]


def test_an_error_that_became_a_cancel() -> None:
    """`on_error_gcode: CANCEL_PRINT` shows a cancel: the `!!` line just before tells that it is a failure."""
    follower = Follower()
    follower.job("printing")
    follower.tracker.gcode_error("Move out of range", follower.now)
    follower.now += 2
    follower.job("cancelled")
    assert follower.told[-1] == ("FAILED", "Move out of range")


@pytest.mark.parametrize("cancelling", [True, False])
def test_a_cancel_is_no_error(cancelling: bool) -> None:
    """An error of long ago, or one while the agent itself cancels, makes no failure of a cancel."""
    follower = Follower()
    follower.job("printing")
    follower.tracker.gcode_error("Unknown thing", follower.now)
    follower.now += 1 if cancelling else 11
    follower.state.apply(printing("cancelled"))
    follower.look(cancelling=cancelling)
    assert follower.told[-1] == ("CANCELLED", "cancelled")


def test_an_error_before_the_print_is_not_its_own() -> None:
    """What went wrong before the start has nothing to do with the end."""
    follower = Follower()
    follower.tracker.gcode_error("Must home axis first", follower.now)
    follower.job("printing")
    follower.job("cancelled")
    assert follower.told[-1][0] == "CANCELLED"


@pytest.mark.parametrize(
    ("state", "message", "reason"),
    [
        (KlippyState.SHUTDOWN, "Shutdown due to webhooks request\nOnce", "Shutdown due to webhooks request"),
        (KlippyState.DISCONNECTED, "", "klippy_disconnected"),
        (KlippyState.ERROR, "mcu 'mcu': Unable to connect", "mcu 'mcu': Unable to connect"),
    ],
)
def test_a_klipper_that_stops_fails_the_print(state: KlippyState, message: str, reason: str) -> None:
    """In a shutdown Klipper says "paused": that is no pause."""
    follower = Follower()
    follower.job("printing")
    follower.state.apply({"print_stats": {"state": "paused"}, "webhooks": {"state": state, "state_message": message}})
    if state is KlippyState.DISCONNECTED:
        follower.state.klippy_is(state)
    follower.look()
    assert follower.told == [("STARTED", None), ("FAILED", reason)]


def test_a_job_that_replaces_another() -> None:
    """A start while paused throws the paused job away; a restart of the same file shows only in the clock."""
    follower = Follower()
    follower.job("printing", total_duration=50.0)
    follower.job("paused")
    follower.job("printing", "other.gcode", total_duration=0.2)
    follower.job("printing", total_duration=30.0, filename="other.gcode")
    follower.job("printing", total_duration=0.2, filename="other.gcode")
    assert follower.told[2:] == [("CANCELLED", "replaced"), ("STARTED", None)] * 2


# ---------------------------------------------------------------------------------------------------------- whose it is


def test_a_start_of_the_agents_is_printagos() -> None:
    """`job_id` and source go with every event of the print, whatever the case in which Klipper names the file."""
    follower = Follower()
    follower.tracker.expect(PATH, "job-7", follower.state)
    follower.job("printing", PATH.upper())
    follower.job("complete", PATH.upper())
    assert [(each.job.job_id, each.job.source) for each in follower.transitions] == [("job-7", "printago")] * 2
    assert follower.tracker.begun


def test_a_start_by_a_person_is_local() -> None:
    """Nobody asked for it, or it was asked for and refused, or another file was."""
    follower = Follower()
    follower.tracker.expect(PATH, "job-7", follower.state)
    follower.tracker.forget_expected()
    follower.job("printing")
    follower.job("complete")
    follower.tracker.expect(PATH, "job-8", follower.state)
    follower.job("printing", "other.gcode", total_duration=1.0)
    assert {(each.job.job_id, each.job.source) for each in follower.transitions} == {(None, "local")}
    assert not follower.tracker.begun


def test_the_download_names_the_print() -> None:
    """A `job_id` of the download is that of the start that names none; at most a hundred are kept."""
    follower = Follower()
    for number in range(101):
        follower.tracker.name_file(f"{number}.gcode", f"job-{number}")
    for name in ("100.gcode", "0.gcode"):
        follower.tracker.expect(name, None, follower.state)
        follower.job("printing", name)
        follower.job("complete", name)
    assert [each.job.job_id for each in follower.transitions] == ["job-100"] * 2 + [None] * 2


def test_a_job_shorter_than_a_tick() -> None:
    """Nothing is seen of it but another end than the last one: that is a start and an end."""
    follower = Follower(print_stats={"state": "complete", "filename": PATH, "total_duration": 5.0})
    follower.tracker.expect(PATH, "job-7", follower.state)
    follower.look()
    assert follower.names == ""
    follower.job("complete", total_duration=0.02)
    assert follower.names == "STARTED DONE"
    assert {each.job.job_id for each in follower.transitions} == {"job-7"}
    assert follower.transitions[-1].job.time == 0.02


def test_a_look_at_the_last_job_is_not_the_next_one() -> None:
    """After a reconnect the snapshot shows the print before: that the expected one had come and gone would be false."""
    follower = Follower(print_stats={"state": "complete", "filename": PATH, "total_duration": 5.0})
    follower.tracker.expect(PATH, "job-7", follower.state)
    follower.vanish()
    follower.appear(print_stats={"state": "complete", "filename": PATH, "total_duration": 5.0})
    assert follower.names == ""
    follower.job("printing", total_duration=0.1)
    assert follower.transitions[0].job.job_id == "job-7"


def test_a_print_that_nobody_remembers_is_told_from_its_start() -> None:
    """One that is on at the first look: its end is told, and so there must be a start."""
    follower = Follower(print_stats={"state": "paused", "filename": PATH})
    assert follower.names == "STARTED"
    follower.job("printing")
    follower.job("complete")
    assert follower.names == "STARTED RESUMED DONE"


# -------------------------------------------------------------------------------------------------- while out of sight


def test_it_goes_on_out_of_sight() -> None:
    """A lost link to Moonraker ends nothing: the print is still on, or shows its end, or its pause."""
    follower = Follower()
    follower.job("printing", total_duration=5.0)
    follower.vanish()
    follower.appear(print_stats={"state": "paused", "filename": PATH, "total_duration": 60.0})
    follower.vanish()
    follower.appear(print_stats={"state": "complete", "filename": PATH, "total_duration": 90.0})
    assert follower.names == "STARTED PAUSED RESUMED DONE"


@pytest.mark.parametrize("lull", [KlippyState.DISCONNECTED, KlippyState.STARTUP])
def test_a_restart_of_moonraker_ends_no_print(lull: KlippyState) -> None:
    """For a second after its start, Moonraker says that Klipper is not connected."""
    follower = Follower()
    follower.job("printing", total_duration=5.0)
    follower.vanish()
    follower.state.moonraker = True
    follower.klippy(lull)
    assert not follower.tracker.unsettled
    follower.appear(print_stats={"state": "printing", "filename": PATH, "total_duration": 8.0})
    assert follower.names == "STARTED"


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("completed", ("DONE", None)),
        ("cancelled", ("CANCELLED", "cancelled")),
        ("klippy_shutdown", ("FAILED", "klippy_shutdown")),
        (None, ("FAILED", "unknown")),
    ],
)
def test_history_settles_what_klipper_has_forgotten(status: str | None, end: tuple[str, str | None]) -> None:
    """A Klipper that restarted meanwhile shows nothing: nothing is told until Moonraker's history has been asked."""
    follower = Follower()
    follower.job("printing")
    follower.vanish()
    follower.appear()
    assert (follower.names, follower.tracker.unsettled) == ("STARTED", True)
    follower.settle(status)
    assert follower.told[1:] == [end]
    assert not follower.tracker.unsettled


def test_a_next_print_waits_for_the_end_of_the_last() -> None:
    """Another job is on already: first the end of the one before, then its start."""
    follower = Follower()
    follower.job("printing")
    follower.vanish()
    follower.appear(print_stats={"state": "printing", "filename": "other.gcode"})
    assert follower.names == "STARTED"
    follower.settle("completed")
    assert follower.names == "STARTED DONE STARTED"


def test_the_right_entry_of_the_history() -> None:
    """The newest of that file, that of the print which runs now not counted, and none that has not ended."""
    jobs = [
        {"filename": "A.gcode", "status": "in_progress"},
        {"filename": "b.gcode", "status": "error"},
        {"filename": "a.gcode", "status": "completed"},
    ]
    assert history.status(jobs, "b.gcode") == "error"
    assert history.status(jobs, "a.gcode", again=True) == "completed"
    assert history.status(jobs, "a.gcode") is None
    assert history.status(jobs, "c.gcode") is None


STEPS = st.one_of(
    st.tuples(
        st.just("job"),
        st.sampled_from(["standby", "printing", "paused", "complete", "cancelled", "error", "new word"]),
        st.sampled_from(["", "a.gcode", "B.gcode"]),
        st.sampled_from([0.0, 0.1, 5.0, 100.0]),
    ),
    st.tuples(st.just("klippy"), st.sampled_from(list(KlippyState))),
    st.tuples(st.just("vanish")),
    st.tuples(
        st.just("appear"),
        st.sampled_from(["standby", "printing", "paused", "complete", "error"]),
        st.sampled_from(["", "a.gcode", "B.gcode"]),
    ),
    st.tuples(st.just("settle"), st.sampled_from(["completed", "cancelled", "error", None])),
    st.tuples(st.just("expect"), st.sampled_from(["a.gcode", "b.gcode"])),
    st.tuples(st.just("forget")),
    st.tuples(st.just("error")),
)


def step(follower: Follower, name: str, *args: Any) -> None:
    follower.now += 1
    match name:
        case "job":
            follower.job(args[0], args[1], total_duration=args[2])
        case "klippy":
            follower.klippy(args[0])
        case "vanish":
            follower.vanish()
        case "appear":
            follower.appear(print_stats={"state": args[0], "filename": args[1]})
        case "settle" if follower.tracker.unsettled:
            follower.settle(args[0])
        case "expect":
            follower.tracker.expect(args[0], "job", follower.state)
        case "forget":
            follower.tracker.forget_expected()
        case "error":
            follower.tracker.gcode_error("bad", follower.now)


@settings(max_examples=400)
@given(st.lists(STEPS, max_size=40))
def test_each_start_has_one_end(steps: list[tuple[Any, ...]]) -> None:
    """Whatever happens in whatever order: one end for each print, none without a print, no start during one."""
    follower, on = Follower(), False
    for name, *args in steps:
        adopted = follower.tracker.current is not None and not on
        on = on or adopted
        seen = len(follower.transitions)
        step(follower, name, *args)
        for transition in follower.transitions[seen:]:
            match transition.change:
                case Change.STARTED:
                    assert not on
                    on = True
                case Change.PAUSED | Change.RESUMED:
                    assert on
                case _:
                    assert on
                    on = False
        assert on is (follower.tracker.current is not None)


# --------------------------------------------------------------------------------------------------------- what is odd


def test_a_state_that_nobody_knows_ends_no_print() -> None:
    """A newer Klipper may have a word for something between the others."""
    follower = Follower()
    for state in ("printing", "resuming", "printing", "complete"):
        follower.job(state)
    assert follower.names == "STARTED DONE"


def test_a_refusal_while_paused_is_no_error_of_the_file() -> None:
    """Extruding cold in a filament change, and giving up then, is a cancel; so is one after the agent's own refusal."""
    follower = Follower()
    follower.job("printing")
    follower.job("paused")
    follower.tracker.gcode_error("Extrude below minimum temp", follower.now)
    follower.job("cancelled")
    follower.job("printing", total_duration=0.1)
    follower.tracker.gcode_error("Move out of range", follower.now)
    follower.tracker.not_the_files("Move out of range")
    follower.job("cancelled")
    assert [each for each in follower.told if each[0] not in ("STARTED", "PAUSED")] == [("CANCELLED", "cancelled")] * 2


def test_an_error_from_before_a_pause_is_not_the_reason_of_a_cancel() -> None:
    """The print went on after it."""
    follower = Follower()
    follower.job("printing")
    follower.tracker.gcode_error("Unknown thing", follower.now)
    follower.job("paused")
    follower.job("cancelled")
    assert follower.told[-1] == ("CANCELLED", "cancelled")


def test_a_name_is_for_one_print() -> None:
    """A `job_id` that came with a download is used up by the print; a download without one takes it back."""
    follower = Follower()
    for again in range(2):
        follower.tracker.name_file(PATH, "job-1")
        follower.job("printing", total_duration=0.1)
        follower.job("complete")
        follower.tracker.expect(PATH, None, follower.state)
        follower.job("printing", total_duration=0.1 * again)
        follower.job("complete")
    follower.tracker.name_file(PATH, "job-2")
    follower.tracker.name_file(PATH, None)
    follower.tracker.expect(PATH, None, follower.state)
    follower.job("printing", total_duration=0.1)
    assert {each.job.job_id for each in follower.transitions} == {None}


def test_a_print_that_was_resumed_and_ended_within_a_tick() -> None:
    """It cannot have ended without having been resumed, and so it is told."""
    follower = Follower()
    for state in ("printing", "paused", "complete"):
        follower.job(state)
    assert follower.names == "STARTED PAUSED RESUMED DONE"


def test_a_shutdown_that_shows_the_expected_print() -> None:
    """The answer to its start was lost; that Klipper shows it with the shutdown tells that it had begun."""
    follower = Follower(print_stats={"state": "complete", "filename": PATH, "total_duration": 5.0})
    follower.tracker.expect(PATH, "job-7", follower.state)
    follower.state.apply({"webhooks": {"state": "shutdown", "state_message": "why"}})
    follower.look()
    assert follower.names == ""
    follower.state.apply(printing("paused", total_duration=0.2))
    follower.look()
    assert follower.told == [("STARTED", None), ("FAILED", "why")]


def test_a_klipper_that_stays_away_ends_the_print() -> None:
    """After Moonraker's restart nobody knows for a while; for ever it shall not be."""
    follower = Follower()
    follower.job("printing")
    follower.vanish()
    follower.state.moonraker = True
    follower.klippy(KlippyState.DISCONNECTED)
    assert follower.names == "STARTED"
    follower.tracker.give_up_waiting()
    assert follower.tracker.unsettled
    follower.transitions += follower.tracker.settle_by([{"filename": PATH, "status": "server_exit"}], follower.state)
    follower.look()
    assert follower.told[-1] == ("FAILED", "server_exit")


def test_the_entries_after_the_one_before() -> None:
    """Their order tells, whatever a clock that was set meanwhile shows; without it, their time."""
    jobs = [{"job_id": str(number), "start_time": 100.0 - number} for number in range(4)]
    assert history.newer(jobs, "2", 1e9) == jobs[:2]
    assert history.newer(jobs, "9", 99.5) == jobs[:3]
    assert history.newer(jobs, None, 1e9) == []


def test_klippers_word_for_the_end_outlives_moonraker() -> None:
    """Moonraker dies in the moment of the print's end, and its history says "interrupted" of a print that is done."""
    follower = Follower()
    follower.job("printing")
    follower.tracker.file_done()
    follower.vanish()
    follower.appear()
    follower.transitions += follower.tracker.settle_by([{"filename": PATH, "status": "interrupted"}], follower.state)
    assert follower.names == "STARTED DONE"


@pytest.mark.parametrize(("end", "told"), [("cancelled", "STARTED CANCELLED"), ("paused", "STARTED PAUSED")])
def test_a_cancel_goes_by_way_of_a_pause(end: str, told: str) -> None:
    """Klipper shows it for a tick now and then; a print that stays paused, because its macro failed, is paused."""
    follower = Follower()
    follower.job("printing")
    follower.state.apply(printing("paused"))
    follower.look(cancelling=True)
    follower.job(end)
    assert follower.names == told
