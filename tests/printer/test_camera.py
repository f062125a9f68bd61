"""Pictures and streams, from a webcam over real HTTP to a real destination."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from printago_moonraker.config import CameraSection
from printago_moonraker.moonraker.webcams import Webcam
from printago_moonraker.printer import camera, picture
from printago_moonraker.virtual.webcam import Mode, VirtualWebcam, make_picture
from tests.fakes.klipper import Bench, bench
from tests.fakes.storage import Answer, Storage

NOWHERE = Path("/nonexistent")  # no test here writes anything


@asynccontextmanager
async def studio(webcam: VirtualWebcam, *, stream_only: bool = False, **changes: Any) -> AsyncIterator[Bench]:
    """A printer with one webcam, `front`, whose streams may be fast."""
    async with bench(NOWHERE, connected=False) as it, webcam:
        snapshot_url = "" if stream_only else webcam.snapshot_url
        front = Webcam("front", True, "mjpegstreamer", snapshot_url, webcam.stream_url)
        it.printer.webcams = (replace(front, **changes),)
        it.printer.settings = replace(it.printer.settings, camera=CameraSection(30.0, 0.02))
        try:
            yield it
        finally:
            await it.run("camera_control.stream_off", {"camera_name": "front"})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds are long for a test."""
    monkeypatch.setattr(camera, "TIMEOUT", 1.0)


def named(it: Bench, name: str) -> list[dict[str, Any]]:
    return [payload for event, payload in it.emitted if event == name]


async def snapshot(it: Bench, **parameters: Any) -> tuple[str, dict[str, Any]]:
    return await it.run("camera_control.snapshot", {"camera_name": "front", **parameters})


async def stream(it: Bench, **parameters: Any) -> tuple[str, dict[str, Any]]:
    return await it.run("camera_control.stream_on", {"camera_name": "front", "interval": 0.02, **parameters})


# ---- one picture


@pytest.mark.parametrize("stream_only", [False, True])
@pytest.mark.parametrize("lengths", [False, True])
async def test_inline(stream_only: bool, lengths: bool) -> None:
    """The camera's own bytes come back in the answer; without a snapshot URL, the first frame of its stream."""
    async with studio(VirtualWebcam(lengths=lengths), stream_only=stream_only) as it:
        kind, data = await snapshot(it, camera_provider_id="moonraker", destination="inline")
    assert kind == "response"
    assert base64.b64decode(data.pop("image")) == make_picture(0)
    assert data == {"camera": "front", "content_type": "image/jpeg", "width": 320, "height": 240}
    size = len(make_picture(0))
    assert named(it, "CaptureDone") == [{"camera": "front", "width": 320, "height": 240, "size": size}]


async def test_a_snapshot_url_that_is_a_stream() -> None:
    """A camera set up with its stream's URL twice gives a picture all the same."""
    webcam = VirtualWebcam()
    async with studio(webcam) as it:
        (front,) = it.printer.webcams
        it.printer.webcams = (replace(front, snapshot_url=webcam.stream_url),)
        assert (await snapshot(it))[0] == "response"


async def test_turned() -> None:
    """A picture comes as the webcam is configured; its size is the turned one's."""
    async with studio(VirtualWebcam(), rotation=90, flip_vertical=True) as it:
        _, data = await snapshot(it)
    expected = picture.turned(picture.read(make_picture(0)), rotation=90, flip_horizontal=False, flip_vertical=True)
    assert (data["width"], data["height"]) == (240, 320)
    assert base64.b64decode(data["image"]) == expected.content


async def test_to_a_url() -> None:
    """The picture is put there as it is, and the answer says what was sent, not where."""
    async with studio(VirtualWebcam()) as it, Storage() as storage:
        kind, data = await snapshot(it, destination="url", destination_url=storage.url)
        await snapshot(it, destination_url=storage.url, method="POST")
    assert [(put.method, put.body) for put in storage.puts] == [("PUT", make_picture(0)), ("POST", make_picture(1))]
    assert kind == "success"
    assert data == {
        "message": "Snapshot command issued successfully.",
        "camera": "front",
        "content_type": "image/jpeg",
        "width": 320,
        "height": 240,
        "size": len(make_picture(0)),
    }


@pytest.mark.parametrize("stream_only", [False, True])
@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (Mode.DEAD, "the connection broke"),
        (Mode.SILENT, "within 1 s|stopped sending"),
        (Mode.SLOW, "within 1 s"),
        (Mode.ENDLESS, "more than 10240 KiB"),
        (Mode.CUT, "broke|ended"),
    ],
)
async def test_a_broken_camera(mode: Mode, why: str, stream_only: bool) -> None:
    """Whatever a camera does, the answer comes in time, with the reason, and so does an event."""
    async with studio(VirtualWebcam(mode), stream_only=stream_only) as it:
        begun = time.monotonic()
        kind, data = await snapshot(it)
        assert time.monotonic() - begun < 4
        assert (kind, data["code"]) == ("error", "camera_unavailable")
        assert re.search(why, data["error"])
        assert named(it, "CaptureFailed") == [
            {"camera": "front", "reason": data["error"], "code": "camera_unavailable"}
        ]


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (Mode.GONE, "The camera front answered 404 Not Found."),
        (Mode.TEXT, "The camera front sent what is of no use: no JPEG."),
        (Mode.HUGE, "The camera front sent more than 10240 KiB without a whole picture."),
        (Mode.STALE, "The camera front is stale: its picture is 3600 s old."),
        (Mode.UNPLUGGED, "The camera front is not plugged in: its server shows a stand-in picture."),
    ],
)
async def test_an_answer_that_is_no_picture(mode: Mode, why: str) -> None:
    """It is not taken for one."""
    async with studio(VirtualWebcam(mode)) as it:
        assert await snapshot(it) == ("error", {"error": why, "code": "camera_unavailable"})


