"""Cameras through the real Moonraker: four that are turned, one dead, one that only streams; a real storage."""

from __future__ import annotations

import asyncio
import base64
import io
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from PIL import Image

from printago_moonraker.virtual.webcam import BLOCK, CORNERS, Mode, VirtualWebcam, make_picture
from tests.e2e import farm as parts
from tests.e2e.farm import PRINTER_ID, Farm, Options
from tests.fakes.storage import Answer, Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

SIZE = (96, 64)
VIEWS: dict[str, dict[str, Any]] = {
    "upright": {},
    "right": {"rotation": 90},
    "upside_down": {"rotation": 180},
    "left": {"rotation": 270},
    "mirrored": {"flip_horizontal": True},
    "flipped": {"flip_vertical": True},
    "right_mirrored": {"rotation": 90, "flip_horizontal": True},
}
TOPIC = f"printago/{PRINTER_ID}/camera"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webcams() -> AsyncIterator[dict[str, VirtualWebcam]]:
    """A server for each: their pictures begin at number 0 each."""
    async with AsyncExitStack() as stack:
        cameras = {name: VirtualWebcam(size=SIZE) for name in (*VIEWS, "stream_only", "big")}
        cameras["big"] = VirtualWebcam(size=(2560, 1440))
        cameras["dead"] = VirtualWebcam(Mode.DEAD)
        for camera in cameras.values():
            await stack.enter_async_context(camera)
        yield cameras


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_farm(
    webcams: dict[str, VirtualWebcam], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Farm]:
    entries = [camera.entry(name, stream_only=name == "stream_only") for name, camera in webcams.items()]
    for entry in entries:
        entry |= {option: str(value) for option, value in VIEWS.get(entry["name"], {}).items()}
    async with parts.farm(tmp_path_factory.mktemp("farm"), Options(webcams=entries)) as farm:
        yield farm


