"""The whole main job on this machine: a broker, virtual printers behind the real Moonraker, the agent, and a stand-in
for the cloud that prints a file.

Nothing is believed that no envelope has confirmed, and at the end the printer itself is asked too.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import signal
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from printago_moonraker import config
from printago_moonraker.cloud import ANSWERS, Cloud, Envelope
from printago_moonraker.errors import AgentError
from printago_moonraker.log import printable
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.virtual.broker import embedded_broker
from printago_moonraker.virtual.file_server import file_server
from printago_moonraker.virtual.moonraker_env import find_or_make
from printago_moonraker.virtual.rig import VirtualPrinter
from printago_moonraker.virtual.screen import Screen, bar

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Sequence

SAMPLE = Path(__file__).parent / "virtual" / "samples" / "demo.gcode"
TIME_FACTOR = 20  # the sample takes six minutes on a real printer
DOWNLOAD_TIME = 4.0  # s; at loopback's own speed there would be no progress to see
REFUSE_AT, PAUSE_AT = 10.0, 30.0  # % of the print
STARTING_AT_ONCE = 4  # printers; a Moonraker takes a second of processor time to start
ANSWER_TIMEOUT = 60.0  # s for a command; a pause waits for the macro's moves
NEWS_TIMEOUT = 30.0  # s for what must follow from something that was seen
AGENT_STOP_TIMEOUT = 15.0  # s; the agent itself gives up after 10
INTERRUPTED = 130

CONFIG = """\
[printago]
data_path: {folder}/agent
[mqtt]
host: {host}
port: {port}
tls: off
protocol: 3.1.1
[status]
printing_interval: 0.5
[transfers]
allow_http: on
allowed_hosts: 127.0.0.1
"""


async def run(*, printers: int = 1, keep: bool = False, file: Path | None = None) -> int:
    """Play it all; returns 0 when every step was confirmed, 1 when one was not, 130 when it was stopped before its end.

    `keep` leaves everything running afterwards, until SIGINT. Raises AgentError when something of it cannot be started.
    Cancelling is safe: no process and no file stays behind.
    """
    play = asyncio.create_task(_Play(printers, keep=keep, file=file or SAMPLE).run())
    loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        # Only the first one counts: what follows it is the tidying up, which is bounded.
        loop.add_signal_handler(number, lambda: play.cancelling() or play.cancel())
    try:
        await asyncio.wait({play})
        return INTERRUPTED if play.cancelled() else play.result()
    finally:
        play.cancel()
        await asyncio.wait({play})
        for number in signals:
            loop.remove_signal_handler(number)


class _Play:
    """The stage: what has to run for the stories to be told."""

    def __init__(self, printers: int, *, keep: bool, file: Path) -> None:
        self._names = [f"voron-{number + 1}" for number in range(printers)]
        self._keep = keep
        self._file = file
        self._screen = Screen(sys.stdout)

    async def run(self) -> int:
        """Set everything up, tell the stories, tidy up. Raises AgentError."""
        say = self._screen.say
        gcode = _read(self._file)
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="printago-", ignore_cleanup_errors=True)))
            host, port = await stack.enter_async_context(embedded_broker())
            url = await stack.enter_async_context(file_server(self._file, len(gcode) / DOWNLOAD_TIME))
            say(f"broker at {host}:{port} (amqtt), file store at {url}")
            rigs = await self._start_printers(stack, folder)
            settings = self._configure(folder, host, port, rigs)
            stories = []
            for printer, rig in zip(settings.printers, rigs, strict=True):
                cloud = Cloud(endpoint_for(settings.mqtt, printer.printer_id), topics_for(settings, printer))
                await stack.enter_async_context(cloud)
                stories.append(_Story(printer.name, cloud, rig, self._screen, url, gcode))
            log = folder / "agent.log"
            agent = await stack.enter_async_context(_agent(settings.path, log))
            say(f"agent started: printago-moonraker run -c {settings.path}")
            try:
                code = await self._tell(stories, agent)
            except AgentError as error:
                say(str(error), mark="✗")
                code = 1
            if code:
                say(f"the end of the agent's log: {_tail(log)}")
            if self._keep:
                self._explain(settings.path, rigs, url)
                await self._until_stopped()
            return code

    async def _start_printers(self, stack: AsyncExitStack, folder: Path) -> list[VirtualPrinter]:
        await find_or_make(self._screen.say)  # once, not by each of them
        rigs = [VirtualPrinter(folder / name, time_factor=TIME_FACTOR, say=self._screen.say) for name in self._names]
        limit = asyncio.Semaphore(STARTING_AT_ONCE)

        async def start(name: str, rig: VirtualPrinter) -> None:
            async with limit:
                await stack.enter_async_context(rig)
            self._screen.say(f"virtual printer ready, {TIME_FACTOR} times as fast as a real one; Moonraker at {rig.url}", name)

        try:
            async with asyncio.TaskGroup() as starting:
                for name, rig in zip(self._names, rigs, strict=True):
                    starting.create_task(start(name, rig))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return rigs

    def _configure(self, folder: Path, host: str, port: int, rigs: Sequence[VirtualPrinter]) -> config.Config:
        printers = "".join(f"[printer {name}]\nmoonraker_url: {rig.url}\n" for name, rig in zip(self._names, rigs, strict=True))
        path = folder / "printago.cfg"
        path.write_text(CONFIG.format(folder=folder, host=host, port=port) + printers)
        return config.load(path)

    async def _tell(self, stories: Sequence[_Story], agent: Process) -> int:
        """All stories at once, and the end of the agent, too early or asked for. Raises AgentError for the former."""
        ended = asyncio.create_task(agent.wait())
        telling = asyncio.gather(*(story.run() for story in stories))
        try:
            await asyncio.wait({ended, telling}, return_when=asyncio.FIRST_COMPLETED)
            if not telling.done():
                raise AgentError(f"the agent ended with exit code {agent.returncode}")
            telling.result()
            if not self._keep:
                agent.terminate()
                await asyncio.gather(*(story.leave(ended) for story in stories))
        finally:
            for task in (ended, telling):
                task.cancel()
            await asyncio.gather(ended, telling, return_exceptions=True)
        return self._sum_up(stories)

    def _sum_up(self, stories: Sequence[_Story]) -> int:
        for story in stories:
            if story.failure:
                self._screen.say(f"{story.confirmed} steps confirmed, then it failed at: {story.failure}", story.name, "✗")
            else:
                self._screen.say(f"all {story.confirmed} steps confirmed", story.name, "✓")
        return 1 if any(story.failure for story in stories) else 0

    def _explain(self, path: Path, rigs: Sequence[VirtualPrinter], url: str) -> None:
        program = "printago-moonraker" if shutil.which("printago-moonraker") else f"{sys.executable} -m printago_moonraker"
        send = f"{program} send -c {path}" + (f" --printer {self._names[0]}" if len(rigs) > 1 else "")
        self._screen.say("everything goes on running; Ctrl-C ends it. Play the cloud, in another terminal:")
        for command in ("printer_control.get_status", f"printer_control.start_print_bbl url={url}", "movement_control.jog axes.x=10"):
            self._screen.say(f"    {send} {command}")
        self._screen.say(f"the agent's log: {path.parent / 'agent.log'}; Moonraker: {', '.join(rig.url for rig in rigs)}")

    async def _until_stopped(self) -> None:
        with suppress(asyncio.CancelledError):  # this is how keeping ends, and it ends well
            await asyncio.Event().wait()
        self._screen.say("tidying up")


class _Story:
    """What the cloud does with one printer. `confirmed` counts the steps; `failure` names the one that was not."""

    def __init__(self, name: str, cloud: Cloud, rig: VirtualPrinter, screen: Screen, url: str, gcode: bytes) -> None:
        self.name = name
        self.confirmed = 0
        self.failure: str | None = None
        self._cloud, self._rig, self._screen = cloud, rig, screen
        self._url, self._gcode = url, gcode
        self._file_name = f"job-{name}.gcode"
        self._job_id = f"job-of-{name}"
        self._step = ""
        self._sent = 0
        self._progress: dict[str, Any] = {}

    async def run(self) -> None:
        """The whole story; what is not confirmed ends it and becomes `failure`."""
        watching = asyncio.create_task(self._watch())
        try:
            for step in (self._meet, self._download, self._start, self._refusals, self._pause, self._resume, self._finish, self._audit):
                await self._take(step)
                if self.failure:
                    break
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError, AgentError):  # a lost broker has failed a step already
                await watching
            self._screen.hide(self.name)

    async def leave(self, ended: asyncio.Task[int]) -> None:
        """The agent was told to stop: it says so, and its exit code is 0."""
        if not self.failure:
            await self._take(partial(self._goodbye, ended))

    async def _take(self, step: Callable[[], Any]) -> None:
        self._step = getattr(step, "__name__", "_goodbye").strip("_")
        try:
            await step()
        except TimeoutError:
            self.failure = f"{self._step}: what should have come did not come"
        except (AgentError, OSError) as error:
            self.failure = f"{self._step}: {printable(str(error))}"
        if self.failure:
            self._screen.say(self.failure, self.name, "✗")

    # ------------------------------------------------------------------------------------------------------- the steps

    async def _meet(self) -> None:
        pairing = (await self._news(lambda envelope: envelope["type"] == "pairing"))["data"]
        await self._news(lambda envelope: _state(envelope) == "OPERATIONAL")
        agent, commands = pairing["agent"], pairing["printer"]["commands"]
        self._confirm(f"paired: {agent['name']} {agent['version']}, {len(commands)} commands; the printer is operational")

    async def _download(self) -> None:
        sha256 = hashlib.sha256(self._gcode).hexdigest()
        data = await self._carry_out("printer_control.download_gcode", url=self._url, file_name=self._file_name,
                                     size=len(self._gcode), sha256=sha256, job_id=self._job_id)  # fmt: skip
        self._check(data["size"] == len(self._gcode) and data["sha256"] == sha256, "another file arrived than was sent")
        self._check((self._rig.gcodes / data["path"]).read_bytes() == self._gcode, "the printer has another file")
        self._confirm(f"downloaded: {data['path']}, {data['size']:,} bytes in {data['duration']:.1f} s, SHA-256 is right")

    async def _start(self) -> None:
        await self._carry_out("printer_control.start_print", file_name=self._file_name, job_id=self._job_id)
        event = await self._event("PrintStarted")
        self._confirm(f"printing: {event['path']}, job {event['job_id']}, source {event['source']}")

    async def _refusals(self) -> None:
        await self._printed(REFUSE_AT)
        await self._refused("busy", "movement_control.jog", axes={"x": 10})
        await self._refused("out_of_range", "temperature_control.set_hotend", temperature=999)
        await self._refused("forbidden_path", "printer_control.download_gcode", url=self._url, file_name="../printer.cfg")

    async def _pause(self) -> None:
        await self._printed(PAUSE_AT)
        await self._carry_out("printer_control.pause_print")
        await self._event("PrintPaused")
        await self._news(lambda envelope: _state(envelope) == "PAUSED")
        self._confirm(f"paused at {self._progress['completion']:.0f} %")

    async def _resume(self) -> None:
        await self._carry_out("printer_control.resume_print")
        await self._event("PrintResumed")
        self._confirm("resumed")

    async def _finish(self) -> None:
        await self._printed(100.0)
        event = await self._event("PrintDone")
        data = (await self._command("printer_control.get_status"))["data"]
        completion = data["current_state_data"]["progress"]["completion"]
        self._check(completion == 100 and data["printer_state_id"] == "OPERATIONAL", "the status does not say that it is done")
        self._confirm(f"done: {event['name']} in {event['time']:.0f} s")

    async def _audit(self) -> None:
        """What must hold of the whole exchange, and what the printer itself has to say about it."""
        echoes = [envelope["command"] for envelope in self._cloud.envelopes if envelope["type"] in ANSWERS and "command" in envelope]
        answers = Counter(echo["id"] for echo in echoes)
        self._check(len(answers) == self._sent == answers.total(), f"{self._sent} commands got {answers.total()} answers")
        ends = [event["event"] for event in self._cloud.events() if event["event"] in ("PrintDone", "PrintFailed", "PrintCancelled")]
        self._check(ends == ["PrintDone"], f"one print had the ends {ends}")
        self._confirm(f"{self._sent} commands, one answer each; one print, one end")
        started = (await self._rig.control("counters"))["prints_started"]
        jobs = (await self._rig.moonraker("server.history.list"))["jobs"]
        self._check([job["status"] for job in jobs] == ["completed"] and started == 1, "the printer's own history differs")
        self._confirm("Klipper counts one print, and Moonraker's history says it is completed")

    async def _goodbye(self, ended: asyncio.Task[int]) -> None:
        async with asyncio.timeout(AGENT_STOP_TIMEOUT):
            code = await asyncio.shield(ended)
        self._check(code == 0, f"the agent's exit code is {code}")
        await self._news(lambda envelope: envelope["type"] == "event" and envelope["data"]["event"] == "Shutdown")
        await self._cloud.wait_available("disconnected", NEWS_TIMEOUT)
        self._confirm("the agent was stopped, and said so")

    # ------------------------------------------------------------------------------------------------------- the words

    async def _command(self, name: str, **parameters: Any) -> Envelope:
        kind, _, action = name.partition(".")
        self._sent += 1
        return await self._cloud.command(kind, action, parameters, timeout=ANSWER_TIMEOUT)

    async def _carry_out(self, name: str, **parameters: Any) -> dict[str, Any]:
        answer = await self._command(name, **parameters)
        data: dict[str, Any] = answer["data"]
        self._check(answer["type"] == "success", f"{name}: {data.get('error')} ({data.get('code')})")
        return data

    async def _refused(self, code: str, name: str, **parameters: Any) -> None:
        answer = await self._command(name, **parameters)
        self._check(answer["type"] == "error", f"{name} was not refused")
        data = answer["data"]
        self._check(data["code"] == code, f"{name} was refused with {data['code']}, not {code}")
        self._confirm(f"refused: {name.partition('.')[2]}: {code}: {data['error']}")

    async def _news(self, wanted: Callable[[Envelope], object]) -> Envelope:
        return await self._cloud.wait_for(wanted, NEWS_TIMEOUT)

    async def _event(self, name: str) -> dict[str, Any]:
        """The story's one event of that name, which must be about its print."""
        envelope = await self._news(lambda envelope: envelope["type"] == "event" and envelope["data"]["event"] == name)
        data: dict[str, Any] = envelope["data"]
        self._check(data["job_id"] == self._job_id and data["source"] == "printago", f"{name} names another job: {data['job_id']}")
        return data

    async def _printed(self, percent: float) -> None:
        """Wait for that much of the print, however long it takes, as long as it goes on."""
        while True:
            before = dict(self._progress)
            try:
                await self._news(lambda envelope: (_progress(envelope).get("completion") or 0.0) >= percent)
            except TimeoutError:
                if self._progress == before:
                    raise
            else:
                return

    def _check(self, holds: object, otherwise: str) -> None:
        if not holds:
            raise AgentError(otherwise)

    def _confirm(self, text: str) -> None:
        self.confirmed += 1
        self._screen.say(text, self.name, "✓")

    # ---------------------------------------------------------------------------------------------------- the live line

    async def _watch(self) -> None:
        """Show what comes; never returns."""
        position = 0
        while True:
            envelope = await self._cloud.wait_for(lambda _: True, float("inf"), start=position)
            position += 1
            data = envelope["data"]
            if envelope["type"] == "status":
                self._progress = _progress(envelope)
                self._screen.show(self.name, _status_line(data))
            elif data.get("event") == "TransferProgress":
                self._screen.show(self.name, f"{bar(data['progress'])}  {data['received']:,} of {data['size']:,} bytes")


