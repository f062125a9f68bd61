"""What a typical printer's Klipper says, and a bench: an agent's printer behind a real socket, with no Printago."""

from __future__ import annotations

import asyncio
import copy
import json
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from printago_moonraker import commands as _declared  # noqa: F401 - importing it declares them
from printago_moonraker.clock import Clock
from printago_moonraker.commands.executor import Executor
from printago_moonraker.commands.lanes import Lanes
from printago_moonraker.commands.registry import Context
from printago_moonraker.config import CommandsSection, Config, PrintagoSection, PrinterConfig, TransfersSection
from printago_moonraker.errors import LinkError
from printago_moonraker.moonraker.api import Moonraker
from printago_moonraker.moonraker.connection import connect
from printago_moonraker.printago.endpoint import Message
from printago_moonraker.printago.store import Store
from printago_moonraker.printer.camera import Cameras
from printago_moonraker.printer.facts import read_facts
from printago_moonraker.printer.jobs import Jobs
from printago_moonraker.printer.klippy import KlippyWatch
from printago_moonraker.printer.printer import Printer
from tests.fakes.moonraker import SILENT, FakeMoonraker, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from printago_moonraker.printago.store import PrinterStore, Write
    from printago_moonraker.printer.prints import Transition

Status = dict[str, dict[str, Any]]
PATH = "Printago/cube.gcode"

STATUS: Status = {
    "webhooks": {"state": "ready", "state_message": "Printer is ready"},
    "print_stats": {
        "filename": "",
        "total_duration": 0.0,
        "print_duration": 0.0,
        "filament_used": 0.0,
        "state": "standby",
        "message": "",
        "info": {"total_layer": None, "current_layer": None},
    },
    "virtual_sdcard": {"file_path": None, "progress": 0.0, "is_active": False, "file_position": 0, "file_size": 0},
    "display_status": {"progress": 0.0, "message": None},
    "pause_resume": {"is_paused": False},
    "idle_timeout": {"state": "Idle"},
    "toolhead": {
        "homed_axes": "xyz",
        "axis_minimum": [0.0, 0.0, -2.0, 0.0],
        "axis_maximum": [235.0, 235.0, 250.0, 0.0],
        "extruder": "extruder",
        "position": [10.0, 20.0, 5.0, 0.0],
    },
    "gcode_move": {"speed_factor": 1.0, "extrude_factor": 1.0, "gcode_position": [10.0, 20.0, 5.0, 0.0]},
    "exclude_object": {"objects": [{"name": "CUBE"}], "excluded_objects": [], "current_object": None},
    "system_stats": {"sysload": 0.1},
    "extruder": {"temperature": 25.04, "target": 0.0, "can_extrude": False},
    "extruder1": {"temperature": 25.0, "target": 0.0, "can_extrude": False},
    "heater_bed": {"temperature": 24.0, "target": 0.0},
    "heater_generic Chamber": {"temperature": 23.0, "target": 0.0},
    "heater_generic dryer box": {"temperature": 22.0, "target": 0.0},
    "temperature_fan host": {"temperature": 40.0, "target": 60.0, "speed": 0.2},
    "fan": {"speed": 0.0, "rpm": None},
    "output_pin caselight": {"value": 0.5},
    "neopixel strip": {"color_data": [[1.0, 0.5, 0.0, 0.0]]},
    "filament_switch_sensor runout": {"filament_detected": True, "enabled": True},
}
OBJECTS = ["gcode", "configfile", "mcu", "gcode_macro PAUSE", *STATUS]
SETTINGS: dict[str, Any] = {
    "printer": {"kinematics": "corexy"},
    "extruder": {"min_temp": 0.0, "max_temp": 300.0, "nozzle_diameter": 0.4, "filament_diameter": 1.75},
    "extruder1": {"min_temp": 0.0, "max_temp": 260.0, "nozzle_diameter": 0.6},
    "heater_bed": {"min_temp": 0.0, "max_temp": 120.0},
    "heater_generic chamber": {"min_temp": 10.0, "max_temp": 70.0},
    "heater_generic dryer box": {"min_temp": -20.0, "max_temp": 80.0},
}
METADATA = {
    "size": 25947,
    "modified": 1795426085.9,
    "gcode_start_byte": 4076,
    "gcode_end_byte": 25098,
    "estimated_time": 178,
    "filament_total": 188.81,
    "layer_height": 0.2,
    "first_layer_height": 0.2,
    "layer_count": 8,
    "slicer": "OrcaSlicer",
    "thumbnails": [
        {"width": 32, "height": 32, "size": 348, "relative_path": ".thumbs/cube-32x32.png"},
        {"width": 300, "height": 300, "size": 2720, "relative_path": ".thumbs/cube-300x300.png"},
    ],
}


