"""The agent is killed at the wrong moment: nothing happens twice, nothing late, and no end of a print is lost."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.farm import ENDS, HALF, MIDDLE, PRINT_EVENTS, moves, until

if TYPE_CHECKING:
    from tests.e2e.farm import Farm

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

JOB = "job-1"


async def kill(farm: Farm) -> None:
    assert await farm.end_agent(signal.SIGKILL) == -signal.SIGKILL


def told(farm: Farm) -> list[tuple[str, str | None]]:
    """The print events with their `job_id`; one that was sent again after a kill is the same event."""
    events: dict[tuple[str, str], tuple[int, str | None]] = {}
    for number, envelope in enumerate(farm.cloud.envelopes):
        data = envelope["data"]
        if envelope["type"] == "event" and data["event"] in PRINT_EVENTS:
            events.setdefault((envelope["timestamp"], data["event"]), (number, data["job_id"]))
    return [(event, job_id) for (_, event), (number, job_id) in events.items() if number >= farm.mark]


async def completed(farm: Farm) -> None:
    """Until Klipper has ended the print, the agent being away."""
    async with asyncio.timeout(20):
        while (await farm.query("print_stats"))["state"] != "complete":  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.1)


async def ended(farm: Farm, count: int = 1) -> None:
    await until(lambda: sum(event in ENDS for event, _ in told(farm)) >= count, 30)
    await farm.settled()


async def started(farm: Farm) -> int:
    count: int = (await farm.printer.control("counters"))["prints_started"]
    return count


def answers(farm: Farm, id: str) -> list[tuple[str, Any]]:  # noqa: A002 - the member's name
    return [
        (envelope["type"], envelope["data"].get("code"))
        for envelope in farm.envelopes
        if envelope.get("command", {}).get("id") == id
    ]


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.2])
async def test_a_start_is_never_repeated(farm: Farm, delay: float) -> None:
    """Killed right after the command was sent: it is answered, printed at most once, and its copy changes nothing."""
    farm.put("start.gcode", moves(5))
    before = await started(farm)
    command = {"type": "printer_control", "action": "start_print", "id": f"start-{delay}"}
    payload = json.dumps({**command, "parameters": {"file_name": "start.gcode", "job_id": JOB}}).encode()
    await farm.cloud.send_raw(payload)
    await asyncio.sleep(delay)
    await kill(farm)
    await farm.start_agent()
    await until(lambda: answers(farm, command["id"]), 20)
    kind, code = answers(farm, command["id"])[0]
    assert (kind, code) in [("success", None), ("error", "interrupted")]
    await farm.status_until(lambda status: status["printer_state_id"] == "OPERATIONAL")
    number = await started(farm) - before
    assert number == 1 or (number == 0 and kind == "error")
    await ended(farm, number)
    assert told(farm) == [("PrintStarted", JOB), ("PrintDone", JOB)] * number
    count = len(answers(farm, command["id"]))
    await farm.cloud.send_raw(payload)
    await until(lambda: len(answers(farm, command["id"])) > count)
    assert set(answers(farm, command["id"])) == {(kind, code)}
    assert await started(farm) - before == number


async def test_a_print_goes_on_without_the_agent(farm: Farm) -> None:
    """Killed in the middle: no second start, the name is kept, and the end comes once."""
    await farm.begin("on.gcode", job_id=JOB)
    await kill(farm)
    await farm.start_agent()
    assert (await farm.status())["klipper"]["job"] == {"job_id": JOB, "source": "printago"}
    await farm.release()
    await ended(farm)
    assert told(farm) == [("PrintStarted", JOB), ("PrintDone", JOB)]


async def test_a_print_ends_while_the_agent_is_away(farm: Farm) -> None:
    """Its end is told when the agent is back, whether Klipper still shows it or only the history knows."""
    for restart in (False, True):
        farm.mark = len(farm.cloud.envelopes)
        await farm.begin("away.gcode", job_id=JOB)
        await kill(farm)
        await farm.release()
        await completed(farm)
        if restart:
            await farm.printer.kill_klippy()
            await farm.printer.restart_klippy()
        await farm.start_agent()
        await ended(farm)
        assert told(farm) == [("PrintStarted", JOB), ("PrintDone", JOB)]


async def test_klipper_dies_while_the_agent_is_away(farm: Farm) -> None:
    """The print has failed, and the reason is the history's."""
    await farm.begin("dies.gcode", job_id=JOB)
    await kill(farm)
    await farm.printer.kill_klippy()
    await farm.printer.restart_klippy()
    await farm.start_agent()
    await ended(farm)
    assert told(farm) == [("PrintStarted", JOB), ("PrintFailed", JOB)]
    assert farm.events("PrintFailed")[0]["reason"] == "klippy_disconnect"


async def test_a_print_begins_while_the_agent_is_away(farm: Farm) -> None:
    """Nobody has told of it yet: its start is told when it is seen, and it is nobody's of the cloud's."""
    path = farm.put("local.gcode", HALF)
    await kill(farm)
    await farm.hold("file", MIDDLE)
    await farm.printer.moonraker("printer.print.start", filename=path)
    await farm.start_agent()
    await farm.event("PrintStarted")
    await farm.release()
    await ended(farm)
    assert told(farm) == [("PrintStarted", None), ("PrintDone", None)]
    assert farm.events("PrintDone")[0]["source"] == "local"


async def test_what_was_said_without_a_broker_survives_the_agent(farm: Farm) -> None:
    """Broker gone, a whole print, the agent killed, both back: every event arrives, in order, with its own time."""
    path = farm.put("dark.gcode", moves(3))
    await farm.broker.stop(kill=True)
    await farm.printer.moonraker("printer.print.start", filename=path)
    await until(lambda: "PrintDone" in farm.stored_events(), 30)
    await kill(farm)
    await farm.restart_broker()
    await farm.start_agent()
    await ended(farm)
    assert told(farm) == [("PrintStarted", None), ("PrintDone", None)]
    times = [envelope["timestamp"] for envelope in farm.envelopes if envelope["type"] == "event"]
    assert times == sorted(times)
