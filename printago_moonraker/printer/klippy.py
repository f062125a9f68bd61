"""Follows Klipper through its restarts: subscribes when it is there, again whenever it came back, and asks while it is
silent.

Each restart of Klipper drops the subscription without a word, and starting up and failing to are silent: no
notification tells of them. So while Klipper is not there, Moonraker is asked every second. Source: docs/klipper.md,
measured.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from printago_moonraker.moonraker.api import KlippyState, Moonraker
from printago_moonraker.moonraker.rpc import METHOD_NOT_FOUND, RpcError, RpcTimeout
from printago_moonraker.printer.facts import read_facts
from printago_moonraker.printer.state import subscription

if TYPE_CHECKING:
    from printago_moonraker.printer.history import Entries
    from printago_moonraker.printer.printer import Printer

logger = logging.getLogger(__name__)

POLL = 1.0  # s
LOOK = 10.0  # s
HISTORY = 100  # prints looked at for the one in question
# Attempts at a history that fails; then nobody will ever know. Each may take as long as a call has patience.
ASK_HISTORY = 20
# After its own restart Moonraker says for a second that a Klipper which prints on is not connected, or starts up. After
# so many seconds on one connection it is true. A missing micro-controller keeps Klipper starting for 90 s.
AWAY = {KlippyState.DISCONNECTED: 15.0, KlippyState.STARTUP: 100.0}
_ATTACHED = (KlippyState.READY, KlippyState.SHUTDOWN, KlippyState.ERROR)


class KlippyWatch:
    """For the length of one connection to Moonraker."""

    def __init__(self, printer: Printer, api: Moonraker) -> None:
        self._printer = printer
        self._api = api
        self._news = asyncio.Event()
        self._halted = False
        self._asked = 0  # times that the history was asked in vain
        self._away_since: float | None = None  # on the monotonic clock

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
            self._lose_patience(attached)
            await self._settle()
            while not await self._news_came(soon=not attached or self._printer.prints.unsettled) and attached:
                await self._settle()

    async def _news_came(self, *, soon: bool) -> bool:
        """Wait for news; False when it is time to ask instead, or to see whether there is something to ask."""
        try:
            async with asyncio.timeout(POLL if soon else LOOK):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

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
        except (RpcError, RpcTimeout) as error:
            # Klipper went away between two calls, or hangs; Moonraker is there all the same.
            logger.debug("%s: %s", self._printer.config.name, error)
            return False
        return self._printer.state.klippy in _ATTACHED and not self._news.is_set()

    def _lose_patience(self, attached: bool) -> None:
        now = time.monotonic()
        self._away_since = None if attached else self._away_since or now
        patience = AWAY.get(self._printer.state.klippy)
        if self._away_since is not None and patience is not None and now - self._away_since > patience:
            self._printer.prints.give_up_waiting()

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
        if not self._printer.prints.unsettled:
            self._asked = 0
        else:
            entries = await self._history()
            if entries is not None:
                self._printer.settle(entries)

    async def _history(self) -> Entries | None:
        """Its entries, the newest first; none when there is no history, None when it may answer the next time."""
        try:
            entries = await self._api.history_list(limit=HISTORY)
        except (RpcError, RpcTimeout) as error:
            self._asked += 1
            for_good = isinstance(error, RpcError) and error.status == METHOD_NOT_FOUND  # no component [history]
            if not for_good and self._asked < ASK_HISTORY:
                logger.debug("%s: Moonraker's history: %s", self._printer.config.name, error)
                return None
            logger.warning("%s: Moonraker's history cannot be asked: %s", self._printer.config.name, error)
            entries = []
        self._asked = 0
        return entries
