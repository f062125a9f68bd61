"""A print job: virtual_sdcard runs the file, print_stats keeps its account, pause_resume stops and goes on.

The order of what is said and done here is what `tests/e2e/virtual_printer/` compares with a real Klipper.
"""

from __future__ import annotations

import asyncio
from typing import IO, TYPE_CHECKING, Any

from printago_moonraker.virtual.gcode import Command, KlipperError

if TYPE_CHECKING:
    from pathlib import Path

    from printago_moonraker.virtual.klippy import Printer

CHUNK = 8192
YIELD_EVERY = 0.05  # s of wall time that a print waits when another command wants the G-code mutex
EXTENSIONS = {".g", ".gco", ".gcode"}


class PrintStats:
    """`print_stats`: times in s of printer time, filament in mm."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self.reset()
        printer.objects["print_stats"] = self.status
        printer.commands["SET_PRINT_STATS_INFO"] = self._set_info

    def reset(self, filename: str = "") -> None:
        """No job, or one that has not begun."""
        self.filename, self.state, self.message = filename, "standby", ""
        self.total = self.filament = self._before_extrusion = self._paused_for = 0.0
        self._began: float | None = None
        self._paused_at: float | None = None
        self._last_e = 0.0
        self._layers: dict[str, int | None] = {"total_layer": None, "current_layer": None}

    def note_start(self) -> None:
        """Begun, or resumed."""
        now = self.printer.clock.now()
        self.printer.world.note("started" if self._began is None else "resumed", file=self.filename)
        if self._began is None:
            self._began = now
        elif self._paused_at is not None:
            self._paused_for += now - self._paused_at
            self._paused_at = None
        self._last_e = self.printer.moves.modes.last[3]
        self.state, self.message = "printing", ""

    def note_pause(self) -> None:
        """The file has stopped in its middle."""
        if self._paused_at is None:
            self.printer.world.note("paused", file=self.filename)
            self._paused_at = self.printer.clock.now()
            self._count_filament()
        if self.state != "error":
            self.state = "paused"

    def note_end(self, state: str, message: str = "") -> None:
        """complete, cancelled or error; nothing when no job runs."""
        if self._began is None:
            return
        self._update()
        self.printer.world.note(state, file=self.filename)
        self.state, self.message = state, message
        if self._paused_at is not None:
            self._paused_for += self.printer.clock.now() - self._paused_at
        self._began = self._paused_at = None

    def status(self) -> dict[str, Any]:
        """The object's fields."""
        self._update()
        paused = self._paused_for
        if self._paused_at is not None:
            paused += self.printer.clock.now() - self._paused_at
        return {
            "filename": self.filename,
            "total_duration": self.total,
            "print_duration": max(0.0, self.total - self._before_extrusion - paused),
            "filament_used": self.filament,
            "state": self.state,
            "message": self.message,
            "info": dict(self._layers),
        }

    def _update(self) -> None:
        if self._began is None:
            return
        now = self.printer.clock.now()
        if self._paused_at is None:
            self._count_filament()
        self.total = now - self._began
        if self.filament < 1e-7:
            paused = self._paused_for + (now - self._paused_at if self._paused_at is not None else 0.0)
            self._before_extrusion = self.total - paused

    def _count_filament(self) -> None:
        modes = self.printer.moves.modes
        self.filament += (modes.last[3] - self._last_e) / modes.extrude_factor
        self._last_e = modes.last[3]

    async def _set_info(self, command: Command) -> None:
        total, current = command.get_int("TOTAL_LAYER", -1), command.get_int("CURRENT_LAYER", -1)
        if total == 0:
            self._layers = {"total_layer": None, "current_layer": None}
        elif total > 0 and total != self._layers["total_layer"]:
            self._layers = {"total_layer": total, "current_layer": 0}
        if current >= 0 and (most := self._layers["total_layer"]) is not None:
            self._layers["current_layer"] = min(current, most)


