"""Whatever comes, it is acknowledged once and answered once, and nothing moves that should not."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from printago_moonraker import errors
from printago_moonraker.clock import Clock
from printago_moonraker.commands import registry
from printago_moonraker.commands.executor import Executor
from printago_moonraker.commands.lanes import Lane, Lanes
from printago_moonraker.commands.registry import Answer, Command, Context, success
from printago_moonraker.log import printable
from printago_moonraker.moonraker.rpc import RpcError, RpcTimeout
from printago_moonraker.printago.endpoint import Message
from printago_moonraker.printago.store import Store
from printago_moonraker.printer.camera import Cameras
from printago_moonraker.printer.jobs import Jobs
from tests.fakes.klipper import Recorder, bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from printago_moonraker.commands.registry import Parameters

HOME = {"type": "movement_control", "action": "home", "parameters": {}, "id": "c-1"}


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def handled_by(
    monkeypatch: pytest.MonkeyPatch, handler: Callable[[], Awaitable[Answer]], lane: Lane = Lane.ORDERED
) -> None:
    """`movement_control.home` is carried out by `handler`."""

    async def handle(context: Context, parameters: Parameters) -> Answer:
        return await handler()

    command = Command("movement_control", "home", handle, lane, False, frozenset())
    monkeypatch.setitem(registry.REGISTRY, ("movement_control", "home"), command)


@pytest.mark.parametrize(
    ("payload", "code", "echo"),
    [
        (b"", "invalid_json", {}),
        (b"\xff\xfe", "invalid_json", {}),
        (b"[]", "invalid_json", {}),
        (b"{}", "missing_type", {}),
        (b'{"type": "printer_control"}', "missing_action", {"type": "printer_control"}),
        (b" " * (256 * 1024 + 1), "payload_too_large", {}),
        (json.dumps({**HOME, "type": "x"}).encode(), "unknown_type", {**HOME, "type": "x"}),
        (json.dumps({**HOME, "action": "x"}).encode(), "unknown_action", {**HOME, "action": "x"}),
        (json.dumps({**HOME, "parameters": None}).encode(), "missing_parameters", HOME),
        (json.dumps({**HOME, "parameters": {"axes": "w"}}).encode(), "invalid_parameters", HOME),
        (json.dumps({**HOME, "printer_id": "other"}).encode(), "wrong_printer", HOME),
        (json.dumps({**HOME, "expires_at": at(-1)}).encode(), "expired", HOME),
        (json.dumps({**HOME, "timestamp": at(-301)}).encode(), "expired", HOME),
    ],
)
async def test_what_is_refused_at_the_door(tmp_path: Path, payload: bytes, code: str, echo: dict[str, Any]) -> None:
    """Answered at once with its code and an echo of what could be read; nothing reaches the printer."""
    async with bench(tmp_path) as it:
        it.receive(payload)
        await it.until(lambda: it.answers and it.acknowledged == [1])
        ((kind, data, said),) = it.answers
        assert (kind, data["code"]) == ("error", code)
        assert said == {name: echo[name] for name in ("type", "action", "id") if name in echo}
        assert data["error"].endswith(".") or code.startswith("unknown")
        assert ("details" in data) is (code == "invalid_parameters")
        assert it.acknowledged == [1]
        assert it.scripts == []


async def test_a_retained_command_moves_nothing(tmp_path: Path) -> None:
    """Nothing moves because a broker remembered something."""
    async with bench(tmp_path) as it:
        it.receive(json.dumps(HOME).encode(), retain=True)
        await it.answered()
        assert it.answers[0][1]["code"] == "retained_command"
        assert it.scripts == []


async def test_a_command_in_time_is_carried_out(tmp_path: Path) -> None:
    """For this printer, not too old, not yet expired."""
    async with bench(tmp_path) as it:
        kind, _ = await it.run(
            "printer_control.get_status", printer_id="voron", timestamp=at(-290), expires_at=at(60), id="c-9"
        )
        assert kind == "status"
        assert it.answers[0][2] == {"type": "printer_control", "action": "get_status", "id": "c-9"}


async def test_a_command_that_expires_while_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its turn came too late: it is not carried out."""
    async with bench(tmp_path) as it:
        go, ran = asyncio.Event(), []

        async def handler() -> Answer:
            ran.append(1)
            await go.wait()
            return success("Done.")

        handled_by(monkeypatch, handler)
        it.send("movement_control.home")
        it.send("movement_control.home", expires_at=at(0.05))
        await asyncio.sleep(0.1)  # it is the clock that is tested
        go.set()
        await it.answered(2)
        assert [data.get("code") for _, data, _ in it.answers] == [None, "expired"]
        assert ran == [1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TooCold("Too cold."), "too_cold"),
        (RuntimeError("a defect with a secret"), "internal"),
        (errors.ConnectionLost("The link broke."), "printer_offline"),
        (RpcError(500, "Internal"), "printer_offline"),
        (RpcTimeout("Moonraker did not answer."), "timeout"),
        (TimeoutError(), "internal"),
    ],
)
async def test_whatever_a_handler_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    """One answer with its code; the lane is free again; a defect's text stays in the log."""
    async with bench(tmp_path) as it:

        async def handler() -> Answer:
            raise error

        handled_by(monkeypatch, handler)
        for count in (1, 2):
            _, data = await it.run("movement_control.home")
            assert data["code"] == code
            assert "secret" not in data["error"]
            assert len(it.answers) == count
        assert it.acknowledged == [1, 1]


