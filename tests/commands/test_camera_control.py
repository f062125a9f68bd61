"""Single pictures, from a webcam over real HTTP to a real destination; and the webcams' list."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any

import pytest

from printago_moonraker.printer import camera, picture
from printago_moonraker.virtual.webcam import Mode, VirtualWebcam, make_picture
from tests.fakes.source import FakeSource, Reply
from tests.fakes.storage import Storage
from tests.fakes.studio import named, snapshot, studio


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds are long for a test."""
    monkeypatch.setattr(camera, "TIMEOUT", 1.0)


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


async def test_a_camera_with_a_login() -> None:
    """A user name and password in the owner's URL are used, and told to nobody."""
    async with studio(VirtualWebcam()) as it, FakeSource(Reply(body=make_picture(0))) as source:
        url = f"http://admin:hunter%402@127.0.0.1:{source.port}/snap.jpg"
        it.printer.webcams = (replace(it.printer.webcams[0], snapshot_url=url),)
        assert (await snapshot(it))[0] == "response"
        login = "Basic " + base64.b64encode(b"admin:hunter@2").decode()
        assert source.seen[0].headers["authorization"] == login.lower()  # the fake's headers are
        assert source.seen[0].path == "/snap.jpg"
        _, data = await it.run("camera_control.get_providers")
    assert "hunter" not in str(data)


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
    ("mode", "patience", "why"),
    [
        (Mode.DEAD, 60.0, "the connection broke"),
        (Mode.SILENT, 1.0, "within 1 s|stopped sending"),
        (Mode.SLOW, 1.0, "within 1 s"),
        (Mode.ENDLESS, 60.0, "more than 10240 KiB"),
        (Mode.CUT, 60.0, "broke|ended"),
    ],
)
async def test_a_broken_camera(
    mode: Mode, patience: float, why: str, stream_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a camera does, an answer comes, with the reason, and so does an event; who has seen enough waits for
    no time to be over.
    """
    monkeypatch.setattr(camera, "TIMEOUT", patience)
    async with studio(VirtualWebcam(mode), stream_only=stream_only) as it:
        kind, data = await snapshot(it)
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


@pytest.mark.usefixtures("impatient")
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
