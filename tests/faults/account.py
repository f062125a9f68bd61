"""What really happened, what the agent said, and how many times the two disagree."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.recorder import Received, Recorder

GRACE = 2.0  # s past its expiry within which a start may still reach Klipper: it was on its way
SEEN = 0.1  # s that a success may be ahead of the journal's line: both are written at the same moment
TICK = 0.3  # s; Klipper's 250 ms, and some for the journal
ENDS = {"complete": "PrintDone", "cancelled": "PrintCancelled", "error": "PrintFailed", "broken": "PrintFailed"}
TOO_LATE = {"not_printing", "not_paused"}  # what is true of a print that ended by itself meanwhile
BAD = (
    "events lost", "events doubled", "events out of order", "ends told wrongly", "prints started twice",
    "prints started late", "answers missing", "answers doubled", "false successes", "partial files",
    "needless refusals", "agent's own exits", "growth", "runs cut short",
)  # fmt: skip


@dataclass
class Print:
    """One print as the printer knows it; `states` are (wall clock's time, state), the last one is its end, if any."""

    file: str
    states: list[tuple[float, str]]
    # Klipper stopped, and within the same tick of its status the print ended in yet another way: the last word that is
    # shown is then as true as the first.
    also: str = ""

    @property
    def started(self) -> float:
        return self.states[0][0]

    @property
    def ended(self) -> bool:
        return self.states[-1][1] in ENDS

    def was(self, states: set[str], since: float, until: float) -> bool:
        """Whether it was in one of the states at any moment between the two times."""
        after = [at for at, _ in self.states[1:]] + [float("inf")]
        return any(
            state in states and at <= until and end >= since
            for (at, state), end in zip(self.states, after, strict=True)
        )


class Truth:
    """The virtual printer's journal, which survives every kill."""

    def __init__(self, journal: Path) -> None:
        self.prints: list[Print] = []
        self.entries: list[tuple[float, str]] = []
        self._journal = journal
        self._offset = 0

    def read(self) -> None:
        """Take in what is new."""
        with self._journal.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._take(json.loads(line))

    def of(self, cycle: Cycle) -> list[Print]:
        """The prints of a cycle's file since it began, up to now."""
        self.read()
        return [each for each in self.prints if each.file == cycle.file and each.started >= cycle.begun]

    @property
    def running(self) -> Print | None:
        self.read()
        return self.prints[-1] if self.prints and not self.prints[-1].ended else None

    def _take(self, entry: dict[str, str | float]) -> None:
        at, what, file = float(entry["at"]), str(entry["what"]), str(entry.get("file", ""))
        self.entries.append((at, f"{what} {file or entry.get('text', '')}".strip()))
        last = self.prints[-1] if self.prints else None
        if last and last.states[-1][1] == "broken" and what in ENDS and at - last.states[-1][0] < TICK:
            last.also = what
        current = last if last and not last.ended else None
        if what == "started":
            self.prints.append(Print(file, [(at, "printing")]))
        elif current is None:
            return
        elif what in ("klippy", "shutdown"):
            current.states.append((at, "broken"))
        elif what in ENDS or what == "paused":
            current.states.append((at, what))
        elif what == "resumed":
            current.states.append((at, "printing"))


@dataclass
class Sent:
    """One command of the cloud, and when it was published, each time."""

    id: str
    action: str
    times: list[float]
    expires_at: float


@dataclass
class Cycle:
    """One print's story: what was sent, what was broken. `digests` are SHA-256 of what was ever to be had under the
    file's name, the last one is this cycle's. `delay` is how long the network held bytes back, in s.
    """

    number: int
    file: str
    job_id: str
    digests: list[str]
    begun: float
    sent: list[Sent] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    delay: float = 0.0
    killed: list[float] = field(default_factory=list)  # when Klipper was killed, by the wall clock
    log: list[tuple[float, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """`kind` is one of BAD."""

    kind: str
    text: str


@dataclass
class Account:
    """The sums over a whole run."""

    faults: dict[str, int] = field(default_factory=dict)
    prints: int = 0
    commands: int = 0
    events_expected: int = 0
    events_received: int = 0
    redelivered: int = 0
    problems: list[tuple[int, Problem]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, cycle: Cycle, judge: Judge) -> list[Problem]:
        """Close a cycle; its problems."""
        for fault in cycle.faults:
            self.faults[fault] = self.faults.get(fault, 0) + 1
        found = list(judge.problems(cycle))
        self.prints += len(judge.truth.of(cycle))
        self.commands += len(cycle.sent)
        self.events_expected += judge.expected_events
        self.events_received += judge.received_events
        self.problems += [(cycle.number, problem) for problem in found]
        return found

    def add_problem(self, kind: str, count: int, text: str) -> None:
        """One that no cycle is to blame for, `count` times."""
        self.problems += [(-1, Problem(kind, text))] * count

    def merge(self, whose: str, other: Account) -> None:
        """Add the sums of another run, its notes and problems marked as `whose`."""
        for fault, count in other.faults.items():
            self.faults[fault] = self.faults.get(fault, 0) + count
        for name in ("prints", "commands", "events_expected", "events_received", "redelivered"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.problems += [(number, Problem(each.kind, f"{whose} {each.text}")) for number, each in other.problems]
        self.notes += [f"{whose} {note}" for note in other.notes]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Account:
        """What `dataclasses.asdict` made of one."""
        problems = [(number, Problem(**each)) for number, each in data.pop("problems")]
        return cls(**data, problems=problems)

    def __str__(self) -> str:
        counts = {kind: sum(problem.kind == kind for _, problem in self.problems) for kind in BAD}
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        lines = [
            f"faults                   {sum(self.faults.values()):6}  ({faults})",
            f"prints                   {self.prints:6}",
            f"commands                 {self.commands:6}",
            f"events expected          {self.events_expected:6}",
            f"events received          {self.events_received:6}  (envelopes delivered again: {self.redelivered})",
            *(f"{kind:24} {count:6}{'  <--' if count else ''}" for kind, count in counts.items()),
            *self.notes,
            *(
                f"{'the run' if number < 0 else f'cycle {number}'}: {each.kind}: {each.text}"
                for number, each in self.problems
            ),
        ]
        return "\n".join(lines)


class Judge:
    """Compares a cycle's truth with what was received."""

    def __init__(self, truth: Truth, recorder: Recorder, folder: Path) -> None:
        self.truth = truth
        self.expected_events = self.received_events = 0
        self._recorder = recorder
        self._folder = folder

    def problems(self, cycle: Cycle) -> Iterator[Problem]:
        self.expected_events = self.received_events = 0
        yield from self._starts(cycle)
        yield from self._events(cycle)
        yield from self._transfers(cycle)
        for sent in cycle.sent:
            yield from self._answers(cycle, sent)
        yield from self._order(cycle)

    def unanswered(self, cycle: Cycle) -> list[Sent]:
        return [sent for sent in cycle.sent if not self._recorder.answers(sent.id)]

    def _starts(self, cycle: Cycle) -> Iterator[Problem]:
        prints, starts = self.truth.of(cycle), [sent for sent in cycle.sent if sent.action.startswith("start_print")]
        if len(prints) > len(starts):
            yield Problem("prints started twice", f"{len(prints)} prints of {cycle.file} for {len(starts)} commands")
        for each in prints:
            if starts and each.started > (late := starts[-1].expires_at + GRACE + cycle.delay):
                yield Problem("prints started late", f"{each.started - late:.1f} s after its expiry and the grace")

    def _events(self, cycle: Cycle) -> Iterator[Problem]:
        events = self._recorder.events(cycle.job_id)
        told = [each for each in events if each.event in ("PrintStarted", *ENDS.values())]
        prints = self.truth.of(cycle)
        wanted = [name for each in prints for name in ("PrintStarted", ENDS.get(each.states[-1][1], "no end"))]
        self.expected_events += len(wanted)
        self.received_events += len(told)
        starts = [each for each in told if each.event == "PrintStarted"]
        ends = [each for each in told if each.event != "PrintStarted"]
        for name, got in (("PrintStarted", starts), ("its end", ends)):
            count, said = len(got), ", ".join(f"{each.event} {each.said}" for each in got)
            for _ in range(len(prints) - count):
                yield Problem("events lost", f"{name} of {cycle.job_id}; there are: {said or 'none'}")
            for _ in range(count - len(prints)):
                yield Problem("events doubled", f"{name} of {cycle.job_id} for {len(prints)} prints: {said}")
        allowed = {*wanted, *(ENDS[each.also] for each in prints if each.also)}
        # A cancel that Klipper took with it before its next status was seen by nobody, Moonraker included.
        unseen = [
            at - each.states[-1][0] for each in prints for at in cycle.killed if each.states[-1][1] == "cancelled"
        ]
        if any(0 <= late < TICK for late in unseen):
            allowed.add(ENDS["broken"])
        for each in ends:
            if len(ends) == len(prints) and each.event not in allowed:
                yield Problem("ends told wrongly", f"{each.event} ({each.envelope['data'].get('reason')}) for {wanted}")

    def _transfers(self, cycle: Cycle) -> Iterator[Problem]:
        done = [each for each in self._recorder.events(cycle.job_id) if each.event == "TransferDone"]
        fetching = ("download_gcode", "start_print_bbl")
        fetched = [sent for sent in cycle.sent if sent.action in fetching and self._said(sent, "success")]
        self.expected_events += len(fetched)
        self.received_events += min(len(done), len(fetched))  # of one that did not succeed, the file may be whole
        if len(done) < len(fetched):
            yield Problem("events lost", f"TransferDone of {cycle.job_id}: {len(done)} for {len(fetched)} successes")
        path = self._folder / cycle.file
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
        whole = digest == cycle.digests[-1]
        if path.exists() and digest not in cycle.digests:
            yield Problem("partial files", f"{cycle.file} has {path.stat().st_size} bytes of something else")
        if fetched and not whole:
            yield Problem(
                "false successes", f"{fetched[-1].action} of {cycle.file}: the file is not there, or not whole"
            )

    def _answers(self, cycle: Cycle, sent: Sent) -> Iterator[Problem]:
        answers = self._recorder.answers(sent.id)
        contents = {json.dumps([each.envelope["type"], each.envelope["data"]], sort_keys=True) for each in answers}
        if not answers:
            yield Problem("answers missing", f"{sent.action} {sent.id}")
        elif len(contents) > 1:
            yield Problem("answers doubled", f"{sent.action} {sent.id}: {' and '.join(sorted(contents))}")
        elif len(answers) > len(sent.times) + len(cycle.faults):
            yield Problem(
                "answers doubled", f"{sent.action} {sent.id}: {len(answers)} for {len(sent.times)} deliveries"
            )
        for answer in answers:
            if answer.envelope["type"] == "success" and not self._is_true(cycle, sent, answer):
                text = f"{sent.action} {sent.id}: {answer.said} {json.dumps(answer.envelope['data'])}"
                yield Problem("false successes", text)
            late = answer.envelope["data"].get("code") in TOO_LATE and self._had_ended(cycle, answer)
            if not cycle.faults and answer.envelope["type"] != "success" and not late:
                yield Problem("needless refusals", f"{sent.action}: {json.dumps(answer.envelope['data'])}")

    def _is_true(self, cycle: Cycle, sent: Sent, answer: Received) -> bool:
        since, until = sent.times[0], datetime.fromisoformat(answer.said).timestamp() + SEEN
        prints = self.truth.of(cycle)
        if sent.action.startswith("start_print"):
            return any(each.started <= until for each in prints)
        wanted = {"pause_print": {"paused"}, "resume_print": {"printing"}, "stop_print": set(ENDS)}.get(sent.action)
        return wanted is None or any(each.was(wanted, since, until) for each in prints)

    def _had_ended(self, cycle: Cycle, answer: Received) -> bool:
        until = datetime.fromisoformat(answer.said).timestamp() + SEEN
        return any(each.ended and each.states[-1][0] <= until for each in self.truth.of(cycle))

    def _order(self, cycle: Cycle) -> Iterator[Problem]:
        stored = [each for each in self._recorder.received if each.envelope["type"] in ("event", "success", "error")]
        for one, other in itertools.pairwise(stored):
            if other.at >= cycle.begun and other.said < one.said:
                yield Problem("events out of order", f"{_name(other)} {other.said} after {_name(one)} {one.said}")

    def _said(self, sent: Sent, kind: str) -> bool:
        return any(each.envelope["type"] == kind for each in self._recorder.answers(sent.id))


def _name(received: Received) -> str:
    return received.event or f"{received.envelope['type']} {received.answers}"