def snapshot(**changes: dict[str, Any]) -> Status:
    """The whole status with some fields changed: `snapshot(print_stats={"state": "paused"})`."""
    status = copy.deepcopy(STATUS)
    for name, fields in changes.items():
        status.setdefault(name, {}).update(fields)
    return status


def printing(state: str = "printing", filename: str = PATH, **fields: Any) -> Status:
    """A change of `print_stats`."""
    return {"print_stats": {"state": state, "filename": filename, **fields}}


def make_config(
    url: str = "http://127.0.0.1:7125", folder: Path = Path("/nonexistent"), **commands: Any
) -> tuple[PrinterConfig, Config]:
    printer = PrinterConfig(name="voron", moonraker_url=url)
    transfers = TransfersSection(allow_http=True, allowed_hosts=("127.0.0.1",), max_printago_files=2)
    return printer, Config(
        path=Path("printago.cfg"),
        printago=PrintagoSection(data_path=folder),
        printers=(printer,),
        commands=CommandsSection(**commands),
        transfers=transfers,
    )


class Recorder:
    """A printer that no network is behind, what it emitted, and its transitions."""

    def __init__(self, printer: Printer | None = None) -> None:
        self.emitted: list[tuple[str, dict[str, Any]]] = []
        self.transitions: list[Transition] = []
        self.printer = printer or Printer(*make_config(), emit=lambda *event: self.emitted.append(event))
        self.printer.on_change = self.transitions.extend

    @property
    def changes(self) -> list[str]:
        return [transition.change.value for transition in self.transitions]

    def ready(self, **changes: dict[str, Any]) -> Printer:
        """As Klipper is seen when it is ready."""
        printer = self.printer
        printer.state.moonraker = True
        printer.facts = read_facts(OBJECTS, {**STATUS, "configfile": {"settings": SETTINGS}})
        printer.snapshot(snapshot(**changes))
        return printer


