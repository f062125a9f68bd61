"""What may be shown to a stranger: a log, a finding, a configuration, without the secrets in it."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Final

from printago_moonraker import config_file, options
from printago_moonraker.config import SECTIONS
from printago_moonraker.log import hidden

# What may be a secret wherever it stands, also one that this process has never been told: an earlier key in an old log,
# a password that somebody has put where none belongs.
_NAME = r"(?:[\w-]*(?:passw|passphrase|pasw|secret|token|credential|api[_-]?key)[\w-]*|\b(?:pass|pw|pwd|psk|key))"
_WORD = rf"{_NAME}(?<!_file)(?<!_url)[\"']?\s*[:=](?! (?:there is no such|given again) )"
_PATTERNS: Final = (
    (re.compile(r"\b[ps]k_(?:live|test)_\w+"), "***"),
    # Of the log lines of old versions: a key that was typed where the name of its file belongs.
    (re.compile(r"(?i)(\w+_file\s*[:=]\s*)(['\"])(?![/~])[^'\"]*\2"), r"\1\2***\2"),
    (re.compile(rf"(?im)^(\s*{_WORD}).*$"), r"\1 ***"),
    (re.compile(rf"(?i)({_WORD}\s*)([\"'])[^\"'\n]*\2"), r"\1\2***\2"),
    (re.compile(rf"(?i)({_WORD}\s*[\"']?)[^\s\"',}}]+"), r"\1***"),
    (re.compile(r"(?i)(\b(?:authorization|cookie)[\"']?\s*[:=])[^\"'\n]*"), r"\1 ***"),
    (re.compile(r"(?i)(apiclient_)[^_\s\"',)]+"), r"\1***"),
    (re.compile(r"(?i)\b(\w+)://[^\s\"'<>]*@"), r"\1://***@"),
    (re.compile(r"(?i)(\b\w+://[^\s?\"']+\?)[^\s\"'<>)]+"), r"\1***"),
    (re.compile(r"(?i)(\b(?:bearer|basic)\s+)[\w.~+/=-]{6,}"), r"\1***"),
)
_KNOWN: Final = {each.name for section in SECTIONS.values() for each in fields(section) if "parse" in each.metadata}
_LIST: Final = "allowed_hosts"  # the one option that goes over several lines
# Nobody's key: without digits, and short.
_OPTION_NAME: Final = re.compile(r"[A-Za-z][A-Za-z_ -]{0,39}")


def redacted(text: str) -> str:
    """`text` with `***` in the place of what is a secret, or looks like one."""
    text = hidden(text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def shareable(text: str) -> str:
    """A `printago.cfg` of which only the sections are left, and the values of the options that hold no secret.

    It may be broken: a secret is mostly where none belongs. So what is kept is what is known, not the other way round.
    """
    lines, option, indent = [], "", 0
    for line in text.splitlines():
        bare = line.strip()
        deep = len(line) - len(line.lstrip())
        if not bare:
            lines.append("")
        elif bare.startswith(config_file.COMMENTS):
            lines.append(f"{bare[0]} ***")
        elif option and deep > indent:
            lines.append(f"    {_listed(bare) if option == _LIST else '***'}")
        elif bare.startswith("["):
            option = ""
            lines.append(bare if bare.endswith("]") else "[***")
        else:
            option, indent = re.split("[:=]", bare, maxsplit=1)[0].strip().lower(), deep
            lines.append(_option_line(bare))
    return "".join(f"{line}\n" for line in lines)


def _option_line(line: str) -> str:
    """`name: value` with as much of it as is known to be harmless."""
    name = re.split("[:=]", line, maxsplit=1)[0]
    delimiter, value = line[len(name) : len(name) + 1], line[len(name) + 1 :]
    name = name.strip()
    if not delimiter or not _OPTION_NAME.fullmatch(name):
        return "***"
    value, *comment = re.split(r"\s[#;]", f" {value}", maxsplit=1)
    value = value.strip()
    a_path = not name.lower().endswith("_file") or value.startswith(("/", "~"))
    shown = value if (name.lower() in _KNOWN and a_path) or not value else "***"
    return f"{name}{delimiter} {shown}".rstrip() + (" # ***" if comment else "")


def _listed(line: str) -> str:
    try:
        options.hosts(line)
    except ValueError:
        return "***"
    return line
