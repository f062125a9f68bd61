"""What every benchmark needs: broker, virtual printer, agent and cloud on loopback, and the kernel's figures."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from printago_moonraker import config
from printago_moonraker.cloud import Cloud
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from printago_moonraker.virtual.rig import VirtualPrinter
from tests.fakes.mosquitto import Mosquitto, free_port, mosquitto, program

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")  # a second of processor time, in /proc's unit
READY_TIMEOUT = 60.0  # s for all printers of an agent to be known to Printago
STOP_TIMEOUT = 15.0  # s
MIB = 1024 * 1024

TEMPLATE = """\
[printago]
data_path: {folder}/agent
log_level: warning
[mqtt]
host: 127.0.0.1
port: {port}
{tls}
[transfers]
allow_http: on
allowed_hosts: 127.0.0.1
"""


@dataclass(frozen=True)
class Memory:
    """MiB of one process: resident, its share of what is shared, the most that was resident."""

    rss: float
    pss: float
    peak: float


class Process:
    """One process of this machine, as /proc shows it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @classmethod
    def child(cls, words: str, folder: Path) -> Self:
        """This process' child of whose command line `words` and `folder` are a part."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended meanwhile
                continue
            if parent == os.getpid() and words in line and str(folder) in line:
                return cls(int(entry.name))
        raise LookupError(f"no child process {words} of {folder}")

    def cpu(self) -> float:
        """Seconds of processor time so far, with those of children that have ended."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return sum(int(value) for value in fields[11:15]) / TICKS

    def memory(self) -> Memory:
        values = dict(line.split(":", 1) for line in (self._proc / "status").read_text().splitlines())
        values |= dict(line.split(":", 1) for line in (self._proc / "smaps_rollup").read_text().splitlines()[1:])
        rss, pss, peak = (int(values[name].split()[0]) / 1024 for name in ("VmRSS", "Pss", "VmHWM"))
        return Memory(rss, pss, peak)

    def forget_peak(self) -> None:
        """From now on `peak` counts anew (proc(5), clear_refs)."""
        (self._proc / "clear_refs").write_text("5")

    @property
    def _proc(self) -> Path:
        return Path("/proc") / str(self.pid)


class Stage:
    """One virtual printer behind the real Moonraker, a mosquitto, an agent with `printers` sections that all lead to
    that one Moonraker (each with a websocket and a model of its own), and a cloud for the first of them.

    `nodelay` is mosquitto's set_tcp_nodelay, `tls` a certificate made for the run.
    """

    def __init__(self, folder: Path, *, printers: int = 1, time_factor: float = 1.0, nodelay: bool = True,
                 tls: bool = False) -> None:  # fmt: skip
        self.folder = folder
        self._printers, self._time_factor, self._nodelay, self._tls = printers, time_factor, nodelay, tls
        self._stack = AsyncExitStack()
        self.printer: VirtualPrinter
        self.cloud: Cloud
        self.agent: Process

    async def __aenter__(self) -> Self:
        try:
            await self._build()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def moonraker(self) -> Process:
        return Process.child("runpy", self.folder / "printer")

    def cloud_for(self, name: str) -> Cloud:
        """The counterpart of the printer `name`, which need not be one of the agent's."""
        section = config.PrinterConfig(name)
        return Cloud(endpoint_for(self.config.mqtt, name), topics_for(self.config, section))

    async def _build(self) -> None:
        enter = self._stack.enter_async_context
        listener = await asyncio.to_thread(_certificate, self.folder) if self._tls else []
        broker = await enter(mosquitto(self.folder, nodelay=self._nodelay, listener=listener))
        self.printer = await enter(VirtualPrinter(self.folder / "printer", time_factor=self._time_factor, say=print))
        # An agent wants each printer's Moonraker to be another one: all but the first are reached over a relay.
        relays = [await enter(_relay(self.printer.port)) for _ in range(1, self._printers)]
        self.config = config.load(self._write_config(broker, [self.printer.url, *relays]))
        self.cloud = await enter(self.cloud_for("p0"))
        async with AsyncExitStack() as watching:
            clouds = [await watching.enter_async_context(self.cloud_for(f"p{n}")) for n in range(1, self._printers)]
            self.agent = await enter(_agent(self.config.path, self.folder / "agent.log"))
            known = (each.wait_for(_knows_the_printer, READY_TIMEOUT) for each in [self.cloud, *clouds])
            try:
                await asyncio.gather(*known)
            except TimeoutError:
                log = (self.folder / "agent.log").read_text(errors="replace").splitlines()[-3:]
                raise RuntimeError(f"the agent does not know its printers after {READY_TIMEOUT:.0f} s: {log}") from None

    def _write_config(self, broker: Mosquitto, urls: Sequence[str]) -> Path:
        tls = f"ca_file: {self.folder}/cert.pem" if self._tls else "tls: off"
        text = TEMPLATE.format(folder=self.folder, port=broker.port, tls=tls)
        for number, url in enumerate(urls):
            text += f"[printer p{number}]\nmoonraker_url: {url}\nclient_name: agent-{number}\n"
        path = self.folder / "printago.cfg"
        path.write_text(text)
        return path


