"""G-code through the real Moonraker: answers, queries, and what waits for what."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.e2e.client import Client, RpcError, connected, label
from tests.e2e.virtual_printer.steps import FACTOR, hot, kinds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from printago_moonraker.virtual.rig import VirtualPrinter

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talk(rig: VirtualPrinter) -> AsyncIterator[Client]:
    """One client for all tests that only talk, before anything else has happened."""
    async with connected(rig.url) as client:
        await client.subscribe()
        yield client


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("G1 X10 F600", "Must home axis first: 10.000 0.000 0.000 [0.000]"),
        ("G1 E5 F300", "Extrude below minimum temp\nSee the 'min_extrude_temp' config option for details"),
        ("M104 S999", "Requested temperature (999.0) out of range (0.0:300.0)"),
        ("M104 S-5", "Requested temperature (-5.0) out of range (0.0:300.0)"),
        ("SET_HEATER_TEMPERATURE", "Error on 'SET_HEATER_TEMPERATURE': missing HEATER"),
        (
            "SET_HEATER_TEMPERATURE HEATER=nope",
            "The value 'nope' is not valid for HEATER. Options: 'heater_bed', 'extruder'",
        ),
        ("TEST_RAISE", "Error evaluating 'gcode_macro TEST_RAISE:gcode': gcode.CommandError: bench macro error\n"),
        (
            'SDCARD_PRINT_FILE FILENAME="nope.gcode\\"',
            "Malformed command 'SDCARD_PRINT_FILE FILENAME=\"nope.gcode\\\"'",
        ),
        ("SDCARD_PRINT_FILE FILENAME=nope.gcode", "Unable to open file"),
    ],
)
async def test_error(talk: Client, script: str, message: str) -> None:
    """A refused command answers 400 with Klipper's text, after `!! ` and its first line has gone to everybody."""
    talk.log.clear()
    with pytest.raises(RpcError) as caught:
        await talk.gcode(script)
    assert (caught.value.code, caught.value.message) == (400, message)
    assert kinds(talk.log)[-1] == "error"
    first, *more = message.strip().split("\n")
    expected = [f"!! {first}"]
    if more:
        expected.insert(0, "\n".join(f"// {line}" for line in (first, *more)))
    responses = talk.responses()
    assert responses[: len(expected)] == expected
    assert set(responses) == set(expected)  # a macro's error is said once for each level


async def test_out_of_range(rig: VirtualPrinter, client: Client) -> None:
    """A move beyond the bed is refused, and the next one starts from where the head really is."""
    await rig.control("set_homed")
    with pytest.raises(RpcError, match=r"Move out of range: 500.000 100.000 10.000 \[0.000\]"):
        await client.gcode("G1 X500 F6000")
    await client.gcode("G91\nG1 X5 F6000\nG90")
    await client.state("toolhead", "position", [105.0, 100.0, 10.0, 0.0])


async def test_extrude_only_too_long(rig: VirtualPrinter, client: Client) -> None:
    """An extrusion beyond max_extrude_only_distance is refused with both lengths."""
    await hot(rig, client)
    with pytest.raises(RpcError) as caught:
        await client.gcode("M83\nG1 E150 F300")
    assert caught.value.message == (
        "Extrude only move too long (150.000mm vs 100.000mm)\n"
        "See the 'max_extrude_only_distance' config option for details"
    )


@pytest.mark.parametrize(
    ("script", "responses"),
    [
        ("FOOBAR", ['// Unknown command:"FOOBAR"']),
        ("G1 Xabc", []),
        ("", []),
        ("M118 hello", ["echo: hello"]),
        ('RESPOND TYPE=error MSG="bad thing"', ["!! bad thing"]),
        ("M117 hello", []),
    ],
)
async def test_no_error(talk: Client, script: str, responses: list[str]) -> None:
    """What Klipper does not know or only says is `ok`."""
    talk.log.clear()
    assert await talk.gcode(script) == "ok"
    assert talk.responses() == responses


async def test_script_argument(talk: Client) -> None:
    """A missing or null script is refused by name and type."""
    with pytest.raises(RpcError, match=r"Missing Argument \[script\]"):
        await talk.call("printer.gcode.script")
    with pytest.raises(RpcError, match=r"Invalid Argument Type \[script\]"):
        await talk.call("printer.gcode.script", script=None)


async def test_script_stops_at_first_error(client: Client) -> None:
    """The lines before an error have been carried out, those after it have not."""
    with pytest.raises(RpcError):
        await client.gcode("M117 before\nG1 X10\nM117 after")
    await client.state("display_status", "message", "before")