def _state(envelope: Envelope) -> str | None:
    return envelope["data"]["printer_state_id"] if envelope["type"] == "status" else None


def _progress(envelope: Envelope) -> dict[str, Any]:
    return envelope["data"]["current_state_data"]["progress"] if envelope["type"] == "status" else {}


def _status_line(data: dict[str, Any]) -> str:
    """`██████░░░░░░░░  31 %  layer 7/24  nozzle 215/215  bed 60/60 °C  4:12 left  Printing`"""
    progress, layer = data["current_state_data"]["progress"], data["klipper"]["layer"]
    parts = [bar(progress["completion"])] if progress["completion"] is not None else []
    if layer["current"] is not None and layer["total"]:
        parts.append(f"layer {layer['current']}/{layer['total']}")
    for label, heater in (("nozzle", "tool0"), ("bed", "bed")):
        values = data["temperatures"].get(heater) or {}
        if values.get("actual") is not None:
            parts.append(f"{label} {values['actual']:.0f}/{values['target'] or 0:.0f} °C")
    if progress["printTimeLeft"]:
        parts.append("{}:{:02} left".format(*divmod(progress["printTimeLeft"], 60)))
    return "  ".join([*parts, data["printer_state_string"]])


@asynccontextmanager
async def _agent(path: Path, log: Path) -> AsyncIterator[Process]:
    """The agent as a process of its own, out of reach of the terminal's Ctrl-C: it is stopped here, after the story."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "printago_moonraker", "run", "-c", str(path),
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(AGENT_STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise AgentError(f"{file} cannot be read: {error.strerror}; give --file a G-code file") from error


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:]) or "nothing"
