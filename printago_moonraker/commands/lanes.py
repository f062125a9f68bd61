"""The order in which commands get their turn."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING

from printago_moonraker import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_WAITING = 64


class Lane(Enum):
    """Who waits for whom."""

    ORDERED = "ordered"  # what moves, heats or restarts: one after the other, in the order received
    TRANSFER = "transfer"  # downloads: one after the other, beside all else
    BESIDE = "beside"  # waits for nothing


class Lanes:
    """One printer's lanes. A lane is a lock: asyncio's locks are first come, first served."""

    def __init__(self) -> None:
        self._locks = {Lane.ORDERED: asyncio.Lock(), Lane.TRANSFER: asyncio.Lock()}
        self._queued = dict.fromkeys(self._locks, 0)  # with the one whose turn it is

    @property
    def waiting(self) -> int:
        """How many commands wait for their turn."""
        return sum(max(0, queued - 1) for queued in self._queued.values())

    def reserve(self, lane: Lane) -> None:
        """Queue up for a later `turn`, synchronously. Raises Overloaded when 64 commands wait already and this one
        would have to wait too.
        """
        if lane in self._locks:
            if self._queued[lane] and self.waiting >= MAX_WAITING:
                raise errors.Overloaded(f"{MAX_WAITING} commands are waiting already; send it later, with a new id.")
            self._queued[lane] += 1

    @asynccontextmanager
    async def turn(self, lane: Lane, *, reserved: bool = False) -> AsyncIterator[None]:
        """Wait for this lane's turn, and hold it for the length of the block. Cancelling is safe."""
        lock = self._locks.get(lane)
        if lock is None:
            yield
            return
        if not reserved:
            self._queued[lane] += 1
        try:
            async with lock:
                yield
        finally:
            self._queued[lane] -= 1
