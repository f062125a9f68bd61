"""The virtual printer through the real Moonraker, against what a real Klipper was measured to do."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from printago_moonraker.errors import AgentError
from printago_moonraker.virtual.rig import VirtualPrinter
from tests.e2e.client import Client, RpcError, connected, label

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

RECORDING = Path(__file__).parent.parent / "recordings" / "klipper-session.jsonl"
SAMPLE = Path(__file__).parents[2] / "printago_moonraker" / "virtual" / "samples" / "demo.gcode"
FACTOR = 30.0

FILES = {
    "slow.gcode": "G28\nG90\nG1 Z10 F900\n" + "G1 X10 F6000\nG1 X200\n" * 400,
    "short.gcode": "M117 one\nM117 two\n",
    "homing.gcode": "G4 P200\n" + "G28\n" * 50,
    "broken.gcode": "G28\nM117 before\nG1 X500 F6000\nM117 after\n",
    "unknown.gcode": "FOOBAR\nM117 done\n",
    "start.gcode": "PRINT_START BED_TEMP=60 EXTRUDER_TEMP=200\nG1 X50 F6000\n",
    "empty.gcode": "",
    "objects.gcode": "EXCLUDE_OBJECT_DEFINE NAME=Cube_id_1_copy_0 CENTER=90,110 POLYGON=[[80,100],[100,100]]\n"
    "SET_PRINT_STATS_INFO TOTAL_LAYER=8\nSET_PRINT_STATS_INFO CURRENT_LAYER=1\nM73 P12\n"
    "EXCLUDE_OBJECT_START NAME=Cube_id_1_copy_0\nG4 P20000\n",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VirtualPrinter]:
    async with VirtualPrinter(tmp_path_factory.mktemp("rig"), time_factor=FACTOR) as printer:
        for name, text in FILES.items():
            (printer.gcodes / name).write_text(text)
        yield printer


@pytest_asyncio.fixture(loop_scope="module")
async def client(rig: VirtualPrinter) -> AsyncIterator[Client]:
    """A subscribed client before an idle, unhomed, cold printer."""
    async with connected(rig.url) as client:
        await client.call("server.connection.identify", client_name="bench", version="1", type="agent", url="http://x")
        if (await client.call("server.info"))["klippy_state"] != "ready":
            await client.call("printer.firmware_restart")
            await client.heard("notify_klippy_ready")
            await rig.wait_ready()
        await client.gcode("CANCEL_PRINT_BASE\nSDCARD_RESET_FILE\nTURN_OFF_HEATERS\nG90\nM82\nM117\nM84")
        await rig.control("filament", present=True)
        await rig.control("set_temperature", heater="extruder", temperature=25.0)
        await client.subscribe()
        await client.state("print_stats", "state", "standby")
        client.log.clear()
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talk(rig: VirtualPrinter) -> AsyncIterator[Client]:
    """One client for all tests that only talk, before anything else has happened."""
    async with connected(rig.url) as client:
        await client.subscribe()
        yield client


async def hot(rig: VirtualPrinter, client: Client) -> None:
    await rig.control("set_homed")
    await rig.control("set_temperature", heater="extruder", temperature=200.0)
    await client.gcode("M104 S200")


async def printing(client: Client, name: str) -> None:
    await client.call("printer.print.start", filename=name)
    await client.state("print_stats", "state", "printing")


# ---- texts -----------------------------------------------------------------------------------------------


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


# ---- subscriptions ---------------------------------------------------------------------------------------


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDING.read_text().splitlines()]


def shape(value: Any) -> Any:
    """A value's type, as a JSON reader sees it; an int is a number like any other."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


async def test_same_objects_as_recorded(client: Client) -> None:
    """Every object of the recorded printer is there, and those subscribed to have the same fields of the same types."""
    session = [entry["msg"] for entry in recorded()]
    listed = next(m["result"]["objects"] for m in session if "objects" in (m.get("result") or ()))
    assert set(listed) <= set((await client.call("printer.objects.list"))["objects"])
    theirs = next(m["result"]["status"] for m in session if m.get("id") == 7 and "result" in m)
    ours = await client.subscribe(*theirs)
    assert shape(ours) == shape(theirs)


async def test_same_printer_info_as_recorded(client: Client) -> None:
    """printer.info has the members that the recorded one has."""
    theirs = next(e["msg"]["result"] for e in recorded() if e["msg"].get("id") == 3 and "result" in e["msg"])
    assert shape(await client.call("printer.info")) == shape(theirs)


