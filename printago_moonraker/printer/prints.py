"""Which print is on, whose it is, and how it ended: decisions only, no I/O.

Klipper forgets a job at each restart and names none but its file, so identity is kept here. Each print gives exactly
one end. Where Klipper alone cannot tell (the link was down meanwhile), `unsettled` says so and Moonraker's history
settles it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.state import JobState, PrinterState

# A G-code error and the cancel that the configuration made of it (`on_error_gcode: CANCEL_PRINT`) are this close
# together at most, in seconds: Klipper shows no other difference to a cancel by a person.
ERROR_TO_CANCEL = 10.0
SAME_CLOCK = 2.0  # seconds: Moonraker runs on the same host as a rule
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
    the newest entry of Moonraker's history then.
    """

    job: Print
    trace: tuple[JobState, float | None]
    since: float
    after: str | None = None


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
    # The print ended while out of sight, and Klipper has forgotten how: ask Moonraker's history, then `settle`.
    unsettled: bool = False

    def expect(self, filename: str, job_id: str | None, state: PrinterState, *, after: str | None = None) -> None:
        """The agent is about to start `filename`: when it is seen printing, it is Printago's, however late that is.

        `after`: the newest entry of Moonraker's history, which is not this print's.
        """
        self.begun = False
        job = Print(filename, "printago", job_id or self._job_ids.get(filename))
        self._expected = _Expected(job, _trace(state), time.time(), after)

    @property
    def coming(self) -> Print | None:
        """The print that is about to start."""
        return self._expected.job if self._expected else None

    def forget_expected(self) -> None:
        """The start was refused."""
        self._expected = None

    def is_over(self, state: PrinterState) -> bool:
        """Whether the expected print has come and gone between two ticks."""
        if self._expected is None:
            return False
        ended = state.job in (JobState.COMPLETE, JobState.CANCELLED, JobState.ERROR)
        same = state.filename.lower() == self._expected.job.filename.lower()
        return ended and same and _trace(state) != self._expected.trace

    def name_file(self, filename: str, job_id: str) -> None:
        """A download came with the cloud's name for the print to come; the start need not repeat it."""
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
        """A `!! ` line was seen, at `now` seconds on a monotonic clock."""
        self._last_error = (now, text)

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
            if self._expected is None or status is None:
                return []  # it may begin yet: Klipper does what it has accepted, however late
            self.current = self._claim(self._expected.job.filename)
            begun = [Transition(Change.STARTED, self.current)]
        if status == "completed":
            return [*begun, self._end(Change.DONE)]
        if status == "cancelled":
            return [*begun, self._end(Change.CANCELLED, "cancelled")]
        return [*begun, self._end(Change.FAILED, status or "unknown")]

    def enter(self, filename: str, entry: str) -> None:
        """Moonraker's history has this entry for the print of `filename` that has begun."""
        job = self.current
        if job and job.entry is None and job.filename.lower() == filename.lower():
            self.current = replace(job, entry=entry)

    def goes_on(self, history: list[dict[str, Any]], state: PrinterState) -> bool:
        """While `unsettled`: whether the print that is on, or whose end is shown, is the one of before, by the newest
        entry of its file. If so, it is in sight again.
        """
        job = self.current
        if job is None or not _is_shown(job, state) or self._replaced(state):
            return False
        entries = [each.get("job_id") for each in history if _is_of(each, job.filename)]
        same = not entries or entries[0] == job.entry
        self._gap, self.unsettled = self._gap and not same, not same
        return same

    @property
    def in_question(self) -> tuple[str, float | None] | None:
        """While `unsettled`: the file whose print is to be looked up, and the unix time that it began after."""
        if self.current is not None:
            return self.current.filename, None
        return (self._expected.job.filename, self._expected.since) if self._expected else None

    @property
    def before(self) -> str | None:
        """While a print is expected: the entry of Moonraker's history that is not its own."""
        return self._expected.after if self._expected and self.current is None else None

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
            self._expected = _Expected(job, (JobState(state), duration), since, expected.get("after"))
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
        transitions: list[Transition] = []
        if self.current and self._replaced(state):
            done = self._file_done
            transitions.append(self._end(Change.DONE) if done else self._end(Change.CANCELLED, "replaced"))
        if self.current is None:
            transitions += self._begin(state)
        elif state.job is JobState.PAUSED and not self.current.paused:
            transitions.append(self._move(Change.PAUSED, paused=True))
        elif state.job is JobState.PRINTING and self.current.paused:
            transitions.append(self._move(Change.RESUMED, paused=False))
        elif not _on(state):
            transitions.append(self._ended(state, None if cancelling else now))
        if self.current:
            self.current = replace(self.current, time=state.get("print_stats", "total_duration", 0.0))
        self._gap = False
        return transitions

    def _is_hidden(self, state: PrinterState) -> bool:
        """Nobody knows now what the printer does. A Moonraker that has just started says for a second that Klipper is
        not connected, or starts up, although it prints on.
        """
        silent = self._gap and state.klippy in (KlippyState.DISCONNECTED, KlippyState.STARTUP)
        return silent or not state.moonraker or state.klippy is KlippyState.UNKNOWN

    def _begin(self, state: PrinterState) -> list[Transition]:
        if self.is_over(state):
            self.current = self._claim(state.filename)
            return [Transition(Change.STARTED, self.current), self._ended(state, None)]
        if not _on(state):
            return []
        job = self._claim(state.filename)
        size = state.get("virtual_sdcard", "file_size", 0) or None
        self.current = replace(job, filename=state.filename, size=size, paused=state.job is JobState.PAUSED)
        self._last_error = None
        return [Transition(Change.STARTED, self.current)]

    def _claim(self, filename: str) -> Print:
        """Klipper matches names regardless of case and reports the caller's spelling."""
        expected, self._expected = self._expected, None
        if expected and expected.job.filename.lower() == filename.lower():
            self.begun = True
            return expected.job
        return Print(filename)

    def _halted(self, state: PrinterState) -> list[Transition]:
        """Klipper has stopped, and with it the print; unless that had ended by itself within the same tick."""
        if state.klippy is KlippyState.SHUTDOWN and state.get("webhooks", "state", "") != KlippyState.SHUTDOWN:
            return []  # Klipper itself was asked; its status, with the job's last state, comes with the next tick
        self._gap = False
        if self.current is None:
            return []
        if self._file_done:
            return [self._end(Change.DONE)]
        same = state.filename.lower() == self.current.filename.lower()
        if state.klippy is KlippyState.SHUTDOWN and same and state.job in (JobState.COMPLETE, JobState.CANCELLED):
            return [self._ended(state, None)]
        return [self._end(Change.FAILED, _first_line(state.klippy_message) or f"klippy_{state.klippy}")]

    def _ended(self, state: PrinterState, now: float | None) -> Transition:
        assert self.current is not None
        time = max(self.current.time, state.get("print_stats", "total_duration", 0.0))
        self.current = replace(self.current, time=time)
        if state.job is JobState.COMPLETE:
            return self._end(Change.DONE)
        if state.job is JobState.ERROR:
            return self._end(Change.FAILED, _first_line(state.get("print_stats", "message", "")) or "error")
        if self._last_error and now is not None and now - self._last_error[0] < ERROR_TO_CANCEL:
            return self._end(Change.FAILED, self._last_error[1])
        return self._end(Change.CANCELLED, "cancelled")

    def _replaced(self, state: PrinterState) -> bool:
        """Another job runs than the one before: Klipper shows a restart between two ticks only as a clock that ran
        backwards.
        """
        if self.current is None or not _on(state):
            return False
        other = bool(state.filename) and state.filename.lower() != self.current.filename.lower()
        return other or state.get("print_stats", "total_duration", self.current.time) < self.current.time - 0.5

    def _forgotten(self, state: PrinterState) -> bool:
        """The print is neither on nor shown with its end any more; one that was to be started may be over already."""
        if self.current is None:
            return self._expected is not None and not _on(state) and not self.is_over(state)
        if state.klippy is not KlippyState.READY or self._replaced(state):
            return True
        # With an entry the history can tell whether it is this one, or the same file was printed anew.
        return self.current.entry is not None or not _is_shown(self.current, state)

    def _move(self, change: Change, *, paused: bool) -> Transition:
        assert self.current is not None
        self.current = replace(self.current, paused=paused)
        return Transition(change, self.current)

    def _end(self, change: Change, reason: str | None = None) -> Transition:
        assert self.current is not None
        job, self.current, self._file_done = self.current, None, False
        return Transition(change, job, reason)


