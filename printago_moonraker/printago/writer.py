"""Envelopes on their way out: where they go, whether they are kept, and what of them goes first for want of room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from printago_moonraker.printago.endpoint import Message
from printago_moonraker.printago.limits import ANSWER, END_OF_PRINT, NEWS, PICTURE
from printago_moonraker.printago.store import Letter

if TYPE_CHECKING:
    from datetime import datetime

    from printago_moonraker.printago.envelope import EnvelopeCodec, Topics
    from printago_moonraker.printago.store import Destinations

STORED: Final = frozenset({"event", "success", "error", "response"})
LARGE: Final = (
    64 * 1024
)  # bytes; of answers only a picture is: it can be asked for again, what it would push out cannot
ENDS_OF_PRINTS: Final = frozenset({"PrintDone", "PrintFailed", "PrintCancelled"})


@dataclass(frozen=True)
class Writer:
    """Writes one printer's letters."""

    codec: EnvelopeCodec
    topics: Topics

    def letter(
        self,
        kind: str,
        data: Any,
        at: datetime,
        *,
        command: dict[str, str] | None = None,
        reply_to: Message | Destinations | None = None,
    ) -> Letter:
        """An envelope of that time. `command` is the echo of the command it answers, `reply_to` that command's message,
        or where else it shall go: the answer goes also to its Response Topic.
        """
        payload = self.codec.encode(kind, data, at=at, command=command)
        destinations = ((self.topics.message(kind), None), *_response_topic(reply_to))
        return Letter(destinations, payload, _rank(data, payload, answers=command is not None), at.timestamp())


def _rank(data: Any, payload: bytes, *, answers: bool) -> int:
    if answers:
        return ANSWER if len(payload) < LARGE else PICTURE
    return END_OF_PRINT if data.get("event") in ENDS_OF_PRINTS else NEWS


def _response_topic(reply_to: Message | Destinations | None) -> Destinations:
    if isinstance(reply_to, Message):
        return ((reply_to.response_topic, reply_to.correlation_data),) if reply_to.response_topic else ()
    return reply_to or ()
