"""Fans and lights: which can be set, and when they are seen to be."""

from __future__ import annotations

from typing import Any

import pytest

from printago_moonraker import errors
from printago_moonraker.printer import outputs
from printago_moonraker.printer.facts import read_facts
from printago_moonraker.printer.outputs import Output
from printago_moonraker.printer.state import PrinterState

SETTINGS: dict[str, Any] = {
    "fan": {"max_power": 0.8, "off_below": 0.1},
    "fan_generic filter": {"max_power": 1.0},
    "heater_fan hotend_fan": {},
    "output_pin fan0": {"pwm": True, "scale": 255.0},
    "output_pin caselight": {"pwm": True, "scale": 1.0},
    "output_pin light_relay": {"pwm": False},
    "output_pin static_light": {"static_value": 1.0},
    "neopixel case": {"color_order": ["GRBW"]},
    "led strip": {"red_pin": "a", "white_pin": "b"},
    "dotstar front": {},
    "pca9632 back": {},
}
# Klipper lower-cases sections in `settings`, not in the object list.
OBJECTS = [name.replace("filter", "Filter") for name in SETTINGS] + ["output_pin beeper", "extruder"]
FACTS = read_facts(OBJECTS, {"configfile": {"settings": SETTINGS}})
FANS, LIGHTS = outputs.fans(FACTS), outputs.lights(FACTS)


def state(**objects: dict[str, Any]) -> PrinterState:
    found = PrinterState()
    found.snapshot({name.replace("__", " "): fields for name, fields in objects.items()})
    return found


def test_what_fans_can_do() -> None:
    """Klipper's own fans are listed as such; a fan on a pin counts by its name."""
    assert [fan.describe_fan() for fan in FANS] == [
        {"name": "fan", "can_set": True, "speed": True},
        {"name": "Filter", "can_set": True, "speed": True},
        {"name": "hotend_fan", "can_set": False, "speed": False},
        {"name": "fan0", "can_set": True, "speed": True},
    ]


def test_what_lights_can_do() -> None:
    """Strips have colours, some of them white; pins have brightness, or only on and off, or nothing."""
    said = {light.name: light.describe_light() for light in LIGHTS}
    assert {
        name: [key for key in ("can_set", "brightness", "color", "white") if each[key]] for name, each in said.items()
    } == {
        "caselight": ["can_set", "brightness"],
        "light_relay": ["can_set"],
        "static_light": [],
        "case": ["can_set", "brightness", "color", "white"],
        "strip": ["can_set", "brightness", "color", "white"],
        "front": ["can_set", "brightness", "color"],
        "back": ["can_set", "brightness", "color", "white"],
    }


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("fan", "fan"),
        ("FILTER", "fan_generic Filter"),
        ("fan_generic filter", "fan_generic Filter"),
        (" fan0 ", "output_pin fan0"),
    ],
)
def test_found_by_name(name: str, found: str) -> None:
    """Full or short, whatever the case; what comes out is the printer's own spelling."""
    assert outputs.find(FANS, name, "fan").object_name == found


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hotend_fan", "Klipper itself runs heater_fan hotend_fan; it cannot be set."),
        ("case", "This printer has no fan case; it has fan, Filter, fan0."),
        ("x\nM112", "This printer has no fan x M112; it has fan, Filter, fan0."),
    ],
)
def test_not_supported(name: str, sentence: str) -> None:
    """What is not there, or not to be set, is refused with what is there."""
    with pytest.raises(errors.NotSupported) as error:
        outputs.find(FANS, name, "fan")
    assert str(error.value) == sentence


def test_a_name_that_two_have() -> None:
    """A short name that is not clear is refused with the full ones; a full name is."""
    both = (Output("led case", {}), Output("neopixel case", {}))
    with pytest.raises(errors.InvalidParameters, match="led case, neopixel case"):
        outputs.find(both, "case", "light")
    assert outputs.find(both, "led case", "light") is both[0]


def test_the_only_one() -> None:
    """Without a name there must be one, and only one, that can be set."""
    assert outputs.only(FANS[:1] + FANS[2:3], "fan") is FANS[0]
    with pytest.raises(errors.InvalidParameters, match="fan: say which; this printer has fan, Filter, fan0"):
        outputs.only(FANS, "fan")
    with pytest.raises(errors.NotSupported, match="no fan that can be set"):
        outputs.only(FANS[2:3], "fan")


@pytest.mark.parametrize(
    ("shown", "wanted", "seen"),
    [(0.5, 0.5, True), (0.498, 0.5, True), (0.4, 0.5, True), (0.45, 0.5, False), (0.0, 0.05, True), (0.0, 0.5, False)],
)
def test_a_fan_shows_its_speed(shown: float, wanted: float, seen: bool) -> None:
    """As asked for, as its power (max_power), or off (off_below)."""
    assert FANS[0].shows(state(fan={"speed": shown}), wanted) is seen


def test_nothing_seen() -> None:
    """A fan that Klipper says nothing of does not show anything."""
    assert not FANS[0].shows(state(), 0.0)
    assert not FANS[0].shows(state(fan={"speed": None}), 0.0)
    assert not LIGHTS[3].shows_color(state(), (0.0, 0.0, 0.0, 0.0))


def test_a_strip_shows_its_color() -> None:
    """Every LED has to; a strip without white has three parts in some Klippers."""
    strip, red = Output("neopixel case", {}), (1.0, 0.0, 0.0, 0.0)
    assert strip.shows_color(state(neopixel__case={"color_data": [[1.0, 0.0, 0.0, 0.0], [0.999, 0.0, 0.0]]}), red)
    assert not strip.shows_color(state(neopixel__case={"color_data": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]}), red)
    assert not strip.shows_color(state(neopixel__case={"color_data": ["red"]}), red)


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("#ff0000", (1, 0, 0, 0)),
        ("#00FF0033", (0, 1, 0, 0.2)),
        ("#000000ff", (0, 0, 0, 1)),
        ("#333333", (0.2,) * 3 + (0,)),
    ],
)
def test_colors(text: str, color: tuple[float, ...]) -> None:
    """Hexadecimal pairs are parts of one."""
    assert outputs.parse_color(text) == pytest.approx(color)


def test_brightness_keeps_the_hue() -> None:
    """The strongest part becomes the brightness, the others follow; black stays black."""
    assert outputs.scaled((1.0, 0.5, 0.0, 0.0), 0.5) == (0.5, 0.25, 0.0, 0.0)
    assert outputs.scaled((0.2, 0.1, 0.0, 0.0), 1.0) == (1.0, 0.5, 0.0, 0.0)
    assert outputs.scaled((0.0, 0.0, 0.0, 0.0), 1.0) == (0.0, 0.0, 0.0, 0.0)
