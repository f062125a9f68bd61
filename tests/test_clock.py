"""A wrong clock makes no late command run, and refuses no fresh one without saying why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from printago_moonraker.clock import BUILT, Clock, Trust
from printago_moonraker.errors import Expired

REAL = datetime(2027, 3, 4, 12, 0, tzinfo=UTC)
LIMIT = 300.0


@dataclass
class Host:
    """A host whose clock is `off` seconds from the real time, which goes on with `wait`."""

    off: float = 0.0
    synchronised: bool = False
    just_started: bool = False
    elapsed: float = 0.0

    def clock(self) -> Clock:
        return Clock(
            wall=lambda: REAL.timestamp() + self.elapsed + self.off,
            monotonic=lambda: 50.0 + self.elapsed,
            synchronised=lambda: self.synchronised,
            just_started=lambda: self.just_started,
        )

    def real(self, seconds: float = 0.0) -> datetime:
        return REAL + timedelta(seconds=self.elapsed + seconds)


def left(clock: Clock, host: Host, *, live: bool = False, **times: Any) -> float:
    """Seconds that a command arriving now has."""
    arguments: dict[str, Any] = {"timestamp": None, "expires_at": None, "expiry": None, **times}
    return clock.deadline(**arguments, live=live, max_age=LIMIT) - 50.0 - host.elapsed


GOOD = [Host(synchronised=True), Host()]
YEARS = 86400.0 * 700
BAD = [
    pytest.param(Host(off=-YEARS), id="1970"),
    pytest.param(Host(off=-3600.0, just_started=True), id="the time of the last shutdown"),
]


@pytest.mark.parametrize("host", GOOD)
def test_a_good_clock_judges(host: Host) -> None:
    """By the earliest of `expires_at`, the age and the broker's expiry."""
    clock = host.clock()
    assert left(clock, host) == math.inf
    assert left(clock, host, expiry=7) == 7
    assert left(clock, host, expires_at=host.real(20)) == 20
    assert left(clock, host, timestamp=host.real(-100)) == LIMIT - 100
    assert left(clock, host, timestamp=host.real(-100), expires_at=host.real(50), expiry=30) == 30
    with pytest.raises(Expired, match="The command expired at 2027-03-04T11:59:59"):
        left(clock, host, expires_at=host.real(-1))
    with pytest.raises(Expired, match="The command is older than 300 s"):
        left(clock, host, timestamp=host.real(-301))
    assert clock.complaint() is None


def test_a_clock_that_nothing_has_set_is_named() -> None:
    """Who is refused by it hears that it may be the clock's fault."""
    host = Host()
    with pytest.raises(Expired, match="by a clock that nothing has set"):
        left(host.clock(), host, expires_at=host.real(-1))


@pytest.mark.parametrize("host", BAD)
def test_without_a_clock_what_the_broker_kept_is_not_run(host: Host) -> None:
    """Nobody can tell how long it lay there; the sentence says what is wrong and what to do."""
    clock = host.clock()
    kept: list[dict[str, Any]] = [{"timestamp": host.real()}, {"expires_at": host.real(100)}]
    for times in kept:
        with pytest.raises(Expired, match=r"The host's clock .* send it again"):
            left(clock, host, **times)
    assert clock.trusted_time() is None
    assert "clock" in (clock.complaint() or "")


@pytest.mark.parametrize("host", BAD)
def test_without_a_clock_what_is_sent_now_is_run(host: Host) -> None:
    """A command that the broker passes on at once is fresh, and its own times say for how long."""
    clock = host.clock()
    assert left(clock, host, live=True, timestamp=host.real(), expires_at=host.real(20)) == 20
    assert left(clock, host, live=True, timestamp=host.real()) == LIMIT
    with pytest.raises(Expired):
        left(clock, host, live=True, timestamp=host.real(), expires_at=host.real(-1))


@pytest.mark.parametrize("host", BAD)
def test_what_is_wanted_for_hours_is_so_without_a_clock(host: Host) -> None:
    """A long download must not expire before its time: the sender's clock tells how long that is. Where nobody has
    told the time, a command of now has as long as any may have.
    """
    clock = host.clock()
    assert left(clock, host, live=True, expires_at=host.real(7200)) == LIMIT
    left(clock, host, live=True, timestamp=host.real())
    assert left(clock, host, live=True, expires_at=host.real(7200)) == 7200


@pytest.mark.parametrize("host", BAD)
def test_without_a_clock_commands_without_times_are_run(host: Host) -> None:
    """There is nothing to judge but the broker's own expiry."""
    assert left(host.clock(), host) == math.inf
    assert left(host.clock(), host, expiry=5) == 5


