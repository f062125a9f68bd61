"""Moonraker's endpoints, over a real socket; the answers are those of a real Moonraker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from printago_moonraker.errors import ConnectionRefused
from printago_moonraker.moonraker.api import Directory, KlippyState, Moonraker, PrinterInfo, ServerInfo
from printago_moonraker.moonraker.connection import connect
from printago_moonraker.moonraker.rpc import RpcError
from tests.fakes.moonraker import FakeMoonraker, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def fake() -> AsyncIterator[FakeMoonraker]:
    async with FakeMoonraker() as fake:
        yield fake


@pytest.fixture
async def moonraker(fake: FakeMoonraker) -> AsyncIterator[Moonraker]:
    async with connect(fake.url, api_key=None, on_notification=lambda *_: None) as connection:
        yield Moonraker(connection)


async def test_identify(moonraker: Moonraker, fake: FakeMoonraker) -> None:
    """The agent registers with the four members that Moonraker demands, and with its key when it has one."""
    fake.answers["server.connection.identify"] = {"connection_id": 139909367036752}
    await moonraker.identify("1.2.3")
    await moonraker.identify("1.2.3", "k3y", client_name="other")
    first, second = (request["params"] for request in fake.requests)
    assert set(first) == {"client_name", "version", "type", "url"}
    assert first["type"] == "agent"
    assert (second["api_key"], second["client_name"]) == ("k3y", "other")


async def test_name_taken(moonraker: Moonraker, fake: FakeMoonraker) -> None:
    """A name that another agent holds is ConnectionRefused, and says when it will be free."""
    taken = Refusal(400, "Agent 'printago-moonraker' already registered and connected'")
    fake.answers["server.connection.identify"] = taken
    with pytest.raises(ConnectionRefused, match="25 s"):
        await moonraker.identify("1.2.3")


async def test_other_refusal_of_identify(moonraker: Moonraker, fake: FakeMoonraker) -> None:
    """Any other refusal keeps Moonraker's words."""
    fake.answers["server.connection.identify"] = Refusal(400, "Invalid Client Type: robot")
    with pytest.raises(RpcError, match="robot"):
        await moonraker.identify("1.2.3")


@pytest.mark.parametrize("message", ["Unauthorized", "Invalid API Key"])
async def test_unauthorized(moonraker: Moonraker, fake: FakeMoonraker, message: str) -> None:
    """Without the right to call, every call is ConnectionRefused, and says what to do."""
    fake.answers["server.info"] = Refusal(-32602, message)
    with pytest.raises(ConnectionRefused, match=r"moonraker_api_key_file .* trusted_clients"):
        await moonraker.server_info()


async def test_wrong_parameters_are_no_login(moonraker: Moonraker, fake: FakeMoonraker) -> None:
    """The same code with other words is an ordinary error."""
    fake.answers["server.info"] = Refusal(-32602, "Invalid params:")
    with pytest.raises(RpcError):
        await moonraker.server_info()


@pytest.mark.parametrize(
    ("state", "expected"),
    [("ready", KlippyState.READY), ("disconnected", KlippyState.DISCONNECTED), ("hibernating", KlippyState.UNKNOWN)],
)
async def test_server_info(moonraker: Moonraker, fake: FakeMoonraker, state: str, expected: KlippyState) -> None:
    """The state of Klipper is one of those known, or UNKNOWN."""
    fake.answers["server.info"] = {"klippy_connected": True, "klippy_state": state, "moonraker_version": "0.11.0"}
    assert await moonraker.server_info() == ServerInfo(True, expected, "0.11.0")


async def test_printer_info(moonraker: Moonraker, fake: FakeMoonraker) -> None:
    """Klipper's message comes with its state; members that are missing are empty."""
    fake.answers["printer.info"] = {"state": "startup", "state_message": "Printer is not ready"}
    assert await moonraker.printer_info() == PrinterInfo(KlippyState.STARTUP, "Printer is not ready", "")


async def test_query(moonraker: Moonraker, fake: FakeMoonraker) -> None:
    """A question for the present values is one for these objects alone."""
    fake.answers["printer.objects.query"] = {"eventtime": 2.0, "status": {"print_stats": {"state": "paused"}}}
    assert await moonraker.query({"print_stats": None}) == ({"print_stats": {"state": "paused"}}, 2.0)
    assert fake.requests[-1]["params"] == {"objects": {"print_stats": None}}


