"""A print's whole life, against what a real Klipper was measured to do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.client import Client, RpcError, label
from tests.e2e.virtual_printer.steps import FACTOR, FILES, printing

if TYPE_CHECKING:
    from printago_moonraker.virtual.rig import VirtualPrinter

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


async def test_order_of_a_start(client: Client) -> None:
    """File opened, File selected, ok; then the status; then the history: like the recorded one."""
    await client.call("printer.print.start", filename="slow.gcode")
    await client.heard("history added")
    wanted = ("response", "answer", "history", "status")
    heard = [text for m in client.log if (text := label(m)).startswith(wanted)]
    ours = [text for text in heard if not text.startswith("status") or "print_stats" in text]
    opened = f"response File opened:slow.gcode Size:{len(FILES['slow.gcode'])}"
    assert ours[:3] == [opened, "response File selected", "answer"]
    assert ours[3].startswith("status")
    assert ours[4] == "history added in_progress"


async def test_missing_file_resets_the_last_job(client: Client) -> None:
    """A start that finds no file answers so, and the job before it is forgotten."""
    await client.call("printer.print.start", filename="short.gcode")
    await client.state("print_stats", "state", "complete")
    for name in ("nope.gcode", "gcodes/short.gcode", "short"):
        with pytest.raises(RpcError, match="Unable to open file"):
            await client.call("printer.print.start", filename=name)
    await client.state("print_stats", "state", "standby")
    assert client.status["print_stats"]["filename"] == ""


async def test_spelling_is_kept(client: Client) -> None:
    """Names match whatever their case, and print_stats has the caller's spelling; a leading slash is dropped."""
    await client.call("printer.print.start", filename="/SHORT.gcode")
    await client.state("print_stats", "filename", "SHORT.gcode")


async def test_start_while_printing(client: Client) -> None:
    """A second start is refused after the running line, and changes nothing."""
    await printing(client, "slow.gcode")
    with pytest.raises(RpcError, match="SD busy"):
        await client.call("printer.print.start", filename="short.gcode")
    assert client.status["print_stats"]["filename"] == "slow.gcode"


async def test_start_while_paused(client: Client) -> None:
    """A start while paused throws the paused job away, and is_paused stays true."""
    await printing(client, "slow.gcode")
    await client.call("printer.print.pause")
    await client.state("print_stats", "state", "paused")
    await client.call("printer.print.start", filename="homing.gcode")
    await client.state("print_stats", "filename", "homing.gcode")
    await client.heard("history finished cancelled")
    assert client.status["pause_resume"]["is_paused"] is True
    await client.call("printer.print.pause")
    assert "// Print already paused" in client.responses()


async def test_pause_when_idle(client: Client) -> None:
    """Pause, pause, resume, resume without a job: all ok, each with its remark, and print_stats stays standby."""
    for method in ("pause", "pause", "resume", "resume"):
        assert await client.call(f"printer.print.{method}") == "ok"
    paused, resumed = ["// action:paused", "// Print already paused"], ["// action:resumed"]
    assert client.responses() == [*paused, *resumed, "// Print is not paused, resume aborted"]
    assert client.status["print_stats"]["state"] == "standby"
    assert await client.call("printer.print.cancel") == "ok"
    assert client.responses()[-1] == "// action:cancel"


async def test_pause_resume_cancel(client: Client) -> None:
    """A job is paused, resumed and cancelled; its name stays, its file does not."""
    await printing(client, "slow.gcode")
    await client.state("toolhead", "homed_axes", "xyz")
    await client.call("printer.print.pause")
    await client.state("print_stats", "state", "paused")
    assert client.status["virtual_sdcard"]["is_active"] is False
    await client.call("printer.print.resume")
    await client.state("print_stats", "state", "printing")
    await client.call("printer.print.cancel")
    await client.heard("history finished cancelled")
    assert client.status["print_stats"]["filename"] == "slow.gcode"
    assert client.status["virtual_sdcard"]["file_path"] is None


