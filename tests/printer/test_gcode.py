"""G-code is made of formatted numbers and looked-up names only."""

from __future__ import annotations

import json
import math
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from printago_moonraker import errors
from printago_moonraker.moonraker.rpc import RpcError
from printago_moonraker.printer import gcode

PLAIN = re.compile(r"-?\d+(\.\d{1,4})?")


@given(st.floats())
def test_a_number_is_a_plain_decimal(value: float) -> None:
    """Never an exponent, NaN or infinity, never more than four places, and always the number that was meant."""
    if not math.isfinite(value):
        with pytest.raises(ValueError, match="no number"):
            gcode.number(value)
        return
    text = gcode.number(value)
    assert PLAIN.fullmatch(text)
    assert text != "-0"
    assert math.isclose(float(text), value, rel_tol=1e-12, abs_tol=0.00005000001)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0, "0"), (-0.00001, "0"), (10.0, "10"), (100.0, "100"), (0.1 + 0.2, "0.3"), (-1.23456, "-1.2346")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    """What a float carries beyond a ten-thousandth is not written, nor are trailing zeros."""
    assert gcode.number(value) == text


@given(st.text(min_size=1, max_size=30))
def test_a_name_stays_one_parameter(name: str) -> None:
    """A name is refused, or Klipper, which splits as a shell does, reads exactly this name on one line."""
    try:
        written = gcode.quoted(name)
    except errors.NotSupported:
        return
    assert "\n" not in written
    assert shlex.split(f"SET HEATER={written} TARGET=1") == ["SET", f"HEATER={name}", "TARGET=1"]


@pytest.mark.parametrize("name", ["a\nM112", 'a" TARGET=500', "a\\", "a\x00"])
def test_a_name_that_could_break_out_is_refused(name: str) -> None:
    """Quotes, backslashes and control characters have no way to be written."""
    with pytest.raises(errors.NotSupported):
        gcode.quoted(name)


def test_each_script() -> None:
    """These are all forms of G-code that the agent writes."""
    assert gcode.set_heater("dryer box", 45.5) == 'SET_HEATER_TEMPERATURE HEATER="dryer box" TARGET=45.5'
    assert gcode.home([]) == "G28"
    assert gcode.home("xy") == "G28 X Y"
    assert gcode.jog({"x": 10.0, "z": -0.5}, relative=True, speed=3000.0).split("\n") == [
        "SAVE_GCODE_STATE NAME=printago",
        "G91",
        "G1 X10 Z-0.5 F3000",
        "M400",
        "RESTORE_GCODE_STATE NAME=printago",
    ]
    assert "\nG90\nG1 Y5 " in gcode.jog({"y": 5.0}, relative=False, speed=600.0)
    assert gcode.extrude(-2.5, speed=300.0, tool=None, active="extruder").split("\n") == [
        "SAVE_GCODE_STATE NAME=printago",
        "M83",
        "G1 E-2.5 F300",
        "M400",
        "RESTORE_GCODE_STATE NAME=printago",
    ]


def test_another_tool_is_active_only_inside_the_saved_state() -> None:
    """Activating an extruder resets the extrude factor, so the user's tool is back before the state is restored."""
    lines = gcode.extrude(5.0, speed=300.0, tool="extruder1", active="extruder").split("\n")
    assert lines == [
        "SAVE_GCODE_STATE NAME=printago",
        "ACTIVATE_EXTRUDER EXTRUDER=extruder1",
        "M83",
        "G1 E5 F300",
        "M400",
        "ACTIVATE_EXTRUDER EXTRUDER=extruder",
        "RESTORE_GCODE_STATE NAME=printago",
    ]


