"""The process: one supervised session a printer, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from printago_moonraker import __version__, systemd
from printago_moonraker.clock import Clock
from printago_moonraker.lock import only_one
from printago_moonraker.printago.store import Store
from printago_moonraker.session import Session
from printago_moonraker.supervise import supervise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from printago_moonraker.backoff import Backoff
    from printago_moonraker.config import Config, PrinterConfig

logger = logging.getLogger(__name__)

STOP_TIMEOUT = 10.0  # s; what has not ended by then is told to systemd by the exit, not waited for


async def run(settings: Config) -> int:
    """Serve all printers until SIGTERM or SIGINT; returns the exit code. Cancelling is safe and stops everything.

    Raises AgentError: another agent does so already.
    """
    logger.info("printago-moonraker %s, configuration %s", __version__, settings.path)
    with only_one(settings.printago.data_path), _signals() as stop:
        sessions = asyncio.create_task(_sessions(settings))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({sessions, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            systemd.notify("STOPPING=1")
            stopping.cancel()
            sessions.cancel()
            await asyncio.wait({sessions, stopping}, timeout=STOP_TIMEOUT)
        if sessions.done() and not sessions.cancelled():
            sessions.result()  # it never ends by itself: this raises the defect
    logger.info("stopped")
    return 0


async def _sessions(settings: Config) -> None:
    clock = Clock()
    async with Store(settings.printago.data_path, trusted_time=clock.trusted_time) as store:
        newest = await store.newest()
        if newest is not None:
            clock.has_passed(newest)
        async with asyncio.TaskGroup() as group:
            group.create_task(systemd.watchdog())
            systemd.notify("READY=1", f"STATUS=serves {', '.join(printer.name for printer in settings.printers)}")
            if settings.printago.token_url is not None:
                from printago_moonraker.pair import keep_paired

                group.create_task(supervise("pairing", partial(keep_paired, settings)))
            for printer in settings.printers:
                group.create_task(supervise(printer.name, partial(_session, settings, printer, store, clock)))


async def _session(settings: Config, printer: PrinterConfig, store: Store, clock: Clock, _backoff: Backoff) -> None:
    """One session. Only a defect ends it: `supervise` logs that, and the next one begins with nothing of it."""
    await Session(settings, printer, store, clock).run()


@contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set, so that stopping is waited for like anything else, and every `finally`
    runs.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
