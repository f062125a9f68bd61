"""The configuration file, and the one line that says what is wrong with it."""

import dataclasses
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from printago_moonraker import config, log
from printago_moonraker.config import Config, MqttSection, PrinterConfig, load
from printago_moonraker.errors import ConfigError
from tests.fakes.tls import make_authority


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(log, "_secrets", ())
    return tmp_path


@pytest.fixture
def file(home: Path) -> Path:
    path = home / "printago.cfg"
    path.touch()
    return path


def written(file: Path, text: str) -> Config:
    file.write_text(text, "utf-8")
    return load(file)


def refused(file: Path, text: str) -> str:
    """What a person reads about a broken file, without the file's name in front."""
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


# ---- defaults

OPERATION = """
[printago]
dialect: klipper                          # klipper | octoprint (a drop-in for the OctoPrint plugin: see protocol.md)
data_path: ~/printer_data/printago        # credentials (0600), database; folder 0700; outside the folders that Moonraker serves
#log_path: ~/printer_data/logs/printago.log
log_level: info

[mqtt]
host: realtime.printago.io
port: 8883
tls: on                                   # on | off;  ca_file, cert_file, key_file
transport: tcp                            # tcp | websockets (path: /mqtt)
protocol: auto                            # auto (5, else 3.1.1) | 5 | 3.1.1
#username, password_file, client_id       # default: from the pairing
keepalive: 30
#command_topic, message_topic, availability_topic, camera_topic   # templates; default: the dialect's

[printer voron-24]                        # one section a printer; none: one printer, named after the host
moonraker_url: http://127.0.0.1:7125      # http or https, with or without a path prefix
#moonraker_api_key_file:                  # where Moonraker does not trust this host
#printer_id:                              # default: the section's name

[status]
printing_interval: 2.0
idle_interval: 10.0
heartbeat: 60.0

[commands]
max_command_age: 300
allow_motion: on                          # off refuses movement_control
allow_heating: on

[transfers]
folder: Printago
max_printago_files: 10
max_download_size: 2147483648
allow_http: off
allowed_hosts:                            # names, addresses or networks that are let through although private

[camera]
max_stream_duration: 300
min_stream_interval: 0.5
"""  # noqa: E501 - as the documentation has it


def test_the_documented_file_is_the_defaults(file: Path) -> None:
    """The file in the documentation says nothing but the defaults, and every option in it exists."""
    documented = written(file, OPERATION)
    assert documented.printers == (PrinterConfig(name="voron-24"),)
    assert dataclasses.replace(documented, printers=()) == Config(path=file, printers=())


def test_no_file_is_all_defaults(home: Path) -> None:
    """Without a file at the default path there is one printer, named after the host."""
    loaded = load()
    assert loaded == Config(path=home / "printer_data/config/printago.cfg")
    assert loaded.printago.data_path == home / "printer_data/printago"
    assert loaded.mqtt.client_id_for("a") == "printago-moonraker-a"
    assert len(loaded.printers) == 1


def test_the_default_path_is_read(home: Path) -> None:
    """A file at the default path is read without being named."""
    path = home / "printer_data/config/printago.cfg"
    path.parent.mkdir(parents=True)
    path.write_text("[mqtt]\nport: 1883\n")
    assert load().mqtt.port == 1883


def test_an_empty_file_works(file: Path) -> None:
    """An empty file is enough for a printer on the same host."""
    assert written(file, "") == Config(path=file)


@pytest.mark.parametrize(
    ("hostname", "name"),
    [("voron", "voron"), ("voron.lan", "voron"), ("Ender 3+#/x", "Ender-3-x"), ("", "printer"), ("a" * 99, "a" * 64)],
)
def test_the_host_names_the_printer(monkeypatch: pytest.MonkeyPatch, hostname: str, name: str) -> None:
    """Whatever a host is called, its printer gets an id that fits into a topic."""
    monkeypatch.setattr(socket, "gethostname", lambda: hostname)
    assert config.default_printer().printer_id == name


# ---- reading


def test_klippers_style(file: Path) -> None:
    """Both separators, comments of both kinds, Windows line ends, a byte order mark and any case of names are read."""
    loaded = written(file, "\ufeff# top\r\n[mqtt]\r\nHost = broker.lan   # here\r\nport:1883\r\n")
    assert (loaded.mqtt.host, loaded.mqtt.port) == ("broker.lan", 1883)


def test_a_percent_sign_and_a_hash_inside_a_value_stay(file: Path) -> None:
    """There is no interpolation, and only a # after white space begins a comment."""
    assert written(file, "[mqtt]\nusername: 50%(x)s#1\n").mqtt.username == "50%(x)s#1"