REASON = '\nOnce the underlying issue is corrected, use the\n"FIRMWARE_RESTART" command\nPrinter is shutdown\n'


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Must home axis first: 10.000 0.000 0.000 [0.000]", "not_homed"),
        ("Move out of range: 500.000 230.000 2.000 [0.000]", "out_of_range"),
        ("Extrude below minimum temp\nSee the 'min_extrude_temp' config option for details", "too_cold"),
        ("Requested temperature (999.0) out of range (0.0:300.0)", "out_of_range"),
        ("SD busy", "busy"),
        ("Unable to open file", "file_not_found"),
        ("Klippy Host not connected", "printer_offline"),
        ("Klippy Disconnected", "printer_offline"),
        ("Shutdown due to M112 command" + REASON, "printer_not_ready"),
        ("\nPrinter is not ready\nThe klippy host software is attempting to connect.  Please\n", "printer_not_ready"),
        ("Homing failed due to printer shutdown", "printer_not_ready"),
        ("Section 'bogus' is not a valid config section\n\nPrinter is halted\n", "printer_not_ready"),
        ("Error evaluating 'gcode_macro X:gcode': gcode.CommandError: bench macro error\n", "gcode_error"),
        ("", "gcode_error"),
    ],
)
def test_klippers_words_have_their_code(message: str, code: str) -> None:
    """Each measured refusal has its code, and its words go out on one clean line."""
    error = gcode.refusal(RpcError(400, message))
    assert error.code == code
    assert "\n" not in str(error)
    assert message.strip().partition("\n")[0][:40] in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"code":"key95","msg":"Must home axis first: 8.000 [1.0]", "values":[8.0, 1.0]}',
            "Must home axis first: 8.000 [1.0]",
        ),
        (' {"code": "key1", "msg": "a\nb"}', "a\nb"),
        ('{"code":"key1","msg":"two\nlines"}\nPrinter is shutdown\n', "two\nlines\nPrinter is shutdown"),
        (
            '{"code":"key61, "msg":"Unknown command:SET_HOTEND_FAN", "values": ["SET"]}',
            "Unknown command:SET_HOTEND_FAN",
        ),
        (
            '{"code":"key9","msg":"Malformed command \'A B="c"\'", "values":["A"]}\nend',
            "Malformed command 'A B=\"c\"'\nend",
        ),
    ],
)
def test_a_creality_k1_says_it_in_json(text: str, words: str) -> None:
    """Klipper's words are taken out of the JSON that a K1 puts around them, also where that JSON is broken."""
    assert gcode.plain(text) == words


@pytest.mark.parametrize(
    "text", ["", "SD busy", " a\n", "{", "{}", '{"msg": "a"}', '{"code": 1, "msg": 2}', "{x}", "[1]", "{" * 100_000]
)
def test_what_is_no_such_json_stays_as_it_is(text: str) -> None:
    """Only the K1's own form is opened: any other text, whatever it looks like, comes back unchanged."""
    assert gcode.plain(text) == text


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Must home axis first: 10.000 0.000 0.000 [0.000]", "not_homed"),
        ("Move out of range: 500.000 230.000 2.000 [0.000]", "out_of_range"),
        ("Extrude below minimum temp\nSee the 'min_extrude_temp' config option for details", "too_cold"),
        ("SD busy", "busy"),
        ("Unknown pin", "gcode_error"),
    ],
)
def test_a_refusal_in_json_has_the_same_code(message: str, code: str) -> None:
    """A K1's refusal has the code and the words that the plain one has."""
    error = gcode.refusal(RpcError(400, json.dumps({"code": "key1", "msg": message, "values": []})))
    assert (error.code, str(error)) == (code, str(gcode.refusal(RpcError(400, message))))


def test_a_prompt_is_one_action_a_line() -> None:
    """Mainsail's and Fluidd's macro prompt, each line one RESPOND, in place of what was shown before."""
    actions = [
        shlex.split(line) for line in gcode.prompt("Pair", ["Open https://a.example/d", "enter AB-12"]).splitlines()
    ]
    assert all(words[:2] == ["RESPOND", "TYPE=command"] and len(words) == 3 for words in actions)
    assert [words[2].removeprefix("MSG=action:").partition(" ")[0] for words in actions] == [
        "prompt_end",
        "prompt_begin",
        "prompt_text",
        "prompt_text",
        "prompt_footer_button",
        "prompt_show",
    ]


@given(st.text())
def test_a_prompt_holds_no_other_command(text: str) -> None:
    """Whatever the text is: it is refused, or it is one parameter of one line that has no comment in it."""
    try:
        script = gcode.prompt("Pair", [text])
    except ValueError:
        return
    lines = script.splitlines()
    assert len(lines) == 5
    assert shlex.split(lines[2]) == ["RESPOND", "TYPE=command", f"MSG=action:prompt_text {text}"]
    assert not set(";#*") & set(script)
