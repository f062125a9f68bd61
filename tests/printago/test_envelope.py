"""What comes in is refused or sound; what goes out can always be read."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from printago_moonraker import errors
from printago_moonraker.printago.envelope import (
    MAX_COMMAND_BYTES,
    Dialect,
    EnvelopeCodec,
    echo_of,
    make_topics,
    parse_command,
)

RECORDINGS = Path(__file__).parent.parent / "recordings"
NOW = datetime(2026, 11, 23, 9, 15, 2, 417_999, tzinfo=UTC)
COMMAND: dict[str, Any] = {"type": "printer_control", "action": "pause_print", "parameters": {}}


def payload(**members: Any) -> bytes:
    return json.dumps(COMMAND | members).encode()


def test_a_whole_command_is_read() -> None:
    """Every member of the contract arrives, times in UTC, unknown members ignored."""
    command = parse_command(
        payload(
            parameters={"x": 1, "new": None},
            id="c-1",
            timestamp="2026-11-23T09:20:00.5Z",
            expires_at="2026-11-23t11:20:00.123456789+02:00",
            printer_id="voron",
            surprise=[1],
        )
    )
    assert (command.type, command.action, command.parameters) == (
        "printer_control",
        "pause_print",
        {"x": 1, "new": None},
    )
    assert command.timestamp == datetime(2026, 11, 23, 9, 20, 0, 500_000, tzinfo=UTC)
    assert command.expires_at == datetime(2026, 11, 23, 9, 20, 0, 123_456, tzinfo=UTC)
    assert command.expires_at.utcoffset() == timedelta(0)
    assert (command.id, command.printer_id) == ("c-1", "voron")
    assert command.echo == {"type": "printer_control", "action": "pause_print", "id": "c-1"}


def test_optional_members_may_be_null_or_absent() -> None:
    """Absent and null mean the same outside of parameters."""
    for command in (parse_command(payload()), parse_command(payload(id=None, timestamp=None, printer_id=None))):
        assert (command.id, command.timestamp, command.expires_at, command.printer_id) == (None, None, None, None)
        assert command.echo == {"type": "printer_control", "action": "pause_print"}


@pytest.mark.parametrize(
    ("broken", "error", "sentence"),
    [
        ({}, errors.MissingType, "No command type specified in the received message."),
        ({"action": "a", "parameters": {}}, errors.MissingType, "No command type specified in the received message."),
        ({"type": "", "action": "a"}, errors.MissingType, "No command type specified in the received message."),
        ({"type": "foo"}, errors.MissingAction, "No action specified for foo command."),
        (
            {"type": "foo", "action": None, "parameters": {}},
            errors.MissingAction,
            "No action specified for foo command.",
        ),
        ({"type": "f", "action": "home"}, errors.MissingParameters, "No parameters specified for home action."),
        ({"type": 5}, errors.InvalidParameters, "type: must be a string of 1 to 128 characters."),
        ({"type": "x" * 129}, errors.InvalidParameters, "type: must be a string of 1 to 128 characters."),
        (COMMAND | {"action": ["a"]}, errors.InvalidParameters, "action: must be a string of 1 to 128 characters."),
        (COMMAND | {"parameters": []}, errors.InvalidParameters, "parameters: must be an object."),
        (COMMAND | {"id": 7}, errors.InvalidParameters, "id: must be a string of 1 to 128 characters."),
        (COMMAND | {"id": ""}, errors.InvalidParameters, "id: must be a string of 1 to 128 characters."),
        (COMMAND | {"id": "x" * 129}, errors.InvalidParameters, "id: must be a string of 1 to 128 characters."),
        (
            COMMAND | {"printer_id": {}},
            errors.InvalidParameters,
            "printer_id: must be a string of 1 to 128 characters.",
        ),
    ],
)
def test_members_are_checked_in_the_plugins_order(
    broken: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    """The first thing that is wrong is named, in the plugin's words where it has some."""
    with pytest.raises(error) as caught:
        parse_command(json.dumps(broken).encode())
    assert str(caught.value) == sentence


