"""One child kept running."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from printago_moonraker.backoff import Backoff
from printago_moonraker.errors import ConnectionLost, ConnectionRefused, LoginRefused, NotPaired
from printago_moonraker.supervise import supervise


class Child:
    """An attempt that does the next thing of a list each time, and then hangs."""

    def __init__(self, *deeds: Callable[[Backoff], None]) -> None:
        self.deeds = list(deeds)
        self.attempts = 0
        self.exhausted = asyncio.Event()

    async def __call__(self, backoff: Backoff) -> None:
        self.attempts += 1
        if len(self.deeds) < self.attempts:
            self.exhausted.set()
            await asyncio.Event().wait()
        self.deeds[self.attempts - 1](backoff)


@asynccontextmanager
async def supervised(attempt: Callable[[Backoff], Awaitable[None]]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(supervise("printer a", attempt, Backoff(base=0.001, cap=0.001, floor=0.0)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def fails(error: BaseException) -> Callable[[Backoff], None]:
    def deed(_: Backoff) -> None:
        raise error

    return deed


def ends(_: Backoff) -> None:
    return None


async def run(caplog: pytest.LogCaptureFixture, *deeds: Callable[[Backoff], None]) -> list[logging.LogRecord]:
    """Supervise a child until all its deeds are done; what was logged meanwhile."""
    caplog.set_level(logging.DEBUG, "printago_moonraker.supervise")
    child = Child(*deeds)
    async with asyncio.timeout(5), supervised(child):
        await child.exhausted.wait()
    assert child.attempts == len(deeds) + 1
    return [record for record in caplog.records if record.name == "printago_moonraker.supervise"]


@pytest.mark.parametrize(
    "error", [ConnectionLost("gone"), OSError(111, "refused"), TimeoutError(), KeyError("x")], ids=repr
)
async def test_begins_again_after_any_error(caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    """Whatever ends an attempt, a fault of the link or a defect, there is another attempt."""
    await run(caplog, fails(error), fails(error))


async def test_begins_again_after_a_normal_end(caplog: pytest.LogCaptureFixture) -> None:
    """An attempt that simply returns is begun again, too."""
    records = await run(caplog, ends)
    assert "it ended" in records[0].getMessage()


async def test_one_warning_a_spell(caplog: pytest.LogCaptureFixture) -> None:
    """A spell of failures is one warning; the rest is debug; after a reset the next failure warns again."""

    def works_then_breaks(backoff: Backoff) -> None:
        backoff.reset()
        raise ConnectionLost("again")

    down = fails(ConnectionLost("down"))
    records = await run(caplog, down, down, down, works_then_breaks, down)
    assert [record.levelno for record in records] == [30, 10, 10, 30, 10]
    assert records[0].getMessage().startswith("printer a: down; trying again in ")


async def test_a_defect_is_logged_in_full_once(caplog: pytest.LogCaptureFixture) -> None:
    """A defect comes with its traceback; the same one again only in debug."""
    records = await run(caplog, fails(KeyError("x")), fails(KeyError("x")), fails(KeyError("y")))
    assert [record.levelno for record in records if record.exc_info] == [logging.ERROR, logging.DEBUG, logging.ERROR]


async def test_a_group_of_link_errors_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    """What a task group's children raise is told by its first cause; a traceback comes only with a defect."""
    lost, refused = ConnectionLost("lost"), ConnectionRefused("refused")
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [lost]), refused])
    records = await run(caplog, fails(nested), fails(ExceptionGroup("mixed", [lost, KeyError("x")])))
    assert "printer a: lost;" in records[0].getMessage()
    assert [bool(record.exc_info) for record in records] == [False, True, False]


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: ExceptionGroup("links", [error])])
async def test_refusals_are_tried_rarely(wrap: Callable[[Exception], Exception]) -> None:
    """A login that is refused for hours is tried some times an hour, one that cannot be made for hours every minute."""

    async def rest(error: Exception) -> list[float]:
        waits: list[float] = []
        enough = asyncio.Event()

        async def attempt(_: Backoff) -> None:
            raise wrap(error)

        async def pause(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 20:
                enough.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(supervise("child", attempt, Backoff(), pause))
        async with asyncio.timeout(5):
            await enough.wait()
        task.cancel()
        await asyncio.wait([task])
        return waits

    for refusal in (LoginRefused("no"), NotPaired("no")):
        waits = await rest(refusal)
        assert max(waits[:6]) <= 60
        assert all(600 <= wait <= 900 for wait in waits[10:])
    assert max(await rest(ConnectionLost("gone"))) <= 60


async def test_a_reason_is_told_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """The remedy, which comes last, is in the line; a reason without an end is cut."""
    records = await run(caplog, fails(ConnectionLost("x" * 450 + " run it")), fails(ConnectionLost("x" * 5000)))
    assert "run it; trying again in" in records[0].getMessage()
    assert len(records[1].getMessage()) < 600


async def test_peer_text_is_cleaned(caplog: pytest.LogCaptureFixture) -> None:
    """What a peer said reaches the log on one line."""
    records = await run(caplog, fails(ConnectionLost("bad\n\x1b[31mforged line")))
    assert "bad forged line;" in records[0].getMessage()


async def test_somebody_elses_cancellation_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """A CancelledError that nobody sent to this task is one more way for an attempt to end."""
    records = await run(caplog, fails(asyncio.CancelledError()))
    assert "was cancelled" in records[0].getMessage()


async def test_cancelling_cancels_the_attempt() -> None:
    """Cancelling ends it at once, through the attempt's own finally."""
    left = asyncio.Event()
    inside = asyncio.Event()

    async def attempt(_: Backoff) -> None:
        try:
            inside.set()
            await asyncio.Event().wait()
        finally:
            left.set()

    async with asyncio.timeout(5), supervised(attempt) as task:
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert left.is_set()


async def test_cancelling_ends_the_wait() -> None:
    """Cancelling while it waits for the next attempt does not wait."""
    failed = asyncio.Event()

    async def attempt(_: Backoff) -> None:
        failed.set()
        raise ConnectionLost("down")

    task = asyncio.create_task(supervise("printer a", attempt, Backoff(base=3600.0, cap=3600.0, floor=3600.0)))
    async with asyncio.timeout(5):
        await failed.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_pause_that_changes_things_begins_a_new_spell(caplog: pytest.LogCaptureFixture) -> None:
    """What fails again after a pause in which something has changed is told again, and waited for from the start."""
    changes = iter([False, True, False])
    done = asyncio.Event()

    async def pause(_seconds: float) -> bool:
        changed = next(changes, None)
        if changed is None:
            done.set()
            await asyncio.Event().wait()
        return bool(changed)

    async def attempt(_: Backoff) -> None:
        raise ConnectionLost("down")

    caplog.set_level(logging.DEBUG)
    task = asyncio.create_task(supervise("printer a", attempt, Backoff(), pause))
    try:
        async with asyncio.timeout(5):
            await done.wait()
    finally:
        task.cancel()
        await asyncio.wait([task])
    levels = [record.levelno for record in caplog.records if record.name.endswith("supervise")]
    assert levels == [logging.WARNING, logging.DEBUG, logging.WARNING, logging.DEBUG]


async def test_a_stop_is_not_lost_in_another_failure() -> None:
    """A task group cancelled while its child fails raises only the child's error: the attempt ends all the same."""
    begun = asyncio.Event()

    async def child() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            raise ConnectionLost("it broke as well")

    async def attempt(_: Backoff) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.Event().wait()

    task = asyncio.create_task(supervise("child", attempt))
    await begun.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=2)
    assert done
    assert task.cancelled()
