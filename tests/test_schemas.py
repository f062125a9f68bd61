"""The contract made executable, and what a person reads when a command does not keep to it."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from printago_moonraker import errors, schemas
from printago_moonraker.errors import AgentError, CommandError, InvalidParameters

EXAMPLES = [
    pytest.param(name, example, id=f"{name}-{number}")
    for name in schemas.names()
    for number, example in enumerate(json.loads(schemas.text(name)).get("examples", []))
]


def refused(command: str, parameters: dict[str, Any]) -> InvalidParameters:
    type_, _, action = command.partition(".")
    with pytest.raises(InvalidParameters) as caught:
        schemas.validate_parameters(type_, action, parameters)
    return caught.value


# ---- the files


@pytest.mark.parametrize("name", schemas.names())
def test_each_schema_is_one(name: str) -> None:
    """Each file keeps to the metaschema of draft 2020-12, and is called what its $id says."""
    schema = json.loads(schemas.text(name))
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"https://printago-moonraker.invalid/schemas/{name}.json"
    assert schema["title"]
    assert schema["description"]


@pytest.mark.parametrize("name", [name for name in schemas.names() if name != "common"])
def test_each_message_has_examples(name: str) -> None:
    """Each message is shown at least once."""
    assert json.loads(schemas.text(name))["examples"]


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_each_example_validates(name: str, example: Any) -> None:
    """The examples inside the schemas are true."""
    check = schemas.compiled(name)
    assert [error.message for error in check.iter_errors(example)] == []


@pytest.mark.parametrize("name", schemas.names())
def test_each_reference_stays_here(name: str) -> None:
    """Every $ref leads to a definition of common.json, so that no check ever asks the network."""
    definitions = json.loads(schemas.text("common"))["$defs"]

    def references(node: Any) -> list[str]:
        if isinstance(node, list):
            return [each for item in node for each in references(item)]
        if not isinstance(node, dict):
            return []
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [each for item in node.values() for each in references(item)]

    for reference in references(json.loads(schemas.text(name))):
        file, _, definition = reference.partition("#/$defs/")
        assert file in ("", f"{'../' * name.count('/')}common.json")
        assert definition in definitions


def test_unknown_name_is_refused() -> None:
    """A name is looked up in the list, so that it can never be a path to another file."""
    for name in ("nope", "../pyproject", "/etc/passwd", "command.json", ""):
        with pytest.raises(AgentError, match="There is no schema"):
            schemas.text(name)


def test_commands_are_the_files() -> None:
    """The commands with a schema are told by the folder."""
    assert ("printer_control", "start_print_bbl") in schemas.commands()
    assert len(schemas.commands()) == len(list((schemas.path() / "commands").iterdir()))


def test_every_code_can_be_told() -> None:
    """Each error class's code is one that the error envelope's schema knows."""
    data = json.loads(schemas.text("envelopes/error"))["properties"]["data"]
    codes = {each.code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CommandError)}
    assert codes <= set(data["properties"]["code"]["enum"])


def test_jsonschema_is_loaded_by_the_first_check() -> None:
    """A process that validates nothing does not pay for the library."""
    code = "import sys, printago_moonraker.schemas as s; s.names(); sys.exit('jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=schemas.path().parent).returncode == 0


def test_an_installed_package_carries_them(tmp_path: Path) -> None:
    """Without a checkout around it, the package finds the schemas inside itself."""
    package = Path(schemas.__file__).parent
    installed = tmp_path / "printago_moonraker"
    installed.mkdir()
    for module in ("__init__", "errors", "log", "schemas"):
        shutil.copy(package / f"{module}.py", installed)
    shutil.copytree(schemas.path(), installed / "_schemas")
    code = (
        "import printago_moonraker.schemas as s; print(s.path()); "
        "s.validate_parameters('printer_control', 'get_status', {})"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.strip() == str(installed / "_schemas")


# ---- envelopes that must not pass

STATUS = json.loads(schemas.text("envelopes/status"))["examples"][0]
ERROR = json.loads(schemas.text("envelopes/error"))["examples"][0]
EVENT = json.loads(schemas.text("envelopes/event"))["examples"][0]
SUCCESS = json.loads(schemas.text("envelopes/success"))["examples"][0]
PAIRING = json.loads(schemas.text("envelopes/pairing"))["examples"][1]


def without(message: dict[str, Any], *path: str) -> dict[str, Any]:
    head, *rest = path
    if not rest:
        return {name: value for name, value in message.items() if name != head}
    return {**message, head: without(message[head], *rest)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("status", without(STATUS, "timestamp")),
        ("status", {**STATUS, "timestamp": "2026-11-23T09:15:02Z"}),
        ("status", {**STATUS, "type": "event"}),
        ("status", without(STATUS, "data", "klipper")),
        ("status", without(STATUS, "data", "klipper", "can", "home")),
        ("status", without(STATUS, "data", "current_state_data", "state", "flags", "sdReady")),
        ("status", without(STATUS, "data", "temperatures", "bed", "target")),
        ("status", {**STATUS, "data": {**STATUS["data"], "printer_state_id": "PURRING"}}),
        ("error", without(ERROR, "data", "code")),
        ("error", {**ERROR, "data": {"error": "Oh.", "code": "oh"}}),
        ("error", {**ERROR, "data": {"error": "Oh.", "code": "invalid_parameters", "details": [{"path": "x"}]}}),
        ("success", without(SUCCESS, "command")),
        ("success", {**SUCCESS, "data": {}}),
        ("event", without(EVENT, "data", "event")),
        ("event", {**EVENT, "command": {}}),
        ("pairing", without(PAIRING, "data", "reason")),
    ],
)
def test_bad_envelopes_are_refused(name: str, message: dict[str, Any]) -> None:
    """An envelope that misses a member, or has a wrong one, does not pass."""
    assert not schemas.compiled(f"envelopes/{name}").is_valid(message)


@pytest.mark.parametrize(
    "message",
    [
        [],
        {"type": "a", "action": "b"},
        {"type": "a", "action": "b", "parameters": []},
        {"type": "a", "action": "b", "parameters": {}, "id": "x" * 129},
        {"type": "a", "action": "b", "parameters": {}, "id": 5},
        {"type": "a", "action": "b", "parameters": {}, "expires_at": "2026-11-23T09:20:00"},
    ],
)
def test_bad_commands_are_refused(message: Any) -> None:
    """What is no command does not pass as one."""
    assert not schemas.compiled("command").is_valid(message)


# ---- parameters


@pytest.mark.parametrize(
    ("command", "parameters", "sentence"),
    [
        ("temperature_control.set_bed", {}, "temperature is missing."),
        ("temperature_control.set_bed", {"temperature": "hot"}, "temperature: 'hot' is not a number."),
        ("temperature_control.set_bed", {"temperature": ""}, "temperature: '' is not a number."),
        ("temperature_control.set_bed", {"temperature": "6e1"}, "temperature: '6e1' is not a number."),
        ("temperature_control.set_bed", {"temperature": "nan"}, "temperature: 'nan' is not a number."),
        ("temperature_control.set_bed", {"temperature": "٦٠"}, "temperature: '٦٠' is not a number."),
        ("temperature_control.set_bed", {"temperature": True}, "temperature: true is not a number."),
        ("temperature_control.set_bed", {"temperature": None}, "temperature: null is not a number."),
        ("temperature_control.set_bed", {"temperature": math.nan}, "temperature: NaN is not a number."),
        ("temperature_control.set_bed", {"temperature": -math.inf}, "temperature: -Infinity is not a number."),
        ("temperature_control.set_bed", {"temperature": [60]}, "temperature must be a number."),
        ("temperature_control.set_hotend", {"temperature": 1, "tool": 0.5}, "tool: 0.5 is not a whole number."),
        ("temperature_control.set_hotend", {"temperature": 1, "tool": "1.0"}, "tool: '1.0' is not a whole number."),
        ("temperature_control.set_hotend", {"temperature": 1, "tool": -1}, "tool: -1 is below 0."),
        ("temperature_control.set_hotend", {"temperature": 1, "tool": "-1"}, "tool: -1 is below 0."),
        ("movement_control.jog", {}, "axes is missing."),
        ("movement_control.jog", {"axes": {}}, "axes must be an object with at least one of x, y and z."),
        ("movement_control.jog", {"axes": {"e": 5}}, "axes must be an object with at least one of x, y and z."),
        ("movement_control.jog", {"axes": 5}, "axes: 5 is not an object with at least one of x, y and z."),
        ("movement_control.jog", {"axes": {"x": "1\nM112"}}, "axes.x: '1 M112' is not a number."),
        ("movement_control.jog", {"axes": {"x": 1}, "speed": "0"}, "speed: 0.0 is not above 0."),
        ("movement_control.jog", {"axes": {"x": 1}, "relative": "true"}, "relative: 'true' is not true or false."),
        ("movement_control.jog", {"axes": {"x": 1}, "relative": 1}, "relative: 1 is not true or false."),
        ("movement_control.jog", {"axes": {"x": 1}, "tags": ["a", 5]}, "tags[1]: 5 is not a text."),
        ("movement_control.jog", {"axes": {"x": 10**400}}, None),
        ("movement_control.extrude", {"amount": 0}, "amount must not be 0."),
        ("movement_control.extrude", {"amount": "-0.0"}, "amount must not be 0."),
        ("movement_control.extrude", {"amount": "9" * 30}, "amount: 1e+30 is above 1000000000."),
        ("movement_control.home", {"axes": "x,q"}, None),
        ("movement_control.home", {"axes": []}, None),
        ("movement_control.home", {"axes": ["xy"]}, None),
        ("printer_control.start_print", {}, "file_name is missing."),
        ("printer_control.start_print", {"file_name": 5}, "file_name: 5 is not a text."),
        ("printer_control.start_print", {"file_name": ""}, "file_name must not be empty."),
        (
            "printer_control.start_print",
            {"file_name": "a", "job_id": "x" * 129},
            "job_id is longer than 128 characters.",
        ),
        ("printer_control.download_gcode", {"url": "x" * 8193}, "url is longer than 8192 characters."),
        ("printer_control.download_gcode", {"url": "u", "size": -1}, "size: -1 is below 0."),
        (
            "printer_control.download_gcode",
            {"url": "u", "sha256": "zz"},
            "sha256: 'zz' is not a SHA-256 of 64 hexadecimal digits.",
        ),
        ("printer_control.download_gcode", {"url": "u", "sha256": "a" * 64 + "\n"}, None),
        ("printer_control.start_print_bbl", {"url": "u", "plate": 0}, "plate: 0 is below 1."),
    ],
)
def test_one_sentence_a_person_can_act_on(command: str, parameters: dict[str, Any], sentence: str | None) -> None:
    """What does not fit is named with its path, its value and what was expected, in one short line."""
    error = refused(command, parameters)
    assert sentence is None or str(error) == sentence
    assert str(error).isprintable()
    assert len(str(error)) < 220
    assert "given schemas" not in str(error)
    assert error.details[0]["path"]


@pytest.mark.parametrize(
    ("command", "parameters", "values"),
    [
        ("temperature_control.set_hotend", {"temperature": "210.5", "tool": "1"}, {"temperature": 210.5, "tool": 1}),
        ("temperature_control.set_hotend", {"temperature": 210, "tool": 1.0}, {"temperature": 210, "tool": 1}),
        ("movement_control.jog", {"axes": {"x": "+10", "y": ".5"}}, {"axes": {"x": 10.0, "y": 0.5}}),
        ("printer_control.download_gcode", {"url": "1", "size": "20172"}, {"url": "1", "size": 20172}),
        ("printer_control.start_print", {"file_name": "12"}, {"file_name": "12"}),
        ("movement_control.home", {"axes": "x,y"}, {"axes": "x,y"}),
        ("printer_control.get_status", {"new": {"deep": "7"}}, {"new": {"deep": "7"}}),
    ],
)
def test_numbers_come_out_as_numbers(command: str, parameters: dict[str, Any], values: dict[str, Any]) -> None:
    """Decimal strings become numbers where a number is wanted, and stay what they are elsewhere."""
    type_, _, action = command.partition(".")
    before = json.dumps(parameters)
    result = schemas.validate_parameters(type_, action, parameters)
    assert json.dumps(result) == json.dumps(values)
    assert json.dumps(parameters) == before


@pytest.mark.parametrize(
    ("command", "parameters", "values"),
    [
        ("movement_control.jog", {"axes": {"x": 5, "y": None}, "speed": None, "tags": None}, {"axes": {"x": 5}}),
        ("movement_control.home", {"axes": None}, {}),
        ("temperature_control.set_hotend", {"temperature": 0, "tool": None}, {"temperature": 0}),
        ("printer_control.start_print", {"file_name": "a", "job_id": None}, {"file_name": "a"}),
        (
            "printer_control.download_gcode",
            {"url": "u", "file_name": None, "size": None, "sha256": None, "plate": None, "printago_job": None},
            {"url": "u"},
        ),
        ("camera_control.snapshot", {"camera_name": "a", "destination_url": None}, {"camera_name": "a"}),
        ("light_control.set_light", {"on": None, "brightness": 1}, {"brightness": 1}),
        ("printer_control.get_status", {"new": None}, {"new": None}),
    ],
)
def test_an_optional_parameter_that_is_null_is_absent(
    command: str, parameters: dict[str, Any], values: dict[str, Any]
) -> None:
    """A cloud that writes null for what it does not know says nothing with it, also inside an object."""
    type_, _, action = command.partition(".")
    assert schemas.validate_parameters(type_, action, parameters) == values


@pytest.mark.parametrize(
    ("command", "parameters", "sentence"),
    [
        ("movement_control.extrude", {"amount": None}, "amount: null is not a number."),
        ("movement_control.jog", {"axes": None}, "axes: null is not an object with at least one of x, y and z."),
        ("movement_control.jog", {"axes": {"x": None}}, "axes must be an object with at least one of x, y and z."),
        ("light_control.set_light", {"on": None}, None),
        (
            "camera_control.snapshot",
            {"camera_name": "a", "destination": "url", "destination_url": None},
            "destination_url is missing.",
        ),
    ],
)
def test_what_is_needed_must_not_be_null(command: str, parameters: dict[str, Any], sentence: str | None) -> None:
    """Null counts as nothing where something is required."""
    error = refused(command, parameters)
    assert sentence is None or str(error) == sentence


def test_the_first_ten_are_told() -> None:
    """A thousand faults make a short answer."""
    error = refused("movement_control.jog", {"axes": {"x": 1}, "tags": list(range(90))})
    assert len(error.details) == 10
    assert error.details[9] == {"path": "tags[9]", "message": "9 is not a text."}


def test_each_missing_member_is_named() -> None:
    """Several faults are several details, the first of them the sentence."""
    error = refused("temperature_control.set_hotend", {"tool": "x" * 5000})
    assert {detail["path"] for detail in error.details} == {"tool", "temperature"}
    assert all(len(detail["message"]) <= 200 for detail in error.details)


def test_details_keep_to_the_error_schema() -> None:
    """What is told about bad parameters fits the error envelope."""
    error = refused("movement_control.jog", {"axes": {"x": "\x1b[31m" * 100}, "speed": {}})
    message = {**ERROR, "data": {"error": str(error), "code": error.code, "details": error.details}}
    schemas.compiled("envelopes/error").validate(message)


def test_depth_is_no_defect() -> None:
    """Parameters nested beyond all reason are refused like others; in an unknown member they are ignored."""
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    assert "must not be nested" in str(refused("temperature_control.set_bed", {"temperature": deep}))
    assert schemas.validate_parameters("printer_control", "get_status", {"new": deep})["new"] is deep


def test_no_schema_no_check() -> None:
    """A command without a schema is never let through unchecked."""
    with pytest.raises(AgentError, match="There is no schema"):
        schemas.validate_parameters("printer_control", "levitate", {})