class VirtualSd:
    """`virtual_sdcard`: a folder of G-code, and the worker that feeds one file into the printer, a line at a time."""

    def __init__(self, printer: Printer, folder: Path, on_error_gcode: str) -> None:
        self.printer, self.folder, self._on_error = printer, folder, on_error_gcode
        self.path: Path | None = None
        self.position = self.size = 0
        self.from_file = False  # the command that runs now stands in the file
        self._worker: asyncio.Task[None] | None = None
        self._must_pause = False
        printer.objects["virtual_sdcard"] = self.status
        printer.commands |= {
            "SDCARD_PRINT_FILE": self._print_file,
            "SDCARD_RESET_FILE": self._reset_file,
            "M20": self._list,
            "M21": self._m21,
            "M23": self._m23,
            "M24": self._m24,
            "M25": self._m25,
            "M26": self._m26,
            "M27": self._m27,
        }

    @property
    def active(self) -> bool:
        """A file is being printed now: false while it is paused."""
        return self._worker is not None

    def progress(self) -> float:
        """0..1 of the file's bytes."""
        return self.position / self.size if self.size else 0.0

    def status(self) -> dict[str, Any]:
        """The object's fields."""
        return {
            "file_path": str(self.path) if self.path else None,
            "progress": self.progress(),
            "is_active": self.active,
            "file_position": self.position,
            "file_size": self.size,
        }

    def halt(self) -> None:
        """A shutdown: the worker ends after its line."""
        self._must_pause = self.active

    async def pause(self) -> None:
        """Stop after the current line, and wait until that is so (not when the line itself asks)."""
        self._must_pause = self.active
        if self._worker is not None and not self.from_file:
            await asyncio.wait({self._worker})

    def resume(self) -> None:
        """Start or go on."""
        if self.active:
            raise KlipperError("SD busy")
        self._must_pause = False
        self._worker = self.printer.spawn(self._work())

    async def cancel(self) -> None:
        """Drop the file."""
        if self.path is not None:
            await self.pause()
            self.path = None
            self.printer.print_stats.note_end("cancelled")
        self.position = self.size = 0

    async def _reset(self) -> None:
        if self.path is not None:
            await self.pause()
            self.path = None
        self.position = self.size = 0
        self.printer.print_stats.reset()
        self.printer.exclude.reset()

    async def _work(self) -> None:
        error: str | None = None
        self.printer.print_stats.note_start()
        if self.position == 0:
            self.printer.world.counters["prints_started"] += 1
        try:
            assert self.path is not None
            with self.path.open("rb") as file:
                file.seek(self.position)
                error = await self._feed(file)
        except OSError:
            pass  # the file has gone: Klipper, too, only stops
        self._worker, self.from_file = None, False
        if error is not None:
            self.printer.print_stats.note_end("error", error)
        elif self.path is not None:
            self.printer.print_stats.note_pause()
        else:
            self.printer.print_stats.note_end("complete")

    async def _feed(self, file: IO[bytes]) -> str | None:
        """Run line after line; the text of the error that ended it, or None."""
        lines: list[bytes] = []
        rest = b""
        while not self._must_pause:
            if not lines:
                data = file.read(CHUNK)
                if not data:
                    self.path = None
                    self.printer.gcode.respond("Done printing file")
                    return None
                *lines, rest = (rest + data).split(b"\n")
                lines.reverse()
                await asyncio.sleep(0)
                continue
            if self.printer.gcode.busy() or self.printer.world.faults.file.held:
                await asyncio.sleep(YIELD_EVERY)
                continue
            line = lines.pop()
            text = line.decode("utf-8", "replace")
            self.printer.world.faults.file.reach(text)
            error = await self._run_line(text)
            if error is not None:
                await self._after_error()
                return error
            self.from_file = False
            self.position += len(line) + 1
        return None

    async def _run_line(self, line: str) -> str | None:
        async with self.printer.gcode.mutex:
            self.from_file = True
            try:
                await self.printer.gcode.run_inside(line)
            except KlipperError as error:
                return str(error)
        return None

    async def _after_error(self) -> None:
        if not self._on_error:
            return
        try:
            await self.printer.gcode.run(self._on_error)
        except KlipperError:
            return  # the first error is the one that is told

    async def _load(self, name: str) -> None:
        files = [p for p in self.folder.rglob("*") if p.suffix in EXTENSIONS and p.is_file()]
        names = {str(p.relative_to(self.folder)): p for p in files}
        path = names.get(name) or {known.lower(): p for known, p in names.items()}.get(name.lower())
        if path is None:
            raise KlipperError("Unable to open file")
        self.size = path.stat().st_size
        self.printer.gcode.respond(f"File opened:{name} Size:{self.size}")
        self.printer.gcode.respond("File selected")
        self.path, self.position = path, 0
        self.printer.print_stats.reset(name)

    async def _print_file(self, command: Command) -> None:
        if self.active:
            raise KlipperError("SD busy")
        await self._reset()
        await self._load(command.get("FILENAME").removeprefix("/"))
        self.resume()

    async def _reset_file(self, _: Command) -> None:
        if self.from_file:
            raise KlipperError("SDCARD_RESET_FILE cannot be run from the sdcard")
        await self._reset()

    async def _list(self, _: Command) -> None:
        self.printer.gcode.respond("Begin file list")
        for path in sorted(self.folder.glob("*.g*")):
            self.printer.gcode.respond(f"{path.name} {path.stat().st_size}")
        self.printer.gcode.respond("End file list")

    async def _m21(self, _: Command) -> None:
        self.printer.gcode.respond("SD card ok")

    async def _m23(self, command: Command) -> None:
        if self.active:
            raise KlipperError("SD busy")
        await self._reset()
        await self._load(command.raw.removeprefix("/"))

    async def _m24(self, _: Command) -> None:
        self.resume()

    async def _m25(self, _: Command) -> None:
        await self.pause()

    async def _m26(self, command: Command) -> None:
        if self.active:
            raise KlipperError("SD busy")
        self.position = command.get_int("S")

    async def _m27(self, _: Command) -> None:
        if self.path is None:
            self.printer.gcode.respond("Not SD printing.")
        else:
            self.printer.gcode.respond(f"SD printing byte {self.position}/{self.size}")


