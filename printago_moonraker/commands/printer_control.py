"""Prints, files, and Klipper itself."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from printago_moonraker import errors, status
from printago_moonraker.commands.lanes import Lane
from printago_moonraker.commands.registry import (
    IDLE_ONLY,
    Answer,
    Context,
    Parameters,
    command,
    success,
)
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.moonraker.rpc import RpcError, RpcTimeout
from printago_moonraker.printer import gcode
from printago_moonraker.printer.phase import Phase
from printago_moonraker.printer.printer import PATIENCE
from printago_moonraker.printer.state import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from printago_moonraker.printer.starts import Start

OVER = {job for job in JobState if not job.on}
_RESTART_ACCEPTED = 30.0  # s; Klipper can be deadlocked after an emergency stop, and then never answers
_RESTARTED = 120.0  # s; a missing micro-controller is given up after 90


@command("printer_control.get_status", lane=Lane.BESIDE, needs_ready=False, read_only=True)
async def get_status(context: Context, parameters: Parameters) -> Answer:
    return Answer("status", status.build(context.printer, with_image=True))


@command("printer_control.download_gcode", lane=Lane.TRANSFER, needs_ready=False)
async def download_gcode(context: Context, parameters: Parameters) -> Answer:
    fetched = await context.jobs.fetch(parameters)
    return success("Download command issued successfully.", **fetched.describe())


@command("printer_control.start_print", busy=IDLE_ONLY, starts=True)
async def start_print(context: Context, parameters: Parameters) -> Answer:
    path = await context.jobs.locate(parameters["file_name"])
    await context.jobs.start(path, parameters.get("job_id"), _start(context), context.deadline)
    return success("Print start command issued successfully.", path=path)


@command("printer_control.start_print_bbl", lane=Lane.TRANSFER, busy=IDLE_ONLY, starts=True)
async def start_print_bbl(context: Context, parameters: Parameters) -> Answer:
    start = _start(context)
    async with start.interrupted():
        fetched = await context.jobs.fetch(parameters)
    async with context.lanes.turn(Lane.ORDERED):
        if time.monotonic() > context.expires:
            raise errors.Expired("The command expired during the download; the file is there, and not printed.")
        await context.jobs.start(fetched.path, parameters.get("job_id"), start, context.expires)
    return success("Print start command issued successfully.", **fetched.describe())


def _start(context: Context) -> Start:
    assert context.start is not None, "declared with `starts`"
    return context.start


@command("printer_control.pause_print", lane=Lane.BESIDE)
async def pause_print(context: Context, parameters: Parameters) -> Answer:
    message, printer = "Print paused command issued successfully.", context.printer
    _refuse_while_cancelling(context)
    await _not_in(context, Phase.STARTING)
    job = await _job(context, JobState.PRINTING)
    if job is JobState.PAUSED:
        return success(message, already=True)
    if job is not JobState.PRINTING:
        raise errors.NotPrinting("Nothing is printing, so there is nothing to pause.")
    await _steer(context, "The pause", Phase.PAUSING, printer.api.print_pause(), {JobState.PAUSED})
    return success(message)


@command("printer_control.resume_print")
async def resume_print(context: Context, parameters: Parameters) -> Answer:
    message, printer = "Print resumed command issued successfully.", context.printer
    _refuse_while_cancelling(context)
    await _not_in(context, Phase.PAUSING)
    job = await _job(context, JobState.PAUSED)
    if job is JobState.PRINTING:
        return success(message, already=True)
    if job is not JobState.PAUSED:
        raise errors.NotPaused("No print is paused, so there is nothing to resume.")
    # What has come to its end meanwhile was resumed.
    resumed = {JobState.PRINTING, JobState.COMPLETE, JobState.ERROR}
    await _steer(context, "The resume", Phase.RESUMING, printer.api.print_resume(), resumed)
    return success(message)


@command("printer_control.stop_print", lane=Lane.BESIDE, needs_ready=False)
async def stop_print(context: Context, parameters: Parameters) -> Answer:
    message, printer = "Print stop command issued successfully.", context.printer
    taken_back = context.jobs.starts.stop(context.received)
    if taken_back and not (printer.phase is Phase.STARTING or printer.state.job.on):
        return success(message)
    printer.require_ready()
    await _not_in(context, Phase.STARTING)
    job = await _job(context, JobState.PRINTING, JobState.PAUSED)
    if not job.on and printer.prints.coming is not None:
        # Of a start nobody knows what became. Klipper does one after the other: whatever began is stopped by this.
        await printer.carry_out("The stop", printer.api.print_cancel())
        await printer.look_again()
        printer.prints.forget_expected()
        return success(message)
    if job is JobState.CANCELLED:
        return success(message, already=True)
    if not job.on:
        raise errors.NotPrinting("Nothing is printing, so there is nothing to stop.")
    await _steer(context, "The stop", Phase.CANCELLING, printer.api.print_cancel(), OVER)
    return success(message)


def _refuse_while_cancelling(context: Context) -> None:
    """Klipper would take a pause behind the cancel, and hold it against the next print."""
    if context.printer.phase is Phase.CANCELLING:
        raise errors.Busy("The print is being cancelled.")


async def _job(context: Context, *wanted: JobState) -> JobState:
    """How the print stands; looked at again when it is none of `wanted`, so that there would be nothing to do."""
    printer = context.printer
    if printer.state.job not in wanted:
        await printer.look_again()
    return printer.state.job


async def _not_in(context: Context, phase: Phase) -> None:
    """What Klipper has been given, but does not show yet, comes first: a stop would miss the print that begins after
    it, a resume the pause.
    """
    printer = context.printer
    if printer.phase is phase:
        if not await printer.until(lambda: printer.phase is not phase, PATIENCE):
            raise errors.OutcomeUnknown(f"The printer was {phase.lower()} for {PATIENCE:.0f} s, so nothing was done.")
        printer.require_ready()


async def _steer(context: Context, what: str, phase: Phase, call: Awaitable[None], goals: set[JobState]) -> None:
    """Pause, resume or cancel the print that is on; done when it shows one of `goals`, or that it is over."""
    printer = context.printer

    def shows(states: set[JobState]) -> bool:
        # Klipper out of sight, or gone, shows no job at all: that is not the end of one.
        return printer.state.klippy is KlippyState.READY and printer.state.job in states

    with printer.operation(phase):
        await printer.carry_out(what, call, lambda: shows(goals | OVER), timeout=PATIENCE)
    if not shows(goals):
        raise errors.NotPrinting(f"{what} came too late: the print has ended ({printer.state.job}).")


@command("printer_control.emergency_stop", lane=Lane.BESIDE, needs_ready=False, urgent=True)
async def emergency_stop(context: Context, parameters: Parameters) -> Answer:
    printer, message = context.printer, "Emergency stop command issued successfully."
    context.jobs.starts.stop(context.received)
    already = printer.state.klippy is KlippyState.SHUTDOWN
    try:
        await printer.api.emergency_stop()
    except RpcError as error:
        raise gcode.refusal(error) from None
    except (errors.ConnectionLost, RpcTimeout) as error:
        raise errors.OutcomeUnknown(f"The emergency stop got no answer ({error}); its outcome is unknown.") from None
    if not await printer.until(lambda: printer.state.klippy in (KlippyState.SHUTDOWN, KlippyState.ERROR), 5.0):
        raise errors.OutcomeUnknown("Klipper accepted the emergency stop, but was not seen to shut down within 5 s.")
    return success(message, already=True) if already else success(message)


@command("printer_control.restart", needs_ready=False, busy=IDLE_ONLY)
async def restart(context: Context, parameters: Parameters) -> Answer:
    await _restart(context, "The restart", context.printer.api.restart)
    return success("Restart command issued successfully.")


@command("printer_control.firmware_restart", needs_ready=False, busy=IDLE_ONLY)
async def firmware_restart(context: Context, parameters: Parameters) -> Answer:
    await _restart(context, "The firmware restart", context.printer.api.firmware_restart)
    return success("Firmware restart command issued successfully.")


async def _restart(context: Context, what: str, call: Callable[..., Awaitable[None]]) -> None:
    """Restart, and wait until Klipper has gone and come back. Its state right after the answer is still the old one."""
    state, printer = context.printer.state, context.printer
    printer.require_running()  # nobody would hear it, and Klipper's being gone would look like its going
    gone = asyncio.ensure_future(printer.until(lambda: state.klippy is KlippyState.DISCONNECTED, _RESTART_ACCEPTED))
    calling = asyncio.ensure_future(call())
    try:
        await asyncio.wait({gone, calling}, return_when=asyncio.FIRST_COMPLETED)
        if calling.done() and not gone.done():
            await _accepted(calling)
        if not await gone:
            raise errors.OutcomeUnknown(
                f"{what} was not seen within {_RESTART_ACCEPTED:.0f} s; its outcome is unknown."
            )
    finally:
        for task in (gone, calling):
            task.cancel()
        await asyncio.gather(gone, calling, return_exceptions=True)
    settled = (KlippyState.READY, KlippyState.ERROR, KlippyState.SHUTDOWN)
    if not await printer.until(lambda: state.klippy in settled, _RESTARTED):
        raise errors.OutcomeUnknown(f"Klipper restarted, but was not ready again within {_RESTARTED:.0f} s.")
    printer.require_ready()


async def _accepted(calling: asyncio.Future[None]) -> None:
    try:
        await calling
    except RpcError as error:
        refused = gcode.refusal(error)
        if not isinstance(refused, errors.PrinterOffline):  # "Klippy Disconnected" is what was asked for
            raise refused from None
    except (errors.ConnectionLost, RpcTimeout):
        pass  # only the printer can tell now