def test_the_plugins_own_refusals_are_repeated() -> None:
    """What the recorded plugin said about a broken command is what we say."""
    seen = 0
    for line in (RECORDINGS / "octoprint-plugin.jsonl").read_text().splitlines():
        exchange = json.loads(line)
        if exchange["case"].startswith("missing"):
            with pytest.raises(errors.CommandError) as caught:
                parse_command(json.dumps(exchange["sent"]).encode())
            assert str(caught.value) == exchange["received"][0]["payload"]["data"]["error"]
            seen += 1
    assert seen == 6


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-23T09:20:00", "2026-11-23", "yesterday", 1795425840, "2026-02-30T00:00:00Z",
        "0001-01-01T00:00:00+23:59", "2026-11-23T09:20:60Z", "20261123T092000Z", "2026-11-23T09:20:00+25:00",
        "٢026-11-23T09:20:00Z",
    ],
)  # fmt: skip
def test_a_time_without_a_meaning_is_refused(time: object) -> None:
    """A naive or impossible time is invalid_parameters, not a guess."""
    with pytest.raises(errors.InvalidParameters, match=r"expires_at: must be a time") as caught:
        parse_command(payload(expires_at=time))
    assert caught.value.details[0]["path"] == "expires_at"


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"pause", b"\xff\xfe{}", b"[]", b"null", b'"x"', b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}',
        b'{"a":-1e999}', b'{"a":' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"a":"\\ud800"}', b'{"\\uDFFF":1}',
        b'{"a":1}{}', b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), b'{"a":"\x00"}', b"{'a':1}",
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    """Everything beyond RFC 8259, and what would only fail later, is invalid_json and has no echo."""
    with pytest.raises(errors.InvalidJson) as caught:
        parse_command(raw)
    assert str(caught.value).startswith("The received message is ")
    assert "\n" not in str(caught.value)
    assert echo_of(raw) == {}


def test_an_escaped_emoji_is_welcome() -> None:
    """Only a lone surrogate is refused, not a pair."""
    assert parse_command(payload(parameters={"n": "\U0001f5a8"})).parameters == {"n": "\U0001f5a8"}


def test_the_size_is_bounded_but_the_answer_can_be_matched() -> None:
    """One byte more than 256 KiB is payload_too_large; the echo still tells which command it was."""
    filler = MAX_COMMAND_BYTES - len(payload(id="c-9", f=""))
    assert parse_command(payload(id="c-9", f="x" * filler)).id == "c-9"
    large = payload(id="c-9", f="x" * (filler + 1))
    with pytest.raises(errors.PayloadTooLarge, match="262145 bytes"):
        parse_command(large)
    assert echo_of(large) == {"type": "printer_control", "action": "pause_print", "id": "c-9"}
    assert echo_of(b" " * 2_000_000 + large) == {}


def test_the_echo_of_a_refused_command_is_what_can_be_read() -> None:
    """Wrong-typed members are left out of the echo, the others stay."""
    assert echo_of(b'{"action": "home", "id": 7}') == {"action": "home"}
    assert echo_of(payload(type=None, id="x")) == {"action": "pause_print", "id": "x"}


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode()))
def test_no_bytes_surprise_the_parser(raw: bytes) -> None:
    """Whatever comes is a command or a CommandError, and echo_of never raises."""
    echo_of(raw)
    try:
        parse_command(raw)
    except errors.CommandError as error:
        assert str(error)  # noqa: PT017 - only if it raises


def codec(dialect: Dialect = Dialect.KLIPPER) -> EnvelopeCodec:
    return EnvelopeCodec("voron-24", dialect.value, dialect)


