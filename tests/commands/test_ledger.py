"""Never twice: what the ledger knows is not carried out again, and what it lost is said."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from printago_moonraker.clock import Clock
from printago_moonraker.commands import interrupted, registry
from printago_moonraker.commands.admission import Acknowledgements
from printago_moonraker.commands.executor import Executor
from printago_moonraker.commands.interrupted import answer_interrupted
from printago_moonraker.commands.lanes import Lane
from printago_moonraker.commands.registry import Answer, Command, Context, success
from printago_moonraker.moonraker.api import KlippyState
from printago_moonraker.printago.endpoint import Message
from printago_moonraker.printago.store import Record
from tests.fakes.klipper import PATH, Bench, bench, printing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from printago_moonraker.commands.registry import Parameters

HOME = {"type": "movement_control", "action": "home", "parameters": {}}
STOP = {"type": "printer_control", "action": "emergency_stop", "parameters": {}}


class Counted:
    """A `movement_control.home` that counts how often it is carried out, and waits for `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        self.go = asyncio.Event()
        self.go.set()
        command = Command("movement_control", "home", self.handle, Lane.ORDERED, False, frozenset())
        monkeypatch.setitem(registry.REGISTRY, ("movement_control", "home"), command)

    async def handle(self, context: Context, parameters: Parameters) -> Answer:
        self.runs += 1
        number = self.runs
        await self.go.wait()
        return success("Done.", number=number)


def payload(**members: Any) -> bytes:
    return json.dumps({**HOME, **members}).encode()


@asynccontextmanager
async def restarted(it: Bench, stops: set[str] | None = None) -> AsyncIterator[None]:
    """Another process's executor on the same ledger."""
    before = it.executor
    async with asyncio.TaskGroup() as tasks:
        it.executor = Executor(before._context, tasks, it.answer, it.ledger, Clock(), known_stops=stops or set())
        yield
    it.executor = before


async def test_a_known_command_gets_its_answer_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carried out once; the second answer is the first one's, also after a restart."""
    home = Counted(monkeypatch)
    async with bench(tmp_path) as it:
        await it.run("movement_control.home", id="c-1")
        await it.run("movement_control.home", id="c-1", more="than before")
        async with restarted(it):
            await it.run("movement_control.home", id="c-1")
        assert [(kind, data["number"], echo["id"]) for kind, data, echo in it.answers] == [("success", 1, "c-1")] * 3
        assert (home.runs, it.acknowledged) == (1, [1, 1, 1])
        await it.run("movement_control.home", id="c-2")
        assert home.runs == 2


async def test_a_running_command_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer comes once, when it has ended; both deliveries are acknowledged."""
    home = Counted(monkeypatch)
    home.go.clear()
    async with bench(tmp_path) as it:
        it.send("movement_control.home", id="c-1")
        it.send("movement_control.home", id="c-1")
        await it.until(lambda: it.acknowledged == [1, 1])
        home.go.set()
        await it.answered()
        await it.run("printer_control.get_status")
        assert [kind for kind, _, _ in it.answers] == ["success", "status"]
        assert home.runs == 1


async def test_redelivered_bytes_are_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an ID it is the broker's mark that tells; the same bytes sent twice are two commands."""
    home = Counted(monkeypatch)
    async with bench(tmp_path) as it:
        for count, dup in enumerate((False, False, True, True), 1):
            it.receive(payload(), dup=dup)
            await it.answered(count)
        assert [data["number"] for _, data, _ in it.answers] == [1, 2, 2, 2]
        it.receive(payload(parameters={"axes": "x"}), dup=True)
        await it.answered(5)
        assert home.runs == 3, "a redelivery of what never arrived is new"


async def test_a_refusal_is_an_answer_too(tmp_path: Path) -> None:
    """The same ID is refused with the same words, although other bytes would be accepted now."""
    async with bench(tmp_path) as it:
        _, first = await it.run("movement_control.home", {"axes": "w"}, id="c-1")
        _, second = await it.run("movement_control.home", {"axes": "x"}, id="c-1")
        assert first["code"] == "invalid_parameters"
        assert second == first
        assert it.scripts == []


async def test_a_retained_copy_spoils_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it was retained is no answer to the command of that ID."""
    home = Counted(monkeypatch)
    async with bench(tmp_path) as it:
        it.receive(payload(id="c-1"), retain=True)
        await it.answered()
        await it.run("movement_control.home", id="c-1")
        it.receive(payload(id="c-1"), retain=True)
        await it.answered(3)
        assert [data.get("code") for _, data, _ in it.answers] == ["retained_command", None, "retained_command"]
        assert home.runs == 1


async def test_a_question_is_answered_anew(tmp_path: Path) -> None:
    """What only reads is not in the ledger."""
    async with bench(tmp_path) as it:
        for _ in range(2):
            await it.run("printer_control.get_status", id="c-1")
        assert [kind for kind, _, _ in it.answers] == ["status", "status"]
        assert it.acknowledged == [1, 1]
        assert await it.ledger.begin(Record("id:c-1", "", {}, 0.0)) is None


async def test_a_question_holds_back_no_acknowledgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that says nothing must not use up the broker's window: the emergency stop would be behind."""
    mute = asyncio.Event()

    async def handle(context: Context, parameters: Parameters) -> Answer:
        await mute.wait()
        return Answer("response", {})

    name = ("camera_control", "snapshot")
    monkeypatch.setitem(registry.REGISTRY, name, replace(registry.REGISTRY[name], handler=handle))
    async with bench(tmp_path) as it:
        it.send("camera_control.snapshot", {"camera_provider_id": "moonraker", "camera_name": "front"})
        await it.run("printer_control.get_status")
        assert it.acknowledged == [1, 1]
        mute.set()
        await it.answered(2)
        assert it.acknowledged == [1, 1]


async def test_a_lost_acknowledgement_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packet identifier stays the same: half an hour later, too, it is the command that was carried out."""
    home = Counted(monkeypatch)
    async with bench(tmp_path) as it:
        it.receive(payload(), mid=7)
        await it.answered()
        loop = asyncio.get_running_loop()
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + 1800)
        it.receive(payload(), dup=True, mid=7)
        await it.answered(2)
        assert home.runs == 1
        it.receive(payload(), dup=True, mid=8)
        await it.answered(3)
        assert home.runs == 2, "it never arrived before"


async def blocked(it: Bench) -> threading.Event:
    """A disk that does not answer until the result is set."""
    go, stuck = threading.Event(), threading.Event()

    def block(_: object) -> None:
        stuck.set()
        go.wait(5)

    it.ledger.save(block)
    await asyncio.to_thread(stuck.wait, 5)
    return go


async def test_nothing_moves_before_it_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk does not answer, a command is neither begun nor acknowledged."""
    home = Counted(monkeypatch)
    async with bench(tmp_path) as it:
        go = await blocked(it)
        it.send("movement_control.home", id="c-1")
        await asyncio.sleep(0.05)
        assert (home.runs, it.acknowledged, it.answers) == (0, [0], [])
        go.set()
        await it.answered()
        assert (home.runs, it.acknowledged) == (1, [1])


async def test_the_emergency_stop_waits_for_no_disk(tmp_path: Path) -> None:
    """It is noted beside; a copy of it that a later session brings stops nothing again."""
    async with bench(tmp_path) as it:
        go = await blocked(it)
        it.receive(json.dumps({**STOP, "id": "c-1"}).encode())
        await it.called("printer.emergency_stop")
        assert it.acknowledged == [0]
        go.set()
        await it.push(webhooks={"state": "shutdown", "state_message": "Shutdown due to webhooks request"})
        await it.answered()
        await it.until(lambda: it.acknowledged == [1])
        it.receive(json.dumps({**STOP, "id": "c-1"}).encode())
        await it.answered(2)
        async with restarted(it, await it.ledger.keys_of("printer_control.emergency_stop")):
            it.receive(json.dumps({**STOP, "id": "c-1"}).encode())
            await it.answered(3)
        assert len(it.requests("printer.emergency_stop")) == 1
        assert [kind for kind, _, _ in it.answers] == ["success"] * 3


async def test_an_emergency_stop_without_an_id_is_not_repeated(tmp_path: Path) -> None:
    """The broker's redelivery is known by its bytes; a new one stops again."""
    async with bench(tmp_path) as it:
        await it.push(webhooks={"state": "shutdown", "state_message": "Shutdown"})
        for count, dup in enumerate((False, True, False), 1):
            it.receive(json.dumps(STOP).encode(), dup=dup)
            await it.answered(count)
        assert len(it.requests("printer.emergency_stop")) == 2


async def test_the_brokers_expiry_runs_while_a_command_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MQTT's message expiry is counted on from the arrival."""
    home = Counted(monkeypatch)
    home.go.clear()
    async with bench(tmp_path) as it:
        it.send("movement_control.home")
        it.receive(payload(), expiry=0)
        it.receive(payload(), expiry=60)
        await it.until(lambda: it.acknowledged == [1, 1, 1])
        home.go.set()
        await it.answered(3)
        assert [data.get("code") for _, data, _ in it.answers] == [None, "expired", None]
        assert home.runs == 2


async def test_what_cannot_be_noted_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the ledger costs the command, with an answer, and not those behind it."""
    home = Counted(monkeypatch)
    async with bench(tmp_path) as it:
        monkeypatch.setattr(it.executor, "_record", lambda order, key: Record(key, None, {}, 0.0))  # type: ignore[arg-type]
        _, data = await it.run("movement_control.home", id="c-1")
        assert data["code"] == "internal"
        await it.run("printer_control.get_status")
        await it.until(lambda: it.acknowledged == [1, 1])
        assert home.runs == 0


async def test_a_first_command_waits_for_the_printer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the broker has kept arrives before Moonraker has answered: that is no reason to call the printer offline."""
    async with bench(tmp_path, connected=False) as it, asyncio.TaskGroup() as tasks:
        context = it.executor._context
        it.executor = Executor(context, tasks, it.answer, it.ledger, Clock(), first_look=5.0)
        it.send("temperature_control.set_bed", {"temperature": 0}, id="c-1")
        await it.until(lambda: it.acknowledged == [1])
        link = tasks.create_task(it.stay_connected())
        await it.called("printer.gcode.script")
        await it.reply("printer.gcode.script")
        assert (await it.answered())[0] == "success"
        link.cancel()


async def test_acknowledgements_keep_the_order() -> None:
    """A later one waits for an earlier one, whichever is safe first."""
    acknowledged: list[int] = []
    row = Acknowledgements()

    def message(number: int) -> Message:
        return Message("c", b"", 1, False, False, None, None, None, lambda: acknowledged.append(number))

    safe = [row.expect(message(number)) for number in range(4)]
    safe[1]()
    safe[3]()
    assert acknowledged == []
    safe[0]()
    assert acknowledged == [0, 1]
    safe[2]()
    assert acknowledged == [0, 1, 2, 3]


# ------------------------------------------------------------------------------------------------------- interrupted


def unfinished(name: str = "printer_control.start_print", subject: str | None = PATH) -> Record:
    return Record("id:c-1", name, {"id": "c-1"}, Clock().now().timestamp(), subject, "back", b"\x01")


async def said(it: Bench, record: Record) -> str:
    """The sentence of an `interrupted`; the command has ended with it."""
    await it.ledger.begin(record)
    await answer_interrupted(it.printer, await it.ledger.unfinished(), it.ledger, it.answer, Clock())
    kind, data, echo = it.answers[-1]
    assert (kind, data["code"], echo) == ("error", "interrupted", {"id": "c-1"})
    assert await it.ledger.unfinished() == []
    return str(data["error"])


def job(status: str, start: float, filename: str = PATH) -> dict[str, Any]:
    return {"filename": filename, "status": status, "start_time": start}


async def test_an_interrupted_start_that_runs(tmp_path: Path) -> None:
    """The sentence says that the print is on."""
    async with bench(tmp_path) as it:
        await it.push(**printing())
        sentence = await said(it, unfinished())
        assert sentence == (
            f"The agent was stopped while printer_control.start_print of {PATH} was under way. "
            f"The print of {PATH} is running. The printer now shows: Printing ({PATH})."
        )
        assert it.requests("printer.print.start") == []


async def test_an_interrupted_start_that_is_over_or_never_was(tmp_path: Path) -> None:
    """Moonraker's history tells; an older print of the same file is another one."""
    now = Clock().now().timestamp()
    async with bench(tmp_path) as it:
        it.moonraker.answers["server.history.list"] = {"jobs": [job("completed", now + 1), job("cancelled", now - 900)]}
        assert "was started; it has ended: completed." in await said(it, unfinished())
    async with bench(tmp_path) as it:
        it.moonraker.answers["server.history.list"] = {
            "jobs": [job("completed", now, "other.gcode"), job("cancelled", now - 900)]
        }
        assert f"No print of {PATH} has begun. The printer now shows: Operational." in await said(it, unfinished())


async def test_other_interrupted_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the printer shows, once it is seen; without it, that it is not."""
    async with bench(tmp_path) as it:
        assert await said(it, unfinished("movement_control.home", None)) == (
            "The agent was stopped while movement_control.home was under way. The printer now shows: Operational."
        )
    monkeypatch.setattr(interrupted, "PATIENCE", 0.05)
    async with bench(tmp_path, connected=False) as it:
        assert "cannot be reached" in await said(it, unfinished())
        assert it.printer.state.klippy is KlippyState.UNKNOWN


async def test_what_was_dropped_with_its_account_is_not_answered(tmp_path: Path) -> None:
    """Whoever owns the printer now has never sent it."""
    async with bench(tmp_path) as it:
        await it.ledger.claim("mine")
        await it.ledger.begin(unfinished())
        records = await it.ledger.unfinished()
        await it.ledger.claim("theirs")
        await answer_interrupted(it.printer, records, it.ledger, it.answer, Clock())
        assert it.answers == []


async def test_a_killed_command_is_never_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copy gets the `interrupted`, or nothing as long as that has not been said."""
    home = Counted(monkeypatch)
    async with bench(tmp_path) as it:
        await it.ledger.begin(Record("id:c-1", "movement_control.home", {"id": "c-1"}, 0.0))
        it.send("movement_control.home", id="c-1")
        await it.until(lambda: it.acknowledged == [1])
        assert it.answers == []
        await answer_interrupted(it.printer, await it.ledger.unfinished(), it.ledger, it.answer, Clock())
        await it.run("movement_control.home", id="c-1")
        assert [data["code"] for _, data, _ in it.answers] == ["interrupted", "interrupted"]
        assert home.runs == 0
