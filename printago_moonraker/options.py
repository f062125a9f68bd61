"""How an option of `printago.cfg` is declared and read: one parser a kind of value.

A parser takes the option's text and returns its value, or raises ValueError with what is wrong and what to do; whoever
calls it adds file, section and option.
"""

from __future__ import annotations

import ipaddress
import math
import re
import ssl
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Callable


def option(default: str | None, parse: Callable[[str], Any], text: str) -> Any:
    """A dataclass field that is an option. `default` as in the file, None where nothing is set.

    `text` is its line in the documentation.
    """
    metadata = {"parse": parse, "default": default, "help": text}
    if default is None:
        return field(default=None, metadata=metadata)
    return field(default_factory=lambda: parse(default), metadata=metadata)


def secret(source: str) -> Any:
    """A value that is not in the file, but in the file which the option `source` names."""
    return field(default=None, repr=False, metadata={"read_from": source})


def path(text: str) -> Path:
    """An absolute path, `~` expanded. Relative ones are refused: under systemd nobody knows relative to what."""
    try:
        value = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{shown(text)}: this user has no home folder; give an absolute path") from error
    if not value.is_absolute():
        raise ValueError(f"{shown(text)} is not an absolute path; begin it with / or ~/")
    return value


def existing_file(text: str) -> Path:
    """A file's absolute path. What does not look like one is not repeated: it may be the secret that belongs into the
    file.
    """
    if not text.startswith(("/", "~")):
        raise ValueError(
            "is not an absolute path; begin it with / or ~/ (a secret goes into the file that is named here)"
        )
    value = path(text)
    try:
        found = value.is_file()
    except OSError:
        found = False
    if not found:
        raise ValueError(f"there is no file {shown(str(value))}; correct the path")
    return value


def certificates(text: str) -> Path:
    """A file with certificates in PEM, of authorities to trust."""
    value = existing_file(text)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
    except OSError as error:  # SSLError is one
        raise ValueError(
            f"{shown(str(value))} holds no certificates that can be read ({_why(error)}); it must be a PEM file"
        ) from error
    return value


def check_client_certificate(cert_file: Path, key_file: Path | None) -> None:
    """Raises ValueError when the two cannot be used together."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(cert_file, key_file, password=lambda: "")  # never ask on the terminal
    except (OSError, ValueError) as error:
        names = "cert_file and key_file" if key_file else "cert_file"
        raise ValueError(
            f"{names}: cannot be used ({_why(error)}); a certificate and its key in PEM are needed, without a password"
        ) from error


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it is not PEM").replace("_", " ").lower()
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def boolean(text: str) -> bool:
    known = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
    if text.lower() not in known:
        raise ValueError(f"{shown(text)} is neither on nor off; write on or off")
    return known[text.lower()]


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{shown(text)} is not a duration; write seconds above zero, like 2.5")
    return value


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    wanted = f"from {low} to {high}" if high is not None else f"of at least {low}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise ValueError(f"{shown(text)} does not fit; write a whole number {wanted}")
        return value

    return parse


def choice(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in known:
            raise ValueError(f"{shown(text)} is unknown; write {', '.join(known[:-1])} or {known[-1]}")
        return text.lower()

    return parse


def word(text: str) -> str:
    """A text that goes to a peer as it stands."""
    if printable(text, len(text) + 1) != text:
        raise ValueError("holds characters that cannot be printed; write it again")
    return text


def host(text: str) -> str:
    if not _is_host(text):
        raise ValueError(f"{shown(text)} is not a host name or address; leave out mqtt://, the port and the path")
    return text


def url(text: str) -> str:
    """An http(s) URL, possibly with a path prefix; comes back without the trailing slash."""
    # The value is not repeated: somebody may have put a password into it.
    try:
        parts = urlsplit(text)
        wrong = parts.scheme not in ("http", "https") or not _is_host(parts.hostname or "") or parts.port == 0
    except ValueError:
        wrong = True
    if wrong:
        raise ValueError("is not the URL of a Moonraker; write it like http://127.0.0.1:7125")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "must have no user, query or fragment; an API key goes into the file of moonraker_api_key_file"
        )
    return text.rstrip("/")


def secure_url(text: str) -> str:
    """An https URL, because a key comes that way; http only within this host."""
    # The value is not repeated, as above.
    try:
        parts = urlsplit(text)
        known = _is_host(parts.hostname or "") and parts.port != 0 and "@" not in parts.netloc and not parts.fragment
    except ValueError:
        known = False
    if not known or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))):
        raise ValueError("is not an https URL without user and fragment; write it like https://auth.example.com/token")
    return text


def hosts(text: str) -> tuple[str, ...]:
    """Names, addresses and networks, separated by commas, spaces or new lines; lower case."""
    return tuple(_host_or_network(item.lower()) for item in re.split(r"[,\s]+", text) if item)


def _host_or_network(item: str) -> str:
    if _is_host(item):
        return item
    try:
        return str(ipaddress.ip_network(item))
    except ValueError as error:
        why = f" ({error})" if "host bits" in str(error) else ""
        raise ValueError(f"{shown(item)} is no name, address or network{why}; write 192.168.1.0/24, say") from None


def folder(text: str) -> str:
    if not re.fullmatch(r"\w[\w .-]{0,62}", text):
        raise ValueError(f"{shown(text)} is not a plain folder name; use letters, digits, spaces, - and _")
    return text


def printer_id(text: str) -> str:
    """What may stand in a topic, where + # / have a meaning (MQTT 5, section 4.7)."""
    if not 0 < len(text) <= 64 or re.search(r"[+#/{}]", text) or printable(text) != text:
        raise ValueError(f"{shown(text)} cannot be a printer's id; use up to 64 characters without + # / {{ }}")
    return text


def template(*names: str) -> Callable[[str], str]:
    """A topic, or client ID, in which `{name}` is filled in."""

    def parse(text: str) -> str:
        rest = re.sub("|".join(rf"\{{{name}\}}" for name in names), "", text)
        if re.search(r"[+#{}]", rest) or printable(text, len(text) + 1) != text:
            wanted = " and ".join(f"{{{name}}}" for name in names)
            raise ValueError(f"{shown(text)} cannot be used; write it without + and #, and with no braces but {wanted}")
        return text

    return parse


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return len(text) < 254 and bool(re.fullmatch(r"[A-Za-z0-9_]([\w.-]*[A-Za-z0-9_])?\.?", text, re.ASCII))
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown(text: str) -> str:
    return f"'{printable(text, 60)}'"
