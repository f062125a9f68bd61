"""What one printer still has to say, in order: all of it on the disk, a window of it in memory."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from printago_moonraker.printago.store import Destinations, Letter, PrinterStore, Write

logger = logging.getLogger(__name__)

WINDOW_ROWS, WINDOW_BYTES = 64, 256 * 1024  # of the outbox in memory; the rest waits in the store


@dataclass(eq=False)
class Outgoing:
    """An envelope in memory. `number` is the store's, None for what is not kept; `answers`: somebody waits for it."""

    destinations: Destinations
    payload: bytes
    number: int | None
    answers: bool = True
    failures: int = 0  # sessions that it alone has ended


class Outbox:
    """One printer's. Everything is for the event loop's thread, and returns at once; `on_news` is called when there may
    be more to take.
    """

    def __init__(self, store: PrinterStore, name: str, on_news: Callable[[], None]) -> None:
        """`name` stands in the log."""
        self._store = store
        self._name = name
        self._on_news = on_news
        self._window: deque[Outgoing] = deque()  # what comes next
        self._read = 0  # the number up to which the outbox is, or was, in the window
        self._newest: int | None = None  # the highest number in the outbox; unknown until it is first looked into
        self._loading = False
        self._outdated = False  # what is being loaded was for another account
        self._storing = 0
        store.on_found = self._look_again

    def __len__(self) -> int:
        """How much of it is in memory."""
        return len(self._window)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, neither here nor on its way to the disk or from it."""
        return not (self._storing or self._loading or self._window) and self._read >= (self._newest or 0)

    def open(self) -> None:
        """Look what an earlier process has left."""
        if self._newest is None and not self._loading:
            self._load()

    def put(self, letters: list[Letter], also: Write | None) -> asyncio.Future[list[int]]:
        """Keep envelopes and do `also`, all in one transaction; done when they are on the disk."""
        self._storing += 1
        stored = self._store.put_all(letters, also)
        stored.add_done_callback(partial(self._stored, letters))
        return stored

    def take(self) -> Outgoing:
        """The next; there must be one. It stays on the disk until it is `done`."""
        return self._window.popleft()

    def give_back(self, outgoing: Iterable[Outgoing]) -> None:
        """These were taken, in this order, and are to be taken again."""
        self._window.extendleft(reversed(list(outgoing)))

    def done(self, outgoing: Outgoing) -> None:
        """The broker has it."""
        if outgoing.number is not None:
            self._store.remove([outgoing.number])

    def refill(self) -> None:
        """Have more read from the disk when the window is half empty."""
        if len(self._window) <= WINDOW_ROWS // 2 and self._read < (self._newest or 0) and not self._loading:
            self._load()

    def begin_anew(self) -> None:
        """Forget the window: the store has dropped what was kept for another account."""
        self._window.clear()
        self._read, self._newest, self._outdated = 0, None, self._loading
        self.open()

    def _stored(self, letters: list[Letter], future: asyncio.Future[list[int]]) -> None:
        """Envelopes are on the disk. Each comes into the window when it is the next, and when there is room."""
        self._storing -= 1
        if future.cancelled() or future.exception() is not None:
            logger.error("%s: an envelope could not be stored: %s", self._name, future)
        else:
            for number, letter in zip(future.result(), letters, strict=True):
                caught_up, self._newest = self._newest is not None and self._read >= self._newest, number
                if caught_up and len(self._window) < WINDOW_ROWS and not self._loading:
                    self._admit(number, letter)
        self._on_news()

    def _admit(self, number: int, letter: Letter) -> None:
        self._read = number
        self._window.append(Outgoing(letter.destinations, letter.payload, number))

    def _look_again(self) -> None:
        """There may be more in the outbox than was put there here."""
        self._newest = max(self._newest or 0, self._read + 1)
        self._on_news()

    def _load(self) -> None:
        self._loading = True
        rows = WINDOW_ROWS - len(self._window)
        self._store.load(self._read, rows, WINDOW_BYTES).add_done_callback(self._loaded)

    def _loaded(self, future: asyncio.Future[tuple[list[tuple[int, Letter]], int]]) -> None:
        self._loading = False
        if future.cancelled():
            return
        if self._outdated:
            self._outdated = False
            self._load()
            return
        found, highest = future.result()
        for number, letter in found:
            self._admit(number, letter)
        self._newest = max(self._newest or 0, highest)
        if not found:  # whatever was there is gone, for want of room
            self._read = self._newest
        self._on_news()
