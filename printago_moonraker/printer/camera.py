"""Pictures from the printer's webcams: one at a time, or a stream of them, to where Printago wants them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from printago_moonraker import errors, web
from printago_moonraker.log import printable
from printago_moonraker.moonraker.webcams import NoPicture, PictureReader, Webcam
from printago_moonraker.printago import uploads
from printago_moonraker.printer import picture
from printago_moonraker.printer.picture import Picture
from printago_moonraker.urlpolicy import UrlPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from printago_moonraker.printer.printer import Printer

logger = logging.getLogger(__name__)

PROVIDER: Final = "moonraker"
TIMEOUT: Final = 10.0  # s for one picture
CONNECT_TIMEOUT: Final = 5.0  # s; a camera is next door
MAX_CAPTURES: Final = 8  # at a time, of up to 10 MB each
FRAME_TIMEOUT: Final = 10.0  # s for sending one frame of a stream; a later one is worth more than this one
_WEBCAM: Final = web.Peer("camera", errors.CameraUnavailable)

Deliver = Callable[[Picture], Awaitable[None]]
Publish = Callable[[str, bytes], Awaitable[None]]


@dataclass(frozen=True)
class Plan:
    """A stream: a picture of `camera` to `deliver` every `interval` seconds, for `duration` seconds."""

    camera: str
    interval: float
    duration: float
    deliver: Deliver


class Cameras:
    """One printer's webcams and streams. The streams live in the given group, and outlive neither it nor a restart."""

    def __init__(self, printer: Printer, tasks: asyncio.TaskGroup, publish: Publish) -> None:
        """`publish(camera name, JPEG)` sends a frame over MQTT; it raises LinkError when that cannot be done."""
        transfers = printer.settings.transfers
        self._printer = printer
        self._tasks = tasks
        self._publish = publish
        self._policy = UrlPolicy(allow_http=transfers.allow_http, allowed_hosts=transfers.allowed_hosts)
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._captures = 0

    def find(self, name: str, provider: str = PROVIDER) -> Webcam:
        """The webcam of that name. Raises CameraNotFound, CameraUnavailable for one that can give no picture."""
        if provider != PROVIDER:
            raise errors.CameraNotFound(f"There is no camera provider {printable(provider, 60)}; it is {PROVIDER}.")
        webcams = self._printer.webcams
        webcam = next((each for each in webcams if each.name == name), None)
        if webcam is None:
            known = ", ".join(printable(each.name, 60) for each in webcams) or "none"
            raise errors.CameraNotFound(f"There is no camera {printable(name, 60)}; Moonraker knows: {known}.")
        if not webcam.enabled:
            raise errors.CameraUnavailable(f"The camera {printable(name, 60)} is switched off in Moonraker.")
        if not webcam.picture_url:
            raise errors.CameraUnavailable(
                f"The camera {printable(name, 60)} has neither a snapshot URL nor an MJPEG stream; give it one."
            )
        return webcam

    async def snapshot(self, name: str, provider: str) -> Picture:
        """One picture as the webcam is to be seen, told as CaptureDone or CaptureFailed.

        Raises CameraNotFound, CameraUnavailable, Overloaded. Cancelling is safe.
        """
        with self._failure_told(name):
            taken = await self._capture(self.find(name, provider))
        payload = {"camera": name, "width": taken.width, "height": taken.height, "size": len(taken.content)}
        self._printer.emit("CaptureDone", payload)
        return taken

    def to_url(self, url: str, method: str, *, retry: bool = True) -> Deliver:
        """What sends a picture to a pre-signed URL. Raises ForbiddenUrl at once; delivering raises that, too, and
        DestinationFailed.
        """
        self._policy.check_url(url)
        how: dict[str, Any] = {} if retry else {"attempts": 1, "timeout": FRAME_TIMEOUT}

        async def deliver(taken: Picture) -> None:
            await uploads.upload(
                url, taken.content, self._policy, content_type=picture.CONTENT_TYPE, method=method, **how
            )

        return deliver

    def to_topic(self, name: str) -> Deliver:
        """What publishes a picture on the camera's topic. Delivering raises DestinationFailed."""

        async def deliver(taken: Picture) -> None:
            try:
                await self._publish(name, taken.content)
            except errors.LinkError as error:
                raise errors.DestinationFailed(f"The picture could not be published: {error}") from None

        return deliver

    # ------------------------------------------------------------------------------------------------------- streams

    async def start(self, plan: Plan) -> None:
        """Start a stream in place of the camera's former one; done when its first picture has been delivered.

        Raises the CommandError that the first picture met, and there is no stream then; Cancelled when another
        command came in between. Cancelling gives up the waiting, not the stream.
        """
        self.stop(plan.camera)
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._tasks.create_task(self._stream(plan, first), name=f"stream {plan.camera}")
        self._streams[plan.camera] = task
        task.add_done_callback(partial(self._ended, plan.camera, first))
        await first

    def stop(self, name: str) -> bool:
        """End the camera's stream; whether there was one."""
        task = self._streams.pop(name, None)
        return task is not None and task.cancel()

    def _ended(self, name: str, first: asyncio.Future[None], task: asyncio.Task[None]) -> None:
        if self._streams.get(name) is task:
            del self._streams[name]
        if not first.done():
            first.set_exception(errors.Cancelled("The stream was ended before its first picture."))

    async def _stream(self, plan: Plan, first: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(plan.duration):
                await self._frame(plan)
                if not first.done():  # nobody waits any more when the command was given up
                    first.set_result(None)
                await self._go_on(plan)
        except TimeoutError:
            logger.debug("%s: the stream of %s ended after its time", self._printer.config.name, printable(plan.camera))
        except errors.CommandError as error:
            if first.done():
                self._failed(plan.camera, error)
            else:
                first.set_exception(error)

    async def _go_on(self, plan: Plan) -> None:
        """The pictures after the first, at multiples of the interval. One that takes longer costs those in between."""
        clock = asyncio.get_running_loop().time
        due, failing = clock(), False
        while True:
            due += plan.interval * max(1, math.ceil((clock() - due) / plan.interval))
            await asyncio.sleep(due - clock())
            try:
                await self._frame(plan)
                failing = False
            except (uploads.Refused, errors.ForbiddenUrl):
                raise  # a signature that has expired does not become good again
            except errors.CommandError as error:
                if not failing:
                    self._failed(plan.camera, error)
                failing = True

    async def _frame(self, plan: Plan) -> None:
        await plan.deliver(await self._capture(self.find(plan.camera)))

    # ------------------------------------------------------------------------------------------------------ a picture

    async def _capture(self, webcam: Webcam) -> Picture:
        if self._captures >= MAX_CAPTURES:
            raise errors.Overloaded(f"{MAX_CAPTURES} pictures are being taken already; ask for this one again later.")
        self._captures += 1
        try:
            taken = picture.read(await fetch(webcam))
            if webcam.rotation or webcam.flip_horizontal or webcam.flip_vertical:
                taken = await asyncio.to_thread(
                    picture.turned,
                    taken,
                    rotation=webcam.rotation,
                    flip_horizontal=webcam.flip_horizontal,
                    flip_vertical=webcam.flip_vertical,
                )
        except ValueError as error:
            raise _unavailable(webcam, f"sent what is of no use: {error}.") from None
        finally:
            self._captures -= 1
        return taken

    @contextmanager
    def _failure_told(self, name: str) -> Iterator[None]:
        try:
            yield
        except errors.CommandError as error:
            self._failed(name, error)
            raise

    def _failed(self, name: str, error: errors.CommandError) -> None:
        self._printer.emit("CaptureFailed", {"camera": printable(name), "reason": str(error), "code": error.code})


async def fetch(webcam: Webcam) -> bytes:
    """The bytes that the webcam calls a picture. The URL is the owner's own, so that any address is right.

    Raises CameraUnavailable. Cancelling is safe.
    """
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            web.session(connect_timeout=CONNECT_TIMEOUT, read_timeout=TIMEOUT) as session,
        ):
            url, headers = _WEBCAM.parse(webcam.picture_url), {"Accept-Encoding": "identity"}
            with _WEBCAM.mapped():
                response = await session.get(url, headers=headers)
            try:
                return await _read(response)
            finally:
                response.close()
    except web.Broken as broken:
        raise _unavailable(webcam, f"cannot be read: {broken}.") from None
    except TimeoutError:
        raise _unavailable(webcam, f"gave no whole picture within {TIMEOUT:.0f} s.") from None
    except NoPicture as why:
        raise _unavailable(webcam, str(why)) from None


async def _read(response: web.Response) -> bytes:
    reader = PictureReader(response.status, response.headers)
    while True:
        with _WEBCAM.mapped():
            chunk = await response.content.read(web.CHUNK)
        found = reader.take(chunk)
        if found is not None:
            return found


def _unavailable(webcam: Webcam, what: str) -> errors.CameraUnavailable:
    return errors.CameraUnavailable(f"The camera {printable(webcam.name, 60)} {what}")
