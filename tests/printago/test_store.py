"""What the agent must not forget is in the store, in order, within its limits."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.printago import database as database_module
from printago_moonraker.printago import store as store_module
from printago_moonraker.printago import tables
from printago_moonraker.printago.limits import ANSWER, DAY, END_OF_PRINT, NEWS, Limits
from printago_moonraker.printago.store import Letter, PrinterStore, Record, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

NOW = 1_800_000_000.0


def letter(number: int, rank: int = NEWS, *, size: int = 10, at: float = NOW) -> Letter:
    return Letter((("news", None), ("back", b"\x00\xff")), str(number).encode().ljust(size), rank, at)


def record(key: str = "id:c-1", *, received: float = NOW) -> Record:
    return Record(key, "printer_control.start_print", {"id": "c-1"}, received, "Printago/a.gcode", "back", b"\x01")


@asynccontextmanager
async def opened(
    folder: Path | None, limits: Limits | None = None, now: float | None = NOW
) -> AsyncIterator[PrinterStore]:
    async with Store(folder, limits, trusted_time=lambda: now) as store:
        yield store.of("v")


async def kept(printer: PrinterStore) -> list[int]:
    return [int(each.payload) for _, each in (await printer.load(0, 100_000, 10**9))[0]]


@pytest.fixture
def tidy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are looked at each time."""
    monkeypatch.setattr(store_module, "HOUSEKEEPING", 1)


# ----------------------------------------------------------------------------------------------------------- the outbox


async def test_letters_come_back_as_they_were_in_order(tmp_path: Path) -> None:
    """Over a restart, with destinations, time and rank; numbers grow."""
    async with opened(tmp_path) as printer:
        first = [await printer.put(letter(number, number % 3)) for number in range(5)]
    async with opened(tmp_path) as printer:
        assert await printer.load(0, 100, 1000) == ([(first[n], letter(n, n % 3)) for n in range(5)], first[-1])
        assert await printer.put(letter(5)) > first[-1]
    assert first == sorted(set(first))


async def test_a_window_is_loaded(tmp_path: Path) -> None:
    """After a number, up to so many rows or bytes, at least one."""
    async with opened(tmp_path) as printer:
        numbers = [await printer.put(letter(number, size=100)) for number in range(10)]
        assert [number for number, _ in (await printer.load(numbers[2], 3, 1000))[0]] == numbers[3:6]
        assert [number for number, _ in (await printer.load(0, 100, 250))[0]] == numbers[:3]
        assert [number for number, _ in (await printer.load(0, 100, 1))[0]] == numbers[:1]
        assert await printer.load(numbers[-1], 100, 1000) == ([], numbers[-1])


async def test_what_the_broker_has_is_removed(tmp_path: Path) -> None:
    """And only that; its number is not given again while a later one is there."""
    async with opened(tmp_path) as printer:
        numbers = [await printer.put(letter(number)) for number in range(4)]
        printer.remove([numbers[0], numbers[2]])
        assert await kept(printer) == [1, 3]
        printer.remove([numbers[3]])
        assert await printer.put(letter(9)) > numbers[3]


