"""What outlives a restart of the simulated Klippy: time, the machine itself, and the faults that a test has ordered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

AMBIENT = 25.0  # °C
COUNTERS = ("prints_started", "klippy_starts", "emergency_stops")


class Clock:
    """Printer time in seconds: the wall's, `factor` times as fast."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self._start = time.monotonic()

    def now(self) -> float:
        """Seconds of printer time since some moment in the past."""
        return self._start + (time.monotonic() - self._start) * self.factor

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds of printer time. Cancelling is safe."""
        await asyncio.sleep(max(0.0, seconds) / self.factor)


@dataclass
class Hold:
    """Something stands still: from now on, or from when a line of G-code that begins with `line` begins."""

    held: bool = False
    line: str = ""

    def reach(self, line: str) -> None:
        """That line of G-code begins."""
        if self.line and line.startswith(self.line):
            self.held, self.line = True, ""


@dataclass
class Faults:
    """What a test has ordered: taken into account where it would really happen."""

    config_error: str | None = None  # the text of Klipper's complaint at the next restart
    mcu_absent: bool = False
    answer_delay: float = 0.0  # seconds of wall time before each answer of the API socket
    flowing: asyncio.Event = field(default_factory=asyncio.Event)  # cleared: the API socket neither reads nor answers
    file: Hold = field(default_factory=Hold)  # a print goes no further than the line it is in
    motion: Hold = field(default_factory=Hold)  # whoever waits for motion to end goes on waiting

    def __post_init__(self) -> None:
        self.flowing.set()


@dataclass
class World:
    """The machine: one for the life of the process, whatever becomes of Klippy in it."""

    clock: Clock
    faults: Faults = field(default_factory=Faults)
    temperatures: dict[str, float] = field(default_factory=dict)  # heater's object name -> °C
    head: list[float] = field(default_factory=lambda: [57.5, 52.0, 8.0])  # mm from the endstops: the truth
    filament_present: bool = True
    mcu_shutdown: bool = False
    reset_will_fail: bool = False  # an emergency stop while in state error: the next reset of the MCU fails
    received: deque[str] = field(default_factory=lambda: deque(maxlen=20_000))
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    journal: Path | None = None  # where `note` appends: it tells the truth about a print after a kill, too

    def note(self, what: str, **facts: object) -> None:
        """Write down what happened to a print, with the wall clock's time: one JSON object a line."""
        if self.journal is not None:
            with self.journal.open("a") as file:
                file.write(json.dumps({"at": time.time(), "what": what, **facts}) + "\n")
