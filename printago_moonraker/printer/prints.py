"""Which print is on, whose it is, and how it ended: decisions only, no I/O.

Klipper forgets a job at each restart and names none but its file, so identity is kept here. Each print gives exactly
one end. Where Klipper alone cannot tell (the link was down meanwhile), `unsettled` says so and Moonraker's history
settles it (`printer.history`).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer import history
from printago_moonraker.printer.gcode import first_line
from printago_moonraker.printer.names import same_file
from printago_moonraker.printer.state import JobState, PrinterState

# A G-code error and the cancel that the configuration made of it (`on_error_gcode: CANCEL_PRINT`) are this close
# together at most, in seconds: Klipper shows no other difference to a cancel by a person.
ERROR_TO_CANCEL = 10.0
COARSE = 30.0  # seconds of a print's time between two memories of it


class Change(Enum):
    STARTED = "PrintStarted"
    PAUSED = "PrintPaused"
    RESUMED = "PrintResumed"
    DONE = "PrintDone"
    FAILED = "PrintFailed"
    CANCELLED = "PrintCancelled"


@dataclass(frozen=True)
class Print:
    """One print. `filename` is relative to Moonraker's gcodes root, `time` the seconds since its start; `entry` is its
    `job_id` in Moonraker's history.
    """

    filename: str
    source: str = "local"
    job_id: str | None = None
    size: int | None = None
    time: float = 0.0
    paused: bool = False
    entry: str | None = None


@dataclass(frozen=True)
class Transition:
    change: Change
    job: Print
    reason: str | None = None


@dataclass(frozen=True)
class _Expected:
    """A print that was to be started at `since`, unix time; `trace` is what Klipper showed of the job before, `after`
    the newest entry of Moonraker's history then. `accepted`: Klipper has opened the file, so the print begins.
    """

    job: Print
    trace: tuple[JobState, float | None]
    since: float
    after: str | None = None
    accepted: bool = False


@dataclass
class PrintTracker:
    """The one owner of the current print."""

    current: Print | None = None
    begun: bool = False  # the expected print was seen, be it only by its end
    _expected: _Expected | None = None
    _job_ids: dict[str, str] = field(default_factory=dict)
    _last_error: tuple[float, str] | None = None
    _file_done: bool = False  # Klipper has said that it ran the file's last line
    _gap: bool = False  # the printer was out of sight since the last look
    _restarted: bool = False  # Klipper went away since a start was handed to it, and whatever waited there with it
    # The print ended while out of sight, and Klipper has forgotten how: ask Moonraker's history, then `settle`.
    unsettled: bool = False

    def expect(self, filename: str, job_id: str | None, state: PrinterState, *, after: str | None = None) -> None:
        """The agent is about to start `filename`: when it is seen printing, it is Printago's, however late that is.

        `after`: the newest entry of Moonraker's history, which is not this print's.
        """
        self.begun = self._restarted = False
        job = Print(filename, "printago", job_id or self._job_ids.get(filename))
        self._expected = _Expected(job, _trace(state), time.time(), after)

    def accepted(self) -> None:
        """Klipper has taken the start: even if nobody sees it print, the print has begun."""
        if self._expected is not None:
            self._expected = replace(self._expected, accepted=True)
            self._gap = self._gap and not self._restarted  # its answer came in time: there is no doubt any more

    def forget_expected(self) -> None:
        """The start was refused, or never handed over."""
        self._expected = None

    @property
    def coming(self) -> Print | None:
        """The print that is about to start; None when none is."""
        return self._expected.job if self._expected else None

    def is_over(self, state: PrinterState) -> bool:
        """Whether the expected print has come and gone between two ticks."""
        if self._expected is None:
            return False
        ended = state.job in (JobState.COMPLETE, JobState.CANCELLED, JobState.ERROR)
        same = same_file(state.filename, self._expected.job.filename)
        return ended and same and _trace(state) != self._expected.trace

    def name_file(self, filename: str, job_id: str | None) -> None:
        """A download came with the cloud's name for the next print of the file, which the start need not repeat; or
        with none, and an earlier name is of an earlier file.
        """
        self._job_ids.pop(filename, None)
        if job_id:
            self._job_ids[filename] = job_id
        while len(self._job_ids) > 100:
            self._job_ids.pop(next(iter(self._job_ids)))

    def identity(self) -> dict[str, Any]:
        """The `job_id` and `source` of the print that is on; empty when none is."""
        return {"job_id": self.current.job_id, "source": self.current.source} if self.current else {}

    def file_done(self) -> None:
        """`Done printing file` was seen. It comes at once; the status that says so may never come when Klipper dies."""
        self._file_done = self.current is not None

    def gcode_error(self, text: str, now: float) -> None:
        """A `!! ` line was seen, at `now` seconds on a monotonic clock. While the print is paused, no line of its file
        runs: it is somebody else's.
        """
        if self.current is not None and not self.current.paused:
            self._last_error = (now, text)

    def not_the_files(self, text: str) -> None:
        """That `!! ` line was the refusal of a command, and no error in the file."""
        if self._last_error and self._last_error[1] == text:
            self._last_error = None

    def lost_sight(self) -> None:
        """The link to Moonraker is down; Klipper may go on printing."""
        self._gap = True

    def settle(self, status: str | None) -> list[Transition]:
        """End the print that was on with the word of Moonraker's history (`completed`, `cancelled`, `klippy_shutdown`,
        ...; None: it knows nothing).
        """
        self._gap, self.unsettled = False, False
        begun: list[Transition] = []
        if self.current is None:
            if self._expected is None:
                return []
            if status is None and not self._expected.accepted:
                if self._restarted:
                    self._expected = None
                return []  # else it may begin yet: Klipper does what waits in it, however late
            begun = [self._begin_unseen(self._expected)]
        if status == "completed" or self._file_done:  # Klipper's own word, which Moonraker may not have lived to hear
            return [*begun, self._end(Change.DONE)]
        if status == "cancelled":
            return [*begun, self._end(Change.CANCELLED, "cancelled")]
        return [*begun, self._end(Change.FAILED, status or "unknown")]

    def enter(self, filename: str, entry: str) -> None:
        """Moonraker's history has this entry for the print of `filename` that has begun."""
        job = self.current
        if job and job.entry is None and same_file(job.filename, filename):
            self.current = replace(job, entry=entry)

    def settle_by(self, entries: history.Entries, state: PrinterState) -> list[Transition]:
        """While `unsettled`: the newest entries of Moonraker's history tell how the print ended, or that it is the one
        that is on, or whose end is shown, and goes on from there.
        """
        if self.current is not None:
            if self._goes_on(self.current, entries, state):
                return []
            filename, entry = self.current.filename, self.current.entry
        elif self._expected is not None:
            filename, entry = self._expected.job.filename, None
            entries = history.newer(entries, self._expected.after, self._expected.since)
        else:
            return self.settle(None)
        again = state.job.on and same_file(state.filename, filename)
        return self.settle(history.status(entries, filename, again=again, entry=entry))

    def _goes_on(self, job: Print, entries: history.Entries, state: PrinterState) -> bool:
        """Whether the print in sight is the one of before, by the newest entry of its file."""
        if not _is_shown(job, state) or self._replaced(state):
            return False
        found = [each.get("job_id") for each in entries if history.is_of(each, job.filename)]
        same = not found or found[0] == job.entry
        self._gap, self.unsettled = self._gap and not same, not same
        return same

    def give_up_waiting(self) -> None:
        """Klipper has been away for so long that it does not print on: the history is to tell, or nobody."""
        if self._gap and (self.current or self._expected):
            self.unsettled = self._restarted = True

    def memory(self) -> dict[str, Any]:
        """What a restart must not forget, as JSON takes it. The print's time is coarse: each change is written."""
        current, expected = self.current, self._expected
        coarse = current and replace(current, time=current.time // COARSE * COARSE)
        return {
            "current": asdict(coarse) if coarse else None,
            "expected": asdict(expected) if expected else None,
            "job_ids": dict(self._job_ids),
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Go on from what `memory` gave: what was on then is out of sight until the printer is seen. Raises KeyError,
        TypeError or ValueError for what is no such thing.
        """
        current, expected = memory["current"], memory["expected"]
        self.current = Print(**current) if current else None
        if expected:
            state, duration = expected["trace"]
            job, since = Print(**expected["job"]), float(expected["since"])
            after, accepted = expected.get("after"), bool(expected.get("accepted"))
            self._expected = _Expected(job, (JobState(state), duration), since, after, accepted)
        self._job_ids = dict(memory["job_ids"])
        self._gap = True

    def observe(self, state: PrinterState, now: float, *, cancelling: bool = False) -> list[Transition]:
        """What the newest state means for the print, in order. `now`: seconds on a monotonic clock; `cancelling`: the
        agent itself cancels.
        """
        if self._is_hidden(state):
            return []
        self.unsettled = self._gap and self._forgotten(state)
        if self.unsettled:
            return []
        if state.klippy is not KlippyState.READY:
            return self._halted(state)
        if self.current and state.job is JobState.UNKNOWN:
            return []  # a newer Klipper's word for something between the states that are known
        transitions: list[Transition] = []
        if self.current and self._replaced(state):
            done = self._file_done
            transitions.append(self._end(Change.DONE) if done else self._end(Change.CANCELLED, "replaced"))
        if self.current is None:
            transitions += self._begin(state)
        else:
            transitions += self._follow(self.current, state, now, cancelling=cancelling)
        if self.current:
            self.current = replace(self.current, time=state.get("print_stats", "total_duration", 0.0))
        self._gap = False
        return transitions

    def _follow(self, job: Print, state: PrinterState, now: float, *, cancelling: bool) -> list[Transition]:
        """What became of the print that was on. Klipper cancels by way of a pause, which is none."""
        transitions: list[Transition] = []
        if state.job is JobState.PAUSED and not job.paused and not cancelling:
            transitions.append(self._move(Change.PAUSED, paused=True))
        elif job.paused and state.job in (JobState.PRINTING, JobState.COMPLETE):  # complete: resumed within the tick
            transitions.append(self._move(Change.RESUMED, paused=False))
        if not state.job.on:
            transitions.append(self._ended(state, None if cancelling else now))
        return transitions

    def _is_hidden(self, state: PrinterState) -> bool:
        """Nobody knows now what the printer does. A Moonraker that has just started says for a second that Klipper is
        not connected, or starts up, although it prints on.
        """
        silent = self._gap and state.klippy in (KlippyState.DISCONNECTED, KlippyState.STARTUP)
        return silent or not state.moonraker or state.klippy is KlippyState.UNKNOWN

    def _begin(self, state: PrinterState) -> list[Transition]:
        if self._expected and self.is_over(state):
            return [self._begin_unseen(self._expected), self._ended(state, None)]
        if not state.job.on:
            return []
        job = self._claim(state.filename)
        size = state.get("virtual_sdcard", "file_size", 0) or None
        self.current = replace(job, filename=state.filename, size=size, paused=state.job is JobState.PAUSED)
        self._last_error = None
        return [Transition(Change.STARTED, self.current)]

    def _begin_unseen(self, expected: _Expected) -> Transition:
        """The print began, and nobody saw it."""
        self.current = self._claim(expected.job.filename)
        return Transition(Change.STARTED, self.current)

    def _claim(self, filename: str) -> Print:
        expected, self._expected = self._expected, None
        self._job_ids.pop(filename, None)
        if expected and same_file(expected.job.filename, filename):
            self.begun = True
            return expected.job
        return Print(filename)

    def _halted(self, state: PrinterState) -> list[Transition]:
        """Klipper has stopped, and with it the print; unless that had ended by itself within the same tick."""
        if state.klippy is KlippyState.SHUTDOWN and state.get("webhooks", "state", "") != KlippyState.SHUTDOWN:
            return []  # Klipper itself was asked; its status, with the job's last state, comes with the next tick
        self._gap = False
        begun: list[Transition] = []
        if self.current is None and self._expected is not None:
            if not _has_begun(self._expected, state):
                return self._doubt(state)
            begun = [self._begin_unseen(self._expected)]
            self.begun = False  # nobody saw it print
        if self.current is None:
            return []
        return [*begun, self._end_by_halt(self.current, state)]

    def _doubt(self, state: PrinterState) -> list[Transition]:
        """A start is on its way to a Klipper that has gone: whether it was begun, the history says when that is back.
        In a shutdown Klipper still answers, with a refusal.
        """
        self._gap = self._restarted = state.klippy is not KlippyState.SHUTDOWN
        return []

    def _end_by_halt(self, job: Print, state: PrinterState) -> Transition:
        if self._file_done:
            return self._end(Change.DONE)
        same = same_file(state.filename, job.filename)
        if state.klippy is KlippyState.SHUTDOWN and same and state.job in (JobState.COMPLETE, JobState.CANCELLED):
            return self._ended(state, None)
        return self._end(Change.FAILED, first_line(state.klippy_message) or f"klippy_{state.klippy}")

    def _ended(self, state: PrinterState, now: float | None) -> Transition:
        assert self.current is not None
        time = max(self.current.time, state.get("print_stats", "total_duration", 0.0))
        self.current = replace(self.current, time=time)
        if state.job is JobState.COMPLETE:
            return self._end(Change.DONE)
        if state.job is JobState.ERROR:
            return self._end(Change.FAILED, first_line(state.get("print_stats", "message", "")) or "error")
        if self._last_error and now is not None and now - self._last_error[0] < ERROR_TO_CANCEL:
            return self._end(Change.FAILED, self._last_error[1])
        return self._end(Change.CANCELLED, "cancelled")

    def _replaced(self, state: PrinterState) -> bool:
        """Another job runs than the one before: Klipper shows a restart between two ticks only as a clock that ran
        backwards.
        """
        if self.current is None or not state.job.on:
            return False
        other = bool(state.filename) and not same_file(state.filename, self.current.filename)
        return other or state.get("print_stats", "total_duration", self.current.time) < self.current.time - 0.5

    def _forgotten(self, state: PrinterState) -> bool:
        """The print is neither on nor shown with its end any more; one that was to be started may be over already."""
        if self.current is None:
            return self._expected is not None and not state.job.on and not self.is_over(state)
        if state.klippy is not KlippyState.READY or self._replaced(state):
            return True
        # With an entry the history can tell whether it is this one, or the same file was printed anew.
        return self.current.entry is not None or not _is_shown(self.current, state)

    def _move(self, change: Change, *, paused: bool) -> Transition:
        assert self.current is not None
        self.current, self._last_error = replace(self.current, paused=paused), None
        return Transition(change, self.current)

    def _end(self, change: Change, reason: str | None = None) -> Transition:
        assert self.current is not None
        job, self.current, self._file_done = self.current, None, False
        return Transition(change, job, reason)


def _has_begun(expected: _Expected, state: PrinterState) -> bool:
    """Of a Klipper that has stopped: whether the print had begun by then, be it for less than a tick."""
    same = state.job is not JobState.STANDBY and same_file(state.filename, expected.job.filename)
    return expected.accepted or (same and _trace(state) != expected.trace)


def _is_shown(job: Print, state: PrinterState) -> bool:
    """Whether Klipper has a print on, or shows how one of that file ended."""
    return state.job.on or (state.job is not JobState.STANDBY and same_file(state.filename, job.filename))


def _trace(state: PrinterState) -> tuple[JobState, float | None]:
    """What no two prints have in common: one that lasts less than a tick leaves nothing else behind."""
    return state.job, state.number("print_stats", "total_duration")
