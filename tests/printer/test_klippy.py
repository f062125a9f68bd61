"""Klipper is followed through its restarts, its silence and its shutdowns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.moonraker.rpc import RpcTimeout
from printago_moonraker.printer import klippy
from tests.fakes.klipper import PATH, bench, printing, snapshot
from tests.fakes.moonraker import SILENT, Refusal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(klippy, "POLL", 0.02)


async def test_it_subscribes_to_what_is_there(tmp_path: Path) -> None:
    """State, facts and version are known, and the configuration is asked for with the same call."""
    async with bench(tmp_path) as it:
        assert it.printer.state.klippy is KlippyState.READY
        assert it.printer.facts.kinematics == "corexy"
        assert it.printer.versions["klipper"] == "v0.13.0"
        (params,) = it.requests("printer.objects.subscribe")
        assert params["objects"]["configfile"] == ["settings"]
        assert "gcode" not in params["objects"]


async def test_it_subscribes_again_when_klipper_is_back(tmp_path: Path) -> None:
    """Each restart drops the subscription without a word."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        await it.klippy_goes("disconnected")
        await it.until(lambda: it.printer.state.klippy is KlippyState.DISCONNECTED)
        assert it.printer.state.objects == {}
        await it.klippy_goes("ready")
        await it.until(lambda: it.printer.state.klippy is KlippyState.READY)
        assert [each.change.value for each in it.transitions] == ["PrintStarted", "PrintFailed"]
        assert it.transitions[-1].reason == "klippy_disconnected"


async def test_silence_is_asked(tmp_path: Path) -> None:
    """Starting up, and ending in an error instead, sends no notification at all."""
    async with bench(tmp_path) as it:
        await it.klippy_goes("disconnected")
        await it.klippy_goes("startup")
        await it.until(lambda: it.printer.state.klippy is KlippyState.STARTUP)
        await it.klippy_goes("error", "mcu 'mcu': Unable to connect\nOnce")
        await it.until(lambda: it.printer.state.klippy is KlippyState.ERROR)
        assert it.printer.state.klippy_message.startswith("mcu 'mcu': Unable to connect")


async def test_a_ready_klipper_is_left_alone(tmp_path: Path) -> None:
    """It says by itself what changes."""
    async with bench(tmp_path) as it:
        count = len(it.requests("server.info"))
        for number in range(5):
            await it.push(extruder={"temperature": 30.0 + number})
        assert len(it.requests("server.info")) == count


async def test_a_klipper_that_goes_away_between_two_calls(tmp_path: Path) -> None:
    """A refusal half-way is no end of the connection: it is asked again."""
    async with bench(tmp_path) as it:
        good = it.moonraker.answers["printer.objects.subscribe"]
        it.moonraker.answers["printer.objects.subscribe"] = Refusal(503, "Klippy Disconnected")
        await it.klippy_goes("disconnected")
        await it.klippy_goes("ready")
        await it.called("printer.objects.subscribe", 3)
        it.moonraker.answers["printer.objects.subscribe"] = good
        await it.until(lambda: it.printer.state.klippy is KlippyState.READY)
        assert len(it.moonraker.handshakes) == 1


async def test_a_shutdown_is_known_at_once_with_its_reason(tmp_path: Path) -> None:
    """The G-code response comes a tick before the status, and tells no reason: Klipper is asked for it. How the print
    ended, the status says.
    """
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.moonraker.answers["printer.objects.subscribe"] = SILENT  # it is answered on the tick, which is too late
        it.klippy = "shutdown"
        it.status["webhooks"] = {"state": "shutdown", "state_message": "Shutdown due to webhooks request\nOnce"}
        await it.moonraker.notify("notify_gcode_response", "// Klipper state: Shutdown")
        await it.until(lambda: it.printer.state.klippy is KlippyState.SHUTDOWN and it.printer.state.klippy_message)
        assert len(it.transitions) == 1
        await it.push(webhooks=it.status["webhooks"])
        await it.until(lambda: len(it.transitions) == 2)
        assert it.transitions[-1].reason == "Shutdown due to webhooks request"
        assert it.printer.state.number("extruder", "temperature") is not None, "the status goes on in a shutdown"


