"""What goes over MQTT, without the network: commands in, envelopes out, and the topics of both (docs/protocol.md)."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn

from printago_moonraker.errors import (
    CommandError,
    ConfigError,
    InvalidJson,
    InvalidParameters,
    MissingAction,
    MissingParameters,
    MissingType,
    PayloadTooLarge,
)

if TYPE_CHECKING:
    from printago_moonraker.config import Config, PrinterConfig

MAX_COMMAND_BYTES = 256 * 1024
MAX_ECHO_BYTES = 1024 * 1024  # beyond this not even a refusal's echo is worth the memory of reading the payload
MAX_DEPTH = 32  # no command needs more, and whatever walks the parameters later may then recurse
MAX_NUMBER_CHARS = 40  # a double has 17 significant digits; longer ones only serve to overflow somewhere
MAX_ID_CHARS = 128
_TOO_DEEP = f"The received message is nested more than {MAX_DEPTH} levels deep."

# ---------------------------------------------------------------------------------------------------------- commands in

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True)
class CommandMessage:
    """A command whose outer members are sound; whether its parameters are, its schema says.

    `echo` is what the answer's `command` member repeats: `type`, `action`, and `id` when there is one.
    """

    type: str
    action: str
    parameters: dict[str, Any]
    id: str | None
    timestamp: datetime | None
    expires_at: datetime | None
    printer_id: str | None
    echo: dict[str, str]


def parse_command(payload: bytes) -> CommandMessage:
    """Read one command; unknown members are ignored, an optional member that is null counts as absent.

    Raises PayloadTooLarge, InvalidJson, MissingType, MissingAction, MissingParameters or InvalidParameters, in the
    order of the OctoPrint plugin and with its sentences. `echo_of` tells what the answer to a refused one can repeat.
    """
    if len(payload) > MAX_COMMAND_BYTES:
        raise PayloadTooLarge(f"The command is {len(payload)} bytes long; {MAX_COMMAND_BYTES} are allowed.")
    command = _load_object(payload)
    kind = _required_name(command, "type", MissingType("No command type specified in the received message."))
    action = _required_name(command, "action", MissingAction(f"No action specified for {kind} command."))
    parameters = command.get("parameters")
    if parameters is None:
        raise MissingParameters(f"No parameters specified for {action} action.")
    if not isinstance(parameters, dict):
        _refuse("parameters", "must be an object.")
    return CommandMessage(
        type=kind,
        action=action,
        parameters=parameters,
        id=_optional_string(command, "id"),
        timestamp=_optional_time(command, "timestamp"),
        expires_at=_optional_time(command, "expires_at"),
        printer_id=_optional_string(command, "printer_id"),
        echo=_echo(command),
    )


def echo_of(payload: bytes) -> dict[str, str]:
    """What an answer can repeat of a command that was refused: `{}` for bytes that were none. Never raises."""
    if len(payload) > MAX_ECHO_BYTES:
        return {}
    try:
        return _echo(_load_object(payload))
    except CommandError:
        return {}


def _echo(command: dict[str, Any]) -> dict[str, str]:
    values = ((name, command.get(name)) for name in ("type", "action", "id"))
    return {name: value for name, value in values if isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS}


def _load_object(payload: bytes) -> dict[str, Any]:
    """The payload as strict JSON: what json.loads takes beyond RFC 8259, or what would fail later, is refused here."""
    try:
        text = payload.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite_float, parse_int=_short_int)
        if "\\u" in text:  # only an escape can make a lone surrogate, and that cannot be encoded again
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise InvalidJson("The received message is not valid JSON: it is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidJson(_TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise InvalidJson(f"The received message is not valid JSON: {error.msg} at character {error.pos}.") from None
    except ValueError as error:
        raise InvalidJson(f"The received message is not valid JSON: {error}") from None
    if text.count("{") + text.count("[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise InvalidJson(_TOO_DEEP)
    if not isinstance(value, dict):
        raise InvalidJson("The received message is not a JSON object.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value.")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large.")
    return value


def _short_int(text: str) -> int:
    if len(text) > MAX_NUMBER_CHARS:
        raise ValueError("a number is too large.")
    return int(text)


def _deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(child, levels - 1) for child in children)


def _refuse(path: str, message: str) -> NoReturn:
    raise InvalidParameters(f"{path}: {message}", details=[{"path": path, "message": message}])


def _required_name(command: dict[str, Any], name: str, missing: CommandError) -> str:
    value = command.get(name)
    if value is None or value == "":
        raise missing
    if not isinstance(value, str) or len(value) > MAX_ID_CHARS:
        _refuse(name, f"must be a string of 1 to {MAX_ID_CHARS} characters.")
    return value


def _optional_string(command: dict[str, Any], name: str) -> str | None:
    value = command.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS:
        _refuse(name, f"must be a string of 1 to {MAX_ID_CHARS} characters.")
    return value


def _optional_time(command: dict[str, Any], name: str) -> datetime | None:
    """A time of RFC 3339 as an aware datetime in UTC. One without an offset is refused: whose clock would it be?"""
    value = command.get(name)
    if value is None:
        return None
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # a 30th of February, or a year that its offset pushes out of the calendar
    _refuse(name, "must be a time like 2026-11-23T09:15:02Z, with its offset (RFC 3339).")


# ------------------------------------------------------------------------------------------------------- envelopes out


ENVELOPE_TYPES = ("pairing", "status", "event", "success", "error", "response")


class Dialect(StrEnum):
    """KLIPPER is this agent's own; OCTOPRINT makes it a drop-in for Printago's OctoPrint plugin."""

    KLIPPER = "klipper"
    OCTOPRINT = "octoprint"


@dataclass(frozen=True)
class EnvelopeCodec:
    """Wraps one printer's data into envelopes."""

    printer_id: str
    client_type: str
    dialect: Dialect

    def encode(self, kind: str, data: Any, *, at: datetime, command: dict[str, str] | None = None) -> bytes:
        """One envelope as compact UTF-8 JSON. `at` is an aware time; `command` the echo of the command it answers.

        NaN and infinities become null; a lone surrogate, which UTF-8 cannot carry, becomes a question mark.
        """
        if kind == "success" and self.dialect is Dialect.OCTOPRINT and isinstance(data, dict):
            data = data["message"]
        envelope = {
            "type": kind,
            "timestamp": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "printer_id": self.printer_id,
            "client_type": self.client_type,
            "data": data,
        }
        if command is not None:
            envelope["command"] = command
        try:
            text = _dumps(envelope)
        except ValueError:  # a NaN: rare enough not to look for it in every status
            text = _dumps(_without_nan(envelope))
        return text.encode("utf-8", "replace")


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_nan(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(member) for member in value]
    return value