@pytest.mark.parametrize(
    ("changes", "parameters", "code", "words"),
    [
        ({}, {"camera_name": "back"}, "camera_not_found", "no camera back; Moonraker knows: front"),
        ({}, {"camera_provider_id": "webcam_pi"}, "camera_not_found", "it is moonraker"),
        ({"enabled": False}, {}, "camera_unavailable", "switched off in Moonraker"),
        ({"snapshot_url": "", "service": "webrtc-mediamtx"}, {}, "camera_unavailable", "neither a snapshot URL"),
        ({"snapshot_url": "http://127.0.0.1:1/"}, {}, "camera_unavailable", "cannot be reached"),
        ({"snapshot_url": "http://no-such-host.invalid/"}, {}, "camera_unavailable", "cannot be"),
        ({}, {"destination": "url"}, "invalid_parameters", "destination_url is missing"),
        ({}, {"destination": "ftp"}, "invalid_parameters", "is not one of url, inline"),
        ({}, {"method": "DELETE"}, "invalid_parameters", "is not one of PUT, POST"),
        ({}, {"destination_url": "https://10.0.0.1/x?s3cr3t"}, "forbidden_url", "private network"),
        ({}, {"destination_url": "file:///etc/passwd"}, "forbidden_url", "Only https"),
    ],
)
async def test_refused(changes: dict[str, Any], parameters: dict[str, Any], code: str, words: str) -> None:
    """What cannot be has its code and a sentence."""
    async with studio(VirtualWebcam(), **changes) as it:
        kind, data = await snapshot(it, **parameters)
    assert (kind, data["code"]) == ("error", code)
    assert words in data["error"]
    assert "s3cr3t" not in data["error"]


async def test_a_camera_without_a_printer() -> None:
    """Without Moonraker no camera is known; with one, Klipper need not be there."""
    async with studio(VirtualWebcam()) as it:
        assert (await snapshot(it))[0] == "response"
        it.printer.webcams = ()
        kind, data = await snapshot(it)
        assert (kind, data["error"]) == ("error", "There is no camera front; Moonraker knows: none.")


async def test_too_large_for_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that a broker may refuse is not put into an answer."""
    monkeypatch.setattr("printago_moonraker.commands.camera_control._MAX_INLINE", 100)
    async with studio(VirtualWebcam()) as it:
        kind, data = await snapshot(it)
    assert (kind, data["code"]) == ("error", "destination_failed")
    assert "give it a destination_url" in data["error"]


async def test_not_too_many_at_once() -> None:
    """Pictures cost memory: the ninth that is asked for at a time is refused."""
    async with studio(VirtualWebcam(Mode.SILENT)) as it:
        for _ in range(camera.MAX_CAPTURES + 1):
            it.send("camera_control.snapshot", {"camera_name": "front"})
        assert (await it.answered())[1]["code"] == "overloaded"
        await it.answered(camera.MAX_CAPTURES + 1)
        assert [data["code"] for _, data, _ in it.answers[1:]] == ["camera_unavailable"] * camera.MAX_CAPTURES
        assert (await it.run("camera_control.get_providers"))[0] == "response"


async def test_providers() -> None:
    """In the plugin's shape."""
    async with studio(VirtualWebcam()) as it:
        kind, data = await it.run("camera_control.get_providers")
    assert kind == "response"
    assert data.keys() == {"moonraker"}
    assert data["moonraker"]["provider_info"] == {"id": "moonraker", "name": "Moonraker"}
    assert data["moonraker"]["webcams"] == [webcam.describe() for webcam in it.printer.webcams]


# ---- streams


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
        seen = webcam.requests
        while webcam.requests < seen + 4:
            await asyncio.sleep(0.01)
        webcam.mode = Mode.GOOD
        count = len(it.frames)
        await it.until(lambda: len(it.frames) >= count + 2)
        assert [event["code"] for event in named(it, "CaptureFailed")] == ["camera_unavailable"]


async def test_an_expired_url_ends_it() -> None:
    """What the storage refuses once it refuses for ever: it is not asked twice a second for five minutes."""
    async with studio(VirtualWebcam()) as it, Storage(Answer(), Answer(), Answer(403)) as storage:
        await stream(it, destination_url=storage.url)
        await storage.until(3)
        while not named(it, "CaptureFailed"):
            await asyncio.sleep(0.01)
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
