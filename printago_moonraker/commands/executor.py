"""A command's life: read, noted, given its turn, carried out, answered exactly once.

Write ahead: a command is in the ledger before anything moves and before the broker hears that it arrived; its answer
and its end in the ledger are written together. One that is known is not carried out again: its answer is sent again.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from printago_moonraker import errors
from printago_moonraker.commands.admission import Acknowledgements, Order, Work, read
from printago_moonraker.log import printable
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.moonraker.rpc import RpcTimeout
from printago_moonraker.printago.store import Record

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Iterator

    from printago_moonraker.clock import Clock
    from printago_moonraker.commands.registry import Context
    from printago_moonraker.printago.endpoint import Message
    from printago_moonraker.printago.store import Destinations, PrinterStore, Write

logger = logging.getLogger(__name__)

_MAX_SENTENCE = 1000  # characters


class SendAnswer(Protocol):
    """Sends the envelope of an answer and writes `also` with it, as `Link.send` does."""

    def __call__(
        self,
        kind: str,
        data: dict[str, Any],
        echo: dict[str, str],
        reply_to: Message | Destinations,
        /,
        *,
        also: Write | None,
        at: datetime,
    ) -> asyncio.Future[Any] | None: ...


def _nothing() -> None:
    """For what is acknowledged already."""


class Executor:
    """Carries out one printer's commands. Its tasks live in the given group: a lost link takes no command with it."""

    def __init__(
        self,
        context: Context,
        tasks: asyncio.TaskGroup,
        answer: SendAnswer,
        ledger: PrinterStore,
        clock: Clock,
        *,
        known_stops: Collection[str] = (),
        first_look: float = 0.0,
    ) -> None:
        """`known_stops` are the keys of the urgent commands that the ledger knows. For `first_look` seconds from now,
        commands wait for the printer to come into sight: what the broker has kept comes before Moonraker's first word.
        """
        self._context = context
        self._tasks = tasks
        self._answer = answer
        self._ledger = ledger
        self._clock = clock
        self._stops = set(known_stops)
        self._acknowledgements = Acknowledgements()
        self._first_look = time.monotonic() + first_look

    def receive(self, message: Message) -> None:
        """Take one command from the broker; returns at once. Never raises: whatever comes is answered."""
        order = read(message, self._context, self._clock)
        acknowledge = self._acknowledgements.expect(message)
        if order.key is None:
            self._begin(order, acknowledge)
            return
        noted = self._ledger.begin(self._record(order, order.key), redelivered=order.redelivered)
        if order.work and order.work.entry.urgent and not self._is_known(order, order.key):
            # It waits for nothing, not for a disk either.
            self._stops.add(order.key)
            if self._begin(order, _nothing):
                noted.add_done_callback(lambda future: None if future.cancelled() else acknowledge())
        else:
            noted.add_done_callback(partial(self._noted, order, acknowledge))

    def _record(self, order: Order, key: str) -> Record:
        return Record(
            key=key,
            name=order.work.name if order.work else "",
            echo=order.echo,
            received=self._clock.now().timestamp(),
            subject=self._context.jobs.subject(order.work.parameters) if order.work else None,
            topic=order.message.response_topic,
            correlation=order.message.correlation_data,
        )

    def _is_known(self, order: Order, key: str) -> bool:
        if order.redelivered:
            return any(stop.rpartition(":")[0] == key.rpartition(":")[0] for stop in self._stops)
        return key in self._stops

    def _noted(self, order: Order, acknowledge: Callable[[], None], future: asyncio.Future[Record | None]) -> None:
        """The ledger has it now, or had it before."""
        if future.cancelled():
            return  # the process ends: the broker keeps it
        if future.exception() is not None:
            logger.error("%s could not be noted: %r", order, future.exception())
            unnoted = replace(order, key=None)
            self._fail(
                unnoted, errors.Internal("The agent could not note the command, so nothing was done."), acknowledge
            )
            return
        earlier = future.result()
        if earlier is None:
            self._begin(order, acknowledge)
            return
        logger.info("%s is known already", order)
        if earlier.ended is not None and earlier.kind is not None:
            at = datetime.fromtimestamp(earlier.ended, UTC)
            self._answer(earlier.kind, earlier.data, earlier.echo, order.message, also=None, at=at)
        acknowledge()  # the answer of one that still runs will come

    def _begin(self, order: Order, acknowledge: Callable[[], None]) -> bool:
        """Start the work, or say why not; False when neither can be. It is acknowledged once it is under way: what is
        noted is safe, and of what is not a crash costs a question that can be asked again. A camera that says nothing
        must not hold back all later acknowledgements, and with them, by the broker's window, all later commands.
        """
        try:
            if order.work is None:
                raise order.refusal or errors.Internal("The command was neither accepted nor refused.")
            self._context.lanes.reserve(order.work.entry.lane)
        except errors.CommandError as refusal:
            logger.info("refused %s: %s", order, refusal)
            self._fail(order, refusal, acknowledge)
            return True
        life = self._live(order, order.work)
        try:
            task = self._tasks.create_task(life, name=f"command {order.work.name}")
        except RuntimeError:  # the session is ending: the broker keeps the command for the next one
            life.close()
            if order.key is not None:
                self._ledger.forget(order.key)
            return False
        acknowledge()
        task.add_done_callback(partial(self._stopped, order))
        return True

    async def _live(self, order: Order, work: Work) -> None:
        try:
            with self._context_of(work) as context:
                async with context.lanes.turn(work.entry.lane, reserved=True):
                    await self._look(work)
                    self._clock.check(work.deadline)  # it may have waited behind a long one
                    work.entry.check(context.printer)
                    logger.info("%s%s", order, f" tags={work.tags}" if work.tags else "")
                    answer = await work.entry.handler(context, work.parameters)
        except errors.CommandError as error:
            logger.info("%s: %s: %s", order, error.code, error)
            self._fail(order, error)
        except RpcTimeout as error:
            logger.info("%s: %s", order, error)
            self._fail(order, errors.OutcomeUnknown(f"{error} The outcome is unknown."))
        except errors.AgentError as error:
            # Moonraker refused or vanished in a place where the handler had no word of its own for it.
            logger.info("%s: %s", order, error)
            self._fail(order, errors.PrinterOffline(str(error)))
        except Exception:
            # A defect in one handler must leave neither the cloud without an answer nor the printer without an agent.
            logger.exception("%s: an unexpected error", order)
            self._fail(order, errors.Internal("The agent failed; its log has the details."))
        else:
            self._finish(order, answer.type, answer.data)

    @contextmanager
    def _context_of(self, work: Work) -> Iterator[Context]:
        """What the command's handler works with; a start is known as such from now on, while it waits for its turn."""
        starts = self._context.jobs.starts.pending(work.received) if work.entry.starts else nullcontext()
        with starts as start:
            yield replace(
                self._context, received=work.received, deadline=work.deadline, expires=work.expires, start=start
            )

    async def _look(self, work: Work) -> None:
        state, patience = self._context.printer.state, self._first_look - time.monotonic()
        if patience > 0 and not work.entry.is_repeatable(work.parameters):
            await self._context.printer.until(lambda: state.klippy is not KlippyState.UNKNOWN, patience)

    def _stopped(self, order: Order, task: asyncio.Task[None]) -> None:
        """A cancelled command gets its answer here, because one that is cancelled before its first step never runs."""
        if task.cancelled():
            sentence = "The agent was stopped while the command ran; its outcome is unknown."
            self._fail(order, errors.Cancelled(sentence))

    def _fail(self, order: Order, error: errors.CommandError, answered: Callable[[], None] = _nothing) -> None:
        # Here, once for all: a refusal may quote what came.
        data: dict[str, Any] = {"error": printable(str(error), _MAX_SENTENCE), "code": error.code}
        if error.details is not None:
            data["details"] = error.details
        self._finish(order, "error", data, answered)

    def _finish(self, order: Order, kind: str, data: dict[str, Any], answered: Callable[[], None] = _nothing) -> None:
        """Answer, and in the same transaction note that it has ended; then call `answered`."""
        at = self._clock.now()
        end = self._ledger.ended(order.key, kind, data, at.timestamp()) if order.key is not None else None
        stored = self._answer(kind, data, order.echo, order.message, also=end, at=at)
        if stored is None:
            answered()
        else:
            stored.add_done_callback(lambda future: None if future.cancelled() else answered())
