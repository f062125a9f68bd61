"""What the demo's audit says of a print's progress."""

from __future__ import annotations

import pytest

from printago_moonraker.demo.story import step_back


@pytest.mark.parametrize(
    ("percents", "back"),
    [
        ([], 0.0),
        ([None, 0.0, 1.0, None, 50.0, 100.0], 0.0),
        ([10.0, 9.0, 12.0, 11.5, 100.0], 1.0),
        ([30.0, 29.0, 28.0, 27.0, 31.0], 3.0),
    ],
)
def test_progress_that_goes_back(percents: list[float | None], back: float) -> None:
    """Small steps back add up: each value is compared with the highest before it."""
    assert step_back({"completion": percent} for percent in percents) == back
