"""When a status goes out unasked, and what is in it, against what Klipper shows."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from printago_moonraker.demo.stage import SAMPLE
from printago_moonraker.printago.endpoint import Message, endpoint_for
from printago_moonraker.printago.mqtt import connect
from tests.e2e.farm import PRINTER_ID, Farm, Options, is_event, moves

if TYPE_CHECKING:
    from printago_moonraker.cloud import Envelope

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

FARM = Options(extras=("heater_generic chamber", "fan_generic filter", "neopixel case"))
COALESCED = 1.9  # s; 2 s by the contract, as seen by clocks with milliseconds


def unasked(farm: Farm) -> list[Envelope]:
    """The statuses that answer no command."""
    return [each for each in farm.envelopes if each["type"] == "status" and "command" not in each]


def at(envelope: Envelope) -> float:
    return datetime.fromisoformat(envelope["timestamp"]).timestamp()


async def start(farm: Farm, name: str, gcode: str) -> None:
    await farm.store(name, gcode)
    await farm.done("printer_control.start_print", file_name=name)


async def test_cadence_while_printing(farm: Farm) -> None:
    """While it prints a status goes out every 2 s, not more often, and each shows more of the print."""
    await start(farm, "cadence.gcode", moves(90))
    await farm.event("PrintDone", timeout=30)
    statuses = unasked(farm)
    same = [
        at(later) - at(earlier)
        for earlier, later in pairwise(statuses)
        if earlier["data"]["printer_state_id"] == later["data"]["printer_state_id"] == "PRINTING"
    ]
    assert len(same) >= 3, statuses
    assert all(COALESCED <= gap < 3.0 for gap in same), same
    printing = [each["data"]["current_state_data"]["progress"] for each in statuses if each["data"]["klipper"]["job"]]
    percents = [each["completion"] for each in printing if each["completion"] is not None]
    assert percents == sorted(percents)
    assert len(set(percents)) >= 4
    positions = [each["filepos"] for each in printing if each["filepos"] is not None]
    assert positions == sorted(positions)


async def test_a_change_of_state_goes_out_at_once(farm: Farm) -> None:
    """Each change of state has its status within a tick of the event that tells it, whatever the cadence."""
    await start(farm, "state.gcode", moves(400))
    await farm.done("printer_control.pause_print")
    await farm.done("printer_control.resume_print")
    await farm.done("printer_control.stop_print")
    await farm.status()
    changes = [each for each in farm.envelopes if is_event(each, "PrinterStateChanged")]
    assert {"STARTING", "PRINTING", "PAUSED", "OPERATIONAL"} <= {each["data"]["state_id"] for each in changes}
    for change, following in pairwise([*changes, None]):
        assert change is not None
        end = at(following) if following else float("inf")
        state = change["data"]["state_id"]
        shown = [at(each) for each in unasked(farm) if each["data"]["printer_state_id"] == state]
        # One that the next change overtakes while the broker takes the one before is not sent: only the newest waits.
        assert any(-0.05 <= moment - at(change) < 0.1 for moment in shown) or end - at(change) < 0.1, (change, shown)


async def test_a_target_that_a_person_sets_is_told(farm: Farm) -> None:
    """What changes at the printer comes unasked, as soon as a heating printer is told of, be it idle before."""
    await farm.gcode("M140 S60")
    begun = time.monotonic()
    first = await farm.wait_for(lambda e: e["type"] == "status" and e["data"]["temperatures"]["bed"]["target"] == 60.0)
    assert "command" not in first
    assert time.monotonic() - begun < 2.5


async def test_the_slicers_own_progress_comes_first(farm: Farm) -> None:
    """A file that says how far it is (M73) is believed rather than its position."""
    await start(farm, "m73.gcode", moves(15) + "M73 P70\n" + moves(400, head=""))
    status = await farm.status_until(lambda s: (s["current_state_data"]["progress"]["completion"] or 0.0) > 20.0)
    assert status["current_state_data"]["progress"]["completion"] == pytest.approx(70.0)


async def test_what_the_printer_has(farm: Farm) -> None:
    """Everything that the printer shows is in the status with its value."""
    await farm.warm()
    await farm.gcode("M106 S127.5\nSET_FAN_SPEED FAN=filter SPEED=0.25\nSET_PIN PIN=caselight VALUE=0.5")
    await farm.gcode("SET_LED LED=case RED=1 GREEN=0.5 BLUE=0 WHITE=0\nM220 S150\nM221 S90\nM117 hello")
    await farm.gcode("SET_HEATER_TEMPERATURE HEATER=chamber TARGET=40\nG90\nG1 X50 Y60 Z7 F6000\nM400")
    status = await farm.status_until(
        lambda s: s["klipper"]["display_message"] == "hello" and s["klipper"]["position"]["x"] == 50.0
    )
    klipper = status["klipper"]
    assert (klipper["state"], klipper["homed_axes"]) == ("ready", "xyz")
    assert klipper["position"] == {"x": 50.0, "y": 60.0, "z": 7.0, "e": klipper["position"]["e"]}
    assert status["current_state_data"]["currentZ"] == 7.0
    assert (klipper["speed_factor"], klipper["extrude_factor"]) == (1.5, 0.9)
    assert klipper["fans"]["filter"]["speed"] == 0.25
    assert klipper["fans"]["fan"]["speed"] == pytest.approx(0.5, abs=0.01)
    assert klipper["lights"]["case"]["color"][:2] == [1.0, 0.5]
    assert klipper["lights"]["caselight"]["brightness"] == 0.5
    assert klipper["filament_sensors"] == {"runout": {"enabled": True, "filament_detected": True}}
    assert status["temperatures"]["chamber"]["target"] == 40.0
    assert klipper["can"] == {
        "print": True, "pause": False, "resume": False, "stop": False, "move": True, "extrude": True, "home": True
    }  # fmt: skip
    assert klipper["host"]["memory"]["total"] > 0


async def test_objects_of_a_print(farm: Farm) -> None:
    """The objects that the slicer has defined are named, and which one is excluded."""
    head = "EXCLUDE_OBJECT_DEFINE NAME=a CENTER=10,10\nEXCLUDE_OBJECT_DEFINE NAME=b CENTER=50,50\nG28\nG90\nG1 Z10\n"
    await start(farm, "objects.gcode", moves(400, head=head))
    await farm.gcode("EXCLUDE_OBJECT NAME=a")
    status = await farm.status_until(lambda s: s["klipper"]["objects"]["excluded"])
    assert status["klipper"]["objects"]["names"] == ["A", "B"]
    assert status["klipper"]["objects"]["excluded"] == ["A"]


@pytest.mark.shows("printer_control.get_status")
async def test_the_thumbnail_of_a_print(farm: Farm) -> None:
    """The slicer's picture comes with the first status of the job and with get_status; all others only name it."""
    await start(farm, "50 % #1.gcode", SAMPLE.read_text())
    seen = await farm.wait_for(lambda each: each["type"] == "status" and _image_of(each))
    picture = Image.open(io.BytesIO(base64.b64decode(_image_of(seen))))
    thumbnail = seen["data"]["klipper"]["thumbnail"]
    assert (picture.size, picture.format) == ((300, 300), "PNG")
    assert (thumbnail["width"], thumbnail["height"], thumbnail["content_type"]) == (300, 300, "image/png")
    assert thumbnail["path"] == "Printago/.thumbs/50 % #1-300x300.png"
    count = len(unasked(farm))
    await farm.wait_for(lambda _: len(unasked(farm)) >= count + 2)
    told = [each for each in unasked(farm) if each["data"]["klipper"]["thumbnail"]]
    assert [bool(_image_of(each)) for each in told].count(True) == 1
    assert (await farm.status())["klipper"]["thumbnail"]["image"] == _image_of(seen)


