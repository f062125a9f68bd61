"""`printago.cfg`, read once at start into frozen facts.

Each option is declared in one place, as a field: its name, its default as it would stand in the file, its parser and
its line in the documentation.
"""

# ruff: noqa: RUF009 - `option` makes a field

from __future__ import annotations

import logging
import re
import socket
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from printago_moonraker import config_file, credentials, log, program
from printago_moonraker import options as parse
from printago_moonraker.errors import ConfigError, NotPaired
from printago_moonraker.log import printable
from printago_moonraker.options import option, secret, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

DEFAULT_PATH = "~/printer_data/config/printago.cfg"
PRINTAGO_BROKER = "realtime.printago.io"
KEY_ID_CHARS = 24  # of the API key are the key's ID, which Printago's broker wants to see in the client ID

T = TypeVar("T")


@dataclass(frozen=True)
class PrintagoSection:
    dialect: str = option(
        "klipper", parse.choice("klipper", "octoprint"), "klipper, or octoprint: a drop-in for the plugin."
    )
    client_type: str = option(None, parse.word, "What envelopes call this client; default: the dialect.")
    data_path: Path = option("~/printer_data/printago", parse.path, "Folder of the credentials and the database.")
    log_path: Path | None = option(None, parse.path, "A log file beside standard error; 1 MB, three files.")
    log_level: str = option("info", parse.choice("debug", "info", "warning", "error"), "debug, info, warning or error.")
    device_authorization_url: str | None = option(
        None, parse.secure_url, "Where a pairing by code begins (RFC 8628), if the server offers it."
    )
    token_url: str | None = option(None, parse.secure_url, "Where it ends: the server's token endpoint.")
    client_id: str = option("printago-moonraker", parse.word, "This program's name at the two.")
    scope: str | None = option(None, parse.word, "What is asked for there; default: what the server gives.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "client_type", self.client_type or self.dialect)
        if (self.device_authorization_url is None) != (self.token_url is None):
            raise ValueError("device_authorization_url and token_url need each other; give both or neither")


@dataclass(frozen=True)
class MqttSection:
    host: str = option(PRINTAGO_BROKER, parse.host, "The broker.")
    port: int = option("8883", parse.integer(1, 65535), "The broker's port.")
    tls: bool = option("on", parse.boolean, "Whether the connection is encrypted; the certificate is always verified.")
    ca_file: Path | None = option(None, parse.certificates, "Certificates to trust instead of the system's.")
    cert_file: Path | None = option(None, parse.existing_file, "This client's certificate.")
    key_file: Path | None = option(None, parse.existing_file, "The key of cert_file, when it is not in it.")
    transport: str = option("tcp", parse.choice("tcp", "websockets"), "How MQTT travels: tcp or websockets.")
    path: str = option("/mqtt", parse.word, "The path of transport websockets.")
    protocol: str = option("auto", parse.choice("auto", "5", "3.1.1"), "MQTT version; auto: 5, else 3.1.1.")
    username: str | None = option(None, parse.word, "Default: from the pairing.")
    password_file: Path | None = option(None, parse.existing_file, "The password is in it; default: from the pairing.")
    password: str | None = secret("password_file")
    client_id: str | None = option(
        None, parse.template("printer_id"), "Template; default: what Printago's broker asks for."
    )
    keepalive: int = option("30", parse.integer(1, 65535), "Seconds of silence after which the link is tested.")
    command_topic: str | None = option(None, parse.template("printer_id"), "Commands in; default: the dialect's.")
    message_topic: str | None = option(
        None, parse.template("printer_id", "type"), "Envelopes out; default: the dialect's."
    )
    availability_topic: str | None = option(None, parse.template("printer_id"), "The will; default: the dialect's.")
    camera_topic: str | None = option(
        None, parse.template("printer_id", "camera_name"), "Frames; default: the dialect's."
    )

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"path: {shown(self.path)} does not begin with /; write it like /mqtt")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file beside it")
        if self.cert_file:
            parse.check_client_certificate(self.cert_file, self.key_file)
        if self.password and not self.username:
            raise ValueError("password_file needs username beside it")
        topics = [topic for topic in self.topics().values() if topic]
        if len(set(topics)) < len(topics):
            raise ValueError("two of the topics are the same; give each purpose its own")
        if self.password:
            log.redact(self.password)
            log.redact(self.password[:KEY_ID_CHARS])  # the client ID shows that much of it

    def topics(self) -> dict[str, str | None]:
        names = ("command_topic", "message_topic", "availability_topic", "camera_topic")
        return {name: getattr(self, name) for name in names}

    def client_id_for(self, printer_id: str) -> str:
        """The client ID of one printer's connection.

        Printago lets an API client in only under an ID that holds its key's ID.
        """
        if self.client_id:
            return self.client_id.replace("{printer_id}", printer_id)
        if self.username and self.password:
            return f"apiclient_{self.password[:KEY_ID_CHARS]}_{printer_id}"
        return f"printago-moonraker-{printer_id}"


