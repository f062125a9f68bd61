"""What the agent must not forget is in the store, in order, within its limits."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from printago_moonraker.printago import store as store_module
from printago_moonraker.printago.store import ANSWER, END_OF_PRINT, NEWS, Letter, Limits, PrinterStore, Record, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
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
    old = NOW - 40 * store_module.DAY
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


async def test_redelivered_bytes_are_known_for_a_minute() -> None:
    """By the digest before the serial number, the newest of them, and only when the broker says that it sends again."""
    async with opened(None) as printer:
        first, second = record("sha256:aa:1"), record("sha256:aa:2", received=NOW + 1)
        assert await printer.begin(first) is None
        assert await printer.begin(second) is None
        again = record("sha256:aa:3", received=NOW + 60)
        assert await printer.begin(again, redelivered=True) == second
        assert await printer.begin(replace(again, key="sha256:ab:1"), redelivered=True) is None
        late = record("sha256:aa:4", received=NOW + 62)
        assert await printer.begin(late, redelivered=True) == second, "it was never finished"
        for each, code in ((first, "interrupted"), (second, "busy")):
            await printer.save(printer.ended(each.key, "error", {"error": "No.", "code": code}, NOW + 2))
        earlier = await printer.begin(late, redelivered=True)
        assert earlier is not None
        assert earlier.key == first.key, "it was cut short"
        await printer.save(printer.ended(first.key, "success", {}, NOW + 2))
        assert await printer.begin(late, redelivered=True) is None
        assert await printer.begin(again) is None


async def test_keys_by_name() -> None:
    """The commands of one name are found."""
    async with opened(None) as printer:
        await printer.begin(record())
        await printer.begin(replace(record("id:c-2"), name="printer_control.emergency_stop"))
        assert await printer.keys_of("printer_control.emergency_stop") == {"id:c-2"}


@pytest.mark.usefixtures("tidy")
async def test_the_ledger_forgets_after_a_day_or_when_it_is_full() -> None:
    """Oldest first; a clock that may be wrong makes nothing old."""
    old = record("id:old", received=NOW - store_module.DAY - 1)
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


# -------------------------------------------------------------------------------------------------------------- the job


async def test_the_job_is_what_was_saved_last(tmp_path: Path) -> None:
    """With an event, or by itself."""
    async with opened(tmp_path) as printer:
        assert await printer.load_job() is None
        await printer.put(letter(1), printer.job({"file": "a"}))
        await printer.save(printer.job({"file": "b"}))
    async with opened(tmp_path) as printer:
        assert await printer.load_job() == {"file": "b"}


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
