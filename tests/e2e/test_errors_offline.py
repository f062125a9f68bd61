"""While a link is down, Klipper is not ready, or the owner has said no: what needs the printer is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.farm import Farm

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

URL = "http://127.0.0.1:9/a.gcode"

# Every command that needs Klipper, with parameters that would do.
NEEDS_KLIPPER: list[tuple[str, dict[str, Any]]] = [
    ("printer_control.start_print", {"file_name": "a.gcode"}),
    ("printer_control.start_print_bbl", {"url": URL}),
    ("printer_control.pause_print", {}),
    ("printer_control.resume_print", {}),
    ("printer_control.stop_print", {}),
    ("temperature_control.set_hotend", {"temperature": 200}),
    ("temperature_control.set_bed", {"temperature": 60}),
    ("movement_control.jog", {"axes": {"x": 1}}),
    ("movement_control.extrude", {"amount": 1}),
    ("movement_control.home", {}),
]

RESTARTS: list[tuple[str, dict[str, Any]]] = [
    ("printer_control.restart", {}),
    ("printer_control.firmware_restart", {}),
    ("printer_control.emergency_stop", {}),
]


async def test_klippy_is_gone(farm: Farm) -> None:
    """While Klipper is not running, whatever needs it is refused as offline, at once."""
    await farm.printer.kill_klippy()
    await farm.event("Disconnected")
    for name, parameters in [*NEEDS_KLIPPER, *RESTARTS]:
        async with asyncio.timeout(5):
            assert "Klipp" in await farm.refused("printer_offline", name, **parameters)
    status = await farm.status()
    assert (status["printer_state_id"], status["temperatures"]) == ("OFFLINE", {})
    assert not any(status["klipper"]["can"].values())
    await farm.printer.restart_klippy()
    await farm.event("Connected")
    assert await farm.received() == []


async def test_klippy_starts_up_and_fails(farm: Farm) -> None:
    """While Klipper starts, and when it could not, whatever needs it is refused as not ready, with Klipper's reason."""
    await farm.printer.control("mcu_absent", absent=True)
    await farm.printer.moonraker("printer.firmware_restart")
    await farm.status_until(lambda s: s["klipper"]["state"] == "startup")
    for name, parameters in NEEDS_KLIPPER:
        assert "startup" in await farm.refused("printer_not_ready", name, **parameters)
    assert (await farm.status())["printer_state_id"] == "CONNECTING"
    await farm.printer.control("mcu_absent", absent=False)
    await farm.status_until(lambda s: s["printer_state_id"] == "OPERATIONAL")

    await farm.printer.control("config_error", text="Section 'bogus' is not a valid config section")
    assert "bogus" in await farm.refused("printer_not_ready", "printer_control.restart")
    for name, parameters in NEEDS_KLIPPER:
        assert "bogus" in await farm.refused("printer_not_ready", name, **parameters)
    assert (await farm.status())["printer_state_id"] == "CLOSED_WITH_ERROR"
    await farm.printer.control("config_error", text=None)
    await farm.done("printer_control.restart")
    assert set(await farm.received()) == {"FIRMWARE_RESTART", "RESTART"}


async def test_klippy_is_shut_down(farm: Farm) -> None:
    """In a shutdown, whatever needs Klipper is refused as not ready, with the reason of the shutdown."""
    await farm.printer.control("shutdown", reason="Lost communication with MCU 'mcu'")
    await farm.event("Error")
    for name, parameters in NEEDS_KLIPPER:
        assert "Lost communication" in await farm.refused("printer_not_ready", name, **parameters)
    assert (await farm.status())["printer_state_id"] == "ERROR"
    assert await farm.received() == []


async def test_moonraker_is_gone(farm: Farm) -> None:
    """While Moonraker is not reachable, whatever needs it is refused as offline, downloads too."""
    await farm.printer.stop_moonraker()
    await farm.event("Disconnected")
    download = ("printer_control.download_gcode", {"url": URL})
    for name, parameters in [*NEEDS_KLIPPER, *RESTARTS, download]:
        assert "Moonraker" in await farm.refused("printer_offline", name, **parameters)
    assert (await farm.status())["printer_state_string"] == "Offline: Moonraker is not reachable"
    await farm.printer.start_moonraker()
    await farm.event("Connected")
    assert await farm.received() == []


async def test_what_the_owner_has_switched_off(farm: Farm) -> None:
    """With allow_motion and allow_heating off nothing moves and nothing heats, and the sentence names the option."""
    await farm.end_agent()
    await farm.start_agent("[commands]\nallow_motion: off\nallow_heating: off\n")
    for name, parameters in NEEDS_KLIPPER:
        if name.startswith("movement"):
            assert "allow_motion" in await farm.refused("forbidden", name, **parameters)
        elif name.startswith("temperature"):
            assert "allow_heating" in await farm.refused("forbidden", name, **parameters)
    can = (await farm.status())["klipper"]["can"]
    assert not any(can[what] for what in ("move", "extrude", "home"))
    assert await farm.received() == []
