"""Ninety days in a minute: the agent, whole, between a printer and a broker that exist only in simulated time.

Everything that would wait for another process answers here from memory: Moonraker's connection, the MQTT session, the
database's thread. The agent's own code is all there is between them.
"""

from __future__ import annotations

import asyncio
import copy
import json
import sqlite3
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.fakes.klipper import STATUS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.simulated.edges import MoonrakerLink, MqttLink


ENDS = ("PrintDone", "PrintFailed", "PrintCancelled")
STEPS = 20  # pushes of progress in a print
TICK = 0.25  # s
LIFETIME = 300.0  # s that a command is wanted


@dataclass(eq=False)
class Job:
    """One print as the printer knows it. `seen`: the agent was shown it while it was on."""

    file: str
    began: float  # by the wall's clock
    seen: bool = False
    end: str = ""


@dataclass
class Process:
    """One life of the agent: what it still does after its death reaches nobody."""

    alive: bool = True


class World:
    """Printer, Moonraker, broker and disk. All random decisions are `rng`'s."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.process = Process()
        self.disk = sqlite3.connect(":memory:", isolation_level=None)
        self.moonraker_up = self.klippy_up = self.broker_up = True
        self.connections: set[MoonrakerLink] = set()
        self.sessions: set[MqttLink] = set()
        self.status: dict[str, dict[str, Any]] = copy.deepcopy(STATUS)
        self.history: deque[dict[str, Any]] = deque(maxlen=50)
        self.job: Job | None = None
        self.jobs = 0
        self.wall: Callable[[], float] = time.time
        self.late: list[str] = []
        self._expiries: dict[str, float] = {}
        self.told: Counter[tuple[str, bool]] = Counter()  # by file, and whether it was the end
        self.wrong_ends: list[str] = []
        self.open: dict[str, Job] = {}  # prints whose end has not been told
        self.answers = 0
        self.commands = 0
        self.drops: Counter[str] = Counter()
        self.waiting: deque[bytes] = deque()  # commands that the broker keeps while the agent is away
        self.evidence: list[str] = []  # what led to the first thing that was told twice
        self._recent: deque[int] = deque(maxlen=2000)
        self._trace: deque[str] = deque(maxlen=60)

    # ------------------------------------------------------------------------------------------------ the printer

    def note(self, text: str) -> None:
        """For the evidence."""
        self._trace.append(f"{asyncio.get_running_loop().time():12.3f} {text}")

    def push(self, **delta: dict[str, Any]) -> None:
        """Klipper's status changes, and whoever listens is told."""
        if self.job is not None:
            delta.setdefault("print_stats", {})["total_duration"] = self.wall() - self.job.began
        for name, fields in delta.items():
            self.status[name].update(fields)
        if self.klippy_up and self.moonraker_up:
            self.notify("notify_status_update", delta, 1.0)

    def notify(self, method: str, *params: Any) -> None:
        for connection in list(self.connections):
            connection.notify(method, list(params))

    def begin(self, file: str) -> None:
        self.jobs += 1
        self._replace()
        self.note(f"begins {file}")
        if self.wall() > self._expiries.pop(file, float("inf")) + TICK:
            self.late.append(file)
        self.job = self.open[file] = Job(file, self.wall())
        if self.moonraker_up:
            entry = {"job_id": f"{self.jobs:06X}", "filename": file, "status": "in_progress", "start_time": self.wall()}
            self.history.appendleft({**entry, "total_duration": 0.0})
            self.notify("notify_history_changed", {"action": "added", "job": dict(self.history[0])})
        self.push(print_stats={"state": "printing", "filename": file, "total_duration": 0.0, "message": ""},
            virtual_sdcard={"progress": 0.0, "is_active": True, "file_size": 1000})  # fmt: skip

    def end(self, status: str) -> None:
        """`completed`, `cancelled`, `error`, or what becomes of a print when Klipper goes."""
        job, self.job = self.job, None
        if job is None:
            return
        self.note(f"ends {job.file}: {status}, seen: {job.seen}")
        job.end = {"completed": "PrintDone", "cancelled": "PrintCancelled"}.get(status, "PrintFailed")
        if not job.seen:
            self.open.pop(job.file, None)
        self.close_history(status, job.file)
        state = {"completed": "complete", "cancelled": "cancelled"}.get(status, "error")
        if self.klippy_up:
            self.push(print_stats={"state": state, "message": "" if state != "error" else "Move out of range"})

    def _replace(self) -> None:
        """A print that is on when another one begins is over: Moonraker calls it cancelled."""
        if self.job is not None:
            self.note(f"replaced: {self.job.file}, seen: {self.job.seen}")
            self.job.end = "PrintCancelled"
            if not self.job.seen:
                self.open.pop(self.job.file, None)
            self.close_history("cancelled", self.job.file)

    def close_history(self, status: str, file: str) -> None:
        newest = self.history[0] if self.moonraker_up and self.history else {}
        if newest.get("filename") == file and newest["status"] == "in_progress":
            newest["status"] = status
            self.notify("notify_history_changed", {"action": "finished", "job": dict(newest)})

    def klippy_dies(self) -> None:
        self.note("Klipper dies")
        self.klippy_up = False
        self.notify("notify_klippy_disconnected")
        self.end("klippy_disconnect")
        self.status = copy.deepcopy(STATUS)

    def klippy_comes(self) -> None:
        self.note("Klipper is back")
        self.klippy_up = True
        for connection in self.connections:
            connection.subscribed = False
        self.notify("notify_klippy_ready")

    def moonraker_dies(self) -> None:
        self.note("Moonraker dies")
        if self.job is not None:
            self.close_history("server_exit", self.job.file)
        self.moonraker_up = False
        self.drop_moonraker()

    def drop_moonraker(self) -> None:
        self.note("the link to Moonraker drops")
        for connection in list(self.connections):
            connection.lose()

    # -------------------------------------------------------------------------------------------------- the cloud

    def drop_mqtt(self) -> None:
        self.note("the link to Printago drops")
        for session in list(self.sessions):
            session.lose()

    def command(self, action: str, **parameters: Any) -> None:
        """It is worth something for five minutes, and the broker keeps it longer than that."""
        self.commands += 1
        expires_at = datetime.fromtimestamp(self.wall() + LIFETIME, UTC)
        if action == "start_print":
            self._expiries[parameters["file_name"]] = self.wall() + LIFETIME
        command = {
            "type": "printer_control", "action": action, "parameters": parameters, "id": f"c-{self.commands}",
            "expires_at": expires_at.isoformat(),
        }  # fmt: skip
        self.waiting.append(json.dumps(command).encode())
        self.deliver()

    def deliver(self) -> None:
        for session in self.sessions:
            while self.waiting and session.lost is None:
                session.give(self.waiting.popleft())

    def receive(self, topic: str, payload: bytes) -> None:
        """The broker has taken an envelope; the same one again is no other one."""
        if topic.endswith(("/status", "/availability")):
            return
        if (digest := hash(payload)) in self._recent:
            return
        self._recent.append(digest)
        envelope = json.loads(payload)
        if envelope["type"] in ("event", "success", "error"):
            what = envelope["data"].get("event") or json.dumps(envelope["data"])[:150]
            about = " ".join(str(envelope["data"].get(member, "")) for member in ("path", "reason"))
            self.note(f"  {envelope['timestamp']} {what} {about}")
        self.answers += "command" in envelope
        event = envelope["data"].get("event")
        if event == "PrintStarted" or event in ENDS:
            self._print_told(envelope["data"]["path"], event)

    def _print_told(self, file: str, event: str) -> None:
        self.told[file, event in ENDS] += 1
        self.note(f"told {event} of {file}")
        if self.told[file, event in ENDS] > 1 and not self.evidence:
            self.evidence = list(self._trace)
        job = self.open.get(file)
        if event in ENDS and job is not None:
            if event != job.end:
                self.wrong_ends.append(f"{file}: {event}, not {job.end or 'yet'}")
                self.evidence = self.evidence or list(self._trace)
            del self.open[file]