class Door:
    """An executor with nothing behind it."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, dict[str, Any]]] = []
        self.acknowledged = 0
        self.news = asyncio.Event()

    @asynccontextmanager
    async def executor(self) -> AsyncIterator[Executor]:
        """Its tasks end with the block, and then its ledger."""
        printer, clock = Recorder().printer, Clock()
        async with Store(None, trusted_time=clock.trusted_time) as store, asyncio.TaskGroup() as tasks:
            context = Context(printer, Jobs(printer), Lanes(), Cameras(printer, tasks, self.publish))
            yield Executor(context, tasks, self.answer, store.of("voron"), clock)

    def answer(self, kind: str, data: dict[str, Any], *_: object, **_more: object) -> None:
        self.answers.append((kind, data))
        self.news.set()

    async def publish(self, topic: str, frame: bytes) -> None:
        raise AssertionError

    def message(self, payload: bytes) -> Message:
        return Message("c", payload, 1, False, False, None, None, None, self.ack)

    def ack(self) -> None:
        self.acknowledged += 1
        self.news.set()


@pytest.mark.parametrize("begun", [True, False])
async def test_a_cancelled_command_is_answered(monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    """Once, also when it is cancelled before its first step."""
    running = asyncio.Event()

    async def handle(context: Context, parameters: Parameters) -> Answer:
        running.set()
        await asyncio.Event().wait()
        raise AssertionError

    name = ("printer_control", "emergency_stop")  # it begins at once
    monkeypatch.setitem(registry.REGISTRY, name, replace(registry.REGISTRY[name], handler=handle))
    door = Door()

    async def session() -> None:
        async with door.executor() as executor:
            executor.receive(door.message(json.dumps({**HOME, "type": name[0], "action": name[1]}).encode()))
            if begun:
                await running.wait()
            raise errors.ConnectionLost("The session ends.")

    with pytest.raises(ExceptionGroup):
        await session()
    assert [(kind, data["code"]) for kind, data in door.answers] == [("error", "cancelled")]


@pytest.mark.parametrize("action", ["movement_control.home", "printer_control.emergency_stop"])
async def test_a_command_that_comes_too_late_is_left_to_the_broker(action: str) -> None:
    """The session is ending: neither acknowledged nor answered, so that the next session gets it."""
    kind, _, action = action.partition(".")
    payload = json.dumps({**HOME, "type": kind, "action": action}).encode()
    door = Door()

    async def ends() -> None:
        raise errors.ConnectionLost("The session ends.")

    async def session() -> None:
        async with door.executor() as executor:
            executor._tasks.create_task(ends())
            try:
                await asyncio.Event().wait()
            finally:
                executor.receive(door.message(payload))

    with pytest.raises(ExceptionGroup):
        await session()
    assert (door.acknowledged, door.answers) == (0, [])


async def test_the_acknowledgement_comes_before_anything_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash may lose a command, but never repeat one."""
    async with bench(tmp_path) as it:
        acknowledged = []

        async def handler() -> Answer:
            acknowledged.extend(it.acknowledged)
            return success("Done.")

        handled_by(monkeypatch, handler)
        await it.run("movement_control.home")
        assert acknowledged == [1]


async def test_order_and_overload(tmp_path: Path) -> None:
    """Moves go one after the other in the order received, 64 may wait; the emergency stop waits for nothing."""
    async with bench(tmp_path) as it:
        for number in range(66):
            it.send("temperature_control.set_bed", {"temperature": number + 1}, id=str(number))
        await it.answered()
        assert [(data["code"], echo["id"]) for _, data, echo in it.answers] == [("overloaded", "65")]
        for number in range(3):
            await it.called("printer.gcode.script", number + 1)
            assert it.scripts[-1].endswith(f"TARGET={number + 1}")
            await it.push(heater_bed={"target": float(number + 1)})
        it.send("printer_control.emergency_stop", id="stop")
        await it.called("printer.emergency_stop")
        await it.push(webhooks={"state": "shutdown", "state_message": "Shutdown due to webhooks request"})
        await it.answered(67)
        kinds = {echo["id"]: kind for kind, _, echo in it.answers}
        assert kinds["stop"] == "success"
        assert [number for number in range(66) if kinds[str(number)] == "success"] == [0, 1, 2]
        assert len(it.answers) == 67, "one answer each"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.one_of(JSON, st.sampled_from(registry.TYPES)),
        "action": st.one_of(JSON, st.sampled_from(["home", "jog", "set_hotend", "start_print"])),
        "parameters": st.one_of(JSON, st.dictionaries(st.sampled_from(["axes", "temperature", "file_name"]), JSON)),
        "id": JSON,
        "expires_at": JSON,
        "timestamp": JSON,
        "printer_id": JSON,
    },
)


@given(st.one_of(st.binary(max_size=50), MEMBERS.map(lambda each: json.dumps(each).encode())))
def test_no_bytes_go_without_an_answer(payload: bytes) -> None:
    """Whatever the bytes are: one acknowledgement, one answer, no exception."""
    door = Door()

    async def main() -> None:
        async with door.executor() as executor, asyncio.timeout(5):
            executor.receive(door.message(payload))
            while not (door.answers and door.acknowledged):
                door.news.clear()
                await door.news.wait()

    asyncio.run(main())
    assert (door.acknowledged, len(door.answers)) == (1, 1)
    kind, data = door.answers[0]
    assert kind == "error", "Moonraker is not there"
    assert data["error"] == printable(data["error"], 1000), "nothing of what came is quoted uncleaned"
