"""What the agent must not forget: what it still has to say, which commands it has had, and whose print is on.

One SQLite file for all printers. `outbox` holds envelopes until the broker has acknowledged them, `ledger` the commands
of the last 24 h with their answers, `jobs` a printer's print, `accounts` whom these belong to. Outbox and ledger are
bounded for each printer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from printago_moonraker.errors import Interrupted
from printago_moonraker.log import printable
from printago_moonraker.printago import tables
from printago_moonraker.printago.database import Database
from printago_moonraker.printago.limits import Limits, forget_old, make_room

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

logger = logging.getLogger(__name__)

FILE = "printago.db"
REDELIVERED = 60.0  # seconds in which the same bytes, marked by the broker as sent again, are the same command
SESSION = (
    3600.0  # seconds likewise with the same packet identifier: the broker sends again as long as it keeps sessions
)
HOUSEKEEPING = 64  # pieces of work between two looks at the limits

Write = Callable[[sqlite3.Connection], object]
Destinations = tuple[tuple[str, bytes | None], ...]  # topic, correlation data


@dataclass(frozen=True)
class Letter:
    """An envelope on its way out. `at` is unix time, `rank` is one of those in `limits`."""

    destinations: Destinations
    payload: bytes
    rank: int
    at: float


@dataclass(frozen=True)
class Record:
    """A command that was accepted. `key` is its identity, `name` its `type.action`, `subject` the file it is about.

    Times are unix times; `ended`, `kind` and `data` are its answer, None while it runs.
    """

    key: str
    name: str
    echo: dict[str, str]
    received: float
    subject: str | None = None
    topic: str | None = None
    correlation: bytes | None = None
    ended: float | None = None
    kind: str | None = None
    data: Any = None


class Store:
    """A context manager; everything of it belongs to the event loop's thread. `folder` None: in memory only.

    `trusted_time` gives the unix time, or None as long as the clock may be wrong: nothing is too old then.
    """

    def __init__(
        self, folder: Path | None, limits: Limits | None = None, *, trusted_time: Callable[[], float | None]
    ) -> None:
        self._database = Database(
            folder / FILE if folder else None, tables.MIGRATIONS, merge=self._merge, merged=self._merged
        )
        self._limits = limits or Limits()
        self._trusted_time = trusted_time
        self._numbers = _Numbers()
        self._printers: dict[str, PrinterStore] = {}

    async def __aenter__(self) -> Self:
        """Returns when it is open. A file that cannot be used is no reason to fail, and is said in the log."""
        await self._database.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """All that was handed over is on the disk when it returns."""
        await self._database.__aexit__(*error)

    def of(self, printer_id: str) -> PrinterStore:
        """One printer's part."""
        printer = PrinterStore(printer_id, self._database, self._limits, self._trusted_time, self._numbers)
        self._printers[printer_id] = printer
        return printer

    def newest(self) -> asyncio.Future[float | None]:
        """The latest time that was ever written, as unix time: it is not earlier now."""
        query = "SELECT max(time) FROM (SELECT max(received) time FROM ledger UNION ALL SELECT max(at) FROM outbox)"
        return self._database.submit(lambda connection: connection.execute(query).fetchone()[0])

    def _merge(self, connection: sqlite3.Connection) -> None:
        self._numbers.last = tables.merge(connection, self._numbers.last)

    def _merged(self) -> None:
        for printer in self._printers.values():
            printer.on_found()


@dataclass
class _Numbers:
    """The highest number of an envelope so far. The thread's: they go on where a file broke that had higher ones."""

    last: int = 0


