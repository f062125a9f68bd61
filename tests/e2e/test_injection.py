"""No text of a command becomes G-code; only a few known forms reach Klipper."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.farm import Farm

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

HOSTILE = [
    "1\nM112",
    "1;M112",
    "1 M112",
    '1"\nM112\n"',
    "{1}",
    "0x10",
    "１",
    "$(id)",
    "1\r\nM112",
    "1\x00",
    "NaN",
    "1e400",
    "",
]

REFUSALS = {"invalid_parameters", "forbidden_path", "forbidden_url", "file_not_found", "not_supported"}

TARGETS: list[tuple[str, str]] = [
    ("temperature_control.set_hotend", '{"temperature": %s}'),
    ("temperature_control.set_hotend", '{"temperature": 200, "tool": %s}'),
    ("temperature_control.set_bed", '{"temperature": %s}'),
    ("temperature_control.set_chamber", '{"temperature": %s}'),
    ("movement_control.jog", '{"axes": {"x": %s}}'),
    ("movement_control.jog", '{"axes": {"x": 1}, "speed": %s}'),
    ("movement_control.jog", '{"axes": {"x": 1}, "relative": %s}'),
    ("movement_control.jog", '{"axes": {%s: 1}}'),
    ("movement_control.extrude", '{"amount": %s}'),
    ("movement_control.extrude", '{"amount": 1, "speed": %s}'),
    ("movement_control.extrude", '{"amount": 1, "tool": %s}'),
    ("movement_control.home", '{"axes": %s}'),
    ("movement_control.home", '{"axes": [%s]}'),
    ("printer_control.start_print", '{"file_name": %s}'),
    ("printer_control.download_gcode", '{"url": %s}'),
    ("printer_control.download_gcode", '{"url": "http://127.0.0.1:9/a.gcode", "sha256": %s}'),
    ("printer_control.start_print_bbl", '{"url": "http://127.0.0.1:9/a.gcode", "plate": %s}'),
]


async def test_hostile_text_never_becomes_gcode(farm: Farm) -> None:
    """A text that would be G-code, in whichever parameter, is refused, and Klipper hears of none of it."""
    await farm.warm()
    for name, template in TARGETS:
        for text in HOSTILE:
            if (name, text) == ("movement_control.home", ""):
                continue  # no axis named: all of them
            parameters = json.loads(template % json.dumps(text))
            answer = await farm.do(name, **parameters)
            assert answer["type"] == "error", (name, parameters, answer)
            assert answer["data"]["code"] in REFUSALS, (name, parameters, answer)
    assert await farm.received() == []
    assert (await farm.printer.control("counters"))["emergency_stops"] == 0


ALLOWED = [
    r"SAVE_GCODE_STATE NAME=printago",
    r"RESTORE_GCODE_STATE NAME=printago",
    r"G9[01]|M83|M400",
    r"G1( [XYZE]-?\d+(\.\d{1,4})?)+ F\d+(\.\d{1,4})?",
    r"G28( [XYZ])*",
    r"SET_HEATER_TEMPERATURE HEATER=(extruder|heater_bed) TARGET=\d+(\.\d{1,4})?",
    r'SDCARD_PRINT_FILE FILENAME="Printago/[^\n]*"',
]


async def test_only_known_forms_reach_klipper(farm: Farm) -> None:
    """Whatever numbers and texts come with commands that are carried out, the G-code is of a few known forms."""
    await farm.warm()
    for number in (0.00001, "1.23456789", "+2", ".5", "1.", 1e-300, "-0.25"):
        await farm.done("movement_control.jog", axes={"x": number, "z": number}, tags=["\nM112", "M112"])
        await farm.done("movement_control.extrude", amount=number, speed="100.00001")
    for number in (200.00005, "0050", 0.1):
        await farm.do("temperature_control.set_bed", temperature=number)
    await farm.done("movement_control.home", axes="X, y")
    names = ['q"M112".gcode', "s;M112.gcode", "h#M112 *7.gcode", "b'M112'.gcode", "ü €.gcode"]
    for name in names:
        await farm.store(name, "M117 printed\n")
        await farm.do("printer_control.start_print", file_name=name)
    lines = [line for line in await farm.received() if line != "M117 printed"]
    strange = [line for line in lines if not any(re.fullmatch(form, line) for form in ALLOWED)]
    assert strange == []
    assert len([line for line in lines if line.startswith("G1 ")]) == 14
    assert (await farm.printer.control("counters"))["emergency_stops"] == 0
    assert (await farm.status())["printer_state_id"] == "OPERATIONAL"
