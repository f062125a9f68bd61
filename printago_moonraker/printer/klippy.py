"""Follows Klipper through its restarts: subscribes when it is there, again whenever it came back, and asks while it is
silent.

Each restart of Klipper drops the subscription without a word, and starting up and failing to are silent: no
notification tells of them. So while Klipper is not there, Moonraker is asked every second. Source: docs/klipper.md,
measured.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from printago_moonraker.moonraker.api import KlippyState, Moonraker
from printago_moonraker.moonraker.rpc import RpcError
from printago_moonraker.printer.facts import read_facts
from printago_moonraker.printer.prints import history_status
from printago_moonraker.printer.state import subscription

if TYPE_CHECKING:
    from printago_moonraker.printer.printer import Printer

logger = logging.getLogger(__name__)

POLL = 1.0  # s
_ATTACHED = (KlippyState.READY, KlippyState.SHUTDOWN, KlippyState.ERROR)


class KlippyWatch:
    """For the length of one connection to Moonraker."""

    def __init__(self, printer: Printer, api: Moonraker) -> None:
        self._printer = printer
        self._api = api
        self._news = asyncio.Event()
        self._halted = False

    def ready(self) -> None:
        """`notify_klippy_ready`: whatever was subscribed before is gone."""
        self._news.set()

    def disconnected(self) -> None:
        """`notify_klippy_disconnected`. Nothing more will be pushed: what Klipper said last is not true any more."""
        self._printer.klippy_is(KlippyState.DISCONNECTED)
        self._news.set()

    def shutdown(self) -> None:
        """`// Klipper state: Shutdown`, which comes up to 250 ms before the status that says so, and does not say why:
        Klipper is asked at once.
        """
        self._halted = True
        self._printer.halt()
        self._news.set()

    async def run(self) -> None:
        """Until the connection ends. Raises ConnectionLost. Cancelling is safe."""
        while True:
            self._news.clear()
            attached = await self._look()
            await self._settle()
            try:
                async with asyncio.timeout(None if attached else POLL):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _look(self) -> bool:
        """Take in Klipper's present state; True when it is subscribed to, so that it will say what changes."""
        try:
            if self._halted:
                self._halted = False
                return await self._look_at_shutdown()
            info = await self._api.server_info()
            if not info.klippy_connected:
                self._note(KlippyState.DISCONNECTED)
                return False
            if info.klippy_state not in _ATTACHED:
                self._note(info.klippy_state)
                return False
            await self._subscribe()
        except RpcError as error:
            # Klipper went away between two calls.
            logger.debug("%s: %s", self._printer.config.name, error)
            return False
        return self._printer.state.klippy in _ATTACHED and not self._news.is_set()

    async def _look_at_shutdown(self) -> bool:
        """Why Klipper has stopped. The subscription survives that."""
        info = await self._api.printer_info()
        if info.state is KlippyState.SHUTDOWN:
            self._printer.klippy_is(info.state, info.state_message)
        return info.state is KlippyState.SHUTDOWN and not self._news.is_set()

    def _note(self, state: KlippyState) -> None:
        if self._printer.state.klippy is not state:
            self._printer.klippy_is(state)

    async def _subscribe(self) -> None:
        printer = self._printer
        printer.versions["klipper"] = (await self._api.printer_info()).software_version
        objects = await self._api.objects_list()
        printer.expect_snapshot()
        status, eventtime = await self._api.subscribe(subscription(objects))
        printer.facts = read_facts(objects, status)
        printer.snapshot(status, eventtime)

    async def _settle(self) -> None:
        """Ask Moonraker's history how the print ended that was on when the printer went out of sight."""
        printer, question = self._printer, self._printer.prints.in_question
        if not printer.prints.unsettled or question is None:
            return
        filename, since = question
        try:
            history = await self._api.history_list(limit=20)
        except RpcError as error:
            # Without the component [history] nobody knows, and nobody ever will.
            logger.info("%s: Moonraker's history cannot be asked: %s", printer.config.name, error)
            history = []
        history = [entry for entry in history if entry.get("job_id") != (printer.prints.before or "")]
        if printer.prints.goes_on(history, printer.state):
            printer.changed()
            return
        entry = printer.prints.current.entry if printer.prints.current else None
        again = printer.is_printing(filename)
        printer.settle(history_status(history, filename, again=again, since=since, entry=entry))
