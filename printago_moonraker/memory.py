"""Keeps the process small: glibc's allocator is tuned for servers, and an agent lives on a small host for months.

Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_ARENA_MAX: Final = -8  # its number in malloc.h
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2


def stay_small() -> None:
    """Call it first: one arena for all threads (Python's lock lets them allocate one after the other anyway), and what
    is free at the heap's end goes back to the system in small pieces. Without glibc it does nothing.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in ((_ARENA_MAX, 1), (_TRIM_THRESHOLD, 64 * 1024), (_TOP_PAD, 16 * 1024)):
            libc.mallopt(parameter, value)
