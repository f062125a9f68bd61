"""Waiting between attempts."""

from random import Random

from printago_moonraker.backoff import Backoff


class Highest(Random):
    def uniform(self, a: float, b: float) -> float:
        return b


class Lowest(Random):
    def uniform(self, a: float, b: float) -> float:
        return a


def test_ceiling_doubles_up_to_the_cap() -> None:
    """The longest wait doubles with each failure, from the base to the cap."""
    backoff = Backoff(base=1.0, cap=60.0, random=Highest())
    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_luckiest_draw_keeps_the_floor() -> None:
    """No draw is shorter than the floor, so that nothing ever spins."""
    backoff = Backoff(floor=0.1, random=Lowest())
    assert {backoff.next() for _ in range(20)} == {0.1}


def test_full_jitter_uses_the_whole_range() -> None:
    """A farm's hosts spread over the whole range below the ceiling, not around one point of it."""
    draws = []
    for seed in range(200):
        backoff = Backoff(base=8.0, random=Random(seed))
        draws.append(backoff.next())
    assert min(draws) < 1.0
    assert max(draws) > 7.0
    assert all(0.1 <= draw <= 8.0 for draw in draws)


def test_a_month_of_failures_does_not_overflow() -> None:
    """The exponent is capped: failing for ever keeps the wait at the cap."""
    backoff = Backoff(cap=60.0, random=Highest(), failures=100_000)
    assert backoff.next() == 60.0


def test_patience_grows_beyond_the_cap() -> None:
    """What will not pass by itself is tried like anything else at first, and at last as rarely as its patience says."""
    highest, lowest = Backoff(random=Highest()), Backoff(random=Lowest())
    assert [highest.next(900.0) for _ in range(12)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    assert [round(lowest.next(900.0), 1) for _ in range(12)] == [0.1] * 6 + [42.7, 85.3, 170.7, 341.3, 600, 600]


def test_patience_is_for_a_row() -> None:
    """Another failure in between, or a long spell of others before, is no reason to wait that long."""
    backoff = Backoff(random=Highest(), failures=500)
    assert backoff.next(900.0) == 60.0
    for _ in range(9):
        backoff.next(900.0)
    assert backoff.next() == 60.0
    assert backoff.next(900.0) == 60.0
    backoff.reset()
    assert [backoff.next(900.0) for _ in range(3)] == [1, 2, 4]


def test_reset_begins_a_new_spell() -> None:
    """After a reset the next failure counts as the first."""
    backoff = Backoff(random=Highest())
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next() == 1.0
