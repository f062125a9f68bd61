"""What waits in Klipper's own queue: it is not handed over behind somebody's G-code, nor left to surprise the next."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.farm import Farm, moves

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


async def test_a_start_behind_somebodys_macro_is_not_begun_after_its_time(farm: Farm) -> None:
    """Klipper would take it, and run it whenever the macro ends: nothing could take it back any more."""
    await farm.store("late.gcode", moves(20))
    macro = asyncio.create_task(farm.gcode("G4 P60000"))  # 3 s at time factor 20
    try:
        await _runs(farm, "G4 P60000")
        soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        answer = await farm.cloud.command(
            "printer_control", "start_print", {"file_name": "late.gcode"}, expires_at=soon, timeout=20.0
        )
        assert answer["data"]["code"] == "expired", answer
        assert not macro.done()
    finally:
        await macro
    await farm.gcode("M400")
    assert not [line for line in await farm.received() if "SDCARD" in line]
    assert farm.prints() == []


async def test_a_stop_takes_a_start_back_that_waits_behind_somebodys_macro(farm: Farm) -> None:
    """It is a success at once, and what it stopped never begins."""
    await farm.store("late.gcode", moves(20))
    macro = asyncio.create_task(farm.gcode("G4 P60000"))
    try:
        await _runs(farm, "G4 P60000")
        starting = asyncio.create_task(farm.do("printer_control.start_print", file_name="late.gcode"))
        await asyncio.sleep(0)  # its command is on its way first
        await farm.done("printer_control.stop_print")
        assert (await starting)["data"]["code"] == "cancelled"
        assert not macro.done()
    finally:
        await macro
    await farm.gcode("M400")
    assert farm.prints() == []


async def test_a_pause_of_an_idle_printer_does_not_spoil_the_next_print(farm: Farm) -> None:
    """Klipper takes a person's pause although nothing prints, and then no other: the next print could not be paused."""
    await farm.store("pausable.gcode", moves(200))
    await farm.printer.moonraker("printer.print.pause")
    assert (await farm.query("pause_resume"))["is_paused"] is True
    await farm.done("printer_control.start_print", file_name="pausable.gcode")
    await farm.done("printer_control.pause_print")
    assert (await farm.query("print_stats"))["state"] == "paused"


async def _runs(farm: Farm, line: str) -> None:
    """Until that line has reached Klipper."""
    async with asyncio.timeout(10):
        while line not in await farm.received():  # noqa: ASYNC110 - Klipper is asked anew
            await asyncio.sleep(0.02)