class Bench:
    """A printer connected to a scripted Moonraker, with its executor. `answers` has what Printago would get."""

    def __init__(self, moonraker: FakeMoonraker, printer: Printer, emitted: list[tuple[str, dict[str, Any]]]) -> None:
        self.moonraker = moonraker
        self.printer = printer
        self.emitted = emitted
        self.transitions: list[Transition] = []
        self.answers: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.acknowledged: list[int] = []
        self.frames: list[tuple[str, bytes]] = []
        self.status = snapshot()
        self.klippy = "ready"
        self.watch: KlippyWatch | None = None
        self.executor: Executor
        self.ledger: PrinterStore
        self._news = asyncio.Event()
        printer.on_change = self._changed

    def _changed(self, transitions: list[Transition]) -> None:
        self.transitions += transitions
        self._news.set()

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:
        """Wait until the printer or the answers fulfil `condition`."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def answer(
        self, kind: str, data: dict[str, Any], echo: dict[str, str], _to: object, *, also: Write | None, at: object
    ) -> asyncio.Future[Any] | None:
        self.answers.append((kind, data, echo))
        self._news.set()
        return self.ledger.save(also) if also is not None else None

    async def publish(self, camera_name: str, jpeg: bytes) -> None:
        self.frames.append((camera_name, jpeg))
        self._news.set()

    def receive(
        self, payload: bytes, *, retain: bool = False, dup: bool = False, expiry: int | None = None, mid: int = 0
    ) -> None:
        number = len(self.acknowledged)
        self.acknowledged.append(0)

        def ack() -> None:
            self.acknowledged[number] += 1
            self._news.set()

        self.executor.receive(Message("c", payload, 1, retain, dup, None, None, expiry, ack, mid=mid))

    def send(self, name: str, parameters: Any = None, **members: Any) -> None:
        """A command comes in: `send("movement_control.home")`."""
        kind, _, action = name.partition(".")
        command = {"type": kind, "action": action, "parameters": {} if parameters is None else parameters, **members}
        self.receive(json.dumps(command).encode())

    async def answered(self, count: int = 1) -> tuple[str, dict[str, Any]]:
        """The newest answer's type and data, once there are `count`."""
        await self.until(lambda: len(self.answers) >= count)
        return self.answers[-1][:2]

    async def run(self, name: str, parameters: Any = None, **members: Any) -> tuple[str, dict[str, Any]]:
        count = len(self.answers)
        self.send(name, parameters, **members)
        return await self.answered(count + 1)

    async def push(self, **delta: dict[str, Any]) -> None:
        """Klipper's status changes; returns when the printer has it."""
        for name, fields in delta.items():
            self.status.setdefault(name, {}).update(fields)
        await self.moonraker.notify("notify_status_update", delta, 1.0)
        await self.until(lambda: all(fields.items() <= self.has(name).items() for name, fields in delta.items()))

    def has(self, name: str) -> dict[str, Any]:
        return self.printer.state.objects.get(name, {})

    def requests(self, method: str) -> list[Any]:
        return [request.get("params") for request in self.moonraker.requests if request["method"] == method]

    @property
    def scripts(self) -> list[str]:
        return [params["script"] for params in self.requests("printer.gcode.script")]

    async def called(self, method: str, count: int = 1) -> None:
        await self.moonraker.until(lambda: len(self.requests(method)) >= count)

    async def reply(self, method: str, result: Any = "ok") -> None:
        """Answer the newest call of a method whose scripted answer is SILENT."""
        await self.called(method)
        number = next(each["id"] for each in reversed(self.moonraker.requests) if each["method"] == method)
        error = {"error": {"code": result.code, "message": result.message}} if isinstance(result, Refusal) else {}
        await self.moonraker.send({"jsonrpc": "2.0", "id": number, **(error or {"result": result})})

    # ------------------------------------------------------------------------------------------------- its Moonraker

    def script(self) -> None:
        """The answers of a healthy Moonraker; moves and prints are left to the tests."""
        self.moonraker.answers |= {
            "server.info": lambda _: {"klippy_connected": self.klippy != "disconnected", "klippy_state": self.klippy},
            "printer.info": lambda _: {
                "state": self.klippy,
                "state_message": self.status["webhooks"]["state_message"],
                "software_version": "v0.13.0",
            },
            "printer.objects.list": lambda _: {"objects": OBJECTS},
            "printer.objects.subscribe": lambda params: {
                "status": {
                    name: {"settings": SETTINGS} if name == "configfile" else self.status.get(name, {})
                    for name in params["objects"]
                }
            },
            "printer.objects.query": lambda params: {"status": {name: self.status[name] for name in params["objects"]}},
            "server.files.metadata": METADATA,
            "server.history.list": {"jobs": []},
            **dict.fromkeys(("printer.print.start", "printer.print.pause", "printer.print.resume"), SILENT),
            **dict.fromkeys(("printer.print.cancel", "printer.gcode.script"), SILENT),
            **dict.fromkeys(("printer.restart", "printer.firmware_restart"), SILENT),
            "printer.emergency_stop": "ok",
        }

    async def stay_connected(self) -> None:
        while True:
            with suppress(LinkError):
                await self._connection()
            await asyncio.sleep(0.01)

    async def _connection(self) -> None:
        async with connect(self.moonraker.url, api_key=None, on_notification=self._notified) as connection:
            self.watch = KlippyWatch(self.printer, Moonraker(connection))
            self.printer.attach(Moonraker(connection))
            running = asyncio.create_task(self.watch.run())
            try:
                await connection.wait_closed()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                self.printer.detach()

    def _notified(self, method: str, params: Any) -> None:
        assert self.watch is not None
        if method == "notify_status_update":
            self.printer.apply(params[0])
        elif method == "notify_klippy_ready":
            self.watch.ready()
        elif method == "notify_klippy_disconnected":
            self.watch.disconnected()
        elif method == "notify_gcode_response" and params == ["// Klipper state: Shutdown"]:
            self.watch.shutdown()

    async def klippy_goes(self, state: str, message: str = "") -> None:
        """Klipper's process goes away, or comes back as `state`, and Moonraker tells of it as the real one does."""
        self.klippy = state
        self.status = snapshot(webhooks={"state": state, "state_message": message})
        if state == "disconnected":
            await self.moonraker.notify("notify_klippy_disconnected")
        elif state == "ready":
            await self.moonraker.notify("notify_klippy_ready")


@asynccontextmanager
async def bench(folder: Path, *, connected: bool = True, **commands: Any) -> AsyncIterator[Bench]:
    """A running bench; `commands` are options of the section [commands]."""
    emitted: list[tuple[str, dict[str, Any]]] = []
    async with FakeMoonraker() as moonraker:
        printer = Printer(*make_config(moonraker.url, folder, **commands), emit=lambda *event: emitted.append(event))
        it = Bench(moonraker, printer, emitted)
        it.script()
        clock = Clock()
        async with Store(None, trusted_time=clock.trusted_time) as store, asyncio.TaskGroup() as tasks:
            context = Context(printer, Jobs(printer), Lanes(), Cameras(printer, tasks, it.publish))
            it.ledger = store.of("voron")
            it.executor = Executor(context, tasks, it.answer, it.ledger, clock)
            link = tasks.create_task(it.stay_connected()) if connected else None
            if connected:
                await it.until(lambda: printer.facts.tools)
            yield it
            if link is not None:
                link.cancel()
