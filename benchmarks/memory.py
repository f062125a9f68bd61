"""The agent's resident memory with 1, 5 and 20 printers, against a Python that only imports the same libraries.

Measured over TLS, in four states: all printers known and nothing asked; a command answered by each; one of them
printing; and after a download. All printers are one virtual printer's Moonraker, at which the agent has that many
websockets, models and MQTT sessions: its memory does not know the difference, and this machine need not start twenty.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from benchmarks.stage import MIB, ROOT, Memory, Process, Stage, main, source, successful, verdict

if TYPE_CHECKING:
    from pathlib import Path

BUDGET = 45.0  # MiB with one printer, whatever it did
BUDGET_EACH = 2.0  # MiB for each further one
SAMPLE = ROOT / "printago_moonraker" / "virtual" / "samples" / "demo.gcode"
LIBRARIES = "asyncio, ssl, logging, configparser, aiohttp, websockets.asyncio.client, paho.mqtt.client, jsonschema"
SETTLE = 3.0  # s, so that what only the start needed is over
PRINTING = 10.0  # s
DOWNLOAD = 32 * MIB


async def run(options: argparse.Namespace, folder: Path) -> None:
    floor = await _floor()
    print(f"floor    a Python that has imported the libraries: {floor.rss:.1f} MiB resident")
    print("printers  state          resident      PSS     peak   to the floor")
    most: dict[int, float] = {}
    for count in options.printers:
        place = folder / str(count)
        place.mkdir()
        states = await _states(place, count)
        most[count] = max(memory.rss for memory in states.values())
        for state, memory in states.items():
            figures = f"{memory.rss:9.1f} {memory.pss:8.1f} {memory.peak:8.1f}"
            print(f"{count:8}  {state:13}{figures}   {memory.rss / floor.rss:9.2f}")
    first, last = min(most), max(most)
    verdict(f"{first} printer(s), the most of all states", most[first], BUDGET + (first - 1) * BUDGET_EACH, "MiB")
    if last > first:
        verdict("each further one", (most[last] - most[first]) / (last - first), BUDGET_EACH, "MiB")


async def _floor() -> Memory:
    code = f"import sys, {LIBRARIES}; print('ready', flush=True); sys.stdin.read()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    memory = Process(process.pid).memory()
    await process.communicate(b"")
    return memory


async def _states(folder: Path, count: int) -> dict[str, Memory]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(source(folder / "source", DOWNLOAD))
        stage = await stack.enter_async_context(Stage(folder, printers=count, time_factor=10.0, tls=True))
        await asyncio.sleep(SETTLE)
        states = {"idle": stage.agent.memory()}
        for number in range(count):
            async with stage.cloud_for(f"p{number}") as cloud:
                await successful(cloud.command("temperature_control", "set_bed", {"temperature": 30 + number}))
        states["commanded"] = stage.agent.memory()
        await asyncio.to_thread(_put, stage.printer.gcodes / "Printago" / "demo.gcode")
        await successful(stage.cloud.command("printer_control", "start_print", {"file_name": "demo.gcode"}))
        await asyncio.sleep(PRINTING)
        states["printing"] = stage.agent.memory()
        await successful(stage.cloud.command("printer_control", "download_gcode", {"url": url}))
        await asyncio.sleep(SETTLE)
        return states | {"downloaded": stage.agent.memory()}


def _put(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(SAMPLE, path)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="benchmarks.memory", description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("--printers", type=int, nargs="+", default=[1, 5, 20], metavar="N", help="default: 1 5 20")
    return made


if __name__ == "__main__":
    sys.exit(main(parser(), run, needs=("openssl",)))
