"""A simulated Klippy in this process: its parts are tested here, what Moonraker sees of them in tests/e2e."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.virtual.klippy import Printer
from printago_moonraker.virtual.world import Clock, World
from tests.fakes.clock import ClockLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

# Those that need another process or a peer. To all others time is exact: the loop's own, which jumps over every wait.
REAL_TIME = {"test_rig", "test_webcam", "test_broker"}


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    name = item.path.stem
    return {"real": asyncio.new_event_loop} if name in REAL_TIME else {"exact": ClockLoop}


class ExactClock(Clock):
    """The loop's clock. `factor` 1: in simulated time nothing has to be quick."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(600):  # of simulated time
        while not true():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.005)


@asynccontextmanager
async def klippy(path: Path, *, extra: tuple[str, ...] = (), on_error: str = "") -> AsyncIterator[Printer]:
    """A ready printer in exact time."""
    for folder in ("gcodes", "comms"):
        (path / folder).mkdir()
    printer = Printer(World(ExactClock()), path, argparse.Namespace(extra=extra, on_error_gcode=on_error))
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
