"""Each link broken in the middle of the work, the agent stopped and killed: what is told, and what goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import pytest

from tests.e2e.farm import LOOK, PRINT_EVENTS, Farm, is_event, moves

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


LAST_LINE = "M117 the end"


async def start(farm: Farm, name: str, job_id: str, lines: int = 60) -> None:
    """A print of which a bit is done."""
    await farm.store(name, moves(lines, tail=f"{LAST_LINE}\n"))
    await farm.done("printer_control.start_print", file_name=name, job_id=job_id)
    await farm.completion(2)


async def over(farm: Farm) -> None:
    """Until Klipper has run the file's last line, whoever else is there to see it."""
    async with asyncio.timeout(20):
        while LAST_LINE not in await farm.received():  # noqa: ASYNC110 - Klipper cannot call us
            await asyncio.sleep(LOOK)


async def test_moonraker_dies_in_a_print_and_comes_back(farm: Farm) -> None:
    """Klipper prints on without Moonraker: when it is back the print has neither begun anew nor ended."""
    await start(farm, "moonraker.gcode", "job-1", lines=70)
    await farm.printer.kill_moonraker()
    await farm.event("Disconnected")
    assert (await farm.status())["printer_state_id"] == "OFFLINE"
    await farm.printer.start_moonraker()
    await farm.event("Connected", timeout=30)
    back = await farm.status()
    assert back["printer_state_id"] == "PRINTING"
    assert back["klipper"]["job"] == {"job_id": "job-1", "source": "printago"}
    await farm.event("PrintDone", timeout=30)
    assert farm.prints() == ["PrintStarted", "PrintDone"]
    assert {each["job_id"] for each in farm.events(*PRINT_EVENTS)} == {"job-1"}


async def test_a_print_ends_while_moonraker_is_gone(farm: Farm) -> None:
    """A print that ended unseen has its one end as soon as the agent sees the printer again."""
    await start(farm, "unseen.gcode", "job-2", lines=15)
    await farm.printer.stop_moonraker()
    await farm.event("Disconnected")
    await over(farm)
    await farm.printer.start_moonraker()
    data = await farm.event("PrintDone", timeout=30)  # the back-off has grown meanwhile
    assert data["job_id"] == "job-2"
    await farm.status()
    assert farm.prints() == ["PrintStarted", "PrintDone"]


async def test_the_broker_goes_in_a_print_and_comes_back(farm: Farm) -> None:
    """The printer is watched while Printago is away: what happened meanwhile is told afterwards, in order, once."""
    await start(farm, "broker.gcode", "job-3", lines=15)
    await farm.broker.stop(kill=True)
    await over(farm)
    await farm.broker.start()
    await farm.connect_cloud()
    await farm.event("PrintDone", timeout=20)
    await farm.wait_for(lambda envelope: envelope["type"] == "pairing")
    status = await farm.status()
    assert status["printer_state_id"] == "OPERATIONAL"
    assert farm.prints() == ["PrintDone"]
    event = next(envelope for envelope in farm.envelopes if is_event(envelope, "PrintDone"))
    asked = next(envelope for envelope in farm.envelopes if envelope["type"] == "status")
    assert event["timestamp"] < asked["timestamp"]
    await farm.done("temperature_control.set_bed", temperature=40)
    assert (farm.cloud.availability, (await farm.query("heater_bed"))["target"]) == ("connected", 40.0)


async def test_a_command_sent_while_the_agent_was_cut_off(farm: Farm) -> None:
    """The broker keeps a command for an agent that is gone for a moment: it is carried out once it is back."""
    assert await farm.end_agent(signal.SIGKILL) == -signal.SIGKILL
    command = {"type": "temperature_control", "action": "set_bed", "parameters": {"temperature": 45}, "id": "late"}
    await farm.cloud.send_raw(json.dumps(command).encode())
    assert await farm.received() == []
    await farm.start_agent()
    answer = await farm.wait_for(lambda envelope: envelope.get("command", {}).get("id") == "late")
    # It may come before the printer is in sight: then it is refused, but never lost.
    if answer["type"] == "error":
        assert answer["data"]["code"] in ("printer_offline", "printer_not_ready")
    else:
        assert (await farm.query("heater_bed"))["target"] == 45.0
    lines = [line for line in await farm.received() if "HEATER=heater_bed" in line]
    assert len(lines) == (answer["type"] == "success")


async def test_sigterm(farm: Farm) -> None:
    """Told to stop, the agent says so and goes: exit 0 within 3 s, no print harmed, nothing left half said."""
    await start(farm, "sigterm.gcode", "job-4", lines=400)
    begun = time.monotonic()
    assert await farm.end_agent(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 3.0
    await farm.event("Shutdown")
    await farm.cloud.wait_available("disconnected")
    assert farm.envelopes[-1]["data"] == {"event": "Shutdown"}
    assert farm.prints() == ["PrintStarted"]
    assert (await farm.query("print_stats"))["state"] == "printing"


async def test_sigterm_answers_what_is_under_way(farm: Farm) -> None:
    """A command that the stopping agent cuts short is answered, and Klipper is left to finish it."""
    home = asyncio.create_task(farm.do("movement_control.home"))
    await farm.status_until(lambda s: s["klipper"]["homed_axes"])
    assert await farm.end_agent(signal.SIGTERM) == 0
    answer = await home
    assert (answer["type"], answer["data"]["code"]) == ("error", "cancelled")
    await farm.event("Shutdown")


async def test_kill_9(farm: Farm) -> None:
    """Of an agent that is killed the broker itself says `disconnected`, and the next one tells no print twice."""
    await farm.end_agent()
    await farm.start_agent("protocol: 3.1.1")  # whose will is not delayed by 10 s, as MQTT 5's is
    await start(farm, "kill.gcode", "job-5", lines=30)
    assert farm.cloud.availability == "connected"
    assert await farm.end_agent(signal.SIGKILL) == -signal.SIGKILL
    await farm.cloud.wait_available("disconnected")
    await farm.start_agent()
    await farm.cloud.wait_available("connected")
    assert (await farm.status())["printer_state_id"] == "PRINTING"
    await farm.event("PrintDone", timeout=30)
    assert farm.prints() == ["PrintStarted", "PrintDone"]
