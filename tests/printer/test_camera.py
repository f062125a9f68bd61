"""Streams, from a webcam over real HTTP to a real destination, or to the camera's topic."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from printago_moonraker.config import CameraSection
from printago_moonraker.printer import camera
from printago_moonraker.virtual.webcam import Mode, VirtualWebcam, make_picture
from tests.fakes.storage import Answer, Storage
from tests.fakes.studio import named, stream, studio


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds are long for a test."""
    monkeypatch.setattr(camera, "TIMEOUT", 1.0)


async def test_stream_to_the_topic() -> None:
    """Raw JPEGs, one after the other, until it is switched off."""
    async with studio(VirtualWebcam()) as it:
        assert await stream(it, max_duration=20) == (
            "success",
            {
                "message": "Stream on command issued successfully.",
                "camera": "front",
                "interval": 0.02,
                "max_duration": 20.0,
            },
        )
        assert it.frames[0] == ("front", make_picture(0))
        await it.until(lambda: len(it.frames) >= 4)
        assert [jpeg for _, jpeg in it.frames[:4]] == [make_picture(number) for number in range(4)]
        assert (await it.run("camera_control.stream_off", {"camera_name": "front"}))[1].get("already") is None
        count = len(it.frames)
        await asyncio.sleep(0.1)
        assert len(it.frames) == count
        assert (await it.run("camera_control.stream_off", {"camera_name": "front"}))[1]["already"] is True


async def test_stream_to_a_url() -> None:
    """Each frame is put to the same URL."""
    async with studio(VirtualWebcam()) as it, Storage() as storage:
        assert (await stream(it, destination_url=storage.url))[0] == "success"
        await storage.until(4)
        assert storage.puts[0].body == make_picture(0)
        assert len({put.body for put in storage.puts}) >= 4
        assert it.frames == []


async def test_a_slow_upload_skips_frames() -> None:
    """While a frame is on its way no other is taken, let alone queued; then comes one of now."""
    async with studio(webcam := VirtualWebcam()) as it, Storage() as storage:
        assert (await stream(it, destination_url=storage.url, interval=0.05))[0] == "success"
        storage.gate.clear()
        await storage.until(len(storage.puts) + 1)
        requests = webcam.requests
        await asyncio.sleep(0.4)  # eight intervals
        assert webcam.requests == requests
        storage.gate.set()
        begun = time.monotonic()
        await storage.until(len(storage.puts) + 3)
        assert time.monotonic() - begun > 0.1  # at the old pace, nothing to be made up for
        assert storage.most_at_once == 1


async def test_the_second_replaces_the_first() -> None:
    """One stream a camera."""
    async with studio(VirtualWebcam()) as it, Storage() as storage:
        await stream(it)
        assert (await stream(it, destination_url=storage.url))[0] == "success"
        count = len(it.frames)
        await storage.until(3)
        assert len(it.frames) == count


async def test_it_ends_by_itself() -> None:
    """After max_duration, which the configuration caps."""
    async with studio(webcam := VirtualWebcam()) as it:
        it.printer.settings = replace(it.printer.settings, camera=CameraSection(0.3, 0.1))
        assert (await stream(it, max_duration=5000))[1]["max_duration"] == 0.3
        assert (await stream(it))[1]["interval"] == 0.1
        await asyncio.sleep(0.5)
        requests = webcam.requests
        assert 2 <= requests <= 6
        await asyncio.sleep(0.3)
        assert webcam.requests == requests
        assert (await it.run("camera_control.stream_off", {"camera_name": "front"}))[1]["already"] is True


async def test_no_stream_from_a_dead_camera() -> None:
    """Success is a first picture delivered; without one there is no stream."""
    async with studio(webcam := VirtualWebcam(Mode.GONE)) as it:
        kind, data = await stream(it)
        assert (kind, data["code"]) == ("error", "camera_unavailable")
        assert (await it.run("camera_control.stream_off", {"camera_name": "front"}))[1]["already"] is True
        assert webcam.requests == 1


async def test_a_camera_that_comes_and_goes() -> None:
    """A stream outlives its camera's absence, which is told once."""
    async with studio(webcam := VirtualWebcam()) as it:
        await stream(it)
        webcam.mode = Mode.GONE
        await webcam.asked(webcam.requests + 4)
        webcam.mode = Mode.GOOD
        count = len(it.frames)
        await it.until(lambda: len(it.frames) >= count + 2)
        assert [event["code"] for event in named(it, "CaptureFailed")] == ["camera_unavailable"]


async def test_an_expired_url_ends_it() -> None:
    """What the storage refuses once it refuses for ever: it is not asked twice a second for five minutes."""
    async with studio(VirtualWebcam()) as it, Storage(Answer(), Answer(), Answer(403)) as storage:
        await stream(it, destination_url=storage.url)
        await storage.until(3)
        await it.until(lambda: named(it, "CaptureFailed"))
        assert (await it.run("camera_control.stream_off", {"camera_name": "front"}))[1]["already"] is True
        assert len(storage.puts) == 3
        assert named(it, "CaptureFailed")[0]["code"] == "destination_failed"


async def test_a_storage_in_trouble_costs_frames_only() -> None:
    """A 5xx is not tried again with an old frame; the next one may get through."""
    async with studio(VirtualWebcam()) as it, Storage(Answer(), Answer(503), Answer()) as storage:
        await stream(it, destination_url=storage.url)
        await storage.until(4)
        bodies = [put.body for put in storage.puts[:4]]
        assert len(set(bodies)) == 4


async def test_stopped_before_its_first_picture() -> None:
    """A stream_off that comes while the camera is slow ends the stream_on, with a word."""
    async with studio(VirtualWebcam(Mode.SILENT)) as it:
        it.send("camera_control.stream_on", {"camera_name": "front"}, id="on")
        it.send("camera_control.stream_off", {"camera_name": "front"}, id="off")
        await it.answered(2)
        answers = {command["id"]: (kind, data) for kind, data, command in it.answers}
    assert answers["off"][0] == "success"
    assert "already" not in answers["off"][1]
    assert answers["on"][1]["code"] == "cancelled"


async def test_stream_refusals() -> None:
    """A camera that is not there, a URL that is not allowed: no stream, and the old one goes on."""
    async with studio(VirtualWebcam()) as it:
        await stream(it)
        assert (await stream(it, destination_url="https://10.0.0.1/"))[1]["code"] == "forbidden_url"
        assert (await stream(it, camera_name="back"))[1]["code"] == "camera_not_found"
        assert (await stream(it, interval=0))[1]["code"] == "invalid_parameters"
        assert (await stream(it, max_duration="soon"))[1]["code"] == "invalid_parameters"
        count = len(it.frames)
        await it.until(lambda: len(it.frames) > count)