async def test_subscribe(moonraker: Moonraker, fake: FakeMoonraker) -> None:
    """A subscription asks for the fields wanted, or for all, and returns their present values."""
    fake.answers["printer.objects.subscribe"] = {"eventtime": 1.0, "status": {"toolhead": {"homed_axes": "xyz"}}}
    answer = await moonraker.subscribe({"toolhead": ["homed_axes"], "fan": None})
    assert answer == ({"toolhead": {"homed_axes": "xyz"}}, 1.0)
    assert fake.requests[-1]["params"] == {"objects": {"toolhead": ["homed_axes"], "fan": None}}


async def test_metadata(moonraker: Moonraker, fake: FakeMoonraker) -> None:
    """An unknown file has no metadata, whichever way the 404 comes."""
    fake.answers["server.files.metadata"] = {"size": 12}
    assert await moonraker.file_metadata("a.gcode") == {"size": 12}
    for code in (-32601, 404):
        fake.answers["server.files.metadata"] = Refusal(code, "Metadata not available for <nope.gcode>")
        assert await moonraker.file_metadata("nope.gcode") is None
    fake.answers["server.files.metadata"] = Refusal(500, "broken")
    with pytest.raises(RpcError):
        await moonraker.file_metadata("a.gcode")


async def test_directory(moonraker: Moonraker, fake: FakeMoonraker) -> None:
    """A folder gives its files and its disk's space; one that is not there is None."""
    usage = {"total": 100, "used": 60, "free": 40}
    fake.answers["server.files.get_directory"] = {"files": [{"filename": "a"}], "dirs": [], "disk_usage": usage}
    assert await moonraker.get_directory("gcodes/Printago") == Directory([{"filename": "a"}], 100, 40)
    fake.answers["server.files.get_directory"] = Refusal(
        400, "Directory does not exist (/home/pi/printer_data/gcodes/x)"
    )
    assert await moonraker.get_directory("gcodes/x") is None
    fake.answers["server.files.get_directory"] = Refusal(400, "Invalid directory path")
    with pytest.raises(RpcError):
        await moonraker.get_directory("x")


@pytest.mark.parametrize(
    ("call", "method", "params"),
    [
        (lambda m: m.print_start("Printago/a.gcode"), "printer.print.start", {"filename": "Printago/a.gcode"}),
        (lambda m: m.print_pause(), "printer.print.pause", None),
        (lambda m: m.print_resume(), "printer.print.resume", None),
        (lambda m: m.print_cancel(), "printer.print.cancel", None),
        (lambda m: m.gcode_script("G28", 5.0), "printer.gcode.script", {"script": "G28"}),
        (lambda m: m.emergency_stop(), "printer.emergency_stop", None),
        (lambda m: m.restart(), "printer.restart", None),
        (lambda m: m.firmware_restart(), "printer.firmware_restart", None),
        (lambda m: m.delete_file("gcodes/a"), "server.files.delete_file", {"path": "gcodes/a"}),
        (
            lambda m: m.register_remote_method("printago_event"),
            "connection.register_remote_method",
            {"method_name": "printago_event"},
        ),
    ],
)
async def test_orders(moonraker: Moonraker, fake: FakeMoonraker, call: Any, method: str, params: Any) -> None:
    """Each order is one request with the parameters that Moonraker documents; its "ok" is not passed on."""
    fake.answers[method] = "ok"
    assert await call(moonraker) is None
    assert (fake.requests[-1]["method"], fake.requests[-1].get("params")) == (method, params)


@pytest.mark.parametrize(
    ("call", "method", "answer", "expected"),
    [
        (lambda m: m.objects_list(), "printer.objects.list", {"objects": ["gcode", "fan"]}, ["gcode", "fan"]),
        (lambda m: m.webcams_list(), "server.webcams.list", {"webcams": [{"name": "c"}]}, [{"name": "c"}]),
        (lambda m: m.history_list(3), "server.history.list", {"jobs": [{"job_id": "1"}]}, [{"job_id": "1"}]),
        (lambda m: m.proc_stats(), "machine.proc_stats", {"cpu_temp": 45.0}, {"cpu_temp": 45.0}),
    ],
)  # fmt: skip
async def test_questions(
    moonraker: Moonraker, fake: FakeMoonraker, call: Any, method: str, answer: Any, expected: Any
) -> None:
    """Each question gives the part of the answer that matters."""
    fake.answers[method] = answer
    assert await call(moonraker) == expected
