"""A command's outcome is what the printer shows, never what a call returned."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from printago_moonraker import errors
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.moonraker.rpc import RpcError, RpcTimeout
from printago_moonraker.printer import printer as module
from printago_moonraker.printer.phase import Phase
from tests.fakes.clock import run
from tests.fakes.klipper import PATH, Recorder, bench, printing, snapshot
from tests.fakes.moonraker import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from printago_moonraker.printer.printer import Printer
    from tests.fakes.clock import ClockLoop


def paused(printer: Printer) -> Callable[[], bool]:
    return lambda: printer.phase is Phase.PAUSED


def carried_out(
    *,
    result: str | Exception | None = "ok",
    result_at: float = 1.0,
    change_at: float | None = None,
    change: Callable[[Printer], None] = lambda printer: printer.apply(printing("paused")),
    goal: Callable[[Printer], Callable[[], bool]] | None = paused,
    timeout: float = 600.0,
) -> float:
    """How many seconds `carry_out` takes for a call that ends at `result_at` (None: never) beside a `change`."""

    async def main(loop: ClockLoop) -> float:
        printer = Recorder().ready(print_stats={"state": "printing", "filename": PATH})
        begun = loop.time()

        async def call() -> object:
            await asyncio.sleep(result_at if result is not None else 1e6)
            if isinstance(result, Exception):
                raise result
            return result

        timer = loop.call_later(change_at, change, printer) if change_at is not None else None
        try:
            await printer.carry_out("The pause", call(), goal and goal(printer), timeout=timeout)
        finally:
            assert len(asyncio.all_tasks()) == 1, "nothing of it goes on"
            assert printer._watchers == {}
            if timer is not None:
                timer.cancel()
        return loop.time() - begun

    return run(main)


def test_seen_before_the_answer() -> None:
    """Done when the printer shows it, although the macro's moves go on and the call has not returned."""
    assert carried_out(result=None, change_at=3.0) == pytest.approx(3.0)


def test_seen_after_the_answer() -> None:
    """The status comes up to a tick later than the "ok"."""
    assert carried_out(result_at=1.0, change_at=1.25) == pytest.approx(1.25)


def test_refused_but_seen() -> None:
    """A macro that fails after it has paused has paused, also when the status comes only after the refusal."""
    refusal = RpcError(400, "Error evaluating 'gcode_macro PAUSE:gcode'")
    assert carried_out(result=refusal, result_at=1.0, change_at=0.9) == pytest.approx(0.9)
    assert carried_out(result=refusal, result_at=1.0, change_at=1.2) == pytest.approx(1.2)


def test_refused_and_not_seen() -> None:
    """Then it is Klipper's refusal."""
    with pytest.raises(errors.GcodeError, match="macro"):
        carried_out(result=RpcError(400, "Error evaluating 'gcode_macro PAUSE:gcode'"))


def test_accepted_but_never_seen() -> None:
    """An "ok" is no success."""
    with pytest.raises(errors.OutcomeUnknown, match="the pause was not seen within 5 s"):
        carried_out()


def test_neither_answered_nor_seen() -> None:
    """The sentence says that the outcome is unknown."""
    with pytest.raises(errors.OutcomeUnknown, match=r"600 s; its outcome is unknown"):
        carried_out(result=None)


@pytest.mark.parametrize("lost", [errors.ConnectionLost("The link broke."), RpcTimeout("No answer.")])
def test_the_answer_is_lost(lost: Exception) -> None:
    """Klipper may have accepted it: what the printer shows within half a minute decides."""
    assert carried_out(result=lost, change_at=20.0) == pytest.approx(20.0)
    with pytest.raises(errors.OutcomeUnknown, match="got no answer"):
        carried_out(result=lost)
    with pytest.raises(errors.OutcomeUnknown, match="got no answer"):
        carried_out(result=lost, goal=None)


@pytest.mark.parametrize("result_at", [1.0, 1e5])
def test_a_klipper_that_stops(result_at: float) -> None:
    """After an emergency stop Klipper answers "ok" to what it cut short: that is no success, nor worth waiting for."""

    def stop(printer: Printer) -> None:
        printer.apply({"webhooks": {"state": "shutdown", "state_message": "Shutdown due to M112\nOnce"}})

    for goal in (paused, None):
        with pytest.raises(errors.PrinterNotReady, match="The pause was cut short: Shutdown due to M112"):
            carried_out(result_at=result_at, change_at=0.5, change=stop, goal=goal)


def test_a_klipper_that_goes_away() -> None:
    """A killed Klipper is offline, not merely not ready."""
    with pytest.raises(errors.PrinterOffline, match="not running"):
        carried_out(result=None, change_at=0.5, change=lambda printer: printer.klippy_is(KlippyState.DISCONNECTED))


def test_without_a_goal_the_answer_decides() -> None:
    """A move has no state to be seen in: Klipper answers when it has ended."""
    assert carried_out(result_at=7.0, goal=None) == pytest.approx(7.0)


def test_cancelling_leaves_nothing() -> None:
    """Nobody waits any more, and no task goes on."""

    async def main(loop: ClockLoop) -> None:
        printer = Recorder().ready()
        task = loop.create_task(printer.carry_out("The pause", asyncio.sleep(100), paused(printer)))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert len(asyncio.all_tasks()) == 1
        assert printer._watchers == {}

    run(main)


