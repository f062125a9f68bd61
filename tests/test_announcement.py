"""What Printago is told when the agent comes up."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from printago_moonraker import __version__, announcement, schemas
from printago_moonraker.commands.registry import REGISTRY
from printago_moonraker.printago.envelope import Dialect, EnvelopeCodec
from tests.fakes.klipper import Recorder

if TYPE_CHECKING:
    from printago_moonraker.printer.printer import Printer


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


def test_a_printer_that_has_said_nothing() -> None:
    """Unknown is null or empty, and the envelope is valid all the same."""
    printer = announced(Recorder().printer)["printer"]
    assert (printer["klipper"], printer["moonraker"], printer["kinematics"]) == (None, None, None)
    assert (printer["build_volume"], printer["heaters"], printer["webcams"]) == (None, [], [])