async def test_what_a_person_prints_is_no_shutdown(tmp_path: Path) -> None:
    """`RESPOND MSG="Klipper state: Shutdown"` of a macro stops nothing."""
    async with bench(tmp_path) as it:
        await it.moonraker.notify("notify_gcode_response", "// Klipper state: Shutdown")
        await it.called("printer.info", 2)
        await it.push(extruder={"temperature": 31.0})
        assert it.printer.state.klippy is KlippyState.READY


@pytest.mark.parametrize(
    ("history", "told"),
    [
        ({"jobs": [{"filename": PATH, "status": "completed"}]}, "PrintDone"),
        ({"jobs": [{"filename": PATH, "status": "cancelled"}]}, "PrintCancelled"),
        ({"jobs": [{"filename": PATH, "status": "klippy_shutdown"}]}, "PrintFailed"),
        ({"jobs": []}, "PrintFailed"),
        (Refusal(-32601, "Method not found"), "PrintFailed"),
    ],
)
async def test_history_tells_the_end(tmp_path: Path, history: object, told: str) -> None:
    """Klipper restarted while the link was down: one end, also when Moonraker keeps no history."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.moonraker.answers["server.history.list"] = history
        it.status = snapshot()
        it.moonraker.drop()
        await it.until(lambda: len(it.transitions) == 2)
        assert it.transitions[-1].change.value == told
        assert len(it.moonraker.handshakes) == 2


async def test_moonrakers_restart_is_not_the_prints_end(tmp_path: Path) -> None:
    """Klipper prints on; for a second Moonraker says that it is not connected."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.moonraker.answers["server.history.list"] = {"jobs": [{"filename": PATH, "status": "server_exit"}]}
        before, it.klippy = it.status, "disconnected"
        it.moonraker.drop()
        await it.until(lambda: it.printer.state.klippy is KlippyState.DISCONNECTED)
        it.klippy, it.status = "ready", before
        await it.until(lambda: it.printer.state.klippy is KlippyState.READY)
        await it.push(**printing("complete"))
        assert [each.change.value for each in it.transitions] == ["PrintStarted", "PrintDone"]


async def test_a_history_that_fails_is_asked_again(tmp_path: Path) -> None:
    """A database that is locked for a second must not turn a finished print into a failed one."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        answers = iter([Refusal(500, "database is locked"), Refusal(503, "busy")])
        finished = {"jobs": [{"filename": PATH, "status": "completed"}]}
        it.moonraker.answers["server.history.list"] = lambda _: next(answers, finished)
        it.status = snapshot()
        it.moonraker.drop()
        await it.until(lambda: len(it.transitions) == 2)
        assert it.transitions[-1].change.value == "PrintDone"


async def test_a_history_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """One end for each print, be it "unknown"."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.moonraker.answers["server.history.list"] = Refusal(500, "database disk image is malformed")
        it.status = snapshot()
        it.moonraker.drop()
        await it.until(lambda: len(it.transitions) == 2)
        assert (it.transitions[-1].change.value, it.transitions[-1].reason) == ("PrintFailed", "unknown")
        assert len(it.requests("server.history.list")) == klippy.ASK_HISTORY


async def test_a_klipper_that_never_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moonraker restarted in the middle of a print, and Klipper is gone since: the print has failed."""
    monkeypatch.setattr(klippy, "AWAY", {KlippyState.DISCONNECTED: 0.1})
    async with bench(tmp_path) as it:
        await it.push(**printing())
        it.moonraker.answers["server.history.list"] = {"jobs": [{"filename": PATH, "status": "server_exit"}]}
        it.klippy = "disconnected"
        it.moonraker.drop()
        await it.until(lambda: len(it.transitions) == 2)
        assert (it.transitions[-1].change.value, it.transitions[-1].reason) == ("PrintFailed", "server_exit")


async def test_a_klipper_that_hangs_costs_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moonraker is there and passes on what there is; it is asked again."""
    async with bench(tmp_path) as it:
        good = it.moonraker.answers["printer.info"]
        monkeypatch.setattr(type(it.printer.api), "printer_info", _too_slow)
        await it.klippy_goes("disconnected")
        await it.klippy_goes("ready")
        await it.called("server.info", 4)
        monkeypatch.undo()
        monkeypatch.setattr(klippy, "POLL", 0.02)
        it.moonraker.answers["printer.info"] = good
        await it.until(lambda: it.printer.state.klippy is KlippyState.READY)
        assert len(it.moonraker.handshakes) == 1


async def _too_slow(_: object) -> None:
    raise RpcTimeout("printer.info: no answer within 10 s.")
