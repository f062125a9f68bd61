"""What may run when: the rules of docs/protocol.md, written out, against every command in every phase."""

from __future__ import annotations

from typing import Any

import pytest

from printago_moonraker import errors, schemas
from printago_moonraker.commands import registry
from printago_moonraker.commands.lanes import Lane
from printago_moonraker.commands.registry import REGISTRY
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printer.phase import Phase
from printago_moonraker.printer.printer import Printer
from tests.fakes.klipper import PATH, Recorder, make_config, printing

OWN = {"STARTING": "complete", "PAUSING": "printing", "RESUMING": "paused", "CANCELLING": "printing"}
KLIPPY = {
    "ERROR": KlippyState.SHUTDOWN,
    "CLOSED_WITH_ERROR": KlippyState.ERROR,
    "CONNECTING": KlippyState.STARTUP,
    "OFFLINE": KlippyState.DISCONNECTED,
}

# The rules, independent of the code: which commands are refused as `busy` ...
NOT_WHILE_PRINTING = {
    "movement_control.jog",
    "movement_control.extrude",
    "movement_control.home",
    "printer_control.start_print",
    "printer_control.start_print_bbl",
    "printer_control.firmware_restart",
    "printer_control.restart",
}
# ... and which of them are let through while a print is paused: only these two. A restart would end the print.
WHILE_PAUSED = {"movement_control.jog", "movement_control.extrude"}
PRINTING_PHASES = {"STARTING", "PRINTING", "PAUSING", "RESUMING", "CANCELLING", "FINISHING"}
CAMERAS = {f"camera_control.{action}" for action in ("get_providers", "snapshot", "stream_on", "stream_off")}
# What works whatever Klipper's state: asking, downloading, looking, and the ways out of a shutdown.
WITHOUT_KLIPPER = CAMERAS | {
    "printer_control.get_status",
    "printer_control.download_gcode",
    "printer_control.emergency_stop",
    "printer_control.stop_print",  # it takes back what waits; then it asks for Klipper by itself
    "printer_control.restart",
    "printer_control.firmware_restart",
}
BESIDE = CAMERAS | {
    "printer_control.get_status",
    "printer_control.pause_print",
    "printer_control.stop_print",
    "printer_control.emergency_stop",
}
TRANSFERS = {"printer_control.download_gcode", "printer_control.start_print_bbl"}


def allowed(name: str, phase: str) -> str:
    """What the protocol says: an error code, or nothing."""
    if phase in KLIPPY and name not in WITHOUT_KLIPPER:
        return "printer_offline" if phase == "OFFLINE" else "printer_not_ready"
    if name in NOT_WHILE_PRINTING and (phase in PRINTING_PHASES or (phase == "PAUSED" and name not in WHILE_PAUSED)):
        return "busy"
    return ""


def printer_in(phase: Phase, monkeypatch: pytest.MonkeyPatch, **commands: Any) -> Printer:
    printer = Recorder(Printer(*make_config(**commands), emit=lambda *_: None)).ready()
    monkeypatch.setattr(printer, "_api", object())  # Moonraker is there
    if phase.value in KLIPPY:
        printer.klippy_is(KLIPPY[phase.value], "because")
    elif phase is not Phase.OPERATIONAL:
        printer.apply(printing(OWN.get(phase.value, "paused" if phase is Phase.PAUSED else "printing")))
        printer.apply({"virtual_sdcard": {"progress": 1.0 if phase is Phase.FINISHING else 0.5}})
        if phase.value in OWN:
            printer._operations.append(phase)
    assert printer.phase is phase
    return printer


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("name", registry.names())
def test_each_command_in_each_phase(name: str, phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command is refused where the protocol refuses it, with its code, and nowhere else."""
    kind, _, action = name.partition(".")
    printer, code = printer_in(phase, monkeypatch), ""
    try:
        REGISTRY[kind, action].check(printer)
    except errors.CommandError as error:
        code = error.code
    assert code == allowed(name, phase.value)


def test_the_rules_name_real_commands() -> None:
    """A rule about a command that does not exist would be no rule."""
    assert set(registry.names()) >= NOT_WHILE_PRINTING | WITHOUT_KLIPPER | BESIDE | TRANSFERS


def test_each_command_has_its_schema() -> None:
    """The registry and the folder of schemas are the same set."""
    assert schemas.commands() == REGISTRY.keys()


def test_who_waits_for_whom() -> None:
    """What stops, asks or looks waits for nothing; transfers for each other; all else has its order."""
    for (kind, action), command in REGISTRY.items():
        name = f"{kind}.{action}"
        expected = Lane.BESIDE if name in BESIDE else Lane.TRANSFER if name in TRANSFERS else Lane.ORDERED
        assert command.lane is expected, name


@pytest.mark.parametrize(
    ("switch", "kind"), [("allow_motion", "movement_control"), ("allow_heating", "temperature_control")]
)
def test_the_owners_switches(switch: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the owner has switched off is forbidden in every phase, and all else is as before."""
    for phase in Phase:
        printer = printer_in(phase, monkeypatch, **{switch: False})
        for command in REGISTRY.values():
            if command.type == kind:
                with pytest.raises(errors.Forbidden, match=f"{switch}: off"):
                    command.check(printer)
    REGISTRY["printer_control", "pause_print"].check(printer_in(Phase.PRINTING, monkeypatch, **{switch: False}))


def test_busy_says_with_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names phase and file."""
    with pytest.raises(errors.Busy, match=f"printing {PATH}"):
        REGISTRY["movement_control", "home"].check(printer_in(Phase.PRINTING, monkeypatch))


def test_unknown_names() -> None:
    """With the plugin's sentences, and nothing else of what came."""
    with pytest.raises(errors.UnknownType) as unknown_type:
        registry.find("nope\n", "foo")
    with pytest.raises(errors.UnknownAction) as unknown_action:
        registry.find("printer_control", "foo")
    assert str(unknown_type.value) == "Unknown Printago command type: nope"
    assert str(unknown_action.value) == "Unknown action for printer_control: foo"


def test_only_what_changes_nothing_is_repeated() -> None:
    """A repeated id is answered from the ledger; reading again is harmless, sending a picture again is not."""
    snapshot = REGISTRY["camera_control", "snapshot"]
    assert snapshot.is_repeatable({"camera_name": "front"})
    assert not snapshot.is_repeatable({"camera_name": "front", "destination_url": "https://files.example.com/1"})
    repeatable = {name for name, entry in REGISTRY.items() if entry.is_repeatable({})}
    queries = {("printer_control", "get_status"), ("camera_control", "get_providers"), ("camera_control", "snapshot")}
    assert repeatable == queries
