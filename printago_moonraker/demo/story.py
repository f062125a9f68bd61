"""What the cloud does with one printer, step by step.

Nothing is believed that no envelope has confirmed, and at the end the printer itself is asked too.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from printago_moonraker.cloud import ANSWERS, Cloud, Envelope
from printago_moonraker.demo.screen import Screen, bar
from printago_moonraker.errors import AgentError
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from printago_moonraker.demo.file_server import FileServer
    from printago_moonraker.virtual.rig import VirtualPrinter

REFUSE_AT, PAUSE_AT = 10.0, 30.0  # % of the print
ANSWER_TIMEOUT = 60.0  # s for a command; a pause waits for the macro's moves
NEWS_TIMEOUT = 30.0  # s for what must follow from something that was seen
AGENT_STOP_TIMEOUT = 15.0  # s; the agent itself gives up after 10
FAILED = ("PrintFailed", "PrintCancelled")
CAMERA = "bed"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
STEP_BACK = 2.0  # % by which progress may be less than before: the slicer's estimate and the file's position differ


class Story:
    """One printer's part. `failure` names the step that was not confirmed, and why."""

    def __init__(
        self,
        name: str,
        cloud: Cloud,
        rig: VirtualPrinter,
        screen: Screen,
        files: FileServer,
        file_name: str,
        gcode: bytes,
        keep_picture: Callable[[str, bytes], Path],
    ) -> None:
        """`keep_picture` stores a picture under a name, and says where it is."""
        self.failure: str | None = None
        self._name, self._cloud, self._rig, self._screen = name, cloud, rig, screen
        self._files, self._file_name, self._gcode = files, file_name, gcode
        self._keep_picture = keep_picture
        self._job_id = f"job-{name}"
        self._step = ""
        self._confirmed = 0  # steps
        self._sent = 0  # commands
        self._progress: dict[str, Any] = {}

    async def tell(self) -> None:
        """The whole story; what is not confirmed ends it. Cancelling is safe."""
        watching = asyncio.create_task(self._watch())
        steps = (
            self._meet,
            self._download,
            self._start,
            self._refuse,
            self._pause,
            self._resume,
            self._picture,
            self._finish,
            self._audit,
        )
        try:
            for step in steps:
                await self._take(step.__name__.strip("_"), step())
                if self.failure:
                    break
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError, AgentError):  # a lost broker has failed a step already
                await watching
            self._screen.hide(self._name)

    async def leave(self, ended: asyncio.Task[int]) -> None:
        """The agent was told to stop: it says so, and `ended`, its exit code, is 0."""
        if not self.failure:
            await self._take("leave", self._goodbye(ended))

    def sum_up(self) -> None:
        """The last line."""
        if self.failure:
            self._say(f"{self._confirmed} steps confirmed, then it failed at {self.failure}", "✗")
        else:
            self._say(f"all {self._confirmed} steps confirmed", "✓")

    def fail(self, reason: str) -> None:
        """The present step is not confirmed; the first reason counts."""
        self.failure = self.failure or f"{self._step}: {reason}"

    async def _take(self, name: str, step: Awaitable[None]) -> None:
        self._step = name
        try:
            await step
        except TimeoutError:
            self.fail("what should have come did not come")
        except (AgentError, OSError) as error:
            self.fail(printable(str(error)))

    # ------------------------------------------------------------------------------------------------------- the steps

    async def _meet(self) -> None:
        """The agent announces the printer once it knows it; before, it could say only that itself is there."""
        data = (await self._news(_introduces))["data"]
        await self._news(lambda envelope: _state(envelope) == "OPERATIONAL")
        agent, printer = data["agent"], data["printer"]
        volume = "x".join(f"{side:g}" for side in printer["build_volume"].values())
        self._confirm(
            f"paired: {agent['name']} {agent['version']}; a {printer['kinematics']} printer of {volume} mm, "
            f"{len(printer['commands'])} commands"
        )

    async def _download(self) -> None:
        size, sha256 = len(self._gcode), hashlib.sha256(self._gcode).hexdigest()
        file = {"url": self._files.url, "file_name": self._file_name, "size": size, "sha256": sha256}
        data = await self._carry_out("printer_control.download_gcode", **file, job_id=self._job_id)
        self._check((data["size"], data["sha256"]) == (size, sha256), "the answer speaks of another file")
        self._check((self._rig.gcodes / data["path"]).read_bytes() == self._gcode, "the printer has another file")
        self._confirm(f"downloaded: {data['path']}, {size:,} bytes in {data['duration']:.1f} s, SHA-256 is right")

    async def _start(self) -> None:
        await self._carry_out("printer_control.start_print", file_name=self._file_name, job_id=self._job_id)
        event = await self._event("PrintStarted")
        self._confirm(f"printing: {event['path']}, job {event['job_id']}, source {event['source']}")

    async def _refuse(self) -> None:
        await self._printed(REFUSE_AT)
        await self._refused("busy", "movement_control.jog", axes={"x": 10})
        await self._refused("out_of_range", "temperature_control.set_hotend", temperature=999)
        name = "../printer.cfg"
        await self._refused("forbidden_path", "printer_control.download_gcode", url=self._files.url, file_name=name)

    async def _pause(self) -> None:
        await self._printed(PAUSE_AT)
        await self._carry_out("printer_control.pause_print")
        await self._event("PrintPaused")
        await self._news(lambda envelope: _state(envelope) == "PAUSED")
        self._confirm(f"paused at {self._progress['completion']:.0f} %")

    async def _resume(self) -> None:
        await self._carry_out("printer_control.resume_print")
        await self._event("PrintResumed")
        self._confirm("resumed")

    async def _picture(self) -> None:
        """The cloud gives a URL, the agent puts the picture there."""
        name = f"{self._name}.jpg"
        url = self._files.picture_url(name)
        data = await self._carry_out("camera_control.snapshot", camera_name=CAMERA, destination_url=url)
        picture = self._files.pictures.get(name, b"")
        whole = len(picture) == data["size"] and picture.startswith(JPEG_START) and picture.endswith(JPEG_END)
        self._check(whole, f"of a picture of {data['size']} bytes {len(picture)} have come")
        path = self._keep_picture(name, picture)
        self._confirm(f"picture taken: {data['width']}x{data['height']} pixels, {len(picture):,} bytes: {path}")

    async def _finish(self) -> None:
        await self._printed(100.0)
        event = await self._event("PrintDone")
        data = (await self._command("printer_control.get_status"))["data"]
        done = data["printer_state_id"], data["current_state_data"]["progress"]["completion"]
        self._check(done == ("OPERATIONAL", 100.0), f"after its end the status says {done}")
        minutes, seconds = divmod(round(event["time"]), 60)
        self._confirm(f"done: {event['name']}, {minutes}:{seconds:02} by the printer's clock")

    async def _audit(self) -> None:
        """What must hold of the whole exchange, and what the printer itself has to say about it."""
        answers = [
            envelope for envelope in self._cloud.envelopes if envelope["type"] in ANSWERS and "command" in envelope
        ]
        most = max(Counter(answer["command"]["id"] for answer in answers).values())
        self._check((len(answers), most) == (self._sent, 1), f"{self._sent} commands got {len(answers)} answers")
        ends = [event["event"] for event in self._cloud.events() if event["event"] in ("PrintDone", *FAILED)]
        self._check(ends == ["PrintDone"], f"one print had the ends {ends}")
        back = step_back(map(_progress, self._cloud.envelopes))
        self._check(back <= STEP_BACK, f"the print's progress went back by {back:.1f} %")
        self._confirm(f"{self._sent} commands, one answer each; one print, one end")
        self._confirm(f"the print's progress never fell by more than {STEP_BACK:g} %")
        started = (await self._rig.control("counters"))["prints_started"]
        statuses = [job["status"] for job in (await self._rig.moonraker("server.history.list"))["jobs"]]
        self._check((started, statuses) == (1, ["completed"]), f"Klipper counts {started} prints, Moonraker {statuses}")
        self._confirm("Klipper itself counts one print, Moonraker's history says completed")

    async def _goodbye(self, ended: asyncio.Task[int]) -> None:
        async with asyncio.timeout(AGENT_STOP_TIMEOUT):
            code = await asyncio.shield(ended)
        self._check(code == 0, f"the agent's exit code is {code}")
        await self._news(lambda envelope: _event_of(envelope) == "Shutdown")
        await self._cloud.wait_available("disconnected", NEWS_TIMEOUT)
        self._confirm("the agent was stopped, and said so")

    # ------------------------------------------------------------------------------------------- what steps are made of

    async def _command(self, name: str, **parameters: Any) -> Envelope:
        kind, _, action = name.partition(".")
        self._sent += 1
        return await self._cloud.command(kind, action, parameters, timeout=ANSWER_TIMEOUT)

    async def _carry_out(self, name: str, **parameters: Any) -> dict[str, Any]:
        answer = await self._command(name, **parameters)
        data: dict[str, Any] = answer["data"]
        self._check(answer["type"] == "success", f"{data.get('error')} ({data.get('code')})")
        return data

    async def _refused(self, code: str, name: str, **parameters: Any) -> None:
        answer = await self._command(name, **parameters)
        data, action = answer["data"], name.partition(".")[2]
        self._check(data.get("code") == code, f"{action} got {data.get('code', answer['type'])} instead of {code}")
        self._confirm(f"refused: {action}: {code}: {data['error']}")

    async def _news(self, wanted: Callable[[Envelope], object]) -> Envelope:
        return await self._cloud.wait_for(wanted, NEWS_TIMEOUT)

    async def _event(self, name: str) -> dict[str, Any]:
        """The story's one event of that name, which must be about its print."""
        data: dict[str, Any] = (await self._news(lambda envelope: _event_of(envelope) == name))["data"]
        own = data["job_id"] == self._job_id and data["source"] == "printago"
        self._check(own, f"{name} names the job {data['job_id']}, source {data['source']}")
        return data

    async def _printed(self, percent: float) -> None:
        """Wait for that much of the print, however long it takes, as long as it goes on."""

        def told(envelope: Envelope) -> bool:
            return (_progress(envelope).get("completion") or 0.0) >= percent or _event_of(envelope) in FAILED

        while True:
            before = self._progress
            try:
                envelope = await self._news(told)
            except TimeoutError:
                if self._progress == before:
                    raise
            else:
                self._check(envelope["type"] == "status", f"the print ended: {envelope['data'].get('reason')}")
                return

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise AgentError(otherwise)

    def _confirm(self, text: str) -> None:
        self._confirmed += 1
        self._say(text, "✓")

    def _say(self, text: str, mark: str) -> None:
        self._screen.say(text, self._name, mark)

    async def _watch(self) -> None:
        """Keep the live line up to date; never returns."""
        position = 0
        while True:
            envelope = await self._cloud.wait_for(lambda _: True, float("inf"), start=position)
            position += 1
            data = envelope["data"]
            if envelope["type"] == "status":
                self._progress = _progress(envelope)
                self._screen.show(self._name, status_line(data))
            elif data.get("event") == "TransferProgress":
                self._screen.show(
                    self._name, f"{bar(data['progress'])}  {data['received']:,} of {data['size']:,} bytes"
                )