@pytest.mark.parametrize(
    ("text", "value"), [("on", True), ("TRUE", True), ("yes", True), ("off", False), ("No", False)]
)
def test_switches(file: Path, text: str, value: bool) -> None:
    """A switch is on or off, in the words that people use for it."""
    assert written(file, f"[mqtt]\ntls: {text}\n").mqtt.tls is value


def test_lists_go_over_lines(file: Path) -> None:
    """allowed_hosts takes commas, spaces and lines, and normalises what it gets."""
    loaded = written(file, "[transfers]\nallowed_hosts: NAS.lan, 10.0.0.1\n  192.168.1.0/24 fd00::/8\n")
    assert loaded.transfers.allowed_hosts == ("nas.lan", "10.0.0.1", "192.168.1.0/24", "fd00::/8")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("http://127.0.0.1:7125/", "http://127.0.0.1:7125"),
        ("https://printer.lan/voron/", "https://printer.lan/voron"),
        ("http://[::1]:7125", "http://[::1]:7125"),
    ],
)
def test_moonraker_urls(file: Path, text: str, value: str) -> None:
    """http and https, a path prefix and IPv6 are taken; the last slash goes."""
    assert written(file, f"[printer a]\nmoonraker_url: {text}\n").printers[0].moonraker_url == value


def test_client_type_follows_the_dialect(file: Path) -> None:
    """Envelopes say the dialect's client type, unless told otherwise."""
    assert written(file, "[printago]\ndialect: OctoPrint\n").printago.client_type == "octoprint"
    assert written(file, "[printago]\nclient_type: mine\n").printago.client_type == "mine"


def test_several_printers(file: Path) -> None:
    """Each [printer NAME] is a printer, in the file's order; its id is its name, unless told otherwise."""
    text = "[printer b]\n[printer a]\nmoonraker_url: http://127.0.0.1:7126\nprinter_id: other\n"
    assert [(each.name, each.printer_id) for each in written(file, text).printers] == [("b", "b"), ("a", "other")]


