"""Download and print in one command."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from printago_moonraker.commands.lanes import Lane
from tests.fakes.klipper import bench
from tests.fakes.source import FakeSource, Reply

if TYPE_CHECKING:
    from pathlib import Path

ROOM = {"files": [], "dirs": [], "disk_usage": {"total": 10**10, "free": 5 * 10**9}}


async def test_a_print_that_is_no_longer_wanted_does_not_begin(tmp_path: Path) -> None:
    """The command expired while it downloaded or waited for its turn: the file is there, and nothing moves."""
    async with bench(tmp_path) as it, FakeSource(Reply(200, b"G28\n" * 10)) as source:
        it.moonraker.answers["server.files.get_directory"] = ROOM
        expires = datetime.now(UTC) + timedelta(seconds=1.5)
        lanes = it.executor._context.lanes
        async with lanes.turn(Lane.ORDERED):
            it.send("printer_control.start_print_bbl", {"url": source.url}, expires_at=expires.isoformat())
            async with asyncio.timeout(5):
                while not lanes.waiting:  # noqa: ASYNC110 - a lane tells nobody
                    await asyncio.sleep(0.01)
            assert "TransferDone" in [name for name, _ in it.emitted]
            await asyncio.sleep((expires - datetime.now(UTC)).total_seconds() + 0.05)  # it is the clock that is tested
        kind, data = await it.answered()
        assert (kind, data["code"]) == ("error", "expired")
        assert "printer.print.start" not in [request["method"] for request in it.moonraker.requests]
