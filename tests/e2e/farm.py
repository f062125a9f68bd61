"""The whole way from the cloud to Klipper on loopback: a real broker, the agent as a process of its own, a real
Moonraker, and the virtual printer behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import config, schemas
from printago_moonraker.cloud import Cloud, Envelope
from printago_moonraker.errors import AgentError
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.virtual.rig import VirtualPrinter
from tests.fakes.mosquitto import Mosquitto, mosquitto
from tests.fakes.processes import ending_with_us
from tests.fakes.source import FakeSource, Reply, Script

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

ROOT = Path(__file__).parents[2]
PRINTER_ID = "virtual-1"
FOLDER = "Printago"
MAX_DOWNLOAD = 300_000  # bytes, so that a small file is too large
LOOK = 0.05  # s between two looks at what cannot call us: a process, a file, Klipper's own books

_HEATERS = ("heater_generic chamber", "extruder1")
ENDS = frozenset({"PrintDone", "PrintFailed", "PrintCancelled"})
PRINT_EVENTS = frozenset({"PrintStarted", "PrintPaused", "PrintResumed"}) | ENDS
RESET = (
    "CANCEL_PRINT_BASE\nSDCARD_RESET_FILE\nTURN_OFF_HEATERS\nM220 S100\nM221 S100\nG90\nM82\nM117\nM84\n"
    "M107\nSET_PIN PIN=caselight VALUE=0\nSET_FILAMENT_SENSOR SENSOR=runout ENABLE=1\n"
    "ACTIVATE_EXTRUDER EXTRUDER=extruder"
)
OUTPUTS = {"neopixel case": "SET_LED LED=case", "fan_generic filter": "SET_FAN_SPEED FAN=filter SPEED=0"}

CONFIG = """\
[printago]
dialect: {dialect}
data_path: {folder}/data
log_level: debug
[mqtt]
host: 127.0.0.1
port: {port}
tls: off
{extra}
[printer {printer_id}]
moonraker_url: {url}
[transfers]
allow_http: on
allowed_hosts: 127.0.0.1
max_download_size: {max_download}
"""


@dataclass(frozen=True)
class Options:
    """What a test module wants its farm to be; it says so in a global named FARM."""

    dialect: str = "klipper"
    extras: Sequence[str] = ()
    webcams: Sequence[Mapping[str, str]] = ()
    on_error_gcode: str = ""
    time_factor: float = 20.0


class Farm:
    """`mark` is how many envelopes there were when the test began: what tests look at comes after it."""

    def __init__(self, folder: Path, options: Options, printer: VirtualPrinter, broker: Mosquitto) -> None:
        self.folder, self.options, self.printer, self.broker = folder, options, printer, broker
        self.mark = 0
        self.extra = ""
        self._agent: Process | None = None
        self._cloud = AsyncExitStack()
        self.cloud: Cloud

    # -------------------------------------------------------------------------------------------------- who takes part

    def settings(self, extra: str = "") -> config.Config:
        """The agent's configuration, `extra` being more of [mqtt] or another section, written and read."""
        path = self.folder / "printago.cfg"
        path.write_text(
            CONFIG.format(
                folder=self.folder,
                dialect=self.options.dialect,
                port=self.broker.port,
                printer_id=PRINTER_ID,
                url=self.printer.url,
                max_download=MAX_DOWNLOAD,
                extra=extra,
            )
        )
        return config.load(path)

    async def start_agent(self, extra: str = "") -> None:
        """Start it; returns once it has the printer before it."""
        start = len(self.cloud.envelopes)
        settings, self.extra = self.settings(extra), extra
        with (self.folder / "agent.log").open("ab") as log:
            command = ending_with_us(sys.executable, "-m", "printago_moonraker", "run", "-c", str(settings.path))
            self._agent = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stderr=log, start_new_session=True
            )
        await self.cloud.wait_for(lambda envelope: is_event(envelope, "Connected"), start=start)

    async def end_agent(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end: the exit code."""
        assert self._agent is not None
        if self._agent.returncode is None:
            self._agent.send_signal(number)
        async with asyncio.timeout(15):
            return await self._agent.wait()

    async def connect_cloud(self) -> None:
        """A new cloud, in place of the one that lost the broker."""
        await self._cloud.aclose()
        settings = self.settings(self.extra)
        printer = settings.printers[0]
        self.cloud = await self._cloud.enter_async_context(
            Cloud(endpoint_for(settings.mqtt, printer.printer_id), topics_for(settings, printer))
        )
        self.mark = 0

    async def restart_broker(self) -> None:
        """Start it after it was stopped: the cloud is there before the agent can be, so that it hears all."""
        assert self._agent is not None
        stopped = self._agent.returncode is not None
        if not stopped:
            self._agent.send_signal(signal.SIGSTOP)
        try:
            await self.broker.start()
            await self.connect_cloud()
        finally:
            if not stopped:
                self._agent.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """Stop the agent and the cloud, also after a test that failed half-way."""
        try:
            if self._agent is not None:
                with contextlib.suppress(TimeoutError):
                    await self.end_agent()
                if self._agent.returncode is None:
                    await self.end_agent(signal.SIGKILL)
        finally:
            await self._cloud.aclose()

    async def restore(self) -> None:
        """An idle, cold, unhomed printer that the agent sees so, whatever the test before has left."""
        await self._mend()
        outputs = [script for name, script in OUTPUTS.items() if name in self.options.extras]
        await self.gcode("\n".join([RESET, *outputs]))
        await self.printer.control("filament", present=True)
        for heater in ("extruder", "heater_bed", *(name for name in self.options.extras if name in _HEATERS)):
            await self.printer.control("set_temperature", heater=heater, temperature=25.0)
        if self._agent is None or self._agent.returncode is not None or self.extra:
            await self._restart_agent()
        await self.status_until(_is_reset)
        await self.settled()
        await self.printer.control("received_gcode", clear=True)
        self.mark = len(self.cloud.envelopes)

    async def _mend(self) -> None:
        """What a test has ordered of the virtual printer is over, and it is ready."""
        with contextlib.suppress(OSError):  # one that is gone is started anew, and knows of no order
            await self._unfault()
        try:
            # Klipper's own word: Moonraker's may be a moment old.
            ready = (await self.printer.moonraker("printer.info"))["state"] == "ready"
        except AgentError:
            ready = False
        except OSError:
            await self.printer.start_moonraker(wait=False)
            ready = False
        if not ready:
            await self.printer.restart_klippy()

    async def _unfault(self) -> None:
        control = self.printer.control
        await control("release")
        await control("stall", stalled=False)
        await control("slow", seconds=0.0)
        await control("mcu_absent", absent=False)
        await control("config_error", text=None)

    async def _restart_agent(self) -> None:
        if self._agent is not None:
            await self.end_agent()
        await self.start_agent()

    # ---------------------------------------------------------------------------------------------------- what is said

    @property
    def envelopes(self) -> list[Envelope]:
        """What came since the test began."""
        return self.cloud.envelopes[self.mark :]

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The data of the events of these names (none: of all) since the test began."""
        data = [envelope["data"] for envelope in self.envelopes if envelope["type"] == "event"]
        return [each for each in data if not names or each["event"] in names]

    def prints(self) -> list[str]:
        """The print events since the test began, in order.

        What a dead broker or agent did not note as delivered is sent again: the same envelope, which counts once.
        """
        told = [envelope for envelope in self.envelopes if any(is_event(envelope, name) for name in PRINT_EVENTS)]
        return [name for name, _ in dict.fromkeys((each["data"]["event"], each["timestamp"]) for each in told)]

    async def event(self, *names: str, timeout: float = 15.0) -> dict[str, Any]:
        """The first of these events since the test began, waited for: its data."""
        seen = await self.wait_for(lambda envelope: any(is_event(envelope, name) for name in names), timeout)
        data: dict[str, Any] = seen["data"]
        return data

    async def wait_for(self, predicate: Callable[[Envelope], object], timeout: float = 15.0) -> Envelope:
        """The first envelope since the test began for which it holds."""
        return await self.cloud.wait_for(predicate, timeout, start=self.mark)

    async def do(self, name: str, /, **parameters: Any) -> Envelope:
        """Send the command `type.action`; its answer."""
        kind, _, action = name.partition(".")
        return await self.cloud.command(kind, action, parameters, timeout=20.0)

    async def done(self, name: str, /, **parameters: Any) -> dict[str, Any]:
        """The data of a command's answer, which must be a success."""
        answer = await self.do(name, **parameters)
        assert answer["type"] == "success", answer
        data: dict[str, Any] = answer["data"]
        return data

    async def refused(self, code: str, name: str, /, **parameters: Any) -> str:
        """The sentence with which a command is refused, which must be with this code."""
        return check_refusal(await self.do(name, **parameters), code)

    async def raw(self, payload: bytes) -> Envelope:
        """Put bytes on the command topic; what the agent answers to them."""
        start = len(self.cloud.envelopes)
        await self.cloud.send_raw(payload)
        return await self.cloud.wait_for(lambda envelope: "command" in envelope, start=start)

    async def status(self) -> dict[str, Any]:
        """The data of a status that was asked for."""
        answer = await self.do("printer_control.get_status")
        assert answer["type"] == "status", answer
        data: dict[str, Any] = answer["data"]
        return data

    async def status_until(self, holds: Callable[[dict[str, Any]], object], timeout: float = 20.0) -> dict[str, Any]:
        """Ask again and again until a status is so. It raises what it saw last when none is."""
        status: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout):
                while not holds(status := await self.status()):  # noqa: ASYNC110 - the agent is asked anew
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise AssertionError(f"not so within {timeout:g} s: {status}") from None
        return status

    async def settled(self) -> None:
        """Until all events that the agent has told of so far have come, and all answers.

        They wait for the disk, and come in order; statuses do not wait, and overtake them. This answer is stored too,
        and comes after all of them.
        """
        answer = await self.do("camera_control.get_providers")
        assert answer["type"] == "response", answer

    def log(self) -> str:
        """What the agent has logged, in all its lives."""
        return (self.folder / "agent.log").read_text()

    def stored_events(self) -> list[str]:
        """The names of the events that the agent has stored and the broker has not taken, in order."""
        path = self.folder / "data" / "printago.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
            rows = database.execute("SELECT payload FROM outbox ORDER BY id").fetchall()
        envelopes = [json.loads(payload) for (payload,) in rows]
        return [each["data"]["event"] for each in envelopes if each["type"] == "event"]

    async def completion(self, percent: float) -> None:
        """Until that much of the print is done."""
        await self.status_until(lambda s: (s["current_state_data"]["progress"]["completion"] or 0.0) >= percent)

    # ----------------------------------------------------------------------------------------- behind the agent's back

    async def gcode(self, script: str) -> None:
        """Run G-code as a person at the printer would."""
        await self.printer.moonraker("printer.gcode.script", script=script)

    async def hold(self, what: str = "file", line: str = "") -> None:
        """The virtual printer's `hold`: the print, or all motion, stands still from now or from that line on."""
        await self.printer.control("hold", what=what, line=line)

    async def release(self) -> None:
        """What is held goes on."""
        await self.printer.control("release")

    async def reached(self, line: str) -> None:
        """Until Klipper has begun a line of G-code, whoever else is there to see it."""
        async with asyncio.timeout(20):
            while not any(each.startswith(line) for each in await self.received()):  # noqa: ASYNC110 - it cannot call
                await asyncio.sleep(LOOK)

    async def received(self) -> list[str]:
        """Every line of G-code that reached Klipper since the test began."""
        lines: list[str] = (await self.printer.control("received_gcode"))["lines"]
        return lines

    async def query(self, name: str) -> dict[str, Any]:
        """One of Klipper's status objects."""
        answer = await self.printer.moonraker("printer.objects.query", objects={name: None})
        fields: dict[str, Any] = answer["status"][name]
        return fields

    async def warm(self) -> None:
        """Homed, and hot enough to extrude; the agent sees it so."""
        await self.printer.control("set_homed")
        await self.printer.control("set_temperature", heater="extruder", temperature=200.0)
        await self.gcode("M104 S200")
        await self.status_until(lambda s: s["klipper"]["can"]["extrude"] and s["klipper"]["homed_axes"] == "xyz")
        await self.printer.control("received_gcode", clear=True)

    def put(self, name: str, gcode: str, folder: str = FOLDER) -> str:
        """Lay a G-code file onto the printer, as by a file manager; its path below gcodes."""
        path = self.printer.gcodes / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(gcode)
        return path.relative_to(self.printer.gcodes).as_posix()

    async def store(self, name: str, gcode: str) -> str:
        """The same, and Moonraker has read its metadata, as after a download."""
        path = self.put(name, gcode)
        await self.printer.moonraker("server.files.metascan", filename=path)
        return path

    async def begin(self, name: str, *, job_id: str | None = None) -> None:
        """Start a print that stands still in its middle, the agent having seen that much, until `release`.

        After it, nothing but the end is left of it: LAST_LINE.
        """
        await self.store(name, HALF)
        await self.hold("file", MIDDLE)
        await self.done("printer_control.start_print", file_name=name, **({"job_id": job_id} if job_id else {}))
        await self.status_until(lambda s: s["klipper"]["display_message"] == MIDDLE.removeprefix("M117 "))

    def stored(self) -> set[str]:
        """The names of the G-code files in the agent's folder."""
        return {path.name for path in (self.printer.gcodes / FOLDER).glob("*") if path.is_file()}


