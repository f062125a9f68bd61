"""What a printer is, out of its object list and its configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from printago_moonraker.printer.facts import Facts, Heater, is_fan, is_light, labels, module, read_facts, short_name
from tests.fakes.klipper import OBJECTS, SETTINGS, STATUS

FACTS = read_facts(OBJECTS, {**STATUS, "configfile": {"settings": SETTINGS}})


def test_heaters_are_found_by_their_purpose() -> None:
    """Tools, bed, chamber and the rest are told apart, a chamber whatever its case."""
    assert [tool.object_name for tool in FACTS.tools] == ["extruder", "extruder1"]
    assert FACTS.bed == Heater("heater_bed", "heater_bed", 0.0, 120.0)
    assert FACTS.chamber == Heater("heater_generic Chamber", "Chamber", 10.0, 70.0)
    assert FACTS.chamber_sensor == "heater_generic Chamber"
    assert FACTS.heaters == (Heater("heater_generic dryer box", "dryer box", -20.0, 80.0),)
    assert FACTS.sensors == ("temperature_fan host",)


def test_equipment_is_found() -> None:
    """Fans, lights, sensors, nozzles, kinematics and travel are those of the configuration."""
    assert FACTS.fans == ("temperature_fan host", "fan")
    assert FACTS.lights == ("output_pin caselight", "neopixel strip")
    assert FACTS.filament_sensors == ("filament_switch_sensor runout",)
    assert FACTS.nozzle_diameters == (0.4, 0.6)
    assert FACTS.kinematics == "corexy"
    assert FACTS.build_volume() == {"width": 235.0, "depth": 235.0, "height": 252.0}


def test_tools_are_in_the_order_of_their_numbers() -> None:
    """Tool 10 comes after tool 2, and what only begins like an extruder is none."""
    facts = read_facts(["extruder10", "extruder2", "extruder", "extruder_stepper e", "extruder1"], {})
    assert [tool.name for tool in facts.tools] == ["extruder", "extruder1", "extruder2", "extruder10"]


def test_a_sensor_can_stand_for_the_chamber() -> None:
    """Without a chamber heater, a temperature sensor of that name is what the status shows, and heats nothing."""
    facts = read_facts(["temperature_sensor Chamber"], {})
    assert facts.chamber is None
    assert facts.chamber_sensor == "temperature_sensor Chamber"


@pytest.mark.parametrize(
    ("names", "chamber"),
    [
        (["heater_box", "chamber_heater", "Chamber"], "Chamber"),
        (["heated_chamber", "Chamber_heater", "box"], "Chamber_heater"),
        (["chamberlight"], "chamberlight"),
        (["box", "old_chamber", "chamber_left", "chamber_right"], "old_chamber"),
        (["chamber_left", "chamber_right"], "chamber_left"),
        (["box", "my_chamber", "your_chamber"], "my_chamber"),
        (["box"], None),
        ([], None),
    ],
)
def test_the_chamber_is_told_by_its_name(names: list[str], chamber: str | None) -> None:
    """The exact name comes first, then the only one that begins with it, then the first that has it in it; heater and
    sensor each for itself.
    """
    heaters = read_facts([f"heater_generic {name}" for name in names], {})
    assert (heaters.chamber and heaters.chamber.name) == chamber
    assert heaters.chamber_sensor == (f"heater_generic {chamber}" if chamber else None)
    assert [heater.name for heater in heaters.heaters] == [name for name in names if name != chamber]
    for kind in ("temperature_sensor", "temperature_fan"):
        sensors = read_facts([f"{kind} {name}" for name in names], {})
        assert sensors.chamber is None
        assert sensors.chamber_sensor == (f"{kind} {chamber}" if chamber else None)


def test_a_chambers_heater_is_shown_rather_than_its_sensor() -> None:
    """Only the heater has a target; a sensor of the exact name does not change which heater is the chamber's."""
    facts = read_facts(["temperature_sensor chamber", "heater_generic chamber_heater"], {})
    assert facts.chamber == Heater("heater_generic chamber_heater", "chamber_heater")
    assert facts.chamber_sensor == "heater_generic chamber_heater"


@pytest.mark.parametrize("status", [{}, {"configfile": {}}, {"configfile": {"settings": None}, "toolhead": {}}])
def test_nothing_said_is_nothing_known(status: dict[str, dict[str, object]]) -> None:
    """A Klipper in error says little: the facts are then empty, not wrong."""
    facts = read_facts([], status)
    assert facts == Facts()
    assert facts.build_volume() is None
    assert read_facts(["extruder"], status).tools == (Heater("extruder", "extruder"),)


@pytest.mark.parametrize(
    ("target", "accepted"),
    [(0, True), (10, True), (70, True), (9.9, False), (70.1, False), (-1, False), (5, False)],
)
def test_a_heaters_limits_are_klippers(target: float, accepted: bool) -> None:
    """Klipper takes 0 always, else what lies between min_temp and max_temp."""
    heater = Heater("heater_generic Chamber", "Chamber", 10.0, 70.0)
    assert heater.accepts(target) is accepted


def test_unknown_limits_refuse_only_what_is_below_zero() -> None:
    """Where Klipper has not said its limits, Klipper itself has to judge."""
    heater = Heater("extruder", "extruder")
    assert heater.accepts(999)
    assert not heater.accepts(-1)
    assert not replace(heater, min_temp=-100.0).accepts(-50)


@pytest.mark.parametrize(
    ("name", "light", "fan"),
    [
        ("output_pin caselight", True, False),
        ("output_pin LED_pin", True, False),
        ("output_pin led", True, False),
        ("output_pin pledge", False, False),
        ("output_pin enable_pin", False, False),
        ("output_pin fan0", False, True),
        ("output_pin fantastic", False, False),
        ("neopixel strip", True, False),
        ("fan", False, True),
        ("fan_generic filter", False, True),
        ("heater_fan light", False, True),
        ("gcode_macro light", False, False),
    ],
)
def test_a_pins_purpose_is_told_by_its_name(name: str, light: bool, fan: bool) -> None:
    """An output pin is a light or a fan only when its name says so."""
    assert is_light(name) is light
    assert is_fan(name) is fan


def test_each_has_a_label_of_its_own() -> None:
    """The short name, but for one that another before it has."""
    assert labels(["fan", "fan_generic a", "heater_fan a"]) == {
        "fan": "fan",
        "fan_generic a": "a",
        "heater_fan a": "heater_fan a",
    }


def test_names_are_split_at_the_first_space() -> None:
    """Klipper's short name may itself hold spaces."""
    assert short_name("heater_generic dryer box") == "dryer box"
    assert short_name("extruder") == "extruder"
    assert module("heater_generic dryer box") == "heater_generic"
