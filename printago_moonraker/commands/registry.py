"""Every command, declared once: its name, its lane, what it needs, its handler. Nothing else lists commands.

A declaration's schema is `schemas/commands/{type}.{action}.json`; `pairing` announces what stands here and can be done.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from printago_moonraker import errors
from printago_moonraker.commands.lanes import Lane, Lanes
from printago_moonraker.log import printable
from printago_moonraker.printer.phase import Phase

if TYPE_CHECKING:
    from printago_moonraker.printer.camera import Cameras
    from printago_moonraker.printer.facts import Facts
    from printago_moonraker.printer.jobs import Jobs
    from printago_moonraker.printer.printer import Printer, Seen
    from printago_moonraker.printer.starts import Start


@dataclass(frozen=True)
class Answer:
    """A command's terminal envelope: its type (`success`, `response`, `status`) and its data."""

    type: str
    data: dict[str, Any]


def success(message: str, **more: Any) -> Answer:
    return Answer("success", {"message": message, **more})


@dataclass(frozen=True)
class Context:
    """What a handler works with."""

    printer: Printer
    jobs: Jobs
    lanes: Lanes
    cameras: Cameras
    received: float = 0.0  # when the command came, on the monotonic clock
    deadline: float = math.inf  # by when it is to be begun, likewise
    expires: float = math.inf  # when nothing of it is wanted any more, likewise
    start: Start | None = None  # of a command that starts a print

    async def script(self, what: str, script: str, seen: Seen | None = None, *, timeout: float) -> None:
        """`Printer.script`, unless the command expires before Klipper comes to it."""
        await self.printer.script(what, script, seen, timeout=timeout, deadline=self.deadline)


Parameters = Mapping[str, Any]
Handler = Callable[[Context, Parameters], Awaitable[Answer]]

IDLE_ONLY = frozenset(phase for phase in Phase if phase.has_job)
NOT_WHILE_PRINTING = IDLE_ONLY - {Phase.PAUSED}
_SWITCHES = {"movement_control": "allow_motion", "temperature_control": "allow_heating"}  # the owner's


def _anything(_: Facts) -> bool:
    return True


@dataclass(frozen=True)
class Command:
    """`busy`: the phases in which it would be in the way of a print; `needs_ready`: Klipper must take commands.

    `read_only`: it changes nothing, so it is answered anew each time it comes and is not noted in the ledger; unless
    it sends something to a `destination_url`.
    `urgent`: it does not wait until it is noted. `starts`: it starts a print, so a stop takes it back.
    `needs`: whether the printer has what it takes.
    """

    type: str
    action: str
    handler: Handler
    lane: Lane
    needs_ready: bool
    busy: frozenset[Phase]
    read_only: bool = False
    urgent: bool = False
    starts: bool = False
    needs: Callable[[Facts], bool] = _anything

    def is_repeatable(self, parameters: Mapping[str, Any]) -> bool:
        """Whether the command, with these parameters, may be carried out as often as it comes."""
        return self.read_only and not parameters.get("destination_url")

    def check(self, printer: Printer) -> None:
        """Raise the CommandError that forbids this command now, if any."""
        if self._is_switched_off(printer):
            option = _SWITCHES[self.type]
            raise errors.Forbidden(f"{self.type} is switched off on this printer ([commands] {option}: off).")
        if self.needs_ready:
            printer.require_ready()
        if printer.phase in self.busy:
            raise printer.busy()

    def is_possible(self, printer: Printer) -> bool:
        """Whether this printer can ever do it: its owner allows it, and it has what it takes, as far as is known."""
        known = printer.facts.kinematics is not None  # a Klipper that has not said so has said nothing of the rest
        return not self._is_switched_off(printer) and (not known or self.needs(printer.facts))

    def _is_switched_off(self, printer: Printer) -> bool:
        option = _SWITCHES.get(self.type)
        return option is not None and not getattr(printer.settings.commands, option)


# The types of the protocol; the ones without a command here have none yet, and say "unknown action".
TYPES = ("printer_control", "temperature_control", "movement_control", "camera_control", "fan_control", "light_control")

REGISTRY: dict[tuple[str, str], Command] = {}


def command(
    name: str,
    *,
    lane: Lane = Lane.ORDERED,
    needs_ready: bool = True,
    busy: frozenset[Phase] = frozenset(),
    read_only: bool = False,
    urgent: bool = False,
    starts: bool = False,
    needs: Callable[[Facts], bool] = _anything,
) -> Callable[[Handler], Handler]:
    """Declare the decorated handler as the command `type.action`."""
    kind, _, action = name.partition(".")

    def declare(handler: Handler) -> Handler:
        more = (needs_ready, busy, read_only, urgent, starts, needs)
        REGISTRY[kind, action] = Command(kind, action, handler, lane, *more)
        return handler

    return declare


def find(kind: str, action: str) -> Command:
    """The command of that name. Raises UnknownType, UnknownAction with the plugin's sentences."""
    if kind not in TYPES:
        raise errors.UnknownType(f"Unknown Printago command type: {printable(kind)}")
    found = REGISTRY.get((kind, action))
    if found is None:
        raise errors.UnknownAction(f"Unknown action for {kind}: {printable(action)}")
    return found


def names(printer: Printer | None = None) -> list[str]:
    """All commands as `type.action`, sorted; of a printer, those that it can ever do."""
    entries = [entry for entry in REGISTRY.values() if printer is None or entry.is_possible(printer)]
    return sorted(f"{entry.type}.{entry.action}" for entry in entries)
