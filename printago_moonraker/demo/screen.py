"""What a person sees of something that takes a minute: lines with their time, and live ones of who is at work."""

from __future__ import annotations

import os
import shutil
import time
from typing import TextIO

QUIET = 5.0  # s between two live lines of the same one where nothing can be overwritten: in a file or a CI log
BAR = 20  # characters
COLOURS = {"✓": "\x1b[32m", "✗": "\x1b[31m"}
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Screen:
    """A terminal, where live lines stay below all others, or anything else, where they are told now and then."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._tty = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colours = self._tty and "NO_COLOR" not in os.environ
        self._begun = time.monotonic()
        self._live: dict[str, str] = {}
        self._told: dict[str, float] = {}
        self._drawn = 0  # live lines on the terminal now

    def say(self, text: str, who: str = "", mark: str = " ") -> None:
        """A line that stays. `mark`: ✓, ✗ or nothing."""
        self._write(self._erase() + self._line(text, who, mark) + "\n" + self._draw())

    def say_plainly(self, text: str) -> None:
        """A line with nothing before it, to be copied."""
        self._write(self._erase() + text + "\n" + self._draw())

    def show(self, who: str, text: str) -> None:
        """Replace the live line of `who`."""
        if self._live.get(who) == text:
            return
        self._live[who] = text
        if self._tty:
            self._write(self._erase() + self._draw())
        elif time.monotonic() - self._told.setdefault(who, time.monotonic()) >= QUIET:
            self._told[who] = time.monotonic()
            self.say(text, who)

    def hide(self, who: str) -> None:
        """`who` is done: take its live line away."""
        if self._live.pop(who, None) is not None:
            self._write(self._erase() + self._draw())

    def _line(self, text: str, who: str, mark: str) -> str:
        seconds = f"{time.monotonic() - self._begun:6.1f} s"
        if self._colours:
            return f"{DIM}{seconds}{PLAIN}  {who:<9} {COLOURS.get(mark, '')}{mark}{PLAIN} {text}"
        return f"{seconds}  {who:<9} {mark} {text}"

    def _erase(self) -> str:
        drawn, self._drawn = self._drawn, 0
        return f"\x1b[{drawn}A\x1b[J" if drawn else ""

    def _draw(self) -> str:
        if not self._tty:
            return ""
        columns, lines = shutil.get_terminal_size()
        shown = sorted(self._live)[: lines - 1]  # what has scrolled away cannot be overwritten
        self._drawn = len(shown)
        return "".join(f"{' ' * 10}{who:<9}   {self._live[who]}"[: columns - 1] + "\n" for who in shown)

    def _write(self, text: str) -> None:
        encoding = self._out.encoding or "utf-8"
        self._out.write(text.encode(encoding, "replace").decode(encoding))
        self._out.flush()


def bar(percent: float | None) -> str:
    """`██████░░░░░░░░░░░░░░  31 %`"""
    done = min(100.0, max(0.0, percent or 0.0))
    full = int(BAR * done / 100)
    return f"{'█' * full}{'░' * (BAR - full)} {done:3.0f} %"
