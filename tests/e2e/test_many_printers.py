"""Twenty printers in one agent under one broker: what happens to one is nothing to the others.

Three are virtual printers behind the real Moonraker. The other seventeen are a scripted Moonraker each, over a real
websocket: twenty real ones take a minute to start.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from printago_moonraker import config
from printago_moonraker.cloud import Cloud, Envelope
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.printago.mqtt import Message, connect
from printago_moonraker.virtual.rig import VirtualPrinter
from tests.e2e.farm import ROOT, check_refusal, check_schemas, is_event
from tests.fakes.klipper import Bench, Recorder
from tests.fakes.moonraker import FakeMoonraker
from tests.fakes.mosquitto import Mosquitto, mosquitto
from tests.fakes.processes import ending_with_us

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

REAL = ("real-1", "real-2", "real-3")
SCRIPTED = tuple(f"scripted-{number}" for number in range(1, 18))
ROUNDS = 4  # commands to each printer in one measurement
PACE = 0.03  # s between two of them
FACTOR = 1.5
PAIRS = 4  # measurements without and with the trouble, in turn: other work on the machine slows down both
SLOW = 2.0  # s that the slow printer takes for an answer

CONFIG = """\
[printago]
data_path: {folder}/data
log_level: debug
[mqtt]
host: 127.0.0.1
port: {port}
tls: off
"""


class Park:
    """All of it. `clouds` by printer ID; `temperature` gives each command a target that no printer has."""

    def __init__(self, settings: config.Config, rigs: dict[str, VirtualPrinter], fakes: dict[str, Scripted]) -> None:
        self.settings, self.rigs, self.fakes = settings, rigs, fakes
        self.clouds: dict[str, Cloud] = {}
        self._temperatures = itertools.cycle(range(30, 90))

    async def set_bed(self, name: str, **members: Any) -> Envelope:
        parameters = {"temperature": next(self._temperatures)}
        return await self.clouds[name].command("temperature_control", "set_bed", parameters, timeout=30.0, **members)

    async def status(self, name: str) -> dict[str, Any]:
        data: dict[str, Any] = (await self.clouds[name].command("printer_control", "get_status"))["data"]
        return data

    async def state(self, name: str, state: str) -> None:
        """Until the printer's status is so."""
        async with asyncio.timeout(30):
            while (await self.status(name))["printer_state_id"] != state:  # noqa: ASYNC110 - the agent is asked anew
                await asyncio.sleep(0.05)

    async def received(self, name: str) -> list[str]:
        """The targets that reached this printer since the last time."""
        if name in self.fakes:
            return self.fakes[name].received()
        lines: list[str] = (await self.rigs[name].control("received_gcode", clear=True))["lines"]
        return [line for line in lines if "HEATER=heater_bed" in line]

    def marks(self) -> dict[str, int]:
        """How many envelopes there are of each printer."""
        return {name: len(cloud.envelopes) for name, cloud in self.clouds.items()}

    def disturbed(self, marks: dict[str, int]) -> set[str]:
        """The printers of which anything but statuses and answers was told since then."""
        return {
            name
            for name, cloud in self.clouds.items()
            if [each for each in cloud.envelopes[marks[name] :] if each["type"] != "status" and "command" not in each]
        }


