"""Ninety days of a farm's printer, with everything that can go away going away, in simulated time."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import time
from contextlib import suppress
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import agent, config, session
from printago_moonraker.clock import Clock
from printago_moonraker.printago import link, store
from tests.fakes import clock
from tests.simulated.edges import connectors, rows
from tests.simulated.world import STEPS, Process, World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.fakes.clock import ClockLoop

DAYS = int(os.environ.get("SIMULATED_DAYS", "90"))
DAY = 86400.0
HOUR = 3600.0
CONFIG = """\
[printago]
data_path: {folder}/data
[mqtt]
host: 127.0.0.1
tls: off
username: farm
[status]
heartbeat: 600
[printer v1]
"""


class Life:
    """The world's course: prints one after the other, and what goes away every so often."""

    def __init__(self, world: World, settings: config.Config) -> None:
        self._world = world
        self._rng = world.rng
        self._settings = settings
        self._agent: asyncio.Task[int] | None = None
        self.samples: list[dict[str, int]] = []  # what there is at each day's end: objects, tasks, rows of each table
        self.deaths = 0
        self._files = 0
        self._own: set[asyncio.Task[Any]] = set()  # the tasks that are not the agent's
        self.stuck: list[str] = []  # the agent's tasks that a stop has not ended

    async def run(self, days: int) -> None:
        self._own |= asyncio.all_tasks()
        self._start()
        async with asyncio.TaskGroup() as tasks:
            lives = [
                self._print(),
                self._every(2 * HOUR, "mqtt", self._drop_mqtt),
                self._every(3 * HOUR, "moonraker link", self._drop_moonraker),
                self._every(9 * HOUR, "moonraker", self._restart_moonraker),
                self._every(12 * HOUR, "klippy", self._restart_klippy),
                self._every(6 * HOUR, "agent", self._kill_agent),
            ]
            running = [tasks.create_task(life) for life in lives]
            self._own.update(running)
            for _ in range(days):
                await asyncio.sleep(DAY)
                gc.collect()
                counts = {"objects": len(gc.get_objects()), "tasks": len(asyncio.all_tasks())}
                self.samples.append({**counts, **rows(self._world)})
            for task in running:
                task.cancel()
        world = self._world
        world.moonraker_up = world.broker_up = True
        if not world.klippy_up:
            world.klippy_comes()
        if self._agent is None or self._agent.done():
            self._start()
        world.end("completed")
        await asyncio.sleep(HOUR)
        await self._stop()

    def _start(self) -> None:
        self._world.note("the agent starts")
        self._world.process = Process()
        self._agent = asyncio.create_task(agent.run(self._settings))

    async def _stop(self) -> None:
        assert self._agent is not None
        self.deaths += self._agent.done()
        self._agent.cancel()
        with suppress(asyncio.CancelledError):
            await self._agent
        # What outlives its process here would have held up the stopping of the real one until it is killed.
        left = asyncio.all_tasks() - self._own
        self.stuck += [task.get_name() for task in left]
        while left:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1.0)
            left = asyncio.all_tasks() - self._own

    async def _print(self) -> None:
        """A print of half an hour to ten hours, started by the cloud or at the printer; then a pause."""
        world, rng = self._world, self._rng
        while True:
            await asyncio.sleep(rng.expovariate(1 / 600.0) + 120.0)
            self._files += 1
            file = f"Printago/p{self._files:05}.gcode"
            if rng.random() < 0.5:
                world.command("start_print", file_name=file, job_id=file)
                await asyncio.sleep(60.0)
            elif world.klippy_up:
                world.begin(file)
            job, step = world.job, rng.uniform(HOUR / 2, 8 * HOUR) / STEPS
            for number in range(STEPS):
                await asyncio.sleep(step)
                if world.job is not job or job is None:
                    break
                world.push(virtual_sdcard={"progress": number / STEPS})
                if rng.random() < 0.02:
                    world.command("pause_print")
                    await asyncio.sleep(100.0)
                    world.command("resume_print")
                elif rng.random() < 0.01:
                    world.command("stop_print")
                    await asyncio.sleep(100.0)
            if world.job is job and job is not None:
                world.end(rng.choice(("completed", "completed", "completed", "error", "cancelled")))

    async def _every(self, mean: float, name: str, happen: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / mean))
            self._world.drops[name] += 1
            await happen()

    async def _drop_mqtt(self) -> None:
        self._world.broker_up = self._rng.random() < 0.5
        self._world.drop_mqtt()
        await asyncio.sleep(self._rng.expovariate(1 / 300.0))
        self._world.broker_up = True

    async def _drop_moonraker(self) -> None:
        self._world.drop_moonraker()

    async def _restart_moonraker(self) -> None:
        self._world.moonraker_dies()
        await asyncio.sleep(self._rng.expovariate(1 / 30.0))
        self._world.moonraker_up = True

    async def _restart_klippy(self) -> None:
        self._world.klippy_dies()
        await asyncio.sleep(self._rng.expovariate(1 / 60.0))
        self._world.klippy_comes()

    async def _kill_agent(self) -> None:
        self._world.note("the agent ends")
        if self._rng.random() < 0.7:
            self._world.note("by kill -9")
            self._world.process.alive = False
            self._world.drop_mqtt()
            self._world.drop_moonraker()
        await self._stop()
        await asyncio.sleep(self._rng.expovariate(1 / 120.0))
        self._start()


