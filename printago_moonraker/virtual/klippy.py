"""A simulated Klippy, `python -m printago_moonraker.virtual.klippy --data-path DIR`: a process that can be killed.

`Printer` is one life of Klippy, from start-up to the next restart; `Host` goes from life to life around one `World`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from printago_moonraker.virtual.api_socket import ApiServer
from printago_moonraker.virtual.control import ControlServer
from printago_moonraker.virtual.devices import DisplayStatus, ExcludeObject, FilamentSensor, Outputs, add_reports
from printago_moonraker.virtual.dispatch import Gcode, Handler
from printago_moonraker.virtual.heaters import FIRST_READING, Heaters
from printago_moonraker.virtual.job import PauseResume, PrintStats, VirtualSd
from printago_moonraker.virtual.macros import add_macros
from printago_moonraker.virtual.motion import Toolhead
from printago_moonraker.virtual.moves import GcodeMove
from printago_moonraker.virtual.settings import EXTRAS, as_config, printer_settings
from printago_moonraker.virtual.world import Clock, World

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

logger = logging.getLogger(__name__)

CONNECT = 0.6  # s until the configuration is read and the MCU is there
RESTART_PAUSE = 1.0  # s between two lives
MCU_TIMEOUT = 90.0  # s until an absent MCU is given up
EXIT_DELAY = 0.03  # s between the answer to a restart and the end of this life

STARTUP = (
    "\nPrinter is not ready\nThe klippy host software is attempting to connect.  Please\nretry in a few moments.\n"
)
CONFIG_TAIL = (
    '\nOnce the underlying issue is corrected, use the "RESTART"\ncommand to reload the config and restart the host '
    "software.\nPrinter is halted\n"
)
RESET_TAIL = (
    '\nOnce the underlying issue is corrected, use the\n"FIRMWARE_RESTART" command to reset the firmware, reload the\n'
    "config, and restart the host software.\n"
)


class Printer:
    """One life: its objects, its commands, its state."""

    def __init__(self, world: World, data_path: Path, options: argparse.Namespace) -> None:
        self.world, self.clock, self.data_path = world, world.clock, data_path
        self.state, self.state_message = "startup", STARTUP
        self.halted = asyncio.Event()  # set by a shutdown: everything that waits for motion or heat looks at it
        self.objects: dict[str, Callable[[], dict[str, Any]]] = {}
        self.commands: dict[str, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready_at = float("inf")
        self._restart: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        settings = printer_settings(data_path / "gcodes", frozenset(options.extra), options.on_error_gcode)
        self.objects["gcode"] = lambda: {"commands": {name: {} for name in self.commands}}
        self.objects["webhooks"] = lambda: {"state": self.state, "state_message": self.state_message}
        configfile = {"config": as_config(settings), "settings": settings, "warnings": [], "save_config_pending": False}
        self.objects["configfile"] = lambda: configfile | {"save_config_pending_items": {}}
        self.gcode = Gcode(self)
        self.heaters = Heaters(self, settings)
        self.toolhead = Toolhead(self, settings)
        self.moves = GcodeMove(self)
        self.outputs = Outputs(self, settings)
        self.filament = FilamentSensor(self)
        self.print_stats = PrintStats(self)
        self.sdcard = VirtualSd(self, data_path / "gcodes", options.on_error_gcode)
        self.pause_resume = PauseResume(self)
        self.exclude = ExcludeObject(self)
        self.display = DisplayStatus(self)
        add_reports(self)
        add_macros(self)
        self.api = ApiServer(self, data_path / "comms" / "klippy.sock")

    @property
    def ready(self) -> bool:
        """G-code is taken."""
        return self.state == "ready"

    def sensors_live(self) -> bool:
        """The MCU has reported for the first time: before, everything reads zero."""
        return self.clock.now() > self._ready_at + FIRST_READING

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends, at the latest, with this life."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    async def pause(self, seconds: float) -> None:
        """Wait so many seconds of printer time, or until the printer is shut down."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds / self.clock.factor):
                await self.halted.wait()

    def shut_down(self, reason: str) -> None:
        """Klipper's shutdown: at once, whatever runs. A second one changes nothing."""
        if self.halted.is_set():
            return
        if self.state == "error":
            self.world.reset_will_fail = True
        was_ready = self.ready
        self.world.mcu_shutdown = True
        self.world.note("shutdown")
        self.state, self.state_message = "shutdown", f"{reason}{RESET_TAIL}Printer is shutdown\n"
        self.halted.set()
        self.sdcard.halt()
        self.toolhead.halt()
        if was_ready:
            self.gcode.info("Klipper state: Shutdown")

    def request_restart(self, kind: str) -> None:
        """End this life; `kind` is RESTART or FIRMWARE_RESTART."""
        if not self._restart.done():
            self._restart.set_result(kind)

    def call_remote_method(self, method: str, **params: Any) -> None:
        """action_call_remote_method."""
        self.api.call_remote_method(method, params)

    def info(self) -> dict[str, Any]:
        """The API server's `info`."""
        return {
            "state": self.state,
            "state_message": self.state_message,
            "hostname": socket.gethostname(),
            "klipper_path": str(Path(__file__).parent),
            "python_path": sys.executable,
            "process_id": os.getpid(),
            "user_id": os.getuid(),
            "group_id": os.getgid(),
            "log_file": str(self.data_path / "logs" / "klippy.log"),
            "config_file": str(self.data_path / "config" / "printer.cfg"),
            "software_version": "v0.13.0-730-g84104bbbd",
            "cpu_info": f"{os.cpu_count()} core virtual printer",
        }

    async def run(self, kind: str) -> str:
        """Live until a restart is asked for; returns its kind. `kind` is how this life began."""
        self.world.counters["klippy_starts"] += 1
        self.world.note("klippy")
        await self.api.start()
        self.spawn(self._connect(kind))
        try:
            restart = await self._restart
            await self.clock.sleep(EXIT_DELAY)
            self.gcode.info("Klipper state: Disconnect")
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # let the connections write it
            return restart
        finally:
            self.api.close()
            for task in (tasks := list(self._tasks)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, kind: str) -> None:
        await self.clock.sleep(CONNECT)
        trouble = await self._trouble(kind)
        if self.state != "startup":
            return  # shut down meanwhile: stays so
        if trouble is not None:
            self.state, self.state_message = "error", trouble
            return
        self._ready_at = self.clock.now()
        self.state, self.state_message = "ready", "Printer is ready"
        self.gcode.info("Klipper state: Ready")

    async def _trouble(self, kind: str) -> str | None:
        world = self.world
        if world.faults.config_error:
            return f"{world.faults.config_error}\n{CONFIG_TAIL}"
        waited = 0.0
        while world.faults.mcu_absent and waited < MCU_TIMEOUT:
            await self.clock.sleep(1.0)
            waited += 1.0
        if world.faults.mcu_absent:
            return f"mcu 'mcu': Unable to connect{RESET_TAIL}Error configuring printer\n"
        if kind == "FIRMWARE_RESTART":
            if world.reset_will_fail:
                world.reset_will_fail = False
                return f"Failed automated reset of MCU 'mcu'{RESET_TAIL}Error configuring printer\n"
            world.mcu_shutdown = False
        if world.mcu_shutdown:
            return f"Can not update MCU 'mcu' config as it is shutdown{RESET_TAIL}Error configuring printer\n"
        return None

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A defect of the virtual printer", exc_info=error)


