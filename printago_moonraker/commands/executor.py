"""A command's life: read, judged, given its turn, carried out, answered exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from printago_moonraker import errors, schemas
from printago_moonraker.commands.registry import Answer, Command, Context, find
from printago_moonraker.log import printable
from printago_moonraker.moonraker.rpc import RpcTimeout
from printago_moonraker.printago.endpoint import Message
from printago_moonraker.printago.envelope import CommandMessage, echo_of, parse_command

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)

# (type, data, echo of the command, the message that it answers)
SendAnswer = Callable[[str, dict[str, Any], dict[str, str], Message], None]


class Executor:
    """Carries out one printer's commands. Its tasks live in the given group: a lost link takes no command with it."""

    def __init__(self, context: Context, tasks: asyncio.TaskGroup, answer: SendAnswer) -> None:
        self._context = context
        self._tasks = tasks
        self._answer = answer

    def receive(self, message: Message) -> None:
        """Take one command from the broker; returns at once. Never raises: whatever comes is answered.

        The broker gets its acknowledgement before anything moves, so that a crash can lose a command but never repeat
        one.
        """
        try:
            command, entry, parameters = self._judge(message)
            self._context.lanes.reserve(entry.lane)
        except errors.CommandError as error:
            echo = echo_of(message.payload)
            logger.info(
                "refused %s.%s: %s", printable(echo.get("type", "?")), printable(echo.get("action", "?")), error
            )
            message.ack()
            self._fail(error, echo, message)
            return
        life = self._live(entry, command, parameters, message)
        try:
            task = self._tasks.create_task(life, name=f"command {entry.type}.{entry.action}")
        except RuntimeError:  # the session is ending: the broker keeps the command for the next one
            life.close()
            return
        message.ack()
        task.add_done_callback(partial(self._stopped, command.echo, message))

    def _judge(self, message: Message) -> tuple[CommandMessage, Command, dict[str, Any]]:
        """All that can be said about a command without looking at the printer."""
        command = parse_command(message.payload)
        if message.retain:
            raise errors.RetainedCommand(
                "A retained message is not carried out: nothing moves because a broker remembered something."
            )
        entry = find(command.type, command.action)
        self._check_printer(command)
        self._check_age(command, datetime.now(UTC))
        return command, entry, schemas.validate_parameters(entry.type, entry.action, command.parameters)

    def _check_printer(self, command: CommandMessage) -> None:
        own = self._context.printer.config.printer_id
        if command.printer_id not in (None, own):
            raise errors.WrongPrinter(f"This is printer {own}, not {printable(str(command.printer_id))}.")

    def _check_age(self, command: CommandMessage, now: datetime) -> None:
        limit = self._context.printer.settings.commands.max_command_age
        here = f"it is {now.isoformat(timespec='seconds')} here"
        if command.expires_at and now >= command.expires_at:
            raise errors.Expired(f"The command expired at {command.expires_at.isoformat()}; {here}.")
        if command.timestamp and now - command.timestamp > timedelta(seconds=limit):
            raise errors.Expired(f"The command is older than {limit:.0f} s; {here}.")

    async def _live(
        self, entry: Command, command: CommandMessage, parameters: dict[str, Any], message: Message
    ) -> None:
        name = f"{entry.type}.{entry.action}"
        try:
            async with self._context.lanes.turn(entry.lane, reserved=True):
                self._check_age(command, datetime.now(UTC))  # it may have waited behind a long one
                entry.check(self._context.printer)
                logger.info("%s %s", name, _for_log(command))
                answer = await entry.handler(self._context, parameters)
        except errors.CommandError as error:
            logger.info("%s: %s: %s", name, error.code, error)
            self._fail(error, command.echo, message)
        except RpcTimeout as error:
            logger.info("%s: %s", name, error)
            self._fail(errors.OutcomeUnknown(f"{error} The outcome is unknown."), command.echo, message)
        except errors.AgentError as error:
            # Moonraker refused or vanished in a place where the handler had no word of its own for it.
            logger.info("%s: %s", name, error)
            self._fail(errors.PrinterOffline(str(error)), command.echo, message)
        except Exception:
            # A defect in one handler must leave neither the cloud without an answer nor the printer without an agent.
            logger.exception("%s: an unexpected error", name)
            self._fail(errors.Internal("The agent failed; its log has the details."), command.echo, message)
        else:
            self._done(answer, command.echo, message)

    def _stopped(self, echo: dict[str, str], message: Message, task: asyncio.Task[None]) -> None:
        """A cancelled command gets its answer here, because one that is cancelled before its first step never runs."""
        if task.cancelled():
            sentence = "The agent was stopped while the command ran; its outcome is unknown."
            self._fail(errors.Cancelled(sentence), echo, message)

    def _done(self, answer: Answer, echo: dict[str, str], message: Message) -> None:
        self._answer(answer.type, answer.data, echo, message)

    def _fail(self, error: errors.CommandError, echo: dict[str, str], message: Message) -> None:
        data: dict[str, Any] = {"error": str(error), "code": error.code}
        if error.details is not None:
            data["details"] = error.details
        self._answer("error", data, echo, message)


def _for_log(command: CommandMessage) -> str:
    """The command's ID and OctoPrint's tags, the only parts of a command that nothing else would record. URLs are
    secrets.
    """
    tags = command.parameters.get("tags") or []
    parts = [f"id={printable(command.id)}"] if command.id else []
    parts += [f"tags={printable(','.join(map(str, tags)))}"] if isinstance(tags, list) and tags else []
    return " ".join(parts)
