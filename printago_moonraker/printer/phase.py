"""What a printer is doing, as a pure table over what is known: no I/O, no clock.

The names are OctoPrint's printer states, because Printago knows them. `webhooks.state` is looked at before
`print_stats.state`: in a shutdown `print_stats` says "paused" for a print that can never be resumed.
"""

from __future__ import annotations

from enum import StrEnum

from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.state import JobState


class Phase(StrEnum):
    OPERATIONAL = "OPERATIONAL"
    STARTING = "STARTING"
    PRINTING = "PRINTING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    RESUMING = "RESUMING"
    CANCELLING = "CANCELLING"
    FINISHING = "FINISHING"
    CONNECTING = "CONNECTING"
    ERROR = "ERROR"
    OFFLINE = "OFFLINE"
    CLOSED_WITH_ERROR = "CLOSED_WITH_ERROR"

    @property
    def has_job(self) -> bool:
        """A print is on: running, held, or between the two."""
        return self in _WITH_JOB

    @property
    def operational(self) -> bool:
        """Klipper is ready and takes commands."""
        return self is Phase.OPERATIONAL or self.has_job


_WITH_JOB = {
    Phase.STARTING,
    Phase.PRINTING,
    Phase.PAUSING,
    Phase.PAUSED,
    Phase.RESUMING,
    Phase.CANCELLING,
    Phase.FINISHING,
}

_KLIPPY = {
    KlippyState.STARTUP: Phase.CONNECTING,
    KlippyState.SHUTDOWN: Phase.ERROR,
    KlippyState.ERROR: Phase.CLOSED_WITH_ERROR,
    KlippyState.DISCONNECTED: Phase.OFFLINE,
    KlippyState.UNKNOWN: Phase.CONNECTING,
}

# What the agent itself has under way, and the job states in which Klipper has not yet shown the end of it.
_UNDER_WAY = {
    Phase.STARTING: {job for job in JobState if not job.on},
    Phase.PAUSING: {JobState.PRINTING},
    Phase.RESUMING: {JobState.PAUSED},
    Phase.CANCELLING: {job for job in JobState if job.on},
}


def phase_of(
    *, moonraker: bool | None, klippy: KlippyState, job: JobState, under_way: Phase | None, progress: float
) -> Phase:
    """The phase, from the link (None: not tried yet), Klipper's state, `print_stats.state`, the agent's own operation,
    and the file's progress (0..1).
    """
    if not moonraker:
        return Phase.CONNECTING if moonraker is None else Phase.OFFLINE
    if klippy is not KlippyState.READY:
        return _KLIPPY[klippy]
    if under_way is not None and job in _UNDER_WAY.get(under_way, ()):
        return under_way
    if job is JobState.PRINTING:
        return Phase.FINISHING if progress >= 1.0 else Phase.PRINTING
    return Phase.PAUSED if job is JobState.PAUSED else Phase.OPERATIONAL