class Host:
    """From life to life."""

    def __init__(self, data_path: Path, options: argparse.Namespace) -> None:
        self.world = World(Clock(options.time_factor), journal=data_path / "logs" / "journal.jsonl")
        self._data_path, self._options = data_path, options
        self.printer = Printer(self.world, data_path, options)

    async def run(self) -> None:
        """Until cancelled. A fresh process finds its MCU as fresh as itself."""
        async with ControlServer(self, self._data_path / "comms" / "control.sock"):
            kind = "RESTART"
            while True:
                kind = await self.printer.run(kind)
                await self.world.clock.sleep(RESTART_PAUSE)
                self.printer = Printer(self.world, self._data_path, self._options)


def die_with_parent() -> None:
    """Linux: be killed when the process that started this one ends. Elsewhere: nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


async def _serve(options: argparse.Namespace) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    for folder in ("gcodes", "comms", "logs", "config"):
        (options.data_path / folder).mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(asyncio.CancelledError):
        await Host(options.data_path, options).run()


def main() -> None:
    """The process's entry."""
    parser = argparse.ArgumentParser(description="A simulated Klippy behind Klipper's API socket.")
    parser.add_argument("--data-path", type=Path, required=True)
    parser.add_argument("--time-factor", type=float, default=1.0, help="how much faster than real")
    parser.add_argument("--extra", action="append", default=[], choices=EXTRAS, help="an object beyond the plain ones")
    parser.add_argument("--on-error-gcode", default="", help="virtual_sdcard's on_error_gcode")
    parser.add_argument("--die-with-parent", action="store_true")
    options = parser.parse_args()
    if options.die_with_parent:
        die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
