"""What was submitted is on the disk; and no disk, whatever is wrong with it, stops the agent."""

# ruff: noqa: ASYNC240 - the paths are on a local disk, and nothing else waits

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.printago import database as database_module
from printago_moonraker.printago.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = "CREATE TABLE t (n INTEGER UNIQUE, text TEXT);"


def insert(number: int, text: str = "") -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?, ?)", (number, text))
        return number

    return work


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT n FROM t ORDER BY rowid")]


def on_disk(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return numbers(connection)


async def written(path: Path, *values: int) -> None:
    async with Database(path, [SCHEMA]) as database:
        for value in values:
            await database.submit(insert(value))


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


async def test_what_was_awaited_survives_a_kill(tmp_path: Path) -> None:
    """A process that dies without a goodbye has lost nothing of which the future was done."""
    path = tmp_path / "a.db"
    code = f"""
import asyncio, os, sqlite3, sys
from pathlib import Path
from printago_moonraker.printago.database import Database
async def main():
    async with Database(Path({str(path)!r}), [{SCHEMA!r}]) as database:
        for n in range(20):
            await database.submit(lambda c: c.execute("INSERT INTO t VALUES (?, '')", (n,)).rowcount)
        os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    result = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=False, cwd=Path.cwd())
    assert result.returncode == -9
    async with Database(path, [SCHEMA]) as database:
        assert await database.submit(numbers) == list(range(20))


async def test_the_order_of_the_calls_is_the_order_of_everything(tmp_path: Path) -> None:
    """Writes, reads and the ends of their futures come in the order in which they were submitted."""
    done: list[int] = []
    async with Database(tmp_path / "a.db", [SCHEMA]) as database:
        for number in range(300):
            database.submit(insert(number), lazy=number % 3 == 0).add_done_callback(lambda f: done.append(f.result()))
        assert await database.submit(numbers) == list(range(300))
        assert done == list(range(300))


async def test_what_comes_during_a_commit_goes_together(tmp_path: Path) -> None:
    """A thousand submissions are a handful of commits."""
    path = tmp_path / "a.db"
    commits: list[str] = []
    async with Database(path, [SCHEMA]) as database:
        await database.submit(lambda connection: connection.set_trace_callback(commits.append))
        await asyncio.gather(*(database.submit(insert(number)) for number in range(1000)))
        await database.submit(lambda connection: connection.set_trace_callback(None))
    assert sum(statement == "COMMIT" for statement in commits) < 20


async def test_lazy_work_waits_for_company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is committed with what comes next, or by itself a little later."""
    monkeypatch.setattr(database_module, "LAZY", 0.2)
    loop = asyncio.get_running_loop()
    async with Database(tmp_path / "a.db", [SCHEMA]) as database:
        begin = loop.time()
        await database.submit(insert(1), lazy=True)
        assert loop.time() - begin > 0.15
        monkeypatch.setattr(database_module, "LAZY", 3600.0)
        lazy = database.submit(insert(2), lazy=True)
        await database.submit(insert(3))
        assert lazy.done()


async def test_closing_writes_what_was_submitted(tmp_path: Path) -> None:
    """Also what nobody waits for; later calls are cancelled, and no thread is left."""
    path = tmp_path / "a.db"
    async with Database(path, [SCHEMA]) as database:
        for number in range(50):
            database.submit(insert(number), lazy=True)
    assert on_disk(path) == list(range(50))
    assert database.submit(numbers).cancelled()
    assert not [thread for thread in threading.enumerate() if thread.name == "database"]


async def test_a_mistake_takes_nothing_with_it(tmp_path: Path) -> None:
    """Work that raises tells its own future; what was submitted around it is written."""
    async with Database(tmp_path / "a.db", [SCHEMA]) as database:
        futures = [database.submit(insert(number)) for number in (1, 1, 2)]
        futures.append(database.submit(lambda connection: int("x")))
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert (outcomes[0], outcomes[2]) == (1, 2)
        assert isinstance(outcomes[1], sqlite3.IntegrityError)
        assert isinstance(outcomes[3], ValueError)
        assert await database.submit(numbers) == [1, 2]


async def together(database: Database, *works: Callable[[sqlite3.Connection], object]) -> list[object]:
    """The outcomes of works that are one group."""
    go = threading.Event()
    first = database.submit(lambda _: go.wait(5))
    futures = [database.submit(work) for work in works]
    go.set()
    await first
    return await asyncio.gather(*futures, return_exceptions=True)


async def test_a_mistake_beside_a_disk_failure_leaves_a_connection(tmp_path: Path) -> None:
    """When both are in one group, what comes later is written all the same."""
    failed: list[int] = []

    def fails_once(connection: sqlite3.Connection) -> int:
        if not failed:
            failed.append(1)
            raise sqlite3.OperationalError("disk I/O error")
        return insert(2)(connection)

    async with Database(tmp_path / "a.db", [SCHEMA]) as database:
        outcomes = await together(database, insert(1), insert(1), fails_once, insert(3))
        assert isinstance(outcomes[1], sqlite3.IntegrityError)
        assert [outcomes[0], *outcomes[2:]] == [1, 2, 3]
        assert await database.submit(insert(4)) == 4
        assert await database.submit(numbers) == [1, 2, 3, 4]


async def test_nothing_that_work_raises_ends_the_thread(tmp_path: Path) -> None:
    """Its own future raises it, and what comes beside it and later is written."""

    def out_of_memory(_: sqlite3.Connection) -> None:
        raise MemoryError

    async with Database(tmp_path / "a.db", [SCHEMA]) as database, asyncio.timeout(5):
        outcomes = await together(database, insert(1), out_of_memory, insert(2))
        assert isinstance(outcomes[1], MemoryError)
        with pytest.raises(MemoryError):
            await database.submit(out_of_memory)
        assert await database.submit(numbers) == [1, 2]


async def test_nothing_else_that_fails_ends_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits gets the error, the log has it, and the file is opened anew."""
    path = tmp_path / "a.db"
    async with Database(path, [SCHEMA]) as database, asyncio.timeout(5):
        await database.submit(insert(1))
        with monkeypatch.context() as patch:
            patch.setattr(Database, "_return", lambda *_: int("x"))
            with pytest.raises(ValueError, match="invalid literal"):
                await database.submit(insert(2))
        await database.submit(insert(3))
    assert on_disk(path) == [1, 3]
    assert messages(caplog, logging.ERROR) == ["the database failed"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
async def test_a_file_that_others_may_read_is_closed_to_them(tmp_path: Path, mode: int) -> None:
    """Also what lies beside it; the folder stays as it is."""
    path = tmp_path / "a.db"
    await written(path, 1)
    tmp_path.chmod(0o755)
    leftover = tmp_path / "a.db-wal"
    leftover.touch()
    for file in (path, leftover):
        file.chmod(mode)
    async with Database(path, [SCHEMA]) as database:
        await database.submit(insert(2))
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert tmp_path.stat().st_mode & 0o777 == 0o755


async def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """The folder is made 0700, and every file in it 0600."""
    path = tmp_path / "made" / "a.db"
    async with Database(path, [SCHEMA]) as database:
        await database.submit(insert(1))
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}
        assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_migrations_are_done_once_each(tmp_path: Path) -> None:
    """A file of an older version gets what it lacks and keeps what it has."""
    path = tmp_path / "a.db"
    await written(path, 1)
    async with Database(path, [SCHEMA, "CREATE TABLE u (n); INSERT INTO u VALUES (7);"]) as database:
        assert await database.submit(lambda c: c.execute("SELECT n FROM u").fetchall()) == [(7,)]
        assert await database.submit(numbers) == [1]


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5000)


def from_the_future(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize("damage", [garbage, truncate, from_the_future])
async def test_a_broken_file_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """It is kept under another name, said once as an error, and a new one begins."""
    path = tmp_path / "a.db"
    await written(path, *range(500))
    damage(path)
    damaged = path.read_bytes()
    async with Database(path, [SCHEMA]) as database:
        await database.submit(insert(1))
    assert on_disk(path) == [1]
    (aside,) = tmp_path.glob("a.db.corrupt-*")
    assert aside.read_bytes() == damaged
    assert len(messages(caplog, logging.ERROR)) == 1
    assert aside.name in messages(caplog, logging.ERROR)[0]


async def test_a_file_that_breaks_while_it_is_used_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was just submitted is in the new one."""
    path = tmp_path / "a.db"
    async with Database(path, [SCHEMA]) as database:
        for number in range(2000):
            database.submit(insert(number, "x" * 100))
        await database.submit(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))  # of no kind of page
        await database.submit(lambda connection: connection.execute("PRAGMA shrink_memory").fetchall())
        await database.submit(insert(5000))
        assert await database.submit(numbers) == [5000]
    assert on_disk(path) == [5000]
    assert len(messages(caplog, logging.ERROR)) == 1


