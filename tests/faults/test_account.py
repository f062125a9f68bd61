"""The judge itself: each kind of problem is seen when it is there, and none when all is well."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.account import Cycle, Judge, Sent, Truth
from tests.faults.agent import Sample, growth
from tests.faults.recorder import Received, Recorder

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"G28\n"
FILE = "Printago/a.gcode"


class Scene:
    """A print of ten seconds from second 1000 on, as it should be told; the tests spoil it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recorder = Recorder(1, "v1")
        self.journal: list[dict[str, Any]] = [
            {"at": 1001.0, "what": "started", "file": FILE},
            {"at": 1004.0, "what": "paused", "file": FILE},
            {"at": 1006.0, "what": "resumed", "file": FILE},
            {"at": 1010.0, "what": "complete", "file": FILE},
        ]
        digest = hashlib.sha256(CONTENT).hexdigest()
        self.cycle = Cycle(1, FILE, "job-1", [digest], 999.0, faults=["agent.kill"])
        self.cycle.sent += [
            Sent("1-0", "download_gcode", [999.5], 1060.0),
            Sent("1-1", "start_print", [1000.0], 1004.0),
            Sent("1-2", "pause_print", [1003.0], 1060.0),
        ]
        self.told: list[Received] = [
            told(1000.0, "event", {"event": "TransferDone", "job_id": "job-1"}),
            told(1000.1, "success", {"message": "whole"}, "1-0"),
            told(1001.2, "event", {"event": "PrintStarted", "job_id": "job-1"}),
            told(1001.3, "success", {"message": "started"}, "1-1"),
            told(1004.2, "success", {"message": "paused"}, "1-2"),
            told(1010.2, "event", {"event": "PrintDone", "job_id": "job-1"}),
        ]
        self.content = CONTENT

    def problems(self) -> list[str]:
        """Their kinds."""
        (self.folder / "Printago").mkdir()
        (self.folder / FILE).write_bytes(self.content)
        journal = self.folder / "journal.jsonl"
        journal.write_text("".join(json.dumps(entry) + "\n" for entry in self.journal))
        self.recorder.received += self.told
        return [problem.kind for problem in Judge(Truth(journal), self.recorder, self.folder).problems(self.cycle)]


def told(at: float, kind: str, data: dict[str, Any], answers: str | None = None) -> Received:
    said = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    envelope: dict[str, Any] = {"type": kind, "timestamp": said, "data": data}
    return Received(at, {**envelope, "command": {"id": answers}} if answers else envelope)


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_print_as_it_should_be_has_no_problem(scene: Scene) -> None:
    """What is told of an undisturbed print is not complained about."""
    assert scene.problems() == []


@pytest.mark.parametrize("number", [0, 2, 5])
async def test_an_event_that_is_missing_is_lost(scene: Scene, number: int) -> None:
    """The end of a transfer, the start and the end of a print are each missed."""
    del scene.told[number]
    assert scene.problems() == ["events lost"]


async def test_a_second_end_is_a_double(scene: Scene) -> None:
    """A print has one end, whatever the second one is called."""
    scene.told.append(told(1011.0, "event", {"event": "PrintFailed", "job_id": "job-1"}))
    assert scene.problems() == ["events doubled"]


async def test_an_end_of_another_kind_is_told_wrongly(scene: Scene) -> None:
    """A print that was completed did not fail."""
    scene.told[5] = told(1010.2, "event", {"event": "PrintFailed", "job_id": "job-1"})
    assert scene.problems() == ["ends told wrongly"]


async def test_events_in_another_order_are_seen(scene: Scene) -> None:
    """What was said earlier has to arrive earlier."""
    scene.told[2], scene.told[3] = scene.told[3], scene.told[2]
    assert scene.problems() == ["events out of order"]


async def test_a_second_print_for_one_command_is_seen(scene: Scene) -> None:
    """One start_print starts one print; the second one's events are missed too."""
    scene.journal += [{"at": 1020.0, "what": "started", "file": FILE}, {"at": 1030.0, "what": "complete", "file": FILE}]
    assert "prints started twice" in scene.problems()


async def test_a_print_that_starts_after_its_expiry_is_late(scene: Scene) -> None:
    """The grace is two seconds."""
    scene.cycle.sent[1].expires_at = 998.0
    assert scene.problems() == ["prints started late"]


async def test_a_command_without_an_answer_is_seen(scene: Scene) -> None:
    """Every command has an answer."""
    del scene.told[4]
    assert scene.problems() == ["answers missing"]


async def test_two_different_answers_are_a_double(scene: Scene) -> None:
    """The stored answer may come again, another one may not."""
    scene.told.append(told(1011.0, "error", {"error": "busy", "code": "busy"}, "1-1"))
    assert scene.problems() == ["answers doubled"]


async def test_a_success_before_the_printer_has_done_it_is_false(scene: Scene) -> None:
    """The print pauses only after it was said to have paused."""
    scene.journal[1]["at"] = 1005.0
    assert scene.problems() == ["false successes"]


async def test_half_a_file_under_its_name_is_seen(scene: Scene) -> None:
    """A download that was successful left the file that was announced, and never a part of one."""
    scene.content = CONTENT[:2]
    assert scene.problems() == ["partial files", "false successes"]


async def test_a_refusal_without_any_fault_is_needless(scene: Scene) -> None:
    """Where nothing was broken everything has to work."""
    scene.cycle.faults.clear()
    scene.told[4] = told(1004.2, "error", {"error": "no", "code": "internal"}, "1-2")
    assert scene.problems() == ["needless refusals"]


async def test_a_killed_klippy_ends_the_print(scene: Scene) -> None:
    """The journal has no last word of a print whose Klipper was killed: the next start is its end."""
    scene.journal[3] = {"at": 1010.0, "what": "klippy"}
    scene.told[5] = told(1010.2, "event", {"event": "PrintFailed", "job_id": "job-1"})
    assert scene.problems() == []


def test_growth_is_the_slope_of_the_longest_life() -> None:
    """10 kB a cycle are 10 kB a cycle, whatever shorter lives had."""
    samples = [Sample(1, 90_000, 50)] * 3 + [Sample(2, 40_000 + 10 * n, 12) for n in range(60)]
    found = growth(samples)
    assert found is not None
    assert found == pytest.approx((10.0, 0.0))
    assert growth(samples[:50]) is None


def test_what_fills_caches_is_no_growth() -> None:
    """A life that grows at its beginning and is flat then does not grow."""
    assert growth([Sample(1, 40_000 + 50 * min(n, 20), 12) for n in range(60)]) == (0.0, 0.0)


async def test_a_refusal_of_what_ended_by_itself_is_not_needless(scene: Scene) -> None:
    """No fault was needed for a pause to come after the print's last line."""
    scene.cycle.faults.clear()
    scene.told[-2] = told(1010.2, "error", {"error": "too late", "code": "not_printing"}, "1-2")
    scene.journal = [entry for entry in scene.journal if entry["what"] not in ("paused", "resumed")]
    assert scene.problems() == []