async def test_three_at_once(client: Client) -> None:
    """Pause, resume and cancel sent together are carried out in that order."""
    await printing(client, "slow.gcode")
    answers = await asyncio.gather(*(client.send(f"printer.print.{verb}") for verb in ("pause", "resume", "cancel")))
    assert answers == ["ok", "ok", "ok"]
    await client.state("print_stats", "state", "cancelled")
    assert client.status["pause_resume"]["is_paused"] is False


async def test_pause_waits_for_print_start(client: Client) -> None:
    """PRINT_START is one line: a pause waits until it has homed and heated."""
    await printing(client, "start.gcode")
    await client.state("extruder", "target", 200.0)
    await client.call("printer.print.pause")
    assert client.status["extruder"]["temperature"] > 150.0


async def test_error_in_the_file(client: Client) -> None:
    """An error ends the job with its text; a cancel afterwards changes nothing."""
    await printing(client, "broken.gcode")
    await client.state("print_stats", "state", "error")
    assert client.status["print_stats"]["message"].startswith("Move out of range: 500.000 0.000 0.000 [")
    assert client.status["virtual_sdcard"]["file_position"] == len("G28\nM117 before\n")
    assert client.status["virtual_sdcard"]["file_path"].endswith("/broken.gcode")
    await client.heard("history finished error")
    await client.call("printer.print.cancel")
    answer = await client.call("printer.objects.query", objects={"print_stats": ["state"]})
    assert answer["status"]["print_stats"]["state"] == "error"


async def test_unknown_command_in_the_file(client: Client) -> None:
    """A file goes on after a command that nobody knows."""
    await client.call("printer.print.start", filename="unknown.gcode")
    await client.state("print_stats", "state", "complete")
    assert '// Unknown command:"FOOBAR"' in client.responses()
    assert client.responses()[-1] == "Done printing file"
    assert client.status["virtual_sdcard"]["progress"] == 1.0


async def test_empty_file(client: Client) -> None:
    """An empty file starts and ends between two ticks."""
    assert await client.call("printer.print.start", filename="empty.gcode") == "ok"
    await client.heard("response Done printing file")
    await client.state("print_stats", "state", "complete")


async def test_objects_layers_progress(client: Client) -> None:
    """Objects come back in upper case, layers from SET_PRINT_STATS_INFO, progress from M73."""
    await printing(client, "objects.gcode")
    await client.state("exclude_object", "current_object", "CUBE_ID_1_COPY_0")
    assert client.status["exclude_object"]["objects"] == [
        {"name": "CUBE_ID_1_COPY_0", "center": [90, 110], "polygon": [[80, 100], [100, 100]]}
    ]
    assert client.status["print_stats"]["info"] == {"total_layer": 8, "current_layer": 1}
    assert client.status["display_status"]["progress"] == 0.12


async def test_filament_runout(rig: VirtualPrinter, client: Client) -> None:
    """A runout pauses the print without any special message; it can be resumed without filament."""
    await printing(client, "slow.gcode")
    place = await client.heard("history added")
    await client.state("toolhead", "homed_axes", "xyz")
    await rig.control("filament", present=False)
    await client.state("filament_switch_sensor runout", "filament_detected", False)
    await client.state("print_stats", "state", "paused")
    await client.state("pause_resume", "is_paused", True)
    assert not [m for m in client.log[place:] if label(m).startswith(("history", "response !!"))][1:]
    await client.call("printer.print.resume")
    await client.state("print_stats", "state", "printing")


async def test_temperatures_take_time(client: Client) -> None:
    """M109 returns when the heater is there, and tells the temperatures once a second of printer time."""
    began = time.monotonic()
    await client.gcode("M109 S200")
    assert (time.monotonic() - began) * FACTOR > 15.0
    told = [text for text in client.responses() if text.startswith("B:") and "T0:" in text]
    assert told
    answer = await client.call("printer.objects.query", objects={"extruder": None})
    assert answer["status"]["extruder"]["temperature"] >= 198.0
