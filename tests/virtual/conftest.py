"""A simulated Klippy in this process: its parts are tested here, what Moonraker sees of them in tests/e2e."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.virtual.klippy import Printer
from printago_moonraker.virtual.world import Clock, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(5):
        while True:
            if true():
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def klippy(
    path: Path, *, factor: float = 100.0, extra: tuple[str, ...] = (), on_error: str = ""
) -> AsyncIterator[Printer]:
    """A ready printer; `said` on it collects what it says to its listeners."""
    for folder in ("gcodes", "comms"):
        (path / folder).mkdir()
    printer = Printer(World(Clock(factor)), path, argparse.Namespace(extra=extra, on_error_gcode=on_error))
    life = asyncio.create_task(printer.run("RESTART"))
    try:
        await until(lambda: printer.ready and printer.sensors_live())
        yield printer
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


@pytest.fixture
async def printer(tmp_path: Path) -> AsyncIterator[Printer]:
    async with klippy(tmp_path) as running:
        yield running


@pytest.fixture
def said(printer: Printer) -> list[str]:
    heard: list[str] = []
    printer.gcode.listeners.append(heard.append)
    return heard
