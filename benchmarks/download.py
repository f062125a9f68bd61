"""A file from a web server into Moonraker through the agent, against `curl SOURCE | curl -F file=@- MOONRAKER`.

The agent checks what it sends with SHA-256, and Moonraker what it gets; curl sums up nothing. Ours and theirs take
turns. Counted are wall time, processor time of the agent or of both curls, and how much memory they take for it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.stage import MIB, Stage, main, median, ratio, source, successful, verdict

if TYPE_CHECKING:
    from pathlib import Path

BUDGET = 16.0  # MiB that a download of any size may add to the agent's memory
GAP = 1.2  # s between two uploads: Moonraker names its temporary file by the second


@dataclass(frozen=True)
class Run:
    """Seconds of wall and of processor time, MiB of memory."""

    wall: float
    cpu: float
    memory: float


async def run(options: argparse.Namespace, folder: Path) -> None:
    size = options.size * MIB
    async with source(folder / "source", size) as url, Stage(folder, tls=True) as stage:
        await _ours(stage, url)  # what the agent imports for its first transfer is memory.py's matter
        ours, theirs = [], []
        for _ in range(options.rounds):
            await asyncio.sleep(GAP)
            ours.append(await _ours(stage, url))
            await asyncio.sleep(GAP)
            theirs.append(await _theirs(stage, url))
        for name, runs in (("agent", ours), ("curl | curl", theirs)):
            wall, cpu, memory = (median([getattr(each, what) for each in runs]) for what in ("wall", "cpu", "memory"))
            speed = f"{wall:6.2f} s wall ({options.size / wall:4.0f} MiB/s)"
            print(f"{name:12}{speed} {cpu:6.2f} s of processor, {memory:7.1f} MiB of memory")
        walls = ratio([each.wall for each in ours], [each.wall for each in theirs])
        cpus = ratio([each.cpu for each in ours], [each.cpu for each in theirs])
        print(f"ratio       {walls:.2f} wall, {cpus:.2f} processor")
        growth = max(each.memory for each in ours)
        verdict(f"the agent's growth by {options.size} MiB", growth, BUDGET, "MiB")


async def _ours(stage: Stage, url: str) -> Run:
    before = stage.agent.memory().rss
    stage.agent.forget_peak()
    cpu, started = stage.agent.cpu(), time.monotonic()
    parameters = {"url": url, "file_name": "ours.gcode"}
    await successful(stage.cloud.command("printer_control", "download_gcode", parameters, timeout=600))
    wall = time.monotonic() - started
    return Run(wall, stage.agent.cpu() - cpu, stage.agent.memory().peak - before)


async def _theirs(stage: Stage, url: str) -> Run:
    return await asyncio.to_thread(_curls, url, f"{stage.printer.url}/server/files/upload")


def _curls(url: str, target: str) -> Run:
    """`curl | curl`, its memory being the larger one's: the second keeps the whole file to know its length."""
    started = time.monotonic()
    form = ("-F", "path=Printago", "-F", "file=@-;filename=theirs.gcode")
    with (
        subprocess.Popen(["curl", "-sS", url], stdout=subprocess.PIPE) as fetch,
        subprocess.Popen(["curl", "-sSf", "-o", os.devnull, *form, target], stdin=fetch.stdout) as send,
    ):
        usages = []
        for process in (fetch, send):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            usages.append(usage)
    if fetch.returncode or send.returncode:
        raise RuntimeError(f"curl ended with {fetch.returncode}, {send.returncode}")
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return Run(time.monotonic() - started, cpu, max(usage.ru_maxrss for usage in usages) / 1024)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="benchmarks.download", description=(__doc__ or "").split("\n\n")[0])
    made.add_argument(
        "--size", type=int, default=500, metavar="MIB", help="at most 1024, Moonraker's own limit (%(default)s)"
    )
    made.add_argument("--rounds", type=int, default=3, metavar="N", help="pairs (default: %(default)s)")
    return made


if __name__ == "__main__":
    sys.exit(main(parser(), run, needs=("curl", "openssl")))
