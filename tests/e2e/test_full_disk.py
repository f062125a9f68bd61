"""The agent's process on a disk that takes nothing any more: it goes on, and nothing that it noted is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import sqlite3
import sys
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from printago_moonraker.cloud import Cloud
from printago_moonraker.config import load
from printago_moonraker.printago.endpoint import endpoint_for
from printago_moonraker.printago.envelope import topics_for
from tests.e2e.farm import ROOT, is_event, until
from tests.fakes.klipper import Bench, Recorder
from tests.fakes.moonraker import FakeMoonraker
from tests.fakes.mosquitto import Mosquitto, mosquitto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from printago_moonraker.config import Config

CONFIG = """\
[printago]
data_path: {folder}/data
[mqtt]
host: 127.0.0.1
port: {port}
tls: off
[printer voron]
moonraker_url: {url}
"""
# A limit on the size of files is the nearest to a full disk that needs no rights; a service's limit can be changed
# from outside while it runs. Python ignores the signal that comes with it.
LAUNCHER = """\
import resource, sys
from printago_moonraker import cli
from printago_moonraker.printago import database
database.RETRY = 0.3
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
sys.exit(cli.main(["run", "-c", {config!r}]))
"""
FULL, EMPTY = 1, resource.RLIM_INFINITY
STOP = {"type": "printer_control", "action": "emergency_stop", "parameters": {}}


@dataclass
class Host:
    """One agent process after the other, on the same data."""

    settings: Config
    broker: Mosquitto
    moonraker: FakeMoonraker
    cloud: Cloud
    process: asyncio.subprocess.Process | None = None

    async def start(self, limit: int = EMPTY) -> None:
        start = len(self.cloud.envelopes)
        code = LAUNCHER.format(limit=limit, config=str(self.settings.path))
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
        )
        await self.cloud.wait_for(lambda each: is_event(each, "Connected"), start=start)

    def disk(self, limit: int) -> None:
        assert self.process is not None
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (limit, EMPTY))

    async def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            await self.process.wait()

    async def stop(self, id: str) -> dict[str, Any]:  # noqa: A002 - the member's name
        """Send an emergency stop; its answer."""
        start = len(self.cloud.envelopes)
        await self.cloud.send_raw(json.dumps({**STOP, "id": id}).encode())
        return await self.cloud.wait_for(lambda each: each.get("command", {}).get("id") == id, start=start)

    @property
    def stops(self) -> int:
        return [each["method"] for each in self.moonraker.requests].count("printer.emergency_stop")

    def on_disk(self, query: str) -> list[Any]:
        file = self.settings.printago.data_path / "printago.db"
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            return [row[0] for row in connection.execute(query)]

    def commands(self) -> set[str]:
        return set(self.on_disk("SELECT key FROM ledger WHERE ended IS NOT NULL"))


def new_cloud(settings: Config) -> Cloud:
    printer = settings.printers[0]
    return Cloud(endpoint_for(settings.mqtt, printer.printer_id), topics_for(settings, printer))


@asynccontextmanager
async def host(folder: Path) -> AsyncIterator[Host]:
    async with mosquitto(folder) as broker, FakeMoonraker() as moonraker:
        file = folder / "printago.cfg"
        file.write_text(CONFIG.format(folder=folder, port=broker.port, url=moonraker.url))
        Bench(moonraker, Recorder().printer, []).script()
        moonraker.answers |= {
            "server.connection.identify": {"connection_id": 1},
            "server.webcams.list": {"webcams": []},
            "machine.proc_stats": {},
            "connection.register_remote_method": "ok",
        }
        shutdown = {"webhooks": {"state": "shutdown", "state_message": "Shutdown due to webhooks request"}}
        tasks: list[asyncio.Task[None]] = []

        def stop(_: object) -> str:
            tasks.append(asyncio.create_task(moonraker.notify("notify_status_update", shutdown, 1.0)))
            return "ok"

        moonraker.answers["printer.emergency_stop"] = stop
        settings = load(file)
        async with new_cloud(settings) as cloud:
            it = Host(settings, broker, moonraker, cloud)
            try:
                yield it
            finally:
                await it.kill()


async def test_a_disk_that_gets_full_and_is_freed(tmp_path: Path) -> None:
    """Commands are answered and events kept meanwhile; once there is room all of it is in the file, where a kill does
    not reach it.
    """
    async with host(tmp_path) as it:
        await it.start()
        assert (await it.stop("before"))["type"] == "success"
        it.disk(FULL)
        assert (await it.stop("full"))["type"] == "success"
        await it.broker.stop(kill=True)
        await it.moonraker.notify("notify_gcode_response", "!! while the disk was full")
        await asyncio.sleep(0.5)  # some looks at the disk in vain
        assert it.commands() <= {"id:before"}
        it.disk(EMPTY)
        await until(lambda: it.commands() == {"id:before", "id:full"})
        assert any(b"while the disk was full" in payload for payload in it.on_disk("SELECT payload FROM outbox"))
        await it.kill()
        await it.broker.start()
        async with new_cloud(it.settings) as it.cloud:
            await it.start()
            await it.cloud.wait_for(lambda each: "while the disk was full" in str(each["data"].get("error")))
            assert (await it.stop("full"))["type"] == "success"
            assert it.stops == 2


async def test_a_start_on_a_full_disk(tmp_path: Path) -> None:
    """After a kill, what only the log beside the database holds is known all the same, and is not lost later."""
    async with host(tmp_path) as it:
        await it.start()
        await it.stop("before")
        await it.kill()
        data = it.settings.printago.data_path
        assert (data / "printago.db-wal").stat().st_size
        (data / "printago.db-shm").unlink()
        await it.start(FULL)
        assert (await it.stop("before"))["type"] == "success"
        assert (await it.stop("full"))["type"] == "success"
        assert it.stops == 2
        it.disk(EMPTY)
        await until(lambda: it.commands() == {"id:before", "id:full"})
