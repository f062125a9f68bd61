"""What several of these modules do with the virtual printer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.e2e.client import Client, label

if TYPE_CHECKING:
    from printago_moonraker.virtual.rig import VirtualPrinter

FACTOR = 30.0

FILES = {
    "slow.gcode": "G28\nG90\nG1 Z10 F900\n" + "G1 X10 F6000\nG1 X200\n" * 400,
    "short.gcode": "M117 one\nM117 two\n",
    "homing.gcode": "G4 P200\n" + "G28\n" * 50,
    "broken.gcode": "G28\nM117 before\nG1 X500 F6000\nM117 after\n",
    "unknown.gcode": "FOOBAR\nM117 done\n",
    "start.gcode": "PRINT_START BED_TEMP=60 EXTRUDER_TEMP=200\nG1 X50 F6000\n",
    "empty.gcode": "",
    "objects.gcode": "EXCLUDE_OBJECT_DEFINE NAME=Cube_id_1_copy_0 CENTER=90,110 POLYGON=[[80,100],[100,100]]\n"
    "SET_PRINT_STATS_INFO TOTAL_LAYER=8\nSET_PRINT_STATS_INFO CURRENT_LAYER=1\nM73 P12\n"
    "EXCLUDE_OBJECT_START NAME=Cube_id_1_copy_0\nG4 P20000\n",
}


async def hot(rig: VirtualPrinter, client: Client) -> None:
    await rig.control("set_homed")
    await rig.control("set_temperature", heater="extruder", temperature=200.0)
    await client.gcode("M104 S200")


async def printing(client: Client, name: str) -> None:
    await client.call("printer.print.start", filename=name)
    await client.state("print_stats", "state", "printing")


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    """What matters of a stretch of traffic: no pushes, no file notices, texts as they are."""
    skipped = ("status", "notify_proc", "notify_filelist")
    return [text for message in messages if not (text := label(message)).startswith(skipped)]
