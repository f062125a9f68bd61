"""Events that a G-code macro raises: `{action_call_remote_method("printago_event", event="bed_cleared", plate=3)}`.

A macro may stand in a loop or carry anything, so its events are bounded in rate and in size.
Source: Moonraker docs, `connection.register_remote_method`; Klipper docs, Command_Templates.md.
"""

from __future__ import annotations

import json
from typing import Any

from printago_moonraker.log import printable
from printago_moonraker.printer.bucket import Bucket

METHOD = "printago_event"
MAX_BYTES = 2048  # of an event's own data, as JSON
BURST = 20  # events at once
RATE = 1.0  # events/s in the long run
MAX_NAME = 64


class MacroEvents:
    """One printer's macro events. `take` is given the call's parameters and a monotonic time in seconds."""

    def __init__(self) -> None:
        self._bucket = Bucket(BURST, RATE)

    def take(self, params: Any, now: float) -> tuple[dict[str, Any] | None, str]:
        """The `Message` event's payload, or None and the reason for the log (empty when it was said before)."""
        if not isinstance(params, dict) or not isinstance(params.get("event"), str) or not params["event"].strip():
            return None, 'a macro called printago_event without event="..."'
        if not self._bucket.take(now):
            first = self._bucket.dropped == 1
            return None, "a macro raises more events than are sent; the surplus is dropped" if first else ""
        payload: dict[str, Any] = {"name": printable(params["event"], MAX_NAME)}
        data = {str(name): value for name, value in params.items() if name != "event"}
        try:
            size = len(json.dumps(data, allow_nan=True))
        except (TypeError, ValueError, RecursionError):
            size = MAX_BYTES + 1
        payload |= {"data": data} if size <= MAX_BYTES else {"data": {}, "truncated": True}
        return payload | self._bucket.count(), ""