async def test_query_waits_for_the_tick(client: Client) -> None:
    """A query is answered on the next tick of 250 ms, printer.info at once, while homing too."""
    await client.call("printer.objects.query", objects={"webhooks": None})
    began = time.monotonic()
    await client.call("printer.objects.query", objects={"webhooks": None})
    assert 0.2 < time.monotonic() - began < 1.0
    homing = client.send("printer.gcode.script", script="G28")
    await client.call("printer.info")
    assert not homing.done()
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


# ---- the G-code mutex ------------------------------------------------------------------------------------


async def test_everything_waits_behind_g28(client: Client) -> None:
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
    waits = [ends(name, client.send(method, **params)) for name, method, params in calls]
    waits.append(ends("info", client.send("printer.info")))
    await asyncio.gather(*waits)
    assert ended == ["info", "home", "text", "pause", "resume"]
    await client.state("toolhead", "homed_axes", "xyz")


async def test_m400_waits_for_motion(rig: VirtualPrinter, client: Client) -> None:
    """Moves are accepted at once, M400 returns when they have ended."""
    await rig.control("set_homed")
    began = time.monotonic()
    await client.gcode("G1 X230 F650")  # 12 s of motion
    queued = time.monotonic() - began
    await client.gcode("M400")
    assert queued < 6.0 / FACTOR
    assert time.monotonic() - began > 11.9 / FACTOR


async def test_emergency_stop_waits_for_nothing(client: Client) -> None:
    """An emergency stop ends a G28 with its error; a second one is ok too; then only the base commands answer."""
    homing = client.send("printer.gcode.script", script="G28")
    await client.state("idle_timeout", "state", "Printing")
    assert await client.call("printer.emergency_stop") == "ok"
    assert not homing.done()
    with pytest.raises(RpcError, match="Homing failed due to printer shutdown"):
        await homing
    assert await client.call("printer.emergency_stop") == "ok"
    await client.heard("notify_klippy_shutdown")
    for script in ("M105", "M112", "M114", "M115", "M118 x", "GET_POSITION"):
        assert await client.gcode(script) == "ok"
    for script in ("M117 x", "STATUS", "G28", "M104 S10"):
        with pytest.raises(RpcError, match="Shutdown due to webhooks request"):
            await client.gcode(script)


# ---- jobs ------------------------------------------------------------------------------------------------


async def test_order_of_a_start(client: Client) -> None:
    """File opened, File selected, ok; then the status; then the history: like the recorded one."""
    await client.call("printer.print.start", filename="slow.gcode")
    await client.heard("history added")
    wanted = ("response", "answer", "history", "status")
    heard = [text for m in client.log if (text := label(m)).startswith(wanted)]
    ours = [text for text in heard if not text.startswith("status") or "print_stats" in text]
    opened = f"response File opened:slow.gcode Size:{len(FILES['slow.gcode'])}"
    assert ours[:3] == [opened, "response File selected", "answer"]
    assert ours[3].startswith("status")
    assert ours[4] == "history added in_progress"


async def test_missing_file_resets_the_last_job(client: Client) -> None:
    """A start that finds no file answers so, and the job before it is forgotten."""
    await client.call("printer.print.start", filename="short.gcode")
    await client.state("print_stats", "state", "complete")
    for name in ("nope.gcode", "gcodes/short.gcode", "short"):
        with pytest.raises(RpcError, match="Unable to open file"):
            await client.call("printer.print.start", filename=name)
    await client.state("print_stats", "state", "standby")
    assert client.status["print_stats"]["filename"] == ""


async def test_spelling_is_kept(client: Client) -> None:
    """Names match whatever their case, and print_stats has the caller's spelling; a leading slash is dropped."""
    await client.call("printer.print.start", filename="/SHORT.gcode")
    await client.state("print_stats", "filename", "SHORT.gcode")


async def test_start_while_printing(client: Client) -> None:
    """A second start is refused after the running line, and changes nothing."""
    await printing(client, "slow.gcode")
    with pytest.raises(RpcError, match="SD busy"):
        await client.call("printer.print.start", filename="short.gcode")
    assert client.status["print_stats"]["filename"] == "slow.gcode"