def _on(state: PrinterState) -> bool:
    return state.job in (JobState.PRINTING, JobState.PAUSED)


def _is_shown(job: Print, state: PrinterState) -> bool:
    """Whether Klipper has a print on, or shows how one of that file ended."""
    return _on(state) or (state.job is not JobState.STANDBY and state.filename.lower() == job.filename.lower())


def _trace(state: PrinterState) -> tuple[JobState, float | None]:
    """What no two prints have in common: one that lasts less than a tick leaves nothing else behind."""
    return state.job, state.number("print_stats", "total_duration")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _is_of(job: dict[str, Any], filename: str) -> bool:
    return str(job.get("filename", "")).lower() == filename.lower()


def history_status(
    jobs: list[dict[str, Any]],
    filename: str,
    *,
    again: bool = False,
    since: float | None = None,
    entry: str | None = None,
) -> str | None:
    """The status of the newest entry of Moonraker's history for that file, None when there is none that has ended.

    `again`: the file is being printed anew, and the entry of that print is not the one. `since`: unix time before which
    the print cannot have begun. `entry`: the print's own, where it is known.
    """
    found = [job for job in jobs if _is_of(job, filename)]
    own = [job for job in found if entry is not None and job.get("job_id") == entry]
    if own:
        found, again = own, False
    if since is not None:
        found = [job for job in found if (job.get("start_time") or 0.0) >= since - SAME_CLOCK]
    ends = [str(job.get("status")) for job in found]
    if again and ends[:1] == ["in_progress"]:
        ends.pop(0)
    return ends[0] if ends and ends[0] != "in_progress" else None