def pixels(content: bytes) -> dict[tuple[int, int], tuple[int, ...]]:
    image = Image.open(io.BytesIO(content)).convert("RGB")
    width, height = image.size
    data = image.tobytes()
    return {(n % width, n // width): tuple(data[3 * n : 3 * n + 3]) for n in range(width * height)}


def expected(content: bytes, view: dict[str, Any]) -> dict[tuple[int, int], tuple[int, ...]]:
    """The picture's pixels, each moved by hand: turned clockwise in steps of 90 degrees, then mirrored."""
    found = pixels(content)
    width, height = SIZE
    for _ in range(view.get("rotation", 0) // 90):
        found = {(height - 1 - y, x): pixel for (x, y), pixel in found.items()}
        width, height = height, width
    if view.get("flip_horizontal"):
        found = {(width - 1 - x, y): pixel for (x, y), pixel in found.items()}
    if view.get("flip_vertical"):
        found = {(x, height - 1 - y): pixel for (x, y), pixel in found.items()}
    return found


async def inline(farm: Farm, name: str) -> tuple[bytes, dict[str, Any]]:
    answer = await farm.do("camera_control.snapshot", camera_provider_id="moonraker", camera_name=name)
    assert answer["type"] == "response", answer
    return base64.b64decode(answer["data"]["image"]), answer["data"]


async def ask(webcam: VirtualWebcam, more: int) -> None:
    """Until the camera was asked so many times more."""
    async with asyncio.timeout(30):
        await webcam.asked(webcam.requests + more)


async def intervals(farm: Farm, webcams: dict[str, VirtualWebcam]) -> None:
    """So long that a stream at the shortest interval would have asked its camera: another one has, three times."""
    await farm.done("camera_control.stream_on", camera_name="flipped", interval=0.5)
    await ask(webcams["flipped"], 3)
    await farm.done("camera_control.stream_off", camera_name="flipped")


def place_of_the_square(content: bytes) -> int:
    """Where the white square is in a picture that was turned by 270 degrees, in blocks from the left."""
    image = Image.open(io.BytesIO(content)).convert("L").transpose(Image.Transpose.ROTATE_270)
    row = [image.getpixel((block * BLOCK + BLOCK // 2, SIZE[1] // 2 + BLOCK // 2)) for block in range(SIZE[0] // BLOCK)]
    (place,) = [block for block, light in enumerate(row) if isinstance(light, float | int) and light > 220]
    return place


@pytest.mark.shows("camera_control.get_providers")
async def test_providers(farm: Farm, webcams: dict[str, VirtualWebcam]) -> None:
    """In the plugin's shape, under the provider `moonraker`, and the same in pairing."""
    answer = await farm.do("camera_control.get_providers")
    assert answer["type"] == "response"
    assert answer["data"]["moonraker"]["provider_info"] == {"id": "moonraker", "name": "Moonraker"}
    listed = {webcam["name"]: webcam for webcam in answer["data"]["moonraker"]["webcams"]}
    assert listed.keys() == webcams.keys()
    assert listed["left"] == {
        "name": "left",
        "can_snapshot": True,
        "flipH": False,
        "flipV": False,
        "rotate90": True,
        "rotation": 270,
        "enabled": True,
        "deprecated_snapshot_url": webcams["left"].snapshot_url,
        "deprecated_stream_url": webcams["left"].stream_url,
    }
    pairing = [each for each in farm.cloud.envelopes if each["type"] == "pairing"][-1]
    assert pairing["data"]["printer"]["webcams"] == answer["data"]["moonraker"]["webcams"]


@pytest.mark.shows("camera_control.snapshot")
@pytest.mark.parametrize("name", VIEWS)
async def test_each_pixel(farm: Farm, name: str) -> None:
    """The picture that arrives, against the camera's own, pixel by pixel: four rotations, two flips, and both."""
    view = VIEWS[name]
    async with Storage() as storage:
        data = await farm.done(
            "camera_control.snapshot",
            camera_provider_id="moonraker",
            camera_name=name,
            destination="url",
            destination_url=storage.url,
        )
    put = storage.puts[0]
    assert (put.method, put.headers["content-type"]) == ("PUT", "image/jpeg")
    assert int(put.headers["content-length"]) == len(put.body) == data["size"]
    found, wanted = pixels(put.body), expected(make_picture(0, SIZE), view)
    assert found.keys() == wanted.keys()
    worst = max(abs(a - b) for place in wanted for a, b in zip(found[place], wanted[place], strict=True))
    assert worst <= 24, worst  # two lossy encodings; the markers differ by more than 100
    assert (data["width"], data["height"]) == (SIZE if view.get("rotation", 0) % 180 == 0 else SIZE[::-1])
    done = farm.events("CaptureDone")
    assert [(event["camera"], event["size"]) for event in done] == [(name, len(put.body))]


async def test_the_comparison_can_fail(farm: Farm) -> None:
    """The corners differ by far more than the comparison allows, so that a wrong turn would be seen."""
    assert len(set(CORNERS.values())) == 4
    wrong = expected(make_picture(0, SIZE), {"flip_horizontal": True})
    content, _ = await inline(farm, "upright")
    assert (
        max(abs(a - b) for place, pixel in pixels(content).items() for a, b in zip(pixel, wrong[place], strict=True))
        > 100
    )


@pytest.mark.shows("camera_control.snapshot")
async def test_a_camera_that_only_streams(farm: Farm) -> None:
    """The first frame of its MJPEG stream is the picture, byte for byte."""
    content, data = await inline(farm, "stream_only")
    assert content == make_picture(0, SIZE)
    assert (data["width"], data["height"], data["content_type"]) == (*SIZE, "image/jpeg")


async def test_a_large_picture_inline(farm: Farm) -> None:
    """Many times the size of other envelopes, it arrives whole."""
    content, data = await inline(farm, "big")
    assert (data["width"], data["height"]) == (2560, 1440)
    assert content == make_picture(0, (2560, 1440))


async def test_a_dead_camera(farm: Farm) -> None:
    """The reason comes back, and an event; the other cameras work on."""
    sentence = await farm.refused("camera_unavailable", "camera_control.snapshot", camera_name="dead")
    assert sentence == "The camera dead cannot be read: the connection broke."
    event = await farm.event("CaptureFailed")
    assert (event["camera"], event["reason"], event["code"]) == ("dead", sentence, "camera_unavailable")
    await inline(farm, "upright")


async def test_refusals(farm: Farm) -> None:
    """A camera that is not there, a URL into the owner's network, a storage that refuses."""
    snapshot = "camera_control.snapshot"
    await farm.refused("camera_not_found", snapshot, camera_name="nope")
    await farm.refused("camera_not_found", snapshot, camera_name="upright", camera_provider_id="octolapse")
    await farm.refused("forbidden_url", snapshot, camera_name="upright", destination_url="http://192.168.0.1/s3cr3t")
    await farm.refused("invalid_parameters", snapshot, camera_name="upright", destination="url")
    async with Storage(Answer(403)) as storage:
        sentence = await farm.refused(
            "destination_failed", snapshot, camera_name="upright", destination_url=storage.url
        )
        assert len(storage.puts) == 1
    assert "answered 403" in sentence
    assert "s3cr3t" not in sentence


async def test_a_storage_in_passing_trouble(farm: Farm) -> None:
    """A 5xx and a broken connection are tried again."""
    async with Storage(Answer(503), Answer(cut=True), Answer(200)) as storage:
        await farm.done("camera_control.snapshot", camera_name="upright", destination_url=storage.url)
        assert len(storage.puts) == 3


@pytest.mark.shows("camera_control.stream_on", "camera_control.stream_off")
async def test_stream_to_the_topic(farm: Farm, webcams: dict[str, VirtualWebcam]) -> None:
    """Raw JPEGs on the camera's topic; off is off."""
    topic = f"{TOPIC}/upright"
    farm.cloud.frames.clear()
    data = await farm.done("camera_control.stream_on", camera_name="upright", interval=0.1, destination="topic")
    assert (data["interval"], data["max_duration"]) == (0.5, 300.0)
    seen: set[bytes] = set()

    def enough() -> bool:
        seen.update(farm.cloud.frames.values())
        return len(seen) >= 3

    await parts.until(enough)
    assert farm.cloud.frames.keys() == {topic}
    assert all(Image.open(io.BytesIO(frame)).size == SIZE for frame in seen)
    await farm.done("camera_control.stream_off", camera_name="upright")
    await farm.settled()  # also what was on its way
    farm.cloud.frames.clear()
    requests = webcams["upright"].requests
    await intervals(farm, webcams)
    assert topic not in farm.cloud.frames
    assert webcams["upright"].requests == requests
    assert (await farm.done("camera_control.stream_off", camera_name="upright"))["already"] is True


@pytest.mark.shows("camera_control.stream_on", "camera_control.stream_off")
async def test_stream_to_a_url_skips_what_is_late(farm: Farm, webcams: dict[str, VirtualWebcam]) -> None:
    """Frames to a storage, turned; while it is slow none is taken, and the next is one of now."""
    async with Storage() as storage:
        await farm.done(
            "camera_control.stream_on", camera_name="left", interval=0.5, destination_url=storage.url, max_duration=20
        )
        await storage.until(2)
        storage.gate.clear()
        await storage.until(3)
        requests = webcams["left"].requests
        await intervals(farm, webcams)
        assert webcams["left"].requests == requests
        storage.gate.set()
        await storage.until(5)
        assert storage.most_at_once == 1
        await farm.done("camera_control.stream_off", camera_name="left")
        assert all(Image.open(io.BytesIO(put.body)).size == SIZE[::-1] for put in storage.puts)
        places = [place_of_the_square(put.body) for put in storage.puts]  # it moves on by one with each picture
        assert places == [(places[0] + number) % (SIZE[0] // BLOCK) for number in range(len(places))]


@pytest.mark.shows("camera_control.stream_on")
async def test_stream_ends_by_itself(farm: Farm, webcams: dict[str, VirtualWebcam]) -> None:
    """After max_duration nothing is asked of the camera any more."""
    told = farm.log().count("the stream of upright ended after its time")
    await farm.done("camera_control.stream_on", camera_name="upright", interval=0.5, max_duration=1.2)
    await parts.until(lambda: farm.log().count("the stream of upright ended after its time") > told)
    requests = webcams["upright"].requests
    await intervals(farm, webcams)
    assert webcams["upright"].requests == requests
    assert (await farm.done("camera_control.stream_off", camera_name="upright"))["already"] is True


async def test_stream_survives_a_lost_link(farm: Farm, webcams: dict[str, VirtualWebcam]) -> None:
    """When the broker is back, so are the frames, without a new command."""
    await farm.done("camera_control.stream_on", camera_name="upright", interval=0.5)
    await farm.broker.stop()
    await ask(webcams["upright"], 2)
    await farm.restart_broker()
    await parts.until(lambda: f"{TOPIC}/upright" in farm.cloud.frames, timeout=30)
    await farm.done("camera_control.stream_off", camera_name="upright")


async def test_a_stream_is_forgotten_at_restart(farm: Farm, webcams: dict[str, VirtualWebcam]) -> None:
    """An agent that starts anew takes no picture that nobody asked it for."""
    await farm.done("camera_control.stream_on", camera_name="upright", interval=0.5)
    await farm.end_agent()
    await farm.start_agent()
    requests = webcams["upright"].requests
    await intervals(farm, webcams)
    assert webcams["upright"].requests == requests


async def test_new_cameras_are_heard_of(farm: Farm, webcams: dict[str, VirtualWebcam]) -> None:
    """A camera that is added, turned and taken away in Mainsail is known at once, and told in pairing."""
    entry: dict[str, Any] = {**webcams["upright"].entry("new"), "rotation": 180}
    await farm.printer.moonraker("server.webcams.post_item", **entry)
    await farm.wait_for(
        lambda each: each["type"] == "pairing" and any(w["name"] == "new" for w in each["data"]["printer"]["webcams"])
    )
    assert (await inline(farm, "new"))[1]["camera"] == "new"
    await farm.printer.moonraker("server.webcams.post_item", **{**entry, "enabled": False})
    await farm.wait_for(
        lambda each: (
            each["type"] == "pairing"
            and any(w["name"] == "new" and not w["enabled"] for w in each["data"]["printer"]["webcams"])
        )
    )
    await farm.refused("camera_unavailable", "camera_control.snapshot", camera_name="new")
    start = len(farm.cloud.envelopes)
    await farm.printer.moonraker("server.webcams.delete_item", name="new")
    await farm.cloud.wait_for(lambda each: each["type"] == "pairing", start=start)
    await farm.refused("camera_not_found", "camera_control.snapshot", camera_name="new")