async def test_start_while_paused(client: Client) -> None:
    """A start while paused throws the paused job away, and is_paused stays true."""
    await printing(client, "slow.gcode")
    await client.call("printer.print.pause")
    await client.state("print_stats", "state", "paused")
    await client.call("printer.print.start", filename="homing.gcode")
    await client.state("print_stats", "filename", "homing.gcode")
    await client.heard("history finished cancelled")
    assert client.status["pause_resume"]["is_paused"] is True
    await client.call("printer.print.pause")
    assert "// Print already paused" in client.responses()


async def test_pause_when_idle(client: Client) -> None:
    """Pause, pause, resume, resume without a job: all ok, each with its remark, and print_stats stays standby."""
    for method in ("pause", "pause", "resume", "resume"):
        assert await client.call(f"printer.print.{method}") == "ok"
    paused, resumed = ["// action:paused", "// Print already paused"], ["// action:resumed"]
    assert client.responses() == [*paused, *resumed, "// Print is not paused, resume aborted"]
    assert client.status["print_stats"]["state"] == "standby"
    assert await client.call("printer.print.cancel") == "ok"
    assert client.responses()[-1] == "// action:cancel"


async def test_pause_resume_cancel(client: Client) -> None:
    """A job is paused, resumed and cancelled; its name stays, its file does not."""
    await printing(client, "slow.gcode")
    await client.state("toolhead", "homed_axes", "xyz")
    await client.call("printer.print.pause")
    await client.state("print_stats", "state", "paused")
    assert client.status["virtual_sdcard"]["is_active"] is False
    await client.call("printer.print.resume")
    await client.state("print_stats", "state", "printing")
    await client.call("printer.print.cancel")
    await client.heard("history finished cancelled")
    assert client.status["print_stats"]["filename"] == "slow.gcode"
    assert client.status["virtual_sdcard"]["file_path"] is None


async def test_three_at_once(client: Client) -> None:
    """Pause, resume and cancel sent together are carried out in that order."""
    await printing(client, "slow.gcode")
    answers = await asyncio.gather(*(client.send(f"printer.print.{verb}") for verb in ("pause", "resume", "cancel")))
    assert answers == ["ok", "ok", "ok"]
    await client.state("print_stats", "state", "cancelled")
    assert client.status["pause_resume"]["is_paused"] is False


async def test_pause_waits_for_print_start(client: Client) -> None:
    """PRINT_START is one line: a pause waits until it has homed and heated."""
    await printing(client, "start.gcode")
    await client.state("extruder", "target", 200.0)
    await client.call("printer.print.pause")
    assert client.status["extruder"]["temperature"] > 150.0


async def test_error_in_the_file(client: Client) -> None:
    """An error ends the job with its text; a cancel afterwards changes nothing."""
    await printing(client, "broken.gcode")
    await client.state("print_stats", "state", "error")
    assert client.status["print_stats"]["message"].startswith("Move out of range: 500.000 0.000 0.000 [")
    assert client.status["virtual_sdcard"]["file_position"] == len("G28\nM117 before\n")
    assert client.status["virtual_sdcard"]["file_path"].endswith("/broken.gcode")
    await client.heard("history finished error")
    await client.call("printer.print.cancel")
    answer = await client.call("printer.objects.query", objects={"print_stats": ["state"]})
    assert answer["status"]["print_stats"]["state"] == "error"


async def test_unknown_command_in_the_file(client: Client) -> None:
    """A file goes on after a command that nobody knows."""
    await client.call("printer.print.start", filename="unknown.gcode")
    await client.state("print_stats", "state", "complete")
    assert '// Unknown command:"FOOBAR"' in client.responses()
    assert client.responses()[-1] == "Done printing file"
    assert client.status["virtual_sdcard"]["progress"] == 1.0


async def test_empty_file(client: Client) -> None:
    """An empty file starts and ends between two ticks."""
    assert await client.call("printer.print.start", filename="empty.gcode") == "ok"
    await client.heard("response Done printing file")
    await client.state("print_stats", "state", "complete")


async def test_objects_layers_progress(client: Client) -> None:
    """Objects come back in upper case, layers from SET_PRINT_STATS_INFO, progress from M73."""
    await printing(client, "objects.gcode")
    await client.state("exclude_object", "current_object", "CUBE_ID_1_COPY_0")
    assert client.status["exclude_object"]["objects"] == [
        {"name": "CUBE_ID_1_COPY_0", "center": [90, 110], "polygon": [[80, 100], [100, 100]]}
    ]
    assert client.status["print_stats"]["info"] == {"total_layer": 8, "current_layer": 1}
    assert client.status["display_status"]["progress"] == 0.12


