"""Commands at the door: what can be said of one before anything is asked, and in which order the broker hears of it."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from printago_moonraker import errors, schemas
from printago_moonraker.commands.registry import Command, Context, find
from printago_moonraker.log import printable
from printago_moonraker.printago.envelope import CommandMessage, echo_of, parse_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from printago_moonraker.clock import Clock
    from printago_moonraker.printago.endpoint import Message

_serial = count()


@dataclass(frozen=True)
class Work:
    """What is to be done: it came at `received` and is to be begun before `deadline`, all on the monotonic clock.

    `expires` is its own `expires_at` alone, after which nothing of it may begin any more; infinite without one.
    """

    entry: Command
    parameters: dict[str, Any]
    deadline: float
    tags: str
    received: float
    expires: float

    @property
    def name(self) -> str:
        return f"{self.entry.type}.{self.entry.action}"


@dataclass(frozen=True)
class Order:
    """A command that has arrived: either `work`, or why there is none (`refusal`).

    `key` is its identity in the ledger, None for what is not noted there.
    """

    message: Message
    echo: dict[str, str]
    key: str | None
    work: Work | None = None
    refusal: errors.CommandError | None = None

    @property
    def redelivered(self) -> bool:
        """Whether only its bytes tell that it is one that the broker has delivered before."""
        return self.message.dup and "id" not in self.echo

    def __str__(self) -> str:
        name = f"{printable(self.echo.get('type', '?'))}.{printable(self.echo.get('action', '?'))}"
        return f"{name} id={printable(self.echo['id'])}" if "id" in self.echo else name


def read(message: Message, context: Context, clock: Clock) -> Order:
    """Judge a command without looking at the printer. Never raises."""
    try:
        command = parse_command(message.payload)
        if message.retain:
            raise errors.RetainedCommand(
                "A retained message is not carried out: nothing moves because a broker remembered something."
            )
        work = _judge(command, message, context, clock)
    except errors.CommandError as refusal:
        echo = echo_of(message.payload)
        # Being retained is a fault of this delivery, not of the command.
        key = f"id:{echo['id']}" if "id" in echo and not message.retain else None
        return Order(message, echo, key, refusal=refusal)
    if work.entry.is_repeatable(work.parameters):
        key = None
    elif command.id:
        key = f"id:{command.id}"
    else:
        digest = hashlib.sha256(message.payload).hexdigest()
        # How the ledger finds what the broker sends again: its bytes, and the packet identifier before the dot.
        key = f"sha256:{digest}:{message.mid}.{time.time_ns()}.{next(_serial)}"
    return Order(message, command.echo, key, work=work)


def _judge(command: CommandMessage, message: Message, context: Context, clock: Clock) -> Work:
    entry = find(command.type, command.action)
    own = context.printer.config.printer_id
    if command.printer_id not in (None, own):
        raise errors.WrongPrinter(f"This is printer {own}, not {printable(str(command.printer_id))}.")
    until = partial(
        clock.deadline,
        expires_at=command.expires_at,
        live=message.live,
        max_age=context.printer.settings.commands.max_command_age,
    )
    deadline = until(timestamp=command.timestamp, expiry=message.expiry)
    expires = until(timestamp=None, expiry=None)
    parameters = schemas.validate_parameters(entry.type, entry.action, command.parameters)
    if other := parameters.pop("printago_job", None):
        parameters.setdefault("job_id", other)
    given = command.parameters.get("tags")
    tags = printable(",".join(map(str, given))) if isinstance(given, list) else ""
    return Work(entry, parameters, deadline, tags, time.monotonic(), expires)


class Acknowledgements:
    """The broker hears of commands in the order in which they came (MQTT 5 section 4.6), whenever each is safe."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Message, list[bool]]] = deque()

    def expect(self, message: Message) -> Callable[[], None]:
        """Put a message in the row; the result is to be called when it may be acknowledged. Never called, it and all
        behind it are left to the broker, which delivers them again.
        """
        safe: list[bool] = []
        self._waiting.append((message, safe))

        def acknowledge() -> None:
            safe.append(True)
            while self._waiting and self._waiting[0][1]:
                self._waiting.popleft()[0].ack()

        return acknowledge