async def test_old_broken_files_do_not_pile_up(tmp_path: Path) -> None:
    """The newest three are kept."""
    path = tmp_path / "a.db"
    for _ in range(5):
        garbage(path)
        await written(path, 1)
    assert len(list(tmp_path.glob("a.db.corrupt-*"))) == 3


def full(connection: sqlite3.Connection) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


async def test_a_full_disk_is_survived_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything goes on with what was there; one warning a spell; and it is all in the file once there is room."""
    monkeypatch.setattr(database_module, "RETRY", 0.2)
    caplog.set_level(logging.INFO)
    path = tmp_path / "a.db"
    await written(path, 1)
    real = Database._open_file
    disk_full = True

    def open_file(self: Database, path: Path) -> sqlite3.Connection:
        if disk_full:
            raise sqlite3.OperationalError("database or disk is full")
        return real(self, path)

    async with Database(path, [SCHEMA]) as database:
        monkeypatch.setattr(Database, "_open_file", open_file)
        await database.submit(full)
        for number in range(2, 6):
            await database.submit(insert(number, "x" * 10_000))
        await asyncio.sleep(0.5)  # it looks, and it still is full
        assert await database.submit(numbers) == [1, 2, 3, 4, 5]
        assert on_disk(path) == [1]
        disk_full = False
        async with asyncio.timeout(5):
            while on_disk(path) != [1, 2, 3, 4, 5]:  # noqa: ASYNC110 - another thread does it
                await asyncio.sleep(0.05)  # nobody submits anything: it returns by itself
        await database.submit(insert(6))
    assert on_disk(path) == [1, 2, 3, 4, 5, 6]
    assert len(messages(caplog, logging.WARNING)) == 1
    assert "in memory only" in messages(caplog, logging.WARNING)[0]
    assert messages(caplog, logging.INFO) == [f"{path} can be written again"]


class Disk:
    full = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """While it is full, files cannot be opened for writing; they are looked at again and again."""
    monkeypatch.setattr(database_module, "RETRY", 0.1)
    real, found = Database._open_file, Disk()

    def open_file(self: Database, path: Path) -> sqlite3.Connection:
        if found.full:
            raise sqlite3.OperationalError("database or disk is full")
        return real(self, path)

    monkeypatch.setattr(Database, "_open_file", open_file)
    return found


async def killed(path: Path, *values: int) -> None:
    """A file as a process leaves it that is killed: all of it is in the log beside it."""
    folder = path.with_name("alive")
    async with Database(folder / path.name, [SCHEMA]) as database:
        for value in values:
            await database.submit(insert(value))
        for file in folder.iterdir():
            shutil.copy(file, path.with_name(file.name))
    shutil.rmtree(folder)
    assert path.with_name(f"{path.name}-wal").stat().st_size


async def has(path: Path, *values: int) -> None:
    async with asyncio.timeout(5):
        while on_disk(path) != list(values):  # noqa: ASYNC110 - another thread does it
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("way", database_module._WAYS_TO_READ, ids=lambda way: way.__name__)
async def test_what_only_the_log_holds_is_read_without_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, way: object
) -> None:
    """After a kill everything is in the log; each way to read it finds it, and it is in the file again later."""
    monkeypatch.setattr(database_module, "_WAYS_TO_READ", (way,))
    path = tmp_path / "a.db"
    await killed(path, 1, 2)
    if way is not database_module._only_reading:
        (tmp_path / "a.db-shm").unlink()
    disk.full = True
    async with Database(path, [SCHEMA]) as database:
        await database.submit(insert(3))
        assert await database.submit(numbers) == [1, 2, 3]
        disk.full = False
        await has(path, 1, 2, 3)


async def test_a_file_that_could_not_be_read_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    """Memory began without it: what the file holds is joined to that, once, and it is told."""

    def merge(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO main.t SELECT n, text FROM file.t")

    monkeypatch.setattr(database_module, "_WAYS_TO_READ", ())
    path, merged = tmp_path / "a.db", asyncio.Event()
    await killed(path, 1, 2)
    disk.full = True
    async with Database(path, [SCHEMA], merge=merge, merged=merged.set) as database:
        await database.submit(insert(3))
        assert await database.submit(numbers) == [3]
        disk.full = False
        await has(path, 3, 1, 2)
        await asyncio.wait_for(merged.wait(), 5)
        assert await database.submit(numbers) == [3, 1, 2]


async def test_a_really_full_file_system(tmp_path: Path) -> None:
    """A limit on the size of files, which is the nearest that an ordinary user gets to a full disk, ends nothing."""
    path = tmp_path / "a.db"
    code = f"""
