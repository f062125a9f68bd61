"""What the service manager wants to hear: sd_notify(3), without its library. Elsewhere than under systemd, nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket

logger = logging.getLogger(__name__)

_SHARE = 3  # so many signs of life in each watchdog interval; sd_watchdog_enabled(3) advises two


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1` or `STATUS=2 printers`, in one datagram; never waits, never raises.

    Without NOTIFY_SOCKET it does nothing.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as connection:
        connection.setblocking(False)
        try:
            connection.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            logger.debug("systemd does not hear %s: %s", assignments, error)


async def watchdog() -> None:
    """Show that the event loop turns, as often as the unit's WatchdogSec= asks for; returns at once when it does not.

    Else it never returns. Cancelling is safe.
    """
    interval = _interval()
    while interval:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval / _SHARE)


def _interval() -> float:
    """Seconds, 0 without a watchdog. WATCHDOG_PID guards against a parent's watchdog that was inherited."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() else 0.0
