"""The real mosquitto on a free port of the loopback, with the lines of configuration that a test needs."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.virtual.ports import free_port as free_port  # for the tests that only need that
from tests.fakes.processes import ending_with_us

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path


def program(name: str = "mosquitto") -> str:
    """Where it is; fails the test when it is not installed, because a skipped test looks like a passed one."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if found is None:
        pytest.fail(f"{name} is not installed: sudo apt-get install mosquitto", pytrace=False)
    return found


@dataclass
class Mosquitto:
    """A broker that can be stopped, killed and started again on the same port."""

    port: int
    config: Path
    process: Process | None = None

    async def start(self) -> None:
        """Returns once it accepts connections."""
        self.process = await asyncio.create_subprocess_exec(
            *ending_with_us(program(), "-c", str(self.config)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(5):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self.process.returncode is None, f"mosquitto does not start with {self.config}"
                    await asyncio.sleep(0.01)  # nothing tells us when a foreign process listens
                else:
                    writer.close()
                    await writer.wait_closed()
                    return

    async def stop(self, *, kill: bool = False) -> None:
        if self.process is not None and self.process.returncode is None:
            if kill:
                self.process.kill()
            else:
                self.process.terminate()
            await self.process.wait()


@asynccontextmanager
async def mosquitto(
    folder: Path,
    lines: Sequence[str] = ("allow_anonymous true",),
    *,
    nodelay: bool = True,
    listener: Sequence[str] = (),
) -> AsyncIterator[Mosquitto]:
    """A running broker; `lines` are global options, `listener` those of its one listener."""
    port = free_port()
    config = folder / f"mosquitto-{port}.conf"
    user = ["user root"] if os.geteuid() == 0 else []  # else it would give up root and with it the tests' files
    head = ["per_listener_settings false", "log_dest none", *user, *(["set_tcp_nodelay true"] if nodelay else [])]
    config.write_text("\n".join([*head, *lines, f"listener {port} 127.0.0.1", *listener, ""]))
    broker = Mosquitto(port, config)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