@dataclass(frozen=True)
class PrinterConfig:
    name: str
    printer_id: str = option(
        None, parse.printer_id, "The printer's name in topics and envelopes; default: the section's name."
    )
    moonraker_url: str = option(
        "http://127.0.0.1:7125", parse.url, "Where Moonraker is; a path prefix may follow the port."
    )
    moonraker_ca_file: Path | None = option(
        None, parse.certificates, "Certificates to trust for an https moonraker_url, instead of the system's."
    )
    moonraker_api_key_file: Path | None = option(
        None, parse.existing_file, "A file with the key, where this host is not trusted."
    )
    moonraker_api_key: str | None = secret("moonraker_api_key_file")
    client_name: str = option(
        "printago-moonraker", parse.word, "The agent's name at Moonraker, where it must be the only one."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "printer_id", parse.printer_id(self.printer_id or self.name))


@dataclass(frozen=True)
class StatusSection:
    printing_interval: float = option(
        "2.0", parse.seconds, "Shortest time between two statuses while printing or heating, s."
    )
    idle_interval: float = option("10.0", parse.seconds, "The same while idle, s.")
    heartbeat: float = option("60.0", parse.seconds, "Longest time without a status, s.")
    z_changes: bool = option(
        "off", parse.boolean, "on sends an event ZChange, up to four a second, while a print is on."
    )


@dataclass(frozen=True)
class CommandsSection:
    max_command_age: float = option("300", parse.seconds, "A command with an older timestamp is refused, s.")
    allow_motion: bool = option("on", parse.boolean, "off refuses movement_control.")
    allow_heating: bool = option("on", parse.boolean, "off refuses temperature_control.")


@dataclass(frozen=True)
class TransfersSection:
    folder: str = option("Printago", parse.folder, "The folder below gcodes that downloads go to.")
    max_printago_files: int = option("10", parse.integer(1), "How many files stay in it.")
    max_download_size: int = option("2147483648", parse.integer(1), "Largest download, bytes.")
    allow_http: bool = option("off", parse.boolean, "Whether http:// is let through beside https://.")
    allowed_hosts: tuple[str, ...] = option("", parse.hosts, "Names, addresses, networks let through although private.")


@dataclass(frozen=True)
class CameraSection:
    max_stream_duration: float = option("300", parse.seconds, "Longest stream, s.")
    min_stream_interval: float = option("0.5", parse.seconds, "Shortest time between two frames, s.")


SECTIONS: dict[str, type] = {
    "printago": PrintagoSection,
    "mqtt": MqttSection,
    "printer": PrinterConfig,
    "status": StatusSection,
    "commands": CommandsSection,
    "transfers": TransfersSection,
    "camera": CameraSection,
}