async def test_remote_method(client: Client) -> None:
    """A macro calls an agent's method with its parameters; with nobody there, it is still ok."""
    assert await client.gcode("PRINTAGO_EVENT EVENT=bed_cleared PLATE=3") == "ok"
    await client.call("connection.register_remote_method", method_name="my_method")
    await client.gcode("AGENT_PING VALUE=42")
    await client.heard("my_method")
    assert next(m for m in client.log if m.get("method") == "my_method")["params"] == {"value": 42}


async def test_query_waits_for_the_tick(rig: VirtualPrinter, client: Client) -> None:
    """A query is answered on the next tick of 250 ms, printer.info at once, while homing too."""
    first, second = [await client.call("printer.objects.query", objects={"webhooks": None}) for _ in range(2)]
    assert second["eventtime"] - first["eventtime"] > 0.24 * FACTOR
    await rig.control("hold", what="motion", line="G28")
    homing = client.send("printer.gcode.script", script="G28")
    await client.state("toolhead", "homed_axes", "x")
    await client.call("printer.info")
    assert not homing.done()
    await rig.control("release")
    await homing


async def test_unknown_names(client: Client) -> None:
    """An unknown object is empty, an unknown field is not there."""
    answer = await client.call("printer.objects.query", objects={"nope": None, "fan": ["speed", "nope"]})
    assert answer["status"] == {"nope": {}, "fan": {"speed": 0.0}}


async def test_pushes_only_changes(client: Client) -> None:
    """A push holds no field whose value is the one sent before."""
    last: dict[tuple[str, str], Any] = {}
    await client.gcode("M140 S40")
    await client.until(lambda: sum(label(m).startswith("status") for m in client.log) > 5)
    for message in client.log:
        if message.get("method") == "notify_status_update":
            for name, fields in message["params"][0].items():
                for field, value in fields.items():
                    assert last.get((name, field), "nothing") != value
                    last[name, field] = value


async def test_everything_waits_behind_g28(rig: VirtualPrinter, client: Client) -> None:
    """G-code and print control wait for a running G28, in order; queries and printer.info do not."""
    ended: list[str] = []

    async def ends(name: str, work: asyncio.Task[Any]) -> None:
        await asyncio.gather(work, return_exceptions=True)
        ended.append(name)

    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("home", "printer.gcode.script", {"script": "G28"}),
        ("text", "printer.gcode.script", {"script": "M117 x"}),
        ("pause", "printer.print.pause", {}),
        ("resume", "printer.print.resume", {}),
    ]
    await rig.control("hold", what="motion", line="G28")
    waits = [ends(name, client.send(method, **params)) for name, method, params in calls]
    waits.append(ends("info", client.send("printer.info")))
    running = asyncio.gather(*waits)
    await client.until(lambda: ended)
    assert (await client.call("printer.objects.query", objects={"toolhead": None}))["status"]
    assert ended == ["info"]
    await rig.control("release")
    await running
    assert ended == ["info", "home", "text", "pause", "resume"]
    await client.state("toolhead", "homed_axes", "xyz")


async def test_m400_waits_for_motion(rig: VirtualPrinter, client: Client) -> None:
    """Moves are accepted at once, M400 returns when they have ended."""
    await rig.control("set_homed")
    await rig.control("hold", what="motion")
    await client.gcode("G1 X230 F6500")
    waiting = client.send("printer.gcode.script", script="M400")
    while (await client.call("printer.objects.query", objects={"motion_report": ["live_position"]}))["status"][
        "motion_report"
    ]["live_position"][0] < 230.0:
        assert not waiting.done()
    assert not waiting.done()
    await rig.control("release")
    assert await waiting == "ok"


async def test_emergency_stop_waits_for_nothing(rig: VirtualPrinter, client: Client) -> None:
    """An emergency stop ends a G28 with its error; a second one is ok too; then only the base commands answer."""
    await rig.control("hold", what="motion", line="G28")
    homing = client.send("printer.gcode.script", script="G28")
    await client.state("toolhead", "homed_axes", "x")
    assert not homing.done()
    client.log.clear()
    assert await client.call("printer.emergency_stop") == "ok"
    with pytest.raises(RpcError, match="Homing failed due to printer shutdown"):
        await homing
    assert [kind for kind in kinds(client.log) if kind in ("answer", "error")] == ["answer", "error"]
    assert await client.call("printer.emergency_stop") == "ok"
    await client.heard("notify_klippy_shutdown")
    for script in ("M105", "M112", "M114", "M115", "M118 x", "GET_POSITION"):
        assert await client.gcode(script) == "ok"
    for script in ("M117 x", "STATUS", "G28", "M104 S10"):
        with pytest.raises(RpcError, match="Shutdown due to webhooks request"):
            await client.gcode(script)