def _introduces(envelope: Envelope) -> bool:
    return envelope["type"] == "pairing" and bool(envelope["data"]["printer"]["kinematics"])


def _state(envelope: Envelope) -> str | None:
    return envelope["data"]["printer_state_id"] if envelope["type"] == "status" else None


def _progress(envelope: Envelope) -> dict[str, Any]:
    return envelope["data"]["current_state_data"]["progress"] if envelope["type"] == "status" else {}


def _event_of(envelope: Envelope) -> str | None:
    return envelope["data"]["event"] if envelope["type"] == "event" else None


def step_back(progress: Iterable[dict[str, Any]]) -> float:
    """By how many % the progress of one print fell below what it had been, at most."""
    highest = back = 0.0
    for each in progress:
        done = each.get("completion")
        if done is not None:
            highest, back = max(highest, done), max(back, highest - done)
    return back


def status_line(data: dict[str, Any]) -> str:
    """A status for a person: `██████░░░░  31 %  layer 7/24  nozzle 215/215 °C  bed 60/60 °C  4:12 left  Printing`."""
    progress, layer = data["current_state_data"]["progress"], data["klipper"]["layer"]
    parts = [bar(progress["completion"])] if progress["completion"] is not None else []
    if layer["current"] is not None and layer["total"]:
        parts.append(f"layer {layer['current']}/{layer['total']}")
    for label, heater in (("nozzle", "tool0"), ("bed", "bed")):
        values = data["temperatures"].get(heater, {})
        if values.get("actual") is not None:
            parts.append(f"{label} {values['actual']:.0f}/{values['target'] or 0:.0f} °C")
    if progress["printTimeLeft"]:
        minutes, seconds = divmod(progress["printTimeLeft"], 60)
        parts.append(f"{minutes}:{seconds:02} left")
    return "  ".join([*parts, data["printer_state_string"]])
