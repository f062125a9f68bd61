"""Ports of the loopback for what is started in a moment: nobody else takes them between the choice and the start."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import cache
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Below 32768, from where on Linux gives ports to outgoing connections, so that no connection can come by one of them.
FIRST, SLICES, SIZE = 20_000, 120, 100
ADDRESS = "127.0.0.1"


def free_port() -> int:
    """A port on which nobody listens, of those that only this process hands out. Raises OSError when none is left."""
    for _ in range(SIZE):
        port = next(_ports())
        with suppress(OSError):
            check(port)
            return port
    raise OSError(f"no port is free from {port - SIZE + 1} on")


def check(port: int) -> None:
    """Raises OSError when somebody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((ADDRESS, port))


@cache
def _ports() -> Iterator[int]:
    """This process's ports, round and round: one handed out is not handed out again soon."""
    wanted = (os.getpid() + number for number in range(SLICES))
    first = FIRST + next((each % SLICES for each in wanted if _claim(each % SLICES)), os.getpid() % SLICES) * SIZE
    return cycle(range(first, first + SIZE))


def _claim(number: int) -> bool:
    """Take a slice of the ports for as long as this process lives, by a name that Linux frees at its end."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0printago-moonraker-ports-{number}")
    except OSError:
        claim.close()
        return False
    claim.detach()  # stays open
    return True
