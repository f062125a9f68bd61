"""The state is what Klipper has said, neither more nor less."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.state import JobState, PrinterState, subscription
from tests.fakes.klipper import OBJECTS, snapshot

FIELDS = st.dictionaries(
    st.sampled_from(["temperature", "target", "state", "x"]),
    st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=5), st.lists(st.integers())),
)
DELTAS = st.dictionaries(st.sampled_from(["extruder", "print_stats", "toolhead", "fan"]), FIELDS)


@given(st.lists(DELTAS, max_size=12))
def test_deltas_merge(deltas: list[dict[str, dict[str, Any]]]) -> None:
    """A delta overwrites what it names and nothing else: absent is not null."""
    state, expected = PrinterState(), dict[str, dict[str, Any]]()
    for delta in deltas:
        assert state.apply(delta) == set(delta)
        for name, fields in delta.items():
            expected[name] = {**expected.get(name, {}), **fields}
    assert state.objects == expected


@given(st.lists(DELTAS, min_size=1, max_size=4))
def test_a_snapshot_replaces(deltas: list[dict[str, dict[str, Any]]]) -> None:
    """Nothing of the time before a snapshot is left, and a later delta does not change the snapshot's own data."""
    state, first = PrinterState(), snapshot()
    state.apply({"heater_generic gone": {"temperature": 1.0}})
    state.snapshot(first)
    for delta in deltas:
        state.apply(delta)
    assert "heater_generic gone" not in state.objects
    assert first == snapshot()


def test_the_configuration_is_not_kept() -> None:
    """`configfile` is large and constant: it is read into the facts, and dropped; empty objects do not exist."""
    state = PrinterState()
    state.snapshot({"configfile": {"settings": {"a": 1}}, "nope": {}, "fan": {"speed": 0.5}})
    assert state.objects == {"fan": {"speed": 0.5}}


@pytest.mark.parametrize("said", [None, 5, "x", ["x"], {"x": 1}, True])
def test_a_peers_types_are_not_trusted(said: Any) -> None:
    """Whatever comes in a field, its reader gets the type that was asked for."""
    state = PrinterState()
    state.apply({"webhooks": {"state_message": said}, "print_stats": {"state": said, "info": said}})
    state.apply({"toolhead": {"homed_axes": said, "position": said}, "fan": {"speed": said}})
    assert isinstance(state.klippy_message, str)
    assert isinstance(state.job, JobState)
    assert isinstance(state.homed_axes, str)
    assert isinstance(state.record("print_stats", "info"), dict)
    assert isinstance(state.items("toolhead", "position"), list)
    assert state.number("fan", "speed") in (None, 5)
    assert not isinstance(state.number("fan", "speed"), bool)


def test_a_whole_number_serves_as_a_float() -> None:
    """JSON writes 1.0 as 1 at times."""
    state = PrinterState()
    state.apply({"virtual_sdcard": {"progress": 1}})
    assert state.get("virtual_sdcard", "progress", 0.0) == 1


@pytest.mark.parametrize(
    ("said", "job", "klippy"),
    [("printing", JobState.PRINTING, KlippyState.UNKNOWN), ("shutdown", JobState.UNKNOWN, KlippyState.SHUTDOWN)],
)
def test_new_words_are_unknown(said: str, job: JobState, klippy: KlippyState) -> None:
    """A word of a newer Klipper is no error."""
    state = PrinterState()
    state.apply({"print_stats": {"state": said}, "webhooks": {"state": said}})
    assert (state.job, state.klippy) == (job, klippy)


@pytest.mark.parametrize("gone", [KlippyState.DISCONNECTED, KlippyState.STARTUP, KlippyState.UNKNOWN])
def test_a_klipper_that_is_gone_shows_nothing(gone: KlippyState) -> None:
    """A killed Klipper sends no last word: its "printing" and its temperatures are dropped."""
    state = PrinterState()
    state.snapshot(snapshot(print_stats={"state": "printing", "filename": "a.gcode"}))
    state.klippy_is(gone)
    assert (state.objects, state.job, state.filename) == ({}, JobState.STANDBY, "")


@pytest.mark.parametrize("halted", [KlippyState.SHUTDOWN, KlippyState.ERROR])
def test_a_halted_klipper_still_shows_its_temperatures(halted: KlippyState) -> None:
    """In a shutdown the status goes on."""
    state = PrinterState()
    state.snapshot(snapshot())
    state.klippy_is(halted, "why")
    assert state.number("extruder", "temperature") == 25.04
    assert state.klippy_message == "why"


def test_only_what_is_used_is_subscribed() -> None:
    """Fields that change on every tick without telling anything would wake the agent four times a second."""
    wanted = subscription(
        [*OBJECTS, "fan_generic filter", "output_pin fan1", "output_pin relay", "extruder_stepper e", "tmc2209 x"]
    )
    assert set(wanted) == (set(OBJECTS) - {"gcode", "mcu", "gcode_macro PAUSE", "idle_timeout", "system_stats"}) | {
        "fan_generic filter",
        "output_pin fan1",
    }
    assert wanted["extruder1"] == ["temperature", "target", "can_extrude"]
    assert wanted["output_pin fan1"] == wanted["output_pin caselight"] == ["value"]
    assert wanted["heater_generic dryer box"] == ["temperature", "target"]
    assert wanted["configfile"] == ["settings"]
    assert not any("estimated_print_time" in fields for fields in wanted.values())
