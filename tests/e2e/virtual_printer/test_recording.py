"""The virtual printer against a recorded session, and a real slicer's file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from printago_moonraker.virtual.rig import VirtualPrinter
from tests.e2e.client import Client, connected
from tests.e2e.virtual_printer.steps import kinds

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

RECORDING = Path(__file__).parents[2] / "recordings" / "klipper-session.jsonl"
SAMPLE = Path(__file__).parents[3] / "printago_moonraker" / "virtual" / "samples" / "demo.gcode"


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDING.read_text().splitlines()]


def shape(value: Any) -> Any:
    """A value's type, as a JSON reader sees it; an int is a number like any other."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


async def test_same_objects_as_recorded(client: Client) -> None:
    """Every object of the recorded printer is there, and those subscribed to have the same fields of the same types."""
    session = [entry["msg"] for entry in recorded()]
    listed = next(m["result"]["objects"] for m in session if "objects" in (m.get("result") or ()))
    assert set(listed) <= set((await client.call("printer.objects.list"))["objects"])
    theirs = next(m["result"]["status"] for m in session if m.get("id") == 7 and "result" in m)
    ours = await client.subscribe(*theirs)
    assert shape(ours) == shape(theirs)


async def test_same_printer_info_as_recorded(client: Client) -> None:
    """printer.info has the members that the recorded one has."""
    theirs = next(e["msg"]["result"] for e in recorded() if e["msg"].get("id") == 3 and "result" in e["msg"])
    assert shape(await client.call("printer.info")) == shape(theirs)


async def hears(client: Client, count: int) -> None:
    await client.until(lambda: len(kinds(client.log)) >= count)


async def test_same_answers_as_recorded(client: Client) -> None:
    """The recorded requests, from the first error to the recovery, bring the recorded notices and answers in order."""
    session = recorded()
    asked = {entry["msg"]["id"]: i for i, entry in enumerate(session) if entry["dir"] == "out"}
    for number in (8, 9, 10, 11, 12, 13, 14, 15, 26, 27, 28):
        request = session[asked[number]]["msg"]
        stretch = [entry["msg"] for entry in session[asked[number] + 1 : asked[number + 1]] if entry["dir"] == "in"]
        client.log.clear()
        await asyncio.gather(client.send(request["method"], **request.get("params", {})), return_exceptions=True)
        await hears(client, len(kinds(stretch)))
        assert kinds(client.log) == kinds(stretch), request


async def test_the_sample(tmp_path: Path) -> None:
    """The demo's file, real slicer output, prints to its end with its layers, objects, progress and thumbnails."""
    async with VirtualPrinter(tmp_path, time_factor=100.0) as fast, connected(fast.url) as client:
        (fast.gcodes / "demo.gcode").write_bytes(SAMPLE.read_bytes())
        await client.heard("notify_filelist_changed")
        await client.subscribe()
        await client.call("printer.print.start", filename="demo.gcode")
        await client.state("print_stats", "state", "complete", timeout=30.0)
        await client.heard("history finished completed")
        assert not [text for text in client.responses() if text.startswith(("!!", "// Unknown"))]
        assert client.status["print_stats"]["info"] == {"total_layer": 24, "current_layer": 24}
        assert len(client.status["exclude_object"]["objects"]) == 2
        metadata = await client.call("server.files.metadata", filename="demo.gcode")
        assert metadata["slicer"] == "PrusaSlicer"
        assert metadata["thumbnails"]
        assert client.status["print_stats"]["filament_used"] == pytest.approx(metadata["filament_total"], rel=0.02)
        assert 0.7 < client.status["print_stats"]["print_duration"] / metadata["estimated_time"] < 1.2
