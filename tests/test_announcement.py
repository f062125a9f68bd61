"""What Printago is told when the agent comes up."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from printago_moonraker import __version__, announcement, schemas
from printago_moonraker.commands.registry import REGISTRY, names
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec
from printago_moonraker.printer.facts import read_facts
from printago_moonraker.printer.printer import Printer
from tests.fakes.klipper import Recorder, make_config


def announced(printer: Printer) -> Any:
    codec = EnvelopeCodec("voron", "klipper", Dialect.KLIPPER)
    data = json.loads(codec.encode("pairing", announcement.pairing(printer), at=datetime(2026, 11, 23, tzinfo=UTC)))
    assert [error.message for error in schemas.compiled("envelopes/pairing").iter_errors(data)] == []
    return data["data"]


def test_a_printer_that_is_known() -> None:
    """Equipment and limits are the printer's own, and the commands those of the registry."""
    data = announced(Recorder().ready())
    assert data["outcome"] == "paired"
    assert data["agent"] == {"name": "printago-moonraker", "version": __version__, "protocol": 1}
    printer = data["printer"]
    assert printer["name"] == "voron"
    assert printer["kinematics"] == "corexy"
    assert printer["build_volume"] == {"width": 235.0, "depth": 235.0, "height": 252.0}
    assert printer["nozzle_diameters"] == [0.4, 0.6]
    assert [heater["name"] for heater in printer["heaters"]] == [
        "extruder",
        "extruder1",
        "heater_bed",
        "Chamber",
        "dryer box",
    ]
    assert printer["heaters"][0] == {"name": "extruder", "min_temp": 0.0, "max_temp": 300.0}
    assert set(printer["commands"]) == {f"{kind}.{action}" for kind, action in REGISTRY}


@pytest.mark.parametrize(
    ("objects", "missing"),
    [
        (["heater_generic chamber", "fan", "led case"], {"set_bed", "set_hotend", "extrude"}),
        (["extruder", "heater_bed", "heater_fan hotend"], {"set_chamber", "set_fan", "set_light"}),
        (["extruder", "heater_bed", "temperature_sensor chamber", "fan", "led a"], {"set_chamber"}),
        (["extruder", "heater_bed", "heater_generic chamber", "fan", "output_pin static_light"], {"set_light"}),
    ],
)
def test_what_the_printer_has_not_got_is_not_announced(objects: list[str], missing: set[str]) -> None:
    """A command for a heater, a fan or a light that is not there is not listed; cameras come and go, theirs are."""
    printer = Recorder().ready()
    settings = {"printer": {"kinematics": "corexy"}, "output_pin static_light": {"static_value": 1.0}}
    printer.facts = read_facts(objects, {"configfile": {"settings": settings}})
    listed = set(announced(printer)["printer"]["commands"])
    assert {f"{kind}.{action}" for kind, action in REGISTRY if action not in missing} == listed


@pytest.mark.parametrize(("switch", "kind"), [("allow_motion", "movement"), ("allow_heating", "temperature")])
def test_what_the_owner_has_switched_off_is_not_announced(switch: str, kind: str) -> None:
    """Whatever the printer has, and whether it is known yet or not."""
    options: dict[str, Any] = {switch: False}
    recorder = Recorder(Printer(*make_config(**options), emit=lambda *_: None))
    for printer in (recorder.printer, recorder.ready()):
        listed = announced(printer)["printer"]["commands"]
        assert listed == [name for name in names() if not name.startswith(kind)]


def test_a_printer_that_has_said_nothing() -> None:
    """Unknown is null or empty, and the envelope is valid all the same; no command is ruled out yet."""
    printer = announced(Recorder().printer)["printer"]
    assert printer["commands"] == names()
    assert (printer["klipper"], printer["moonraker"], printer["kinematics"]) == (None, None, None)
    assert (printer["build_volume"], printer["heaters"], printer["webcams"]) == (None, [], [])