async def test_filament_runout(rig: VirtualPrinter, client: Client) -> None:
    """A runout pauses the print without any special message; it can be resumed without filament."""
    await printing(client, "slow.gcode")
    place = await client.heard("history added")
    await client.state("toolhead", "homed_axes", "xyz")
    await rig.control("filament", present=False)
    await client.state("filament_switch_sensor runout", "filament_detected", False)
    await client.state("print_stats", "state", "paused")
    await client.state("pause_resume", "is_paused", True)
    assert not [m for m in client.log[place:] if label(m).startswith(("history", "response !!"))][1:]
    await client.call("printer.print.resume")
    await client.state("print_stats", "state", "printing")


async def test_temperatures_take_time(client: Client) -> None:
    """M109 returns when the heater is there, and tells the temperatures once a second of printer time."""
    began = time.monotonic()
    await client.gcode("M109 S200")
    assert 15.0 < (time.monotonic() - began) * FACTOR < 60.0
    assert any(text.startswith("B:") and "T0:" in text for text in client.responses())
    await client.until(lambda: client.status["extruder"]["temperature"] >= 198.0)


# ---- shutdown, restart, kill -----------------------------------------------------------------------------


async def test_shutdown_during_plain_moves(client: Client) -> None:
    """Plain moves cut by a shutdown show `paused`, in the same push as the shutdown; then come notice and history."""
    await printing(client, "slow.gcode")
    await client.until(lambda: client.status["virtual_sdcard"]["file_position"] > 30)
    await client.call("printer.emergency_stop")
    await client.heard("history finished klippy_shutdown")
    push = next(m["params"][0] for m in client.log if "webhooks" in label(m))
    assert push["print_stats"]["state"] == "paused"
    assert push["virtual_sdcard"]["is_active"] is False
    wanted = ("response // Klipper", "notify_klippy", "history finished")
    assert [text for m in client.log if (text := label(m)).startswith(wanted)] == [
        "response // Klipper state: Shutdown",
        "notify_klippy_shutdown",
        "history finished klippy_shutdown",
    ]
    assert client.status["pause_resume"]["is_paused"] is False


async def test_shutdown_during_homing(client: Client) -> None:
    """A G28 of the file cut by a shutdown ends as an error."""
    await printing(client, "homing.gcode")
    await client.state("toolhead", "homed_axes", "xyz")
    await client.call("printer.emergency_stop")
    await client.state("print_stats", "state", "error")
    assert client.status["print_stats"]["message"] == "Homing failed due to printer shutdown"
    await client.heard("history finished klippy_shutdown")


async def test_firmware_restart(client: Client) -> None:
    """ok, Disconnect, disconnected, ready; the job is forgotten and the subscription is gone without a word."""
    await client.call("printer.emergency_stop")
    await client.heard("notify_klippy_shutdown")
    client.log.clear()
    assert await client.call("printer.firmware_restart") == "ok"
    await client.heard("notify_klippy_ready")
    heard = [text for m in client.log if not (text := label(m)).startswith(("status", "notify_proc"))]
    assert sorted(heard[:3]) == ["answer", "notify_klippy_disconnected", "response // Klipper state: Disconnect"]
    assert heard[3] == "notify_klippy_ready"
    client.log.clear()
    await client.heard("notify_proc_stat_update")
    await client.heard("notify_proc_stat_update", after=len(client.log))
    assert not [m for m in client.log if label(m).startswith("status")]
    assert (await client.subscribe("print_stats"))["print_stats"]["state"] == "standby"


async def state_of(client: Client, *wanted: str) -> str:
    """Poll as an agent has to: an error is announced by nobody."""
    async with asyncio.timeout(20.0):
        while True:
            state = str((await client.call("server.info"))["klippy_state"])
            if state in wanted:
                return state
            await asyncio.sleep(0.05)


