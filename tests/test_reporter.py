"""When a status goes out, by an exact clock."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker import reporter
from printago_moonraker.config import StatusSection
from printago_moonraker.printer.phase import Phase
from printago_moonraker.reporter import Reporter
from tests.fakes.clock import ClockLoop, run
from tests.fakes.klipper import Recorder, printing

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE: dict[str, Any] = {}
PRINTING = printing(print_duration=5.0)
HEATING = {"extruder": {"target": 200.0}}


class Desk:
    """A reporter at work. `sent` are the times of its statuses, in s from the first one."""

    def __init__(self, loop: ClockLoop, changes: dict[str, dict[str, Any]]) -> None:
        self._loop = loop
        self.up = True
        self.sent: list[float] = []
        self.printer = Recorder().ready(**changes)
        self.reporter = Reporter(self.printer, StatusSection(), self._send, lambda: self.up)
        self.printer.on_change = lambda _: self.reporter.mark()
        self._begun = loop.time()

    def _send(self) -> None:
        assert self.up
        self.sent.append(round(self._loop.time() - self._begun, 3))

    async def at(self, time: float, **delta: dict[str, Any]) -> None:
        """Klipper's status changes `time` s after the beginning."""
        await asyncio.sleep(self._begun + time - self._loop.time())
        if delta:
            self.printer.apply(delta)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """When statuses go out in a scene: `times(scene, state of the printer at the beginning)`."""

    def play(scene: Callable[[Desk], Any], changes: dict[str, dict[str, Any]] = IDLE) -> list[float]:
        async def main(loop: ClockLoop) -> list[float]:
            monkeypatch.setattr(reporter, "time", SimpleNamespace(monotonic=loop.time))
            desk = Desk(loop, changes)
            desk.reporter.report()
            task = asyncio.create_task(desk.reporter.run())
            await scene(desk)
            task.cancel()
            await asyncio.wait([task])
            return desk.sent

        return run(main)

    return play


def test_a_change_of_state_goes_out_at_once(times: Callable[..., list[float]]) -> None:
    """However short the time since the last status; and only once."""

    async def scene(desk: Desk) -> None:
        await desk.at(0.1, **printing())
        await desk.at(0.2, **printing("paused"))
        await desk.at(0.3, **printing())
        await desk.at(20.0)

    assert times(scene) == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(("changes", "step"), [(IDLE, 10.0), (PRINTING, 2.0), (HEATING, 2.0)])
