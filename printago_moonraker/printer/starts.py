"""Prints that were asked for and are not with Klipper yet: a stop takes them back, wherever they wait."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from printago_moonraker import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from printago_moonraker.printer.printer import Printer


class Start:
    """One command that is to start a print. It came at `received`, on the monotonic clock."""

    def __init__(self, printer: Printer, received: float) -> None:
        self.received = received
        self.with_klipper = False
        self._printer = printer
        self._halts = printer.halts
        self._stopped = False
        self._work: asyncio.Timeout | None = None  # of what a stop interrupts

    def stop(self) -> None:
        """It is not wanted any more; what `interrupted` holds ends at once."""
        if self._stopped:
            return  # what ends already takes no second word
        self._stopped = True
        if self._work is not None:
            self._work.reschedule(0.0)

    def check(self) -> None:
        """Raises Cancelled when the print must not begin: it was stopped, or Klipper has stopped since it came, be it
        by a person's emergency stop. Who has restarted a printer does not expect it to print by itself.
        """
        if self._stopped:
            raise errors.Cancelled("A stop came before the print was started, so it was not.")
        if self._printer.halts != self._halts:
            raise errors.Cancelled("Klipper stopped before the print was started, so it was not.")

    def hand_over(self) -> None:
        """From here on Klipper has it, and only Klipper can stop it. Raises Cancelled instead, as `check` does."""
        self.check()
        self.with_klipper = True

    @asynccontextmanager
    async def interrupted(self) -> AsyncIterator[None]:
        """Work that a stop ends at once, with Cancelled."""
        self.check()
        try:
            async with asyncio.timeout(None) as self._work:
                yield
        except TimeoutError:
            self.check()
            raise
        finally:
            self._work = None
        self.check()


class Starts:
    """One printer's."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._pending: set[Start] = set()
        self._last_stop = -math.inf  # when the last stop came, on the monotonic clock

    @contextmanager
    def pending(self, received: float) -> Iterator[Start]:
        """One more, for the length of the block."""
        start = Start(self._printer, received)
        if received < self._last_stop:  # an emergency stop overtakes what is still being noted on the disk
            start.stop()
        self._pending.add(start)
        try:
            yield start
        finally:
            self._pending.discard(start)

    def stop(self, received: float) -> bool:
        """A stop came at `received`, on the monotonic clock: what was to be started before must not begin any more.
        Whether there was any.
        """
        self._last_stop = max(self._last_stop, received)
        pending = [each for each in self._pending if each.received < received and not each.with_klipper]
        for each in pending:
            each.stop()
        return bool(pending)