import asyncio, resource, signal
from pathlib import Path
from printago_moonraker.printago.database import Database
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    async with Database(Path({str(path)!r}), [{SCHEMA!r}]) as database:
        await database.submit(lambda c: c.execute("INSERT INTO t VALUES (-1, '')").rowcount)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        for n in range(40):
            await database.submit(lambda c: c.execute("INSERT INTO t VALUES (?, ?)", (n, "x" * 4000)).rowcount)
        print(len(await database.submit(lambda c: c.execute("SELECT n FROM t").fetchall())))
asyncio.run(main())
"""
    result = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=Path.cwd()
    )
    assert (result.returncode, result.stdout) == (0, "41\n"), result.stderr
    assert result.stderr.count("in memory only") == 1


async def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the path leads through a file, memory has to do."""
    (tmp_path / "file").touch()
    async with Database(tmp_path / "file" / "a.db", [SCHEMA]) as database:
        await database.submit(insert(1))
        assert await database.submit(numbers) == [1]
    assert len(messages(caplog, logging.WARNING)) == 1


async def test_a_read_only_file(tmp_path: Path) -> None:
    """A file without the right to write is left as it is; what can be read of it is known."""
    path = tmp_path / "a.db"
    await written(path, 1)
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    code = f"""
import asyncio
from pathlib import Path
from printago_moonraker.printago.database import Database
async def main():
    async with Database(Path({str(path)!r}), [{SCHEMA!r}]) as database:
        await database.submit(lambda c: c.execute("INSERT INTO t VALUES (5, '')").rowcount)
        print(await database.submit(lambda c: c.execute("SELECT n FROM t").fetchall()))
asyncio.run(main())
"""
    # root may write everything, unless it gives that up
    drop = ["/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    result = await asyncio.to_thread(
        subprocess.run, [*drop, sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=Path.cwd()
    )
    tmp_path.chmod(0o755)
    assert (result.returncode, result.stdout) == (0, "[(1,), (5,)]\n"), result.stderr
    assert result.stderr.count("in memory only") == 1
    assert on_disk(path) == [1]


async def test_without_a_path_it_lives_in_memory() -> None:
    """For who wants nothing on the disk."""
    async with Database(None, [SCHEMA]) as database:
        await database.submit(insert(1))
        assert await database.submit(numbers) == [1]