def test_facts_stay(file: Path) -> None:
    """A configuration cannot be changed once it is read."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        load(file).mqtt.port = 1  # type: ignore[misc]


# ---- what is wrong is one line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mqtt]\nprot: 1", "[mqtt] prot: there is no such option; port is meant, perhaps."),
        ("[mqtt]\npassword: x", "[mqtt] password: there is no such option; password_file is meant, perhaps."),
        ("[mqtt]\nheartbeat: 5", "[mqtt] heartbeat: there is no such option; heartbeat in [status] is meant, perhaps."),
        ("[printer a]\nname: b", "[printer a] name: there is no such option; one of printer_id, moonraker_url, "
                                 "moonraker_ca_file, moonraker_api_key_file, client_name is meant, perhaps."),
        ("[Mqtt]\n", "[Mqtt]: there is no such section; [mqtt] is meant, perhaps."),
        ("[printers voron]\n", "[printers voron]: there is no such section; [printer voron] is meant, perhaps."),
        ("[DEFAULT]\nport: 1", None),
        ("[mqtt x]\n", "[mqtt x]: there is no such section; [mqtt] is meant, perhaps."),
        ("[printer]\n", "[printer]: a printer needs a name; write [printer voron-24], say."),
        ("[mqtt]\nport: 1\nport: 2", "[mqtt] port: given again in line 3; keep one."),
        ("[mqtt]\n[mqtt]\n", "[mqtt]: begins again in line 2; make one section of the two."),
        ("port: 1\n", "line 1 comes before any section; begin with one, like [printago]."),
        ("[mqtt]\nport\n", "line 2 is not understood; write it as name: value."),
        ("[mqtt]\nport:\n", "[mqtt] port: is empty; write a value, or delete the line."),
        ("[mqtt]\nhost: a\n  port: 1",
            "[mqtt] host: goes over several lines; begin the next option at the start of its line."),
        ("[mqtt]\nport: 0", "[mqtt] port: '0' does not fit; write a whole number from 1 to 65535."),
        ("[mqtt]\nport: 65536", None),
        ("[mqtt]\nport: 8883.0", None),
        ("[mqtt]\ntls: maybe", "[mqtt] tls: 'maybe' is neither on nor off; write on or off."),
        ("[mqtt]\ntransport: udp", "[mqtt] transport: 'udp' is unknown; write tcp or websockets."),
        ("[mqtt]\nprotocol: 4", "[mqtt] protocol: '4' is unknown; write auto, 5 or 3.1.1."),
        ("[mqtt]\nhost: mqtt://a:1", None),
        ("[mqtt]\npath: mqtt", "[mqtt] path: 'mqtt' does not begin with /; write it like /mqtt."),
        ("[mqtt]\nca_file: /nope.pem", "[mqtt] ca_file: there is no file '/nope.pem'; correct the path."),
        ("[mqtt]\nca_file: ca.pem", "[mqtt] ca_file: is not an absolute path; begin it with / or ~/ "
            "(a secret goes into the file that is named here)."),
        ("[mqtt]\ncommand_topic: a/#", None),
        ("[mqtt]\ncommand_topic: a/{type}", None),
        ("[mqtt]\ncommand_topic: a\navailability_topic: a", None),
        ("[printago]\ndialect: bambu", "[printago] dialect: 'bambu' is unknown; write klipper or octoprint."),
        ("[printago]\nlog_level: loud", None),
        ("[printago]\ndata_path: data", None),
        ("[status]\nheartbeat: 0", "[status] heartbeat: '0' is not a duration; write seconds above zero, like 2.5."),
        ("[status]\nheartbeat: -1", None),
        ("[status]\nheartbeat: nan", None),
        ("[status]\nheartbeat: inf", None),
        ("[status]\nheartbeat: 1 min", None),
        ("[transfers]\nmax_printago_files: 0", None),
        ("[transfers]\nmax_download_size: 2G", None),
        ("[transfers]\nfolder: ..",
            "[transfers] folder: '..' is not a plain folder name; use letters, digits, spaces, - and _."),
        ("[transfers]\nfolder: a/b", None),
        ("[transfers]\nfolder: .hidden", None),
        ("[transfers]\nallowed_hosts: 192.168.1.5/24", None),
        ("[transfers]\nallowed_hosts: http://nas", None),
        ("[printer a]\nmoonraker_url: 127.0.0.1:7125", None),
        ("[printer a]\nmoonraker_url: ws://127.0.0.1:7125/websocket", None),
        ("[printer a]\nmoonraker_url: http://", None),
        ("[printer a]\nmoonraker_url: http://a:99999", None),
        ("[printer a]\nmoonraker_url: http://a:7125?token=x", None),
        ("[printer a+b]\n", "[printer a+b] 'a+b' cannot be a printer's id; use up to 64 characters without + # / { }."),
        ("[printer a]\nprinter_id: " + "x" * 65, None),
        ("[printer a]\nprinter_id: a/b", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(file: Path, text: str, message: str | None) -> None:
    """Each mistake is one line that names file, section and option, what is wrong and what to do."""
    said = refused(file, text)
    assert message is None or said == message
    assert said.startswith(("[", "line "))
    assert said.endswith(".")
    assert len(said) < 300


KEY = "pk_live_0123456789abcdefghijKLMNOPQRSTUV"


@pytest.mark.parametrize("option", ["ca_file", "cert_file", "key_file", "password_file"])
def test_a_secret_in_the_place_of_its_file_is_not_repeated(file: Path, option: str) -> None:
    """A key that was typed where the name of its file belongs stays out of the message, and so out of the journal."""
    for value in (KEY, f"keys/{KEY}"):
        said = refused(file, f"[mqtt]\nusername: a\n{option}: {value}\n")
        assert KEY not in said
        assert f"[mqtt] {option}: is not an absolute path" in said
    assert KEY not in refused(file, f"[printer a]\nmoonraker_api_key_file: {KEY}\n")


def test_files_of_tls_are_looked_into(file: Path, home: Path) -> None:
    """Files for TLS that cannot be used are a mistake in the configuration, found before any broker is asked."""
    (home / "ca.pem").write_text("no certificate\n")
    for text in (f"[mqtt]\nca_file: {home}/ca.pem\n", f"[printer a]\nmoonraker_ca_file: {home}/ca.pem\n"):
        said = refused(file, text)
        assert "ca_file: '/" in said
        assert "holds no certificates that can be read (no certificate" in said
    assert "cert_file: cannot be used" in refused(file, f"[mqtt]\ncert_file: {home}/ca.pem\n")


def test_the_files_of_a_farm_are_taken(file: Path, home: Path) -> None:
    """An authority, a certificate and its key in PEM are taken."""
    authority = make_authority(home)
    certificate, key = home / "good.pem", home / "good.key"
    text = f"ca_file: {authority.ca}\ncert_file: {certificate}\nkey_file: {key}\n"
    assert written(file, f"[mqtt]\n{text}").mqtt.key_file == key


@pytest.mark.parametrize("text", ["[mqtt", "[printago]\n[mqtt\nport: 1", "[printago]\n[printer a: b\n", "[mqtt # x"])
def test_a_section_that_is_not_closed(file: Path, text: str) -> None:
    """A bracket that is missing is named as that."""
    assert "begins" in refused(file, text)
    assert "does not end it" in refused(file, text)


def test_both_comments_of_klippers(file: Path) -> None:
    """# and ; begin a comment, at the start of a line and behind a value, also where the comment has a colon."""
    loaded = written(file, "; a: b\n[mqtt]\n; x: y\n# x: y\nport: 1883 ; the port: here\nusername: a;b\n")
    assert (loaded.mqtt.port, loaded.mqtt.username) == (1883, "a;b")