def _knows_the_printer(envelope: dict[str, object]) -> bool:
    data = envelope["data"]
    return isinstance(data, dict) and data.get("event") == "Connected"


def _certificate(folder: Path) -> list[str]:
    """A self-signed one for 127.0.0.1; the lines of mosquitto's listener that name it."""
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([program("openssl"), *command.split(), *files], cwd=folder, check=True, capture_output=True)
    return [f"certfile {folder}/cert.pem", f"keyfile {folder}/key.pem"]


@asynccontextmanager
async def _agent(path: Path, log: Path) -> AsyncIterator[Process]:
    with log.open("wb") as output:
        async with child("-m", "printago_moonraker", "run", "-c", str(path), output=output.fileno()) as agent:
            yield agent


@asynccontextmanager
async def child(*arguments: str, output: int = asyncio.subprocess.DEVNULL) -> AsyncIterator[Process]:
    """A Python of its own for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
    )
    try:
        yield Process(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _relay(port: int) -> AsyncIterator[str]:
    """Another address of the Moonraker at `port`: each byte as it comes, both ways; its URL."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def source(folder: Path, size: int) -> AsyncIterator[str]:
    """A file of `size` bytes of G-code behind a web server of its own process; its URL."""
    await asyncio.to_thread(_write_gcode, folder, size)
    port = free_port()
    async with child("-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)  # nothing tells us when a foreign process listens
            else:
                writer.close()
                break
        yield f"http://127.0.0.1:{port}/part.gcode"


def _write_gcode(folder: Path, size: int) -> None:
    line = b"G1 X101.234 Y99.876 E0.04321 F3000 ; what a slicer writes\n"
    block = line * (MIB // len(line))
    folder.mkdir()
    with (folder / "part.gcode").open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.write(line * ((size - file.tell()) // len(line)))


async def successful(answering: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The data of a command's answer; ends the benchmark when it is an error, which takes a time of its own."""
    answer = await answering
    if answer["type"] == "error":
        raise RuntimeError(f"the agent answered: {answer['data']}")
    data: dict[str, Any] = answer["data"]
    return data


# ------------------------------------------------------------------------------------------------------------- figures


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of each pair: what slows the machine down for a while slows both."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)])


def machine() -> str:
    """This machine in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"


def verdict(what: str, value: float, budget: float, unit: str) -> None:
    print(f"budget   {what}: {value:.2f} {unit}, at most {budget:g} {unit}: {'kept' if value <= budget else 'BROKEN'}")


# -------------------------------------------------------------------------------------------------------- command line


def main(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace, Path], Coroutine[None, None, None]],
    arguments: Sequence[str] | None = None,
    *,
    needs: Sequence[str] = (),
) -> int:
    """Run one benchmark in a folder of its own; returns the exit code."""
    options = parser.parse_args(arguments)
    for name in ("mosquitto", *needs):
        if not shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"):
            print(f"{name} is not installed: sudo apt-get install {name}", file=sys.stderr)
            return 1
    print(machine())
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:  # short: unix sockets live in it
        asyncio.run(run(options, Path(folder)))
    return 0