def _is_reset(status: dict[str, Any]) -> bool:
    heaters = status["temperatures"].values()
    cold = all(not heater["target"] and (heater["actual"] or 0.0) < 30.0 for heater in heaters)
    # The print of the test before has ended for the agent too: where the reset hid its end, history is asked for it.
    held = status["klipper"]["homed_axes"] or status["current_job"]["file"]["name"] or status["klipper"]["job"]
    return status["printer_state_id"] == "OPERATIONAL" and bool(status["temperatures"]) and cold and not held


def is_event(envelope: Envelope, name: str) -> bool:
    return bool(envelope["type"] == "event" and envelope["data"]["event"] == name)


def check_refusal(answer: Envelope, code: str) -> str:
    """The one clear sentence of a refusal: it ends, it is one line, and it shows nothing of the program's inside."""
    assert answer["type"] == "error", answer
    assert answer["data"]["code"] == code, answer
    sentence: str = answer["data"]["error"]
    assert 10 <= len(sentence) <= 400, sentence
    assert sentence.isprintable(), sentence
    assert "Traceback" not in sentence
    return sentence


async def until(holds: Callable[[], object], timeout: float = 10.0) -> None:
    """Look at what cannot call us until it is so."""
    async with asyncio.timeout(timeout):
        while not holds():  # noqa: ASYNC110 - it cannot call us
            await asyncio.sleep(LOOK)