def test_an_envelope_has_the_contracts_form() -> None:
    """The members in order, the time in UTC with milliseconds and Z, compact UTF-8."""
    at = NOW.astimezone(timezone(timedelta(hours=9)))
    raw = codec().encode("success", {"message": "Größe"}, at=at, command={"id": "c-81"})
    assert raw.decode() == (
        '{"type":"success","timestamp":"2026-11-23T09:15:02.417Z","printer_id":"voron-24","client_type":"klipper",'
        '"data":{"message":"Größe"},"command":{"id":"c-81"}}'
    )


def test_command_is_there_only_in_an_answer() -> None:
    """An envelope that answers nothing has no member `command`; an answer to no command at all has an empty one."""
    assert "command" not in json.loads(codec().encode("event", {"event": "Startup"}, at=NOW))
    assert json.loads(codec().encode("error", {"error": "x"}, at=NOW, command={}))["command"] == {}


def test_success_is_a_plain_string_in_dialect_octoprint() -> None:
    """Only `success` changes, as the plugin had it."""
    octoprint = codec(Dialect.OCTOPRINT)
    done = json.loads(octoprint.encode("success", {"message": "Done.", "size": 1}, at=NOW))
    assert (done["data"], done["client_type"]) == ("Done.", "octoprint")
    assert json.loads(octoprint.encode("error", {"error": "x"}, at=NOW))["data"] == {"error": "x"}


def test_nan_becomes_null() -> None:
    """NaN and infinities, however deep, never go out."""
    data = {"a": math.nan, "b": [1.5, -math.inf, (math.inf, {"c": math.nan, "d": True})]}
    assert json.loads(codec().encode("status", data, at=NOW))["data"] == {
        "a": None,
        "b": [1.5, None, [None, {"c": None, "d": True}]],
    }


def test_a_lone_surrogate_goes_out_as_a_question_mark() -> None:
    """A file name that is no UTF-8 cannot stop an envelope."""
    assert json.loads(codec().encode("event", {"name": "a\udcff"}, at=NOW))["data"] == {"name": "a?"}


def test_the_topics_of_both_dialects() -> None:
    """The defaults are the contract's table."""
    ours, theirs = make_topics("v", Dialect.KLIPPER), make_topics("v", Dialect.OCTOPRINT)
    assert (ours.commands, ours.message("status"), ours.availability, ours.frames("a/b#")) == (
        "printago/v/commands", "printago/v/status", "printago/v/availability", "printago/v/camera/a_b_",
    )  # fmt: skip
    assert (theirs.commands, theirs.message("status"), theirs.availability, theirs.frames("front")) == (
        "octoPrint/commands", "octoprint/status", "octoPrint/mqtt", "octoprint/camera/front",
    )  # fmt: skip


def test_topics_can_be_overridden_one_by_one() -> None:
    """A template given replaces the dialect's, the others stay."""
    topics = make_topics(
        "v", Dialect.OCTOPRINT, commands="farm/{printer_id}/in", messages="farm/{printer_id}/out/{type}"
    )
    assert (topics.commands, topics.message("error"), topics.availability) == (
        "farm/v/in", "farm/v/out/error", "octoPrint/mqtt",
    )  # fmt: skip


@pytest.mark.parametrize("printer_id", ["", "a/b", "a+", "#", "a\x00", "a\n", "{type}"])
def test_a_printer_id_that_is_no_topic_level_is_refused(printer_id: str) -> None:
    """No printer's ID can reach into another's topics."""
    with pytest.raises(errors.ConfigError):
        make_topics(printer_id, Dialect.KLIPPER)


@pytest.mark.parametrize("template", ["a/+/b", "a/#", "{printer}/x", "x" * 1100])
def test_a_template_that_is_no_topic_is_refused(template: str) -> None:
    """Wildcards and unknown names are a ConfigError, not a surprise at the broker."""
    with pytest.raises(errors.ConfigError):
        make_topics("v", Dialect.KLIPPER, commands=template)


def test_commands_and_envelopes_do_not_share_a_topic() -> None:
    """The agent would answer itself for ever."""
    with pytest.raises(errors.ConfigError, match="publishes"):
        make_topics("v", Dialect.KLIPPER, commands="printago/v/error")