async def test_printers_do_not_see_each_other(tmp_path: Path) -> None:
    """Outbox, ledger and job are each printer's own."""
    async with Store(tmp_path, trusted_time=lambda: NOW) as store:
        one, other = store.of("one"), store.of("other")
        await one.put(letter(1), one.job({"n": 1}))
        await one.begin(record())
        assert await kept(other) == []
        assert await other.unfinished() == []
        assert await other.load_job() is None
        assert await other.begin(record()) is None


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize("limits", [Limits(outbox_rows=20), Limits(outbox_bytes=20 * 10)])
async def test_a_full_outbox_drops_news_first_and_ends_of_prints_last(
    limits: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    """Oldest first within a rank; one warning a spell."""
    async with opened(None, limits) as printer:
        await printer.put(letter(0, END_OF_PRINT))
        await printer.put(letter(1, ANSWER))
        for number in range(2, 60):
            await printer.put(letter(number))
        left = await kept(printer)
        assert left[:2] == [0, 1]
        assert left[2:] == list(range(62 - len(left), 60))
        assert 18 <= len(left) <= 20
        for number in range(60, 100):
            await printer.put(letter(number, END_OF_PRINT))
        left = await kept(printer)
        assert left[0] in (0, *range(60, 100))
        assert all(number >= 60 for number in left[1:])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.usefixtures("tidy")
async def test_old_news_go_but_only_by_a_clock_that_is_right() -> None:
    """Answers and ends stay; what was written before the clock was set has no age."""
    old = NOW - 40 * DAY
    rows = [letter(1, at=old), letter(2, ANSWER, at=old), letter(3, END_OF_PRINT, at=old), letter(4, at=1000.0)]
    async with opened(None, now=None) as printer:
        for each in [*rows, letter(5)]:
            await printer.put(each)
        assert await kept(printer) == [1, 2, 3, 4, 5]
    async with opened(None, replace(Limits(), outbox_rows=100)) as printer:
        for each in [*rows, letter(5)]:
            await printer.put(each)
        assert await kept(printer) == [2, 3, 4, 5]


async def test_a_file_that_broke_takes_no_number_back(tmp_path: Path) -> None:
    """Numbers go on in the new file, so that whoever has read up to one misses nothing."""
    async with Store(tmp_path, trusted_time=lambda: NOW) as store:
        printer = store.of("v")
        for number in range(1000):
            last = printer.put(letter(number, size=200))
        await last
        database = store._database
        await database.submit(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        file = tmp_path / store_module.FILE
        file.write_bytes(b"SQLite format 3\x00" + b"\xa5" * (file.stat().st_size - 16))
        await database.submit(lambda connection: connection.execute("PRAGMA shrink_memory").fetchall())
        assert await printer.put(letter(5000)) > await last
        assert await kept(printer) == [5000]


async def test_several_letters_are_kept_together(tmp_path: Path) -> None:
    """In their order, with what belongs to them, or none of it: a kill finds no half of it."""

    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO jobs VALUES (NULL, NULL)")

    async with opened(tmp_path) as printer:
        with pytest.raises(sqlite3.IntegrityError):
            await printer.put_all([letter(1), letter(2)], fails)
        numbers = await printer.put_all([letter(3), letter(4)], printer.job({"n": 1}))
        assert numbers == sorted(set(numbers))
        assert [number for number, _ in (await printer.load(0, 10, 1000))[0]] == numbers
        assert await kept(printer) == [3, 4]
        assert await printer.load_job() == {"n": 1}
        assert await printer.put(letter(5)) > numbers[-1]


async def test_a_file_that_comes_back_joins_what_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its envelopes come after those of memory, with numbers that nobody has had; of commands and prints, what memory
    has is the newer; it is told; and nothing of it is lost in the file.
    """
    async with opened(tmp_path) as printer:
        for number in range(5):
            await printer.put(letter(number), printer.job("old"))
        await printer.begin(record("id:old"))
    monkeypatch.setattr(database_module, "RETRY", 0.05)
    monkeypatch.setattr(database_module, "_WAYS_TO_READ", ())
    file, away = tmp_path / store_module.FILE, tmp_path / "away"
    file.rename(away)
    file.mkdir()  # nothing can be opened there
    found = asyncio.Event()
    async with opened(tmp_path) as printer:
        printer.on_found = found.set
        numbers = [await printer.put(letter(number)) for number in range(10, 17)]
        printer.remove(numbers[:6])
        await printer.save(printer.job("new"))
        await printer.begin(record("id:new"))
        file.rmdir()
        away.rename(file)
        async with asyncio.timeout(5):
            await found.wait()
        rows, _ = await printer.load(0, 100, 10**6)
        assert [int(each.payload) for _, each in rows] == [16, 0, 1, 2, 3, 4]
        assert rows[1][0] > numbers[-1]
        assert await printer.put(letter(17)) > rows[-1][0]
        assert await printer.begin(record("id:old")) is not None
    async with opened(tmp_path) as printer:
        assert await kept(printer) == [16, 0, 1, 2, 3, 4, 17]
        assert await printer.load_job() == "new"
        assert [each.key for each in await printer.unfinished()] == ["id:new", "id:old"]


# ----------------------------------------------------------------------------------------------------------- the ledger


async def test_a_command_is_known_from_its_beginning(tmp_path: Path) -> None:
    """Over a restart; until it has ended it is unfinished, then it has its answer."""
    async with opened(tmp_path) as printer:
        assert await printer.begin(record()) is None
        assert await printer.begin(record(received=NOW + 5)) == record()
    async with opened(tmp_path) as printer:
        assert await printer.unfinished() == [record()]
        await printer.put(letter(1, ANSWER), printer.ended("id:c-1", "success", {"message": "Done."}, NOW + 9))
        assert await printer.unfinished() == []
        ended = replace(record(), ended=NOW + 9, kind="success", data={"message": "Done."})
        assert await printer.begin(record(received=NOW + 10)) == ended
        assert await kept(printer) == [1]


async def test_an_answer_and_its_end_are_one(tmp_path: Path) -> None:
    """When one of the two cannot be written, neither is."""

    def both(connection: sqlite3.Connection) -> None:
        end(connection)
        connection.execute("INSERT INTO jobs VALUES (NULL, NULL)")

    async with opened(tmp_path) as printer:
        await printer.begin(record())
        end = printer.ended("id:c-1", "success", {}, NOW)
        with pytest.raises(sqlite3.IntegrityError):
            await printer.put(letter(1), both)
        assert await kept(printer) == []
        assert await printer.unfinished() == [record()]


async def test_a_command_that_was_not_begun_is_forgotten() -> None:
    """When it comes again it is a new one."""
    async with opened(None) as printer:
        await printer.begin(record())
        printer.forget("id:c-1")
        assert await printer.begin(record()) is None


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the loop's clock on by so many seconds."""
    passed = [0.0]

    def move(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if not passed[0]:
            time = loop.time
            monkeypatch.setattr(loop, "time", lambda: time() + passed[0])
        passed[0] += seconds

    return move


async def ended(printer: PrinterStore, *keys: str, code: str = "busy") -> None:
    for key in keys:
        await printer.save(printer.ended(key, "error", {"error": "No.", "code": code}, NOW))


async def test_redelivered_bytes_are_known_for_a_minute(later: Callable[[float], None]) -> None:
    """By the digest before the serial number, the newest of them, and only when the broker says that it sends again."""
    async with opened(None) as printer:
        first, second = record("sha256:aa:1.1"), record("sha256:aa:2.2", received=NOW + 1)
        assert await printer.begin(first) is None
        assert await printer.begin(second) is None
        await ended(printer, first.key, second.key)
        later(55)
        again = record("sha256:aa:3.3", received=NOW + 55)
        earlier = await printer.begin(again, redelivered=True)
        assert earlier is not None
        assert earlier.key == second.key
        assert await printer.begin(replace(again, key="sha256:ab:1.1"), redelivered=True) is None
        assert await printer.begin(again) is None, "the broker does not say so"
        await ended(printer, again.key)
        later(10)
        assert await printer.begin(record("sha256:aa:4.4", received=NOW + 65), redelivered=True) == again_of(again)
        later(60)
        assert await printer.begin(record("sha256:aa:5.5", received=NOW + 125), redelivered=True) is None


def again_of(each: Record) -> Record:
    return replace(each, ended=NOW, kind="error", data={"error": "No.", "code": "busy"})


async def test_what_was_cut_short_is_known_when_it_is_redelivered(later: Callable[[float], None]) -> None:
    """Never finished, or answered with `interrupted`: it was not acknowledged either, however long ago it was."""
    late = record("sha256:aa:4.4", received=NOW + 9000)
    async with opened(None) as printer:
        first = record("sha256:aa:1.1")
        await printer.begin(first)
        later(9000)
        assert await printer.begin(late, redelivered=True) == first
        await ended(printer, first.key, code="interrupted")
        assert await printer.begin(late, redelivered=True) is not None
        await ended(printer, first.key)
        assert await printer.begin(late, redelivered=True) is None


@pytest.mark.parametrize("jump", [0.0, -7200.0, 90_000.0])
async def test_a_packet_identifier_is_known_for_an_hour(later: Callable[[float], None], jump: float) -> None:
    """A lost acknowledgement may be noticed late: the same bytes with the same identifier are the same command as long
    as the broker keeps the session, whatever the wall clock does meanwhile.
    """
    async with opened(None) as printer:
        await printer.begin(record("sha256:aa:7.1"))
        await printer.begin(record("sha256:aa:8.2"))
        await ended(printer, "sha256:aa:7.1", "sha256:aa:8.2")
        later(3500)
        again = record("sha256:aa:7.3", received=NOW + 3500 + jump)
        earlier = await printer.begin(again, redelivered=True)
        assert earlier is not None
        assert earlier.key == "sha256:aa:7.1"
        later(200)
        assert await printer.begin(again, redelivered=True) is None


async def test_a_packet_identifier_is_known_after_a_restart(tmp_path: Path) -> None:
    """By the wall clock then; 0 is none, and other bytes are another command."""
    async with opened(tmp_path) as printer:
        for key in ("sha256:aa:7.1", "sha256:ab:0.2"):
            await printer.begin(record(key))
            await ended(printer, key)
    async with opened(tmp_path) as printer:
        earlier = await printer.begin(record("sha256:aa:7.3", received=NOW + 3500), redelivered=True)
        assert earlier is not None
        assert earlier.key == "sha256:aa:7.1"
        assert await printer.begin(record("sha256:ab:0.3", received=NOW + 3500), redelivered=True) is None
        assert await printer.begin(record("sha256:ac:7.3", received=NOW + 5), redelivered=True) is None
        await ended(printer, "sha256:ab:0.3", "sha256:ac:7.3")
        assert await printer.begin(record("sha256:aa:7.4", received=NOW + 3700), redelivered=True) is None


async def test_keys_by_name() -> None:
    """The commands of one name are found."""
    async with opened(None) as printer:
        await printer.begin(record())
        await printer.begin(replace(record("id:c-2"), name="printer_control.emergency_stop"))
        assert await printer.keys_of("printer_control.emergency_stop") == {"id:c-2"}


@pytest.mark.usefixtures("tidy")
async def test_the_ledger_forgets_after_a_day_or_when_it_is_full() -> None:
    """Oldest first; a clock that may be wrong makes nothing old."""
    old = record("id:old", received=NOW - DAY - 1)
    async with opened(None, now=None) as printer:
        await printer.begin(old)
        await printer.begin(record())
        assert await printer.begin(old) == old
    async with opened(None, Limits(ledger_rows=3)) as printer:
        await printer.begin(old)
        for number in range(4):
            await printer.begin(record(f"id:{number}", received=NOW + number))
        assert [each.key for each in await printer.unfinished()] == ["id:1", "id:2", "id:3"]
        assert await printer.begin(old) is None


@pytest.mark.usefixtures("tidy")
async def test_what_a_clock_wrote_that_was_ahead_gets_old() -> None:
    """By a clock that is right now, and from now on: nothing is forgotten at once, nor kept for years, and the newest
    time is not one that is still to come.
    """
    ahead, now = NOW + 1600 * DAY, [NOW]
    async with Store(None, trusted_time=lambda: now[0]) as store:
        printer = store.of("v")
        await printer.begin(record("id:ahead", received=ahead))
        await printer.put(letter(1, at=ahead))
        assert await printer.begin(record("id:ahead")) is not None
        await printer.begin(record("id:now"))
        await printer.put(letter(2))
        assert await store.newest() == NOW
        assert await kept(printer) == [1, 2]
        assert await printer.begin(record("id:ahead")) is not None
        now[0] += DAY + 10
        await printer.begin(record("id:later", received=now[0]))
        assert await printer.begin(record("id:ahead", received=now[0])) is None


# -------------------------------------------------------------------------------------------------------------- the job


async def test_the_job_is_what_was_saved_last(tmp_path: Path) -> None:
    """With an event, or by itself."""
    async with opened(tmp_path) as printer:
        assert await printer.load_job() is None
        await printer.put(letter(1), printer.job({"file": "a"}))
        await printer.save(printer.job({"file": "b"}))
    async with opened(tmp_path) as printer:
        assert await printer.load_job() == {"file": "b"}


async def test_another_account_gets_nothing_of_the_one_before(tmp_path: Path) -> None:
    """Neither envelopes nor answers, of that printer; the print is the printer's. The first account ever gets what is
    there, and the same one, paired anew, keeps it.
    """
    async with Store(tmp_path, trusted_time=lambda: NOW) as store:
        printer, other = store.of("v"), store.of("w")
        await printer.put(letter(1), printer.job("print"))
        await printer.begin(record())
        await other.put(letter(2))
        assert not await printer.claim("mine")
        assert not await other.claim("mine")
    async with Store(tmp_path, trusted_time=lambda: NOW) as store:
        printer, other = store.of("v"), store.of("w")
        assert not await printer.claim("mine")
        assert await kept(printer) == [1]
        assert await printer.claim("theirs")
        assert not await printer.claim("theirs")
        assert await kept(printer) == []
        assert await printer.unfinished() == []
        assert await printer.load_job() == "print"
        assert await kept(other) == [2]


async def test_a_file_of_another_account_does_not_join_memory(tmp_path: Path) -> None:
    """What could not be read when the printer got another account is not that one's either."""
    for name, account in (("one", "mine"), ("two", "theirs")):
        async with Store(tmp_path / name, trusted_time=lambda: NOW) as store:
            printer, other = store.of("v"), store.of("w")
            await printer.claim(account)
            await printer.put(letter(1), printer.job(account))
            await printer.begin(record())
            await other.put(letter(2))
    with closing(sqlite3.connect(tmp_path / "one" / store_module.FILE)) as main:
        main.execute("DELETE FROM ledger")
        main.execute("DELETE FROM outbox")
        main.execute("ATTACH ? AS file", (str(tmp_path / "two" / store_module.FILE),))
        assert tables.merge(main, 40) == 41
        assert main.execute("SELECT id, printer FROM outbox").fetchall() == [(41, "w")]
        assert main.execute("SELECT count(*) FROM ledger").fetchone() == (0,)
        assert main.execute("SELECT data FROM jobs").fetchall() == [('"mine"',)]


async def test_a_store_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    """With all that it holds, for whoever comes first."""
    with closing(sqlite3.connect(tmp_path / store_module.FILE)) as connection:
        connection.executescript(tables.MIGRATIONS[0])
        connection.execute("INSERT INTO jobs VALUES ('v', '1')")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    async with opened(tmp_path) as printer:
        assert await printer.load_job() == 1
        assert not await printer.claim("mine")


async def test_the_newest_time_is_known(tmp_path: Path) -> None:
    """Of letters and commands of all printers."""
    async with Store(tmp_path, trusted_time=lambda: NOW) as store:
        assert await store.newest() is None
        await store.of("v").begin(record())
        await store.of("w").put(letter(1, at=NOW + 7))
        assert await store.newest() == NOW + 7


async def test_the_loop_waits_for_no_disk(tmp_path: Path) -> None:
    """However long a commit takes, commands are taken meanwhile; each is noted once the disk has it."""
    moves_on = threading.Event()
    async with Store(tmp_path, trusted_time=lambda: NOW) as store:
        printer = store.of("v")
        stuck = store._database.submit(lambda connection: moves_on.wait(30))
        noted = [printer.begin(record(f"id:{number}")) for number in range(50)]
        stored = printer.put(letter(1))
        await asyncio.sleep(0)
        assert (stuck.done(), stored.done(), {future.done() for future in noted}) == (False, False, {False})
        moves_on.set()
        assert await asyncio.gather(*noted) == [None] * 50
        assert await stored > 0
        assert len(await printer.unfinished()) == 50