def moves(lines: int, *, head: str = "G28\nG90\nG1 Z10 F900\n", tail: str = "") -> str:
    """A print of `lines` cold moves, each of 0.1 s at time factor 20."""
    return head + "".join(f"G1 X{210 if n % 2 else 10} Y{20 + n % 190} F6000\n" for n in range(lines)) + tail


MIDDLE, LAST_LINE = "M117 the middle", "M117 the end"
HALF = moves(8, tail=f"{MIDDLE}\n") + moves(8, head="", tail=f"{LAST_LINE}\n")


@asynccontextmanager
async def source(*script: Reply | Script, name: str = "a.gcode") -> AsyncIterator[tuple[FakeSource, str]]:
    """A web server, and the URL of a file on it. Its query is a secret."""
    async with FakeSource(*script) as server:
        yield server, f"http://127.0.0.1:{server.port}/files/{name}?signature=s3cr3t"


@asynccontextmanager
async def farm(folder: Path, options: Options) -> AsyncIterator[Farm]:
    """All of it, up and connected; at the end nothing of it is left, and every envelope was as its schema says."""
    async with AsyncExitStack() as stack:
        # Moonraker leaves what it has of an upload that breaks off in the folder for temporary files.
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("TMPDIR", str(folder))
        yield await stack.enter_async_context(_farm(folder, options))


@asynccontextmanager
async def _farm(folder: Path, options: Options) -> AsyncIterator[Farm]:
    async with (
        mosquitto(folder, ["allow_anonymous true", "max_packet_size 2000000"]) as broker,
        VirtualPrinter(
            folder / "p",
            time_factor=options.time_factor,
            extras=options.extras,
            webcams=options.webcams,
            on_error_gcode=options.on_error_gcode,
        ) as printer,
    ):
        place = Farm(folder, options, printer, broker)
        try:
            await place.connect_cloud()
            await place.start_agent()
            yield place
            if options.dialect == "klipper":
                check_schemas(place.cloud.envelopes)
        finally:
            await place.close()
        log = place.log()
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:5000]
        assert "s3cr3t" not in log, "a URL's query is a secret"


def check_schemas(envelopes: Sequence[Envelope]) -> None:
    """Every envelope is what `schemas/` promises."""
    for envelope in envelopes:
        for error in schemas.compiled(f"envelopes/{envelope['type']}").iter_errors(envelope):
            raise AssertionError(f"{error.json_path}: {error.message} in {envelope}")
