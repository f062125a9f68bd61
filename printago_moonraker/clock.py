"""Whether the host's clock can be believed, and whether a command comes too late by it.

Hardly a printer's host has a battery for its clock: after a start it shows the time of the last shutdown, or 1970,
until the network tells it better, and then it jumps. Wall time is asked only where a command brings a wall time; what
is measured within the process is measured with the monotonic clock.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os.path
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from printago_moonraker.errors import Expired

logger = logging.getLogger(__name__)

BUILT = datetime(2026, 11, 1, tzinfo=UTC).timestamp()  # no host that runs this is earlier
TOLERANCE = 60.0  # seconds between two clocks that are both right
JUMP = 5.0  # seconds; a clock that was set by more than that is another clock
SETTING = 300.0  # seconds after the host's start in which a clock without a battery gets its time
# What hosts without a battery save the time in, to go on from there: fake-hwclock(8), systemd-timesyncd(8).
_SAVED = (Path("/etc/fake-hwclock.data"), Path("/var/lib/systemd/timesync/clock"))
_TIMESYNCD = Path("/run/systemd/timesync/synchronized")  # systemd-timesyncd(8): touched when it has set the clock
_TIME_ERROR = 5  # adjtimex(2): the kernel's clock is not synchronised

Times = Callable[[], float]


class Trust(Enum):
    """`UNSET`, `WRONG`: what the clock shows says nothing about a command's age."""

    VERIFIED = "verified"  # synchronised, or the cloud's commands show the same time
    UNVERIFIED = "unverified"  # nothing speaks for it, and nothing against it
    UNSET = "unset"  # the host has just started, with the time of its last shutdown
    WRONG = "wrong"  # it shows a time that is known to have passed


class Clock:
    """The host's clock and what is known about it. One for the whole agent."""

    def __init__(
        self,
        *,
        wall: Times = time.time,
        monotonic: Times = time.monotonic,
        just_started: Callable[[], bool] | None = None,
        synchronised: Callable[[], bool] | None = None,
    ) -> None:
        """The parameters are for tests."""
        self._wall = wall
        self._monotonic = monotonic
        self._just_started = just_started or _has_just_started
        self._synchronised = synchronised or _is_synchronised
        self._passed: tuple[float, float] | None = None  # a time that has passed, and the monotonic time of knowing it
        self._witnessed = False  # by a command; not by what this host has written, when its clock was ahead perhaps
        self._agreed: float | None = None  # wall minus monotonic time when a command's time agreed
        self._said = Trust.VERIFIED

    def now(self) -> datetime:
        """What the clock shows."""
        return datetime.fromtimestamp(self._wall(), UTC)

    def trust(self) -> Trust:
        """How far the clock can be believed now. A change for the worse is logged, once."""
        trust = self._judge()
        if trust is not self._said:
            bad, self._said = trust in (Trust.UNSET, Trust.WRONG), trust
            logger.log(
                logging.WARNING if bad else logging.INFO,
                "the host's clock shows %s: %s",
                _iso(self._wall()),
                trust.value,
            )
        return trust

    def trusted_time(self) -> float | None:
        """Unix time, None while the clock may be wrong."""
        return self._wall() if self.trust() is Trust.VERIFIED else None

    def complaint(self) -> str | None:
        """What a person should know about the clock; None when all is well."""
        shown = self.now().isoformat(timespec="seconds")
        return {
            Trust.UNSET: f"The host's clock ({shown}) has not been set since the host started.",
            Trust.WRONG: f"The host's clock ({shown}) is wrong: that time is known to have passed.",
        }.get(self.trust())

    def has_passed(self, at: float) -> None:
        """That unix time was written by this host, so it lies in the past, or the clock was ahead then. A command that
        is sent now knows better.
        """
        self._passed, self._witnessed = (at, self._monotonic()), False

    def deadline(
        self,
        *,
        timestamp: datetime | None,
        expires_at: datetime | None,
        expiry: float | None,
        live: bool,
        max_age: float,
    ) -> float:
        """Until when, on the monotonic clock, a command that has arrived may be begun; infinite without any time in it.

        `expiry` is the broker's, in seconds from now; `live` says that the broker did not keep the command for us: its
        sender has just sent it, whatever our clock shows. `max_age` in seconds. Raises Expired: it is too late, or, as
        long as the clock is not to be believed, nobody can tell.
        """
        now = self._monotonic()
        end = now + expiry if expiry is not None else math.inf
        if live and timestamp:
            self._heard(timestamp.timestamp())
        ends = [at.timestamp() for at in (expires_at,) if at] + [at.timestamp() + max_age for at in (timestamp,) if at]
        if not ends:
            return end
        wall, last, trust = self._wall(), min(ends), self.trust()
        if trust in (Trust.UNSET, Trust.WRONG):
            return min(end, now + self._left_without_clock(last, live, max_age))
        if wall >= last:
            raise Expired(self._too_late(expires_at, max_age, trust))
        return min(end, now + last - wall)

    def check(self, deadline: float) -> None:
        """Raises Expired when the deadline has passed while the command waited."""
        if self._monotonic() > deadline:
            raise Expired("The command expired while it waited for its turn.")

    def _left_without_clock(self, last: float, live: bool, max_age: float) -> float:
        known = -math.inf
        if self._passed and (self._witnessed or not live):
            known = self._passed[0] + self._monotonic() - self._passed[1]
        if known >= last:
            raise Expired(f"The command expired at {_iso(last)}, which is known to have passed.")
        if not live:
            raise Expired(
                f"{self.complaint()} Whether this command, which the broker has kept, is still wanted cannot be told; "
                "send it again, with a new id."
            )
        return last - known if math.isfinite(known) else max_age

    def _too_late(self, expires_at: datetime | None, max_age: float, trust: Trust) -> str:
        doubt = "" if trust is Trust.VERIFIED else ", by a clock that nothing has set"
        here = f"it is {_iso(self._wall())} here{doubt}"
        if expires_at and self._wall() >= expires_at.timestamp():
            return f"The command expired at {_iso(expires_at.timestamp())}; {here}."
        return f"The command is older than {max_age:.0f} s; {here}."

    def _heard(self, timestamp: float) -> None:
        """The time of a command that was sent just now. The newest counts: one sender with a wrong clock passes."""
        now = self._monotonic()
        self._passed, self._witnessed = (timestamp, now), True
        self._agreed = self._wall() - now if abs(self._wall() - timestamp) <= TOLERANCE else None

    def _judge(self) -> Trust:
        wall, now = self._wall(), self._monotonic()
        if wall < BUILT:
            return Trust.WRONG
        if self._synchronised():
            return Trust.VERIFIED
        if self._agreed is not None and abs(wall - now - self._agreed) < JUMP:
            return Trust.VERIFIED
        if self._passed is not None and wall < self._passed[0] + now - self._passed[1] - TOLERANCE:
            return Trust.WRONG
        return Trust.UNSET if self._just_started() else Trust.UNVERIFIED


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _has_just_started() -> bool:
    return time.clock_gettime(time.CLOCK_BOOTTIME) < SETTING and any(map(_exists, _SAVED))


def _exists(file: Path) -> bool:
    """Never raises: `Path.exists` does, before Python 3.12, where a folder above may not be searched."""
    return os.path.exists(file)  # noqa: PTH110


def _is_synchronised() -> bool:
    """Whether the system says so: timesyncd's mark, or the kernel's flag, which chrony and ntpd keep."""
    if _exists(_TIMESYNCD):
        return True
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # a zeroed struct timex only asks
    except (OSError, AttributeError):
        return False
    return 0 <= state != _TIME_ERROR