async def test_restart_in_shutdown(rig: VirtualPrinter, client: Client) -> None:
    """RESTART after a shutdown ends in `error` without any notice; FIRMWARE_RESTART heals."""
    await client.call("printer.emergency_stop")
    await client.heard("notify_klippy_shutdown")
    await client.call("printer.restart")
    place = await client.heard("notify_klippy_disconnected")
    assert await state_of(client, "error", "ready") == "error"
    message = (await client.call("printer.info"))["state_message"]
    assert message.startswith("Can not update MCU 'mcu' config as it is shutdown")
    assert not [m for m in client.log[place + 1 :] if label(m).startswith("notify_klippy")]
    await client.call("printer.firmware_restart")
    await client.heard("notify_klippy_ready", after=place)
    await rig.wait_ready()


async def test_config_error(rig: VirtualPrinter, client: Client) -> None:
    """A broken configuration: state error, its text for all G-code; after an e-stop, the first reset fails."""
    await rig.control("config_error", text="Section 'bogus_section' is not a valid config section")
    try:
        await client.call("printer.restart")
        await client.heard("notify_klippy_disconnected")
        assert await state_of(client, "error") == "error"
        text = (
            "Section 'bogus_section' is not a valid config section\n\n"
            'Once the underlying issue is corrected, use the "RESTART"\n'
        )
        calls: list[tuple[str, dict[str, Any]]] = [
            ("printer.gcode.script", {"script": "G28"}),
            ("printer.print.start", {"filename": "short.gcode"}),
            ("printer.print.pause", {}),
        ]
        for method, params in calls:
            with pytest.raises(RpcError) as caught:
                await client.call(method, **params)
            assert caught.value.code == 400
            assert caught.value.message.startswith(text)
            assert caught.value.message.endswith("Printer is halted\n")
        assert (await client.subscribe("webhooks"))["webhooks"]["state"] == "error"
        await client.call("printer.emergency_stop")
    finally:
        await rig.control("config_error", text=None)
    client.log.clear()
    await client.call("printer.firmware_restart")
    await client.heard("notify_klippy_disconnected")
    assert await state_of(client, "error", "ready") == "error"
    assert "Failed automated reset of MCU 'mcu'" in (await client.call("printer.info"))["state_message"]
    client.log.clear()
    await client.call("printer.firmware_restart")
    await client.heard("notify_klippy_ready")
    await rig.wait_ready()


async def test_mcu_absent(rig: VirtualPrinter, client: Client) -> None:
    """Without its MCU, Klippy is in startup for 90 s, with its own text; then in error until a firmware restart."""
    await rig.control("mcu_absent", absent=True)
    try:
        await client.call("printer.restart")
        await client.heard("notify_klippy_disconnected")
        await state_of(client, "startup")
        with pytest.raises(RpcError) as caught:
            await client.gcode("G28")
        text = "\nPrinter is not ready\nThe klippy host software is attempting to connect.  Please\n"
        assert caught.value.message.startswith(text)
        began = time.monotonic()
        await state_of(client, "error")
        assert (time.monotonic() - began) * FACTOR > 60.0
        assert (await client.call("printer.info"))["state_message"].startswith("mcu 'mcu': Unable to connect\n")
    finally:
        await rig.control("mcu_absent", absent=False)
    await client.call("printer.firmware_restart")
    await client.heard("notify_klippy_ready")
    await rig.wait_ready()


async def test_kill(rig: VirtualPrinter, client: Client) -> None:
    """kill -9: disconnected, history, what is under way fails, new calls are refused; then it comes back."""
    await printing(client, "slow.gcode")
    waiting = client.send("printer.gcode.script", script="G28")
    await client.call("printer.info")
    await rig.kill_klippy()
    with pytest.raises(RpcError) as caught:
        await waiting
    assert (caught.value.code, caught.value.message) == (503, "Klippy Disconnected")
    await client.heard("notify_klippy_disconnected")
    await client.heard("history finished klippy_disconnect")
    for method in ("printer.info", "printer.emergency_stop", "printer.firmware_restart"):
        with pytest.raises(RpcError) as caught:
            await client.call(method)
        assert (caught.value.code, caught.value.message) == (503, "Klippy Host not connected")
    assert client.status["print_stats"]["state"] == "printing"
    await rig.restart_klippy()
    await client.heard("notify_klippy_ready")


async def test_moonraker_restart_during_a_print(rig: VirtualPrinter, client: Client) -> None:
    """Klippy prints on without Moonraker, whose history closes the job as server_exit."""
    await printing(client, "slow.gcode")
    await client.heard("history added")
    await rig.stop_moonraker()
    await rig.start_moonraker()
    async with connected(rig.url) as again:
        assert (await again.subscribe("print_stats"))["print_stats"]["state"] == "printing"
        jobs = (await again.call("server.history.list", limit=1))["jobs"]
        assert [job["status"] for job in jobs] == ["server_exit"]


