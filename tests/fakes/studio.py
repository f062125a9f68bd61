"""A printer with a webcam, and what it did with the pictures."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from printago_moonraker.config import CameraSection
from printago_moonraker.moonraker.webcams import Webcam
from tests.fakes.klipper import Bench, bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from printago_moonraker.virtual.webcam import VirtualWebcam

NOWHERE = Path("/nonexistent")  # nothing is written


@asynccontextmanager
async def studio(webcam: VirtualWebcam, *, stream_only: bool = False, **changes: Any) -> AsyncIterator[Bench]:
    """A printer with one webcam, `front`, whose streams may be fast."""
    async with bench(NOWHERE, connected=False) as it, webcam:
        emit = it.printer.emit

        def told(event: str, payload: dict[str, Any]) -> None:
            emit(event, payload)
            it.printer.changed()  # so that `until` looks again

        it.printer.emit = told
        snapshot_url = "" if stream_only else webcam.snapshot_url
        front = Webcam("front", True, "mjpegstreamer", snapshot_url, webcam.stream_url)
        it.printer.webcams = (replace(front, **changes),)
        it.printer.settings = replace(it.printer.settings, camera=CameraSection(30.0, 0.02))
        try:
            yield it
        finally:
            await it.run("camera_control.stream_off", {"camera_name": "front"})


def named(it: Bench, name: str) -> list[dict[str, Any]]:
    return [payload for event, payload in it.emitted if event == name]


async def snapshot(it: Bench, **parameters: Any) -> tuple[str, dict[str, Any]]:
    return await it.run("camera_control.snapshot", {"camera_name": "front", **parameters})


async def stream(it: Bench, **parameters: Any) -> tuple[str, dict[str, Any]]:
    return await it.run("camera_control.stream_on", {"camera_name": "front", "interval": 0.02, **parameters})
