"""One SQLite file and the one thread that touches it: the event loop never waits for a disk.

Group commit: whatever was submitted while a commit ran goes into the next one. A disk that is full, read-only or gone
is no reason to stop: the contents go on in memory, and back into the file when it can be written again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

logger = logging.getLogger(__name__)

RETRY = 30.0  # seconds between two looks whether the file can be written again
LAZY = 0.5  # seconds that work may wait for company when losing it does no harm: an SD card wears with each commit
GROUP = 500  # pieces of work in one commit at most
BUSY = 5.0  # seconds to wait for another program that reads the file, a backup for example
SET_ASIDE = 3  # broken files that are kept for whoever wants to look

_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRAGMAS = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA cache_size = -512;
    PRAGMA journal_size_limit = 2097152;
"""

# What a piece of work may raise by a mistake of its own; everything else of SQLite's is the disk's fault.
_MISTAKES = (
    sqlite3.IntegrityError, sqlite3.ProgrammingError, ArithmeticError, AttributeError, LookupError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip

T = TypeVar("T")


class _Unusable(Exception):
    """The file's content is not what this version can work with."""


@dataclass(frozen=True)
class _Job:
    """`work` None: the thread is to end."""

    work: Callable[[sqlite3.Connection], Any] | None
    future: asyncio.Future[Any]
    lazy: bool = False


class Database:
    """A context manager. `path` None: in memory only.

    `migrations` are scripts of SQL; the file's `user_version` counts those that it has had.
    """

    def __init__(self, path: Path | None, migrations: Sequence[str]) -> None:
        self._path = path
        self._migrations = migrations
        self._queue: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._retry_at: float | None = None  # monotonic; set while memory stands in for the file

    async def __aenter__(self) -> Self:
        """Returns when the file is open, or known to be of no use. Raises nothing."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)
        self._thread.start()
        await self.submit(lambda _: None)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Everything that was submitted is committed when it returns."""
        done: asyncio.Future[Any] = self._loop.create_future()
        thread, self._thread = self._thread, None
        self._queue.put(_Job(None, done))
        await asyncio.shield(done)
        assert thread is not None
        thread.join()

    def submit(self, work: Callable[[sqlite3.Connection], T], *, lazy: bool = False) -> asyncio.Future[T]:
        """Have the thread call `work(connection)` within a transaction; the future has its result once that is on the
        disk. Futures are done in the order of the calls. Cancelling one undoes nothing.

        `lazy`: it may be committed half a second later. `work` may run more than once; the future raises what it
        raises.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._thread is None:
            future.cancel()  # it was closed: the process ends
        else:
            self._queue.put(_Job(work, future, lazy))
        return future

    # ------------------------------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        connection = self._open()
        while True:
            jobs = self._next()
            work = [job for job in jobs if job.work is not None]
            connection = self._return(connection)
            connection, outcomes = self._commit(connection, work)
            if len(work) < len(jobs):
                with suppress(sqlite3.Error):
                    connection.close()
                self._deliver(jobs, [*outcomes, None])
                return
            self._deliver(jobs, outcomes)

    def _next(self) -> list[_Job]:
        """Wait for work; everything that is there by then. Empty when it is time to look at the file again."""
        jobs: list[_Job] = []
        patience = None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic())
        with suppress(queue.Empty):
            jobs.append(self._queue.get(timeout=patience))
            company = time.monotonic() + LAZY
            while len(jobs) < GROUP and jobs[-1].work is not None:
                waits = max(0.0, company - time.monotonic()) if all(job.lazy for job in jobs) else 0.0
                jobs.append(self._queue.get(block=waits > 0, timeout=waits or None))
        return jobs

    def _deliver(self, jobs: list[_Job], outcomes: list[Any]) -> None:
        def settle() -> None:
            for job, outcome in zip(jobs, outcomes, strict=True):
                if job.future.done():
                    continue
                if isinstance(outcome, Exception):
                    job.future.set_exception(outcome)
                else:
                    job.future.set_result(outcome)

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(settle)

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> tuple[sqlite3.Connection, list[Any]]:
        """One transaction. What fails for the disk's sake is done again in memory; a mistake takes nothing with it."""
        try:
            return connection, _transaction(connection, jobs)
        except (sqlite3.Error, *_MISTAKES) as error:
            if isinstance(error, _MISTAKES) or self._in_memory:
                if len(jobs) <= 1:
                    return connection, [error] * len(jobs)
                return connection, [self._commit(connection, [job])[1][0] for job in jobs]
            return self._commit(self._recover(connection, error), jobs)

    # -------------------------------------------------------------------------------------------------------- the file

    @property
    def _in_memory(self) -> bool:
        return self._path is None or self._retry_at is not None

    def _open(self) -> sqlite3.Connection:
        if self._path is None:
            return self._memory()
        try:
            return self._open_file(self._path)
        except (OSError, sqlite3.Error, _Unusable) as error:
            return self._recover(None, error)

    def _open_file(self, path: Path) -> sqlite3.Connection:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives its other files the permissions of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        try:
            connection.executescript(_PRAGMAS)
            _check(connection)
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(self._migrations):
            raise _Unusable(f"it was made by a newer version of this program (user_version {version})")
        for number, script in enumerate(self._migrations[version:], version + 1):
            connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")

    def _memory(self) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self._migrate(connection)
        return connection

    def _recover(self, connection: sqlite3.Connection | None, error: Exception) -> sqlite3.Connection:
        """The file failed: a broken one is set aside for a new one, for any other trouble memory stands in."""
        assert self._path is not None
        if isinstance(error, _Unusable) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
            if connection is not None:
                connection.close()
                connection = None
            try:
                self._set_aside(self._path, error)
                return self._open_file(self._path)
            except (OSError, sqlite3.Error, _Unusable) as second:
                error = second
        logger.warning("%s cannot be written (%s): what must not be lost is kept in memory only", self._path, error)
        self._retry_at = time.monotonic() + RETRY
        try:
            return self._copy(connection or _open_for_reading(self._path))
        except (sqlite3.Error, _Unusable) as unreadable:
            logger.debug("%s cannot be read either: %s", self._path, unreadable)
            return self._memory()

    def _copy(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """What can still be read comes along into memory."""
        memory = sqlite3.connect(":memory:", isolation_level=None)
        with closing(connection):
            _check(connection)
            connection.backup(memory)
        self._migrate(memory)
        return memory

    def _return(self, memory: sqlite3.Connection) -> sqlite3.Connection:
        """Write what was kept in memory into the file, when there is such a thing and it is time to try."""
        if self._path is None or self._retry_at is None or time.monotonic() < self._retry_at:
            return memory
        self._retry_at = time.monotonic() + RETRY
        try:
            file = self._open_file(self._path)
            try:
                memory.backup(file)  # one transaction
            except BaseException:
                file.close()
                raise
        except (OSError, sqlite3.Error, _Unusable) as error:
            logger.debug("%s still cannot be written: %s", self._path, error)
            if isinstance(error, _Unusable) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
                with suppress(OSError):
                    self._set_aside(self._path, error)
            return memory
        logger.info("%s can be written again", self._path)
        self._retry_at = None
        memory.close()
        return file

    def _set_aside(self, path: Path, error: Exception) -> None:
        at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = path.with_name(f"{path.name}.corrupt-{at}")
        path.rename(aside)
        for ending in ("-wal", "-shm"):  # the log of one file must never be played into another
            path.with_name(path.name + ending).unlink(missing_ok=True)
        logger.error("%s is broken (%s): it is kept as %s, and a new one begins", path, error, aside.name)
        for old in sorted(path.parent.glob(f"{path.name}.corrupt-*"))[:-SET_ASIDE]:
            old.unlink(missing_ok=True)


def _open_for_reading(path: Path) -> sqlite3.Connection:
    """Where nothing can be written, the log beside the file cannot be read either: what it holds is left out."""
    return sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)


def _check(connection: sqlite3.Connection) -> None:
    finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if finding != "ok":
        raise _Unusable(finding)


def _transaction(connection: sqlite3.Connection, jobs: list[_Job]) -> list[Any]:
    if not jobs:
        return []
    connection.execute("BEGIN")
    try:
        outcomes = [job.work(connection) for job in jobs if job.work is not None]
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have rolled it back by itself
            connection.execute("ROLLBACK")
        raise
    return outcomes
