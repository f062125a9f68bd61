"""Which commands have just been sent, and which the broker had kept for us, nobody can tell how long."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from printago_moonraker.errors import LinkError

if TYPE_CHECKING:
    from printago_moonraker.printago.endpoint import Message
    from printago_moonraker.printago.mqtt import MqttSession

LEAST = 5.0  # seconds at the beginning of a session in which what was kept may come
QUIET = 2.0  # seconds without a message that end this time
MOST = 60.0  # seconds after which a message a second is taken for what it is


class Backlog:
    """One session's."""

    def __init__(self) -> None:
        self._received = 0
        self._is_over = False

    def judge(self, message: Message) -> Message:
        """The message, `live` if it was not kept."""
        self._received += 1
        return replace(message, live=self._is_over and not (message.dup or message.retain))

    async def outlast(self, session: MqttSession) -> None:
        """Return when what was kept has come: at once where the broker had no session to keep it in, else after a
        silence. That it is no stall of the wire is shown by the answer to a ping, and that the broker does not wait for
        our acknowledgements, by there being none to wait for. Cancelling is safe.
        """
        time = asyncio.get_running_loop().time
        begun, pause, quiet = time(), LEAST, not session.session_present
        with suppress(LinkError):
            while not quiet and time() - begun < MOST:
                received = self._received
                await asyncio.sleep(pause)
                await session.ping()
                quiet = received == self._received and not session.unacknowledged
                pause = QUIET
            self._is_over = True