async def test_shutdown_with_a_reason(rig: VirtualPrinter, client: Client) -> None:
    """A fault of the machine shuts down with its own reason."""
    await rig.control("shutdown", reason="Lost communication with MCU 'mcu'")
    await client.heard("notify_klippy_shutdown")
    message = client.status["webhooks"]["state_message"]
    assert message.startswith("Lost communication with MCU 'mcu'\nOnce the underlying issue")


async def test_stall_and_slow(rig: VirtualPrinter, client: Client) -> None:
    """A stalled Klippy answers nothing until it flows again; a slow one answers late."""
    await rig.control("stall", stalled=True)
    asked = client.send("printer.gcode.script", script="M117 x")
    done, _ = await asyncio.wait({asked}, timeout=0.6)
    await rig.control("stall", stalled=False)
    assert not done
    assert await asked == "ok"
    await rig.control("slow", seconds=0.3)
    began = time.monotonic()
    await client.gcode("M117 y")
    await rig.control("slow", seconds=0.0)
    assert time.monotonic() - began > 0.3


async def test_received_gcode(rig: VirtualPrinter, client: Client) -> None:
    """Every line of G-code is on record, and the counters count."""
    await rig.control("received_gcode", clear=True)
    before = (await rig.control("counters"))["prints_started"]
    await client.gcode("M117 on record")
    await client.call("printer.print.start", filename="short.gcode")
    await client.state("print_stats", "state", "complete")
    lines = (await rig.control("received_gcode"))["lines"]
    assert lines == ["M117 on record", 'SDCARD_PRINT_FILE FILENAME="short.gcode"', "M117 one", "M117 two"]
    assert (await rig.control("counters"))["prints_started"] == before + 1
    with pytest.raises(AgentError, match="no control command 'nope'"):
        await rig.control("nope")


# ---- against the recording -------------------------------------------------------------------------------


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    """What matters of a stretch of traffic: no pushes, no file notices, texts as they are."""
    skipped = ("status", "notify_proc", "notify_filelist")
    return [text for message in messages if not (text := label(message)).startswith(skipped)]


async def hears(client: Client, count: int) -> None:
    await client.until(lambda: len(kinds(client.log)) >= count)


async def test_same_answers_as_recorded(client: Client) -> None:
    """The recorded requests, from the first error to the recovery, bring the recorded notices and answers in order."""
    session = recorded()
    asked = {entry["msg"]["id"]: i for i, entry in enumerate(session) if entry["dir"] == "out"}
    for number in (8, 9, 10, 11, 12, 13, 14, 15, 26, 27, 28):
        request = session[asked[number]]["msg"]
        stretch = [entry["msg"] for entry in session[asked[number] + 1 : asked[number + 1]] if entry["dir"] == "in"]
        client.log.clear()
        await asyncio.gather(client.send(request["method"], **request.get("params", {})), return_exceptions=True)
        await hears(client, len(kinds(stretch)))
        assert kinds(client.log) == kinds(stretch), request


async def test_the_sample(tmp_path: Path) -> None:
    """The demo's file, real slicer output, prints to its end with its layers, objects, progress and thumbnails."""
    async with VirtualPrinter(tmp_path, time_factor=100.0) as fast, connected(fast.url) as client:
        (fast.gcodes / "demo.gcode").write_bytes(SAMPLE.read_bytes())
        await client.heard("notify_filelist_changed")
        await client.subscribe()
        await client.call("printer.print.start", filename="demo.gcode")
        await client.state("print_stats", "state", "complete", timeout=30.0)
        await client.heard("history finished completed")
        assert not [text for text in client.responses() if text.startswith(("!!", "// Unknown"))]
        assert client.status["print_stats"]["info"] == {"total_layer": 24, "current_layer": 24}
        assert len(client.status["exclude_object"]["objects"]) == 2
        metadata = await client.call("server.files.metadata", filename="demo.gcode")
        assert metadata["slicer"] == "PrusaSlicer"
        assert metadata["thumbnails"]
        assert client.status["print_stats"]["filament_used"] == pytest.approx(metadata["filament_total"], rel=0.02)
        assert 0.7 < client.status["print_stats"]["print_duration"] / metadata["estimated_time"] < 1.2
