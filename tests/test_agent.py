"""The process: a session a printer, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from printago_moonraker import agent
from printago_moonraker.cloud import Cloud
from printago_moonraker.config import Config, MqttSection, PrinterConfig
from printago_moonraker.errors import AgentError
from printago_moonraker.lock import only_one
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from tests.fakes.klipper import make_config
from tests.fakes.mosquitto import mosquitto

if TYPE_CHECKING:
    from pathlib import Path


def settings(folder: Path, port: int, *names: str) -> Config:
    """Printers whose Moonrakers are not there: port 1 refuses."""
    _, config = make_config(folder=folder)
    printers = tuple(PrinterConfig(name=name, moonraker_url=f"http://127.0.0.1:1/{name}") for name in names)
    return replace(config, printers=printers, mqtt=MqttSection(host="127.0.0.1", port=port, tls=False))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Every printer says goodbye, nothing is left, the exit code is 0, and the signal has its default meaning again."""
    async with mosquitto(tmp_path) as broker:
        config = settings(tmp_path, broker.port, "a", "b")
        clouds = [
            Cloud(endpoint_for(config.mqtt, printer.printer_id), topics_for(config, printer))
            for printer in config.printers
        ]
        async with clouds[0], clouds[1]:
            running = asyncio.create_task(agent.run(config))
            for cloud in clouds:
                await cloud.wait_available("connected")
            os.kill(os.getpid(), number)
            assert await running == 0
            for cloud in clouds:
                await cloud.wait_available("disconnected")
                await cloud.wait_for(lambda each: each["data"].get("event") == "Shutdown")
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    assert len(asyncio.all_tasks()) == 1


async def test_only_one_agent_has_a_folder(tmp_path: Path) -> None:
    """A second one ends with a sentence and does nothing; when the first is gone, the next may run."""
    config = settings(tmp_path, 1, "a")
    first = asyncio.create_task(agent.run(config))
    await asyncio.sleep(0.05)
    with pytest.raises(AgentError, match=r"Another agent runs with the data_path .*: stop that one first"):
        await agent.run(config)
    assert not first.done()
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(agent.run(config))
    done, _ = await asyncio.wait([second], timeout=0.1)
    assert not done
    second.cancel()
    await asyncio.wait([second])


async def test_a_killed_agent_frees_its_folder(tmp_path: Path) -> None:
    """The lock is the process's: nothing is left behind that a person would have to remove."""
    code = f"""
import os, time
from pathlib import Path
from printago_moonraker.lock import only_one
with only_one(Path({str(tmp_path)!r})):
    print("mine", flush=True)
    time.sleep(60)
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"mine\n"
    with pytest.raises(AgentError), only_one(tmp_path):
        pass
    process.kill()
    await process.wait()
    with only_one(tmp_path):
        assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - a local disk


async def test_a_folder_that_cannot_be_made_stops_no_agent(tmp_path: Path) -> None:
    """Memory has to do then, and there is nothing to protect."""
    (tmp_path / "file").touch()
    with only_one(tmp_path / "file" / "data"), only_one(tmp_path / "file" / "data"):
        pass


async def test_it_stops_without_its_peers(tmp_path: Path) -> None:
    """Neither a broker nor a Moonraker has to be there for it to end."""
    running = asyncio.create_task(agent.run(settings(tmp_path, 1, "a")))
    await asyncio.sleep(0.05)  # in the middle of whatever it does
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(asyncio.all_tasks()) == 1


async def test_a_defect_in_one_session_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged in full, and that session begins anew."""
    begun: list[str] = []
    other, again = asyncio.Event(), asyncio.Event()

    class Broken:
        def __init__(self, _settings: Config, printer: PrinterConfig, *_: object) -> None:
            self.name = printer.name

        async def run(self) -> None:
            begun.append(self.name)
            if self.name == "b":
                other.set()
                await asyncio.Event().wait()
            if begun.count("a") == 2:
                again.set()
            raise RuntimeError("a defect")

    monkeypatch.setattr(agent, "Session", Broken)
    monkeypatch.setattr("printago_moonraker.supervise.asyncio.sleep", _at_once)
    with caplog.at_level(logging.ERROR):
        running = asyncio.create_task(agent.run(settings(tmp_path, 1, "a", "b")))
        async with asyncio.timeout(5):
            await other.wait()
            await again.wait()
        running.cancel()
        await asyncio.wait([running])
    assert begun.count("b") == 1
    assert "a defect" in caplog.text


_sleep = asyncio.sleep


async def _at_once(_: float) -> None:
    await _sleep(0)
