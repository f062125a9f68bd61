"""Pictures from the printer's webcams. They wait for nothing, and Klipper need not be there."""

from __future__ import annotations

import base64

from printago_moonraker import errors
from printago_moonraker.commands.lanes import Lane
from printago_moonraker.commands.registry import Answer, Context, Parameters, command, success
from printago_moonraker.printer.camera import PROVIDER, Plan
from printago_moonraker.printer.picture import CONTENT_TYPE

# A third more as base64; brokers have their limits, and an answer that is too large for one would never arrive.
_MAX_INLINE = 1024 * 1024
_INTERVAL = 2.0  # s


@command("camera_control.get_providers", lane=Lane.BESIDE, needs_ready=False, read_only=True)
async def get_providers(context: Context, parameters: Parameters) -> Answer:
    webcams = [webcam.describe() for webcam in context.printer.webcams]
    return Answer("response", {PROVIDER: {"provider_info": {"id": PROVIDER, "name": "Moonraker"}, "webcams": webcams}})


@command("camera_control.snapshot", lane=Lane.BESIDE, needs_ready=False, read_only=True)
async def snapshot(context: Context, parameters: Parameters) -> Answer:
    cameras, name = context.cameras, parameters["camera_name"]
    url = parameters.get("destination_url") if parameters.get("destination") != "inline" else None
    deliver = cameras.to_url(url, parameters.get("method") or "PUT") if url else None
    taken = await cameras.snapshot(name, parameters.get("camera_provider_id") or PROVIDER)
    facts = {"camera": name, "content_type": CONTENT_TYPE, "width": taken.width, "height": taken.height}
    if deliver is not None:
        await deliver(taken)
        return success("Snapshot command issued successfully.", **facts, size=len(taken.content))
    if len(taken.content) > _MAX_INLINE:
        raise errors.DestinationFailed(
            f"The picture has {len(taken.content)} bytes, too many for a message; give it a destination_url."
        )
    return Answer("response", {**facts, "image": base64.b64encode(taken.content).decode("ascii")})


@command("camera_control.stream_on", lane=Lane.BESIDE, needs_ready=False)
async def stream_on(context: Context, parameters: Parameters) -> Answer:
    cameras, limits, name = context.cameras, context.printer.settings.camera, parameters["camera_name"]
    cameras.find(name, parameters.get("camera_provider_id") or PROVIDER)
    url = parameters.get("destination_url") if parameters.get("destination") != "topic" else None
    plan = Plan(
        camera=name,
        interval=max(float(parameters.get("interval") or _INTERVAL), limits.min_stream_interval),
        duration=min(float(parameters.get("max_duration") or limits.max_stream_duration), limits.max_stream_duration),
        deliver=cameras.to_url(url, parameters.get("method") or "PUT", retry=False) if url else cameras.to_topic(name),
    )
    await cameras.start(plan)
    return success(
        "Stream on command issued successfully.", camera=name, interval=plan.interval, max_duration=plan.duration
    )


@command("camera_control.stream_off", lane=Lane.BESIDE, needs_ready=False)
async def stream_off(context: Context, parameters: Parameters) -> Answer:
    message, name = "Stream off command issued successfully.", parameters["camera_name"]
    return success(message, camera=name) if context.cameras.stop(name) else success(message, camera=name, already=True)
