"""Whole print cycles on a real agent, a real Moonraker, a virtual printer and a real broker, while they are killed and
their network is broken; then what happened is compared with what was said.

Seeded: a cycle is a function of the seed and its number, but for the operating system's own timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from printago_moonraker.errors import AgentError
from printago_moonraker.virtual.rig import VirtualPrinter
from tests.fakes.mosquitto import Mosquitto, mosquitto
from tests.faults.account import Account, Cycle, Judge, Sent, Truth
from tests.faults.agent import AgentProcess, growth, rows
from tests.faults.faults import LOSSY, NAMES, WITHOUT_AGENT, Faults
from tests.faults.proxy import Proxy
from tests.faults.recorder import Recorder
from tests.faults.source import Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

TIME_FACTOR = 50.0
PRINTER_ID = "v1"
POINTS = ("begin", "download_sent", "half", "downloaded", "start_sent", "start_answered", "printing", "ended")
MORE_POINTS = {
    "done": (),
    "stop": ("stop_sent",),
    "pause": ("pause_sent", "paused", "resume_sent", "resumed"),
    "pause+stop": ("pause_sent", "paused", "stop_sent"),
}
ANSWERED = 12.0  # s that a cycle waits for an answer before its story goes on
SETTLED = 45.0  # s after everything is mended until all must have been said; the longest back-off so far is below
AGAIN = 12.0  # s until the cloud repeats what a broker has lost
KILLS, LIFE = 30, 70  # cycles with kills of the agent, then cycles without: growth shows only in a long life
MAX_GROWTH = (20.0, 0.1)  # kB of memory, descriptors, per cycle

BROKER = (
    "allow_anonymous true", "persistence true", "autosave_on_changes true", "autosave_interval 1",
    "max_queued_messages 0",
)  # fmt: skip

CONFIG = """\
[printago]
data_path: {folder}/data
log_level: info
[mqtt]
host: 127.0.0.1
port: {mqtt}
tls: off
keepalive: 5
[printer v1]
moonraker_url: http://127.0.0.1:{moonraker}
[transfers]
allow_http: on
allowed_hosts: 127.0.0.1
"""


@dataclass
class Rig:
    """Everything of one run."""

    printer: VirtualPrinter
    broker: Mosquitto
    proxies: dict[str, Proxy]
    source: Source
    recorder: Recorder
    agent: AgentProcess
    folder: Path
    log: list[tuple[float, str]] = field(default_factory=list)

    def note(self, text: str) -> None:
        """A line for the timeline."""
        self.log.append((time.time(), text))


@asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    """All of it running, the agent connected on both sides."""
    async with AsyncExitStack() as stack:
        persistence = (*BROKER, f"persistence_location {folder}/")
        broker = await stack.enter_async_context(mosquitto(folder, persistence))
        printer = await stack.enter_async_context(VirtualPrinter(folder / "p", time_factor=TIME_FACTOR))
        proxies = {
            "mqtt": await stack.enter_async_context(Proxy(broker.port)),
            "moonraker": await stack.enter_async_context(Proxy(printer.port)),
        }
        source = await stack.enter_async_context(Source())
        recorder = await stack.enter_async_context(Recorder(broker.port, PRINTER_ID))
        config = folder / "printago.cfg"
        ports = {name: proxy.port for name, proxy in proxies.items()}
        config.write_text(CONFIG.format(folder=folder, **ports))
        agent = AgentProcess(config, folder / "agent.log")
        stack.push_async_callback(agent.stop)
        await agent.start()
        yield Rig(printer, broker, proxies, source, recorder, agent, folder)


class Run:
    """Cycle after cycle until so many faults have happened. `say` gets a line for each cycle and all of a bad one."""

    def __init__(self, rig: Rig, seed: int, say: Callable[[str], None]) -> None:
        self.account = Account()
        self._rig = rig
        self._seed = seed
        self._say = say
        self._faults = Faults(rig)
        self._pings = 0
        self._truth = Truth(rig.folder / "p" / "logs" / "journal.jsonl")
        self._judge = Judge(self._truth, rig.recorder, rig.folder / "p" / "gcodes")

    async def run(self, faults: int, *, first: int = 0) -> Account:
        """The first cycle (number `first`) is without a fault: what works at all must work."""
        number = first
        while sum(self.account.faults.values()) < faults or number <= first:
            await self._cycle(number, faulty=number > first)
            number += 1
        await self._close()
        return self.account

    async def _cycle(self, number: int, *, faulty: bool) -> None:
        rng = random.Random(f"{self._seed}:{number}")
        log_at = self._rig.agent.log.stat().st_size if self._rig.agent.log.exists() else 0
        story = Story(self._rig, number, rng, self._faults, self._truth, faulty=faulty)
        async with asyncio.timeout(300):
            await self._mend()
            await story.tell()
            await self._mend()
            await self._settle(story.cycle)
        self._rig.agent.sample()
        self.account.redelivered = self._rig.recorder.doubles
        problems = self.account.add(story.cycle, self._judge)
        took = time.time() - story.cycle.begun
        self._say(f"cycle {number}: {took:5.1f} s  {story.ending:8} {', '.join(story.planned) or 'no fault'}")
        if problems:
            self._say("\n".join(f"    {problem.kind.upper()}: {problem.text}" for problem in problems))
            self._say(self._timeline(story.cycle, log_at))

    async def _mend(self) -> None:
        """Everything up and connected, the printer without a print."""
        rig = self._rig
        for proxy in rig.proxies.values():
            proxy.heal()
        if rig.broker.process is None or rig.broker.process.returncode is not None:
            await rig.broker.start()
        await rig.agent.start()
        await rig.printer.wait_ready()
        while self._truth.running is not None:
            rig.note("the print is cancelled at the printer")
            with contextlib.suppress(AgentError, OSError):
                await rig.printer.moonraker("printer.print.cancel")
            await rig.recorder.until(lambda: self._truth.running is None, 2.0)
        rig.note(f"mended, and the agent serves: {await self._serves()}")

    async def _serves(self) -> bool:
        """Whether the agent answers, and shows a printer that is ready, within the time that settling may take."""
        deadline = time.monotonic() + SETTLED
        while time.monotonic() < deadline:
            self._pings += 1
            ping = f"ping-{self._pings}"
            self._rig.recorder.publish(
                {"type": "printer_control", "action": "get_status", "parameters": {}, "id": ping, "expires_at": _utc(3)}
            )
            await self._rig.recorder.until(partial(self._rig.recorder.answers, ping), 3.0)
            states = [each.envelope["data"].get("printer_state_id") for each in self._rig.recorder.answers(ping)]
            if states == ["OPERATIONAL"]:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _settle(self, cycle: Cycle) -> None:
        """Wait until all is said that must be, as long as it may take."""
        judge, recorder = self._judge, self._rig.recorder
        missing = ("answers missing", "events lost")

        def settled() -> bool:
            return not any(problem.kind in missing for problem in judge.problems(cycle))

        if await recorder.until(settled, AGAIN):
            return
        if LOSSY.intersection(cycle.faults):
            for sent in judge.unanswered(cycle):
                self._rig.note(f"asked again: {sent.action} {sent.id}")
                sent.times.append(time.time())
                recorder.publish(
                    {"type": "printer_control", "action": sent.action, "parameters": {"file_name": cycle.file,
                    "url": self._rig.source.url(cycle.file.rpartition("/")[2])}, "id": sent.id, "expires_at": _utc(0)}
                )  # fmt: skip
        await recorder.until(settled, SETTLED - AGAIN)

    def _timeline(self, cycle: Cycle, log_at: int) -> str:
        """Everything of one cycle, in the order of the wall clock."""
        lines = [(at, f"        {text}") for at, text in self._rig.log if at >= cycle.begun]
        lines += [(at, f"printer {text}") for at, text in self._truth.entries if at >= cycle.begun]
        for each in self._rig.recorder.received:
            if each.at >= cycle.begun:
                what = each.event or f"{each.envelope['type']} {each.envelope.get('command', {})}"
                lines.append((each.at, f"told    {what} said {each.said} {str(each.envelope['data'])[:200]}"))
        told = [f"    {at - cycle.begun:7.3f} {text}" for at, text in sorted(lines)]
        log = [f"    {line}" for line in self._rig.agent.log_since(log_at).splitlines()[-150:]]
        head = f"    seed {self._seed}, cycle {cycle.number}, began {_utc(cycle.begun - time.time())}"
        return "\n".join([head, *told, "    the agent's log:", *log])

    async def _close(self) -> None:
        """What holds for the run as a whole."""
        account, agent = self.account, self._rig.agent
        account.add_problem("agent's own exits", agent.deaths, "see the agent's log")
        last = agent.samples[-1]
        account.notes.append(
            f"agent                    {last.memory} kB, {last.descriptors} descriptors, {agent.lives} lives"
        )
        database = self._rig.folder / "data" / "printago.db"
        await self._rig.recorder.until(lambda: not rows(database).get("outbox"), 10.0)  # deleted a moment later
        held = rows(database)
        account.notes.append(f"rows                     {held or 'no database'}")
        account.add_problem("growth", held.get("outbox", 0), "rows left in the outbox")
        grown = growth(agent.samples)
        if grown is None:
            account.notes.append("growth                   no life was long enough to tell")
            return
        account.notes.append(f"growth                   {grown[0]:.1f} kB, {grown[1]:.3f} descriptors a cycle")
        account.add_problem("growth", int(grown[0] > MAX_GROWTH[0]) + int(grown[1] > MAX_GROWTH[1]), f"{grown}")


class Story:
    """One cycle as the cloud lives it: download, start, perhaps pause and resume, and the end; with its faults."""

    def __init__(
        self, rig: Rig, number: int, rng: random.Random, faults: Faults, truth: Truth, *, faulty: bool
    ) -> None:
        self._rig = rig
        self._rng = rng
        self._faults = faults
        self._truth = truth
        self._tasks: list[asyncio.Task[None]] = []
        self.ending = rng.choice(("done", "done", "stop", "pause", "pause", "pause+stop"))
        self._one_command = rng.random() < 0.2
        # One file printed again and again is harder to tell apart than a new one each time.
        name = "again.gcode" if rng.random() < 0.25 else f"c{number:05}.gcode"
        content = _gcode(rng)
        digests = rig.source.serve(name, content)
        self.cycle = Cycle(number, f"Printago/{name}", f"job-{number}", digests, time.time())
        names = NAMES if number % (KILLS + LIFE) < KILLS else WITHOUT_AGENT
        count = rng.choice((0, 1, 1, 1, 2, 2, 2, 3, 3)) if faulty else 0
        points = POINTS + MORE_POINTS[self.ending] * 2
        self._plan = [
            (rng.choice(points), rng.choice((0.0, 0.002, 0.02, 0.1, 0.4)), rng.choice(names)) for _ in range(count)
        ]
        self._dice = [random.Random(rng.random()) for _ in self._plan]
        self._lifetime = rng.choice((4.0, 60.0)) if count else 60.0  # s
        self._repeat = rng.random() < 0.3
        self._moment = rng.random()
        rig.source.on_half = lambda: self._at("half")

    @property
    def planned(self) -> list[str]:
        return [f"{fault} at {point}+{delay}" for point, delay, fault in self._plan]

    async def tell(self) -> None:
        try:
            await self._tell()
        finally:
            self._rig.source.on_half = lambda: None
            await asyncio.gather(*self._tasks)

    async def _tell(self) -> None:
        self._at("begin")
        if not await self._download():
            return
        self._at("downloaded")
        if not self._one_command:
            self._at("start_sent")
            await self._answer(self._send("start_print", file_name=self.cycle.file, job_id=self.cycle.job_id))
        self._at("start_answered")
        if not self._print_is_on():
            return
        self._at("printing")
        await asyncio.sleep(self._moment * 2.0)
        if "pause" in self.ending and self._print_is_on():
            self._at("pause_sent")
            await self._answer(self._send("pause_print"))
            self._at("paused")
            if self.ending == "pause":
                self._at("resume_sent")
                await self._answer(self._send("resume_print"))
                self._at("resumed")
        if "stop" in self.ending and self._print_is_on():
            self._at("stop_sent")
            await self._answer(self._send("stop_print"))
        await self._rig.recorder.until(lambda: self._truth.running is None or self._is_paused(), 30.0)
        self._at("ended")

    async def _download(self) -> bool:
        """Twice, when a fault spoils it the first time; whether the file is there."""
        for attempt in range(2):
            if attempt:
                await asyncio.gather(*self._tasks)
            action = "start_print_bbl" if self._one_command else "download_gcode"
            url = self._rig.source.url(self.cycle.file.rpartition("/")[2])
            parameters = {"url": url, "sha256": self.cycle.digests[-1], "job_id": self.cycle.job_id}
            self._at("download_sent")
            if self._one_command:
                self._at("start_sent")
            answer = await self._answer(self._send(action, **parameters), 25.0)
            if answer == "success":
                return True
            if self._one_command:  # it may have started: the cloud does not know, and must not ask for another print
                return self._print_is_on()
        return False

    def _send(self, action: str, **parameters: Any) -> Sent:
        now = time.time()
        start = action.startswith("start_print")
        lifetime = self._lifetime if start else 60.0
        sent = Sent(f"{self.cycle.number}-{len(self.cycle.sent)}", action, [now], now + lifetime)
        self.cycle.sent.append(sent)
        command = {
            "type": "printer_control", "action": action, "parameters": parameters, "id": sent.id,
            "expires_at": _utc(lifetime), "timestamp": _utc(0),
        }  # fmt: skip
        self._rig.note(f"send {action} {sent.id}, valid for {lifetime:g} s")
        self._rig.recorder.publish(command)
        if self._repeat:
            sent.times.append(now)
            self._rig.recorder.publish(command)
        return sent

    async def _answer(self, sent: Sent, timeout: float = ANSWERED) -> str | None:
        """The type of its answer, None when the story goes on without one."""
        recorder = self._rig.recorder
        await recorder.until(lambda: recorder.answers(sent.id), timeout)
        answers = recorder.answers(sent.id)
        return str(answers[0].envelope["type"]) if answers else None

    def _print_is_on(self) -> bool:
        return self._truth.running is not None

    def _is_paused(self) -> bool:
        running = self._truth.running
        return running is not None and running.states[-1][1] == "paused"

    def _at(self, point: str) -> None:
        """The story has come to `point`: the faults that are planned for it happen, beside it."""
        self._rig.note(f"-- {point}")
        for (planned, delay, fault), dice in zip(self._plan, self._dice, strict=True):
            if planned == point and not any(task.get_name() == f"{id(dice)}" for task in self._tasks):
                life = self._break(delay, fault, dice)
                self._tasks.append(asyncio.create_task(life, name=f"{id(dice)}"))

    async def _break(self, delay: float, fault: str, dice: random.Random) -> None:
        await asyncio.sleep(delay)
        await self._faults.carry_out(fault, self.cycle, dice)


def _gcode(rng: random.Random) -> bytes:
    """A print of one to five seconds on the virtual printer, in a file of some hundred kB."""
    moves = "".join(
        f"G1 X{50 + i % 100} Y{50 + (i * 7) % 100} Z{0.2 + i // 100 * 0.2:.2f} E0.5 F3000\n"
        for i in range(rng.choice((200, 500, 900)))
    )
    padding = "".join(f";{rng.randbytes(500).hex()}\n" for _ in range(rng.choice((2, 100, 400))))
    return f"{padding}PRINT_START BED_TEMP=45 EXTRUDER_TEMP=190\n{moves}PRINT_END\n".encode()


def _utc(seconds: float) -> str:
    """So many seconds from now, RFC 3339."""
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