# -------------------------------------------------------------------------------------------------------------- topics

_TEMPLATES = {
    Dialect.KLIPPER: (
        "printago/{printer_id}/commands",
        "printago/{printer_id}/{type}",
        "printago/{printer_id}/availability",
        "printago/{printer_id}/camera/{camera_name}",
    ),
    Dialect.OCTOPRINT: ("octoPrint/commands", "octoprint/{type}", "octoPrint/mqtt", "octoprint/camera/{camera_name}"),
}
_NOT_IN_A_LEVEL = re.compile(r"[+#/{}\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Topics:
    """One printer's topics, its ID filled in; `messages` and `camera` keep their `{type}` and `{camera_name}`."""

    commands: str
    messages: str
    availability: str
    camera: str

    def message(self, kind: str) -> str:
        """The topic for envelopes of this type."""
        return self.messages.replace("{type}", kind)

    def frames(self, camera_name: str) -> str:
        """The topic for this camera's frames; what a topic level must not contain becomes an underscore."""
        return self.camera.replace("{camera_name}", _NOT_IN_A_LEVEL.sub("_", camera_name))


def make_topics(
    printer_id: str,
    dialect: Dialect,
    *,
    commands: str | None = None,
    messages: str | None = None,
    availability: str | None = None,
    camera: str | None = None,
) -> Topics:
    """The dialect's topics for this printer, or the templates given instead. Raises ConfigError."""
    if not printer_id or _NOT_IN_A_LEVEL.search(printer_id):
        raise ConfigError(f"printer_id {printer_id!r}: must not be empty or contain + # / {{ }} or control characters.")
    templates = zip((commands, messages, availability, camera), _TEMPLATES[dialect], strict=True)
    topics = Topics(*((own or default).replace("{printer_id}", printer_id) for own, default in templates))
    for topic in (topics.commands, topics.message("x"), topics.availability, topics.frames("x")):
        if re.search(r"[+#\x00{}]", topic) or len(topic.encode()) > 1024:
            raise ConfigError(f"[mqtt] topic {topic!r}: must not contain + # or unknown {{names}}.")
    outgoing = {topics.availability, *(topics.message(kind) for kind in ENVELOPE_TYPES)}
    if topics.commands in outgoing:
        raise ConfigError(f"[mqtt] command_topic {topics.commands!r}: is also a topic that the agent publishes to.")
    return topics


def topics_for(config: Config, printer: PrinterConfig) -> Topics:
    """One printer's topics, as the configuration says. Raises ConfigError."""
    own = config.mqtt
    return make_topics(
        printer.printer_id,
        Dialect(config.printago.dialect),
        commands=own.command_topic,
        messages=own.message_topic,
        availability=own.availability_topic,
        camera=own.camera_topic,
    )