class PrinterStore:
    """One printer's outbox, ledger and job. Futures are done in the order of the calls, when the disk has it.

    `on_found` is called when envelopes may have come into the outbox that nobody has put there in this process.
    """

    def __init__(
        self,
        printer: str,
        database: Database,
        limits: Limits,
        trusted_time: Callable[[], float | None],
        numbers: _Numbers,
    ) -> None:
        self.on_found: Callable[[], object] = lambda: None
        self._printer = printer
        self._database = database
        self._limits = limits
        self._trusted_time = trusted_time
        self._works = {"outbox": count(1), "ledger": count(1)}
        self._numbers = numbers
        self._overflowing = False  # the thread's
        self._heard: dict[str, float] = {}  # the thread's: when commands came to this process, on the loop's clock

    # ------------------------------------------------------------------------------------------------------ the outbox

    def put(self, letter: Letter, also: Write | None = None) -> asyncio.Future[int]:
        """Keep an envelope, and do `also` in the same transaction; the result is its number. Numbers only grow."""
        insert = self._insert([letter], also)
        return self._database.submit(lambda connection: insert(connection)[0])

    def put_all(self, letters: Sequence[Letter], also: Write | None = None) -> asyncio.Future[list[int]]:
        """As `put`, for several at once: all of them are kept, and `also` is done, or none."""
        return self._database.submit(self._insert(letters, also))

    def _insert(self, letters: Sequence[Letter], also: Write | None) -> Callable[[sqlite3.Connection], list[int]]:
        look = self._time_to_look("outbox")
        now = self._trusted_time() if look else None
        rows = [
            (self._printer, each.rank, each.at, len(each.payload), _write_destinations(each.destinations), each.payload)
            for each in letters
        ]

        def work(connection: sqlite3.Connection) -> list[int]:
            highest = connection.execute("SELECT max(id) FROM outbox").fetchone()[0] or 0
            first = max(self._numbers.last, highest) + 1
            numbers = range(first, first + len(rows))
            for number, row in zip(numbers, rows, strict=True):
                connection.execute("INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *row))
            if also is not None:
                also(connection)
            if look:
                self._make_room(connection, now)
            self._numbers.last = numbers.stop - 1
            return list(numbers)

        return work

    def load(self, after: int, rows: int, size: int) -> asyncio.Future[tuple[list[tuple[int, Letter]], int]]:
        """The envelopes with numbers above `after`, oldest first, up to `rows` of them or about `size` bytes; and the
        highest number of all.
        """

        def work(connection: sqlite3.Connection) -> tuple[list[tuple[int, Letter]], int]:
            query = "SELECT id, destinations, payload, rank, at FROM outbox WHERE printer = ? AND id > ? ORDER BY id"
            found: list[tuple[int, Letter]] = []
            left = size
            for number, destinations, payload, rank, at in connection.execute(
                f"{query} LIMIT ?", (self._printer, after, rows)
            ):
                found.append((number, Letter(_read_destinations(destinations), payload, rank, at)))
                left -= len(payload)
                if left <= 0:
                    break
            highest = connection.execute("SELECT max(id) FROM outbox WHERE printer = ?", (self._printer,)).fetchone()[0]
            return found, highest or 0

        return self._database.submit(work)

    def remove(self, numbers: Iterable[int]) -> None:
        """The broker has these. Losing this with a power cut sends them twice, which a receiver has to expect."""
        rows = [(number,) for number in numbers]
        self.save(lambda connection: connection.executemany("DELETE FROM outbox WHERE id = ?", rows), lazy=True)

    # ------------------------------------------------------------------------------------------------------ the ledger

    def begin(self, record: Record, *, redelivered: bool = False) -> asyncio.Future[Record | None]:
        """Note a command before anything moves. The result is the record of the same command when it was had before:
        with the same key; or, when the broker has `redelivered` it, with the same bytes (the key up to its last colon),
        if that was within the last minute, or never finished, or had the same packet identifier (the key from there to
        the dot) within the time for which the broker keeps sessions. Else None.
        """
        look, now = self._time_to_look("ledger"), asyncio.get_running_loop().time()
        today = self._trusted_time() if look else None

        def work(connection: sqlite3.Connection) -> Record | None:
            earlier = self._sent_before(connection, record, now) if redelivered else self._find(connection, record.key)
            if earlier is not None:
                return earlier
            if not record.key.startswith("id:"):  # the age of what has an id is never asked for
                self._heard[record.key] = now
            connection.execute(
                "INSERT INTO ledger (printer, key, received, name, subject, echo, topic, correlation)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (self._printer, record.key, record.received, record.name, record.subject, json.dumps(record.echo),
                 record.topic, record.correlation),
            )  # fmt: skip
            if look:
                forget_old(connection, self._printer, self._limits, today)
                self._heard = {key: heard for key, heard in self._heard.items() if now - heard <= SESSION}
            return None

        return self._database.submit(work)

    def ended(self, key: str, kind: str, data: Any, at: float) -> Write:
        """For `put`'s `also`: the command has this answer, at this unix time."""
        values = (at, kind, json.dumps(data), self._printer, key)
        query = "UPDATE ledger SET ended = ?, kind = ?, data = ? WHERE printer = ? AND key = ?"
        return lambda connection: connection.execute(query, values)

    def forget(self, key: str) -> None:
        """The command was not begun after all: when it comes again, it is a new one."""
        query = "DELETE FROM ledger WHERE printer = ? AND key = ?"
        self.save(lambda connection: connection.execute(query, (self._printer, key)))

    def unfinished(self) -> asyncio.Future[list[Record]]:
        """The commands without an answer, oldest first."""
        query = f"SELECT {_RECORD} FROM ledger WHERE printer = ? AND ended IS NULL ORDER BY received"  # noqa: S608
        return self._database.submit(
            lambda connection: [_read_record(row) for row in connection.execute(query, (self._printer,))]
        )

    def keys_of(self, name: str) -> asyncio.Future[set[str]]:
        """The keys of all known commands of that `type.action`."""
        query = "SELECT key FROM ledger WHERE printer = ? AND name = ?"
        return self._database.submit(
            lambda connection: {row[0] for row in connection.execute(query, (self._printer, name))}
        )

    def _find(self, connection: sqlite3.Connection, key: str) -> Record | None:
        query = f"SELECT {_RECORD} FROM ledger WHERE printer = ? AND key = ?"  # noqa: S608 - no value is in it
        row = connection.execute(query, (self._printer, key)).fetchone()
        return _read_record(row) if row else None

    def _sent_before(self, connection: sqlite3.Connection, record: Record, now: float) -> Record | None:
        digest, _, serial = record.key.rpartition(":")
        same = "printer = ? AND key > ? AND key < ? ORDER BY received DESC"
        query = f"SELECT {_RECORD} FROM ledger WHERE {same}"  # noqa: S608 - no value is in it
        rows = connection.execute(query, (self._printer, f"{digest}:", f"{digest};"))
        known = [(each, self._age(each, record, now)) for each in map(_read_record, rows)]
        packet = f"{digest}:{serial.partition('.')[0]}."
        if serial.partition(".")[0] != _NO_PACKET:
            for each, age in known:
                if each.key.startswith(packet) and age <= SESSION:
                    return each
        # One that was cut short was not acknowledged either, so its redelivery may come long afterwards.
        return next((each for each, age in known if age <= REDELIVERED or _was_cut_short(each)), None)

    def _age(self, earlier: Record, record: Record, now: float) -> float:
        """Seconds between the two; by the wall clock only when the earlier one came to another process."""
        heard = self._heard.get(earlier.key)
        return now - heard if heard is not None else abs(record.received - earlier.received)

    # ---------------------------------------------------------------------------------------------------- the printer's

    def job(self, data: Any) -> Write:
        """For `put`'s `also`: what is known of the print, as JSON takes it."""
        values = (self._printer, json.dumps(data))
        return lambda connection: connection.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", values)

    def save(self, write: Write, *, lazy: bool = False) -> asyncio.Future[None]:
        """Do a `job` for itself."""

        def work(connection: sqlite3.Connection) -> None:
            write(connection)

        return self._database.submit(work, lazy=lazy)

    def load_job(self) -> asyncio.Future[Any]:
        """What `job` was given last; None if there was none."""

        def work(connection: sqlite3.Connection) -> Any:
            row = connection.execute("SELECT data FROM jobs WHERE printer = ?", (self._printer,)).fetchone()
            return json.loads(row[0]) if row else None

        return self._database.submit(work)

    def claim(self, account: str) -> asyncio.Future[bool]:
        """The printer is this account's from now on. When it was another's, what is kept for that one is dropped, the
        print excepted, and the result is True; the first account ever gets what is there.
        """

        def work(connection: sqlite3.Connection) -> bool:
            row = connection.execute("SELECT account FROM accounts WHERE printer = ?", (self._printer,)).fetchone()
            if row is not None and row[0] == account:
                return False
            connection.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (self._printer, account))
            if row is None:
                return False
            for table in ("outbox", "ledger"):
                connection.execute(f"DELETE FROM {table} WHERE printer = ?", (self._printer,))  # noqa: S608
            return True

        return self._database.submit(work)

    # ---------------------------------------------------------------------------------------------------------- limits

    def _time_to_look(self, table: str) -> bool:
        """Now and then. The first piece of work looks already: an agent that is restarted often would never come to the
        next.
        """
        return (next(self._works[table]) - 1) % HOUSEKEEPING == 0

    def _make_room(self, connection: sqlite3.Connection, now: float | None) -> None:
        dropped, half_full = make_room(connection, self._printer, self._limits, now)
        if dropped and not self._overflowing:
            name = printable(self._printer)
            logger.warning("%s: too much waits for the broker; the oldest news are dropped (%d)", name, dropped)
        self._overflowing = bool(dropped) or (self._overflowing and half_full)


_NO_PACKET = "0"  # MQTT 5 section 2.2.1: never a packet identifier
_RECORD = "key, name, echo, received, subject, topic, correlation, ended, kind, data"


def _read_record(row: tuple[Any, ...]) -> Record:
    record = Record(*row)
    return replace(record, echo=json.loads(row[2]), data=json.loads(record.data) if record.data is not None else None)


def _was_cut_short(record: Record) -> bool:
    return record.ended is None or (isinstance(record.data, dict) and record.data.get("code") == Interrupted.code)


def _write_destinations(destinations: Destinations) -> str:
    return json.dumps([[topic, data.hex() if data is not None else None] for topic, data in destinations])


def _read_destinations(text: str) -> Destinations:
    return tuple((topic, bytes.fromhex(data) if data is not None else None) for topic, data in json.loads(text))