def default_printer() -> PrinterConfig:
    """The one printer of a file that names none: called like the host."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname().split(".")[0]).strip("-")
    return PrinterConfig(name=name[:64] or "printer")


@dataclass(frozen=True)
class Config:
    path: Path
    printago: PrintagoSection = field(default_factory=PrintagoSection)
    mqtt: MqttSection = field(default_factory=MqttSection)
    printers: tuple[PrinterConfig, ...] = field(default_factory=lambda: (default_printer(),))
    status: StatusSection = field(default_factory=StatusSection)
    commands: CommandsSection = field(default_factory=CommandsSection)
    transfers: TransfersSection = field(default_factory=TransfersSection)
    camera: CameraSection = field(default_factory=CameraSection)

    def login(self) -> MqttSection:
        """[mqtt] with whom we are to the broker: what the file says, else the credentials of the pairing as they are
        now. Raises NotPaired when Printago's broker would have to be asked as nobody, ConfigError for credentials that
        cannot be used.
        """
        mqtt = self.mqtt
        if mqtt.username is not None:
            return mqtt
        found = credentials.read(self.printago.data_path)
        if found is not None:
            return replace(mqtt, username=found.store_id, password=found.api_key)
        if mqtt.host == PRINTAGO_BROKER and mqtt.cert_file is None:
            raise NotPaired(f"this host is not paired with Printago: run {program.command('pair')}")
        return mqtt

    def __post_init__(self) -> None:
        """What the sections say must also fit together: no two printers may share an identity."""
        if len(self.printers) < 2:
            return
        for name in ("name", "printer_id", "moonraker_url"):
            twice = _first_double([getattr(printer, name) for printer in self.printers])
            if twice:
                raise ValueError(f"two printers have the {name} {shown(twice)}; give each its own")
        if self.mqtt.client_id and "{printer_id}" not in self.mqtt.client_id:
            raise ValueError("[mqtt] client_id: the printers would throw each other out; put {printer_id} into it")
        # The topics of dialect octoprint were made for one printer: it has no place for an id in them.
        default = "" if self.printago.dialect == "octoprint" else "{printer_id}"
        shared = [name for name, topic in self.mqtt.topics().items() if "{printer_id}" not in (topic or default)]
        if shared:
            raise ValueError(
                f"[mqtt] {', '.join(shared)}: several printers would share a topic; put {{printer_id}} into it"
            )


# ---- reading


def load(given: Path | None = None) -> Config:
    """The configuration of file `given`, or of the default one, which need not be there.

    Raises ConfigError: one line that names file, section, option, what is wrong and what to do.
    """
    name = "" if given is None else str(given)
    try:
        file = config_file.default_path() if given is None else _absolute(name)
        name = name or str(file)
        return _build(file, dict(config_file.sections(file, required=given is not None)))
    except ValueError as error:
        raise ConfigError(printable(f"{name or DEFAULT_PATH}: {error}.", 1000)) from error


def _absolute(name: str) -> Path:
    try:
        return parse.path(name if name.startswith("~") else str(Path(name).absolute()))
    except OSError as error:  # the current folder was deleted
        raise ValueError("the current folder is gone; name the file by its whole path") from error


def _secret(file: Path) -> str:
    try:
        value = file.read_text("utf-8").strip()
        others_may_read = file.stat().st_mode & 0o004
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} cannot be read ({config_file.reason(error)}); put the secret there, readable by this user"
        ) from error
    if not value or not value.isprintable():
        raise ValueError(f"{file} does not hold one line of text; put the secret there, and nothing else")
    log.redact(value)
    if others_may_read:
        logger.warning("%s can be read by every user of this host; chmod 600 it", file)
    return value


def _build(file: Path, sections: dict[str, Mapping[str, str]]) -> Config:
    values: dict[str, Any] = {}
    printers: list[PrinterConfig] = []
    for section, items in sections.items():
        if not section:
            continue
        kind, _, name = section.partition(" ")
        if kind == "printer" and name.strip():
            printers.append(_read(PrinterConfig, section, items, name=name.strip()))
        elif kind in SECTIONS and kind != "printer" and not name:
            values[kind] = _read(SECTIONS[kind], section, items)
        else:
            raise ValueError(_unknown_section(section, kind, name.strip()))
    if printers:
        values["printers"] = tuple(printers)
    return Config(path=file, **values)


def _read(cls: type[T], section: str, items: Mapping[str, str], **values: Any) -> T:
    declared = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]
    for name, text in items.items():
        each = declared.get(name)
        if config_file.is_unclosed(name):
            raise ValueError(
                f"[{section}] a line in it begins another section, and does not end it; write it like [mqtt]"
            )
        if each is None or "parse" not in each.metadata:
            raise ValueError(f"[{section}] {_unknown_option(name, section)}")
        try:
            values[name] = _parse(each, text)
        except ValueError as error:
            raise ValueError(f"[{section}] {name}: {error}") from error
    try:
        for each in declared.values():
            source = each.metadata.get("read_from")
            if source and values.get(source):
                values[each.name] = _secret(values[source])
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"[{section}] {error}") from error


def _parse(each: Field[Any], text: str) -> Any:
    if not text:
        if each.metadata["default"]:
            raise ValueError("is empty; write a value, or delete the line")
        return each.metadata["parse"]("") if each.metadata["default"] == "" else None
    if "\n" in text and each.metadata["parse"] is not parse.hosts:
        raise ValueError("goes over several lines; begin the next option at the start of its line")
    return each.metadata["parse"](text)


def _unknown_section(section: str, kind: str, name: str) -> str:
    if kind == "printer":
        return "[printer]: a printer needs a name; write [printer voron-24], say"
    near = _nearest(kind.lower(), SECTIONS)
    known = ", ".join(f"[{each}]" if each != "printer" else "[printer NAME]" for each in SECTIONS)
    likely = f"[printer {name or 'NAME'}]" if near == ["printer"] else f"[{near[0]}]" if near else f"one of {known}"
    return f"[{printable(section, 60)}]: there is no such section; {likely} is meant, perhaps"


def _unknown_option(name: str, section: str) -> str:
    known = {
        kind: [each.name for each in fields(other) if "parse" in each.metadata] for kind, other in SECTIONS.items()
    }
    own = known[section.split()[0]]
    near = _nearest(name, own)
    elsewhere = [kind for kind, names in known.items() if name in names]
    where = f" in [{elsewhere[0]}]" if elsewhere and not near else ""
    likely = near[0] if near else name if where else f"one of {', '.join(own)}"
    return f"{printable(name, 60)}: there is no such option; {likely}{where} is meant, perhaps"


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    from difflib import get_close_matches  # 0.4 MB, for mistakes only

    return get_close_matches(name, list(known), 1, 0.6)


def _first_double(values: Sequence[str]) -> str | None:
    return next((value for index, value in enumerate(values) if value in values[:index]), None)
