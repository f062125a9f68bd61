"""What the agent must not forget: what it still has to say, which commands it has had, and whose print is on.

One SQLite file for all printers. `outbox` holds envelopes until the broker has acknowledged them, `ledger` the commands
of the last 24 h with their answers, `jobs` a printer's print. Each table is bounded for each printer.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from printago_moonraker.errors import Interrupted
from printago_moonraker.log import printable
from printago_moonraker.printago.database import Database

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path
    from typing import Self

logger = logging.getLogger(__name__)

FILE = "printago.db"
DAY = 86400.0
PLAUSIBLE = 1_790_000_000.0  # unix time; an older row was written before the host's clock was set, so has no age
REDELIVERED = 60.0  # seconds in which the same bytes, marked by the broker as sent again, are the same command
HOUSEKEEPING = 64  # pieces of work between two looks at the limits

PICTURE, NEWS, ANSWER, END_OF_PRINT = range(-1, 3)  # what goes first when there is no more room, and what goes last

_MIGRATIONS = (
    """
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY, printer TEXT NOT NULL, rank INTEGER NOT NULL, at REAL NOT NULL, size INTEGER NOT NULL,
        destinations TEXT NOT NULL, payload BLOB NOT NULL
    );
    CREATE INDEX outbox_room ON outbox (printer, rank, id, size);
    CREATE INDEX outbox_order ON outbox (printer, id);
    CREATE TABLE ledger (
        printer TEXT NOT NULL, key TEXT NOT NULL, received REAL NOT NULL, name TEXT NOT NULL, subject TEXT,
        echo TEXT NOT NULL, topic TEXT, correlation BLOB, ended REAL, kind TEXT, data TEXT,
        PRIMARY KEY (printer, key)
    ) WITHOUT ROWID;
    CREATE INDEX ledger_age ON ledger (printer, received);
    CREATE TABLE jobs (printer TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
    """,
)

Write = Callable[[sqlite3.Connection], object]
Destinations = tuple[tuple[str, bytes | None], ...]  # topic, correlation data


@dataclass(frozen=True)
class Limits:
    """For each printer; ages in seconds."""

    outbox_rows: int = 5000
    outbox_bytes: int = 8 * 1024 * 1024
    outbox_age: float = 30 * DAY
    ledger_rows: int = 10_000
    ledger_bytes: int = 8 * 1024 * 1024
    ledger_age: float = DAY


@dataclass(frozen=True)
class Letter:
    """An envelope on its way out. `at` is unix time, `rank` one of PICTURE, NEWS, ANSWER, END_OF_PRINT."""

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
        self._database = Database(folder / FILE if folder else None, _MIGRATIONS)
        self._limits = limits or Limits()
        self._trusted_time = trusted_time

    async def __aenter__(self) -> Self:
        """Returns when it is open. A file that cannot be used is no reason to fail, and is said in the log."""
        await self._database.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """All that was handed over is on the disk when it returns."""
        await self._database.__aexit__(*error)

    def of(self, printer_id: str) -> PrinterStore:
        """One printer's part."""
        return PrinterStore(printer_id, self._database, self._limits, self._trusted_time)

    def newest(self) -> asyncio.Future[float | None]:
        """The latest time that was ever written, as unix time: it is not earlier now."""
        query = "SELECT max(time) FROM (SELECT max(received) time FROM ledger UNION ALL SELECT max(at) FROM outbox)"
        return self._database.submit(lambda connection: connection.execute(query).fetchone()[0])


class PrinterStore:
    """One printer's outbox, ledger and job. Futures are done in the order of the calls, when the disk has it."""

    def __init__(
        self, printer: str, database: Database, limits: Limits, trusted_time: Callable[[], float | None]
    ) -> None:
        self._printer = printer
        self._database = database
        self._limits = limits
        self._trusted_time = trusted_time
        self._works = {"outbox": count(1), "ledger": count(1)}
        self._last_id = 0  # the thread's: numbers go on where a file broke that began with higher ones
        self._overflowing = False  # the thread's

    # ------------------------------------------------------------------------------------------------------ the outbox

    def put(self, letter: Letter, also: Write | None = None) -> asyncio.Future[int]:
        """Keep an envelope, and do `also` in the same transaction; the result is its number. Numbers only grow."""
        destinations = json.dumps(
            [[topic, data.hex() if data is not None else None] for topic, data in letter.destinations]
        )
        limit = self._oldest_allowed("outbox", self._limits.outbox_age)

        def work(connection: sqlite3.Connection) -> int:
            highest = connection.execute("SELECT max(id) FROM outbox").fetchone()[0] or 0
            number = max(self._last_id, highest) + 1
            connection.execute(
                "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, self._printer, letter.rank, letter.at, len(letter.payload), destinations, letter.payload),
            )
            if also is not None:
                also(connection)
            if limit is not None:
                self._make_room(connection, *limit)
            self._last_id = number
            return number

        return self._database.submit(work)

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
        with the same key, or, when the broker has `redelivered` it, with the same key but for its serial number, within
        the last minute or never finished. Else None.
        """
        limit = self._oldest_allowed("ledger", self._limits.ledger_age)

        def work(connection: sqlite3.Connection) -> Record | None:
            earlier = self._find(connection, record, redelivered)
            if earlier is not None:
                return earlier
            connection.execute(
                "INSERT INTO ledger (printer, key, received, name, subject, echo, topic, correlation)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (self._printer, record.key, record.received, record.name, record.subject, json.dumps(record.echo),
                 record.topic, record.correlation),
            )  # fmt: skip
            if limit is not None:
                self._forget_old(connection, *limit)
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

    def _find(self, connection: sqlite3.Connection, record: Record, redelivered: bool) -> Record | None:
        if redelivered:
            digest = record.key.rpartition(":")[0]
            # One that was cut short was not acknowledged either, so its redelivery may come long afterwards.
            same = "key > ? AND key < ? AND (abs(received - ?) <= ? OR ended IS NULL OR data LIKE ?)"
            where = f"{same} ORDER BY received DESC"
            values: tuple[Any, ...] = (f"{digest}:", f"{digest};", record.received, REDELIVERED, _INTERRUPTED)
        else:
            where, values = "key = ?", (record.key,)
        query = f"SELECT {_RECORD} FROM ledger WHERE printer = ? AND {where}"  # noqa: S608 - no value is in it
        row = connection.execute(query, (self._printer, *values)).fetchone()
        return _read_record(row) if row else None

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

    # ---------------------------------------------------------------------------------------------------------- limits

    def _oldest_allowed(self, table: str, age: float) -> tuple[float, float] | None:
        """Now and then: what lies between these two times is too old. None: it is not the time to look.

        The first piece of work looks already: an agent that is restarted often would never come to the next.
        """
        if (next(self._works[table]) - 1) % HOUSEKEEPING:
            return None
        now = self._trusted_time()
        return (PLAUSIBLE, now - age) if now is not None else (0.0, 0.0)

    def _make_room(self, connection: sqlite3.Connection, since: float, until: float) -> None:
        limits, key = self._limits, (self._printer,)
        old = "DELETE FROM outbox WHERE printer = ? AND rank <= ? AND at > ? AND at < ?"
        dropped = connection.execute(old, (self._printer, NEWS, since, until)).rowcount
        room = "SELECT count(*), coalesce(sum(size), 0) FROM outbox WHERE printer = ?"
        rows, size = connection.execute(room, key).fetchone()
        half = rows < limits.outbox_rows // 2 and size < limits.outbox_bytes // 2
        while rows > limits.outbox_rows or size > limits.outbox_bytes:
            # Below the limit by a twentieth, so that it is not met again at once.
            least = max(1, rows - limits.outbox_rows + limits.outbox_rows // 20)
            query = "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE printer = ? ORDER BY rank, id LIMIT ?)"
            dropped += connection.execute(query, (self._printer, least)).rowcount
            rows, size = connection.execute(room, key).fetchone()
        if dropped and not self._overflowing:
            name = printable(self._printer)
            logger.warning("%s: too much waits for the broker; the oldest news are dropped (%d)", name, dropped)
        self._overflowing = bool(dropped) or (self._overflowing and not half)

    def _forget_old(self, connection: sqlite3.Connection, since: float, until: float) -> None:
        limits = self._limits
        old = "DELETE FROM ledger WHERE printer = ? AND received > ? AND received < ?"
        connection.execute(old, (self._printer, since, until))
        size = "SELECT count(*), coalesce(sum(length(data)), 0) FROM ledger WHERE printer = ?"
        rows, used = connection.execute(size, (self._printer,)).fetchone()
        while rows > limits.ledger_rows or (used > limits.ledger_bytes and rows > 1):
            query = """DELETE FROM ledger WHERE printer = ? AND key IN
                (SELECT key FROM ledger WHERE printer = ? ORDER BY received LIMIT ?)"""
            least = max(1, rows - limits.ledger_rows, rows // 20)
            connection.execute(query, (self._printer, self._printer, least))
            rows, used = connection.execute(size, (self._printer,)).fetchone()


_INTERRUPTED = f'%"code": "{Interrupted.code}"%'
_RECORD = "key, name, echo, received, subject, topic, correlation, ended, kind, data"


def _read_record(row: tuple[Any, ...]) -> Record:
    record = Record(*row)
    return replace(record, echo=json.loads(row[2]), data=json.loads(record.data) if record.data is not None else None)


def _read_destinations(text: str) -> Destinations:
    return tuple((topic, bytes.fromhex(data) if data is not None else None) for topic, data in json.loads(text))