class Scripted:
    """A scripted Moonraker whose Klipper sets the bed's target and does nothing else."""

    def __init__(self, moonraker: FakeMoonraker) -> None:
        self.moonraker = moonraker
        self._tasks: set[asyncio.Task[None]] = set()
        self._taken = 0
        Bench(moonraker, Recorder().printer, []).script()
        moonraker.answers |= {
            "server.connection.identify": {"connection_id": 1},
            "server.webcams.list": {"webcams": []},
            "machine.proc_stats": {"cpu_temp": 45.5},
            "connection.register_remote_method": "ok",
            "printer.gcode.script": self._run,
        }

    def _run(self, params: dict[str, Any]) -> str:
        target = float(params["script"].rpartition("TARGET=")[2])
        told = self.moonraker.notify("notify_status_update", {"heater_bed": {"target": target}}, 1.0)
        task = asyncio.create_task(told)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return "ok"

    def received(self) -> list[str]:
        scripts = [
            each["params"]["script"] for each in self.moonraker.requests if each["method"] == "printer.gcode.script"
        ]
        new, self._taken = scripts[self._taken :], len(scripts)
        return new


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def park(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Park]:
    folder = tmp_path_factory.mktemp("park")
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(mosquitto(folder))
        rigs = {name: VirtualPrinter(folder / name, time_factor=20) for name in REAL}
        await asyncio.gather(*(stack.enter_async_context(rig) for rig in rigs.values()))
        fakes = {name: Scripted(await stack.enter_async_context(FakeMoonraker())) for name in SCRIPTED}
        settings = configure(folder, broker, rigs, fakes)
        place = Park(settings, rigs, fakes)
        for printer in settings.printers:
            cloud = Cloud(endpoint_for(settings.mqtt, printer.printer_id), topics_for(settings, printer))
            place.clouds[printer.name] = await stack.enter_async_context(cloud)
        async with agent(settings.path):
            for cloud in place.clouds.values():
                await cloud.wait_for(lambda envelope: is_event(envelope, "Connected"), 30.0)
            yield place
        for cloud in place.clouds.values():
            check_schemas(cloud.envelopes)
    assert "Traceback" not in (folder / "agent.log").read_text()


def configure(
    folder: Path, broker: Mosquitto, rigs: dict[str, VirtualPrinter], fakes: dict[str, Scripted]
) -> config.Config:
    urls = {name: rig.url for name, rig in rigs.items()} | {name: fake.moonraker.url for name, fake in fakes.items()}
    path = folder / "printago.cfg"
    sections = "".join(f"[printer {name}]\nmoonraker_url: {url}\n" for name, url in urls.items())
    path.write_text(CONFIG.format(folder=folder, port=broker.port) + sections)
    return config.load(path)


