"""How much the store keeps of each printer, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

DAY: Final = 86400.0
PLAUSIBLE: Final = 1_790_000_000.0  # unix time; an older row was written before the host's clock was set: it has no age
PICTURE, NEWS, ANSWER, END_OF_PRINT = range(-1, 3)  # what goes first when there is no more room, and what goes last


@dataclass(frozen=True)
class Limits:
    """For each printer; ages in seconds."""

    outbox_rows: int = 5000
    outbox_bytes: int = 8 * 1024 * 1024
    outbox_age: float = 30 * DAY
    ledger_rows: int = 10_000
    ledger_bytes: int = 8 * 1024 * 1024
    ledger_age: float = DAY


def make_room(connection: sqlite3.Connection, printer: str, limits: Limits, now: float | None) -> tuple[int, bool]:
    """Drop what is too old or too much of the outbox; how many that were, and whether it was half full before.

    `now` is the unix time, None while the clock may be wrong: nothing is too old then.
    """
    dropped = 0
    if now is not None:
        _redate(connection, "outbox", "at", printer, now)
        old = "DELETE FROM outbox WHERE printer = ? AND rank <= ? AND at > ? AND at < ?"
        dropped = connection.execute(old, (printer, NEWS, PLAUSIBLE, now - limits.outbox_age)).rowcount
    room = "SELECT count(*), coalesce(sum(size), 0) FROM outbox WHERE printer = ?"
    rows, size = connection.execute(room, (printer,)).fetchone()
    half = rows >= limits.outbox_rows // 2 or size >= limits.outbox_bytes // 2
    while rows > limits.outbox_rows or size > limits.outbox_bytes:
        # Below the limit by a twentieth, so that it is not met again at once.
        least = max(1, rows - limits.outbox_rows + limits.outbox_rows // 20)
        query = "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE printer = ? ORDER BY rank, id LIMIT ?)"
        dropped += connection.execute(query, (printer, least)).rowcount
        rows, size = connection.execute(room, (printer,)).fetchone()
    return dropped, half


def forget_old(connection: sqlite3.Connection, printer: str, limits: Limits, now: float | None) -> None:
    """Drop what is too old or too much of the ledger. `now` as above."""
    if now is not None:
        _redate(connection, "ledger", "received", printer, now)
        old = "DELETE FROM ledger WHERE printer = ? AND received > ? AND received < ?"
        connection.execute(old, (printer, PLAUSIBLE, now - limits.ledger_age))
    size = "SELECT count(*), coalesce(sum(length(data)), 0) FROM ledger WHERE printer = ?"
    rows, used = connection.execute(size, (printer,)).fetchone()
    while rows > limits.ledger_rows or (used > limits.ledger_bytes and rows > 1):
        query = """DELETE FROM ledger WHERE printer = ? AND key IN
            (SELECT key FROM ledger WHERE printer = ? ORDER BY received LIMIT ?)"""
        least = max(1, rows - limits.ledger_rows, rows // 20)
        connection.execute(query, (printer, printer, least))
        rows, used = connection.execute(size, (printer,)).fetchone()


def _redate(connection: sqlite3.Connection, table: str, column: str, printer: str, now: float) -> None:
    """A row from the future was written by a clock that was ahead: it gets old from now on, and makes no clock that is
    right look late.
    """
    query = f"UPDATE {table} SET {column} = ? WHERE printer = ? AND {column} > ?"  # noqa: S608 - our own names
    connection.execute(query, (now, printer, now + DAY))
