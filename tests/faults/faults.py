"""What can be broken, by name: each is one method, which breaks it, waits, and mends it."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

from tests.faults.proxy import Proxy, Way

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from tests.faults.account import Cycle
    from tests.faults.harness import Rig

RUBBISH = b"\x00\xff\xff\xfe{]\r\n\r\n"  # the head of a packet of 250 MB for MQTT, of nothing that a websocket has


class Faults:
    """Breaks one rig. Two faults of the same thing wait for each other."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._locks = {name: asyncio.Lock() for name in ("agent", "printer", "broker", "mqtt", "moonraker")}

    async def carry_out(self, name: str, cycle: Cycle, rng: random.Random) -> None:
        """`name` is one of NAMES; all that is random is drawn before the first wait."""
        what, _, how = name.partition(".")
        duration = rng.choice((0.0, 0.3, 1.0, 2.5, 6.0))
        async with self._locks["printer" if what in ("klippy", "moonraker_process") else what]:
            cycle.faults.append(name)
            self._rig.note(f"FAULT {name} for {duration} s")
            if what in ("mqtt", "moonraker"):
                await self._network(self._rig.proxies[what], how, duration, cycle)
            else:
                if name == "klippy.kill":
                    cycle.killed.append(time.time())
                if name == "klippy.stall":  # what it has been handed cannot be taken back
                    cycle.delay += duration
                method: Callable[[str, float], Awaitable[None]] = getattr(self, f"_{what}")
                await method(how, duration)
            self._rig.note(f"mended {name}")

    async def _agent(self, how: str, duration: float) -> None:
        await self._rig.agent.stop(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        await asyncio.sleep(duration)
        await self._rig.agent.start()

    async def _broker(self, how: str, duration: float) -> None:
        await self._rig.broker.stop(kill=how == "kill")
        await asyncio.sleep(duration)
        await self._rig.broker.start()

    async def _klippy(self, how: str, duration: float) -> None:
        printer = self._rig.printer
        if how == "shutdown":
            await printer.control("shutdown", reason="MCU 'mcu' shutdown: Timer too close")
            await asyncio.sleep(duration)
            await printer.moonraker("printer.firmware_restart")
            await asyncio.sleep(0.3)
        elif how == "stall":
            await printer.control("stall", stalled=True)
            await asyncio.sleep(duration)
            await printer.control("stall", stalled=False)
        else:
            await printer.kill_klippy()
            await asyncio.sleep(duration)
            await printer.start_klippy()
        await printer.wait_ready()

    async def _moonraker_process(self, how: str, duration: float) -> None:
        printer = self._rig.printer
        await (printer.kill_moonraker() if how == "kill" else printer.stop_moonraker())
        await asyncio.sleep(duration)
        await printer.start_moonraker()

    async def _network(self, proxy: Proxy, how: str, duration: float, cycle: Cycle) -> None:
        if how == "cut":
            proxy.cut()
        elif how == "refuse":
            proxy.refuse()
        elif how == "stall":
            proxy.stall()
        elif how == "slow":
            proxy.slow(4096 if proxy is self._rig.proxies["mqtt"] else 64 * 1024, 0.15)
        elif how in ("lose_up", "lose_down"):
            proxy.lose(Way.UP if how == "lose_up" else Way.DOWN)
        elif how == "rubbish":
            await proxy.inject(RUBBISH)
        elif how == "flip":
            proxy.flip()
        if how in ("stall", "slow"):
            cycle.delay += duration + 1.0
        await asyncio.sleep(duration)
        proxy.heal()


NAMES = (
    "agent.kill", "agent.kill", "agent.kill", "agent.term",  # what the agent itself promises is tried most
    "moonraker_process.kill", "moonraker_process.term",
    "klippy.kill", "klippy.shutdown", "klippy.stall",
    "broker.kill", "broker.term",
    "mqtt.cut", "mqtt.refuse", "mqtt.stall", "mqtt.slow", "mqtt.lose_up", "mqtt.lose_down", "mqtt.rubbish",
    "moonraker.cut", "moonraker.refuse", "moonraker.stall", "moonraker.slow", "moonraker.lose_up",
    "moonraker.lose_down", "moonraker.rubbish", "moonraker.flip",
)  # fmt: skip
WITHOUT_AGENT = tuple(name for name in NAMES if not name.startswith("agent."))
# A broker that dies may take with it what it has acknowledged a moment ago, and a channel without TLS that puts rubbish
# between two messages may swallow one: the cloud asks again, with the same ID.
LOSSY = {"broker.kill", "mqtt.rubbish"}
