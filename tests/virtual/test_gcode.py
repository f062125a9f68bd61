"""Lines of G-code, as Klipper reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from printago_moonraker.virtual.gcode import Command, KlipperError, parse


@pytest.mark.parametrize(
    ("line", "name", "params"),
    [
        ("G1 X10 Y-2.5 F600", "G1", {"X": "10", "Y": "-2.5", "F": "600"}),
        ("g1x10y5 ; comment", "G1", {"X": "10", "Y": "5"}),
        ("N12 G28 X", "G28", {"X": ""}),
        ("G1 Xabc", "G1", {"XABC": ""}),
        ("SET_PIN PIN=caselight VALUE=1", "SET_PIN", {"PIN": "caselight", "VALUE": "1"}),
        ("set_pin pin=caselight # why", "SET_PIN", {"PIN": "caselight"}),
        ('SDCARD_PRINT_FILE FILENAME="a b;c#d.gcode"', "SDCARD_PRINT_FILE", {"FILENAME": "a b;c#d.gcode"}),
        ("T0", "T0", {}),
        ("PRINT_START", "PRINT_START", {}),
    ],
)
def test_parse(line: str, name: str, params: dict[str, str]) -> None:
    """Letters for the traditional commands, assignments for the others."""
    command = parse(line)
    assert command is not None
    assert (command.name, command.params) == (name, params)


@pytest.mark.parametrize("line", ["", "   ", "; comment", "; thumbnail begin 32x32 348"])
def test_nothing_to_do(line: str) -> None:
    """Blank lines and comments are no commands."""
    assert parse(line) is None


def test_text_commands_keep_their_text() -> None:
    """M117's text is not taken apart."""
    command = parse("M117 Layer 1/8; done")
    assert command is not None
    assert command.raw == "Layer 1/8; done"


@pytest.mark.parametrize("line", ['A_B C="open', "A_B C", "A_B =5 D"])
def test_malformed(line: str) -> None:
    """Broken quotes and words that assign nothing are refused with the whole line."""
    with pytest.raises(KlipperError, match="Malformed command '"):
        parse(line)


def test_numbers() -> None:
    """A parameter is missing, no number, or beyond its limits: each has Klipper's sentence."""
    command = Command("SET_PIN", {"VALUE": "2", "PIN": "x"}, "SET_PIN VALUE=2 PIN=x")
    assert command.get_float("VALUE") == 2.0
    assert command.get_float("CYCLE", 0.1) == 0.1
    with pytest.raises(KlipperError, match="Error on 'SET_PIN VALUE=2 PIN=x': missing NOPE"):
        command.get_int("NOPE")
    with pytest.raises(KlipperError, match="unable to parse x"):
        command.get_float("PIN")
    with pytest.raises(KlipperError, match=r"VALUE must have maximum of 1.0"):
        command.get_float("VALUE", maximum=1.0)
    with pytest.raises(KlipperError, match=r"VALUE must have minimum of 3.0"):
        command.get_float("VALUE", minimum=3.0)


@given(st.text(max_size=80))
def test_any_line(line: str) -> None:
    """Whatever a file holds, a line is a command, nothing, or Klipper's error."""
    try:
        command = parse(line)
    except KlipperError:
        return
    assert command is None or command.name == command.name.upper()
