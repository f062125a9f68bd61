"""What is known of the file that is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from printago_moonraker.printer.loaded import LoadedFile
from tests.fakes.klipper import METADATA, PATH, bench, printing
from tests.fakes.moonraker import Refusal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("filename", [PATH, PATH.upper()])
async def test_metadata_and_earlier_durations(tmp_path: Path, filename: str) -> None:
    """They are read once the file is loaded, in whichever spelling Klipper has its name."""
    async with bench(tmp_path) as it:
        done = {"filename": filename, "status": "completed", "total_duration": 60.0, "job_id": "1"}
        it.moonraker.answers["server.history.list"] = {"jobs": [done]}
        await it.push(**printing())
        await LoadedFile(it.printer)._read(it.printer.api, PATH)
        assert it.printer.metadata == METADATA
        assert it.printer.print_times == (60.0,)


async def test_a_moonraker_without_a_history(tmp_path: Path) -> None:
    """The file's metadata is there all the same."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["server.history.list"] = Refusal(-32601, "Method not found")
        await it.push(**printing())
        await LoadedFile(it.printer)._read(it.printer.api, PATH)
        assert it.printer.metadata == METADATA
        assert it.printer.print_times == ()