def test_one_command_of_now_unmasks_a_slow_clock() -> None:
    """An hour behind without a sign of it, until a command comes from the future."""
    host = Host(off=-3600.0)
    clock = host.clock()
    assert clock.trust() is Trust.UNVERIFIED
    assert left(clock, host, live=True, timestamp=host.real()) == LIMIT
    assert clock.trust() is Trust.WRONG
    host.elapsed = 1000.0
    with pytest.raises(Expired, match="which is known to have passed"):
        left(clock, host, expires_at=host.real(-100))
    with pytest.raises(Expired, match="cannot be told"):
        left(clock, host, expires_at=host.real(100))


def test_what_was_written_has_passed() -> None:
    """A clock that shows less than the store's newest time has gone back."""
    host = Host(off=-3600.0)
    clock = host.clock()
    clock.has_passed(REAL.timestamp())
    assert clock.trust() is Trust.WRONG
    host.off = 0.0
    assert clock.trust() is Trust.UNVERIFIED


def test_what_a_clock_wrote_that_was_ahead_refuses_nothing_that_is_sent_now() -> None:
    """A live command knows better than the store; what the broker has kept is refused, and a command's time ends it."""
    host = Host()
    clock = host.clock()
    clock.has_passed(REAL.timestamp() + 4 * YEARS)
    assert left(clock, host, live=True, expires_at=host.real(100)) == LIMIT
    with pytest.raises(Expired):
        left(clock, host, expires_at=host.real(100))
    assert left(clock, host, live=True, timestamp=host.real()) == LIMIT
    assert clock.trust() is Trust.VERIFIED
    assert left(clock, host, expires_at=host.real(100)) == 100


def test_a_command_that_cannot_be_judged_wants_a_new_id() -> None:
    """With the same one, the stored refusal would be all that its sender gets."""
    host = Host(off=-YEARS)
    with pytest.raises(Expired, match="send it again, with a new id"):
        left(host.clock(), host, timestamp=host.real())


def test_a_folder_that_may_not_be_searched_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Path.exists` raises there, in Python 3.11; judging a command never does."""

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", forbidden)
    monkeypatch.setattr("os.stat", forbidden)
    assert Clock().trust() in (Trust.VERIFIED, Trust.UNVERIFIED)
    monkeypatch.setattr("printago_moonraker.clock.SETTING", math.inf)
    assert Clock().trust() in (Trust.VERIFIED, Trust.UNVERIFIED)


def test_commands_that_agree_verify_the_clock_until_it_jumps() -> None:
    """A host without time service is as good as its agreement with the cloud."""
    host = Host(just_started=True)
    clock = host.clock()
    assert clock.trust() is Trust.UNSET
    assert left(clock, host, live=True, timestamp=host.real(-3)) == LIMIT - 3
    assert clock.trust() is Trust.VERIFIED
    assert clock.trusted_time() == REAL.timestamp()
    host.elapsed = 500.0
    assert clock.trust() is Trust.VERIFIED
    host.off = 30.0
    assert clock.trust() is Trust.UNSET


def test_a_sender_with_a_wrong_clock_passes() -> None:
    """One command from the future does not make all later ones late."""
    host = Host(just_started=True)
    clock = host.clock()
    assert left(clock, host, live=True, timestamp=host.real(YEARS)) == LIMIT
    assert clock.trust() is Trust.WRONG
    assert left(clock, host, live=True, timestamp=host.real()) == LIMIT
    assert clock.trust() is Trust.VERIFIED


def test_a_synchronised_clock_needs_no_witness() -> None:
    """What a sender says changes nothing then; but no system can say that it is 1970."""
    host = Host(synchronised=True)
    clock = host.clock()
    assert left(clock, host, live=True, timestamp=host.real(YEARS)) > YEARS
    assert clock.trust() is Trust.VERIFIED
    host.off = BUILT - REAL.timestamp() - 1
    assert clock.trust() is Trust.WRONG


def test_waiting_is_measured_without_the_wall_clock() -> None:
    """A clock that jumps while a command waits makes it neither late nor young."""
    host = Host(synchronised=True)
    clock = host.clock()
    deadline = clock.deadline(timestamp=None, expires_at=host.real(20), expiry=None, live=False, max_age=LIMIT)
    host.off = YEARS
    clock.check(deadline)
    host.elapsed, host.off = 21.0, -YEARS
    with pytest.raises(Expired, match="while it waited"):
        clock.check(deadline)


def test_a_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong clock is one warning, and one line when it is right again."""
    caplog.set_level("INFO")
    host = Host(off=-YEARS)
    clock = host.clock()
    for _ in range(3):
        assert clock.trust() is Trust.WRONG
    host.off, host.synchronised = 0.0, True
    assert clock.trust() is Trust.VERIFIED
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_the_real_system_can_be_asked() -> None:
    """Whatever it says, it says it at once, and the time is one after this was written."""
    clock = Clock()
    assert clock.trust() in (Trust.VERIFIED, Trust.UNVERIFIED, Trust.UNSET)
    assert clock.now().timestamp() > BUILT