def test_a_current_folder_that_is_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name in a folder that was deleted is one line."""
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the current folder is gone; name the file by its whole path"):
        load(Path("x.cfg"))


def test_a_named_file_must_be_there(home: Path) -> None:
    """A file given by name that is not there is an error; it is never taken for an empty one."""
    with pytest.raises(ConfigError, match=r"nope.cfg: there is no such file; create it"):
        load(home / "nope.cfg")


def test_what_cannot_be_read_is_said(home: Path) -> None:
    """A folder, or bytes that are no text, are one clear line."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load(home)
    (home / "latin.cfg").write_bytes(b"[mqtt]\nhost: \xff\xfe\n")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        load(home / "latin.cfg")


def test_a_password_in_a_url_is_not_repeated(file: Path) -> None:
    """A secret that somebody put where it does not belong stays out of the message."""
    for url in ("http://me:hunter2@printer", "ftp://me:hunter2@printer", "http://me:hunter2@printer:x"):
        assert "hunter2" not in refused(file, f"[printer a]\nmoonraker_url: {url}\n")
    assert "hunter2" not in refused(file, "[mqtt]\npassword: hunter2\n")


# ---- printers that would get in each other's way

TWO = "[printer a]\n[printer b]\nmoonraker_url: http://127.0.0.1:7126\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[printer a]\n[printer b]\n",
            "two printers have the moonraker_url 'http://127.0.0.1:7125'; give each its own.",
        ),
        (TWO + "printer_id: a\n", "two printers have the printer_id 'a'; give each its own."),
        (TWO + "[printer  b]\n", "two printers have the name 'b'; give each its own."),
        (
            TWO + "[printago]\ndialect: octoprint\n",
            "[mqtt] command_topic, message_topic, availability_topic, camera_topic: "
            "several printers would share a topic; put {printer_id} into it.",
        ),
        (
            TWO + "[mqtt]\ncommand_topic: commands\n",
            "[mqtt] command_topic: several printers would share a topic; put {printer_id} into it.",
        ),
        (
            TWO + "[mqtt]\nclient_id: me\n",
            "[mqtt] client_id: the printers would throw each other out; put {printer_id} into it.",
        ),
    ],
)
def test_two_printers_share_no_identity(file: Path, text: str, message: str) -> None:
    """Two printers that would answer for each other, or throw each other out, are refused."""
    assert refused(file, text) == message


def test_two_printers_in_dialect_octoprint(file: Path) -> None:
    """The plugin's dialect serves several printers once each topic has its printer in it."""
    topics = {"command": "", "message": "/{type}", "availability": "", "camera": "/{camera_name}"}
    lines = [f"{name}_topic: {name}/{{printer_id}}{rest}" for name, rest in topics.items()]
    loaded = written(file, TWO + "[printago]\ndialect: octoprint\n[mqtt]\n" + "\n".join(lines))
    assert len(loaded.printers) == 2
    assert loaded.mqtt.command_topic == "command/{printer_id}"


# ---- secrets


