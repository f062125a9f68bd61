"""Shutdown, restart and kill, against what a real Klipper was measured to do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker.errors import AgentError
from tests.e2e.client import Client, RpcError, connected, label
from tests.e2e.virtual_printer.steps import FACTOR, printing

if TYPE_CHECKING:
    from printago_moonraker.virtual.rig import VirtualPrinter

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


async def test_shutdown_during_plain_moves(client: Client) -> None:
    """Plain moves cut by a shutdown show `paused`, in the same push as the shutdown; then come notice and history."""
    await printing(client, "slow.gcode")
    await client.until(lambda: client.status["virtual_sdcard"]["file_position"] > 30)
    await client.call("printer.emergency_stop")
    await client.heard("history finished klippy_shutdown")
    push = next(m["params"][0] for m in client.log if "webhooks" in label(m))
    assert push["print_stats"]["state"] == "paused"
    assert push["virtual_sdcard"]["is_active"] is False
    wanted = ("response // Klipper", "notify_klippy", "history finished")
    assert [text for m in client.log if (text := label(m)).startswith(wanted)] == [
        "response // Klipper state: Shutdown",
        "notify_klippy_shutdown",
        "history finished klippy_shutdown",
    ]
    assert client.status["pause_resume"]["is_paused"] is False


async def test_shutdown_during_homing(rig: VirtualPrinter, client: Client) -> None:
    """A G28 of the file cut by a shutdown ends as an error."""
    await rig.control("hold", what="motion", line="G28")
    await printing(client, "homing.gcode")
    await client.state("toolhead", "homed_axes", "x")
    await client.call("printer.emergency_stop")
    await client.state("print_stats", "state", "error")
    assert client.status["print_stats"]["message"] == "Homing failed due to printer shutdown"
    await client.heard("history finished klippy_shutdown")


async def test_firmware_restart(client: Client) -> None:
    """ok, Disconnect, disconnected, ready; the job is forgotten and the subscription is gone without a word."""
    await client.call("printer.emergency_stop")
    await client.heard("notify_klippy_shutdown")
    client.log.clear()
    assert await client.call("printer.firmware_restart") == "ok"
    await client.heard("notify_klippy_ready")
    heard = [text for m in client.log if not (text := label(m)).startswith(("status", "notify_proc"))]
    assert sorted(heard[:3]) == ["answer", "notify_klippy_disconnected", "response // Klipper state: Disconnect"]
    assert heard[3] == "notify_klippy_ready"
    client.log.clear()
    await client.heard("notify_proc_stat_update")
    await client.heard("notify_proc_stat_update", after=len(client.log))
    assert not [m for m in client.log if label(m).startswith("status")]
    assert (await client.subscribe("print_stats"))["print_stats"]["state"] == "standby"


async def state_of(client: Client, *wanted: str) -> str:
    """Poll as an agent has to: an error is announced by nobody."""
    async with asyncio.timeout(20.0):
        while True:
            state = str((await client.call("server.info"))["klippy_state"])
            if state in wanted:
                return state
            await asyncio.sleep(0.05)


async def test_restart_in_shutdown(rig: VirtualPrinter, client: Client) -> None:
    """RESTART after a shutdown ends in `error` without any notice; FIRMWARE_RESTART heals."""
    await client.call("printer.emergency_stop")
    await client.heard("notify_klippy_shutdown")
    await client.call("printer.restart")
    place = await client.heard("notify_klippy_disconnected")
    assert await state_of(client, "error", "ready") == "error"
    message = (await client.call("printer.info"))["state_message"]
    assert message.startswith("Can not update MCU 'mcu' config as it is shutdown")
    assert not [m for m in client.log[place + 1 :] if label(m).startswith("notify_klippy")]
    await client.call("printer.firmware_restart")
    await client.heard("notify_klippy_ready", after=place)
    await rig.wait_ready()


async def test_config_error(rig: VirtualPrinter, client: Client) -> None:
    """A broken configuration: state error, its text for all G-code; after an e-stop, the first reset fails."""
    await rig.control("config_error", text="Section 'bogus_section' is not a valid config section")
    try:
        await client.call("printer.restart")
        await client.heard("notify_klippy_disconnected")
        assert await state_of(client, "error") == "error"
        text = (
            "Section 'bogus_section' is not a valid config section\n\n"
            'Once the underlying issue is corrected, use the "RESTART"\n'
        )
        calls: list[tuple[str, dict[str, Any]]] = [
            ("printer.gcode.script", {"script": "G28"}),
            ("printer.print.start", {"filename": "short.gcode"}),
            ("printer.print.pause", {}),
        ]
        for method, params in calls:
            with pytest.raises(RpcError) as caught:
                await client.call(method, **params)
            assert caught.value.code == 400
            assert caught.value.message.startswith(text)
            assert caught.value.message.endswith("Printer is halted\n")
        assert (await client.subscribe("webhooks"))["webhooks"]["state"] == "error"
        await client.call("printer.emergency_stop")
    finally:
        await rig.control("config_error", text=None)
    client.log.clear()
    await client.call("printer.firmware_restart")
    await client.heard("notify_klippy_disconnected")
    assert await state_of(client, "error", "ready") == "error"
    assert "Failed automated reset of MCU 'mcu'" in (await client.call("printer.info"))["state_message"]
    client.log.clear()
    await client.call("printer.firmware_restart")
    await client.heard("notify_klippy_ready")
    await rig.wait_ready()


async def test_mcu_absent(rig: VirtualPrinter, client: Client) -> None:
    """Without its MCU, Klippy is in startup for 90 s, with its own text; then in error until a firmware restart."""
    await rig.control("mcu_absent", absent=True)
    began = time.monotonic()
    try:
        await client.call("printer.restart")
        await client.heard("notify_klippy_disconnected")
        await state_of(client, "startup")
        with pytest.raises(RpcError) as caught:
            await client.gcode("G28")
        text = "\nPrinter is not ready\nThe klippy host software is attempting to connect.  Please\n"
        assert caught.value.message.startswith(text)
        await state_of(client, "error")
        assert (time.monotonic() - began) * FACTOR > 90.0
        assert (await client.call("printer.info"))["state_message"].startswith("mcu 'mcu': Unable to connect\n")
    finally:
        await rig.control("mcu_absent", absent=False)
    await client.call("printer.firmware_restart")
    await client.heard("notify_klippy_ready")
    await rig.wait_ready()


async def test_kill(rig: VirtualPrinter, client: Client) -> None:
    """kill -9: disconnected, history, what is under way fails, new calls are refused; then it comes back."""
    await rig.control("hold", what="motion")
    await printing(client, "slow.gcode")
    waiting = client.send("printer.gcode.script", script="G28")
    await client.call("printer.info")
    await rig.kill_klippy()
    with pytest.raises(RpcError) as caught:
        await waiting
    assert (caught.value.code, caught.value.message) == (503, "Klippy Disconnected")
    await client.heard("notify_klippy_disconnected")
    await client.heard("history finished klippy_disconnect")
    for method in ("printer.info", "printer.emergency_stop", "printer.firmware_restart"):
        with pytest.raises(RpcError) as caught:
            await client.call(method)
        assert (caught.value.code, caught.value.message) == (503, "Klippy Host not connected")
    assert client.status["print_stats"]["state"] == "printing"
    await rig.restart_klippy()
    await client.heard("notify_klippy_ready")


async def test_moonraker_restart_during_a_print(rig: VirtualPrinter, client: Client) -> None:
    """Klippy prints on without Moonraker, whose history closes the job as server_exit."""
    await printing(client, "slow.gcode")
    await client.heard("history added")
    await rig.stop_moonraker()
    await rig.start_moonraker()
    async with connected(rig.url) as again:
        assert (await again.subscribe("print_stats"))["print_stats"]["state"] == "printing"
        jobs = (await again.call("server.history.list", limit=1))["jobs"]
        assert [job["status"] for job in jobs] == ["server_exit"]


async def test_shutdown_with_a_reason(rig: VirtualPrinter, client: Client) -> None:
    """A fault of the machine shuts down with its own reason."""
    await rig.control("shutdown", reason="Lost communication with MCU 'mcu'")
    await client.heard("notify_klippy_shutdown")
    message = client.status["webhooks"]["state_message"]
    assert message.startswith("Lost communication with MCU 'mcu'\nOnce the underlying issue")


async def test_stall_and_slow(rig: VirtualPrinter, client: Client) -> None:
    """A stalled Klippy answers nothing until it flows again; a slow one answers late."""
    await rig.control("stall", stalled=True)
    asked = client.send("printer.gcode.script", script="M117 x")
    done, _ = await asyncio.wait({asked}, timeout=0.6)
    await rig.control("stall", stalled=False)
    assert not done
    assert await asked == "ok"
    await rig.control("slow", seconds=0.3)
    began = time.monotonic()
    await client.gcode("M117 y")
    await rig.control("slow", seconds=0.0)
    assert time.monotonic() - began > 0.3


async def test_received_gcode(rig: VirtualPrinter, client: Client) -> None:
    """Every line of G-code is on record, and the counters count."""
    await rig.control("received_gcode", clear=True)
    before = (await rig.control("counters"))["prints_started"]
    await client.gcode("M117 on record")
    await client.call("printer.print.start", filename="short.gcode")
    await client.state("print_stats", "state", "complete")
    lines = (await rig.control("received_gcode"))["lines"]
    assert lines == ["M117 on record", 'SDCARD_PRINT_FILE FILENAME="short.gcode"', "M117 one", "M117 two"]
    assert (await rig.control("counters"))["prints_started"] == before + 1
    with pytest.raises(AgentError, match="no control command 'nope'"):
        await rig.control("nope")
