"""What has to run for a story to be told: a broker, virtual printers behind the real Moonraker, the agent."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any

from printago_moonraker import config
from printago_moonraker.cloud import Cloud
from printago_moonraker.demo.file_server import file_server
from printago_moonraker.demo.screen import Screen
from printago_moonraker.demo.story import AGENT_STOP_TIMEOUT, CAMERA, Story
from printago_moonraker.errors import AgentError
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.virtual.broker import embedded_broker
from printago_moonraker.virtual.moonraker_env import find_or_make
from printago_moonraker.virtual.rig import VirtualPrinter
from printago_moonraker.virtual.webcam import VirtualWebcam

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Sequence

SAMPLE = Path(__file__).parents[1] / "virtual" / "samples" / "demo.gcode"
TIME_FACTOR = 15  # the sample takes six minutes on a real printer
DOWNLOAD_TIME = 4.0  # s; at loopback's own speed there would be no progress to see
PICTURE_SIZE = (640, 480)
STARTING_AT_ONCE = 4  # printers; a Moonraker takes a second of processor time to start
INTERRUPTED = 130

# The embedded broker speaks MQTT 3.1.1, and is silent for 5 s when asked for 5.
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
    Cancelling is safe: no process stays behind, and no file but the pictures, in a folder for temporary files.
    """
    play = asyncio.create_task(_Stage(printers, keep=keep, file=file or SAMPLE).play())
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


class _Stage:
    def __init__(self, printers: int, *, keep: bool, file: Path) -> None:
        self._names = [f"voron-{number + 1}" for number in range(printers)]
        self._keep = keep
        self._file = file
        self._screen = Screen(sys.stdout)
        self._pictures: Path | None = None  # their folder, once there is one

    async def play(self) -> int:
        """Set everything up, have the stories told, tidy up; returns the exit code. Raises AgentError."""
        gcode = _read(self._file)
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="printago-", ignore_cleanup_errors=True)))
            host, port = await stack.enter_async_context(embedded_broker())
            name = f"{self._file.stem}.gcode"
            files = await stack.enter_async_context(file_server(name, gcode, len(gcode) / DOWNLOAD_TIME))
            self._screen.say(f"broker at {host}:{port} (amqtt), file store at {files.url}")
            rigs = await self._start_printers(stack, folder)
            settings = self._configure(folder, host, port, rigs)
            stories = []
            for printer, rig in zip(settings.printers, rigs, strict=True):
                cloud = Cloud(endpoint_for(settings.mqtt, printer.printer_id), topics_for(settings, printer))
                await stack.enter_async_context(cloud)
                stories.append(Story(printer.name, cloud, rig, self._screen, files, name, gcode, self._keep_picture))
            log = folder / "agent.log"
            agent = await stack.enter_async_context(_agent(settings.path, log))
            self._screen.say(f"agent started: printago-moonraker run -c {settings.path}")
            code = await self._tell(stories, agent)
            if code:
                self._screen.say(f"the end of the agent's log: {_tail(log)}")
            if self._keep:
                await self._play_on(settings.path, rigs, files.url)
            return code

    async def _start_printers(self, stack: AsyncExitStack, folder: Path) -> list[VirtualPrinter]:
        await find_or_make(self._screen.say)  # once, not by each of them
        cameras = [await stack.enter_async_context(VirtualWebcam(size=PICTURE_SIZE)) for _ in self._names]
        rigs = [
            VirtualPrinter(folder / name, time_factor=TIME_FACTOR, webcams=[camera.entry(CAMERA)])
            for name, camera in zip(self._names, cameras, strict=True)
        ]
        limit = asyncio.Semaphore(STARTING_AT_ONCE)

        async def start(name: str, rig: VirtualPrinter) -> None:
            async with limit:
                await stack.enter_async_context(rig)
            self._screen.say(
                f"virtual printer ready, {TIME_FACTOR} times as fast as a real one; Moonraker at {rig.url}", name
            )

        try:
            async with asyncio.TaskGroup() as starting:
                for name, rig in zip(self._names, rigs, strict=True):
                    starting.create_task(start(name, rig))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return rigs

    def _keep_picture(self, name: str, content: bytes) -> Path:
        """Lay a picture where it stays after the demo."""
        if self._pictures is None:
            self._pictures = Path(mkdtemp(prefix="printago-demo-"))
        path = self._pictures / name
        path.write_bytes(content)
        return path

    def _configure(self, folder: Path, host: str, port: int, rigs: Sequence[VirtualPrinter]) -> config.Config:
        text = CONFIG.format(folder=folder, host=host, port=port)
        for name, rig in zip(self._names, rigs, strict=True):
            text += f"\n[printer {name}]\nmoonraker_url: {rig.url}\n"
        path = folder / "printago.cfg"
        path.write_text(text)
        return config.load(path)

    async def _tell(self, stories: Sequence[Story], agent: Process) -> int:
        """All stories at once, and the end of the agent, asked for or too early; returns the exit code."""
        ended = asyncio.create_task(agent.wait())
        telling = asyncio.gather(*(story.tell() for story in stories))
        both: list[asyncio.Future[Any]] = [ended, telling]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not telling.done():
                for story in stories:
                    story.fail(f"the agent ended with exit code {agent.returncode}")
            elif not self._keep:
                telling.result()
                agent.terminate()
                await asyncio.gather(*(story.leave(ended) for story in stories))
        finally:
            for future in both:
                future.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        for story in stories:
            story.sum_up()
        return 1 if any(story.failure for story in stories) else 0

    async def _play_on(self, path: Path, rigs: Sequence[VirtualPrinter], url: str) -> None:
        """Say how to play, and wait for Ctrl-C."""
        say = self._screen.say
        installed = shutil.which("printago-moonraker")
        send = f"{'printago-moonraker' if installed else f'{sys.executable} -m printago_moonraker'} send -c {path}"
        if len(rigs) > 1:
            send += f" --printer {self._names[0]}"
        say("everything goes on running; Ctrl-C ends it. Play the cloud, in another terminal:")
        for command in ("get_status", f"start_print_bbl url={url}", "pause_print", "emergency_stop"):
            self._screen.say_plainly(f"{send} printer_control.{command}")
        say(f"Moonraker: {', '.join(rig.url for rig in rigs)}; the agent's log: {path.parent / 'agent.log'}")
        with suppress(asyncio.CancelledError):  # this is how it ends, and it ends well
            await asyncio.Event().wait()
        say("tidying up")


@asynccontextmanager
async def _agent(path: Path, log: Path) -> AsyncIterator[Process]:
    """The agent as a process of its own, out of reach of the terminal's Ctrl-C: it is stopped after the stories."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "printago_moonraker", "run", "-c", str(path)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
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