@asynccontextmanager
async def agent(path: Path) -> AsyncIterator[Process]:
    """The one agent; it ends well."""
    with (path.parent / "agent.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *ending_with_us(sys.executable, "-m", "printago_moonraker", "run", "-c", str(path)),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
        process.terminate()
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_command_reaches_its_printer_only(park: Park) -> None:
    """Sent to all at the same time, each command is carried out once, by the printer that it was sent to."""
    for name in park.clouds:
        await park.received(name)
    answers = dict(zip(park.clouds, await asyncio.gather(*map(park.set_bed, park.clouds)), strict=True))
    for name, answer in answers.items():
        assert (answer["type"], answer["printer_id"]) == ("success", name), answer
        assert len(await park.received(name)) == 1, name
    targets = [(await park.status(name))["temperatures"]["bed"]["target"] for name in park.clouds]
    assert len(set(targets)) == len(park.clouds), "each printer has a target of its own"


async def test_a_command_for_another_printer(park: Park) -> None:
    """One that names another printer is refused by the one that got it, and carried out by neither."""
    for name in REAL:
        await park.received(name)
    sentence = check_refusal(await park.set_bed("real-1", printer_id="real-2"), "wrong_printer")
    assert "real-1" in sentence
    assert "real-2" in sentence
    assert (await park.set_bed("real-3", printer_id="real-3"))["type"] == "success"
    assert [len(await park.received(name)) for name in REAL] == [0, 0, 1]


async def test_each_has_its_own_topics(park: Park) -> None:
    """No topic carries two printers; each has its own availability, which says that it is there."""
    for name, cloud in park.clouds.items():
        assert {envelope["printer_id"] for envelope in cloud.envelopes} == {name}
        await cloud.wait_available("connected")
    topics = [topics_for(park.settings, printer) for printer in park.settings.printers]
    assert len({each.availability for each in topics} | {each.commands for each in topics}) == 2 * len(park.clouds)


async def test_each_has_its_own_session(park: Park) -> None:
    """Who takes one printer's client ID away throws out that one only, and it comes back."""
    ids = {endpoint_for(park.settings.mqtt, printer.printer_id).client_id for printer in park.settings.printers}
    assert len(ids) == len(park.clouds)
    marks, name = park.marks(), "real-1"

    def nobody(message: Message) -> None:
        message.ack()

    async with connect(endpoint_for(park.settings.mqtt, name), subscriptions=[], on_message=nobody):
        pass
    cloud = park.clouds[name]
    await cloud.wait_for(lambda envelope: envelope["type"] == "pairing", 20.0, start=marks[name])
    assert (await park.set_bed(name))["type"] == "success"
    assert park.disturbed(marks) == {name}


@pytest.mark.timeout(90)
async def test_one_dies_and_one_hangs(park: Park) -> None:
    """One Moonraker is killed, another stopped in mid-air: nobody else notices, and both are there again afterwards."""
    dead, hanging, well = REAL
    marks = park.marks()
    process = park.rigs[hanging].processes[0]
    await park.rigs[dead].kill_moonraker()
    process.send_signal(signal.SIGSTOP)
    waiting = asyncio.create_task(park.set_bed(hanging))
    try:
        await park.state(dead, "OFFLINE")
        assert check_refusal(await park.set_bed(dead), "printer_offline")
        for name in (well, *SCRIPTED):
            assert (await park.set_bed(name))["type"] == "success", name
        assert not waiting.done()
        assert park.disturbed(marks) <= {dead, hanging}
    finally:
        process.send_signal(signal.SIGCONT)
        await park.rigs[dead].start_moonraker()
    assert (await waiting)["type"] == "success"
    await park.state(dead, "OPERATIONAL")
    assert park.disturbed(marks) <= {dead, hanging}
    for name in REAL:
        assert (await park.set_bed(name))["type"] == "success", name


@pytest.mark.timeout(180)
async def test_latency_beside_a_dead_and_a_slow_printer(park: Park) -> None:
    """One printer is killed and one is slow, and both are given commands all the time: the other eighteen answer
    within one and a half times of what they took before, and none of them waits for the slow one.

    Before and during are measured in turn, and compared over all that was measured: the machine has other work too.
    """
    dead, slow, _ = REAL
    others = [name for name in park.clouds if name not in (dead, slow)]
    assert len(others) == 18
    before: list[float] = []
    during: list[float] = []
    for _ in range(PAIRS):
        before += await latencies(park, others)
        await park.rigs[dead].kill_moonraker()
        await park.rigs[slow].control("slow", seconds=SLOW)
        try:
            async with disturbance(lambda: park.set_bed(dead)), disturbance(lambda: park.set_bed(slow)):
                during += await latencies(park, others)
        finally:
            await park.rigs[slow].control("slow", seconds=0.0)
            await park.rigs[dead].start_moonraker()
        await park.state(dead, "OPERATIONAL")
        await park.state(slow, "OPERATIONAL")
    assert median(during) <= FACTOR * median(before), f"{median(during):.4f} s after {median(before):.4f} s"
    assert max(during) < SLOW


async def latencies(park: Park, names: list[str]) -> list[float]:
    """The times of commands in s, to these printers in turn.

    Each is sent at its time, whether the one before was answered or not: who waits for a slow answer before sending the
    next sees few slow ones.
    """

    async def command(name: str) -> float:
        begun = time.perf_counter()
        answer = await park.set_bed(name)
        assert answer["type"] == "success", answer
        return time.perf_counter() - begun

    async with asyncio.TaskGroup() as group:
        commands = []
        for name in names * ROUNDS:
            commands.append(group.create_task(command(name)))
            await asyncio.sleep(PACE)
    return [each.result() for each in commands]


@asynccontextmanager
async def disturbance(send: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Commands, one after the other, while the block runs; the last one is waited for."""
    ended = False

    async def go_on() -> None:
        while not ended:
            await send()
            await asyncio.sleep(0.1)  # as a person at a button

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        ended = True
        await task
