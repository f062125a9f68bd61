"""The service manager's side is a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from printago_moonraker import agent, config, systemd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def manager(monkeypatch: pytest.MonkeyPatch, address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address.replace("@", "\0"))
        heard.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield heard


async def hear(heard: socket.socket) -> str:
    async with asyncio.timeout(5):
        return (await asyncio.get_running_loop().sock_recv(heard, 4096)).decode()


@pytest.mark.parametrize("address", ["{path}/notify", "@printago-test-{pid}"])
async def test_a_notification(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said is one datagram, to a path as to an abstract address."""
    with manager(monkeypatch, address.format(path=tmp_path, pid=os.getpid())) as heard:
        systemd.notify("READY=1", "STATUS=serves voron-24")
        assert await hear(heard) == "READY=1\nSTATUS=serves voron-24"


def test_nobody_to_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a service manager, or with one that is gone, nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("READY=1")


async def test_the_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three signs of life come in each interval of the watchdog."""
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with manager(monkeypatch, str(tmp_path / "notify")) as heard:
        task, loop = asyncio.create_task(systemd.watchdog()), asyncio.get_running_loop()
        start = loop.time()
        for _ in range(4):
            assert await hear(heard) == "WATCHDOG=1"
        assert 0.25 < loop.time() - start < 2
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize(("usec", "pid"), [("", "0"), ("300000", "1"), ("soon", None)])
async def test_no_watchdog(usec: str, pid: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a watchdog of its own, it ends at once."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid or str(os.getpid()))
    async with asyncio.timeout(1):
        await systemd.watchdog()


async def test_the_agent_says_when_it_is_ready_and_when_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is ready once its printers are served, shows life meanwhile, and says that it stops."""
    file = tmp_path / "printago.cfg"
    file.write_text(
        f"[printago]\ndata_path: {tmp_path}/data\n[mqtt]\nhost: 127.0.0.1\nport: 1\ntls: off\n"
        "[printer voron-24]\nmoonraker_url: http://127.0.0.1:1\n"
    )
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    with manager(monkeypatch, str(tmp_path / "notify")) as heard:
        running = asyncio.create_task(agent.run(config.load(file)))
        said = {await hear(heard), await hear(heard)}
        assert said == {"READY=1\nSTATUS=serves voron-24", "WATCHDOG=1"}
        running.cancel()
        assert await hear(heard) == "STOPPING=1"
        await asyncio.wait({running})