@pytest.mark.timeout(240)
def test_ninety_days_leave_nothing_behind_and_each_print_has_one_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After thousands of drops and restarts every print that was seen has one start and one end, and nothing grows."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # pytest would keep every line
    seed = int(os.environ.get("SIMULATED_SEED", random.SystemRandom().randrange(10**6)))
    rng = random.Random(seed)
    random.seed(seed)  # the agent's jitter
    (tmp_path / "printago.cfg").write_text(CONFIG.format(folder=tmp_path))
    settings = config.load(tmp_path / "printago.cfg")

    async def main(loop: ClockLoop) -> tuple[World, Life]:
        world = World(rng)
        edges = connectors(world)
        monkeypatch.setattr(session, "connect", edges.moonraker)
        monkeypatch.setattr(link, "connect", edges.mqtt)
        monkeypatch.setattr(store, "Database", edges.database)
        world.wall = _patch_clocks(monkeypatch, loop.time)
        life = Life(world, settings)
        await life.run(DAYS)
        return world, life

    world, life = clock.run(main)
    told = f"seed {seed}: {world.jobs} prints, {world.commands} commands, {dict(world.drops)}"
    twice = [key for key, count in world.told.items() if count > 1]
    unstarted = [file for file, end in world.told if end and not world.told[file, False]]
    assert world.jobs > 3 * DAYS, told
    assert not twice, f"{told}; told more than once: {twice[:20]}\n" + "\n".join(world.evidence)
    assert not world.late, f"{told}; started late: {world.late[:20]}"
    assert not world.open, f"{told}; no end was told of {len(world.open)}: {list(world.open.values())[:20]}"
    assert not world.wrong_ends, f"{told}; told another end: {world.wrong_ends[:20]}\n" + "\n".join(world.evidence)
    assert not unstarted, f"{told}; ended without a start: {unstarted[:20]}"
    assert life.deaths == 0, told
    assert not life.stuck, f"{told}; a stop has not ended {len(life.stuck)} tasks: {sorted(set(life.stuck))}"
    _assert_flat(life.samples)


def _patch_clocks(monkeypatch: pytest.MonkeyPatch, monotonic: Callable[[], float]) -> Callable[[], float]:
    """The wall's clock, which is returned, and the monotonic one go with the simulated time."""
    began = time.time()

    def wall() -> float:
        return began + monotonic()

    class Simulated(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Simulated:
            return cls.fromtimestamp(wall(), tz)

    def make_clock() -> Clock:
        return Clock(wall=wall, monotonic=monotonic, just_started=lambda: False, synchronised=lambda: True)

    monkeypatch.setattr(time, "monotonic", monotonic)
    monkeypatch.setattr(link, "datetime", Simulated)
    monkeypatch.setattr(agent, "Clock", make_clock)
    return wall


def _assert_flat(samples: list[dict[str, int]]) -> None:
    """The last third of the days holds about as much as the first."""
    third = len(samples) // 3
    for what in samples[-1]:
        early, late = (sum(day.get(what, 0) for day in days) / third for days in (samples[:third], samples[-third:]))
        allowed = early * 1.05 + 500 if what == "objects" else early * 1.5 + 10
        assert late <= allowed, f"{what} grew from {early:.0f} to {late:.0f}"
