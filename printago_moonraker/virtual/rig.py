"""The pair: a simulated Klippy process, and the real Moonraker in front of it, on loopback.

`VirtualPrinter` is for tests and the demo, `run_virtual_printer` for a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from printago_moonraker.errors import AgentError
from printago_moonraker.virtual import ports
from printago_moonraker.virtual.moonraker_env import Say, find_or_make
from printago_moonraker.virtual.settings import EXTRAS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
READY_TIMEOUT = 30.0  # s until Moonraker says that Klippy is ready
POLL = 0.05  # s
SETTLING_TICKS = 3
END_OF_JSON = b"\x03"
ANSWER_LIMIT = 64 * 1024 * 1024  # bytes
STOP_TIMEOUT = 5.0  # s for a process to end before it is killed
SOCKET_PATH_LIMIT = 107  # bytes: sockaddr_un
LONGEST_SOCKET = "comms/moonraker.sock"
FOLDERS = ("config", "logs", "gcodes", "comms", "database")

# Moonraker itself knows no such option; without it a killed test run would leave its processes behind.
LAUNCHER = """\
import runpy, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
sys.argv[0] = "moonraker"
runpy.run_module("moonraker", run_name="__main__")
"""


class VirtualPrinter:
    """One virtual printer; `async with` starts it, waits until Klippy is ready, and leaves no process behind.

    `port` 0 takes a free one. `time_factor` makes motion and heat so many times as fast. `extras` are objects beyond
    the plain printer's (`settings.EXTRAS`), `on_error_gcode` is virtual_sdcard's. `webcams` are `[webcam]` sections: a
    `name` and options. `authorization` is what stands in `[authorization]`, `extra_config` more of moonraker.conf.
    `say` hears what takes long. Cancelling is safe everywhere.
    """

    def __init__(
        self,
        data_path: Path,
        *,
        port: int = 0,
        time_factor: float = 1.0,
        extras: Sequence[str] = (),
        on_error_gcode: str = "",
        webcams: Sequence[Mapping[str, str]] = (),
        authorization: str = "trusted_clients: 127.0.0.1",
        extra_config: str = "",
        say: Say = lambda _: None,
    ) -> None:
        self.data_path = data_path.expanduser().resolve()
        self.port = port
        self._time_factor, self._extras, self._on_error_gcode = time_factor, tuple(extras), on_error_gcode
        self._webcams, self._authorization, self._extra_config = tuple(webcams), authorization, extra_config
        self._say = say
        self._klippy: asyncio.subprocess.Process | None = None
        self._moonraker: asyncio.subprocess.Process | None = None
        self._python = Path()

    @property
    def url(self) -> str:
        """Moonraker's base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def gcodes(self) -> Path:
        """The folder of G-code files."""
        return self.data_path / "gcodes"

    async def __aenter__(self) -> Self:
        self._prepare_folders()
        self._python = await find_or_make(self._say)
        self._claim_port()
        try:
            await self.start_klippy()
            await self.start_moonraker()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End both processes, by force when they do not go by themselves."""
        await asyncio.gather(_end(self._moonraker, signal.SIGTERM), _end(self._klippy, signal.SIGTERM))
        self._moonraker = self._klippy = None

    async def start_klippy(self) -> None:
        """Start the Klippy process; does not wait for Moonraker to see it."""
        options = [f"--extra={name}" for name in self._extras] + [f"--on-error-gcode={self._on_error_gcode}"]
        self._klippy = await self._spawn(
            "klippy",
            sys.executable,
            "-m",
            "printago_moonraker.virtual.klippy",
            "--die-with-parent",
            "--data-path",
            str(self.data_path),
            "--time-factor",
            str(self._time_factor),
            *options,
        )

    async def kill_klippy(self) -> None:
        """As by kill -9."""
        await _end(self._klippy, signal.SIGKILL)
        self._klippy = None

    async def restart_klippy(self) -> None:
        """Kill it if it is there, start it anew, and wait until Moonraker sees it ready."""
        await self.kill_klippy()
        await self.start_klippy()
        await self.wait_ready()

    async def start_moonraker(self, *, wait: bool = True) -> None:
        """Start Moonraker with a fresh moonraker.conf; `wait`: until it sees Klippy ready."""
        (self.data_path / "config" / "moonraker.conf").write_text(self._config())
        command = [str(self._python), "-c", LAUNCHER, "-d", str(self.data_path)]
        self._moonraker = await self._spawn("moonraker-output", *command)
        if wait:
            await self.wait_ready()

    async def stop_moonraker(self) -> None:
        """As systemd would: SIGTERM, and wait."""
        await _end(self._moonraker, signal.SIGTERM)
        self._moonraker = None

    async def kill_moonraker(self) -> None:
        """As by kill -9."""
        await _end(self._moonraker, signal.SIGKILL)
        self._moonraker = None

    async def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Until Moonraker says that Klippy is ready, and has settled.

        Raises AgentError with the end of the log when it does not.
        """
        try:
            async with asyncio.timeout(timeout):
                while await self._klippy_state() != "ready":
                    self._check_alive()
                    await asyncio.sleep(POLL)
                # data_store subscribes only now, in two ticks: a print started meanwhile can miss its history
                for _ in range(SETTLING_TICKS):
                    await self.moonraker("printer.objects.query", objects={"webhooks": None})
        except TimeoutError:
            tail = self._log_tail("Moonraker")
            raise AgentError(f"the virtual printer is not ready after {timeout:.0f} s: {tail}") from None
        except OSError as error:
            self._check_alive()
            raise AgentError(f"Moonraker went away while it was waited for: {error}") from error

    @property
    def processes(self) -> list[asyncio.subprocess.Process]:
        """Those that were started and not ended from here: Moonraker first."""
        return [process for process in (self._moonraker, self._klippy) if process is not None]

    async def wait_ended(self) -> None:
        """Until one of the two processes ends by itself: then it raises AgentError with the end of that one's log."""
        waits = [asyncio.create_task(process.wait()) for process in self.processes]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._check_alive()

    async def moonraker(self, method: str, **params: Any) -> Any:
        """One JSON-RPC call over Moonraker's unix socket, which is always trusted.

        Raises AgentError for its error answer, OSError when nobody is there.
        """
        request = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
        answer = await self._ask("moonraker.sock", json.dumps(request).encode() + END_OF_JSON, END_OF_JSON)
        if "error" in answer:
            raise AgentError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    async def control(self, command: str, **params: Any) -> dict[str, Any]:
        """One of `control.Controls`' commands.

        Raises AgentError with Klippy's complaint, OSError when Klippy is not there.
        """
        answer = await self._ask("control.sock", json.dumps({"command": command, **params}).encode() + b"\n", b"\n")
        if "error" in answer:
            raise AgentError(f"control {command}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def _ask(self, name: str, request: bytes, separator: bytes) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(self.data_path / "comms" / name, limit=ANSWER_LIMIT)
        try:
            writer.write(request)
            while True:
                answer = json.loads((await reader.readuntil(separator))[:-1])
                if "method" not in answer:  # Moonraker's notifications are nobody's here
                    return cast("dict[str, Any]", answer)
        except asyncio.IncompleteReadError as error:
            raise ConnectionError(f"{name} was closed without an answer") from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _klippy_state(self) -> str:
        try:
            return str((await self.moonraker("server.info"))["klippy_state"])
        except (OSError, AgentError):
            return ""

    def _check_alive(self) -> None:
        for name, process in (("Moonraker", self._moonraker), ("Klippy", self._klippy)):
            if process is not None and process.returncode is not None:
                tail = self._log_tail(name)
                raise AgentError(f"the virtual printer's {name} ended with {process.returncode}: {tail}")

    def _prepare_folders(self) -> None:
        longest = self.data_path / LONGEST_SOCKET
        if (length := len(os.fsencode(longest))) > SOCKET_PATH_LIMIT:
            raise AgentError(
                f"data path {self.data_path} is too long: {longest} has {length} bytes, and a unix socket's name "
                f"at most {SOCKET_PATH_LIMIT}; choose a shorter --data-path"
            )
        try:
            for folder in FOLDERS:
                (self.data_path / folder).mkdir(parents=True, exist_ok=True)
            (self.data_path / "comms" / ".writable").touch()
            (self.data_path / "comms" / ".writable").unlink()
        except OSError as error:
            remedy = "choose another --data-path"
            raise AgentError(f"data path {self.data_path} cannot be used: {error.strerror}; {remedy}") from error

    def _claim_port(self) -> None:
        if not self.port:
            self.port = ports.free_port()
            return
        try:
            ports.check(self.port)
        except OSError as error:
            raise AgentError(f"port {self.port} cannot be used: {error.strerror}; choose another --port") from error

    def _config(self) -> str:
        sections = [
            f"[server]\nhost: 127.0.0.1\nport: {self.port}\nklippy_uds_address: {self.data_path}/comms/klippy.sock",
            f"[authorization]\n{self._authorization}",
            "[machine]\nprovider: none\nvalidate_service: False\nvalidate_config: False",
            "[file_manager]\nenable_object_processing: False",
            "[announcements]\nenable_moonlight: False",
            "[octoprint_compat]",
            "[history]",
        ]
        for webcam in self._webcams:
            options = "\n".join(f"{option}: {value}" for option, value in webcam.items() if option != "name")
            sections.append(f"[webcam {webcam['name']}]\n{options}")
        return "\n\n".join([*sections, self._extra_config]) + "\n"

    async def _spawn(self, log: str, *command: str) -> asyncio.subprocess.Process:
        environment = {n: value for n, value in os.environ.items() if not n.startswith(("PYTHON", "MOONRAKER"))}
        if command[0] == sys.executable:
            environment["PYTHONPATH"] = PACKAGE_ROOT  # from a checkout too; Moonraker must not see it
        with (self.data_path / "logs" / f"{log}.log").open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _log_tail(self, name: str) -> str:
        files = ("klippy.log",) if name == "Klippy" else ("moonraker-output.log", "moonraker.log")
        lines: list[str] = []
        for file in files:
            with contextlib.suppress(OSError):
                lines += (self.data_path / "logs" / file).read_text(errors="replace").strip().splitlines()[-3:]
        return " | ".join(lines) or "no log"


async def run_virtual_printer(data_path: Path, port: int, time_factor: float, say: Say = print) -> int:
    """Run until SIGINT or SIGTERM, and say what happens. Returns the exit code.

    Raises AgentError: one line on what is wrong and what to do.
    """
    loop = asyncio.get_running_loop()
    printer = VirtualPrinter(data_path, port=port, time_factor=time_factor, extras=EXTRAS[:3], say=say)
    running = asyncio.create_task(_run(printer, say))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()  # what kept it from running
        say("Stopped.")
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _run(printer: VirtualPrinter, say: Say) -> None:
    say(f"Starting a virtual printer in {printer.data_path} ...")
    async with printer:
        say(f"Ready: Moonraker is at {printer.url}, G-code files go to {printer.gcodes}. Ctrl-C stops it.")
        await printer.wait_ended()


async def _end(process: asyncio.subprocess.Process | None, number: int) -> None:
    """Signal a process and wait until it is gone; SIGKILL when it does not go, also when this is cancelled. What it has
    started itself goes with it: Moonraker's reader of metadata, for one, would run for ever.
    """
    if process is None:
        return
    try:
        await _end_alone(process, number)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own


async def _end_alone(process: asyncio.subprocess.Process, number: int) -> None:
    if process.returncode is not None:
        return
    try:
        process.send_signal(number)
        async with asyncio.timeout(STOP_TIMEOUT):
            await process.wait()
    except ProcessLookupError:
        await process.wait()
    except (TimeoutError, asyncio.CancelledError) as reason:
        process.kill()
        await process.wait()
        if isinstance(reason, asyncio.CancelledError):
            raise