async def test_seen_after_a_reconnect(tmp_path: Path) -> None:
    """The link breaks with the call under way; the snapshot of the next one shows that it was done."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.send("printer_control.pause_print")
        await it.called("printer.print.pause")
        it.status = snapshot(print_stats={"state": "paused", "filename": PATH})
        it.moonraker.drop()
        assert (await it.answered())[0] == "success"
        assert [each.change.value for each in it.transitions] == ["PrintStarted", "PrintPaused"]


async def test_not_seen_after_a_reconnect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that broke tells nothing of the print: "it has ended" would be a lie."""
    monkeypatch.setattr(module, "SETTLE", 0.05)
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.send("printer_control.pause_print")
        await it.called("printer.print.pause")
        it.moonraker.drop()
        assert (await it.answered())[1]["code"] == "timeout"


async def test_nothing_can_be_called_while_offline(tmp_path: Path) -> None:
    """The sentence names Moonraker's URL."""
    async with bench(tmp_path, connected=False) as it:
        kind, data = await it.run("printer_control.pause_print")
        assert (kind, data["code"]) == ("error", "printer_offline")
        assert it.printer.config.moonraker_url in data["error"]


async def test_klippers_refusal_reaches_the_cloud(tmp_path: Path) -> None:
    """Through a real connection: the code, and Klipper's words."""
    async with bench(tmp_path) as it:
        it.moonraker.answers["printer.gcode.script"] = Refusal(400, "Must home axis first: 1.000 0.000")
        assert await it.run("movement_control.home") == (
            "error",
            {"error": "Must home axis first: 1.000 0.000", "code": "not_homed"},
        )


@pytest.mark.parametrize(
    ("state", "message", "error", "sentence"),
    [
        (KlippyState.DISCONNECTED, "", errors.PrinterOffline, "not running"),
        (KlippyState.STARTUP, "", errors.PrinterNotReady, "startup"),
        (KlippyState.SHUTDOWN, "Shutdown due to M112 command\nOnce", errors.PrinterNotReady, "M112 command$"),
        (KlippyState.ERROR, "mcu 'mcu': Unable to connect", errors.PrinterNotReady, "Unable to connect"),
        (KlippyState.UNKNOWN, "", errors.PrinterNotReady, "unknown"),
    ],
)
async def test_ready_is_asked_for_with_a_reason(
    tmp_path: Path, state: KlippyState, message: str, error: type[Exception], sentence: str
) -> None:
    """The message says which state keeps Klipper from taking commands, and why."""
    async with bench(tmp_path) as it:
        it.printer.require_ready()
        it.printer.klippy_is(state, message)
        with pytest.raises(error, match=sentence):
            it.printer.require_ready()


@pytest.mark.parametrize("pause_first", [True, False])
def test_operations_may_overlap(pause_first: bool) -> None:
    """A stop overtakes a pause that waits for a heater; whichever ends first, nothing of either stays."""
    printer = Recorder().ready(print_stats={"state": "printing", "filename": PATH})
    pause, stop = printer.operation(Phase.PAUSING), printer.operation(Phase.CANCELLING)
    phases = []
    ends = [pause, stop] if pause_first else [stop, pause]
    steps: list[Callable[[], object]] = [pause.__enter__, stop.__enter__]
    for step in steps + [partial(end.__exit__, None, None, None) for end in ends]:
        step()
        phases.append(printer.phase)
    between = Phase.CANCELLING if pause_first else Phase.PAUSING
    assert phases == [Phase.PAUSING, Phase.CANCELLING, between, Phase.PRINTING]


def test_the_end_of_a_cancel_by_the_agent_is_a_cancel() -> None:
    """An error line that the cancel macro causes makes no failure of it."""
    recorder = Recorder()
    printer = recorder.ready(print_stats={"state": "printing", "filename": PATH})
    with printer.operation(Phase.CANCELLING):
        printer.prints.gcode_error("Move out of range", time.monotonic())
        printer.apply(printing("cancelled"))
    assert recorder.changes == ["PrintStarted", "PrintCancelled"]


def test_a_lost_moonraker_shows_nothing() -> None:
    """Neither temperatures nor a job: they could not be true."""
    printer = Recorder().ready(print_stats={"state": "printing", "filename": PATH})
    printer.detach()
    assert (printer.phase, printer.state.objects) == (Phase.OFFLINE, {})
    assert printer.prints.current is not None, "but Klipper may go on printing"


def test_a_delta_that_overtakes_its_snapshot_is_kept() -> None:
    """Answer and delta may come in one burst: what is newer than the snapshot stands, what is older does not."""
    printer = Recorder().printer
    printer.expect_snapshot()
    printer.apply({"print_stats": {"filename": "old.gcode"}, "toolhead": {"homed_axes": "x"}}, 9.0)
    printer.apply({"toolhead": {"homed_axes": "xyz"}}, 11.0)
    printer.snapshot({"print_stats": {"filename": "new.gcode"}, "toolhead": {"homed_axes": "xy"}}, 10.0)
    assert (printer.state.filename, printer.state.homed_axes) == ("new.gcode", "xyz")
    printer.apply({"toolhead": {"homed_axes": ""}}, 12.0)
    printer.snapshot({"toolhead": {"homed_axes": "z"}}, 13.0)
    assert printer.state.homed_axes == "z"