def _image_of(envelope: Envelope) -> str:
    image: str = (envelope["data"]["klipper"]["thumbnail"] or {}).get("image", "")
    return image


async def test_only_status_and_availability_are_retained(farm: Farm) -> None:
    """Who comes later learns how the printer stands, and mistakes no old answer or event for news."""
    await farm.done("temperature_control.set_bed", temperature=30)
    retained: dict[str, bytes] = {}
    asked = asyncio.Event()

    def on_message(message: Message) -> None:
        message.ack()
        if message.retain:
            retained[message.topic] = message.payload
        else:
            asked.set()

    endpoint = replace(endpoint_for(farm.settings().mqtt, PRINTER_ID), client_id="late", session_expiry=0)
    async with connect(endpoint, subscriptions=["#"], on_message=on_message):
        await farm.status()  # is behind all that the broker remembers
        async with asyncio.timeout(5):
            await asked.wait()
    assert set(retained) == {f"printago/{PRINTER_ID}/status", f"printago/{PRINTER_ID}/availability"}
    assert retained[f"printago/{PRINTER_ID}/availability"] == b"connected"


async def test_pairing_says_what_the_printer_is(farm: Farm) -> None:
    """Once the printer is known, Printago is told what it is and which commands it takes."""
    pairings: list[dict[str, Any]] = [each["data"] for each in farm.cloud.envelopes if each["type"] == "pairing"]
    printer = pairings[-1]["printer"]
    assert pairings[-1]["outcome"] == "paired"
    assert printer["kinematics"] == "cartesian"
    assert {"printer_control.start_print", "movement_control.home"} <= set(printer["commands"])
