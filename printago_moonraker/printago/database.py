"""One SQLite file and the one thread that touches it: the event loop never waits for a disk.

Group commit: whatever was submitted while a commit ran goes into the next one. A disk that is full, read-only or gone
is no reason to stop: the contents go on in memory, and back into the file when it can be written again. What a file
holds that could not even be read is not overwritten then, but joined to what memory holds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
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
    PRAGMA cache_size = -128;
    PRAGMA journal_size_limit = 2097152;
"""

# What SQLite raises by a mistake of the work; everything else of its own is the disk's fault.
_MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError)
_MEMORY = Path("/dev/shm")  # noqa: S108 - Linux's disk in memory; only a new folder of our own in it is used

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

    `migrations` are scripts of SQL; the file's `user_version` counts those that it has had. `merge` is called in the
    thread, within a transaction, when memory had to begin without what the file holds: it takes the tables of the
    schema `file` into those of `main`. `merged` is called on the event loop after that.
    """

    def __init__(
        self,
        path: Path | None,
        migrations: Sequence[str],
        *,
        merge: Callable[[sqlite3.Connection], None] | None = None,
        merged: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._migrations = migrations
        self._merge = merge
        self._merged = merged
        self._whole = True  # memory holds all that the file does, or is not in use
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
        connection: sqlite3.Connection | None = None
        while True:
            jobs = self._next()
            work = [job for job in jobs if job.work is not None]
            outcomes: list[Any]
            try:
                connection = self._return(connection or self._open())
                connection, outcomes = self._commit(connection, work)
            except Exception as error:
                # A thread that ended here would leave everyone waiting, for ever; out of memory, for example.
                logger.exception("the database failed")
                outcomes = [error] * len(work)
                if not self._in_memory:
                    _closed(connection)
                    connection = None  # whatever state it was in: the file is opened anew
            if len(work) < len(jobs):
                _closed(connection)
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
            return connection, _transaction(connection, [job.work for job in jobs if job.work is not None])
        except Exception as error:
            mistake = isinstance(error, _MISTAKES) or not isinstance(error, sqlite3.Error)
            if not (mistake or self._in_memory):
                return self._commit(self._recover(connection, error), jobs)
            if len(jobs) <= 1:
                return connection, [error] * len(jobs)
        outcomes: list[Any] = []
        for job in jobs:  # one by one: the disk may fail in the middle, and then it is another connection
            connection, outcome = self._commit(connection, [job])
            outcomes += outcome
        return connection, outcomes

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
        _close_to_others(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for ending in ("-wal", "-shm"):
            with suppress(OSError):
                _close_to_others(os.open(f"{path}{ending}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
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
        memory = self._read(self._path, connection)
        self._whole = self._whole and memory is not None
        self._retry_at = time.monotonic() + RETRY
        return memory or self._memory()

    def _read(self, path: Path, connection: sqlite3.Connection | None) -> sqlite3.Connection | None:
        """All of the file, in memory; None when there is no way to read it."""
        given = () if connection is None else (lambda _: closing(connection),)
        for way in (*given, *_WAYS_TO_READ):
            try:
                with way(path) as source:
                    return self._copy(source)
            except (OSError, sqlite3.Error, _Unusable) as error:
                logger.debug("%s cannot be read either: %s", path, error)
        return None

    def _copy(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        _check(connection)
        memory = sqlite3.connect(":memory:", isolation_level=None)
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
                if not self._whole:
                    self._take_in(memory, self._path)
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

    def _take_in(self, memory: sqlite3.Connection, path: Path) -> None:
        """What the file holds comes into memory, which had to begin without it."""
        if self._merge is not None:
            memory.execute("ATTACH ? AS file", (str(path),))
            try:
                _transaction(memory, [self._merge])
            finally:
                memory.execute("DETACH file")
        self._whole = True
        if self._merged is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._merged)

    def _set_aside(self, path: Path, error: Exception) -> None:
        at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = path.with_name(f"{path.name}.corrupt-{at}")
        path.rename(aside)
        for ending in ("-wal", "-shm"):  # the log of one file must never be played into another
            path.with_name(path.name + ending).unlink(missing_ok=True)
        logger.error("%s is broken (%s): it is kept as %s, and a new one begins", path, error, aside.name)
        for old in sorted(path.parent.glob(f"{path.name}.corrupt-*"))[:-SET_ASIDE]:
            old.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[sqlite3.Connection]:
    """On a full disk: who has the file alone needs no new file beside it to read the log."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        yield connection


@contextmanager
def _only_reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Where nothing can be written, and the file beside it is there."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY)) as connection:
        yield connection


@contextmanager
def _elsewhere(path: Path) -> Iterator[sqlite3.Connection]:
    """Where nothing can be written, SQLite reads the log only after a look into a file that is not there: a copy of
    both in memory, or wherever there is room, is what it can open.
    """
    room = str(_MEMORY) if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="printago-", dir=room) as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        with suppress(FileNotFoundError):
            shutil.copyfile(path.with_name(f"{path.name}-wal"), copy.with_name(f"{copy.name}-wal"))
        with closing(sqlite3.connect(copy)) as connection:
            yield connection


_WAYS_TO_READ = (_alone, _only_reading, _elsewhere)


def _close_to_others(fd: int) -> None:
    """A file of ours that others may read, from an older version or a restored backup, is theirs no longer."""
    try:
        status = os.fstat(fd)
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            with suppress(OSError):  # some file systems have no permissions
                os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _closed(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()


def _check(connection: sqlite3.Connection) -> None:
    finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if finding != "ok":
        raise _Unusable(finding)


def _transaction(connection: sqlite3.Connection, works: list[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
    if not works:
        return []
    connection.execute("BEGIN")
    try:
        outcomes = [work(connection) for work in works]
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have rolled it back by itself
            connection.execute("ROLLBACK")
        raise
    return outcomes
