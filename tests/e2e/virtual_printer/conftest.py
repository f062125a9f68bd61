"""One virtual printer a module, behind the real Moonraker, made idle again before each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from printago_moonraker.virtual.rig import VirtualPrinter
from tests.e2e.client import Client, connected
from tests.e2e.virtual_printer.steps import FACTOR, FILES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VirtualPrinter]:
    async with VirtualPrinter(tmp_path_factory.mktemp("rig"), time_factor=FACTOR) as printer:
        for name, text in FILES.items():
            (printer.gcodes / name).write_text(text)
        yield printer


@pytest_asyncio.fixture(loop_scope="module")
async def client(rig: VirtualPrinter) -> AsyncIterator[Client]:
    """A subscribed client before an idle, unhomed, cold printer."""
    await rig.control("release")
    async with connected(rig.url) as client:
        await client.call("server.connection.identify", client_name="bench", version="1", type="agent", url="http://x")
        if (await client.call("server.info"))["klippy_state"] != "ready":
            await client.call("printer.firmware_restart")
            await client.heard("notify_klippy_ready")
            await rig.wait_ready()
        await client.gcode("CANCEL_PRINT_BASE\nSDCARD_RESET_FILE\nTURN_OFF_HEATERS\nG90\nM82\nM117\nM84")
        await rig.control("filament", present=True)
        await rig.control("set_temperature", heater="extruder", temperature=25.0)
        await client.subscribe()
        await client.state("print_stats", "state", "standby")
        client.log.clear()
        yield client