def secret_file(home: Path, text: str, mode: int = 0o600) -> Path:
    path = home / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_secrets_come_from_files(file: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A password and an API key are read from their files, and shown nowhere."""
    path = secret_file(home, "abcdefghijklmnopqrstuvwxyz\n")
    text = f"[mqtt]\nusername: store\npassword_file: {path}\n[printer a]\nmoonraker_api_key_file: ~/secret\n"
    loaded = written(file, text)
    assert loaded.mqtt.password == loaded.printers[0].moonraker_api_key == "abcdefghijklmnopqrstuvwxyz"
    assert loaded.mqtt.client_id_for("a") == "apiclient_abcdefghijklmnopqrstuvwx_a"
    assert "abcdefghijklmnopqrstuvwxyz" not in repr(loaded)
    assert "abcdefghijklmnopqrstuvwxyz" in log._secrets
    assert not caplog.records


def test_a_client_id_is_a_template() -> None:
    """Any other broker may want other client IDs."""
    assert MqttSection(client_id="farm/{printer_id}").client_id_for("a") == "farm/a"


def secret(file: Path, path: Path) -> str | None:
    """The password that a configuration with this file of it has."""
    file.write_text(f"[mqtt]\nusername: me\npassword_file: {path}\n")
    return load(file).mqtt.password


def test_a_secret_for_all_to_read_is_warned_of(file: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A secret that every user of the host can read works, with a warning that does not repeat it."""
    assert secret(file, secret_file(home, " hunter2 ", 0o644)) == "hunter2"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "chmod 600" in record.getMessage()
    assert "hunter2" not in record.getMessage()


@pytest.mark.parametrize("text", ["", " \n", "two\nlines", "a\x00b"])
def test_what_is_no_secret_is_refused(file: Path, home: Path, text: str) -> None:
    """An empty file, or one with more than a line in it, is said to be no secret, and not repeated."""
    with pytest.raises(ConfigError, match="does not hold one line of text; put the secret there, and nothing else"):
        secret(file, secret_file(home, text))


def test_a_missing_secret_is_said(file: Path, home: Path) -> None:
    """A secret's file that is not there is one clear line."""
    with pytest.raises(ConfigError, match=r"\[mqtt\] password_file: there is no file '.*'; correct the path"):
        secret(file, home / "nope")


def test_an_unreadable_secret_is_said(file: Path, home: Path) -> None:
    """A secret that cannot be read is one clear line that says what to do, and shows nothing of it."""
    path = home / "secret"
    path.write_bytes(b"hunter\xff")
    with pytest.raises(ConfigError, match=r"cannot be read \(.*\); put the secret there") as caught:
        secret(file, path)
    assert "hunter" not in str(caught.value)


def test_a_broken_secret_names_its_section(file: Path, home: Path) -> None:
    """What is wrong with a secret's file is told with the section that names it."""
    path = secret_file(home, "")
    assert refused(file, f"[mqtt]\nusername: a\npassword_file: {path}\n").startswith(f"[mqtt] {path} does not hold")


@pytest.mark.parametrize(("option", "needed"), [("password_file", "username"), ("key_file", "cert_file")])
def test_what_needs_company_is_said(file: Path, home: Path, option: str, needed: str) -> None:
    """An option that means nothing without another says so."""
    path = secret_file(home, "x")
    assert refused(file, f"[mqtt]\n{option}: {path}\n") == f"[mqtt] {option} needs {needed} beside it."


# ---- the declarations


def declared() -> list[tuple[str, Any]]:
    return [(f"{name}.{each.name}", each) for name, cls in config.SECTIONS.items() for each in dataclasses.fields(cls)]


def test_each_option_is_documented() -> None:
    """Each option carries one sentence for the documentation, and a default that its own parser takes."""
    options = [each for _, each in declared() if "parse" in each.metadata]
    assert len(options) > 30
    for each in options:
        assert each.metadata["help"].endswith(".")
        default = each.metadata["default"]
        assert default is None or each.default_factory() == each.metadata["parse"](default)


def test_no_secret_is_an_option() -> None:
    """The file holds no secret: what is one is no option, and is left out of repr."""
    secrets = [each for _, each in declared() if "read_from" in each.metadata]
    assert {each.name for each in secrets} == {"password", "moonraker_api_key"}
    assert all(not each.repr and "parse" not in each.metadata for each in secrets)


@pytest.mark.parametrize(
    "url", ["http://auth.example.com/token", "ftp://a.example/", "https://me:pw@a.example/token", "https://a b/", "x"]
)
def test_a_key_comes_over_https_only(file: Path, url: str) -> None:
    """The pairing's endpoints are https, or within this host; what was written is not repeated."""
    message = refused(file, f"[printago]\ndevice_authorization_url: https://a.example/device\ntoken_url: {url}")
    assert message.startswith("[printago] token_url: is not an https URL")
    assert "pw" not in message
    within = written(file, "[printago]\ndevice_authorization_url: http://127.0.0.1:1/d\ntoken_url: http://[::1]:1/t")
    assert within.printago.token_url == "http://[::1]:1/t"


def test_the_pairings_endpoints_need_each_other(file: Path) -> None:
    """One of the two is a mistake."""
    assert "need each other" in refused(file, "[printago]\ntoken_url: https://a.example/token")


def test_the_client_id_does_not_show_the_key_in_the_log() -> None:
    """The broker wants 24 characters of the key in the client ID; a log line with that has none of them."""
    mqtt = MqttSection(username="store", password="0123456789" * 5)
    assert log.hidden(f"client {mqtt.client_id_for('voron')}") == "client apiclient_***_voron"
