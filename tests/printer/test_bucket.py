"""The limit on how often something is told."""

from __future__ import annotations

from printago_moonraker.printer.bucket import Bucket


def test_a_burst_passes_and_then_the_rate() -> None:
    """So many at once, then one for each that the rate allows, and never more than a burst after a long silence."""
    bucket = Bucket(burst=3, rate=0.5)
    assert [bucket.take(0.0) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(at) for at in (1.0, 2.0, 3.0, 4.0)] == [False, True, False, True]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_what_is_kept_back_is_counted_once() -> None:
    """The number goes out with the next that passes, and is not told again."""
    bucket = Bucket(burst=1, rate=1.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, False, False]
    assert (bucket.dropped, bucket.count(), bucket.count()) == (2, {"dropped": 2}, {})


def test_a_clock_that_runs_backwards_gives_nothing() -> None:
    """Only time that passes fills it."""
    bucket = Bucket(burst=1, rate=1.0)
    assert [bucket.take(at) for at in (10.0, 5.0, 5.5, 6.5)] == [True, False, False, True]
