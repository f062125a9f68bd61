"""A command's round trip: MQTT in, agent, Moonraker, and back, against what it is made of.

    get_status   answered from the agent's model; against a program that only echoes, over the same broker
    jog          one call to Klipper, whose answer waits for no tick; against the same call straight to Moonraker
    set_bed      done when seen, so it takes a tick of Klipper's (250 ms); against the same call and look, straight

Everything is interleaved (ours, theirs, ours, theirs) in one run, first with mosquitto's `set_tcp_nodelay true`, then
with the broker as it comes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.stage import Stage, child, main, median, p99, ratio, successful, verdict
from printago_moonraker import config
from printago_moonraker.moonraker.connection import Connection, connect
from printago_moonraker.printago import mqtt
from printago_moonraker.printago.endpoint import Message, endpoint_for
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.printer import gcode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    Act = Callable[[int], Awaitable[object]]

BUDGET = 5.0  # ms that the agent adds at the median
WARM_UP = 5  # rounds that do not count
FAST = 1000.0  # the printer's time factor: a move takes no time, what is left is the way there and back
ECHO = "echo"


async def run(options: argparse.Namespace, folder: Path) -> None:
    for nodelay in (True, False):
        print(f"\nmosquitto {'with set_tcp_nodelay true' if nodelay else 'as it comes'}")
        place = folder / str(int(nodelay))
        place.mkdir()
        async with (
            Stage(place, time_factor=FAST, nodelay=nodelay, tls=options.tls) as stage,
            connect(stage.printer.url, api_key=None, on_notification=lambda *_: None) as direct,
        ):
            await stage.printer.control("set_homed")
            await stage.cloud.wait_for(lambda e: e["data"].get("klipper", {}).get("homed_axes") == "xyz")
            await _measure(stage, direct, options.rounds)


async def _measure(stage: Stage, direct: Connection, rounds: int) -> None:
    cloud, control = stage.cloud, "printer_control"
    status = await cloud.command(control, "get_status")
    async with _echo(stage, status) as echo:
        await _compare("get_status", "MQTT echo", rounds,
            lambda _: cloud.command(control, "get_status"),
            lambda _: echo.command(control, "get_status"))  # fmt: skip

    def step(n: int) -> float:
        return 0.1 if n % 2 else -0.1

    added = await _compare("jog", "RPC", rounds,
        lambda n: successful(cloud.command("movement_control", "jog", {"axes": {"x": step(n)}})),
        lambda n: direct.call("printer.gcode.script",
                              {"script": gcode.jog({"x": step(n)}, relative=True, speed=3000.0)}))  # fmt: skip
    async with _watching(stage.printer.url) as (watcher, targets):
        await _compare("set_bed", "RPC and look", max(10, rounds // 10),
            lambda n: successful(cloud.command("temperature_control", "set_bed", {"temperature": 40 + n % 2})),
            lambda n: _set_and_see(watcher, targets, 50.0 + n % 2))  # fmt: skip
    verdict("jog, added at the median", added, BUDGET, "ms")


async def _compare(ours: str, theirs: str, rounds: int, agent: Act, straight: Act) -> float:
    """Interleave both, print their times; the milliseconds that ours takes longer at the median."""
    times: tuple[list[float], list[float]] = [], []
    for n in range(-WARM_UP, rounds):
        for act, taken in zip((agent, straight), times, strict=True):
            started = time.perf_counter()
            await act(n)
            if n >= 0:
                taken.append((time.perf_counter() - started) * 1000)
    a, b = times
    added = median([x - y for x, y in zip(a, b, strict=True)])
    print(f"{ours:10} {_figures(a)}   {theirs:12} {_figures(b)}   adds {added:5.2f} ms, ratio {ratio(a, b):.2f}")
    return added


def _figures(times: Sequence[float]) -> str:
    return f"median {median(times):6.2f} p99 {p99(times):6.2f} ms"


# --------------------------------------------------------------------------------------------------------------- peers


@asynccontextmanager
async def _watching(url: str) -> AsyncIterator[tuple[Connection, asyncio.Queue[float]]]:
    """A connection of its own that is subscribed to the bed's target; a queue of what it became."""
    targets: asyncio.Queue[float] = asyncio.Queue()

    def on_notification(method: str, params: Any) -> None:
        if method == "notify_status_update" and "target" in params[0].get("heater_bed", {}):
            targets.put_nowait(params[0]["heater_bed"]["target"])

    async with connect(url, api_key=None, on_notification=on_notification) as connection:
        await connection.call("printer.objects.subscribe", {"objects": {"heater_bed": ["target"]}})
        yield connection, targets


async def _set_and_see(connection: Connection, targets: asyncio.Queue[float], target: float) -> None:
    await connection.call("printer.gcode.script", {"script": gcode.set_heater("heater_bed", target)})
    while await targets.get() != target:
        pass


@asynccontextmanager
async def _echo(stage: Stage, status: dict[str, Any]) -> AsyncIterator[Any]:
    """A process that answers every command at once, with bytes as many as a status has; its cloud."""
    canned = stage.folder / "answer.json"
    canned.write_text(json.dumps(status))
    arguments = ("-m", "benchmarks.round_trip", "--be-echo", str(stage.config.path), str(canned))
    async with stage.cloud_for(ECHO) as cloud, child(*arguments):
        async with asyncio.timeout(20):
            while True:  # it answers as soon as it is subscribed, and nothing is kept for it before
                try:
                    await cloud.command("printer_control", "get_status", timeout=0.2)
                except TimeoutError:
                    continue
                break
        yield cloud


async def _be_echo(settings: config.Config, answer: dict[str, Any]) -> None:
    """The other process: the same MQTT client as the agent's, and nothing behind it."""
    topics = topics_for(settings, config.PrinterConfig(ECHO))
    up: list[mqtt.MqttSession] = []

    def reply(message: Message) -> None:
        message.ack()
        answer["command"]["id"] = json.loads(message.payload)["id"]
        for session in up:
            session.publish(topics.message("status"), json.dumps(answer).encode())

    endpoint = endpoint_for(settings.mqtt, ECHO)
    async with mqtt.connect(endpoint, subscriptions=[topics.commands], on_message=reply) as session:
        up.append(session)
        await session.wait_closed()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="benchmarks.round_trip", description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("--rounds", type=int, default=200, metavar="N", help="pairs of each (default: %(default)s)")
    made.add_argument("--tls", action="store_true", help="with TLS between the agent and the broker")
    return made


if __name__ == "__main__":
    if sys.argv[1:2] == ["--be-echo"]:
        asyncio.run(_be_echo(config.load(Path(sys.argv[2])), json.loads(Path(sys.argv[3]).read_text())))
    else:
        sys.exit(main(parser(), run))
