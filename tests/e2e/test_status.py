"""When a status goes out unasked, and what is in it, against what Klipper shows."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from printago_moonraker.demo.stage import SAMPLE
from printago_moonraker.printago.endpoint import Message, endpoint_for
from printago_moonraker.printago.mqtt import connect
from tests.e2e.farm import PRINTER_ID, Farm, Options, moves, source
from tests.fakes.source import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from printago_moonraker.cloud import Envelope

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

FARM = Options(extras=("heater_generic chamber", "fan_generic filter", "neopixel case"))


def unasked(farm: Farm) -> list[Envelope]:
    """The statuses that answer no command."""
    return [each for each in farm.envelopes if each["type"] == "status" and "command" not in each]


async def start(farm: Farm, name: str, gcode: str) -> None:
    await farm.store(name, gcode)
    await farm.done("printer_control.start_print", file_name=name)


async def shown(farm: Farm, holds: Callable[[dict[str, Any]], object], start: int) -> Envelope:
    """The first status that goes out unasked, from envelope number `start` on, whose data are so."""
    return await farm.cloud.wait_for(
        lambda each: each["type"] == "status" and "command" not in each and holds(each["data"]), 15.0, start=start
    )


async def test_statuses_come_by_themselves_while_printing(farm: Farm) -> None:
    """While it prints statuses come unasked, each showing more of the print. How often: tests/test_reporter.py."""
    quarters = [f"M117 quarter {number}" for number in range(1, 4)]
    await farm.store("quarters.gcode", "".join(moves(10, tail=f"{line}\n") for line in quarters) + moves(10))
    await farm.hold("file", quarters[0])
    await farm.done("printer_control.start_print", file_name="quarters.gcode")
    for line, following in pairwise([*quarters, None]):
        assert line is not None
        message = line.removeprefix("M117 ")
        await shown(farm, lambda data, text=message: data["klipper"]["display_message"] == text, farm.mark)  # type: ignore[misc]
        await (farm.hold("file", following) if following else farm.release())
    await farm.event("PrintDone", timeout=30)
    printing = [
        each["data"]["current_state_data"]["progress"] for each in unasked(farm) if each["data"]["klipper"]["job"]
    ]
    percents = [each["completion"] for each in printing if each["completion"] is not None]
    assert percents == sorted(percents)
    assert len(set(percents)) >= len(quarters)
    positions = [each["filepos"] for each in printing if each["filepos"] is not None]
    assert positions == sorted(positions)
    assert len(set(positions)) >= len(quarters)


async def test_a_change_of_state_goes_out_at_once(farm: Farm) -> None:
    """Each change of state has its status although, by the cadence, none is due for an hour."""
    await farm.end_agent()
    await farm.start_agent("[status]\nprinting_interval: 3600\nidle_interval: 3600\nheartbeat: 3600\n")
    await farm.store("state.gcode", moves(400))
    await farm.settled()
    for action, *states in (
        ("start_print", "STARTING", "PRINTING"),
        ("pause_print", "PAUSED"),
        ("resume_print", "PRINTING"),
        ("stop_print", "OPERATIONAL"),
    ):
        start = len(farm.cloud.envelopes)
        parameters = {"file_name": "state.gcode"} if action == "start_print" else {}
        await farm.done(f"printer_control.{action}", **parameters)
        for state in states:
            await shown(farm, lambda data, state=state: data["printer_state_id"] == state, start)  # type: ignore[misc]
    await farm.settled()
    told = [each["state_id"] for each in farm.events("PrinterStateChanged")]
    lasting = [state for state in told if state in ("STARTING", "PRINTING", "PAUSED", "OPERATIONAL")]
    assert lasting[-5:] == ["STARTING", "PRINTING", "PAUSED", "PRINTING", "OPERATIONAL"]


async def test_a_target_that_a_person_sets_is_told(farm: Farm) -> None:
    """What changes at the printer comes unasked, also when a heating printer is told of already."""
    for target in (50, 60):
        await farm.gcode(f"M140 S{target}")
        await shown(farm, lambda data, target=target: data["temperatures"]["bed"]["target"] == target, farm.mark)  # type: ignore[misc]


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
    async with source(Reply(body=SAMPLE.read_bytes())) as (_, url):
        await farm.done("printer_control.download_gcode", url=url, file_name="50 % #1.gcode")
    await farm.event("FileAdded")  # Moonraker's word of the file comes late: of one that changes all is read anew
    await farm.hold("file", "G1")
    await farm.done("printer_control.start_print", file_name="50 % #1.gcode")
    seen = await farm.wait_for(lambda each: each["type"] == "status" and _image_of(each))
    picture = Image.open(io.BytesIO(base64.b64decode(_image_of(seen))))
    thumbnail = seen["data"]["klipper"]["thumbnail"]
    assert (picture.size, picture.format) == ((300, 300), "PNG")
    assert (thumbnail["width"], thumbnail["height"], thumbnail["content_type"]) == (300, 300, "image/png")
    assert thumbnail["path"] == "Printago/.thumbs/50 % #1-300x300.png"
    for message in ("one", "two"):
        await farm.gcode(f"M117 {message}")
        await shown(farm, lambda data, text=message: data["klipper"]["display_message"] == text, farm.mark)  # type: ignore[misc]
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
