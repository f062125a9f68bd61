"""Events that macros raise."""

from __future__ import annotations

import pytest

from printago_moonraker.printer.macro import BURST, MAX_BYTES, MAX_NAME, MacroEvents


def test_a_call_becomes_a_message() -> None:
    """Its name apart, everything that the macro gave along is data."""
    assert MacroEvents().take({"event": "bed_cleared", "plate": 3}, 0.0) == (
        {"name": "bed_cleared", "data": {"plate": 3}},
        "",
    )


@pytest.mark.parametrize("params", [None, [], {}, {"event": 3}, {"event": "  "}, {"plate": 3}, "event"])
def test_a_call_without_a_name_is_no_event(params: object) -> None:
    """What cannot be named cannot be sent."""
    payload, reason = MacroEvents().take(params, 0.0)
    assert payload is None
    assert "without event" in reason


def test_a_name_is_cut_and_cleaned() -> None:
    """It ends up on somebody's screen."""
    payload, _ = MacroEvents().take({"event": "a\x1b[31m\n" + "b" * 200}, 0.0)
    assert payload is not None
    assert len(payload["name"]) <= MAX_NAME
    assert payload["name"].isprintable()


@pytest.mark.parametrize("value", ["x" * MAX_BYTES, ["y"] * MAX_BYTES])
def test_too_much_data_is_left_out(value: object) -> None:
    """The event is told all the same, and that something is missing."""
    assert MacroEvents().take({"event": "e", "value": value}, 0.0)[0] == {"name": "e", "data": {}, "truncated": True}


def test_a_macro_in_a_loop_is_slowed_down() -> None:
    """A burst passes, then one event a second; that events were dropped is said once, and how many with the next."""
    events = MacroEvents()
    taken = [events.take({"event": "e"}, 0.0) for _ in range(BURST + 5)]
    assert sum(payload is not None for payload, _ in taken) == BURST
    assert [bool(reason) for payload, reason in taken if payload is None] == [True, False, False, False, False]
    payload, _ = events.take({"event": "e"}, 1.0)
    assert payload == {"name": "e", "data": {}, "dropped": 5}
    assert events.take({"event": "e"}, 1.5)[0] is None
