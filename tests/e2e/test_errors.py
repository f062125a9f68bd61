"""What is refused: with which code, in one clear sentence, nothing of it reaching Klipper, and the agent goes on."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.farm import MAX_DOWNLOAD, PRINTER_ID, Farm, check_refusal, moves, source
from tests.fakes.source import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

STATUS = {"type": "printer_control", "action": "get_status", "parameters": {}}
BED = {"type": "temperature_control", "action": "set_bed", "parameters": {"temperature": 50}}
URL = "http://127.0.0.1:9/a.gcode"


def command(base: dict[str, Any] = BED, **members: Any) -> bytes:
    return json.dumps({**base, **members}).encode()


def heating(**parameters: Any) -> bytes:
    return command({**BED, "action": "set_hotend"}, parameters=parameters)


@pytest.mark.parametrize(
    ("payload", "code", "sentence"),
    [
        (b"", "invalid_json", ""),
        (b"xx", "invalid_json", "not valid JSON"),
        (b"\xff\xfe{}", "invalid_json", "UTF-8"),
        (b"[1]", "invalid_json", "not a JSON object"),
        (b'"printer_control"', "invalid_json", "not a JSON object"),
        (b"[" * 100_000, "invalid_json", "nested"),
        (b'{"type":"printer_control","action":"get_status","parameters":{"x":NaN}}', "invalid_json", "NaN"),
        (command(parameters={"temperature": 50, "padding": "x" * 256 * 1024}), "payload_too_large", "262144"),
        (command({"action": "home", "parameters": {}}), "missing_type", "No command type specified"),
        (command(type=7), "invalid_parameters", "type"),
        (command({"type": "movement_control"}), "missing_action", "No action specified for movement_control command."),
        (command({"type": "movement_control", "action": "home"}), "missing_parameters", "No parameters specified for"),
        (command(parameters=[50]), "invalid_parameters", "object"),
        (command(type="plasma_control"), "unknown_type", "Unknown Printago command type: plasma_control"),
        (command(action="melt"), "unknown_action", "Unknown action for temperature_control: melt"),
        (command(type="fan_control", action="blow"), "unknown_action", "Unknown action for fan_control: blow"),
        (command(type="light_control", action="blink"), "unknown_action", "Unknown action for light_control"),
        (heating(), "invalid_parameters", "temperature"),
        (heating(temperature="hot"), "invalid_parameters", "temperature"),
        (heating(temperature="NaN"), "invalid_parameters", "temperature"),
        (heating(temperature="1e3"), "invalid_parameters", "temperature"),
        (heating(temperature=True), "invalid_parameters", "temperature"),
        (heating(temperature=[200]), "invalid_parameters", "temperature"),
        (heating(temperature=200, tool=-1), "invalid_parameters", "tool"),
        (heating(temperature=200, tool=0.5), "invalid_parameters", "tool"),
        (command({**STATUS, "action": "start_print"}), "invalid_parameters", "file_name"),
        (command({**STATUS, "action": "start_print"}, parameters={"file_name": 1}), "invalid_parameters", "file_name"),
        (command({**STATUS, "action": "download_gcode"}), "invalid_parameters", "url"),
        (
            command({**STATUS, "action": "download_gcode"}, parameters={"url": URL, "sha256": "00"}),
            "invalid_parameters",
            "sha256",
        ),
        (command(type="movement_control", action="jog", parameters={"axes": {}}), "invalid_parameters", "axes"),
        (command(type="movement_control", action="jog", parameters={"axes": {"x": None}}), "invalid_parameters", "x"),
        (
            command(type="movement_control", action="jog", parameters={"axes": {"x": 1}, "speed": 0}),
            "invalid_parameters",
            "speed",
        ),
        (command(type="movement_control", action="extrude", parameters={}), "invalid_parameters", "amount"),
        (command(type="movement_control", action="home", parameters={"axes": "w"}), "invalid_parameters", "axes"),
        (command(printer_id="another"), "wrong_printer", "another"),
        (command(expires_at="2020-01-01T00:00:00Z"), "expired", "2020"),
        (command(timestamp=(datetime.now(UTC) - timedelta(hours=1)).isoformat()), "expired", "300 s"),
        (command(expires_at="soon"), "invalid_parameters", "expires_at"),
    ],
)
async def test_refused_before_the_printer_is_looked_at(farm: Farm, payload: bytes, code: str, sentence: str) -> None:
    """What is no sound command is refused with its code and its reason, and the agent goes on."""
    answer = await farm.raw(payload)
    assert sentence in check_refusal(answer, code)
    if code == "invalid_json" and b"NaN" not in payload:
        assert answer["command"] == {}
    if code == "invalid_parameters" and "details" in answer["data"]:
        assert {"path", "message"} == set(answer["data"]["details"][0])
    assert (await farm.status())["printer_state_id"] == "OPERATIONAL"
    assert await farm.received() == []


async def test_what_is_just_in_time_and_for_this_printer_is_carried_out(farm: Farm) -> None:
    """The members that can refuse a command let it through when they fit."""
    now = datetime.now(UTC)
    later = (now + timedelta(minutes=1)).isoformat()
    answer = await farm.raw(command(printer_id=PRINTER_ID, expires_at=later, timestamp=now.isoformat(), unknown=1))
    assert answer["type"] == "success"


async def test_a_retained_command_is_not_carried_out(farm: Farm) -> None:
    """Nothing moves because a broker remembered something, whoever connects anew."""
    await farm.cloud.send_raw(command(id="remembered"), retain=True)
    await farm.wait_for(lambda envelope: envelope.get("command", {}).get("id") == "remembered")
    await farm.end_agent()
    await farm.broker.stop()  # with it the agent's session goes: the next one is given what is retained
    await farm.broker.start()
    await farm.connect_cloud()
    await farm.cloud.send_raw(command(id="remembered"), retain=True)
    await farm.gcode("M140 S0")
    await farm.printer.control("received_gcode", clear=True)
    await farm.start_agent()
    try:
        answer = await farm.wait_for(lambda envelope: envelope.get("command", {}).get("id") == "remembered")
        check_refusal(answer, "retained_command")
        await farm.settled()
        assert await farm.received() == []
    finally:
        await farm.cloud.send_raw(b"", retain=True)  # the broker forgets it


@pytest.mark.timeout(120)
async def test_more_commands_than_can_wait(farm: Farm) -> None:
    """64 commands may wait; what comes then is refused, and what waits for nothing is answered meanwhile."""

    def set_bed(degrees: int) -> Awaitable[dict[str, Any]]:  # each is a success once its target is seen: a tick each
        return farm.cloud.command("temperature_control", "set_bed", {"temperature": degrees}, timeout=100.0)

    await farm.hold("motion", "G4")
    holding = asyncio.create_task(farm.gcode("G4 P1"))
    await farm.reached("G4")
    targets = range(30, 100)
    answers = [asyncio.ensure_future(set_bed(each)) for each in targets]
    first = await farm.wait_for(lambda envelope: envelope["type"] == "error" and "command" in envelope)
    check_refusal(first, "overloaded")
    assert (await farm.status())["printer_state_id"] == "OPERATIONAL"
    assert not any(answer.done() and answer.result()["type"] == "success" for answer in answers)
    await farm.release()
    kinds = [answer["type"] for answer in await asyncio.gather(*answers)]
    await holding
    await farm.gcode("M400")  # behind them all
    assert (kinds[:65], kinds[65:]) == (["success"] * 65, ["error"] * 5)
    heard = [line.rpartition("=")[2] for line in await farm.received() if line.startswith("SET_HEATER")]
    assert heard == [str(each) for each in targets[:65]]


@pytest.mark.parametrize(
    ("name", "parameters", "code", "sentence"),
    [
        ("temperature_control.set_hotend", {"temperature": 301}, "out_of_range", "300"),
        ("temperature_control.set_hotend", {"temperature": "999"}, "out_of_range", "300"),
        ("temperature_control.set_hotend", {"temperature": -5}, "out_of_range", "-5"),
        ("temperature_control.set_bed", {"temperature": 130.5}, "out_of_range", "130"),
        ("temperature_control.set_hotend", {"temperature": 200, "tool": 3}, "not_supported", "ool 3"),
        ("temperature_control.set_chamber", {"temperature": 40}, "not_supported", "chamber"),
        ("movement_control.extrude", {"amount": 5, "tool": 1}, "not_supported", "ool 1"),
        ("printer_control.pause_print", {}, "not_printing", "pause"),
        ("printer_control.resume_print", {}, "not_paused", "resume"),
        ("printer_control.stop_print", {}, "not_printing", "stop"),
        ("printer_control.start_print", {"file_name": "nope.gcode"}, "file_not_found",
         "File does not exist: Printago/nope.gcode"),
        ("printer_control.start_print", {"file_name": "../a.gcode"}, "forbidden_path", "a.gcode"),
        ("printer_control.start_print", {"file_name": "Printago/../a.gcode"}, "forbidden_path", "a.gcode"),
        ("printer_control.start_print", {"file_name": "/etc/passwd"}, "forbidden_path", "passwd"),
        ("printer_control.start_print", {"file_name": ".."}, "forbidden_path", ""),
        ("printer_control.start_print", {"file_name": "a\nM112.gcode"}, "forbidden_path", "control"),
        ("printer_control.start_print", {"file_name": "ä" * 200}, "forbidden_path", "255"),
        ("printer_control.download_gcode", {"url": URL, "file_name": "../a.gcode"}, "forbidden_path", "a.gcode"),
        ("printer_control.download_gcode", {"url": "http://127.0.0.1:9/..%2fa.gcode"}, "forbidden_path", "a.gcode"),
        ("printer_control.download_gcode", {"url": "http://127.0.0.1:9/"}, "forbidden_path", "file_name"),
    ],
)  # fmt: skip
async def test_refused_without_asking_klipper(
    farm: Farm, name: str, parameters: dict[str, Any], code: str, sentence: str
) -> None:
    """What the printer cannot do is refused by what is known of it: not a line reaches Klipper."""
    assert sentence in await farm.refused(code, name, **parameters)
    assert (await farm.status())["printer_state_id"] == "OPERATIONAL"
    assert await farm.received() == []


@pytest.mark.parametrize(
    ("name", "parameters", "code", "warm"),
    [
        ("jog", {"axes": {"x": 10}}, "not_homed", False),
        ("jog", {"axes": {"x": 1000}}, "out_of_range", True),
        ("jog", {"axes": {"y": -10}, "relative": False}, "out_of_range", True),
        ("extrude", {"amount": 5}, "too_cold", False),
        ("extrude", {"amount": 500}, "out_of_range", True),
    ],
)
async def test_refused_by_klipper(farm: Farm, name: str, parameters: dict[str, Any], code: str, warm: bool) -> None:
    """What only Klipper can judge is refused in its own words: nothing has moved, and the G-code state is as before."""
    if warm:
        await farm.warm()
    await farm.gcode("G91\nM82")
    before = await farm.query("toolhead")
    await farm.refused(code, f"movement_control.{name}", **parameters)
    after, move = await farm.query("toolhead"), await farm.query("gcode_move")
    assert after["position"] == before["position"]
    assert (move["absolute_coordinates"], move["absolute_extrude"]) == (False, True)
    assert (await farm.status())["printer_state_id"] == "OPERATIONAL"


async def test_in_the_way_of_a_print(farm: Farm) -> None:
    """While it prints and while it is paused, what would spoil the print is refused; the print goes on unharmed."""
    await farm.store("other.gcode", moves(5))
    await farm.store("busy.gcode", moves(400))
    await farm.done("printer_control.start_print", file_name="busy.gcode")
    ever: list[tuple[str, dict[str, Any]]] = [
        ("printer_control.start_print", {"file_name": "other.gcode"}),
        ("printer_control.start_print_bbl", {"url": URL}),
        ("printer_control.download_gcode", {"url": URL, "file_name": "busy.gcode"}),
        ("printer_control.restart", {}),
        ("printer_control.firmware_restart", {}),
        ("movement_control.home", {}),
    ]
    printing: list[tuple[str, dict[str, Any]]] = [
        ("movement_control.jog", {"axes": {"z": 1}}),
        ("movement_control.extrude", {"amount": 1}),
    ]
    await farm.completion(2)
    for name, parameters in [*ever, *printing]:
        assert "busy.gcode" in await farm.refused("busy", name, **parameters)
    await farm.done("printer_control.pause_print")
    for name, parameters in ever:
        assert "busy.gcode" in await farm.refused("busy", name, **parameters)
    await farm.done("printer_control.resume_print")
    foreign = [line for line in await farm.received() if not re.fullmatch(r"G1 X\d+ Y\d+ F6000", line)]
    assert not any("other.gcode" in line or "RESTART" in line or "printago" in line for line in foreign), foreign
    assert foreign.count("G28") == 1
    assert farm.prints() == ["PrintStarted", "PrintPaused", "PrintResumed"]
    assert (await farm.status())["current_job"]["file"]["name"] == "busy.gcode"


BODY = moves(2000).encode()


@pytest.mark.parametrize(
    ("replies", "parameters", "code", "sentence"),
    [
        ([Reply(404)], {}, "download_failed", "404"),
        ([Reply(403)], {}, "download_failed", "403"),
        ([Reply(body=BODY, cut=20_000), Reply(410)], {}, "download_failed", "410"),  # a URL that expired meanwhile
        ([Reply(body=b"x" * (MAX_DOWNLOAD + 1))], {}, "download_too_large", str(MAX_DOWNLOAD)),
        ([Reply(body=b"x" * (MAX_DOWNLOAD + 1), chunked=True)], {}, "download_too_large", str(MAX_DOWNLOAD)),
        ([Reply(body=BODY)], {"sha256": "0" * 64}, "checksum_mismatch", "SHA-256"),
        ([Reply(body=BODY)], {"size": 7}, "checksum_mismatch", "7"),
        ([Reply(302, headers={"Location": "http://10.0.0.1/a.gcode"})], {}, "forbidden_url", "10.0.0.1"),
        ([Reply(302, headers={"Location": "file:///etc/passwd"})], {}, "forbidden_url", "https"),
        ([Reply(302, headers={"Location": "/again"})], {}, "download_failed", "redirect"),
        ([Reply(body=b"G28\n")], {"file_name": "a.gcode.3mf"}, "download_failed", "3MF"),
        ([Reply(body=b"PK\x03\x04 broken")], {}, "download_failed", "3MF"),
    ],
)
async def test_downloads_that_fail(
    farm: Farm, replies: list[Reply], parameters: dict[str, Any], code: str, sentence: str
) -> None:
    """A download that cannot be had whole leaves no file, says why, and ends with one TransferFailed of that code."""
    before = farm.stored()
    async with source(*replies, name="fail.gcode") as (_, url):
        answer = await farm.refused(code, "printer_control.download_gcode", url=url, job_id="j-9", **parameters)
    assert sentence in answer
    failed = farm.events("TransferFailed")
    assert [(each["code"], each["job_id"]) for each in failed] == [(code, "j-9")]
    assert not farm.events("TransferDone", "FileAdded")
    assert farm.stored() == before
    assert (await farm.status())["printer_state_id"] == "OPERATIONAL"


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/a.gcode",
        "http://[::1]/a.gcode",
        "http://169.254.169.254/a.gcode",
        "ftp://127.0.0.1/a.gcode",
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/a.gcode",
    ],
)
async def test_urls_that_are_not_opened(farm: Farm, url: str) -> None:
    """A URL into the operator's network, or of another scheme, is not opened."""
    for name in ("printer_control.download_gcode", "printer_control.start_print_bbl"):
        sentence = await farm.refused("forbidden_url", name, url=url, file_name="a.gcode")
        assert "secret" not in sentence
    assert await farm.received() == []
