"""What can go wrong before a virtual printer runs: one sentence each, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.errors import AgentError
from printago_moonraker.virtual import moonraker_env
from printago_moonraker.virtual.rig import PACKAGE_ROOT, VirtualPrinter, run_virtual_printer
from tests.fakes.processes import ending_with_us

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)  # the real Moonraker takes its time to start on a busy machine

CHILD = """\
import asyncio, sys
from pathlib import Path
from printago_moonraker.virtual.rig import run_virtual_printer
sys.exit(asyncio.run(run_virtual_printer(Path(sys.argv[1]), 0, 20.0, say=lambda text: print(text, flush=True))))
"""


async def refused(data_path: Path, port: int = 0) -> str:
    with pytest.raises(AgentError) as caught:
        await run_virtual_printer(data_path, port, 1.0, say=lambda _: None)
    return str(caught.value)


async def test_port_in_use(tmp_path: Path) -> None:
    """A port that somebody has is named, with what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = await refused(tmp_path, port)
        assert message == f"port {port} cannot be used: Address already in use; choose another --port"


async def test_path_too_long(tmp_path: Path) -> None:
    """A unix socket's name has a limit, and the error says which name has how many bytes."""
    assert "a unix socket's name at most 107" in await refused(tmp_path / ("long" * 25))


async def test_path_not_writable(tmp_path: Path) -> None:
    """A data path that cannot be a folder is named."""
    (tmp_path / "file").write_text("")
    assert "cannot be used: Not a directory; choose another --data-path" in await refused(tmp_path / "file" / "below")


async def test_named_environment_without_moonraker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that is named but is none is an error, not a reason to install."""
    monkeypatch.setenv(moonraker_env.OVERRIDE, str(tmp_path))
    with pytest.raises(AgentError, match=r"there is no .*/bin/python"):
        await moonraker_env.find_or_make(print)


async def test_installation_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed installation says why and what to do, and the next call begins anew."""
    monkeypatch.delenv(moonraker_env.OVERRIDE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(AgentError, match="cannot install Moonraker: no output; install python3-venv"):
            await moonraker_env.find_or_make(said.append)
    assert len(said) == 2


async def test_one_makes_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that need the environment at once: one makes it, the other finds it."""
    monkeypatch.delenv(moonraker_env.OVERRIDE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[Path] = []

    def finish(home: Path) -> None:
        home.mkdir()
        (home / moonraker_env.MARK).touch()

    async def make(home: Path, _: moonraker_env.Say) -> None:
        made.append(home)
        await asyncio.sleep(0.05)
        finish(home)

    monkeypatch.setattr(moonraker_env, "_make", make)
    pythons = await asyncio.gather(*(moonraker_env.find_or_make(print) for _ in range(2)))
    assert len(made) == 1
    assert set(pythons) == {made[0] / "bin" / "python"}


async def test_moonraker_does_not_start(tmp_path: Path) -> None:
    """When Moonraker ends at its start, the error has the end of its log, and Klippy is gone too."""
    printer = VirtualPrinter(tmp_path, extra_config="[nonsense")
    with pytest.raises(AgentError, match="the virtual printer's Moonraker ended with 1: "):
        await printer.__aenter__()
    assert printer.processes == []


async def test_options_of_moonraker(tmp_path: Path) -> None:
    """A Moonraker that trusts nobody starts too, with its webcams, and its unix socket still answers."""
    camera = {"name": "nozzle", "stream_url": "/webcam/?action=stream", "snapshot_url": "/webcam/?action=snapshot"}
    options = "force_logins: True\ntrusted_clients: 192.0.2.1"
    async with VirtualPrinter(tmp_path, authorization=options, webcams=[camera]) as printer:
        webcams = (await printer.moonraker("server.webcams.list"))["webcams"]
        assert [(webcam["name"], webcam["snapshot_url"]) for webcam in webcams] == [("nozzle", camera["snapshot_url"])]
        assert (await printer.moonraker("access.get_api_key")).isalnum()
        with pytest.raises(AgentError, match=r"printer.gcode.script: Must home axis first"):
            await printer.moonraker("printer.gcode.script", script="G1 X5")


async def children(pid: int) -> list[int]:
    arguments = ["-o", "pid=", "--ppid", str(pid)]
    command = await asyncio.create_subprocess_exec("ps", *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await command.communicate()
    return [child for child in map(int, output.split()) if child != command.pid]


async def started(tmp_path: Path) -> tuple[asyncio.subprocess.Process, list[int]]:
    """A process that runs a virtual printer, and its two children."""
    process = await asyncio.create_subprocess_exec(
        *ending_with_us(sys.executable, "-c", CHILD, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": PACKAGE_ROOT},
    )
    assert process.stdout is not None
    while not (await process.stdout.readline()).startswith(b"Ready: Moonraker is at http://127.0.0.1:"):
        assert process.returncode is None
    pids = await children(process.pid)
    assert len(pids) == 2
    return process, pids


async def gone(pids: list[int]) -> None:
    async with asyncio.timeout(30):
        for pid in pids:
            while True:
                try:
                    os.kill(pid, 0)
                except ProcessLookupError:
                    break
                await asyncio.sleep(0.02)


async def test_runs_until_it_is_told(tmp_path: Path) -> None:
    """SIGTERM ends it with 0, and both processes with it."""
    process, pids = await started(tmp_path)
    process.send_signal(signal.SIGTERM)
    output, _ = await process.communicate()
    assert (process.returncode, output.decode()) == (0, "Stopped.\n")
    await gone(pids)


async def test_a_killed_parent_leaves_nothing(tmp_path: Path) -> None:
    """kill -9 of what started them takes Klippy and Moonraker along."""
    process, pids = await started(tmp_path)
    process.kill()
    await process.communicate()
    await gone(pids)
