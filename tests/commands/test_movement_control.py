"""Moves: one at a time, done when Klipper says so, and the user's G-code state as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.klipper import bench, printing
from tests.fakes.moonraker import SILENT, Refusal

if TYPE_CHECKING:
    from pathlib import Path

SAVE, RESTORE = "SAVE_GCODE_STATE NAME=printago", "RESTORE_GCODE_STATE NAME=printago"


@pytest.mark.parametrize(
    ("name", "parameters", "script"),
    [
        ("jog", {"axes": {"x": 10}}, "G91\nG1 X10 F3000"),
        ("jog", {"axes": {"x": "1.5", "y": -2, "z": 0.1}, "speed": "600"}, "G91\nG1 X1.5 Y-2 Z0.1 F600"),
        ("jog", {"axes": {"z": 50}, "relative": False, "tags": ["source:web"]}, "G90\nG1 Z50 F3000"),
        ("extrude", {"amount": 5}, "M83\nG1 E5 F300"),
        ("extrude", {"amount": "-2.5", "speed": 120, "tool": 0}, "M83\nG1 E-2.5 F120"),
    ],
)
async def test_a_move_is_one_line_in_a_saved_state(
    tmp_path: Path, name: str, parameters: dict[str, Any], script: str
) -> None:
    """Save, move, wait for the motion, restore; a success when all of that has been done."""
    async with bench(tmp_path) as it:
        it.send(f"movement_control.{name}", parameters)
        await it.called("printer.gcode.script")
        assert it.scripts == [f"{SAVE}\n{script}\nM400\n{RESTORE}"]
        assert it.answers == []
        await it.reply("printer.gcode.script")
        assert (await it.answered())[0] == "success"


async def test_extruding_with_another_tool(tmp_path: Path) -> None:
    """It is activated for the move, and the active one again; a tool that is not there is not supported."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.gcode.script"] = "ok"
        assert (await it.run("movement_control.extrude", {"amount": 5, "tool": 1}))[0] == "success"
        assert it.scripts[0].split("\n") == [
            SAVE,
            "ACTIVATE_EXTRUDER EXTRUDER=extruder1",
            "M83",
            "G1 E5 F300",
            "M400",
            "ACTIVATE_EXTRUDER EXTRUDER=extruder",
            RESTORE,
        ]
        assert (await it.run("movement_control.extrude", {"amount": 5, "tool": 2}))[1]["code"] == "not_supported"


@pytest.mark.parametrize(
    ("name", "parameters", "message", "code", "restored"),
    [
        ("jog", {"axes": {"x": 500}}, "Move out of range: 500.000 0.000", "out_of_range", RESTORE),
        ("jog", {"axes": {"x": 5}}, "Must home axis first: 5.000", "not_homed", RESTORE),
        ("extrude", {"amount": 5}, "Extrude below minimum temp\nSee the", "too_cold", RESTORE),
        (
            "extrude",
            {"amount": 5, "tool": 1},
            "Extrude below minimum temp\nSee the",
            "too_cold",
            f"ACTIVATE_EXTRUDER EXTRUDER=extruder\n{RESTORE}",
        ),
    ],
)
async def test_a_refused_move_leaves_the_state_as_it_was(
    tmp_path: Path, name: str, parameters: dict[str, Any], message: str, code: str, restored: str
) -> None:
    """A script ends at its first error: the rest of it, which restores, is sent by itself."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.gcode.script"] = lambda params: (
            Refusal(400, message) if "G1" in params["script"] else "ok"
        )
        assert (await it.run(f"movement_control.{name}", parameters))[1]["code"] == code
        assert it.scripts[1:] == [restored]


async def test_a_failed_restoration_hides_no_refusal(tmp_path: Path) -> None:
    """It is the first refusal that says what is wrong."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.gcode.script"] = lambda params: Refusal(
            400, "Move out of range: 1" if "G1" in params["script"] else "Unknown g-code state: printago"
        )
        assert (await it.run("movement_control.jog", {"axes": {"x": 1}}))[1]["code"] == "out_of_range"


@pytest.mark.parametrize(
    "parameters",
    [
        {"axes": {"x": "1\nM112"}},
        {"axes": {"x": "1e3"}},
        {"axes": {"x": float("nan")}},
        {"axes": {}},
        {"axes": {"x": 1}, "speed": "300\nM112"},
        {"axes": {"x": 1}, "speed": 0},
    ],
)
async def test_nothing_is_injected(tmp_path: Path, parameters: dict[str, Any]) -> None:
    """What is no plain number is refused, whatever it holds."""
    async with bench(tmp_path) as it:
        _, data = await it.run("movement_control.jog", parameters)
        assert data["code"] in ("invalid_parameters", "invalid_json")
        assert it.scripts == []


@pytest.mark.parametrize(
    ("axes", "script"),
    [(None, "G28"), ("x,y,z", "G28 X Y Z"), ("XY", "G28 X Y"), (["x", "Y"], "G28 X Y"), ("x,x", "G28 X")],
)
async def test_homing(tmp_path: Path, axes: Any, script: str) -> None:
    """All axes, or those that are named, each once."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.gcode.script"] = "ok"
        parameters = {} if axes is None else {"axes": axes}
        assert (await it.run("movement_control.home", parameters))[0] == "success"
        assert it.scripts == [script]


async def test_homed_is_the_answer_and_the_axes(tmp_path: Path) -> None:
    """While it homes, Klipper lists an axis already; and after an "ok" without the axes nothing is homed."""
    async with bench(tmp_path) as it:
        await it.push(toolhead={"homed_axes": ""})
        it.send("movement_control.home")
        await it.called("printer.gcode.script")
        await it.push(toolhead={"homed_axes": "xyz"})
        assert it.answers == []
        await it.push(toolhead={"homed_axes": "xy"})
        await it.reply("printer.gcode.script")
        await it.push(extruder={"temperature": 26.0})
        assert it.answers == []
        await it.push(toolhead={"homed_axes": "xyz"})
        assert (await it.answered())[0] == "success"


async def test_an_emergency_stop_is_no_success_of_a_move(tmp_path: Path) -> None:
    """Klipper answers "ok" to what it cut short."""
    async with bench(tmp_path) as it:
        it.send("movement_control.home")
        await it.called("printer.gcode.script")
        await it.push(webhooks={"state": "shutdown", "state_message": "Shutdown due to webhooks request"})
        await it.reply("printer.gcode.script")
        _, data = await it.answered()
        assert data["code"] == "printer_not_ready"
        assert "webhooks request" in data["error"]


async def test_moves_while_paused(tmp_path: Path) -> None:
    """Jogging and extruding help a person to clear a jam; homing would lose the print."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.gcode.script"] = "ok"
        await it.push(**printing("paused"))
        assert (await it.run("movement_control.jog", {"axes": {"z": 5}}))[0] == "success"
        assert (await it.run("movement_control.extrude", {"amount": 5}))[0] == "success"
        assert (await it.run("movement_control.home"))[1]["code"] == "busy"


async def test_the_phase_counts_when_its_turn_comes(tmp_path: Path) -> None:
    """A print that began while the move waited is not disturbed."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.gcode.script"] = SILENT
        it.send("movement_control.home")
        it.send("movement_control.jog", {"axes": {"x": 1}})
        await it.called("printer.gcode.script")
        await it.push(**printing())
        await it.reply("printer.gcode.script")
        assert (await it.answered(2))[1]["code"] == "busy"
        assert len(it.scripts) == 1
