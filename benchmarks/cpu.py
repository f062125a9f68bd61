"""The agent's processor time while one printer prints, and while it idles, against Moonraker's own in the same run.

The virtual printer prints real slicer output at real speed, and Klipper tells about it four times a second, as on a
real one.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.stage import ROOT, Stage, main, successful, verdict

if TYPE_CHECKING:
    from pathlib import Path

BUDGET = 1.0  # % of a core for each printer that prints
SAMPLE = ROOT / "printago_moonraker" / "virtual" / "samples" / "demo.gcode"
SETTLE = 5.0  # s, so that the start of the agent, or of the print, is over


async def run(options: argparse.Namespace, folder: Path) -> None:
    async with Stage(folder, tls=True) as stage:
        target = stage.printer.gcodes / "Printago" / "demo.gcode"
        target.parent.mkdir()
        await asyncio.to_thread(shutil.copyfile, SAMPLE, target)
        await stage.printer.control("set_homed")
        await asyncio.sleep(SETTLE)
        await _measure("idle", stage, options.seconds)
        await successful(stage.cloud.command("printer_control", "start_print", {"file_name": "demo.gcode"}))
        await asyncio.sleep(SETTLE)
        percent = await _measure("printing", stage, options.seconds)
        state = await successful(stage.cloud.command("printer_control", "get_status"))
        if state["printer_state_id"] != "PRINTING":
            raise RuntimeError(f"the print was over before the measuring: {state['printer_state_string']}")
        verdict("the agent while one printer prints", percent, BUDGET, "% of a core")


async def _measure(what: str, stage: Stage, seconds: float) -> float:
    processes = (stage.agent, stage.moonraker)
    started, before = time.monotonic(), [process.cpu() for process in processes]
    heard = len(stage.cloud.envelopes)
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - started
    ours, theirs = (100 * (process.cpu() - then) / elapsed for process, then in zip(processes, before, strict=True))
    envelopes = (len(stage.cloud.envelopes) - heard) * 60 / elapsed
    print(
        f"{what:9} agent {ours:5.2f} % of a core ({ours * 0.6:.2f} s a minute), Moonraker {theirs:5.2f} %, "
        f"ratio {ours / theirs if theirs else 0:.2f}; {envelopes:.0f} envelopes a minute"
    )
    return ours


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="benchmarks.cpu", description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("--seconds", type=float, default=60.0, metavar="S", help="each part (default: %(default)g)")
    return made


if __name__ == "__main__":
    sys.exit(main(parser(), run, needs=("openssl",)))
