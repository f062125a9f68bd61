"""`printago-moonraker virtual-printer`: one virtual printer until stopped."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from printago_moonraker.virtual.rig import VirtualPrinter
from printago_moonraker.virtual.settings import EXTRAS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def run_virtual_printer(
    data_path: Path, port: int, time_factor: float, say: Callable[[str], None] = print
) -> int:
    """Run until SIGINT or SIGTERM, and say what happens. Returns the exit code.

    Raises AgentError: one line on what is wrong and what to do.
    """
    loop = asyncio.get_running_loop()
    printer = VirtualPrinter(data_path, port=port, time_factor=time_factor, extras=EXTRAS[:3], say=say)
    running = asyncio.create_task(_run(printer, say))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()  # what kept it from running
        say("Stopped.")
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _run(printer: VirtualPrinter, say: Callable[[str], None]) -> None:
    say(f"Starting a virtual printer in {printer.data_path} ...")
    async with printer:
        say(f"Ready: Moonraker is at {printer.url}, G-code files go to {printer.gcodes}. Ctrl-C stops it.")
        await printer.wait_ended()
