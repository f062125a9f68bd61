"""How a print ended whose printer stopped before its status could say so."""

from __future__ import annotations

import pytest

from printago_moonraker.moonraker.api import KlippyState
from tests.fakes.klipper import printing
from tests.printer.test_prints import Follower


@pytest.mark.parametrize(
    ("last", "end"),
    [
        ("printing", ("FAILED", "MCU 'mcu' shutdown: Timer too close")),
        ("paused", ("FAILED", "MCU 'mcu' shutdown: Timer too close")),  # what plain moves become: it cannot be resumed
        ("cancelled", ("CANCELLED", "cancelled")),
        ("complete", ("DONE", None)),
    ],
)
def test_a_shutdown_waits_for_the_jobs_last_word(last: str, end: tuple[str, str | None]) -> None:
    """The news of a shutdown is faster than the status; a print that had ended in the same tick did not fail."""
    follower = Follower()
    follower.job("printing")
    message = "MCU 'mcu' shutdown: Timer too close\nmore"
    follower.klippy(KlippyState.SHUTDOWN, message)
    assert follower.names == "STARTED"
    follower.state.apply({"webhooks": {"state": "shutdown", "state_message": message}, **printing(last)})
    follower.look()
    assert follower.told == [("STARTED", None), end]


def test_a_file_that_is_done_is_done() -> None:
    """Klipper dies, or the next print begins, before a status says `complete`: its word for the file counts."""
    follower = Follower()
    follower.job("printing")
    follower.tracker.file_done()
    follower.job("printing", "Printago/next.gcode")
    follower.tracker.file_done()
    follower.klippy(KlippyState.DISCONNECTED)
    assert follower.names == "STARTED DONE STARTED DONE"
    follower.tracker.file_done()
    follower.appear()
    follower.job("printing")
    follower.klippy(KlippyState.DISCONNECTED)
    assert follower.names.endswith("STARTED FAILED")
