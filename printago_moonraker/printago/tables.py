"""The tables of the store, their versions, and how two files' become one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

# Only ever appended to: a file's `user_version` says how many of these it has had.
MIGRATIONS: Final = (
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
    "CREATE TABLE accounts (printer TEXT PRIMARY KEY, account TEXT NOT NULL) WITHOUT ROWID;",
)

# Not what the file has for another account than memory's.
_OURS = """
    WHERE printer NOT IN (SELECT printer FROM file.accounts theirs JOIN main.accounts ours USING (printer)
        WHERE theirs.account <> ours.account)
"""
_OUTBOX = f"""
    INSERT INTO main.outbox
    SELECT ? + row_number() OVER (ORDER BY id), printer, rank, at, size, destinations, payload FROM file.outbox {_OURS}
"""  # noqa: S608 - no value is in it
_REST = (
    f"INSERT OR IGNORE INTO main.ledger SELECT * FROM file.ledger {_OURS}",  # noqa: S608
    "INSERT OR IGNORE INTO main.jobs SELECT * FROM file.jobs",
    "INSERT OR IGNORE INTO main.accounts SELECT * FROM file.accounts",
)


def merge(connection: sqlite3.Connection, last: int) -> int:
    """Take into `main` what the schema `file` holds: its outbox behind what is there, with numbers above `last`; of the
    rest, what `main` has is the newer. What was kept for another account stays out. Returns the highest number.
    """
    highest: int = max(last, connection.execute("SELECT coalesce(max(id), 0) FROM main.outbox").fetchone()[0])
    added = connection.execute(_OUTBOX, (highest,)).rowcount
    for statement in _REST:
        connection.execute(statement)
    return highest + added