def test_changes_are_coalesced(
    times: Callable[..., list[float]], changes: dict[str, dict[str, Any]], step: float
) -> None:
    """At most every 2 s while printing or heating, every 10 s when idle; what came in between is in the next one."""

    async def scene(desk: Desk) -> None:
        for tick in range(1, 120):
            await desk.at(tick * 0.25, heater_bed={"temperature": 24.0 + tick})

    sent = times(scene, changes)
    assert sent == pytest.approx([step * number for number in range(len(sent))], abs=0.01)
    assert len(sent) == int(29.75 // step) + 1


def test_a_heartbeat(times: Callable[..., list[float]]) -> None:
    """Nothing changes: every 60 s a sign of life, counted from the last status."""

    async def scene(desk: Desk) -> None:
        await desk.at(70.0, heater_bed={"temperature": 50.0})
        await desk.at(200.0)

    assert times(scene) == pytest.approx([0.0, 60.0, 70.0, 130.0, 190.0], abs=0.01)


def test_a_first_change_after_a_pause_goes_out_at_once(times: Callable[..., list[float]]) -> None:
    """The interval is a limit, not a delay."""

    async def scene(desk: Desk) -> None:
        await desk.at(15.0, heater_bed={"temperature": 50.0})
        await desk.at(15.5)

    assert times(scene) == [0.0, 15.0]


def test_heating_shortens_the_wait(times: Callable[..., list[float]]) -> None:
    """A heater that is switched on while the idle interval runs is shown within 2 s."""

    async def scene(desk: Desk) -> None:
        await desk.at(1.0, heater_bed={"temperature": 25.0})
        await desk.at(3.5, extruder={"target": 200.0})
        await desk.at(9.0)

    sent = times(scene)
    assert len(sent) == 2
    assert 3.5 <= sent[1] <= 5.5


@pytest.mark.parametrize(
    ("delta", "matters"),
    [
        ({"heater_bed": {"temperature": 24.49}}, False),
        ({"heater_bed": {"temperature": 24.5}}, True),
        ({"heater_bed": {"target": 0.1}}, True),
        ({"fan": {"speed": 0.01}}, True),
        ({"fan": {"rpm": 5000}}, False),
        ({"pause_resume": {"is_paused": True}}, False),
        ({"print_stats": {"total_duration": 99.0, "filament_used": 5.0}}, False),
        ({"gcode_move": {"speed_factor": 1.5}}, True),
        ({"gcode_move": {"gcode_position": [11.0, 20.0, 5.0, 0.0]}}, True),
        ({"toolhead": {"homed_axes": ""}}, True),
        ({"display_status": {"message": "hello"}}, True),
        ({"filament_switch_sensor runout": {"filament_detected": False}}, True),
        ({"temperature_fan host": {"temperature": 40.4}}, False),
        ({"temperature_fan host": {"temperature": 40.5}}, True),
    ],
)
def test_what_matters(times: Callable[..., list[float]], delta: dict[str, dict[str, Any]], matters: bool) -> None:
    """A temperature by 0.5 °C, a target always; what only flickers or counts rides along."""

    async def scene(desk: Desk) -> None:
        await desk.at(20.0, **delta)
        await desk.at(40.0)

    assert times(scene) == ([0.0, 20.0] if matters else [0.0])


def test_another_print_to_come_matters(times: Callable[..., list[float]]) -> None:
    """While one starts, Klipper shows nothing new: that it is another one, or another's, goes out all the same."""

    async def scene(desk: Desk) -> None:
        tracker, state = desk.printer.prints, desk.printer.state
        with desk.printer.operation(Phase.STARTING):
            for at, path, job_id in ((10.0, "a.gcode", "1"), (20.0, "b.gcode", "1"), (30.0, "b.gcode", "2")):
                await desk.at(at)
                tracker.expect(path, job_id, state)
                desk.printer.changed()
            await desk.at(40.0)

    assert times(scene) == [0.0, 0.0, 10.0, 20.0, 30.0, 40.0]


def test_small_steps_add_up(times: Callable[..., list[float]]) -> None:
    """A slow drift is compared with what was reported, not with the last tick."""

    async def scene(desk: Desk) -> None:
        for tick in range(1, 21):
            await desk.at(tick * 1.0, heater_bed={"temperature": 24.0 + tick * 0.05})
        await desk.at(21.0)

    assert times(scene) == [0.0, 10.0, 20.0]


@pytest.mark.parametrize(("step", "matters"), [(0.0009, False), (0.0011, True)])
def test_progress_counts_by_a_tenth_of_a_percent(times: Callable[..., list[float]], step: float, matters: bool) -> None:
    """While printing the position is no news by itself."""

    async def scene(desk: Desk) -> None:
        done, position = {"progress": step}, [1.0, 2.0, 3.0, 4.0]
        await desk.at(5.0, virtual_sdcard=done, display_status=done, gcode_move={"gcode_position": position})
        await desk.at(8.0)

    assert times(scene, PRINTING) == ([0.0, 5.0] if matters else [0.0])


def test_a_temperature_fan_does_not_heat(times: Callable[..., list[float]]) -> None:
    """Its target never goes away; the printer is idle all the same."""

    async def scene(desk: Desk) -> None:
        for tick in range(1, 40):
            await desk.at(tick * 0.5, **{"temperature_fan host": {"temperature": 40.0 + tick}})

    assert times(scene) == [0.0, 10.0]


def test_nothing_is_sent_while_the_link_is_down(times: Callable[..., list[float]]) -> None:
    """Nor later in its stead: what goes out when it is up again is of that moment."""

    async def scene(desk: Desk) -> None:
        desk.up = False
        for tick in range(1, 30):
            await desk.at(tick * 5.0, heater_bed={"temperature": 24.0 + tick})
        await desk.at(150.0, **printing())
        desk.up = True
        desk.reporter.report()  # as the session does
        await desk.at(155.0)

    assert times(scene) == [0.0, 150.0]


def test_a_change_that_came_while_down_is_not_lost(times: Callable[..., list[float]]) -> None:
    """What could not be reported counts as unreported."""

    async def scene(desk: Desk) -> None:
        desk.up = False
        await desk.at(20.0, heater_bed={"temperature": 60.0})
        await desk.at(21.0)
        desk.up = True
        await desk.at(35.0, heater_bed={"temperature": 60.1})
        await desk.at(36.0)

    assert times(scene) == [0.0, 35.0]
