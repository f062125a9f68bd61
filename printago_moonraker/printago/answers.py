"""The broker's answers: who waits for which of them, and what a reason code means for us.

Source: MQTT 5 section 2.4.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from printago_moonraker.errors import ConnectionRefused, LoginRefused
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from printago_moonraker.errors import LinkError

CONNACK, PINGRESP = 0, -1  # never packet identifiers, so they can stand among them

UNSUPPORTED_VERSION: Final = 0x84
SESSION_TAKEN_OVER: Final = 0x8E
_LOGIN: Final = {0x85, 0x86, 0x87, 0x8A, 0x8C}  # client ID, user name or password, not authorized, banned, method
# Of a publication: not authorized, topic name, payload format. Whatever else it is, a quota for example, may pass.
_FOR_EVER: Final = {0x87, 0x90, 0x99}


class NotNow(ConnectionRefused):
    """The broker does not take a publication, which it may take another time."""


def of_connection(code: int) -> type[ConnectionRefused]:
    """The error for a CONNACK that refuses with this reason code."""
    return LoginRefused if code in _LOGIN else ConnectionRefused


def of_publication(code: int) -> type[ConnectionRefused]:
    """The error for a PUBACK that refuses with this reason code."""
    return ConnectionRefused if code in _FOR_EVER else NotNow


def explain(reason: object, info: object) -> str:
    """A refusal in the broker's words: the reason code's name, and the Reason String (MQTT 5 section 3.1.2.11.7)."""
    words = getattr(info, "ReasonString", None)
    return printable(f"{reason}: {words}" if words else str(reason))


class Waiting:
    """Futures by the packet identifier of what they wait for. Nobody has to await one."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._futures: dict[int, tuple[str, asyncio.Future[None]]] = {}  # what for, who

    def __contains__(self, mid: int) -> bool:
        return mid in self._futures

    def expect(self, mid: int, purpose: str, future: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        """Done with the answer to `mid`."""
        future = future or asyncio.get_running_loop().create_future()
        self._futures[mid] = purpose, future
        return future

    def settle(self, mid: int, refusal: str = "", error: type[ConnectionRefused] = ConnectionRefused) -> None:
        """The answer has come: a good one, unless there is a `refusal`."""
        purpose, future = self._futures.pop(mid, ("", None))
        if future is None or future.done():
            return
        if refusal:
            future.set_exception(error(f"{self._peer} refuses the {purpose}: {refusal}"))
        else:
            future.set_result(None)

    def fail(self, error: Callable[[], LinkError]) -> None:
        """No answer comes any more; each future gets an error of its own."""
        waiting, self._futures = self._futures, {}
        for _, future in waiting.values():
            if not future.done():
                future.set_exception(error())
                future.exception()  # seen: nobody has to await it
