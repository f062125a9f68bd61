"""Keeps one child running for ever, and leaves its siblings alone."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from printago_moonraker.backoff import Backoff
from printago_moonraker.errors import AgentError
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

LONGEST = 500  # characters of a reason: the remedy comes last in it


async def supervise(
    name: str,
    attempt: Callable[[Backoff], Awaitable[None]],
    backoff: Backoff | None = None,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Run `attempt` again and again, with a back-off between its ends; never returns.

    `attempt` calls `backoff.reset()` once it has proved itself. One warning a spell of failures, debug for the rest: a
    printer that is switched off for a week must not fill the log. An error says itself how patiently it is to be tried
    again (`AgentError.patience`). `pause` waits so many seconds; when it returns something true, what was wrong may be
    right now: the next attempt is the first of a new spell. Cancelling is safe; it cancels the attempt.
    """
    backoff = backoff or Backoff()
    defect = ""
    while True:
        reason, patience = "it ended", 0.0
        try:
            await attempt(backoff)
        except asyncio.CancelledError:
            # Somebody else cancelled what the attempt was waiting for: that must not end this child in silence.
            if _is_cancelled():
                raise
            reason = "what it waited for was cancelled"
        except Exception as error:
            if _is_cancelled():  # a task group whose child failed while it was cancelled tells of the failure alone
                raise asyncio.CancelledError from error
            # A defect in one child must not end the process that watches the other printers: say it in full, and go on.
            reason, patience = _expected(error) or "an unexpected error", _patience(error)
            if _expected(error) is None:
                known, defect = defect, repr(error)
                level = logging.DEBUG if defect == known else logging.ERROR
                logger.log(level, "%s: an unexpected error", name, exc_info=True)
        first = backoff.failures == 0
        wait = backoff.next(patience)
        level = logging.WARNING if first else logging.DEBUG
        logger.log(level, "%s: %s; trying again in %.1f s", name, reason.rstrip("."), wait)
        if await pause(wait):
            backoff.reset()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _patience(error: Exception) -> float:
    """How rarely this may be tried again at last; of a group, its first has the cause."""
    if isinstance(error, ExceptionGroup):
        return _patience(error.exceptions[0])
    return error.patience if isinstance(error, AgentError) else 0.0


def _expected(error: Exception) -> str | None:
    """What a link's failure looks like in the log; None for a defect."""
    if isinstance(error, ExceptionGroup):  # a task group's children failed: the first has the cause
        reasons = [_expected(each) for each in error.exceptions]
        return None if None in reasons else reasons[0]
    if isinstance(error, AgentError):
        return printable(str(error), LONGEST)
    if isinstance(error, OSError):
        return printable(f"{type(error).__name__}: {error}", LONGEST)
    return None
