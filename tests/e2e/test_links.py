"""Each link broken in the middle of the work, the agent stopped and killed: what is told, and what goes on."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from tests.e2e.farm import LAST_LINE, PRINT_EVENTS, Farm, is_event, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


async def test_moonraker_dies_in_a_print_and_comes_back(farm: Farm) -> None:
    """Klipper prints on without Moonraker: when it is back the print has neither begun anew nor ended."""
    await farm.begin("moonraker.gcode", job_id="job-1")
    await farm.printer.kill_moonraker()
    await farm.event("Disconnected")
    assert (await farm.status())["printer_state_id"] == "OFFLINE"
    await farm.printer.start_moonraker()
    await farm.event("Connected", timeout=30)
    back = await farm.status()
    assert back["printer_state_id"] == "PRINTING"
    assert back["klipper"]["job"] == {"job_id": "job-1", "source": "printago"}
    await farm.release()
    await farm.event("PrintDone", timeout=30)
    await farm.settled()
    assert farm.prints() == ["PrintStarted", "PrintDone"]
    assert {each["job_id"] for each in farm.events(*PRINT_EVENTS)} == {"job-1"}


async def test_a_print_ends_while_moonraker_is_gone(farm: Farm) -> None:
    """A print that ended unseen has its one end as soon as the agent sees the printer again."""
    await farm.begin("unseen.gcode", job_id="job-2")
    await farm.printer.stop_moonraker()
    await farm.event("Disconnected")
    await farm.release()
    await farm.reached(LAST_LINE)
    await farm.printer.start_moonraker()
    data = await farm.event("PrintDone", timeout=30)  # the back-off has grown meanwhile
    assert data["job_id"] == "job-2"
    await farm.settled()
    assert farm.prints() == ["PrintStarted", "PrintDone"]


async def test_the_broker_goes_in_a_print_and_comes_back(farm: Farm) -> None:
    """The printer is watched while Printago is away: what happened meanwhile is told afterwards, in order, once."""
    await farm.begin("broker.gcode", job_id="job-3")
    await farm.broker.stop(kill=True)
    await farm.release()
    await until(lambda: "PrintDone" in farm.stored_events(), timeout=30)
    await farm.restart_broker()
    await farm.event("PrintDone", timeout=20)
    await farm.wait_for(lambda envelope: envelope["type"] == "pairing")
    status = await farm.status()
    assert status["printer_state_id"] == "OPERATIONAL"
    await farm.settled()
    assert farm.prints() == ["PrintDone"]
    event = next(envelope for envelope in farm.envelopes if is_event(envelope, "PrintDone"))
    asked = next(envelope for envelope in farm.envelopes if envelope["type"] == "status")
    assert event["timestamp"] < asked["timestamp"]
    await farm.done("temperature_control.set_bed", temperature=40)
    await farm.cloud.wait_available("connected")
    assert (await farm.query("heater_bed"))["target"] == 40.0


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
    """Told to stop, the agent says so and goes with exit 0, not waiting for a print, none harmed, nothing half said."""
    await farm.begin("sigterm.gcode", job_id="job-4")
    assert await farm.end_agent(signal.SIGTERM) == 0
    await farm.event("Shutdown")
    await farm.cloud.wait_available("disconnected")
    assert farm.envelopes[-1]["data"] == {"event": "Shutdown"}
    assert farm.prints() == ["PrintStarted"]
    assert (await farm.query("print_stats"))["state"] == "printing"


async def test_sigterm_answers_what_is_under_way(farm: Farm) -> None:
    """A command that the stopping agent cuts short is answered, and Klipper is left to finish it."""
    await farm.hold("motion", "G28")
    home = asyncio.create_task(farm.do("movement_control.home"))
    await farm.status_until(lambda s: s["klipper"]["homed_axes"])
    assert await farm.end_agent(signal.SIGTERM) == 0
    answer = await home
    assert (answer["type"], answer["data"]["code"]) == ("error", "cancelled")
    await farm.event("Shutdown")
    assert (await farm.query("toolhead"))["homed_axes"] == "x", "it is in the middle of it"
    await farm.release()
    await farm.gcode("M400")  # behind it
    assert (await farm.query("toolhead"))["homed_axes"] == "xyz"
    assert await farm.received() == ["G28", "M400"]


async def test_kill_9(farm: Farm) -> None:
    """Of an agent that is killed the broker itself says `disconnected`, and the next one tells no print twice."""
    await farm.end_agent()
    await farm.start_agent("protocol: 3.1.1")  # whose will is not delayed by 10 s, as MQTT 5's is
    await farm.begin("kill.gcode", job_id="job-5")
    await farm.cloud.wait_available("connected")
    assert await farm.end_agent(signal.SIGKILL) == -signal.SIGKILL
    await farm.cloud.wait_available("disconnected")
    await farm.start_agent()
    await farm.cloud.wait_available("connected")
    assert (await farm.status())["printer_state_id"] == "PRINTING"
    await farm.release()
    await farm.event("PrintDone", timeout=30)
    await farm.settled()
    assert farm.prints() == ["PrintStarted", "PrintDone"]