class PauseResume:
    """`pause_resume`: the base commands, which the printer's macros wrap."""

    def __init__(self, printer: Printer) -> None:
        self.printer = printer
        self.paused = False
        self._sd_paused = self._pause_sent = False
        printer.objects["pause_resume"] = lambda: {"is_paused": self.paused}
        printer.commands |= {
            "PAUSE_BASE": self._pause,
            "RESUME_BASE": self._resume,
            "CANCEL_PRINT_BASE": self._cancel,
            "CLEAR_PAUSE": self._clear,
        }

    async def stop_job(self) -> None:
        """Stop the file, or say that somebody else's job should stop.

        Once: until the next resume, more calls do nothing.
        """
        if self._pause_sent:
            return
        self._sd_paused = self.printer.sdcard.active
        if self._sd_paused:
            await self.printer.sdcard.pause()
        else:
            self.printer.gcode.info("action:paused")
        self._pause_sent = True

    async def _pause(self, _: Command) -> None:
        if self.paused:
            self.printer.gcode.info("Print already paused")
            return
        await self.stop_job()
        await self.printer.gcode.run_inside("SAVE_GCODE_STATE NAME=PAUSE_STATE")
        self.paused = True

    async def _resume(self, command: Command) -> None:
        if not self.paused:
            self.printer.gcode.info("Print is not paused, resume aborted")
            return
        velocity = command.get_float("VELOCITY", 50.0)
        await self.printer.gcode.run_inside(f"RESTORE_GCODE_STATE NAME=PAUSE_STATE MOVE=1 MOVE_SPEED={velocity}")
        if self._sd_paused:
            self.printer.sdcard.resume()
        else:
            self.printer.gcode.info("action:resumed")
        self.paused = self._sd_paused = self._pause_sent = False

    async def _cancel(self, command: Command) -> None:
        if self.printer.sdcard.active or self._sd_paused:
            await self.printer.sdcard.cancel()
        else:
            self.printer.gcode.info("action:cancel")
        await self._clear(command)

    async def _clear(self, _: Command) -> None:
        self.paused = self._pause_sent = self._sd_paused = False
